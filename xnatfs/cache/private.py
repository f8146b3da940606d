"""Files that this process alone uses, and that end with it: unlinked at once, or in memory.

They serve when the cache directory cannot, or when another process is filling the entry in question.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from xnatfs.cache.files import Place
from xnatfs.errors import CacheFault

SMALL = 1024 * 1024
"""Files up to here go into memory..."""
MEMORY = 64 * 1024 * 1024
"""...as long as all that is there is no more than this, and larger ones when there is nowhere else."""
_TEMP_SPARE = 64 * 1024 * 1024
"""What is left free in the system's temporary directory."""


class PrivateFiles:
    """Makes unlinked files, and accounts for the memory among them. Its lock is a leaf, never held across I/O."""

    def __init__(self, temp: Path | None = None) -> None:
        self._temp = temp
        self._lock = threading.Lock()
        self._memory = 0

    def make(self, size: int, shared: Path | None = None) -> tuple[int, Place]:
        """A new file of ``size`` bytes, all of it a hole: its descriptor and its place.

        ``shared`` is a directory of the cache to be preferred for what is not small. Raises CacheFault.
        """
        temp = str(self._temp) if self._temp else _temp_directory()
        roomy = _free(temp) >= size + _TEMP_SPARE
        tries: list[tuple[Place, str]] = [("memory", "small"), ("temp", temp), ("memory", "large"), ("temp", temp)]
        if shared is not None:
            tries.insert(1, ("store", str(shared)))
        if not roomy:
            tries.remove(("temp", temp))
        for place, where in tries:
            with contextlib.suppress(OSError):
                if place != "memory":
                    return _unlinked(where, size), place
                if self._book(size, SMALL if where == "small" else MEMORY):
                    return _in_memory(size), place
        raise CacheFault("neither the cache nor the system's temporary directory can hold a file")

    def room(self, fd: int, amount: int, place: Place) -> bool:
        """Can ``amount`` more bytes be written? What is in memory was booked whole when it was made."""
        if place == "memory":
            return True
        info = os.fstatvfs(fd)
        return info.f_bavail * info.f_frsize >= amount + _TEMP_SPARE

    def gone(self, size: int, place: Place) -> None:
        """A file that `make` gave is closed."""
        if place == "memory":
            with self._lock:
                self._memory -= size

    def _book(self, size: int, largest: int) -> bool:
        if size > largest or not hasattr(os, "memfd_create"):
            return False
        with self._lock:
            if self._memory + size > MEMORY:
                return False
            self._memory += size
            return True


def _temp_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # there is none that can be written
        return os.sep


def _free(directory: str) -> int:
    try:
        info = os.statvfs(directory)
    except OSError:
        return 0
    return info.f_bavail * info.f_frsize


def _unlinked(directory: str, size: int) -> int:
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


def _in_memory(size: int) -> int:
    fd = os.memfd_create("xnatfs")
    os.ftruncate(fd, size)
    return fd
