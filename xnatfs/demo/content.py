"""The bytes of a stored file: in memory, made on demand, on disk, or computed from a pattern.

A content never changes; a changed file gets another content. All of them may be used from several threads.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

CHUNK = 256 * 1024
"""Bytes a piece when a body is read in pieces."""


class Content:
    """A fixed sequence of bytes. Subclasses give `size` and `read`; digests are computed once and kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._md5: str | None = None
        self._crc32: int | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """True when size and bytes are at hand without work that would hold up an event loop."""
        return True

    @property
    def path(self) -> Path | None:
        """Where the bytes lie on this machine's disk; None if they do not."""
        return None

    @property
    def modified(self) -> datetime | None:
        """When the bytes on disk were last changed; None for those that never are."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end."""
        raise NotImplementedError

    def chunks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``offset`` on, in pieces of at most `CHUNK`."""
        stop = self.size if length is None else min(self.size, offset + length)
        while offset < stop:
            piece = self.read(offset, min(CHUNK, stop - offset))
            if not piece:
                return
            yield piece
            offset += len(piece)

    @property
    def md5(self) -> str:
        """Lower-case hex MD5 of the bytes."""
        if self._md5 is None:
            with self._lock:
                if self._md5 is None:
                    digest = hashlib.md5(usedforsecurity=False)
                    for piece in self.chunks():
                        digest.update(piece)
                    self._md5 = digest.hexdigest()
        return self._md5

    @property
    def crc32(self) -> int:
        """CRC-32 of the bytes, as a zip member's header wants it."""
        if self._crc32 is None:
            with self._lock:
                if self._crc32 is None:
                    crc = 0
                    for piece in self.chunks():
                        crc = zlib.crc32(piece, crc)
                    self._crc32 = crc
        return self._crc32


class Bytes(Content):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


class Lazy(Content):
    """Bytes that a function makes when they are first wanted; kept in memory from then on.

    ``size`` may be told in advance by a function of its own, so that listings cost nothing; the bytes must then
    have that length.
    """

    def __init__(self, make: Callable[[], bytes], size: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._make = make
        self._size = size
        self._data: bytes | None = None
        self._making = threading.Lock()

    @property
    def data(self) -> bytes:
        if self._data is None:
            with self._making:
                if self._data is None:
                    data = self._make()
                    if self._size is not None and len(data) != self._size():
                        raise AssertionError(f"made {len(data)} bytes, announced {self._size()}")
                    self._data = data
        return self._data

    @property
    def ready(self) -> bool:
        return self._data is not None

    @property
    def size(self) -> int:
        if self._data is None and self._size is not None:
            return self._size()
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class OnDisk(Content):
    """A file of this machine; size and digest are those of the moment they are asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._stamp: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size(self) -> int:
        return self._path.stat().st_size

    @property
    def modified(self) -> datetime | None:
        return datetime.fromtimestamp(self._path.stat().st_mtime, timezone.utc)

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def chunks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        left = self.size - offset if length is None else length
        with self._path.open("rb") as file:
            file.seek(offset)
            while left > 0 and (piece := file.read(min(CHUNK, left))):
                yield piece
                left -= len(piece)

    def _forget_if_changed(self) -> None:
        status = self._path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if stamp != self._stamp:
            self._md5 = self._crc32 = None
            self._stamp = stamp

    @property
    def md5(self) -> str:
        self._forget_if_changed()
        return super().md5

    @property
    def crc32(self) -> int:
        self._forget_if_changed()
        return super().crc32


_PERIOD = 1_048_583
"""A prime, so that no two blocks of a power of two length at different offsets of one big file are equal."""
_pattern: bytes = b""
_pattern_lock = threading.Lock()


def _base() -> bytes:
    global _pattern
    with _pattern_lock:
        if not _pattern:
            # Twice the period: any window shorter than a period is then one slice.
            _pattern = random.Random(20240618).randbytes(_PERIOD) * 2  # noqa: S311 - test data, no secret
        return _pattern


class Pattern(Content):
    """``size`` bytes computed from a seed, for files of any size at no cost: different seeds give different bytes."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self._length = size
        self._shift = seed * 7919 % _PERIOD

    @property
    def size(self) -> int:
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self._length - offset)
        if length <= 0:
            return b""
        base, start = _base(), (offset + self._shift) % _PERIOD
        if length <= _PERIOD:
            return base[start : start + length]
        turns = (start + length) // _PERIOD + 1
        return (base[:_PERIOD] * turns)[start : start + length]
