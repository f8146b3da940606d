"""The open file of an entry, and what an entry asks of the store that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from xnatfs.cache.hashing import Buffers

if TYPE_CHECKING:
    from xnatfs.cache.entry import Entry

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
        """The entry is private from now on: give up its file in the store."""

    def damaged(self, entry: Entry, blocks: int) -> None:
        """Blocks were found damaged and have been dropped."""

    def later(self, work: Callable[[], None]) -> None:
        """Do this on the helper thread."""

    def retain(self, entry: Entry) -> None:
        """One user more."""

    def release(self, entry: Entry) -> None:
        """One user less."""
