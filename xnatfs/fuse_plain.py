"""The plain loop: fusepy's `FUSE` and libfuse's threads. Slower, but nothing of it is ours."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

from xnatfs import fuse_abi as abi
from xnatfs.errors import MountpointError
from xnatfs.fuse_mount import MountOptions
from xnatfs.fuse_ops import XnatOperations, answer
from xnatfs.fuse_threads import WAKE


class _Fuse(abi.FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's, but for its ``_wrapper``: a static method that uses ``self``, so that some exceptions get through."""

    @staticmethod
    def _wrapper(method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments) or 0
        except BaseException as problem:
            return -answer(method.__name__, problem)


class PlainSession:
    """One mount by fusepy, in a thread of its own, so that the main thread can handle signals."""

    def __init__(self, operations: XnatOperations, mountpoint: str, options: MountOptions) -> None:
        abi.declare()
        self._operations = operations
        operations.caller = abi.caller
        self._mountpoint = mountpoint
        self._options = options
        self._lock = threading.Lock()  # guards the next
        self._fuse: int | None = None
        self._thread = threading.Thread(target=self._run, name="fuse-plain", daemon=True)
        self._ended: Callable[[], None] = lambda: None
        self.failure: BaseException | None = None

    def start(self, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        """Mount. ``ready`` is called in FUSE's init, ``ended`` when all is over."""
        self._ended = ended

        def init(_path: str) -> None:
            self._fuse = abi.library.fuse_get_context().contents.fuse
            try:
                ready()
            except BaseException as problem:
                self.failure = problem
                self._exit()

        self._operations.init = init  # type: ignore[attr-defined]  # fusepy looks for both there
        self._operations.destroy = self._destroyed  # type: ignore[attr-defined]
        self._thread.start()

    def _run(self) -> None:
        try:
            options = self._options.kernel_options()
            _Fuse(self._operations, self._mountpoint, raw_fi=True, encoding=abi.PATHS, foreground=True, **options)
        except RuntimeError:  # fusepy's way to say that fuse_main has failed
            self.failure = MountpointError(f"{self._mountpoint}: cannot be mounted on; libfuse has said why on stderr")
        except BaseException as problem:
            self.failure = problem
        finally:
            self._ended()

    def _destroyed(self, _path: str) -> None:
        """libfuse is about to free its structure."""
        with self._lock:
            self._fuse = None

    def _exit(self) -> None:
        with self._lock:
            if self._fuse is not None:
                abi.library.fuse_exit(c_void_p(self._fuse))

    def stop(self, seconds: float) -> bool:
        """End the mount and wait. False if a call is still at work after that time."""
        self._exit()
        until = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until:
            if WAKE is not None and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, WAKE)  # libfuse's main thread sleeps in sem_wait
            self._thread.join(0.01)
        return not self._thread.is_alive()
