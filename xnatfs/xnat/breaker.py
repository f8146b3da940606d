"""A circuit breaker: while no connection to the server can be made, nobody waits for one.

After `FAILURES` attempts in a row of which none got a connection, every request fails at once, and a thread of its own
asks the server now and then whether it is back. Only attempts that got no connection count: a server that is slow,
cuts or resets in the middle of one file is there, and stays so for the others. One that took a request and said nothing
in all its time is probed first, and is away only if that gets no answer either. Else everybody would wait a whole
time-out, one after the other, for the kernel lets one lookup at a time into a directory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from random import Random

from xnatfs.deadlines import Clock
from xnatfs.errors import Unreachable
from xnatfs.stats import Stats

log = logging.getLogger(__name__)

FAILURES = 3
"""Attempts in a row without a connection until nobody tries any more."""
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.5, 1.6, 5.0
"""Seconds between probes: each is longer than the last, and any of them half to fully as long."""


class AtRestError(Unreachable):
    """The server was not reachable a moment ago, and has not been asked again."""


def _thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="xnatfs-probe", daemon=True).start()


class Breaker:
    """See the module. Any thread may call anything.

    ``probe`` makes one attempt and says whether the server answered; ``spawn`` runs the probing on a thread;
    ``wait`` waits some seconds, and says True when it is over for good. ``_lock`` is a leaf, not held while any of
    them runs.
    """

    def __init__(
        self,
        probe: Callable[[], bool],
        stats: Stats,
        *,
        clock: Clock = time.monotonic,
        random: Callable[[], float] | None = None,
        spawn: Callable[[Callable[[], None]], None] = _thread,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._probe = probe
        self._stats = stats
        self._clock = clock
        self._random = random or Random().random  # noqa: S311  # jitter, no secret; its own, not the program's
        self._spawn = spawn
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._lock = threading.Lock()
        self._failures = 0
        self._answers = 0
        self._open_since: float | None = None
        self._reason = ""
        self._doubt: threading.Event | None = None
        """Set when it is known whether a server that said nothing is there; None while nobody wonders."""

    @property
    def open(self) -> bool:
        """Is the server taken to be away?"""
        return self._open_since is not None

    @property
    def away(self) -> tuple[float, str] | None:
        """For how many seconds the server has been taken to be away, and why; None while it is not."""
        with self._lock:
            if self._open_since is None:
                return None
            return max(0.0, self._clock() - self._open_since), self._reason

    def enter(self, patience: float = 0.0) -> int:
        """To be called before each attempt; what it returns goes to `failed`. Raises `AtRestError` while open.

        While a silent server is being probed, waits for what comes of it, at most ``patience`` seconds.
        """
        doubt = self._doubt
        if doubt is not None:
            doubt.wait(max(0.0, patience))
        with self._lock:
            if self._open_since is None:
                return self._answers
            seconds = max(0.0, self._clock() - self._open_since)
            raise AtRestError(f"{self._reason} (for {seconds:.0f} s; looked for in the background)")

    def failed(self, entered: int, reason: str) -> None:
        """An attempt got no connection. It does not count if another one has got an answer meanwhile."""
        with self._lock:
            if not self._counts(entered):
                return
            self._failures += 1
            if self._failures < FAILURES:
                return
            self._trip(reason)
        self._tell(reason)
        self._spawn(self._look)

    def silent(self, entered: int, reason: str) -> None:
        """An attempt got a connection and no answer. Counts as little as `failed` if another one has got one."""
        with self._lock:
            if not self._counts(entered) or self._doubt is not None:
                return
            self._doubt = doubt = threading.Event()
        self._spawn(lambda: self._wonder(doubt, entered, reason))

    def _wonder(self, doubt: threading.Event, entered: int, reason: str) -> None:
        away = not self._probe()
        with self._lock:
            away = away and self._counts(entered)
            if away:
                self._trip(reason)
            self._doubt = None
        doubt.set()
        if away:
            self._tell(reason)
            self._look()

    def _counts(self, entered: int) -> bool:
        """With the lock held."""
        return entered == self._answers and self._open_since is None and not self._ended.is_set()

    def _trip(self, reason: str) -> None:
        """With the lock held."""
        self._open_since = self._clock()
        self._reason = reason

    def _tell(self, reason: str) -> None:
        self._stats.add("requests.outages")
        log.error("%s; nothing is asked until the server is back", reason)

    def answered(self) -> None:
        """There was an answer, whatever it said."""
        with self._lock:
            self._answers += 1
            self._failures = 0
            since, self._open_since = self._open_since, None
        if since is not None:
            log.warning("the server is back after %.0f s", max(0.0, self._clock() - since))

    def stop(self) -> None:
        """End the probing."""
        self._ended.set()

    def _look(self) -> None:
        pause = FIRST_PAUSE
        while self.open and not self._wait(pause * (0.5 + self._random() / 2)):
            if self._probe():
                self.answered()
            pause = min(LONGEST_PAUSE, pause * GROWTH)
