"""Commands that make xnatfs at home on a system: helpers of mount(8), systemd units, shell completion."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from xnatfs import console
from xnatfs.cli_complete import directory, script
from xnatfs.cli_options import Command, archive_flags, settings_from
from xnatfs.options import CACHE, CONNECTION, LOGGING, MOUNT, OPTIONS

F = TypeVar("F", bound=Callable[..., Any])

SHELLS = {
    "bash": "usr/local/share/bash-completion/completions/xnatfs",
    "zsh": "usr/local/share/zsh/site-functions/_xnatfs",
    "fish": "etc/fish/completions/xnatfs.fish",
}
"""Where each shell looks for completions that are not the distribution's; fish on Debian not in /usr/local."""


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(sorted(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion for a shell; it completes commands, options and paths of the archive.

    \b
    bash: xnatfs completion bash > ~/.local/share/bash-completion/completions/xnatfs
    zsh:  xnatfs completion zsh > DIR/_xnatfs, with DIR in $fpath
    fish: xnatfs completion fish > ~/.config/fish/completions/xnatfs.fish
    """
    console.line(script(shell, context.find_root().command))


@click.command("install-helpers", cls=Command)
@click.option(
    "--dest", type=click.Path(path_type=Path), default=Path("/"), metavar="DIR", help="Below DIR in place of /."
)
@click.option("--remove", is_flag=True, help="Take away what this command has put in place.")
@click.pass_context
def install_helpers(context: click.Context, dest: Path, remove: bool) -> None:
    """Let mount(8), man(1) and the shells know xnatfs: 'mount -t xnatfs SERVER DIR' and lines in /etc/fstab work.

    Puts mount.xnatfs and mount.fuse.xnatfs into /sbin, man pages and completions below /usr/local/share. Needs root.
    """
    from xnatfs.system import install, manual

    root = context.find_root().command
    texts = {f"usr/local/share/man/{name}": text for name, text in manual.pages(root).items()}
    texts |= {place: f"{script(shell, root)}\n" for shell, place in SHELLS.items()}
    top = Path(os.path.abspath(dest))  # noqa: PTH100 - links stay as given
    for path in install.remove(top, texts) if remove else install.install(top, texts):
        console.say(f"{'removed' if remove else 'installed'} {path}")


@click.group(invoke_without_command=True)
@click.pass_context
def systemd(context: click.Context) -> None:
    """Units with which systemd keeps a mount."""
    if context.invoked_subcommand is None:
        console.say(context.get_help())
        context.exit(2)


def _whose(command: F) -> F:
    """Whose manager is meant; the user's own unless told otherwise."""
    for option in (
        click.option("--user", "system", flag_value=False, default=False, help="For your own manager; the default."),
        click.option("--system", "system", flag_value=True, type=bool, help="For the system's manager; needs root."),
        click.option("--dest", type=click.Path(path_type=Path), metavar="DIR", help="Another directory for the unit."),
    ):
        command = option(command)
    return command


@systemd.command("install", cls=Command)
@click.argument("places", nargs=-1, metavar="[SERVER] MOUNTPOINT", shell_complete=directory)
@_whose
@click.option("--run-as", metavar="U", help="The user of this machine who runs a unit of the system's manager.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="JSON file with the login.")
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@archive_flags(CONNECTION, CACHE, MOUNT, LOGGING, without=("log_file",))
def systemd_install(
    places: tuple[str, ...],
    system: bool,
    dest: Path | None,
    run_as: str | None,
    config: Path | None,
    insecure: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Write a unit that keeps SERVER mounted on MOUNTPOINT, with these settings.

    The login comes from --config or the saved config. A unit of the system's gets that file as a credential, which
    root alone need be able to read. A refused login or a wrong setting is not tried again; everything else is.
    """
    from xnatfs.system import units

    if not 1 <= len(places) <= 2:
        raise click.UsageError("give MOUNTPOINT, or SERVER and MOUNTPOINT")
    if run_as and not system:
        raise click.UsageError("--run-as is for --system: your own manager runs everything as you")
    given = dict(flags)
    place = Path(os.path.abspath(config.expanduser())) if config else None  # noqa: PTH100 - links stay as given
    server = {"server": places[0]} if len(places) == 2 else {"server": None}
    settings = settings_from(place, insecure, verbose, {**flags, **server})
    words = [f"--server={settings.need_server()}", *(["--insecure"] if insecure else [])]
    for option in OPTIONS:
        value = given.get(option.name)
        if option.fixed is not None:
            words += [option.flag] if value else []
        elif option.name == "fuse_options":
            words += [part for text in value or () for part in (option.flag, text)]
        elif value is not None:
            parsed = getattr(settings, option.name).value  # of a path only: the service runs in another directory
            words.append(f"{option.flag}={parsed if isinstance(parsed, Path) else value}")
    point = Path(os.path.abspath(Path(places[-1]).expanduser()))  # noqa: PTH100
    unit = units.Unit(point, words, system=system, config=place, user=run_as)
    path = units.write(unit, dest or units.directory(system=system))
    manager = "systemctl" if system else "systemctl --user"
    console.say(f"wrote {path}; next: {manager} daemon-reload && {manager} enable --now {path.name}")


@systemd.command("remove", cls=Command)
@click.argument("mountpoint", shell_complete=directory)
@_whose
def systemd_remove(mountpoint: str, system: bool, dest: Path | None) -> None:
    """Remove the unit of MOUNTPOINT. Stop it first: 'systemctl disable --now NAME'."""
    from xnatfs.system import units

    point = Path(os.path.abspath(Path(mountpoint).expanduser()))  # noqa: PTH100
    console.say(f"removed {units.remove(point, dest or units.directory(system=system))}")


def register(root: click.Group) -> None:
    """Give the commands of this module to the command line."""
    for command in (completion, install_helpers, systemd):
        root.add_command(command)
