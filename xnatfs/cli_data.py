"""Commands that move data on purpose: get, warm, pin, unpin, and those that look after the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xnatfs import console, units
from xnatfs.cli_complete import archive_path
from xnatfs.cli_login import login_for
from xnatfs.cli_options import Command, archive_flags, archive_options, settings_from
from xnatfs.options import CACHE, CONNECTION, LOGGING, parse_count, parse_size

if TYPE_CHECKING:
    from xnatfs.app import App
    from xnatfs.getting import Outcome, Problem
    from xnatfs.progress import Progress
    from xnatfs.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = 1000
"""Missing files that are named; of the rest, how many there are."""


def _jobs(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_count(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


moving = archive_options(CONNECTION, CACHE, LOGGING, without=("log_file", "access_log", "ttl", "parallel"))
"""What every command has that fetches."""
jobs_option = click.option(
    "-j", "--jobs", callback=_jobs, metavar="N", help="Downloads at a time. [default: as --parallel is set, 8]"
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors only.")


class Run:
    """What commands that move have in common: which archive, how, and where to say how far it is."""

    def __init__(self, given: tuple[str, ...], jobs: int | None, quiet: bool, flags: dict[str, Any]) -> None:
        from xnatfs import moving, places

        self.places = places.resolve(given)
        self.quiet = quiet
        self.settings = moving.suited(_settings(self.places, flags), jobs)

    @contextmanager
    def archive(self) -> Iterator[tuple[App, Progress]]:
        from xnatfs import app, daemon, moving, progress

        login = login_for(self.settings)
        app.log_to_terminal(self.settings, login)
        with (
            daemon.ending_on_signals(),
            app.App(self.settings, login, tuning=moving.tuning(self.settings)) as archive,
            progress.shown(quiet=self.quiet, told=lambda text: console.complain(text, "note")) as shown,
        ):
            yield archive, shown

    def tell(self, what: str, outcome: Outcome, seconds: float) -> None:
        """The summary, then what is missing. Ends with a status when something is."""
        if not self.quiet:
            rate = f", {units.size(outcome.fetched_bytes / seconds)}/s" if outcome.fetched and seconds > 0.5 else ""
            there = f"; {_files(outcome.present, outcome.present_bytes)} there already" if outcome.present else ""
            console.say(f"{what} {_files(outcome.fetched, outcome.fetched_bytes)} in {_time(seconds)}{rate}{there}")
        if outcome.problems:
            _complain_of(outcome.problems)
            raise click.exceptions.Exit(_status(outcome.problems))


def _settings(places: Any, flags: dict[str, Any]) -> Settings:
    """Those of the command; of a path below a mount, the mount's server, user and cache unless others are given."""
    config, insecure, verbose = flags.pop("config"), flags.pop("insecure"), flags.pop("verbose")
    for name in ("server", "user", "cache_dir"):
        if not flags.get(name) and getattr(places, name) and not (name == "user" and flags.get("guest")):
            flags[name] = getattr(places, name)
    return settings_from(config, insecure, verbose, flags)


def _files(count: int, size: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}, {units.size(size)}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else units.duration(seconds)


def _complain_of(problems: list[Problem]) -> None:
    for problem in sorted(problems, key=lambda problem: problem.path)[:SHOWN]:
        console.complain(f"{problem.path}: missing: {str(problem.error).removeprefix(f'{problem.path}: ')}")
    more = len(problems) - SHOWN
    rest = f" ({more} of them are not named here)" if more > 0 else ""
    console.complain(f"{len(problems)} missing{rest}; the same command again fetches only what is missing")


def _status(problems: list[Problem]) -> int:
    """What all problems mean, if they mean the same; else 1."""
    from xnatfs.cli import explain

    found = {explain(problem.error)[0] for problem in problems}
    return found.pop() if len(found) == 1 else 1


