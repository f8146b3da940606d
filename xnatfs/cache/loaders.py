"""Threads that load listings: a bounded number, of which those that hang are not counted.

A server that answers is asked for `LIMIT` listings at a time and no more, however many are wanted. A load that has
taken longer than `HANGS` holds up nobody: another may begin in its place, up to `MOST` at a time, so that some listings
which never come, or take a server half a minute, do not delay all others.

The threads are daemons: at the end of a program nobody waits for a server that says nothing.

Lock: one, a leaf; not held while anything is loaded.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from xnatfs.deadlines import Clock

log = logging.getLogger(__name__)

LIMIT = 16
"""Loads at a time; a session needs two side by side."""
MOST = 64
"""Threads, those that hang included."""
HANGS = 2.0
"""Seconds after which a load is not counted any more."""


class Loaders:
    """An executor of which only ``submit`` is used. Threads start with the first load, hence after a fork."""

    def __init__(
        self, limit: int = LIMIT, most: int = MOST, *, hangs: float = HANGS, clock: Clock = time.monotonic
    ) -> None:
        self._limit = limit
        self._most = most
        self._hangs = hangs
        self._clock = clock
        self._turn = threading.Condition(threading.Lock())
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._begun: dict[int, float] = {}
        """When the load of each busy thread began."""
        self._threads: set[int] = set()
        self._numbers = itertools.count(1)
        self._closed = False

    def submit(self, work: Callable[..., None], /, *arguments: Any) -> None:
        """Run ``work`` on a thread as soon as there may be one more; what is handed in first begins first.

        Raises:
            RuntimeError: closed.
        """
        with self._turn:
            if self._closed:
                raise RuntimeError("no more listings are loaded")
            self._queue.append((work, arguments))
            self._staff()

    def close(self) -> None:
        """Begin no more loads. Waits for nobody."""
        with self._turn:
            self._closed = True
            self._queue.clear()
            self._turn.notify_all()

    def _staff(self) -> None:
        """See to it that a thread looks at what is queued; one is enough, for it sees to the next. Lock held."""
        if not self._queue:
            return
        if len(self._threads) > len(self._begun):  # it waits here, or is about to look
            self._turn.notify()
        elif len(self._threads) < self._most:
            number = next(self._numbers)
            self._threads.add(number)
            threading.Thread(target=self._run, args=(number,), name=f"listing-{number}", daemon=True).start()

    def _run(self, me: int) -> None:
        while (load := self._next(me)) is not None:
            work, arguments = load
            try:
                work(*arguments)
            except Exception:
                log.exception("loading a listing failed in a way that nobody foresaw")

    def _next(self, me: int) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
        """The next load, when it may begin; None when this thread is of no use any more."""
        with self._turn:
            self._begun.pop(me, None)
            while not self._closed and (self._queue or len(self._threads) <= self._limit):
                seconds = self._until_turn() if self._queue else None
                if seconds == 0.0:
                    self._begun[me] = self._clock()
                    load = self._queue.popleft()
                    self._staff()
                    return load
                self._turn.wait(seconds)
            self._threads.discard(me)
            return None

    def _until_turn(self) -> float:
        """Seconds until another load may begin, if none ends before. Lock held."""
        now = self._clock()
        counted = [began for began in self._begun.values() if now - began < self._hangs]
        return 0.0 if len(counted) < self._limit else min(counted) + self._hangs - now
