"""The digest of a file while it arrives, and the buffers that reading back needs.

The digest follows the file from its front, reading back what is already in the file (from the page cache, as a
rule): so the one who writes hands over no buffers and never waits, any order of arrival is right, and what is vouched
for is what the file holds, not what was meant to be written. hashlib lets other threads run.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque

PIECE = 256 * 1024
"""Bytes hashed or verified at a time."""

_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}


def usable_digest(digest: str) -> str:
    """``digest`` in lower case when it is one that we can verify (by its length: MD5, SHA-1, SHA-256), else empty."""
    digest = digest.strip().lower()
    if len(digest) in _ALGORITHMS and not digest.strip("0123456789abcdef"):
        return digest
    return ""


def digest_of(data: memoryview, like: str) -> str:
    """The digest of ``data`` in hex, by the algorithm that made ``like``."""
    return hashlib.new(_ALGORITHMS[len(like)], data, usedforsecurity=False).hexdigest()


class Buffers:
    """A few buffers of `PIECE` bytes that are used again. Any thread may call; deque operations are atomic."""

    def __init__(self, keep: int = 8) -> None:
        self._spare: deque[bytearray] = deque(maxlen=keep)

    def take(self) -> bytearray:
        try:
            return self._spare.pop()
        except IndexError:
            return bytearray(PIECE)

    def give(self, buffer: bytearray) -> None:
        self._spare.append(buffer)


class FollowingHash:
    """The digest of the front part of a file, extended as the file grows.

    Its lock is held while one piece is read and hashed (under a millisecond), so that the helper and the thread that
    wrote the last block can both push it forward, and `close` knows that the descriptor is no longer used.

    Whoever pushes it says which of its starts the bytes belong to that he has seen arrive: those of an earlier one are
    about to be written over, and must not be hashed once more for what comes after them.
    """

    def __init__(self, fd: int, digest: str, buffers: Buffers) -> None:
        self._fd = fd
        self._expected = digest
        self._buffers = buffers
        self._lock = threading.Lock()
        self.closed = False
        self._hash = hashlib.new(_ALGORITHMS[len(digest)], usedforsecurity=False)
        self.at = 0
        """Bytes hashed so far."""
        self.starts = 0
        """Times that it was started anew."""

    def advance(self, upto: int, start: int = 0) -> None:
        """Hash the bytes up to ``upto``, as long as `starts` is ``start``. Raises OSError when they cannot be read."""
        buffer = self._buffers.take()
        view = memoryview(buffer)
        try:
            while self._step(upto, start, view):
                pass
        finally:
            view.release()
            self._buffers.give(buffer)

    def _step(self, upto: int, start: int, view: memoryview) -> bool:
        with self._lock:
            if self.closed or self.starts != start or self.at >= upto:
                return False
            got = os.preadv(self._fd, [view[: min(len(view), upto - self.at)]], self.at)
            if got == 0:
                raise OSError(f"the file ends at {self.at}, before {upto}")
            self._hash.update(view[:got])
            self.at += got
            return True

    def matches(self, size: int, start: int = 0) -> bool:
        """Hash what is left of the ``size`` bytes; is the digest the expected one? Not if it was started anew."""
        self.advance(size, start)
        with self._lock:
            return self.starts == start and self.at == size and self._hash.hexdigest() == self._expected

    def restart(self) -> None:
        with self._lock:
            self._hash = hashlib.new(_ALGORITHMS[len(self._expected)], usedforsecurity=False)
            self.at = 0
            self.starts += 1

    def close(self) -> None:
        """After this the descriptor is not touched any more."""
        with self._lock:
            self.closed = True
