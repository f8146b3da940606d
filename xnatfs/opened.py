"""Open files: where their bytes stand locally, and how to make sure that they do.

Every open file has a local descriptor, so that a face can hand the kernel descriptor and offset: that of a cache
entry for a file of the archive, an anonymous one for a text that xnatfs made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from xnatfs.deadlines import Deadline
from xnatfs.errors import CacheFault, ContentChanged
from xnatfs.xnat.records import FileRecord


class OpenFile(Protocol):
    """One open file. ``version`` is equal for equal bytes; ``fileno`` is valid until `close`."""

    size: int
    version: str
    fileno: int

    def ready(self, offset: int, size: int, /) -> bool:
        """May these bytes be read from ``fileno`` right now? No I/O, no waiting, no exception."""
        ...

    def prepare(self, offset: int, size: int) -> int:
        """Wait until they may; how many bytes there are from ``offset`` on, at most ``size``. 0 at the end."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly the bytes of the file in that range, or an error."""
        ...

    def close(self) -> None: ...


def _exactly(fileno: int, offset: int, size: int) -> bytes:
    data = os.pread(fileno, size, offset)
    if len(data) != size:
        raise CacheFault(f"the cache holds {len(data)} of {size} bytes that it should")
    return data


class TextFile:
    """A text made by xnatfs, in memory."""

    def __init__(self, name: str, content: bytes, version: str) -> None:
        self.size = len(content)
        self.version = version
        self.fileno = os.memfd_create(name.encode("ascii", "replace").decode(), os.MFD_CLOEXEC)
        os.pwrite(self.fileno, content, 0)

    def ready(self, _offset: int, _size: int, /) -> bool:
        return True

    def prepare(self, offset: int, size: int) -> int:
        return max(0, min(size, self.size - offset))

    def read(self, offset: int, size: int) -> bytes:
        return _exactly(self.fileno, offset, self.prepare(offset, size))

    def close(self) -> None:
        os.close(self.fileno)


class Entry(Protocol):
    """What an open file asks of a cache entry."""

    @property
    def sound(self) -> bool:
        """Everything is there and was verified by this process."""
        ...

    @property
    def fileno(self) -> int: ...
    @property
    def label(self) -> str:
        """Tells parts that were never compared with the digest of the whole from others such, and from the whole."""
        ...

    def vouch(self, label: str) -> str | None:
        """The label of bytes that go out now; None where those that went out under ``label`` may not fit to them."""
        ...

    def recheck(self) -> bool:
        """Has nobody else changed the local copy? If somebody has, nothing of it is trusted any more. One fstat."""
        ...

    def release(self) -> None: ...


class Reader(Protocol):
    """What an open file asks of the transfer engine."""

    def ensure(self, offset: int, size: int, deadline: Deadline) -> None: ...
    def close(self) -> None: ...


class ArchiveFile:
    """A file of the archive: a pinned cache entry and a reader that fetches what the entry lacks."""

    def __init__(
        self, size: int, version: str, entry: Entry, reader: Reader, new_deadline: Callable[[], Deadline]
    ) -> None:
        self.size = size
        self._label = entry.label
        # pages that the kernel has of parts that were never verified as a whole must not become part of one
        self.version = f"{version}:{self._label}"
        self.fileno = entry.fileno
        self._entry = entry
        self._reader = reader
        self._new_deadline = new_deadline

    def ready(self, _offset: int, _size: int, /) -> bool:
        # Not asked block by block: while a file is arriving the reader has to see every read, it learns from them.
        return self._entry.sound and self._entry.label == self._label

    def prepare(self, offset: int, size: int) -> int:
        length = max(0, min(size, self.size - offset))
        if length:
            if self._entry.sound:  # then who asks has no other reason than a read that came out short
                self._entry.recheck()
            self._reader.ensure(offset, length, self._new_deadline())
            # also for who has read nothing yet: the kernel may have given it pages that others have read
            label = self._entry.vouch(self._label)
            if label is None:
                raise ContentChanged("what was read so far does not match the listing; open it again")
            self._label = label
        return length

    def read(self, offset: int, size: int) -> bytes:
        length = self.prepare(offset, size)
        return _exactly(self.fileno, offset, length)

    def close(self) -> None:
        self._reader.close()
        self._entry.release()


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a resource, as the archive of the whole resource will bring it."""

    path: str
    size: int
    digest: str
    file: FileRecord
    open_entry: Callable[[], Entry]

    @classmethod
    def of(cls, file: FileRecord, size: int, open_entry: Callable[[], Entry]) -> Member:
        """A listed file; ``size`` in bytes, which the listing need not have."""
        return cls(file.path, size, file.digest, file, open_entry)


class Siblings:
    """The resource that a file belongs to, for a transfer engine that may fetch it whole."""

    def __init__(self, key: str, resource_uri: str, members: Callable[[], Sequence[Member]]) -> None:
        self.key = key
        self.resource_uri = resource_uri
        self.members = members

    @classmethod
    def of(cls, file: FileRecord, members: Callable[[], Sequence[Member]]) -> Siblings:
        """The resource of a listed file."""
        uri = file.base.removesuffix("/files/")
        return cls(uri, uri, members)
