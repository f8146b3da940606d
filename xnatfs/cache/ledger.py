"""How much is in the cache, counted by all processes together in one small file, so that nobody has to look.

::

    magic "XNATFSUS" | added u64 | removed u64 | made u64 | gone u64 | swept f64 | CRC-32 of all that u32

`added` and `removed` are bytes, `made` and `gone` entries; what is there is the difference. They only ever grow, and
that is what lets a count of the real files, which takes a while, be compared with them (`settle`). A process that is
killed leaves at most what it was about to write too much in the books; the next count puts that right.

A read-modify-write under an flock: some system calls, some microseconds. The lock of this process (a leaf) is held
across them, since an flock does not keep threads apart. A process that is stopped in the middle must not stop the
others: after a tenth of a second they go on without the lock, since a wrong count is harmless and passes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from xnatfs.cache.disk import leads_to

_MAGIC = b"XNATFSUS"
_BODY = struct.Struct("<8sQQQQd")
_CRC = struct.Struct("<I")
_SIZE = _BODY.size + _CRC.size
_TRIES, _PAUSE = 200, 0.0005


@dataclass(frozen=True, slots=True)
class Counts:
    added: int = 0
    removed: int = 0
    made: int = 0
    gone: int = 0
    swept: float = 0.0
    """When the files were last counted, in seconds since the epoch; 0 for never."""

    @property
    def bytes(self) -> int:
        return max(0, self.added - self.removed)

    @property
    def entries(self) -> int:
        return max(0, self.made - self.gone)


class Ledger:
    """The shared counters in the file ``path``. Every call raises OSError when the file cannot be used."""

    def __init__(self, path: Path, sleep: Callable[[float], object] = time.sleep) -> None:
        self._path = path
        self._sleep = sleep
        self._lock = threading.Lock()
        self._fd: int | None = None

    def read(self) -> Counts | None:
        """The counters; None when there are none yet, or they are damaged."""
        with self._locked() as fd:
            return _load(fd)

    def begin(self, counts: Counts) -> None:
        """Have books, with these counts; those that are there, damaged or not, end here."""
        with self._locked() as fd:
            _store(fd, counts)

    def take(self, amount: int, limit: int, *, book: bool = True, made: int = 0) -> int | None:
        """Book ``amount`` bytes that are about to be written, to ``made`` new entries, unless that exceeds ``limit``.

        Returns how many bytes are in the way; 0 when none are, and the amount is booked (or only could be). None when
        there are no books, or they are damaged: they have to `begin` with what is there.
        """
        with self._locked() as fd:
            counts = _load(fd)
            if counts is None:
                return None
            lacking = counts.bytes + amount - limit
            if lacking <= 0 and book:
                _store(fd, replace(counts, added=counts.added + amount, made=counts.made + made))
            return max(0, lacking)

    def book(self, *, added: int = 0, removed: int = 0, made: int = 0, gone: int = 0) -> None:
        """Book what has happened. Without books nothing: they would begin with a count that is far too low."""
        with self._locked() as fd:
            counts = _load(fd)
            if counts is not None:
                sums = counts.added + added, counts.removed + removed, counts.made + made, counts.gone + gone
                _store(fd, Counts(*sums, counts.swept))

    def settle(self, size: int, entries: int, before: Counts, now: float) -> None:
        """The files were counted: ``size`` bytes, ``entries`` entries; ``before`` are the counters when that began.

        What was written or removed while the count was under way may or may not be in it. So the truth lies between
        the count less what was removed and the count plus what was added; the books are changed only as far as they
        are outside of that. If nothing happened meanwhile, the count is exact.
        """
        with self._locked() as fd:
            counts = _load(fd) or before
            held = _within(counts.bytes, size, counts.removed - before.removed, counts.added - before.added)
            there = _within(counts.entries, entries, counts.gone - before.gone, counts.made - before.made)
            _store(fd, Counts(counts.removed + held, counts.removed, counts.gone + there, counts.gone, now))

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with self._lock:
            # the directory may have been removed, or another put there
            if self._fd is not None and not leads_to(self._path, self._fd):
                os.close(self._fd)
                self._fd = None
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            self._try_lock(self._fd)
            try:
                yield self._fd
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _try_lock(self, fd: int) -> None:
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self._sleep(_PAUSE)


def _within(value: int, counted: int, less: int, more: int) -> int:
    return max(0, min(max(value, counted - less), counted + more))


def _load(fd: int) -> Counts | None:
    raw = os.pread(fd, _SIZE, 0)
    if len(raw) != _SIZE or _CRC.unpack(raw[_BODY.size :])[0] != zlib.crc32(raw[: _BODY.size]):
        return None
    magic, *numbers = _BODY.unpack(raw[: _BODY.size])
    return Counts(*numbers) if magic == _MAGIC else None


def _store(fd: int, counts: Counts) -> None:
    body = _BODY.pack(_MAGIC, counts.added, counts.removed, counts.made, counts.gone, counts.swept)
    if os.pwrite(fd, body + _CRC.pack(zlib.crc32(body)), 0) != _SIZE:
        raise OSError("short write to the books")
