"""The open file of an entry, blocks into and out of it, and what an entry asks of the store that it belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.hashing import Buffers

if TYPE_CHECKING:
    from xnatfs.cache.entry import Entry

Runs = list[tuple[int, int]]
"""Blocks ``[a, b)``."""
Stamp = tuple[int, int, int]
"""Size, time of change in nanoseconds, inode."""
Place = Literal["store", "temp", "memory"]
"""Where a file is: in the cache directory, in the system's temporary directory, in memory."""


@dataclass(slots=True)
class Files:
    """The open file of an entry, and what it is. Changed only under `Entry._append`."""

    fd: int
    """Descriptor; stays the same number for the entry's life."""
    kept: bool
    """A locked file with an index, in the cache; False for a private one, which is unlinked and has no index."""
    exclusive: bool
    """False when the file is only locked for reading: then nothing may be written."""
    place: Place = "store"


class Host(Protocol):
    """What an entry asks of the store that it belongs to. Every call may do I/O; none is made holding `_lock`."""

    buffers: Buffers

    def reserve(self, entry: Entry, amount: int) -> bool:
        """Make room for ``amount`` bytes. False: there is none to be had."""

    def recover(self, entry: Entry, error: OSError, amount: int, *, again: bool) -> bool:
        """A write failed, perhaps again. True: something was done about it, try once more."""

    def private_file(self, size: int) -> tuple[int, Place]:
        """A new unlinked file of ``size`` bytes outside the store, and where it is. Raises CacheFault."""

    def make_writable(self, entry: Entry) -> bool:
        """Turn a lock shared with other processes into one of our own. False: others are using the file."""

    def abandon(self, entry: Entry) -> None:
        """The entry is outside the store from now on: give up its file there, or the room that it had there."""

    def damaged(self, entry: Entry, blocks: int) -> None:
        """Blocks were found damaged and have been dropped."""

    def later(self, work: Callable[[], None]) -> None:
        """Do this on the helper thread."""

    def retain(self, entry: Entry) -> None:
        """One user more."""

    def release(self, entry: Entry) -> None:
        """One user less."""


def stamp_of(fd: int) -> Stamp:
    """What changes when somebody changes the file. Raises OSError."""
    info = os.fstat(fd)
    return info.st_size, info.st_mtime_ns, info.st_ino


def put_blocks(fd: int, data: memoryview, first: int, runs: Runs) -> None:
    """Write those ``runs`` of blocks of ``data``, which begins with block ``first``. Raises OSError."""
    for a, b in runs:
        at, end = (a - first) * BLOCK, min((b - first) * BLOCK, len(data))
        while at < end:
            at += os.pwrite(fd, data[at:end], first * BLOCK + at)


def copy_blocks(source: int, target: int, runs: Runs, size: int, buffers: Buffers) -> None:
    """Copy blocks of a file of ``size`` bytes to the same places of another; a hole where it ends early. OSError."""
    buffer = buffers.take()
    view = memoryview(buffer)
    try:
        for a, b in runs:
            at, end = a * BLOCK, min(b * BLOCK, size)
            while at < end:
                got = os.preadv(source, [view[: min(len(view), end - at)]], at)
                if got == 0:
                    break  # cut short by somebody: its checksum will tell
                at += os.pwrite(target, view[:got], at)
    finally:
        view.release()
        buffers.give(buffer)
