"""Threads that run downloads: a bounded number, those that a reader waits for first, and a clock for what is due.

A job is run in slices: `Job.run` moves bytes until it has nothing to do for now, or until others wait for a thread,
and keeps its connection over that. So a thread is only held while bytes are moved.

Threads that hang in a silent server are not counted, up to `HARD` times the number asked for: a stalled download
does not hold up another.

Lock: the pool's, handed in. Underscore prefix, and every method said to be so, = lock held. Threads start with the
first job, hence after the process has gone to the background.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from xnatfs.deadlines import Clock
from xnatfs.transfer.readahead import CHUNK

log = logging.getLogger(__name__)

STALL = 2.0
"""Seconds without a byte after which the thread of a job is not counted any more."""
HARD = 4


class Job(Protocol):
    """Something that runs in slices on a worker."""

    urgent: bool
    """A reader waits for it now. Lock."""
    touched: float
    """When it last made progress (clock). Any thread."""

    def run(self, buffer: memoryview) -> None:
        """One slice. Never raises; asks to be run again by `Workers.submit`."""
        ...


class Workers:
    """See the module."""

    def __init__(self, lock: threading.Lock, *, limit: int, clock: Clock) -> None:
        self._lock = lock
        self._limit = limit
        self._clock = clock
        self._work = threading.Condition(lock)
        self._tick = threading.Condition(lock)
        self._urgent: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._running: set[Job] = set()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._numbers = count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = count()
        self._keeper: threading.Thread | None = None
        self._checking = False
        self.closing = False

    # -- jobs (lock held) ---------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Run a slice of a job as soon as a thread is free. Lock held."""
        if self.closing:
            return
        (self._urgent if job.urgent else self._later).append(job)
        self._staff()

    def promote(self, job: Job) -> None:
        """A reader waits for this job now. Lock held."""
        if not job.urgent:
            job.urgent = True
            if job in self._later:
                self._later.remove(job)
                self._urgent.append(job)
                self._staff()

    def withdraw(self, job: Job) -> None:
        """Do not run a job that waits for a thread. Lock held."""
        for queue in (self._urgent, self._later):
            if job in queue:
                queue.remove(job)

    def contended(self) -> bool:
        """Does a reader wait for a thread? Any thread, no lock."""
        return bool(self._urgent)

    def busy(self) -> bool:
        """Are all threads taken? Lock held."""
        return len(self._running) >= self._limit

    def _staff(self) -> None:
        """See to it that there is a thread for what waits."""
        if self.closing:
            return
        queued = len(self._urgent) + len(self._later)
        if self._idle:
            self._work.notify()
        allowed = self._limit + min(self._stalled(), self._limit * (HARD - 1))
        starting = self._idle
        while starting < queued and len(self._threads) < allowed:
            thread = threading.Thread(target=self._loop, name=f"xnatfs-transfer-{next(self._numbers)}", daemon=True)
            thread.start()
            self._threads.add(thread)
            starting += 1
        if self._urgent and starting < queued and not self._checking:
            self._checking = True
            self.at(self._clock() + STALL, self._check)

    def _stalled(self) -> int:
        since = self._clock() - STALL
        return sum(1 for job in self._running if job.touched <= since)

    def _surplus(self) -> bool:
        """Is this a thread that stood in for a stalled one, and is not needed any more?"""
        if len(self._threads) <= self._limit:
            return False
        return not (self._urgent or self._later) or len(self._running) - self._stalled() >= self._limit

    def _check(self) -> None:
        with self._lock:
            self._checking = False
            if self._urgent and not self.closing:
                self._staff()

    def _loop(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        me = threading.current_thread()
        while True:
            with self._lock:
                while not (self._urgent or self._later or self.closing or self._surplus()):
                    self._idle += 1
                    self._work.wait()
                    self._idle -= 1
                if self.closing or self._surplus():
                    self._threads.discard(me)
                    self._staff()  # what it was woken for must not be forgotten
                    return
                job = (self._urgent or self._later).popleft()
                job.touched = self._clock()
                self._running.add(job)
            try:
                job.run(buffer)
            except Exception:
                log.exception("a transfer failed in a way that nobody foresaw")
            finally:
                with self._lock:
                    self._running.discard(job)

    # -- time ---------------------------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call something, without the lock, at a time of the clock. Lock held."""
        if self.closing:
            return
        heapq.heappush(self._timers, (when, next(self._timer_numbers), call))
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="xnatfs-transfer-0", daemon=True)
            self._keeper.start()
        else:
            self._tick.notify()

    def wake(self) -> None:
        """Look at the clock now: for a clock that is ticked by hand. Lock held."""
        self._tick.notify_all()

    def _keep(self) -> None:
        while True:
            with self._lock:
                while not self.closing and (not self._timers or self._timers[0][0] > self._clock()):
                    self._tick.wait(self._timers[0][0] - self._clock() if self._timers else None)
                if self.closing:
                    return
                _, _, call = heapq.heappop(self._timers)
            try:
                call()
            except Exception:
                log.exception("a timer of a transfer failed in a way that nobody foresaw")

    def close(self) -> list[threading.Thread]:
        """No job runs again; the threads to join. Lock held."""
        self.closing = True
        self._urgent.clear()
        self._later.clear()
        self._timers.clear()
        self._work.notify_all()
        self._tick.notify_all()
        return [*self._threads, *([self._keeper] if self._keeper else [])]
