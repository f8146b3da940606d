"""The commands that say how a mount is: status, env, top, loglevel, doctor, debug."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnatfs import console
from xnatfs.cli_complete import directory
from xnatfs.cli_login import login_for
from xnatfs.cli_options import Command, archive_options, settings_from
from xnatfs.errors import SettingsError, XnatfsError
from xnatfs.logs import LEVELS
from xnatfs.options import CACHE, CONNECTION
from xnatfs.units import duration, share, size

if TYPE_CHECKING:
    from xnatfs.credentials import Credentials
    from xnatfs.doctor import Check
    from xnatfs.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command(cls=Command)
@click.argument("mountpoint", required=False, shell_complete=directory)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(mountpoint: str | None, as_json: bool) -> None:
    """Show the mounts of this machine, or how one of them is: server, session, cache, requests, errors, transfers.

    MOUNTPOINT may be any path in the mount. Nothing is asked of the server, so that this answers when it is away. The
    same stands in MOUNTPOINT/.xnat/status.json, and for Prometheus in MOUNTPOINT/.xnat/metrics.
    """
    from xnatfs import mounted

    if mountpoint is not None:
        facts = mounted.of(mounted.find(mountpoint))
        console.as_json(facts) if as_json else console.table(("", ""), _lines(facts))
        return
    found = list(mounted.mounts())
    if as_json:
        console.as_json([one.document() for one in found])
        return
    rows = [(one.mountpoint, one.state, one.server, one.user or "-", str(one.pid or "-"), _age(one)) for one in found]
    console.table(("mountpoint", "state", "server", "user", "pid", "up"), rows, right=("pid",))


@click.command(cls=Command)
@click.argument("mountpoint", shell_complete=directory)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def env(mountpoint: str, as_json: bool) -> None:
    """Print the variables by which notebooks and xnatpy read through a mount: eval "$(xnatfs env MOUNTPOINT)".

    XNAT_HOST, XNAT_USER, and for a mount with --layout archive or jupyter XNAT_DATA. MOUNTPOINT may be any path in the
    mount; that of a project, a subject or a session adds XNAT_XSI_TYPE and XNAT_ITEM_ID. Never the password.
    """
    from xnatfs import environment, mounted

    point = mounted.find(mountpoint)
    found = environment.variables(Path(mountpoint).expanduser(), point, mounted.of(point))
    if as_json:
        console.as_json(found)
        return
    for name, value in found.items():
        console.say(f"export {name}={shlex.quote(value)}")
    if "XNAT_DATA" not in found:
        console.complain("no XNAT_DATA: xnatpy reads through mounts with --layout archive or jupyter", "note")


def _age(mount: Any) -> str:
    if not mount.since:
        return "-"
    return duration((datetime.now(timezone.utc) - datetime.fromisoformat(mount.since)).total_seconds())


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """A status as a person reads it; a status of 40 numbers is in the JSON."""
    connection, cache, process = facts["connection"], facts["cache"], facts["process"]
    state = connection["state"]
    if connection["away"] is not None:
        state += f" for {duration(connection['away'])}"
    lines = [
        ("mountpoint", str(facts["mountpoint"])),
        ("layout", facts["options"]["layout"]),
        ("server", f"{facts['server']} as {facts['user']}"),
        ("connection", state + (f": {connection['reason']}" if connection["reason"] else "")),
        ("session", "none" if connection["session_age"] is None else f"{duration(connection['session_age'])} old"),
        ("up", f"{duration(facts['uptime'])} (pid {facts['pid']}, xnatfs {facts['version']})"),
        ("requests", _counts(facts["requests"])),
        ("bytes", f"{size(facts['bytes']['received'])} from the server, {size(facts['bytes']['read'])} to programs"),
        ("operations", _counts(facts["operations"])),
        ("errors", _counts(facts["errors"])),
        ("answered here", ", ".join(f"{name} {share(hit['rate'])}" for name, hit in facts["hits"].items())),
        ("cache", f"{size(cache['bytes'])} of {size(cache['limit'])} in {cache['files']} files, {cache['directory']}"),
    ]
    if cache["degraded"]:
        lines.append(("", cache["degraded"]))
    lines += [
        ("transfers", f"{one['state']} {one['name']}, {size(one['bytes'])} at {size(one['rate'])}/s")
        for one in facts["transfers"]
    ] or [("transfers", "none")]
    used = f"{size(process.get('memory', 0))} memory, {process.get('threads')} threads"
    return [*lines, ("process", f"{used}, {process.get('descriptors')} descriptors"), ("log level", facts["log_level"])]


def _counts(counts: dict[str, int]) -> str:
    order = sorted(counts.items(), key=lambda item: (item[0] != "total", -item[1], item[0]))
    return ", ".join(f"{count} {name.replace('total', 'in all')}" for name, count in order) or "none"


@click.command(cls=Command)
@click.argument("mountpoint", required=False, shell_complete=directory)
@click.option(
    "--interval", type=click.FloatRange(0.05, 3600), default=1.0, metavar="SECONDS", help="Between looks [1]."
)
@click.option("--once", is_flag=True, help="Show one interval and end.")
def top(mountpoint: str | None, interval: float, once: bool) -> None:
    """Show live what a mount does: rates, busiest operations, transfers, hit rates. Ctrl-C ends it.

    MOUNTPOINT may be left out when there is one mount only. Its own looks are among what it counts.
    """
    from xnatfs import mounted
    from xnatfs import top as live

    point = mounted.find(mountpoint)
    try:
        live.watch(lambda: mounted.of(point), interval, once)
    except KeyboardInterrupt:
        if once:
            raise


@click.command(cls=Command)
@click.argument("mountpoint", shell_complete=directory)
@click.argument("level", type=click.Choice(LEVELS))
def loglevel(mountpoint: str, level: str) -> None:
    """Change how much a running mount logs. At level debug, labels of subjects are in the log.

    Only who mounted may do this.
    """
    from xnatfs import loglevel as levels
    from xnatfs import mounted

    levels.change(mounted.find(mountpoint), level)


@click.command(cls=Command)
@click.argument("where", required=False, metavar="[SERVER]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@archive_options(CONNECTION, CACHE, without=("ttl", "series", "scan_names"))
def doctor(where: str | None, as_json: bool, config: Path | None, insecure: bool, verbose: bool, **flags: Any) -> None:
    """Check what a mount needs: FUSE, server, certificate, login, clocks, cache, rights of config files, dead mounts.

    Each line is ok, warn or fail, with what to do. The password is sent once. Nothing is changed. The exit status is
    that of the first failure, and 0 when there are warnings only.
    """
    if where and flags["server"]:
        raise click.UsageError("SERVER is given twice")
    flags["server"] = where or flags["server"]
    checks: list[Check] = []
    for check in _examine(_settings(config, insecure, verbose, flags), config, login_for):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        console.as_json([check.document() for check in checks])
    failed = [check for check in checks if check.state == "fail"]
    if failed:
        raise failed[0].kind(f"{len(failed)} of {len(checks)} checks failed: {', '.join(one.what for one in failed)}")


def _show(check: Check) -> None:
    console.verdict(check.state, _STYLES[check.state], check.what, check.found, check.remedy)


def _settings(config: Path | None, insecure: bool, verbose: bool, flags: dict[str, Any]) -> Settings | SettingsError:
    """Settings, or what is wrong with them: here that is a finding."""
    from xnatfs import app

    try:
        settings = settings_from(config, insecure, verbose, flags)
    except SettingsError as error:
        return error
    app.log_to_terminal(settings, None)
    return settings


def _examine(
    settings: Settings | SettingsError,
    config: Path | None,
    ask: Callable[[Settings], Credentials | None] | None,
) -> Iterator[Check]:
    """All checks, one after the other. Without ``ask`` no login is tried."""
    from xnatfs import connect, doctor, mounting
    from xnatfs.settings import saved_config

    yield doctor.program()
    yield from doctor.fuse(mounting.load_fuse, root=os.geteuid() == 0)
    yield from doctor.stale()
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    named = {"config": config.expanduser()} if config else {}
    yield from doctor.files({**named, "saved config": saved_config(), "netrc": netrc})
    if isinstance(settings, SettingsError):
        yield doctor.of_error("settings", settings)
        return
    yield from doctor.cache(settings)
    if settings.server.value is None:
        yield doctor.no_server()
        return
    with connect.visitor(settings) as client:
        yield from doctor.server(client, settings, (lambda: ask(settings)) if ask else None)


@click.command(cls=Command)
@click.argument("mountpoint", required=False, shell_complete=directory)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The archive to make, .tar.gz.")
@click.option("--labels", is_flag=True, help="With what may hold labels of subjects: debug lines, the access log.")
@archive_options(CONNECTION, CACHE, without=("ttl", "series", "scan_names"))
def debug(
    mountpoint: str | None,
    output: Path | None,
    labels: bool,
    config: Path | None,
    insecure: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Make a bundle for whoever helps you: status, metrics, log, versions, settings, checks, facts of the process.

    Without passwords, sessions and tokens; without labels of subjects unless --labels is given. Names of the server, of
    you and of local directories are in it. No login is tried.
    """
    from xnatfs import bundle, mounted
    from xnatfs.logs import Redactor

    try:
        point = mounted.find(mountpoint)
    except XnatfsError:
        if mountpoint is not None:
            raise
        point = None
    path = (output or Path(f"xnatfs-debug-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")).expanduser()
    hidden = Redactor()
    shown: dict[str, Any] = {}
    settings = _settings(config, insecure, verbose, flags)
    if isinstance(settings, SettingsError):
        shown["error"] = str(settings)
    else:
        for secret in (settings.password.value, settings.proxy.value):
            hidden.hide(secret.reveal() if secret else "", settings.user.value or "")
        shown = {name: {"value": value, "origin": origin} for name, value, origin in settings.shown()}
    checks = [check.document() for check in _examine(settings, config, None)]
    bundle.write(path, bundle.parts(point, shown, checks, labels=labels), hidden)
    console.say(f"made {path}; look into it before you give it away: tar tzf {path}")


def register(group: click.Group) -> None:
    for command in (status, env, top, loglevel, doctor, debug):
        group.add_command(command)
