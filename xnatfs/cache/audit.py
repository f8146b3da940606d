"""Checking whole entries against their own records: every block, and the digest of the whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from xnatfs.cache import index as index_format
from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.disk import Disk
from xnatfs.cache.hashing import PIECE, Buffers, FollowingHash
from xnatfs.cache.opening import read_index

_PIECE_BLOCKS = PIECE // BLOCK


@dataclass(frozen=True, slots=True)
class VerifyReport:
    entries: int
    """Looked at."""
    bytes: int
    """Of them, bytes found right."""
    damaged: int
    """Of them, entries that were not, and have been removed."""
    in_use: int
    """Entries not looked at, because a process is writing them (or, if damaged, reading them)."""


def audit(disk: Disk, paths: Iterable[Path], buffers: Buffers, gone: Callable[[int], None]) -> VerifyReport:
    """Check these entries; remove what is damaged, telling ``gone`` how many bytes that was. Raises OSError."""
    entries = size = damaged = in_use = 0
    for path in paths:
        try:
            locked = disk.lock(path, create=False, exclusive=False)
        except FileNotFoundError:
            continue
        if locked is None:
            in_use += 1
            continue
        try:
            started = os.fstat(locked[0]).st_size > 0  # else a process was killed in the moment of making it
            held = sound_bytes(path, locked[0], buffers) if started else None
        finally:
            os.close(locked[0])
        if held is None:
            removed = disk.remove(path)
            in_use += removed is None
            if removed is None:
                continue
            gone(removed)
            damaged += started
        entries += started
        size += held or 0
    return VerifyReport(entries, size, damaged, in_use)


def sound_bytes(path: Path, fd: int, buffers: Buffers) -> int | None:
    """Bytes that the entry ``path`` (open as ``fd``, and locked) holds and that are all right.

    None when anything about it is not: index, a block, the digest. Raises OSError when it cannot be read.
    """
    known = _find_header(fd, path.name)
    if known is None:
        return None
    key, size, digest = known
    index = read_index(fd, index_format.header(key, size, digest), size)
    assert index is not None  # its header has just been found right
    held = _right_blocks(fd, index, buffers)
    if held is not None and index.complete and digest and not FollowingHash(fd, digest, buffers).matches(size):
        return None
    return held


def _find_header(fd: int, key: str) -> tuple[str, int, str] | None:
    """The header of the entry ``key`` in a file of unknown size: at a multiple of 4096 not far from the end."""
    end = os.fstat(fd).st_size
    last = end // index_format.ALIGN
    for number in range(last, max(-1, last - end // (64 * 65536) - 64), -1):
        offset = number * index_format.ALIGN
        known = index_format.read_header(os.pread(fd, index_format.HEADER_SIZE, offset))
        if known is not None and known[0] == key and index_format.start(known[1]) == offset:
            return known
    return None


def _right_blocks(fd: int, index: index_format.Index, buffers: Buffers) -> int | None:
    held, buffer = 0, buffers.take()
    try:
        with memoryview(buffer) as view:
            for a, b in index.present.present(0, len(index.present)):
                for start in range(a, b, _PIECE_BLOCKS):
                    end = min(start + _PIECE_BLOCKS, b)
                    got = os.preadv(fd, [view[: (end - start) * BLOCK]], start * BLOCK)
                    if index_format.bad_blocks(index, start, end, view[:got]):
                        return None
                    held += min(end * BLOCK, index.present.size) - start * BLOCK
    finally:
        buffers.give(buffer)
    return held
