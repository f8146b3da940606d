"""`mount`: serve a `Vfs` on a directory until it is unmounted.

Two loops. "fast" runs libfuse's session in Python's own threads with the raw callbacks of `fuse_fast`; "plain" is
fusepy's `FUSE` as it stands, the slower one to fall back to and to compare with. Both have the same kernel options,
the same operations and the same guard. libfuse and fusepy are loaded by `mount`, not by the import of this module.

The main thread serves nothing: it waits for the end, so that a signal is heard even when every call waits for the
network. libfuse's own signal handlers are kept out; besides, removing them would leave SIGPIPE deadly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from xnatfs.errors import MountpointError
from xnatfs.fuse_kernel import Look
from xnatfs.fuse_mount import MountOptions, check_mountpoint, check_rights, find, is_dead, unmount
from xnatfs.fuse_ops import XnatOperations
from xnatfs.fuse_threads import WAKE
from xnatfs.fuse_vfs import Vfs
from xnatfs.stats import Stats

if TYPE_CHECKING:
    from xnatfs.fuse_watch import Tell

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 1e-4
"""Seconds after which a busy thread (parsing a listing) lets others go on; Python's 5 ms would be felt in each read."""
GRACE = 0.3
"""Seconds that calls have to end by themselves at the end of a mount, before the file system is closed under them."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2)
"""Signals that end a mount. All would end the process anyway; the last two would leave a dead mount behind."""
PATIENCE = 2.0
"""Seconds for the calls that were then interrupted."""


class End:
    """What ends a mount, and the place where the main thread waits for it.

    A pipe, because the kernel may give a signal to any thread: Python then only notes it, and its handler runs when the
    main thread next comes to. The wake-up descriptor brings it to, wherever the signal went.
    """

    def __init__(self) -> None:
        self._reason = ""
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._out, True)
        self._before = -1
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)

    def put(self, reason: str) -> None:
        """From any thread, and from signal handlers."""
        self._reason = self._reason or reason
        with contextlib.suppress(OSError):  # full: it will be read soon enough; closed: nobody waits any more
            os.write(self._in, b"\0")

    def wait(self) -> str:
        """The first reason. Other signals, whose handlers have run by then, do not end the wait."""
        while not self._reason:
            os.read(self._out, 4096)
        return self._reason

    def close(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._before)
        ends = self._in, self._out
        self._in = self._out = -1
        for descriptor in ends:
            os.close(descriptor)


def mount(
    vfs: Vfs,
    mountpoint: str | os.PathLike[str],
    *,
    loop: Literal["fast", "plain"] = "fast",
    options: MountOptions | None = None,
    ready: Callable[[], None] = lambda: None,
    forget: Callable[[Callable[[], None]], None] = lambda _forget: None,
    clock: Callable[[], float] = time.monotonic,
    stats: Stats | None = None,
    tell: Tell | None = None,
) -> None:
    """Mount ``vfs`` and serve it. Returns on unmount, on a signal of `_ENDING`, and on SIGHUP if that has no handler.

    ``ready`` is called once the mount is live: threads and sessions start there. What it raises ends the mount and is
    raised again. ``forget`` is called before it with a function that makes a refresh visible at once (fast loop only).
    ``clock`` is the one that ``Directory.expires`` is measured with. When calls still wait for the server at the end,
    ``vfs.close()`` is called so that they end. ``stats`` counts operations and errors; ``tell`` hears of each operation
    (see `xnatfs.fuse_watch`), which makes each a little slower.

    Raises `FuseMissing` (libfuse2, /dev/fuse), `MountpointError` (the directory), `SettingsError` (an option that this
    user may not use). Call it from the main thread: only there can signals be handled.
    """
    options = options or MountOptions()
    check_rights(options)
    where = check_mountpoint(mountpoint, nonempty=options.nonempty)
    uid = os.geteuid() if options.uid is None else options.uid
    gid = os.getegid() if options.gid is None else options.gid
    operations = _operations(vfs, Look(uid, gid, options.umask), stats, tell)
    end = End()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        with _signals(end):
            if loop == "fast":
                _fast(operations, where, options, ready, forget, clock, end)
            else:
                _plain(operations, where, options, ready, end)
    finally:
        sys.setswitchinterval(interval)
        end.close()


def _operations(vfs: Vfs, look: Look, stats: Stats | None, tell: Tell | None) -> XnatOperations:
    if tell is None:
        return XnatOperations(vfs, look, stats)
    from xnatfs.fuse_watch import WatchedOperations

    return WatchedOperations(vfs, look, stats, tell)


def load(loop: Literal["fast", "plain"] = "fast") -> None:
    """Load libfuse and check that it is the one needed. Raises `FuseMissing`, which `mount` would do later."""
    from xnatfs import fuse_abi

    if loop == "fast":
        fuse_abi.check()


def _fast(
    operations: XnatOperations,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    forget: Callable[[Callable[[], None]], None],
    clock: Callable[[], float],
    end: End,
) -> None:
    from xnatfs.fuse_session import Session  # loads libfuse, or says that it is missing

    session = Session(operations, mountpoint, options, ended=lambda: end.put("unmounted"), clock=clock)
    try:
        if session.first_request():
            raise_read_ahead(mountpoint, options.read_ahead)
            forget(session.forget)
            ready()
            session.threads.start()
            log.debug("end of the mount: %s", end.wait())
    finally:
        if _stop(session, operations.vfs):
            session.close()
            _clear(mountpoint)
        else:  # libfuse's memory is in use: leave it to the end of the process
            _leave(mountpoint)


def _plain(
    operations: XnatOperations,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    end: End,
) -> None:
    from xnatfs.fuse_plain import PlainSession

    session = PlainSession(operations, mountpoint, options)
    session.start(ready, ended=lambda: end.put("unmounted"))
    try:
        log.debug("end of the mount: %s", end.wait())
    finally:
        if _stop(session, operations.vfs):
            _clear(mountpoint)
        else:
            _leave(mountpoint)
    if session.failure is not None:
        raise session.failure


def _stop(session: Any, vfs: Vfs) -> bool:
    """End the threads; when calls wait for the server, end their waiting. False if one would not end."""
    if session.stop(GRACE):
        return True
    log.info("calls are still waiting at the end of the mount; ending them")
    threading.Thread(target=vfs.close, name="close", daemon=True).start()  # it may say goodbye to the server
    return bool(session.stop(PATIENCE))


def _leave(mountpoint: str) -> None:
    log.warning("%s: a call did not end with the mount", mountpoint)
    with contextlib.suppress(MountpointError):
        unmount(mountpoint, lazy=True)


def _clear(mountpoint: str) -> None:
    """Take away what is left of a mount that was broken off: ``umount -f`` of a busy one cuts it off and leaves it.

    Only when nobody serves it any more: a look at one that is alive would wait for ourselves.
    """
    with contextlib.suppress(MountpointError):
        if find(mountpoint) is not None and is_dead(mountpoint):
            unmount(mountpoint, lazy=True)


def raise_read_ahead(mountpoint: str, kib: int) -> None:
    """Let the kernel read ahead that far, where this user may say so. After INIT, whose answer sets it to 128 KiB."""
    entry = find(mountpoint)
    if entry is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").write_text(str(kib))


@contextlib.contextmanager
def _signals(end: End) -> Iterator[None]:
    """Signals put an end to the mount. SIGPIPE and the waking signal get handlers that do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        end.put(signal.Signals(number).name)

    def nothing(_number: int, _frame: FrameType | None) -> None:
        pass

    handlers: dict[int, Any] = {**dict.fromkeys(_ENDING, stop), signal.SIGPIPE: nothing}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        handlers[signal.SIGHUP] = stop
    if WAKE is not None:
        handlers[WAKE] = nothing
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if number != WAKE:  # one may still be on its way, and its default is to kill
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
