"""Directories kept assembled, bounded by what they take; the listings that they come from are kept on their own.

Locks: one of each class, leaves. Reading needs none.
"""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from xnatfs.deadlines import Clock
from xnatfs.tree.directory import Directory, Later
from xnatfs.tree.nodes import Address, Level

LIMIT, OVERHEAD = 800_000, 16
"""Entries of all directories, and what a directory counts beside its own: the names of files count for nothing, since
they are in the listing, and in a table only for a while, see `Tables`."""


class Assembled:
    """See the module. Thread-safe."""

    def __init__(self, clock: Clock, limit: int = LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._held: dict[Address, Directory] = {}
        self._entries = 0
        self.forgotten = 0
        """How many times `forget` was called."""

    def get(self, address: Address) -> Directory | None:
        """A directory that still holds."""
        directory = self._held.get(address)
        return directory if directory is not None and directory.expires > self._clock() else None

    def keep(self, directory: Directory, since: int) -> None:
        """Keep a directory that was begun when ``forgotten`` was ``since``; those kept longest go first.

        If something was forgotten meanwhile it was assembled, at least in part, from that, and is not to be believed.
        """
        with self._lock:
            if since != self.forgotten:
                directory.expires = float("-inf")
                return
            self._drop(directory.node.address)
            self._entries += _weight(directory)
            self._held[directory.node.address] = directory
            while self._entries > self._limit and len(self._held) > 1:
                self._drop(next(iter(self._held)))

    def _drop(self, address: Address) -> None:
        before = self._held.pop(address, None)
        if before is not None:
            self._entries -= _weight(before)

    def forget(self) -> None:
        """Let go of all. They are not to be believed: faces keep snapshots of their own and look at ``expires``."""
        with self._lock:
            self.forgotten += 1
            for directory in self._held.values():
                directory.expires = float("-inf")
            self._held.clear()
            self._entries = 0


class Tables:
    """The tables of names that were made, bounded by their entries; those made longest ago are let go of first.

    A table is known here as long as its directory is: it holds the listing that it is made from.
    """

    def __init__(self, limit: int = 400_000) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._made: WeakValueDictionary[int, Later] = WeakValueDictionary()
        self._entries = 0
        """Those of tables that are gone included, until it is counted anew."""

    def made(self, table: Later) -> None:
        """Count a table that was just made. The largest one may be larger than all may be together."""
        with self._lock:
            if id(table) in self._made:
                return
            self._made[id(table)] = table
            self._entries += len(table)
            if self._entries > self._limit:
                self._let_go()

    def _let_go(self) -> None:
        """Count what is there, and drop so many that it need not be counted again soon. Lock held."""
        there = [*self._made.values()]
        self._entries = sum(map(len, there))
        most = self._limit if self._entries <= self._limit else self._limit * 7 // 8
        for oldest in there[:-1]:
            if self._entries <= most:
                break
            del self._made[id(oldest)]
            self._entries -= len(oldest)
            oldest.drop()


def _weight(directory: Directory) -> int:
    return OVERHEAD if directory.node.address.level in (Level.RESOURCE, Level.FOLDER) else len(directory) + OVERHEAD
