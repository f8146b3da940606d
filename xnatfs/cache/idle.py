"""Entries that were released a moment ago, kept open in case that they are wanted again.

Tools open a file several times in a row (dcm2niix four times, nibabel twice), and an archive of a series fills files
just before they are copied. Opening one anew costs some 80 microseconds of system calls; these cost one lock.

An idle entry holds no lock on its file, so any process may evict it meanwhile, and whoever takes it out looks whether
the file is still there. Only small ones are kept: what is evicted takes its space until it is closed here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from xnatfs.cache.entry import Entry

MOST = 256
"""Descriptors; a quarter of what a process may have open by default."""
MOST_BYTES = 64 << 20


class Idle:
    """A bounded set of entries; the one released longest ago leaves first. Closing them is the caller's business."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # leaf
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0

    def __del__(self) -> None:
        # A store that nobody closed must not keep its descriptors either: these have no user who would give them back.
        for entry in self.drain():
            entry.close()

    def fits(self, entry: Entry) -> bool:
        """Small enough to be kept, whole, verified by this process, and in the cache proper?"""
        return entry.sound and not entry.private and 0 < entry.size <= self._most_bytes // 8

    def put(self, entry: Entry) -> Iterable[Entry]:
        """Keep an entry; returns those that had to go for it."""
        gone = []
        with self._lock:
            self._entries[entry.key] = entry
            self._bytes += entry.size
            while len(self._entries) > self._most or self._bytes > self._most_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.size
                gone.append(oldest)
        return gone

    def take(self, key: str) -> Entry | None:
        """The entry, which is not kept any more."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._bytes -= entry.size
        return entry

    def drain(self) -> Iterable[Entry]:
        """All of them; none is kept any more."""
        with self._lock:
            entries, self._entries, self._bytes = self._entries, OrderedDict(), 0
        return entries.values()
