"""Going to the background: fork, a pipe on which the child says how it went, and a record of who serves which mount.

The parent waits until the child is live or has failed, and passes the child's exit status on. No thread, session or
open connection exists before the fork; they would not survive it.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from xnatfs.errors import MountpointError

log = logging.getLogger(__name__)


class Report(NamedTuple):
    """How the child did: its exit status (0: live), what a person should read, its process id."""

    status: int
    message: str
    pid: int


Work = Callable[[Callable[[], None]], None]
"""The child's business. It calls its argument once, when the mount is live, and returns at the end."""


def start(work: Work, explain: Callable[[BaseException], tuple[int, str]], *, output: Path) -> Report:
    """Run ``work`` in a child of its own session; come back when it is live or has failed.

    ``explain`` turns an exception into exit status and line. What C libraries and a crash print goes to ``output``.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(writing, work, explain, output)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            said = pipe.read()  # the child closes its end after it has spoken, at the latest when it dies
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)  # it is in another session: Ctrl-C reached only us
        os.waitpid(child, 0)
        raise
    try:
        status, message = json.loads(said)
    except ValueError:
        status, message = 1, f"the background process ended before the mount was live; see {output}"
    if status:
        os.waitpid(child, 0)
    return Report(int(status), str(message), child)


def _child(pipe: int, work: Work, explain: Callable[[BaseException], tuple[int, str]], output: Path) -> None:
    """Never returns."""
    status = 1
    try:
        status = _run(pipe, work, explain, output)
        logging.shutdown()
    finally:
        os._exit(status)  # not sys.exit: the parent's clean-up handlers are not the child's


def _run(pipe: int, work: Work, explain: Callable[[BaseException], tuple[int, str]], output: Path) -> int:
    told = False

    def tell(status: int, message: str) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(pipe, json.dumps([status, message]).encode())
            os.close(pipe)

    def live() -> None:
        _detach(output)  # only now: before that a person may still read stderr
        tell(0, "")

    try:
        os.setsid()
        os.chdir("/")  # keeps no directory busy
        os.umask(0o077)
        work(live)
        status, message = 0, ""
    except BaseException as error:
        status, message = explain(error)
        if status == 1:
            log.error("unexpected", exc_info=error)
        if told:
            log.critical("ended: %s", message)
    tell(status, message)
    return status


def _detach(output: Path) -> None:
    """Let go of the terminal: whoever waits for our stdout to close (a pipe, ssh) must not wait for the mount's end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        errors = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        errors = nothing
    for source, target in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(source, target)
    for descriptor in {nothing, errors}:
        os.close(descriptor)
    with suppress(OSError, ValueError):
        faulthandler.enable(2)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the block by SystemExit, so that what was begun is cleaned up.

    Only while Python code runs in the main thread; libfuse takes the signals over only where they are untouched.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget_variable(name: str) -> None:
    """Remove an environment variable so that neither children nor ``/proc/PID/environ`` show its value.

    Unsetting leaves the text where the kernel put it at the start, and that place is what /proc shows.
    """
    if name not in os.environ:
        return
    find = ctypes.CDLL(None).getenv
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    place = find(name.encode())
    if place:
        ctypes.memset(place, ord("*"), len(ctypes.string_at(place)))
    del os.environ[name]


# -- who serves which mount ------------------------------------------------------------------------------------------


def record_path(mountpoint: Path) -> Path:
    """The file that the process behind a mount holds locked while it lives."""
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=12).hexdigest()
    return platformdirs.user_state_path("xnatfs") / "mounts" / f"{digest}.json"


@contextmanager
def recorded(mountpoint: Path, facts: Mapping[str, Any], patience: float = 0.0) -> Iterator[None]:
    """Hold the record of ``mountpoint``: JSON with the process id and ``facts`` (no secrets). Best effort.

    Waits up to ``patience`` seconds for a mount before this one that is still cleaning up; raises `MountpointError`
    when another process is at work there for longer.
    """
    path = record_path(mountpoint)
    held: list[int] = []

    def take() -> bool:
        """Open and lock the record; not one that who held it before has removed meanwhile."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(FileNotFoundError):
            if _locked(descriptor, fcntl.LOCK_EX) and path.samefile(f"/proc/self/fd/{descriptor}"):
                held.append(descriptor)
                return True
        os.close(descriptor)
        return False

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = _soon(take, patience)
    except OSError as error:
        log.warning("no record of this mount: %s: %s", path, error.strerror)
        yield
        return
    if not taken:
        raise MountpointError(f"{mountpoint}: another xnatfs is at work there; wait for it, or xnatfs umount it")
    with open(held[0], "w", encoding="utf-8") as file:
        file.truncate()
        json.dump({"pid": os.getpid(), "mountpoint": str(mountpoint), **facts}, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def recorded_facts(mountpoint: Path) -> dict[str, Any] | None:
    """What the living process behind ``mountpoint`` recorded; None when there is none."""
    try:
        with open(record_path(mountpoint), encoding="utf-8") as file:
            if _locked(file.fileno(), fcntl.LOCK_SH):
                return None
            facts = json.load(file)
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def left_facts(mountpoint: Path) -> dict[str, Any]:
    """What the process that is or was behind ``mountpoint`` recorded last; nothing where nothing is left of it."""
    try:
        facts = json.loads(record_path(mountpoint).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def send_signal(mountpoint: Path, number: int) -> None:
    """Send a signal to the living process behind ``mountpoint``, and to no other that may have got its number.

    Raises `MountpointError`: there is none of ours, or it may not be signalled.
    """
    facts = recorded_facts(mountpoint)
    try:
        process = os.pidfd_open(facts["pid"]) if facts else -1
    except OSError:
        process = -1
    if process < 0:
        raise MountpointError(f"{mountpoint}: no process of yours is recorded as serving it")
    try:
        if recorded_facts(mountpoint) != facts:  # still locked by it, so that is the process we hold
            raise MountpointError(f"{mountpoint}: the process behind it has just ended")
        signal.pidfd_send_signal(process, number)
    except OSError as error:
        raise MountpointError(f"{mountpoint}: its process cannot be signalled: {error.strerror}") from None
    finally:
        os.close(process)


def wait_for_end(mountpoint: Path, seconds: float) -> bool:
    """Wait until the process behind ``mountpoint`` has cleaned up and gone; False when it takes longer."""
    try:
        file = open(record_path(mountpoint), encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError:
        return True
    with file:
        return _soon(lambda: _locked(file.fileno(), fcntl.LOCK_SH), seconds)


def _locked(descriptor: int, how: int) -> bool:
    """Take the lock if it is free; did that go?"""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # no locks on that file system: nothing to wait for
    return True


def _soon(condition: Callable[[], bool], seconds: float) -> bool:
    """Is it true within so many seconds? Asked once at least; a file lock cannot be waited for with a time limit."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True
