"""Stand-ins for what `xnatfs.transfer` is given: entries in memory, a source whose bytes come under a test's control.

Nothing here sleeps: a download that may not go on waits on a condition, and `FakeSource.until` waits for what a test
wants to see.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from xnatfs.cache.blocks import BLOCK, block_count, block_length, block_range
from xnatfs.deadlines import Deadline
from xnatfs.errors import ContentDamaged, NotFound, Unreachable

PATIENCE = 20.0
"""Seconds after which a test that waits in vain fails."""


@lru_cache(maxsize=64)
def content(size: int, seed: int = 0) -> bytes:
    """Bytes in which every 8 say where they stand."""
    return array("Q", range(seed << 40, (seed << 40) + -(-size // 8))).tobytes()[:size]


@lru_cache(maxsize=256)
def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def until(true: Callable[[], bool], what: str = "") -> None:
    """Wait for something that another thread brings about."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.002)):
        if true():
            return
        pause.wait(0.002)
    raise AssertionError(f"never happened: {what or true}")


class Clock:
    """Ticked by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for listener in self.listeners:
            listener()


@dataclass(frozen=True)
class FakeFile:
    path: str


class FakeEntry:
    """A cache entry in memory, with the promises of the real one."""

    def __init__(self, size: int, digest: str = "", key: str = "") -> None:
        self.key = key
        self.size = size
        self.data = bytearray(size)
        self.present: set[int] = set()
        self.complete = size == 0
        self.users = 1
        self.resets = 0
        self.writes = 0
        self._digest = digest
        self._lock = threading.Lock()

    def has(self, offset: int, size: int) -> bool:
        first, last = block_range(offset, min(size, self.size - offset))
        with self._lock:
            return all(number in self.present for number in range(first, last))

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        with self._lock:
            for number in range(first, min(last, block_count(self.size))):
                if number in self.present:
                    continue
                if runs and runs[-1][1] == number:
                    runs[-1] = (runs[-1][0], number + 1)
                else:
                    runs.append((number, number + 1))
        return runs

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:
        assert self.users > 0, "written to after the last release"
        view = memoryview(data)
        with self._lock:
            self.writes += 1
            if len(view) == self.size and self.present and not self._digest:
                return
            at = 0
            fresh = []
            while at < len(view):
                length = block_length(self.size, block)
                piece = bytes(view[at : at + length])
                assert len(piece) == length, "not whole blocks"
                if block not in self.present:
                    self.data[block * BLOCK : block * BLOCK + length] = piece
                    fresh.append(block)
                at += length
                block += 1
            if len(self.present) + len(fresh) == block_count(self.size):
                if self._digest and hashlib.md5(self.data).hexdigest() != self._digest:
                    self.present.clear()
                    raise ContentDamaged("the bytes do not match the digest")
                self.complete = True
            self.present.update(fresh)

    def from_version(self, modified: float) -> bool:
        return True

    def disown(self) -> None:
        pass

    def reset(self) -> None:
        with self._lock:
            self.resets += 1
            self.present.clear()
            self.complete = self.size == 0

    def retain(self) -> None:
        with self._lock:
            assert self.users > 0
            self.users += 1

    def release(self) -> None:
        with self._lock:
            self.users -= 1
            assert self.users >= 0

    def read(self, offset: int, size: int) -> bytes:
        assert self.has(offset, size), "read what is not there"
        return bytes(self.data[offset : offset + size])


@dataclass(eq=False)
class FakeDownload:
    """A body. ``granted``: bytes that may come by now, None for all; ``cut``: where the connection breaks."""

    source: FakeSource
    path: str
    body: memoryview
    start: int
    length: int | None
    last_modified: float | None = None
    granted: int | None = None
    cut: int | None = None
    error: type[Exception] = Unreachable
    moved: int = 0
    closed: bool = False
    waiting: bool = False
    piece: int = 1 << 30

    def readinto(self, buffer: memoryview) -> int:
        with self.source.changed:
            while True:
                if self.closed:
                    raise Unreachable("closed by this side")
                if self.cut is not None and self.moved >= self.cut:
                    raise self.error(f"cut at {self.moved}")
                if self.granted is None or self.granted > self.moved or self.moved == len(self.body):
                    break
                self.waiting = True
                self.source.changed.notify_all()
                self.source.changed.wait(PATIENCE)
            self.waiting = False
            count = min(len(buffer), len(self.body) - self.moved, self.piece)
            if self.granted is not None:
                count = min(count, self.granted - self.moved)
            if self.cut is not None:
                count = min(count, self.cut - self.moved)
            buffer[:count] = self.body[self.moved : self.moved + count]
            self.moved += count
            self.source.changed.notify_all()
            return count

    def close(self) -> None:
        with self.source.changed:
            self.closed = True
            self.source.changed.notify_all()

    def grant(self, amount: int | None) -> None:
        """Let so many bytes come by in all; None: all."""
        with self.source.changed:
            self.granted = amount
            self.source.changed.notify_all()


@dataclass(eq=False)
class FakeSource:
    """Files by path, resources by URI. ``honours``: Range; ``ranges`` is what is known of that."""

    files: dict[str, bytes] = field(default_factory=dict)
    zips: dict[str, bytes] = field(default_factory=dict)
    honours: bool = True
    ranges: bool | None = True
    granted: int | None = None
    """For downloads to come."""
    zip_granted: int | None = None
    tells_length: bool = True
    piece: int = 1 << 30
    prepare: Callable[[FakeDownload], None] = lambda download: None
    """Called with every download before it is handed out; may raise."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.downloads: list[FakeDownload] = []
        self.asked: list[tuple[str, int, int]] = []
        self.opening = threading.Event()
        self.opening.set()
        """Clear it, and no answer begins."""

    @property
    def archives(self) -> list[FakeDownload]:
        return [download for download in self.downloads if download.path in self.zips]

    @property
    def singles(self) -> list[FakeDownload]:
        return [download for download in self.downloads if download.path not in self.zips]

    def open_stream(self, file: FakeFile, start: int, stop: int, *, deadline: Deadline) -> FakeDownload:
        data = self.files.get(file.path)
        with self.changed:
            self.asked.append((file.path, start, stop))
            self.changed.notify_all()
        assert self.opening.wait(PATIENCE)
        if data is None:
            raise NotFound(f"{file.path}: no such file")
        partial = (start, stop) != (0, len(data))
        if partial:
            self.ranges = self.honours
            if not self.honours:
                start, stop = 0, len(data)
        body = memoryview(data)[start:stop]
        length = len(body) if self.tells_length else None
        return self._hand_out(FakeDownload(self, file.path, body, start, length, granted=self.granted))

    def open_zip(self, resource_uri: str, *, deadline: Deadline) -> FakeDownload:
        with self.changed:
            self.asked.append((resource_uri, 0, 0))
            self.changed.notify_all()
        assert self.opening.wait(PATIENCE)
        if resource_uri not in self.zips:
            raise NotFound(f"{resource_uri}: nothing to send")
        body = memoryview(self.zips[resource_uri])
        return self._hand_out(FakeDownload(self, resource_uri, body, 0, None, granted=self.zip_granted))

    def _hand_out(self, download: FakeDownload) -> FakeDownload:
        download.piece = self.piece
        self.prepare(download)
        with self.changed:
            self.downloads.append(download)
            self.changed.notify_all()
        return download

    def until(self, true: Callable[[], bool], what: str = "") -> None:
        """Wait for something that this source sees."""
        with self.changed:
            assert self.changed.wait_for(true, PATIENCE), f"never happened: {what}"

    @property
    def moved(self) -> int:
        """Bytes handed out in all."""
        return sum(download.moved for download in self.downloads)


@dataclass
class FakeMember:
    path: str
    size: int
    digest: str
    file: FakeFile
    open_entry: Callable[[], FakeEntry]


class FakeResource:
    """A resource: its files' bytes, their entries, and itself as `Siblings`."""

    def __init__(self, files: dict[str, bytes], uri: str = "/experiments/E/scans/1/resources/9", digests: bool = True):
        self.files = files
        self.key = self.resource_uri = uri
        self.entries = {path: FakeEntry(len(data), md5(data) if digests else "", path) for path, data in files.items()}
        self._digests = digests

    def members(self) -> list[FakeMember]:
        return [
            FakeMember(path, len(data), self.entries[path]._digest, FakeFile(path), self._opener(path))
            for path, data in self.files.items()
        ]

    def _opener(self, path: str) -> Callable[[], FakeEntry]:
        def open_entry() -> FakeEntry:
            self.entries[path].retain()
            return self.entries[path]

        return open_entry

    def zip(self, prefix: str = "S1/scans/1-T1/resources/DICOM/files/", order: Iterable[str] | None = None) -> bytes:
        """Its archive."""
        return zip_of((prefix + path, self.files[path]) for path in (order if order is not None else self.files))


def zip_of(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()
