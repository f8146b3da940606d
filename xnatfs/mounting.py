"""A mount from its plan to its end: checks, the background, serving, cleaning up. `app` makes what it shows."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import platformdirs

from xnatfs import daemon, fuse_mount, layouts, loglevel, logs, refreshing
from xnatfs.access_log import AccessLog
from xnatfs.app import App, redactor, warnings
from xnatfs.credentials import Credentials
from xnatfs.errors import SettingsError
from xnatfs.fuse_mount import MountOptions
from xnatfs.settings import Settings, Sourced
from xnatfs.system.notify import notify

log = logging.getLogger(__name__)

END_SECONDS = 30.0
"""How long ``umount`` waits for the process behind a mount to end its session and close its cache."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
DESCRIPTORS = 65_536
"""Files that may be open in a mount at once, as far as the system allows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A mount that nothing local speaks against."""

    settings: Settings
    point: Path
    """Where, with all links followed."""
    options: MountOptions
    log: Path
    """The log file of a mount in the background."""
    at_end: Callable[[], None] | None = None
    """What has to end after the mount."""

    def line(self, login: Credentials | None) -> str:
        who = f"user {login.user}" if login else "guest"
        return f"{self.settings.server.value} ({who}) is mounted on {self.point}"


def plan(settings: Settings, mountpoint: str, config: Path | None) -> Plan:
    """Check everything that can be known before a password is asked for. A dead mount in the way is cleared.

    Raises `FuseMissing`, `MountpointError`, `SettingsError`.
    """
    server = settings.need_server()
    options = fuse_mount.parse_options(
        settings.fuse_options.value, fuse_mount.MountOptions(ttl=settings.ttl.value, fsname=server)
    )
    fuse_mount.check_rights(options)
    _fuse()
    point = Path(fuse_mount.check_mountpoint(Path(mountpoint).expanduser(), nonempty=options.nonempty))
    found = Plan(
        replace(settings, ttl=Sourced(options.ttl, settings.ttl.origin)), point, options, log_path(settings, point)
    )
    for what, path in (
        ("cache directory", settings.cache_dir.value),
        ("log file", found.log),
        ("access log", settings.access_log.value),
        ("config file", config),
    ):
        # A file system that needs itself hangs.
        if path is not None and _lies_below(path, point):
            raise SettingsError(f"the {what} {path} lies below the mountpoint {point}; choose another place for it")
    return found


def _lies_below(path: Path, point: Path) -> bool:
    """Whichever way it leads there: a link, or another mount of the directory that the mountpoint is in."""
    real = Path(os.path.realpath(path))
    return any(above.exists() and above.samefile(point) for above in (real, *real.parents))


def mount_here(plan: Plan, login: Credentials | None, told: Callable[[str], None]) -> None:
    """Mount and serve until it is unmounted or interrupted. ``told`` gets the line that says that it is live."""
    logs.setup(plan.settings.log_level.value, logs.to_terminal(), redactor(plan.settings, login))
    serve(plan, login, lambda: told(f"{plan.line(login)}; Ctrl-C unmounts"))


def mount_in_background(
    plan: Plan, login: Credentials | None, explain: Callable[[BaseException], tuple[int, str]]
) -> daemon.Report:
    """Mount from a child process; back when it is live or has failed, with exit status and line."""
    os.environ.pop("NOTIFY_SOCKET", None)  # it is not this process that goes on
    try:
        handler = logs.open_log(plan.log)
    except OSError as error:
        raise SettingsError(f"log file {plan.log}: {error.strerror}; --log-file names another") from None
    logs.setup(plan.settings.log_level.value, handler, redactor(plan.settings, login))
    for text in warnings(plan.settings, login):
        log.warning("%s", text)
    report = daemon.start(lambda live: serve(plan, login, live), explain, output=plan.log)
    text = f"{report.message} (log: {plan.log})" if report.status else f"{plan.line(login)}; log: {plan.log}"
    return report._replace(message=text)


def serve(plan: Plan, login: Credentials | None, live: Callable[[], None]) -> None:
    """Connect, mount, serve until it is unmounted, and clean up. ``live`` is called when the mount answers."""
    fuse_loop = _fuse()
    settings = plan.settings
    facts = {
        "server": settings.server.value,
        "user": login.user if login else "guest",
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "log": str(plan.log),
        "cache_dir": str(settings.cache_dir.value),
        "layout": settings.layout.value,
        loglevel.FACT: True,
    }
    for note in settings.notes:
        log.debug("%s", note)
    _allow_descriptors()
    _keep_memory_together()

    def ready() -> None:
        live()
        notify(READY="1", STATUS=plan.line(login))

    with ExitStack() as ends:
        ends.enter_context(loglevel.on_signal(plan.point))
        # First in, last out: whoever waits for this process waits until everything is cleaned up.
        ends.enter_context(daemon.recorded(plan.point, facts, END_SECONDS))
        if plan.at_end is not None:
            ends.callback(plan.at_end)
        with daemon.ending_on_signals():
            access = AccessLog(settings.access_log.value) if settings.access_log.value else None
            if access is not None:
                ends.callback(access.close)
            app = ends.enter_context(App(settings, login, mountpoint=plan.point, watched=access is not None))
            ends.callback(notify, STOPPING="1")
            app.check()
        log.info("mounting on %s", plan.point)
        with refreshing.on_hangup(app.vfs):
            fuse_loop.mount(
                layouts.over(app.vfs, settings.layout.value),
                plan.point,
                loop=settings.loop.value,
                options=plan.options,
                ready=ready,
                forget=app.vfs.on_refresh,
                stats=app.stats,
                tell=access.tell if access is not None else None,
            )
        log.info("unmounted from %s", plan.point)


def _allow_descriptors() -> None:
    """Take as many descriptors as this user may have: each file that somebody has open needs one.

    A shell gives 1,024 by default, for the sake of programs that call select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _keep_memory_together() -> None:
    """Two arenas for all threads, and large blocks by themselves. Does nothing where the C library is not glibc.

    By default it makes up to eight arenas a core, and what is free in one is of no use to the threads of another: the
    memory of a busy mount of 60 threads grew by 0.8 MB a minute for half an hour, though nothing more was in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


def _fuse() -> ModuleType:
    """The FUSE face; imported late, for commands without a mount need no libfuse. Raises `FuseMissing`."""
    from xnatfs import fuse_loop

    return fuse_loop


def load_fuse() -> None:
    """Load libfuse, as a mount would. Raises `FuseMissing`."""
    _fuse().load()


def unmount(mountpoint: str, *, lazy: bool) -> bool:
    """Unmount and wait until the process behind it has ended its session; False if it takes its time.

    Raises `MountpointError`.
    """
    point = Path(mountpoint).expanduser()
    entry = fuse_mount.find(point)
    fuse_mount.unmount(point, lazy=lazy)
    return lazy or entry is None or daemon.wait_for_end(Path(entry.mountpoint), END_SECONDS)


def log_path(settings: Settings, mountpoint: Path) -> Path:
    """The log file of a mount in the background: one for each mountpoint, unless a setting names one."""
    if settings.log_file.value is not None:
        return settings.log_file.value
    name = "-".join(mountpoint.parts[1:]) or "root"
    return platformdirs.user_log_path("xnatfs") / f"{name}.log"
