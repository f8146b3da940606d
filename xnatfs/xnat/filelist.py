"""The files of one resource, packed: a listing of two million files has to fit beside everything else. Pure.

As objects of their own they would take 300 bytes each and keep the garbage collector busy. Here a file takes its path,
8 bytes for its size and 16 for its digest, and is a `FileRecord` only while somebody looks at it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import overload

from xnatfs.xnat.records import FileRecord

NO_DIGEST = hashlib.blake2b(b"no digest", digest_size=16).digest()
"""In place of a digest that the server does not have."""
_SEPARATOR = "\0"

Traits = tuple[str, str, str]
"""Format, content and tags; nearly always the same for all files of a resource."""


class FileList(Sequence[FileRecord]):
    """An immutable sequence of records that share ``base`` and ``resource_id``."""

    __slots__ = ("_count", "_digests", "_paths", "_plain", "_sizes", "_traits", "_which", "base", "resource_id")

    def __init__(
        self,
        base: str,
        resource_id: str,
        paths: list[str],
        sizes: array[int],
        digests: bytes,
        traits: Sequence[Traits],
        which: array[int] | None,
    ) -> None:
        """Columns of equal length: sizes in bytes, -1 for unknown; digests of 16 bytes, `NO_DIGEST` for none.

        ``which`` numbers each file's traits; None when all have the first ones.
        """
        self.base = base
        self.resource_id = resource_id
        self._count = len(paths)
        joined = _SEPARATOR.join(paths)
        self._paths = joined if joined.count(_SEPARATOR) == max(0, len(paths) - 1) else tuple(paths)
        self._sizes = sizes
        self._digests = digests
        self._traits = traits
        self._which = which
        self._plain: bool | None = None

    def __len__(self) -> int:
        return self._count

    def paths(self) -> Sequence[str]:
        """Every path, in order; made anew by each call."""
        if isinstance(self._paths, tuple):
            return self._paths
        return self._paths.split(_SEPARATOR) if self._count else []

    def at(self, place: int, path: str) -> FileRecord:
        """The record at a place whose path the caller knows; the paths are not looked at."""
        size = self._sizes[place]
        digest = self._digests[place * 16 : place * 16 + 16]
        format_, content, tags = self._traits[self._which[place] if self._which is not None else 0]
        return FileRecord(
            self.base,
            path,
            size if size >= 0 else None,
            digest.hex() if digest != NO_DIGEST else "",
            self.resource_id,
            format_,
            content,
            tags,
        )

    @property
    def plain(self) -> bool:
        """Are all paths names that can be shown as they are: short, ASCII, no folders, none that looks special?"""
        if self._plain is None:
            text = self._paths
            self._plain = (
                isinstance(text, str)
                and text.isascii()
                and not any(odd in text for odd in ("/", "%", "\0.", "\0\0"))
                and text[:1] not in ("", ".", _SEPARATOR)
                and text[-1:] != _SEPARATOR
                and max(map(len, self.paths())) < 256
            )
        return self._plain

    def brief(self, place: int) -> tuple[int, int]:
        """Size, -1 for unknown, and the first 12 hexadecimal digits of the digest as a number, 0 for none."""
        digest = self._digests[place * 16 : place * 16 + 16]
        return self._sizes[place], int.from_bytes(digest[:6], "big") if digest != NO_DIGEST else 0

    def __iter__(self) -> Iterator[FileRecord]:
        return starmap(self.at, enumerate(self.paths()))

    @overload
    def __getitem__(self, place: int) -> FileRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[FileRecord]: ...
    def __getitem__(self, place: int | slice) -> FileRecord | Sequence[FileRecord]:
        if isinstance(place, slice):
            return tuple(self)[place]
        place = range(self._count)[place]
        return self.at(place, self.paths()[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (FileList, tuple)) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._count} files below {self.base}>"


class FileListBuilder:
    """Collects the columns of one `FileList`, row by row."""

    __slots__ = ("_digests", "_numbers", "_paths", "_sizes", "_traits", "_which", "base", "resource_id")

    def __init__(self, base: str, resource_id: str) -> None:
        self.base = base
        self.resource_id = resource_id
        self._paths: list[str] = []
        self._sizes = array("q")
        self._digests = bytearray()
        self._traits: list[Traits] = []
        self._numbers: dict[Traits, int] = {}
        self._which: array[int] | None = None

    def add(self, path: str, size: int, digest: bytes, traits: Traits) -> None:
        """One more file; see `FileList` for size and digest. All or nothing."""
        number = self._numbers.get(traits)
        if number is None:
            number = self._number(traits)
        self._sizes.append(size)
        self._paths.append(path)
        self._digests += digest
        if self._which is not None:
            self._which.append(number)

    def extend(self, paths: list[str], sizes: list[str], digests: list[str], traits: Traits) -> None:
        """Many more files, as `add`: sizes as decimal digits or empty, digests in hex or empty.

        Raises `ValueError` or `TypeError`, and adds none, unless all are right.
        """
        joined = "".join(sizes)
        if joined and not (joined.isascii() and joined.isdigit() and max(map(len, sizes)) < 19):
            raise ValueError("a size that is no number")
        if all(digests):
            packed = bytes.fromhex("".join(digests))  # leaves out blanks
            if len(packed) != 16 * len(paths):
                raise ValueError("a digest that is none")
        else:
            parts = [bytes.fromhex(digest) if digest else NO_DIGEST for digest in digests]
            if any(len(part) != 16 for part in parts):
                raise ValueError("a digest that is none")
            packed = b"".join(parts)
        added = array("q", map(int, sizes) if all(sizes) else [int(size) if size else -1 for size in sizes])
        number = self._numbers.get(traits)
        if number is None:
            number = self._number(traits)
        self._sizes.extend(added)
        self._paths.extend(paths)
        self._digests += packed
        if self._which is not None:
            self._which.extend([number] * len(paths))

    def _number(self, traits: Traits) -> int:
        number = self._numbers[traits] = len(self._traits)
        self._traits.append(traits)
        if number == 1:
            self._which = array("L", bytes(array("L").itemsize * len(self._paths)))
        return number

    def __len__(self) -> int:
        return len(self._paths)

    def done(self) -> FileList:
        digests = bytes(self._digests)
        sizes = self._sizes[:]  # without the room to grow
        return FileList(self.base, self.resource_id, self._paths, sizes, digests, tuple(self._traits), self._which)


def paths_of(files: Sequence[FileRecord]) -> Sequence[str]:
    """The paths of a listing, packed or not."""
    return files.paths() if isinstance(files, FileList) else [file.path for file in files]


def record_at(files: Sequence[FileRecord], place: int, path: str) -> FileRecord:
    return files.at(place, path) if isinstance(files, FileList) else files[place]
