"""What the kernel is told about a file, and what it remembers of it: modes and owners, pages and sizes."""

from __future__ import annotations

import itertools
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from xnatfs.tree.nodes import Attributes, Kind

NAME_MAX = 255
"""Bytes of a name, as the C library has it; the kernel passes on FUSE names of up to 1024."""
IO_SIZE = 16 * 1024
"""Bytes that st_blksize recommends, which is what buffered readers (Python's, the C library's) then read at a time.
Enough for the header of any format; who wants all of a file asks for more, and tells himself apart by that."""


@dataclass(frozen=True)
class Look:
    """Whom the files belong to and which permission bits are taken away: what stat shows beside `Attributes`."""

    uid: int
    gid: int
    umask: int = 0

    def mode(self, kind: Kind) -> int:
        if kind is Kind.DIRECTORY:
            return stat.S_IFDIR | (0o555 & ~self.umask)
        if kind is Kind.LINK:
            return stat.S_IFLNK | 0o777  # means nothing for a link, and is what every other file system shows
        return stat.S_IFREG | (0o444 & ~self.umask)

    def fields(self, attributes: Attributes) -> dict[str, int]:
        """A ``struct stat`` as fusepy takes it; times in nanoseconds."""
        return {
            "st_mode": self.mode(attributes.kind),
            "st_ino": attributes.ino,
            "st_nlink": 2 if attributes.kind is Kind.DIRECTORY else 1,
            "st_uid": self.uid,
            "st_gid": self.gid,
            "st_size": attributes.size,
            "st_blocks": (attributes.size + 511) // 512,
            "st_blksize": IO_SIZE,
            "st_atime": attributes.mtime_ns,
            "st_mtime": attributes.mtime_ns,
            "st_ctime": attributes.mtime_ns,
        }


Path = str | bytes
"""Any one form of path; this module only compares them."""


class Pages(Enum):
    """What the kernel shall do with the pages that it has of a file when that file is opened."""

    KEEP = "keep"
    DROP = "drop"
    BYPASS = "bypass"
    AGAIN = "again"
    """It believes another size, and must look the file up again before this one can be opened."""
    IN_USE = "in use"
    """A version of another size is being read: this one cannot be opened."""


SETTLED = 5.0
"""Seconds after which an answer that was given has surely been read by the kernel."""


@dataclass(slots=True)
class _Change:
    """Another size than before was told a moment ago: to whom, and when first."""

    since: float
    callers: set[int]


@dataclass(slots=True)
class _Cached:
    version: str
    size: int
    handles: int
    alone: bool = False
    """The kernel has dropped the pages of the version before; until that is known, it must be told so each time."""


class PageCache:
    """Which version of each path the kernel's page cache may hold, and which size the kernel believes.

    libfuse2 has one set of pages and one size per path. So pages are kept for the version that they came from and
    dropped when another version is opened. While readers of another version of the same size still use them, a reader
    goes past the page cache, else one would see the other's bytes. While readers of a version of another size do, that
    size stands, and nobody else opens the file: he would see his bytes under a size that is not theirs, which copies
    that go by the size cut short.

    Answers overtake one another: somebody who is told to keep the pages may be at them before the kernel has read the
    answer to drop those of the version before. It has when it sends a read, or a release, of the file opened with it.
    Likewise a new size that somebody was told a moment ago is known to the kernel when he comes back, and not before.
    """

    def __init__(self, limit: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._changes: dict[Path, _Change] = {}
        self._lock = threading.Lock()  # leaf
        self._cached: OrderedDict[Path, _Cached] = OrderedDict()
        self._told: dict[Path, int] = {}

    def tell(self, path: Path, size: int, caller: Callable[[], int] = lambda: 0) -> int:
        """The size that stat shall show for a file that is ``size`` bytes long now. Called for each stat: no lock.

        ``caller`` gives the thread that is told, as the kernel numbers it; asked where it matters.
        """
        cached = self._cached.get(path)
        if cached is not None and cached.handles:
            size = cached.size
        if self._told.get(path, size) != size:
            self._note(path, caller())
        elif (change := self._change(path)) is not None:
            change.callers.add(caller())
        self._told[path] = size
        if len(self._told) > self._limit:
            with self._lock:
                for oldest in list(itertools.islice(self._told, self._limit // 10)):
                    self._told.pop(oldest, None)
        return size

    def settling(self, path: Path) -> bool:
        """Was another size told a moment ago? Who has not been told it himself may not be answered from memory."""
        return self._change(path) is not None

    def _change(self, path: Path) -> _Change | None:
        change = self._changes.get(path)
        if change is not None and self._clock() - change.since >= SETTLED:
            self._changes.pop(path, None)
            return None
        return change

    def _note(self, path: Path, caller: int) -> None:
        if len(self._changes) >= self._limit:  # of a whole archive, in a few seconds: those not asked for again
            with self._lock:
                for old in list(self._changes):
                    self._change(old)
        self._changes[path] = _Change(self._clock(), {caller})

    def opened(self, path: Path, version: str, size: int, caller: Callable[[], int] = lambda: 0) -> Pages:
        """What to do for a file just opened. KEEP and DROP need `closed` later, DROP `used` as well."""
        with self._lock:
            cached = self._cached.get(path)
            used = cached is not None and cached.handles > 0
            if used and cached is not None and cached.size != size:
                return Pages.IN_USE
            if self._told.get(path, size) != size:
                return Pages.AGAIN
            change = self._change(path)
            if change is not None and caller() not in change.callers:
                return Pages.AGAIN
            if cached is not None and (cached.version, cached.size) == (version, size):
                cached.handles += 1
                return Pages.KEEP if cached.alone else Pages.DROP
            if used:
                return Pages.BYPASS
            self._cached[path] = _Cached(version, size, 1)
            self._cached.move_to_end(path)
            self._shrink()
            return Pages.DROP

    def used(self, path: Path) -> None:
        """The kernel sends a read of a file that was opened by DROP: it has dropped the pages."""
        with self._lock:
            cached = self._cached.get(path)
            if cached is not None:
                cached.alone = True

    def closed(self, path: Path) -> None:
        with self._lock:
            cached = self._cached.get(path)
            if cached is not None:
                cached.handles -= 1
                cached.alone = True

    def _shrink(self) -> None:
        """Forgets the path unused longest; a path in use is moved out of the way, for it will be forgotten later."""
        while len(self._cached) > self._limit:
            path, cached = next(iter(self._cached.items()))
            if cached.handles:
                self._cached.move_to_end(path)
                return
            del self._cached[path]
