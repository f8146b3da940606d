"""What FUSE asks, in terms of `Vfs`: the guard, the errno table, modes and owners, the handles.

Both loops stand on this module. The plain loop hands `XnatOperations` to fusepy; the fast loop serves the hot calls
itself, with the same handles, the same look of a file and the same table. No caching, no decisions about the archive.

The guard exists because fusepy 3.0.1 mishandles any ``OSError`` without errno, which is every ``requests`` exception:
one that escapes can show an application an empty directory with exit status 0. So every exception is answered, from
one table, by its type; the errno that an exception carries is never believed.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from xnatfs import errors
from xnatfs.fuse_kernel import NAME_MAX, Look, PageCache, Pages, Path
from xnatfs.fuse_vfs import Directory, OpenFile, Vfs
from xnatfs.stats import SERVED, Served, Stats
from xnatfs.tree.nodes import Attributes, Kind

log = logging.getLogger(__name__)

BLOCK_SIZE = 4096
"""Bytes; the unit of statfs."""
LISTERS = 1000
"""Threads of which it is known which directory they listed last."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class Unsupported(errors.NoAttribute):
    """Attributes of the ``security.``, ``system.`` and ``trusted.`` kind, which an archive does not have."""


class AnsweredError(OSError):
    """An exception whose errno is settled: by the guard, or as part of how the kernel is spoken to."""

    def __init__(self, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.code = code


ERRNO: Mapping[type[BaseException], int] = {
    errors.XnatfsError: errno.EIO,
    errors.NotFound: errno.ENOENT,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.ReadOnly: errno.EROFS,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NoAttribute: errno.ENODATA,
    errors.InvalidRequest: errno.EINVAL,
    errors.AccessDenied: errno.EACCES,
    errors.LoginFailed: errno.EACCES,
    errors.TimedOut: errno.ETIMEDOUT,
    errors.Unreachable: errno.EHOSTUNREACH,
    errors.ServerFault: errno.EIO,
    errors.ContentChanged: errno.ESTALE,
    errors.ContentDamaged: errno.EIO,
    errors.CacheFault: errno.EIO,
    errors.BadHandle: errno.EBADF,
    errors.SetupError: errno.EIO,
    Unsupported: errno.EOPNOTSUPP,
}
"""The one table. A class that is not in it counts as its nearest base that is; a foreign one is EIO."""

_ORDINARY = {"ENOENT", "ENOTDIR", "EISDIR", "EROFS", "ENAMETOOLONG", "ENODATA", "EINVAL", "EOPNOTSUPP", "ENOTSUP"}
"""Answers of every day, told at debug level only."""


def answer(operation: str, problem: BaseException, failed: Callable[[str], None] = lambda _name: None) -> int:
    """The positive errno for an exception that left an operation; ``failed`` is told its name.

    Never raises, whatever it is given.
    """
    try:
        if isinstance(problem, AnsweredError):
            return problem.code
        code = next((ERRNO[base] for base in type(problem).__mro__ if base in ERRNO), None)
        if code is None:
            failed("EIO")
            log.error("%s: unexpected %s", operation, type(problem).__name__, exc_info=problem)
            return errno.EIO
        if operation == "readdir" and code == errno.ENOENT:
            code = errno.ESTALE  # the C library takes ENOENT here for the end: an empty directory, and success
        name = errno.errorcode[code]
        failed(name)
        log.log(logging.DEBUG if name in _ORDINARY else logging.WARNING, "%s: %s: %s", operation, name, problem)
        return code
    except BaseException:  # a log handler that fails must not turn an error into success
        return errno.EIO


T = TypeVar("T")


class Handles(Generic[T]):
    """Numbers for what is open. Needs no lock: each step is one operation on a dict or a counter."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.table: dict[int, T] = {}

    def add(self, opened: T) -> int:
        number = next(self._numbers)
        self.table[number] = opened
        return number

    def get(self, number: int) -> T:
        try:
            return self.table[number]
        except KeyError:
            raise errors.BadHandle(f"no open file has the handle {number}") from None

    def pop(self, number: int) -> T:
        opened = self.get(number)
        self.table.pop(number, None)
        return opened


@dataclass(slots=True)
class Reader:
    """A file handle: the file, and the path whose pages it uses (None: it goes past the page cache)."""

    file: OpenFile
    pages_of: Path | None
    refreshes: int = 0
    """How many there had been when it was opened."""
    fresh: bool = False
    """Not read yet, and opened by dropping the pages of another version: see `XnatOperations.begun`."""


class XnatOperations:
    """The operations as fusepy calls them: with the name of the operation and its arguments.

    Not a subclass of ``fuse.Operations``: what is absent here stays unset in libfuse's table, so that the kernel is
    told once that there is no flush, fsync or access, and saves a request for each.
    """

    use_ns = True

    def __init__(self, vfs: Vfs, look: Look, stats: Stats | None = None) -> None:
        self.vfs = vfs
        self.look = look
        self.stats = stats or Stats()
        self.served = Served()
        self.stats.include(self.served.counts)
        self.files: Handles[Reader] = Handles()
        self.directories: Handles[Directory] = Handles()
        self.pages = PageCache()
        self.caller: Callable[[], int] = lambda: 0
        """The thread that the present call is for, as the kernel numbers it; 0 where that is not known."""
        self._listed: dict[int, str] = {}
        """The directory that each thread of others listed last."""
        self.refreshes = 0
        self.mistold: Callable[[Path], None] = lambda _path: None  # called when the kernel has a size that is past
        self.outlived: Callable[[], None] = lambda: None  # called when a file closes that was open during a refresh

    def __call__(self, operation: str, *arguments: Any) -> Any:
        """The guard: whatever goes wrong leaves as `AnsweredError`, an ``OSError`` with a positive errno."""
        try:
            if operation in SERVED:
                setattr(self.served, operation, getattr(self.served, operation) + 1)
            else:
                self.stats.add(f"operations.{operation}")
            with self.vfs.call():
                return getattr(self, operation)(*arguments)
        except BaseException as problem:
            code = answer(operation, problem, self.failed)
        raise AnsweredError(code)

    def failed(self, name: str) -> None:
        """Count an error by the name of its errno."""
        self.stats.add(f"errors.{name}")

    def watched(self, _operation: str, callback: Callable[..., int]) -> Callable[..., int]:
        """What shall serve a hot operation of the fast loop: its callback, unless somebody wants to look on."""
        return callback

    def getattr(self, path: str, _fi: Any = None) -> dict[str, int]:
        self.served.looked += 1
        return self.look.fields(self.told(path, self.vfs.getattr(path)))

    def told(self, path: Path, attributes: Attributes) -> Attributes:
        """The attributes to tell the kernel: others while an older version is being read, or not to be remembered."""
        if attributes.kind is not Kind.FILE:
            return attributes
        size = self.pages.tell(path, attributes.size, self.caller)
        if size == attributes.size and not self.pages.settling(path):
            return attributes
        return replace(attributes, size=size)

    def readlink(self, path: str) -> str:
        return self.vfs.readlink(path)

    def opendir(self, path: str) -> int:
        handle = self.directories.add(self.vfs.directory(path))
        if len(self._listed) >= LISTERS:
            self._listed.clear()
        self._listed[self.caller()] = path
        return handle

    def readdir(self, _path: str, handle: int) -> Iterator[tuple[str, dict[str, int] | None, int]]:
        entries = self.directories.get(handle).entries()
        mode = {kind: self.look.mode(kind) for kind in Kind}
        listed = [(name, {"st_mode": mode[kind], "st_ino": ino}, 0) for name, kind, ino in entries]
        return iter([(".", None, 0), ("..", None, 0), *listed])  # complete before fusepy reports a first name

    def releasedir(self, _path: str, handle: int) -> None:
        self.directories.pop(handle)

    def open(self, path: str, fi: Any) -> int:
        """Sets ``fi`` (fusepy's raw_fi form)."""
        handle, pages = self.open_file(path, fi.flags)
        fi.fh, fi.keep_cache, fi.direct_io = handle, pages is Pages.KEEP, pages is Pages.BYPASS
        return 0  # fusepy gives this to the kernel

    def open_file(self, path: str, flags: int, key: Path | None = None) -> tuple[int, Pages]:
        """A new handle, and what the kernel shall do with the pages that it has of the file (``key``, see `told`)."""
        if flags & WRITING:
            raise errors.ReadOnly(f"{path}: the mount is read-only")
        file = self.vfs.open(path, walking=self._listed.get(self.caller()) == path.rpartition("/")[0])
        pages = self.pages.opened(key or path, file.version, file.size, self.caller)
        if pages in (Pages.AGAIN, Pages.IN_USE):
            file.close()
            self.mistold(key or path)
            if pages is Pages.AGAIN:
                # told ESTALE, the kernel looks every name of the path up again and opens once more
                raise AnsweredError(errno.ESTALE)
            raise errors.ContentChanged(f"{path}: a version of another size is still being read")
        pages_of = None if pages is Pages.BYPASS else key or path
        return self.files.add(Reader(file, pages_of, self.refreshes, fresh=pages is Pages.DROP)), pages

    def begun(self, reader: Reader) -> None:
        """To be called at the first read of a reader that is fresh."""
        reader.fresh = False
        if reader.pages_of is not None:
            self.pages.used(reader.pages_of)

    def read(self, _path: str, size: int, offset: int, fi: Any) -> bytes:
        reader = self.files.get(fi.fh)
        if reader.fresh:
            self.begun(reader)
        file = reader.file
        self.served.waited += not file.ready(offset, size)
        data = file.read(offset, size)
        self.served.bytes += len(data)
        if len(data) != max(0, min(size, file.size - offset)):  # the kernel would take it for the end of the file
            raise errors.CacheFault(f"{len(data)} bytes at {offset}, where there should be more")
        return data

    def release(self, _path: str, fi: Any) -> None:
        self.release_file(fi.fh)

    def release_file(self, handle: int) -> None:
        reader = self.files.pop(handle)
        if reader.pages_of is not None:
            self.pages.closed(reader.pages_of)
        reader.file.close()
        if reader.refreshes != self.refreshes:
            self.outlived()

    def listxattr(self, path: str) -> list[str]:
        return self.vfs.listxattr(path)

    def getxattr(self, path: str, name: str, *_position: Any) -> bytes:
        if not name.startswith("user."):
            raise Unsupported(name)  # ls and cp ask each file for ACLs and capabilities until they hear this once
        return self.vfs.getxattr(path, name)

    def statfs(self, _path: str) -> dict[str, int]:
        space = self.vfs.statfs()
        free = space.free // BLOCK_SIZE
        return {
            "f_bsize": BLOCK_SIZE,
            "f_frsize": BLOCK_SIZE,
            "f_blocks": space.total // BLOCK_SIZE,
            "f_bfree": free,
            "f_bavail": free,
            "f_files": 1_000_000_000,  # nobody counts them; 0 would look like a full disk to some tools
            "f_ffree": 1_000_000_000,
            "f_favail": 1_000_000_000,
            "f_namemax": NAME_MAX,
        }

    def _refuse(self, *_arguments: Any) -> None:
        raise errors.ReadOnly("the mount is read-only")

    mknod = mkdir = unlink = rmdir = symlink = rename = link = chmod = chown = truncate = utimens = _refuse
    create = write = setxattr = removexattr = _refuse
