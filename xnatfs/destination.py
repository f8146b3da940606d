"""Files on their way into an ordinary directory: nothing stands under its own name before all of it was verified.

A file is written beside its place, under a name that is no file's (``.xnatfs-….part``), and renamed when size and,
where the listing has one, digest are right. What is left of a large file with a digest, when a copy is interrupted,
is where the next one goes on; other leftovers are removed.

There is no fsync: after a power loss a file may be short or empty under its name, and the next ``get`` finds that out
and fetches it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xnatfs.cache.blocks import BLOCK, Blocks
from xnatfs.cache.disk import flock, leads_to
from xnatfs.cache.hashing import Buffers, FollowingHash, digest_of, usable_digest
from xnatfs.errors import CacheFault, ContentDamaged

WORTH_KEEPING = 8 * 1024 * 1024
"""Bytes of an unfinished file from which on it is kept for the next run."""

_HASHED = 1024 * 1024


class Destination:
    """A directory that files are copied into. Any thread may call anything.

    ``_lock`` guards ``_made``; held while a directory is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._buffers = Buffers()
        self._lock = threading.Lock()
        self._made: set[Path] = set()

    def place(self, path: str) -> Path:
        """Where a file of that relative path goes. Raises CacheFault for one that would lie elsewhere."""
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise CacheFault(f"{path!r} is no path below {self.root}")
        return self.root.joinpath(*parts)

    def holds(self, path: str, size: int, digest: str) -> bool:
        """Is the file there, and right? Reads all of it if there is a digest to compare."""
        place, digest = self.place(path), usable_digest(digest)
        try:
            with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode) or info.st_size != size:
                    return False
                if not digest:
                    return True
                following = FollowingHash(file.fileno(), digest, self._buffers)
                return following.matches(size)
        except OSError:  # whatever it is, it is not the file; writing it will tell if nothing can be done about that
            return False

    def size(self, path: str) -> int | None:
        """Bytes of the file that is there; None when there is none."""
        try:
            info = self.place(path).stat(follow_symlinks=False)
        except OSError:
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def part(self, path: str, size: int, digest: str, mtime_ns: int) -> PartFile:
        """The file to be filled. Raises CacheFault."""
        place = self.place(path)
        with _local(place):
            self._make(place.parent)
            return PartFile(place, size, usable_digest(digest), mtime_ns, self._buffers)

    def free(self) -> int:
        """Bytes that there is room for."""
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        disk = os.statvfs(there)
        return disk.f_bavail * disk.f_frsize

    def _make(self, folder: Path) -> None:
        """Make a directory and those above it. A link that leads out of the destination is not followed."""
        with self._lock:
            if folder in self._made:
                return
            folder.mkdir(parents=True, exist_ok=True)
            if not folder.resolve().is_relative_to(self.root.resolve()):
                raise CacheFault(f"{folder} is a link that leads out of {self.root}")
            self._made.add(folder)


class PartFile:
    """One file on its way; an entry to the transfer engine (`xnatfs.transfer.protocols.Entry`).

    ``_lock`` is held across I/O on the local disk; there is one writer as a rule.
    """

    def __init__(self, place: Path, size: int, digest: str, mtime_ns: int, buffers: Buffers) -> None:
        self.size = size
        self.complete = False
        self._place = place
        self._digest = digest
        self._mtime_ns = mtime_ns
        self._users = 1
        self._date: float | None = None
        self._lock = threading.RLock()
        self._present = Blocks(size)
        name = hashlib.blake2b(os.fsencode(place.name), digest_size=8).hexdigest()
        self._part = place.with_name(f".xnatfs-{name}.part")
        self._fd = self._open()
        self._hash = FollowingHash(self._fd, digest, buffers) if digest else None
        self._take_over()
        if not size:
            self._finish()

    def _open(self) -> int:
        fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            # what another process has finished in between is not ours to write
            if flock(fd, exclusive=True) and leads_to(self._part, fd):
                return fd
            raise CacheFault(f"{self._place}: another xnatfs is fetching it")
        except BaseException:
            os.close(fd)
            raise

    def _take_over(self) -> None:
        """What an interrupted run has left counts, but for one block: the digest of the whole decides on all."""
        left = os.fstat(self._fd).st_size
        if not self._digest or left > self.size:
            os.ftruncate(self._fd, 0)
            return
        self._present.mark(0, max(0, min(left // BLOCK, len(self._present) - 1)))

    # -- what the transfer engine asks ----------------------------------------------------------------------------

    def has(self, offset: int, size: int) -> bool:
        return self.complete or self._present.has(offset, size)

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        return self._present.missing(first, last)

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:  # noqa: ARG002 - kept by nobody
        """See `xnatfs.transfer.protocols.Entry.write`. Raises CacheFault when it cannot be written."""
        view = memoryview(data).cast("B")
        last = -(-(block * BLOCK + len(view)) // BLOCK)
        with self._lock, _local(self._place):
            runs = self._present.missing(block, last)
            for a, b in runs:
                at, end = (a - block) * BLOCK, min((b - block) * BLOCK, len(view))
                while at < end:
                    at += os.pwrite(self._fd, view[at:end], block * BLOCK + at)
            if runs and sum(b - a for a, b in runs) == self._present.absent:
                # before anybody may have the last of it: who has it all takes the file for done
                self._verify(view if len(view) == self.size else None)
                self._finish()
            for a, b in runs:
                self._present.mark(a, b)
            if self._hash and not self.complete:
                front = min(self._present.first_missing(self._hash.at // BLOCK) * BLOCK, self.size)
                if front - self._hash.at >= _HASHED:
                    self._hash.advance(front)

    def _verify(self, whole: memoryview | None) -> None:
        if self._hash is None:
            return
        right = digest_of(whole, self._digest) == self._digest if whole is not None else self._hash.matches(self.size)
        if not right:
            self.reset()
            raise ContentDamaged(f"{self._place}: the server's bytes do not match the digest in its own listing")

    def _finish(self) -> None:
        if self.complete:
            return
        os.utime(self._fd, ns=(self._mtime_ns, self._mtime_ns))
        self._part.replace(self._place)
        self.complete = True

    def from_version(self, modified: float) -> bool:
        """See `xnatfs.transfer.protocols.Entry.from_version`."""
        with self._lock:
            if self._date is None or self._present.absent == len(self._present):
                self._date = modified
            return self._date == modified

    def reset(self) -> None:
        """Start over. Raises CacheFault."""
        with self._lock, _local(self._place):
            if self.complete:
                return
            self._present.clear()
            self._date = None
            os.ftruncate(self._fd, 0)
            if self._hash:
                self._hash.restart()

    def retain(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One user less; with the last one the file is closed, and gone if it is unfinished and not worth keeping."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self._hash:
                self._hash.close()
            if not self.complete:
                front = self._present.first_missing() * BLOCK
                with contextlib.suppress(OSError):
                    if self._digest and front >= WORTH_KEEPING:
                        os.ftruncate(self._fd, front)
                    else:
                        self._part.unlink()
            os.close(self._fd)


@contextmanager
def _local(place: Path) -> Iterator[None]:
    """Errors of the local disk in our words."""
    try:
        yield
    except OSError as error:
        raise CacheFault(f"{place}: {error.strerror or error}") from error
