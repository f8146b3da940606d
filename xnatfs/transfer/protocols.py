"""What this package asks of others: a source of downloads, cache entries, and the resource that a file belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from xnatfs.deadlines import Deadline


class File(Protocol):
    """A file of the archive; handed back to the source as it is."""

    @property
    def path(self) -> str:
        """Raw text after ``/files/`` of its resource."""
        ...


class Download(Protocol):
    """A body that is arriving."""

    @property
    def start(self) -> int:
        """Offset in the file of the first byte: 0 when a Range was asked for and ignored."""
        ...

    @property
    def length(self) -> int | None:
        """Bytes in this body; None when the server did not say."""
        ...

    @property
    def last_modified(self) -> float | None: ...

    def readinto(self, buffer: memoryview) -> int:
        """Bytes put into the buffer, 0 at the end. Raises `Unreachable`, `TimedOut`; never ends before ``length``."""
        ...

    def close(self) -> None:
        """Give the connection back, or cut it when the body has not been read. From any thread, any number of times."""
        ...


class Source(Protocol):
    """Where bytes come from."""

    @property
    def ranges(self) -> bool | None:
        """Does the server honour Range? None: not known yet."""
        ...

    def open_stream(self, file: Any, start: int, stop: int, *, deadline: Deadline) -> Download:
        """Bytes ``start`` to ``stop`` (exclusive, at most the size) of a file."""
        ...

    def open_zip(self, resource_uri: str, *, deadline: Deadline) -> Download:
        """All files of a resource as one zip, of unknown length."""
        ...


class Entry(Protocol):
    """The local copy of one version of one file. A leaf: it never waits for anybody. Offsets and sizes in bytes."""

    @property
    def size(self) -> int: ...
    @property
    def complete(self) -> bool: ...

    def has(self, offset: int, size: int) -> bool:
        """Are these bytes there, and verified?"""
        ...

    def missing(self, first: int, last: int) -> Sequence[tuple[int, int]]:
        """Runs ``[a, b)`` within blocks ``[first, last)`` of those that are absent, and that nobody is writing."""
        ...

    def disown(self) -> None:
        """What is here is of a version that is no more; a `reset` follows."""
        ...

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:
        """Keep whole blocks from number ``block`` on; blocks that are there are skipped.

        Raises `ContentDamaged`, after emptying the entry, when they complete it and size or MD5 do not match.
        """
        ...

    def from_version(self, modified: float) -> bool:
        """Are the blocks that are here of the version of that date? Notes it where none is known. Raises nothing."""
        ...

    def reset(self) -> None:
        """Forget all blocks."""
        ...

    def retain(self) -> None:
        """One user more: the entry stays while a download fills it, though its last reader has closed."""
        ...

    def release(self) -> None:
        """One user less."""
        ...


class Member(Protocol):
    """One file of a resource, as its listing has it."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> str: ...

    def open_entry(self) -> Any:
        """Its `Entry`, with one user more; the same object for the same version."""
        ...


class Siblings(Protocol):
    """The resource that a file belongs to."""

    @property
    def key(self) -> str:
        """Equal for the files of one resource."""
        ...

    @property
    def resource_uri(self) -> str: ...

    def members(self) -> Sequence[Any]:
        """All its files (`Member`) in the order of the listing; cheap, no request."""
        ...
