"""Deadlines: how long an operation may still take. Knows nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xnatfs.errors import TimedOut

Clock = Callable[[], float]
"""A monotonic clock in seconds; tests pass one that they tick by hand."""


AFTERMATH = 0.5
"""Seconds after a time-out in which the same question is answered by the same error. The kernel lets one at a time look
a name up, or read a page; those queued behind have waited as long, and would each wait all of it anew, one by one."""


class Deadline:
    """A point in time by which an operation must have answered.

    One is made where a call enters (a file operation, a command) and handed down, so that retries, waiting and
    several requests share one budget.
    """

    __slots__ = ("_clock", "at", "seconds")

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.seconds = seconds
        self.at = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self._clock())

    def expired(self) -> bool:
        return self._clock() >= self.at

    def check(self, what: str) -> None:
        """Raise `TimedOut` naming ``what`` when the time is up."""
        if self.expired():
            raise TimedOut(f"{what}: no answer within {self.seconds:g} s")


class Budget:
    """The deadline of one call, shared by all the steps that a thread takes for it."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._here = threading.local()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Round what is one call to whoever waits for it; within another one, that one's deadline stands."""
        if getattr(self._here, "deadline", None) is not None:
            yield
            return
        self._here.deadline = Deadline(self._seconds, self._clock)
        try:
            yield
        finally:
            self._here.deadline = None

    def deadline(self) -> Deadline:
        """That of the present call; outside of any, one that begins now."""
        return getattr(self._here, "deadline", None) or Deadline(self._seconds, self._clock)
