"""Counters of a running mount, a snapshot of them, and what a single operation caused. Knows nothing else."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar


class Stats:
    """Named counters that any thread may raise. Names are dotted: ``requests.total``, ``cache.hits``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._others: list[Callable[[], Mapping[str, int]]] = []

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount
        cause = _cause.get()
        if cause is not None:
            cause.add(name, amount)

    def include(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Have `snapshot` ask for counters that somebody keeps by himself, where `add` would take too long."""
        self._others.append(counts)

    def snapshot(self) -> dict[str, int]:
        """All counters, sorted by name."""
        with self._lock:
            counts = Counter(self._counts)
        for others in self._others:
            counts.update(others())
        return dict(sorted(counts.items()))


class Served:
    """What the quickest calls of a mount count: plain numbers, without a lock.

    With the GIL none gets lost: nothing between reading and writing one of them hands it over.
    """

    __slots__ = ("bytes", "getattr", "looked", "open", "opendir", "read", "readdir", "waited")

    def __init__(self) -> None:
        self.getattr = self.opendir = self.readdir = self.open = self.read = 0
        self.looked = 0
        """Calls of getattr that were not answered from packed attributes."""
        self.waited = 0
        """Calls of read that had to see to it that the bytes come."""
        self.bytes = 0
        """Bytes handed to the kernel."""

    def counts(self) -> dict[str, int]:
        operations = {f"operations.{name}": getattr(self, name) for name in SERVED}
        return {
            **{name: count for name, count in operations.items() if count},
            "attributes.hits": self.getattr - self.looked,
            "attributes.misses": self.looked,
            "data.hits": self.read - self.waited,
            "data.misses": self.waited,
            "bytes.read": self.bytes,
        }


SERVED = ("getattr", "opendir", "readdir", "open", "read")
"""Operations that `Served` counts."""


class Cause:
    """An operation, and what was counted on its behalf, in whatever thread. Safe for all of them."""

    __slots__ = ("_lock", "counts")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def add(self, name: str, amount: int) -> None:
        with self._lock:
            self.counts[name] += amount


_cause: ContextVar[Cause | None] = ContextVar("cause", default=None)


@contextmanager
def caused_by(cause: Cause | None) -> Iterator[None]:
    """What this thread counts meanwhile counts for ``cause`` too; what it starts may be told by `current_cause`."""
    before = _cause.set(cause)
    try:
        yield
    finally:
        _cause.reset(before)


def current_cause() -> Cause | None:
    return _cause.get()
