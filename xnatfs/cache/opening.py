"""Opening the file of an entry, under its lock, as far as it can be trusted.

Whatever does not fit (too short, an index of another version, a damaged header) is nothing, and is started anew. What
does fit is still only as good as the checksums, see `entry`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from xnatfs.cache import index as indexes
from xnatfs.cache.disk import Disk, flock, leads_to, remove_held
from xnatfs.cache.files import Files
from xnatfs.cache.index import Index


def open_file(
    disk: Disk, path: Path, head: bytes, size: int, reserve: Callable[[int, int], bool]
) -> tuple[Files, Index] | None:
    """Open and lock the file ``path``, as a new one if it is not what ``head`` describes.

    None when another process has the entry for itself, or when ``reserve`` (given a descriptor and the file's size)
    finds no room for a new one. Raises OSError; FileNotFoundError when the directory is gone.
    """
    locked = disk.lock(path, create=True, exclusive=False)
    if locked is None:
        return None
    fd, alone = locked
    keep = False
    try:
        index = read_index(fd, head, size)
        if not (alone or (index and index.complete)):
            if not (flock(fd, exclusive=True) and leads_to(path, fd)):
                return None
            alone = True
            index = read_index(fd, head, size)
        if index is None:
            if not reserve(fd, size):
                remove_held(path)
                return None
            index = _start(fd, head, size)
        elif alone and os.fstat(fd).st_size > index.end:
            os.ftruncate(fd, index.end)  # cuts off a torn record
        keep = True
        return Files(fd, kept=True, exclusive=alone), index
    finally:
        if not keep:
            os.close(fd)


def read_index(fd: int, head: bytes, size: int) -> Index | None:
    """What the index at the end of the file says; None when it is not the one that ``head`` describes."""
    start = indexes.start(size)
    return indexes.parse(os.pread(fd, max(0, os.fstat(fd).st_size - start), start), head, size)


def _start(fd: int, head: bytes, size: int) -> Index:
    """An empty file with a new index, in place of whatever was there. The lock must be exclusive."""
    os.ftruncate(fd, 0)
    if os.pwrite(fd, head, indexes.start(size)) != len(head):
        raise OSError("short write to the index")
    return indexes.empty(head, size)