# -- get -------------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH... DEST", shell_complete=archive_path)
@jobs_option
@quiet_option
@click.option("-n", "--dry-run", is_flag=True, help="Only say how many files and bytes are missing in DEST.")
@click.option("--bare", is_flag=True, help="Each PATH directly in DEST, as cp -r has it, without what is above it.")
@click.option("--no-cache", is_flag=True, help="Take nothing from the file cache either.")
@moving
def get(
    paths: tuple[str, ...], jobs: int | None, quiet: bool, dry_run: bool, bare: bool, no_cache: bool, **flags: Any
) -> None:
    """Copy parts of the archive to the directory DEST, verified, going on where an earlier copy ended.

    PATH is a project, subject, session, scan, resource or file; below a mount, or as in 'xnatfs ls'. Below DEST it has
    the layout of the mount: DEST/PROJECT/SUBJECT/... A file that is there, with the right size and MD5, is left alone.
    Files come straight from the server, or from the cache if it has them; the cache does not grow.
    """
    if len(paths) < 2:
        raise click.UsageError("give PATH and DEST")
    from xnatfs.moving import Copy

    run = Run(paths[:-1], jobs, quiet, flags)
    to = Path(paths[-1]).expanduser().absolute()
    with run.archive() as (app, progress):
        copy = Copy(app, run.places.paths, to, progress, bare=bare, cache=not no_cache)
        if dry_run:
            missing, size = copy.missing()
        else:
            outcome = copy.run()
    if not dry_run:
        run.tell("copied", outcome, progress.seconds)
        return
    found = copy.plan
    console.say(f"{_files(missing, size)} of {_files(found.files, found.bytes)}, would be copied to {to}")
    if found.problems:
        _complain_of(found.problems)
        raise click.exceptions.Exit(_status(found.problems))


# -- warm and pin ----------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", shell_complete=archive_path)
@jobs_option
@quiet_option
@moving
def warm(paths: tuple[str, ...], jobs: int | None, quiet: bool, **flags: Any) -> None:
    """Fill the file cache with parts of the archive, so that a mount reads them without the server.

    They leave it again as everything else does, when there is no room or nobody uses them; 'xnatfs pin' keeps them.
    """
    from xnatfs import moving

    run = Run(paths, jobs, quiet, flags)
    with run.archive() as (app, progress):
        outcome = moving.warm(app, run.places.paths, progress)
    run.tell("fetched", outcome, progress.seconds)


