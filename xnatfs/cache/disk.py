"""The cache directory: where entries lie, who may hold one, what a look at it costs.

::

    ROOT/                       0700, ours
      CACHEDIR.TAG              backup programs leave the directory out; and proof that it is ours
      v1/                       one directory per format version
        usage                   bytes and entries, counted by all processes together (see `ledger`)
        <namespace>/            a hash of server and user
          <2 hex digits>/       256 shards
            <key>               one cached file with its index; whoever holds an entry has it flock'd

An entry was last used at its access time, which is set on purpose whenever it is opened and released (and, with
O_NOATIME, not moved by reading it), so that its modification time speaks of its content alone.

Locks between processes are flocks on the entry's file, which end with the process that holds them, however it ends:

* exclusive: the one process that writes an entry, or removes it;
* shared: processes that read a complete entry, which nobody changes any more.

Locks are only ever tried, never waited for. Since a file may have been removed between opening and locking it, a lock
counts only when the path still leads to the file that was locked.

Nothing here holds a lock of this process; errors are OSError, except where `CacheFault` refuses a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xnatfs.cache.index import FORMAT_VERSION
from xnatfs.errors import CacheFault

TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory holds a cache of xnatfs. Everything in it can be fetched again.\n"
)
_HARMLESS = {TAG, "lost+found"}
_SHARDS = 256
_ATTEMPTS = 3
_OLD = os.O_RDWR | os.O_NOFOLLOW | getattr(os, "O_NOATIME", 0)
_NEW = _OLD | os.O_CREAT | os.O_EXCL


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as a look at its directory shows it."""

    path: Path
    used: float
    """When it was last used, in seconds since the epoch."""
    bytes: int
    """What it occupies."""


class Disk:
    """The directory ``root`` for one ``namespace``. `prepare` before anything else."""

    def __init__(self, root: Path, namespace: str) -> None:
        if not namespace.isalnum():
            raise ValueError("a namespace is a hash")
        self.root = root.absolute()
        self.base = self.root / f"v{FORMAT_VERSION}"
        self.home = self.base / namespace

    def prepare(self) -> None:
        """Make what is missing. Costs the same however much is in it.

        Raises CacheFault for a directory that we must not use, OSError when it cannot be made or written.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = self.root.stat()
        if info.st_uid != os.geteuid():
            raise CacheFault(f"cache directory {self.root} belongs to another user; give one of your own")
        self._refuse_foreign()
        if info.st_mode & 0o077:
            self.root.chmod(0o700)
        if not (self.root / TAG).exists():
            fd = os.open(self.root / TAG, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as tag:
                tag.write(_TAG_TEXT)
        for directory in (self.base, self.home):
            directory.mkdir(mode=0o700, exist_ok=True)

    def _refuse_foreign(self) -> None:
        """A directory with other things in it is somebody's own: never clean up there, never change its mode."""
        names = {path.name for path in self.root.iterdir()} - _HARMLESS
        foreign = sorted(name for name in names if not (name[:1] == "v" and name[1:].isdigit()))
        if foreign:
            raise CacheFault(
                f"cache directory {self.root} holds other files ({foreign[0]!r}); give an empty or a new directory"
            )

    def path(self, key: str) -> Path:
        return self.home / key[:2] / key

    # -- locks -----------------------------------------------------------------------------------------------------

    def lock(self, path: Path, *, create: bool, exclusive: bool) -> tuple[int, bool] | None:
        """Open and lock an entry: its descriptor, and whether the lock is exclusive. None: others hold it.

        A file that is made here is always locked exclusively. Raises FileNotFoundError when there is none and none
        is to be made.
        """
        for _ in range(_ATTEMPTS):
            fd, new = self._open_or_make(path, create)
            alone = exclusive or new
            try:
                if flock(fd, exclusive=alone):
                    if leads_to(path, fd):
                        return fd, alone
                elif not new:
                    os.close(fd)
                    return None
            except OSError:
                os.close(fd)
                raise
            os.close(fd)
        return None

    def _open_or_make(self, path: Path, create: bool) -> tuple[int, bool]:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _OLD), False
        if not create:
            raise FileNotFoundError(path)
        try:
            return os.open(path, _NEW, 0o600), True
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                return os.open(path, _NEW, 0o600), True
        except FileExistsError:
            pass
        return os.open(path, _OLD), False  # another process has made it in between

    def remove(self, path: Path) -> int | None:
        """Remove an entry that nobody uses; returns the bytes that it occupied, None when it is in use or gone."""
        try:
            locked = self.lock(path, create=False, exclusive=True)
        except FileNotFoundError:
            return None
        if locked is None:
            return None
        try:
            return remove_held(path)
        finally:
            os.close(locked[0])

    # -- looking ---------------------------------------------------------------------------------------------------

    def shards(self, start: int = 0) -> Iterator[list[Path]]:
        """The directories of all namespaces, shard by shard, from shard ``start`` round to it again.

        Keys are hashes, so that any shard is a random sample of the whole.
        """
        with os.scandir(self.base) as found:
            homes = [Path(item.path) for item in found if item.is_dir(follow_symlinks=False)]
        for number in range(start, start + _SHARDS):
            name = f"{number % _SHARDS:02x}"
            yield [home / name for home in homes]

    def look(self, shard: Path) -> list[Found]:
        """The entries of one shard."""
        entries = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(shard) as found:
            for item in found:
                with contextlib.suppress(FileNotFoundError):
                    info = item.stat(follow_symlinks=False)
                    entries.append(Found(shard / item.name, info.st_atime, info.st_blocks * 512))
        return entries


def flock(fd: int, *, exclusive: bool) -> bool:
    """Lock an open file, or change its lock; False when others hold it. Raises OSError where locks do not work."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Give up the lock on an open file. Raises OSError."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def still_there(fd: int) -> bool:
    """Has nobody removed the entry behind this descriptor? Nothing renames entries, so its name need not be asked."""
    return os.fstat(fd).st_nlink > 0


def leads_to(path: Path, fd: int) -> bool:
    """Does the path still lead to this open file, and is that a plain file?"""
    try:
        info = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(info.st_mode) and os.path.samestat(info, os.fstat(fd))


def remove_held(path: Path) -> int:
    """Remove an entry whose lock is held; returns the bytes that it occupied."""
    size = path.stat(follow_symlinks=False).st_blocks * 512
    path.unlink()
    return size
