"""Counters of a running mount, and a snapshot of them. Knows nothing else."""

from __future__ import annotations

import threading
from collections import Counter


class Stats:
    """Named counters that any thread may raise. Names are dotted: ``requests.total``, ``cache.hits``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters, sorted by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))
