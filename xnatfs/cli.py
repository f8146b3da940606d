"""The command line: commands, help, exit statuses. Decides nothing; `xnatfs.app` does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import xnatfs
from xnatfs import cli_data, cli_status, cli_system, console
from xnatfs.cli_complete import archive_path, directory
from xnatfs.cli_login import login_for as _login
from xnatfs.cli_options import Command, archive_flags, archive_options, normal, settings_from
from xnatfs.errors import (
    AccessDenied,
    CacheFault,
    FuseMissing,
    LoginFailed,
    MountpointError,
    ServerFault,
    SettingsError,
    TimedOut,
    Unreachable,
    XnatfsError,
)
from xnatfs.options import CACHE, CONNECTION, LOGGING, MOUNT

if TYPE_CHECKING:
    from xnatfs.app import App

F = TypeVar("F", bound=Callable[..., Any])

EXIT_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (SettingsError, 2),
    (LoginFailed, 3),
    (AccessDenied, 3),
    (Unreachable, 4),
    (TimedOut, 4),
    (ServerFault, 4),
    (FuseMissing, 5),
    (MountpointError, 6),
    (CacheFault, 7),
    (KeyboardInterrupt, 130),
)
"""What a failure means to a script; everything else is 1."""


def explain(error: BaseException) -> tuple[int, str]:
    """Exit status and one line for a person."""
    status = next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), 1)
    if isinstance(error, XnatfsError):
        return status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return status, "interrupted"
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else 1), "ended by a signal"
    return status, f"unexpected {type(error).__name__}: {error}; -v shows where"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status. Errors are one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console.replace_missing_streams()
    try:
        with console.quiet_pipe():
            status = cli.main(arguments, "xnatfs", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "xnatfs"
        console.complain(f"{error.format_message()} ('{where} --help' shows what there is)")
        return 2
    except click.ClickException as error:
        console.complain(error.format_message())
        return 2
    except (click.Abort, KeyboardInterrupt):
        console.complain("interrupted")
        return 130
    except Exception as error:
        status, text = explain(error)
        if status == 1 and _is_verbose(arguments):
            console.traceback(error)
        console.complain(text)
        return status


def _is_verbose(arguments: Sequence[str]) -> bool:
    return any(word in ("-v", "--verbose", "--log-level=debug") for word in arguments)


# -- options, made from the list of settings --------------------------------------------------------------------------


DEMO_TEXT = """\
The demo archive is mounted on {point} ({server}).
In another terminal, try:
    ls {point}
    find {point} -name '*.dcm' | head
    getfattr -d {point}/*/*
Ctrl-C here ends both."""


# -- the commands -----------------------------------------------------------------------------------------------------


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(xnatfs.__version__, message="xnatfs %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """An XNAT archive as a directory tree.

    A login comes from: options, the file of --config, XNAT_HOST/XNAT_USER/XNAT_PASS, the saved config, ~/.netrc, a
    question on the terminal. Without any, the archive is opened as guest.

    \b
    Exit status: 0 ok, 1 unexpected, 2 usage or config, 3 login, 4 unreachable,
    5 no FUSE, 6 mountpoint, 7 cache.
    """
    _help_if_alone(context)


def _help_if_alone(context: click.Context) -> None:
    """A group without a command shows what there is, and that this was no use of it."""
    if context.invoked_subcommand is None:
        console.say(context.get_help())
        context.exit(2)


@cli.command(cls=Command)
@click.argument("places", nargs=-1, metavar="[SERVER] MOUNTPOINT", shell_complete=directory)
@click.option("-f", "--foreground", is_flag=True, help="Stay; Ctrl-C unmounts.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is mounted.")
@click.option("--dry-run", is_flag=True, help="Check options, mountpoint and FUSE; send nothing, mount nothing.")
@archive_options(CONNECTION, CACHE, MOUNT, LOGGING)
def mount(
    places: tuple[str, ...],
    foreground: bool,
    quiet: bool,
    dry_run: bool,
    config: Path | None,
    insecure: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Mount an archive on an empty directory.

    SERVER is an address such as https://host/xnat; it may be left out when a config file or XNAT_HOST names it. The
    command comes back when the mount is live. End it with 'xnatfs umount MOUNTPOINT'.
    """
    if not 1 <= len(places) <= 2:
        raise click.UsageError("give MOUNTPOINT, or SERVER and MOUNTPOINT")
    if len(places) == 2:
        if flags["server"]:
            raise click.UsageError("SERVER is given twice")
        flags["server"] = places[0]
    from xnatfs import mounting

    plan = mounting.plan(settings_from(config, insecure, verbose, flags), places[-1], config)
    told = (lambda _: None) if quiet else console.say
    if dry_run:
        told(f"{plan.settings.need_server()} can be mounted on {plan.point}, as far as this machine can tell")
        return
    login = _login(plan.settings)
    if foreground:
        mounting.mount_here(plan, login, told)
        return
    with console.waiting(f"connecting to {plan.settings.server.value}"):
        report = mounting.mount_in_background(plan, login, explain)
    if report.status:
        console.complain(report.message)
        raise click.exceptions.Exit(report.status)
    told(report.message)


@cli.command(cls=Command)
@click.argument("mountpoint", shell_complete=directory)
@click.option("--lazy", is_flag=True, help="Detach now, end when the last file is closed.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Unmount MOUNTPOINT; a dead mount is cleared. Comes back when the session on the server has ended."""
    from xnatfs import daemon, mounting

    daemon.forget_variable("XNAT_PASS")
    if not mounting.unmount(mountpoint, lazy=lazy):
        console.complain(f"{mountpoint} is unmounted; the process behind it is still ending its session", "note")


@cli.command(cls=Command)
@click.argument("path", shell_complete=directory)
@click.option("-r", "--recursive", is_flag=True, help="And of everything below.")
def refresh(path: str, recursive: bool) -> None:
    """Forget what a mount knows of the directory PATH; the next look asks the server."""
    from xnatfs import refreshing

    refreshing.refresh(path, recursive=recursive)


@cli.command(cls=Command)
@click.argument("mountpoint", required=False)
@click.option("--background", is_flag=True, help="Come back when it is mounted; 'xnatfs umount' ends it.")
@click.option("--serve", is_flag=True, help="Only run the stand-in XNAT, without a mount.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Its port [default: a free one].")
@click.option("--data", type=click.Path(exists=True, file_okay=False), metavar="DIR", help="Show your own files too.")
@click.option("--latency", type=click.FloatRange(0, 60000), default=0.0, metavar="MS", help="Delay every answer.")
@click.option(
    "--faults", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="JSON with faults to make."
)
@click.option("--until-eof", is_flag=True, hidden=True)
@archive_flags(MOUNT, LOGGING, without=("log_file",))
def demo(
    mountpoint: str | None,
    background: bool,
    serve: bool,
    port: int,
    data: str | None,
    latency: float,
    faults: str | None,
    until_eof: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Mount a made-up archive, to try things out; needs no XNAT.

    It has projects, subjects, MR, PET and CT sessions with valid DICOM series, NIfTI files, pictures, assessors and
    shared data. MOUNTPOINT is made if missing; without one it is ~/xnat-demo. Ctrl-C ends it.

    --faults makes chosen requests go wrong: a JSON list of rules like {"action": "cut", "path": "/files/", "method":
    "GET", "at": 1000, "count": 2}. A rule with an unknown action or field is refused with the names of those there are.
    """
    from xnatfs import daemon, demo_mount, mounting

    daemon.forget_variable("XNAT_PASS")
    if serve:
        demo_mount.serve(port, data, latency / 1000, faults, console.say, until_eof=until_eof)
        return
    point = demo_mount.point_of(mountpoint)
    arguments = [f"--port={port}", f"--latency={latency}"]
    arguments += [f"--{name}={value}" for name, value in (("data", data), ("faults", faults)) if value]
    if not background and not verbose:
        flags["log_level"] = flags["log_level"] or "warning"  # the terminal is for the guide
    plan, login = demo_mount.plan(point, arguments, normal(flags, verbose))
    server = f"{plan.settings.server.value}, user {login.user}, password {login.password.reveal()}"
    if background:
        report = mounting.mount_in_background(plan, login, explain)
        if report.status:
            console.complain(report.message)
            raise click.exceptions.Exit(report.status)
        console.say(f"The demo archive ({server}) is mounted on {point}; end it with: xnatfs umount {point}")
        return
    mounting.mount_here(plan, login, lambda _: console.say(DEMO_TEXT.format(server=server, point=point)))


def _browse(config: Path | None, insecure: bool, verbose: bool, flags: dict[str, Any]) -> App:
    """A connected archive without a mount, logging to stderr."""
    from xnatfs import app

    settings = settings_from(config, insecure, verbose, flags)
    login = _login(settings)
    app.log_to_terminal(settings, login)
    return app.App(settings, login)


browsing = archive_options(CONNECTION, CACHE, LOGGING, without=("log_file", "ttl"))


@cli.command(cls=Command)
@click.argument("path", default="/", shell_complete=archive_path)
@click.option("-l", "long", is_flag=True, help="With kind, size, time and ID.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@browsing
def ls(path: str, long: bool, as_json: bool, config: Path | None, insecure: bool, verbose: bool, **flags: Any) -> None:
    """List a directory of the archive, without a mount.

    PATH is PROJECT/SUBJECT/EXPERIMENT/SCAN/RESOURCE/FILE, as in a mount; none is the list of projects.
    """
    with _browse(config, insecure, verbose, flags) as app:
        rows = app.rows(path)
    if as_json:
        console.as_json([row.document() for row in rows])
    elif long:
        cells = [
            (
                row.kind[0],
                "-" if row.kind == "directory" else str(row.size),
                row.modified or "-",
                row.id or "-",
                row.name,
            )
            for row in rows
        ]
        head = ("", "size", "modified", "id", "name")
        console.table(head, cells, right=("size",), styles=[console.STYLES[row.kind] for row in rows])
    else:
        console.names([(row.name, row.kind) for row in rows])


@cli.command(cls=Command)
@click.argument("path", shell_complete=archive_path)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@browsing
def stat(path: str, as_json: bool, config: Path | None, insecure: bool, verbose: bool, **flags: Any) -> None:
    """Show what the archive knows of one thing: size, time, IDs, type, demographics."""
    with _browse(config, insecure, verbose, flags) as app:
        row, values = app.describe(path)
    if as_json:
        console.as_json({**row.document(), "attributes": values})
        return
    facts = [(name, str(value)) for name, value in row.document().items() if value not in ("", None)]
    console.table(("", ""), [*facts, *sorted(values.items())])


@cli.command(cls=Command)
@click.argument("path", shell_complete=archive_path)
@browsing
def cat(path: str, config: Path | None, insecure: bool, verbose: bool, **flags: Any) -> None:
    """Write a file of the archive to standard output."""
    with _browse(config, insecure, verbose, flags) as app:
        for piece in app.content(path):
            console.data(piece)


@cli.group(invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> None:
    """Show where each setting comes from, or save them."""
    _help_if_alone(context)


everything = archive_options(CONNECTION, CACHE, MOUNT, LOGGING)


@config.command("show", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@everything
def config_show(as_json: bool, config: Path | None, insecure: bool, verbose: bool, **flags: Any) -> None:
    """Show every setting and where it comes from; the password as stars. Nothing is sent."""
    settings = settings_from(config, insecure, verbose, flags)
    if as_json:
        console.as_json({name: {"value": value, "origin": origin} for name, value, origin in settings.shown()})
        return
    console.table(
        ("setting", "value", "from"), [(name, _text(value), origin) for name, value, origin in settings.shown()]
    )
    for note in settings.notes:
        console.complain(note, "note")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value) or "-"
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.12g}" if isinstance(value, float) else str(value)
    )


@config.command("save", cls=Command)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite without asking.")
@click.option("--no-password", is_flag=True, help="Leave the password out.")
@everything
def config_save(
    file: Path | None, force: bool, no_password: bool, config: Path | None, insecure: bool, verbose: bool, **flags: Any
) -> None:
    """Save server, login and every setting that is not a default to FILE, in pyxnat's JSON form, readable by you only.

    Without FILE: to the saved config, which every command reads.
    """
    from xnatfs import settings as settings_module

    settings = settings_from(config, insecure, verbose, flags)
    settings.need_server()
    if not no_password:
        login = _login(settings)
        if login is not None:
            settings = settings_module.with_login(settings, login.user, login.password, login.origin)
    path = (file or settings_module.saved_config()).expanduser().absolute()
    if path.exists() and not force:
        force = console.can_ask() and console.confirm(f"Overwrite {path}?")
    settings_module.save_config(path, settings, overwrite=force, with_password=not no_password)
    console.say(f"saved {path}")


@cli.command(cls=Command)
@click.argument("name", required=False)
def docs(name: str | None) -> None:
    """Print a document that comes with xnatfs; without NAME, list them."""
    folder = resources.files("xnatfs").joinpath("docs")
    shipped = {item.name[:-3]: item for item in folder.iterdir() if item.name.endswith(".md")}
    if name is None:
        console.names([(entry, "file") for entry in sorted(shipped)])
        return
    if name not in shipped:
        raise click.UsageError(f"no document {name!r}; there are: {', '.join(sorted(shipped))}")
    console.document(shipped[name].read_text(encoding="utf-8"))


cli_system.register(cli)
cli_status.register(cli)
cli_data.register(cli)
