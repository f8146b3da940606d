"""The options of the command line, made from the list of settings, and their way into `Settings`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xnatfs.errors import SettingsError
from xnatfs.options import CONNECTION, LOGGING, OPTIONS, Option, parse_texts, settings_in

if TYPE_CHECKING:
    from xnatfs.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help shows its options under headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for group in sorted(groups, key=lambda group: group != "Options"):
            with formatter.section(group):
                formatter.write_dl(groups[group])


class GroupedOption(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def _option(option: Option) -> Callable[[F], F]:
    text = f"{option.help} [default: {option.shown_default}]" if option.shown_default else option.help
    shape: dict[str, Any] = {"metavar": option.metavar, "multiple": option.parse is parse_texts}
    if option.fixed is not None:
        shape = {"is_flag": True}
    if option.name == "fuse_options":
        shape |= {"is_eager": True, "callback": _settings_among}
    return click.option(
        option.flag, option.name, cls=GroupedOption, group=option.group, help=text, default=None, **shape
    )


def _settings_among(context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> tuple[str, ...]:
    """Settings among the words of ``-o`` count like their options, which win over them; the other words stay."""
    try:
        found, rest = settings_in(texts or ())
    except ValueError as error:
        raise click.UsageError(f"-o {error}", context) from None
    foreign = found.keys() - {one.name for one in context.command.params}
    if foreign:
        raise click.UsageError(f"-o: {', '.join(sorted(foreign))} cannot be set here", context)
    context.default_map = {**(context.default_map or {}), **found}
    return rest


def _extra(flag: str, *more: str, group: str = CONNECTION, **kwargs: Any) -> Callable[[F], F]:
    return click.option(flag, *more, cls=GroupedOption, group=group, **kwargs)


_PLACES = (
    _extra("--server", metavar="URL", help="Address of the XNAT, such as https://host/xnat."),
    _extra("--user", metavar="U", help="User name or alias token; the password is asked for."),
    _extra("--config", type=click.Path(path_type=Path), metavar="FILE", help="JSON file as pyxnat saves it."),
    _extra("--insecure", is_flag=True, help="Do not check the server's certificate."),
)
_VERBOSE = _extra("-v", "--verbose", is_flag=True, group=LOGGING, help="Same as --log-level debug.")


def archive_flags(*groups: str, without: Sequence[str] = ()) -> Callable[[F], F]:
    """Options from the list of settings; they reach the command as keywords, by their names in `Settings`."""
    return _all([*(_option(one) for one in OPTIONS if one.group in groups and one.name not in without), _VERBOSE])


def archive_options(*groups: str, without: Sequence[str] = ()) -> Callable[[F], F]:
    """The same for a command that talks to a server: with where it is and who asks."""
    return _all([*_PLACES, archive_flags(*groups, without=without)])


def _all(decorators: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def normal(flags: dict[str, Any], verbose: bool) -> dict[str, Any]:
    """Options as `xnatfs.settings.load` wants them: given flags by the value that they stand for."""
    for option in OPTIONS:
        if option.fixed is not None and option.name in flags:
            given = flags[option.name]
            flags[option.name] = None if given is None else option.fixed if given else not option.fixed
    if verbose and flags.get("log_level") is None:
        flags["log_level"] = "debug"
    return flags


def settings_from(config: Path | None, insecure: bool, verbose: bool, flags: dict[str, Any]) -> Settings:
    """Settings from the command line and everywhere else; the password variable is gone from then on."""
    from xnatfs import settings

    if insecure and flags.get("verify"):
        raise SettingsError("--insecure and --ca exclude each other")
    if insecure:
        flags["verify"] = False
    path = Path(os.path.abspath(config.expanduser())) if config else None  # noqa: PTH100 - links stay as given
    found = settings.load(normal(flags, verbose), os.environ, config=path, saved=settings.saved_config())
    forget_secrets()
    return found


def forget_secrets() -> None:
    """Take passwords out of the environment, for children and /proc/PID/environ."""
    from xnatfs import credentials, daemon

    for name in credentials.SECRET_VARIABLES:
        daemon.forget_variable(name)
