"""Where fetched files go: the file cache, or a directory that is laid out as the mount is (`xnatfs.getting.Target`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.disk import Disk
from xnatfs.cache.identity import Identity, key_of
from xnatfs.cache.store import Store
from xnatfs.destination import Destination
from xnatfs.errors import CacheFault, ContentDamaged
from xnatfs.getting import Item

PIECE = 64 * BLOCK
"""Bytes copied at a time."""


def identity(item: Item) -> Identity:
    """Under which a file is in the cache: the same as when `xnatfs.vfs.Vfs` opens it."""
    return Identity.of(item.node.record, item.size, item.node.stamp)


class ToCache:
    """The part of the file cache that is one server's and user's, its ``namespace``."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._disk = Disk(store.root, namespace)

    def key(self, item: Item) -> str:
        """The name of its entry."""
        return key_of(self._namespace, identity(item))

    def holds(self, item: Item) -> bool:
        if item.size and not self._disk.path(self.key(item)).exists():
            return False  # opening it would make it
        entry = self.entry(item)
        try:
            return self.keeps(entry)
        finally:
            entry.release()

    def take(self, _item: Item) -> bool:
        return False

    def entry(self, item: Item) -> Any:
        return self._store.open(identity(item))

    def keeps(self, entry: Any) -> bool:
        return bool(entry.complete) and (not entry.private or not entry.size)

    def copy(self, item: Item, to: Any) -> None:
        """Write a file that is here to another entry, as far as it is whole and sound."""
        entry = self.entry(item)
        try:
            for offset in range(0, item.size if entry.complete else 0, PIECE):
                size = min(PIECE, item.size - offset)
                if not entry.has(offset, size):
                    break
                to.write(offset // BLOCK, os.pread(entry.fileno, size, offset))
        finally:
            entry.release()


class ToDirectory:
    """A directory. What the cache has whole is copied from there; nothing is added to the cache."""

    def __init__(self, destination: Destination, below: Callable[[str], str], cache: ToCache | None = None) -> None:
        """``below`` makes the path in the destination from that in the mount."""
        self._destination = destination
        self._below = below
        self._cache = cache

    def holds(self, item: Item) -> bool:
        return self._destination.holds(self._below(item.path), item.size, item.node.record.digest)

    def take(self, item: Item) -> bool:
        """From the cache."""
        if self._cache is None or not item.size or not self._cache.holds(item):
            return False
        entry = self.entry(item)
        try:
            self._cache.copy(item, entry)
        except (CacheFault, ContentDamaged):  # then it is fetched, which says what cannot be done
            pass
        finally:
            entry.release()
        return bool(entry.complete)

    def entry(self, item: Item) -> Any:
        node = item.node
        return self._destination.part(self._below(item.path), item.size, node.record.digest, node.mtime_ns)

    def keeps(self, entry: Any) -> bool:
        return bool(entry.complete)