@click.command(cls=Command)
@click.argument("paths", nargs=-1, metavar="PATH...", shell_complete=archive_path)
@click.option("-l", "--list", "listed", is_flag=True, help="Show what is pinned; nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="With --list: as JSON.")
@jobs_option
@quiet_option
@moving
def pin(paths: tuple[str, ...], listed: bool, as_json: bool, jobs: int | None, quiet: bool, **flags: Any) -> None:
    """Fetch parts of the archive into the file cache, and keep them there whatever its limits are.

    What is pinned can be listed and read while the server is away. It stays as it is now; pin it again to have what
    has changed since. What does not fit into the cache is refused.
    """
    if listed == bool(paths):
        raise click.UsageError("give PATH, or --list")
    if listed:
        _show_pins(as_json, Run((), jobs, quiet, flags).settings)
        return
    from xnatfs import moving

    run = Run(paths, jobs, quiet, flags)
    with run.archive() as (app, progress):
        outcome = moving.pin(app, run.places.paths, progress)
    run.tell("pinned; fetched", outcome, progress.seconds)


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@moving
def unpin(paths: tuple[str, ...], **flags: Any) -> None:
    """Let what is pinned leave the cache again, when it has to. Nothing is sent."""
    from xnatfs import moving
    from xnatfs.cache.pins import Pins

    run = Run(paths, None, quiet=True, flags=flags)
    pins = Pins(run.settings.cache_dir.value, _namespace(run.settings))
    for path in run.places.paths:
        moving.unpin(pins, path)


def _namespace(settings: Settings) -> str:
    """Whose part of the cache it is; the name of the user is enough for that."""
    from xnatfs import app
    from xnatfs.settings import Sourced

    nothing_sent = replace(settings, offline=Sourced(True))
    return app.namespace(settings.need_server(), app.find_login(nothing_sent, None))


def _show_pins(as_json: bool, settings: Settings) -> None:
    from xnatfs import moving

    found = moving.pinned(settings.cache_dir.value, _namespace(settings))
    if as_json:
        console.as_json(
            [
                {
                    "path": one.pin.path,
                    "files": one.pin.files,
                    "bytes": one.pin.bytes,
                    "at": datetime.fromtimestamp(one.pin.at, timezone.utc).isoformat(timespec="seconds"),
                    "entries": len(one.pin.keys),
                    "entries_present": one.files,
                }
                for one in found
            ]
        )
        return
    rows = [
        (
            one.pin.path,
            str(one.pin.files),
            units.size(one.pin.bytes),
            f"{100 * one.files // max(1, len(one.pin.keys))} %",
            datetime.fromtimestamp(one.pin.at, timezone.utc).strftime("%Y-%m-%d %H:%M"),
        )
        for one in found
    ]
    console.table(("path", "files", "size", "there", "pinned"), rows, right=("files", "size", "there"))


# -- the cache -------------------------------------------------------------------------------------------------------

caching = archive_flags(CACHE, LOGGING, without=("log_file", "access_log", "ttl", "offline", "keep_listings", "series"))
"""Options of the commands that need no server."""


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Look after the file cache: of all servers and users, mounted or not. Nothing is sent."""
    if context.invoked_subcommand is None:
        console.say(context.get_help())
        context.exit(2)


@cache.command("show", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@caching
def cache_show(as_json: bool, **flags: Any) -> None:
    """Show where the cache is, how much it holds, what it may hold, and what of it is pinned."""
    from xnatfs import caches

    found = caches.show(_local(flags))
    if as_json:
        console.as_json(asdict(found))
        return
    rows = [
        ("directory", found.directory),
        ("holds", _files(found.files, found.bytes)),
        ("may hold", units.size(found.limit)),
        ("leaves free", units.size(found.min_free)),
        ("keeps unused files for", units.duration(found.age)),
        ("pinned", f"{found.pins} path{'' if found.pins == 1 else 's'}, {units.size(found.pinned)}"),
    ]
    console.table(("", ""), rows)


@cache.command("verify", cls=Command)
@caching
def cache_verify(**flags: Any) -> None:
    """Read all of the cache and compare it with its checksums; what is damaged goes, and is fetched anew when read.

    Exit status 7 if something was damaged.
    """
    from xnatfs import caches

    with console.waiting("reading the cache"):
        report = caches.verify(_local(flags))
    console.say(
        f"{_files(report.entries, report.bytes)} looked at; {report.damaged} damaged and removed; "
        f"{report.in_use} in use and left alone"
    )
    if report.damaged:
        raise click.exceptions.Exit(7)


@cache.command("clear", cls=Command)
@click.option("--all", "everything", is_flag=True, help="Also what is pinned, the pins, and the kept listings.")
@caching
def cache_clear(everything: bool, **flags: Any) -> None:
    """Remove every file that is neither open nor pinned."""
    from xnatfs import caches

    console.say(f"{units.size(caches.clear(_local(flags), everything=everything))} freed")


@cache.command("limit", cls=Command)
@click.argument("size")
@caching
def cache_limit(size: str, **flags: Any) -> None:
    """Save how much the cache may hold, and remove at once what is too much; SIZE is such as 500M or 20G.

    Mounts that are running keep to the limit that they were started with.
    """
    from xnatfs import caches, settings

    try:
        amount = parse_size(size)
    except ValueError as error:
        raise click.UsageError(f"SIZE {size!r}: {error}") from None
    saved = settings.saved_config()
    held = caches.limit(_local(flags), amount, saved)
    console.say(f"the cache may hold {units.size(amount)} from now on, by {saved}; it holds {units.size(held)}")


def _local(flags: dict[str, Any]) -> Settings:
    return settings_from(None, insecure=False, verbose=flags.pop("verbose"), flags=flags)


def register(group: click.Group) -> None:
    """Add the commands of this module to a group."""
    for command in (get, warm, pin, unpin, cache):
        group.add_command(command)
