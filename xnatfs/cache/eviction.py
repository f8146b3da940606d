"""Keeping the cache within its limits, without ever having to know all that is in it.

No list of entries is kept, in memory or on disk: the directory is the list. When room is needed, whole shards are
looked at until some thousand entries have been seen, and the least recently used of these go. A cache of up to
`SAMPLE` entries is thus in exact LRU order. Of a larger one, whose keys are hashes, the shards looked at are a random
sample, and what goes is among its oldest quarter. Either way the cost of starting is nothing, and that of making room
does not grow with the size of the cache.

The background sweep passes over everything at a leisurely pace: it drops what has not been used for too long, and puts
the books (`ledger`) right.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xnatfs.cache.disk import Disk, Found
from xnatfs.cache.ledger import Counts, Ledger
from xnatfs.stats import Stats

log = logging.getLogger(__name__)

SAMPLE = 4096
"""Entries looked at to choose whom to evict: about 30 ms."""

FIRST_SWEEP = 30.0
"""Seconds after the first use of the store, so that a fresh mount has the disk to itself."""

_SHARDS = 256
_DUTY = 4
"""The sweep rests this many times as long as it works."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large the cache may grow. Enforced before anything is written."""

    max_bytes: int
    """Bytes that the cache directory may occupy, for all servers and processes together."""
    min_free_bytes: int = 0
    """Bytes that must stay free on its file system."""
    max_age_seconds: float | None = None
    """Entries that have not been used for longer are removed; None for no such limit."""


class Evictor:
    """Removes entries that nobody uses. Its lock lets one thread at a time do so; it comes after the store's."""

    def __init__(
        self,
        disk: Disk,
        ledger: Ledger,
        clock: Callable[[], float],
        stats: Stats,
        pinned: Callable[[], Container[str]] = tuple,
    ) -> None:
        """``pinned``: names of the entries that stay."""
        self._disk = disk
        self._ledger = ledger
        self._clock = clock
        self._stats = stats
        self._pinned = pinned
        self._lock = threading.Lock()
        self._sample: list[Found] = []  # the latest used first
        self._shard = os.getpid() % _SHARDS  # several processes begin at several places

    def free(self, amount: int) -> int:
        """Evict the least recently used until ``amount`` bytes are free; returns how many became so, perhaps 0."""
        freed = 0
        with self._lock, contextlib.suppress(OSError):
            for found in self._oldest_first():
                freed += self._evict(found)
                if freed >= amount:
                    break
        return freed

    def _oldest_first(self) -> Iterator[Found]:
        yield from self._drain()
        seen = 0
        while seen < _SHARDS:
            sample, shards = self._look(_SHARDS - seen, SAMPLE)
            seen += shards
            pinned = self._pinned()
            sample = [found for found in sample if found.path.name not in pinned]
            sample.sort(key=lambda found: found.used, reverse=True)
            self._sample = sample if shards == _SHARDS else sample[-max(1, len(sample) // 4) :]
            yield from self._drain()

    def _drain(self) -> Iterator[Found]:
        while self._sample:
            yield self._sample.pop()

    def _look(self, shards: int, enough: int) -> tuple[list[Found], int]:
        """Entries of the next shards until there are enough; also how many shards that took."""
        sample: list[Found] = []
        for seen, directories in enumerate(self._disk.shards(self._shard), start=1):
            for directory in directories:
                sample += self._disk.look(directory)
            if seen == shards or len(sample) >= enough:
                break
        self._shard = (self._shard + seen) % _SHARDS
        return sample, seen

    def _evict(self, found: Found) -> int:
        if found.path.name in self._pinned():
            return 0
        try:
            if found.path.stat().st_atime > found.used:
                return 0  # used since we looked
            size = self._disk.remove(found.path)
        except OSError:
            return 0
        if size is None:
            return 0
        self._stats.add("cache.evicted_entries")
        self._stats.add("cache.evicted_bytes", size)
        with contextlib.suppress(OSError):
            self._ledger.book(removed=size, gone=1)
        return size

    def estimate(self) -> Counts:
        """What is there, by a sample; for when there are no books. Raises OSError."""
        with self._lock:
            sample, seen = self._look(_SHARDS, SAMPLE)
        return Counts(added=sum(found.bytes for found in sample) * _SHARDS // seen, made=len(sample) * _SHARDS // seen)

    def entries(self) -> Iterator[Path]:
        """The file of every entry of every namespace. Raises OSError."""
        for directories in self._disk.shards():
            for directory in directories:
                yield from (found.path for found in self._disk.look(directory))

    def sweep(self, limits: Limits, rest: Callable[[float], bool]) -> None:
        """Look at everything once: age limit, books, and then the other limits.

        ``rest`` is called with seconds to wait, and answers whether to stop. Raises OSError.
        """
        now = self._clock()
        before = self._ledger.read() or Counts()
        size = count = 0
        for directories in self._disk.shards():
            began = time.monotonic()
            for directory in directories:
                for item in self._disk.look(directory):
                    old = limits.max_age_seconds is not None and now - item.used > limits.max_age_seconds
                    if old and (gone := self._evict(item)):
                        before = replace(before, removed=before.removed + gone, gone=before.gone + 1)
                    else:
                        size, count = size + item.bytes, count + 1
            if rest((time.monotonic() - began) * _DUTY):
                return
        self._ledger.settle(size, count, before, now)
        counts = self._ledger.read() or Counts()
        disk = os.statvfs(self._disk.base)
        excess = max(counts.bytes - limits.max_bytes, limits.min_free_bytes - disk.f_bavail * disk.f_frsize)
        if excess > 0:
            self.free(excess)

    def sweep_now_and_then(self, limits: Callable[[], Limits], every: float, wait: Callable[[float], bool]) -> None:
        """The life of the background thread: ends when ``wait`` says so."""
        pause = FIRST_SWEEP
        while not wait(pause):
            began = time.monotonic()
            try:
                counts = self._ledger.read() or Counts()
                # One of several processes is enough; a clock that was set back must not stop it for good
                if not 0 <= self._clock() - counts.swept < every / 2:
                    self.sweep(limits(), wait)
            except OSError as error:
                log.debug("cache sweep: %s", error)
            pause = max(every, 10 * (time.monotonic() - began))
