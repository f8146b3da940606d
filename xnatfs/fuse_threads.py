"""The threads that serve the kernel. Python's own, because libfuse's would cost a new thread state per call."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

WAKE: int | None = getattr(signal, "SIGRTMIN", 0) + 3 if hasattr(signal, "SIGRTMIN") else None
"""A signal that does nothing but end a read of /dev/fuse, so that the thread sees that it shall stop."""
_SPARE = 2
"""Threads that must be free to serve; when there are fewer, one more is started."""


class Threads:
    """Runs ``serve`` in several threads; more are started while many wait, so that none of the quick calls has to.

    A context manager, to be entered round whatever may wait for the server. Entering is cheap: the waiting are counted
    by appending to a list, which needs no lock.
    """

    def __init__(self, serve: Callable[[], None], ended: Callable[[], None], *, start: int, limit: int) -> None:
        self._serve = serve
        self._ended = ended
        self._start = start
        self._limit = limit
        self._waiting: list[None] = []
        self._lock = threading.Lock()  # guards what follows; a leaf
        self._threads: list[threading.Thread] = []
        self._serving: set[int] = set()
        self._running = 0
        self._stopping = False

    def start(self) -> None:
        with self._lock:
            for _ in range(self._start):
                self._add()

    def __enter__(self) -> None:
        self._waiting.append(None)
        if self._running - len(self._waiting) < _SPARE:
            with self._lock:  # looked at once more: of two that come at once, each must find a spare thread
                while self._running - len(self._waiting) < _SPARE and self._add():
                    pass

    def __exit__(self, *_exception: object) -> None:
        self._waiting.pop()

    def __len__(self) -> int:
        return self._running

    def _add(self) -> bool:
        """One thread more, if there may be one. With the lock held."""
        if self._stopping or self._running >= self._limit:
            return False
        thread = threading.Thread(target=self._run, name=f"fuse-{self._running}", daemon=True)
        try:
            thread.start()
        except RuntimeError as problem:  # the system gives no more threads: those there are must do
            log.warning("no more than %d threads: %s", self._running, problem)
            self._limit = self._running
            return False
        self._running += 1
        self._threads.append(thread)
        return True

    def _run(self) -> None:
        identity = threading.get_ident()
        self._serving.add(identity)  # without the lock, which whoever starts this thread holds
        try:
            self._serve()
        finally:
            with self._lock:  # `stop` signals only with the lock held, hence never a thread that is gone
                self._serving.discard(identity)
            self._ended()

    def stop(self, seconds: float, tell: Callable[[], None]) -> bool:
        """Wait for all to end. ``tell`` says so to ``serve``. False if some are still at work after that time."""
        with self._lock:
            self._stopping = True
        until = time.monotonic() + seconds
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < until:
                tell()  # again and again: a thread may have looked just before the signal came
                self._wake()
                thread.join(0.01)
        return not any(thread.is_alive() for thread in self._threads)

    def _wake(self) -> None:
        if WAKE is not None and signal.getsignal(WAKE) not in (signal.SIG_DFL, None):
            with self._lock:
                for identity in tuple(self._serving):
                    signal.pthread_kill(identity, WAKE)
