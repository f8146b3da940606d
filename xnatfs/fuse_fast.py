"""The hot calls, served without fusepy's layers: raw callbacks, and the stat bytes that they answer from.

A raw callback gets addresses and returns 0 or a negative errno. An exception that leaves one would be printed and taken
for 0, success, so each is one ``try`` that catches everything; a test reads this file and insists.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from ctypes import c_void_p
from typing import Any

from xnatfs import fuse_abi as abi
from xnatfs.errors import BadHandle, CacheFault, NameTooLong, NotFound
from xnatfs.fuse_dirents import fill, packed
from xnatfs.fuse_kernel import NAME_MAX, Pages
from xnatfs.fuse_ops import XnatOperations, answer
from xnatfs.fuse_vfs import Directory, OpenFile

FileInfo, SEEK_END, KEEP, BYPASS = abi.FileInfo, os.SEEK_END, Pages.KEEP, Pages.BYPASS  # globals are found quickest


_META = b".xnat"


def decode(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


class Memo:
    """The packed stat structures of one directory, bound to one snapshot of it and good as long as that is."""

    __slots__ = ("absent", "directory", "packed")

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.packed: dict[bytes, bytes] = {}
        self.absent: set[bytes] = set()


class Memos:
    """Memos by the path of the directory, bounded; the directories used longest ago go first, whole.

    Two generations in place of an exact order, so that a hit costs one look-up in a dict and no lock: what is used
    moves to the young one; when that is full, it becomes the old one, and what is left in the old one is forgotten.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit  # stat structures in a generation
        self._count = 0
        self.young: dict[bytes, Memo] = {}
        self._old: dict[bytes, Memo] = {}

    def get(self, parent: bytes) -> Memo | None:
        memo = self.young.get(parent)
        if memo is None:
            memo = self._old.pop(parent, None)
            if memo is not None:
                self.young[parent] = memo
        return memo

    def of(self, parent: bytes, directory: Directory) -> Memo:
        """The memo for this very snapshot, new if need be."""
        memo = self.get(parent)
        if memo is None or memo.directory is not directory:
            memo = self.young[parent] = Memo(directory)
        return memo

    def drop(self, parent: bytes) -> None:
        self.young.pop(parent, None)
        self._old.pop(parent, None)

    def grew(self) -> None:
        """One structure more."""
        self._count += 1
        if self._count > self._limit:
            self.young, self._old, self._count = {}, self.young, 0

    def clear(self) -> None:
        self.young, self._old, self._count = {}, {}, 0


class Callbacks:
    """One method per hot operation, each named like it and with the prototype in `fuse_abi.OPERATIONS`.

    ``waiting`` is entered round everything that may wait for the server; see `fuse_threads.Threads`.
    """

    def __init__(
        self,
        operations: XnatOperations,
        waiting: AbstractContextManager[None],
        clock: Callable[[], float],
    ) -> None:
        self._operations = operations
        self._vfs = operations.vfs
        self._readers = operations.files.table
        self._served = operations.served
        self._failed = operations.failed
        self._waiting = waiting
        self._clock = clock
        self._memos = Memos()
        self._pack = abi.StatPacker(operations.look).pack
        self.top: set[bytes] = set()
        operations.mistold = self._mistold

    def table(self) -> dict[str, Any]:
        """Operation -> C function."""
        watched = self._operations.watched
        return {name: prototype(watched(name, getattr(self, name))) for name, prototype in abi.OPERATIONS.items()}

    def forget(self) -> None:
        """Ask the file system again for everything."""
        self._memos.clear()

    def _mistold(self, path: Any) -> None:
        """Ask it again for what lies beside this."""
        self._memos.drop(path.rpartition(b"/")[0])

    # --- attributes

    def getattr(self, path: bytes, buffer: int) -> int:
        try:
            self._served.getattr += 1
            parent, _, name = path.rpartition(b"/")
            memo = self._memos.young.get(parent)
            if memo is not None and memo.directory.expires > self._clock():
                packed = memo.packed.get(name)
                if packed is not None:
                    abi.memmove(buffer, packed, abi.STAT_SIZE)
                    return 0
                if name in memo.absent:
                    return -errno.ENOENT
            with self._waiting, self._vfs.call():
                packed = self._stat(path, parent, name, memo)
            abi.memmove(buffer, packed, abi.STAT_SIZE)
            return 0
        except BaseException as problem:
            return -answer("getattr", problem, self._failed)

    def fgetattr(self, path: bytes, buffer: int, _info: int) -> int:
        try:
            return self.getattr(path, buffer)
        except BaseException as problem:
            return -answer("fgetattr", problem, self._failed)

    def _stat(self, path: bytes, parent: bytes, name: bytes, memo: Memo | None) -> bytes:
        """A packed stat, remembered for as long as this listing of the directory is good; absence likewise."""
        self._served.looked += 1
        if len(name) > NAME_MAX:
            raise NameTooLong(f"{decode(name[:40])}...: longer than {NAME_MAX} bytes")
        if not parent:
            if not name:
                return self._pack(self._vfs.getattr("/"))
            self.top.add(name)
            if name == _META:  # what the mount says of itself must not wait for the list of projects
                return self._pack(self._vfs.getattr(decode(path)))
        memo = memo or self._memos.get(parent)
        if memo is None or memo.directory.expires <= self._clock():  # a refresh sets that back
            # the file system may say no without a listing, to the names that desktops probe for
            memo = self._memos.of(parent, self._vfs.directory(decode(parent) or "/", wanted=decode(name)))
        attributes = memo.directory.stat(decode(name))
        if attributes is None:
            node = memo.directory.get(decode(name))
            if node is None:
                if len(memo.absent) >= 1000:  # a program that probes for thousands of names
                    memo.absent.clear()
                memo.absent.add(name)
                raise NotFound(decode(path))
            attributes = self._vfs.attributes(node)
        told = self._operations.told(path, attributes)
        packed = self._pack(told)
        if told is attributes:
            memo.packed[name] = packed
            self._memos.grew()
        return packed

    # --- directories

    def opendir(self, path: bytes, info: int) -> int:
        try:
            self._served.opendir += 1
            with self._waiting, self._vfs.call():
                handle = self._operations.opendir(decode(path))
            FileInfo.from_address(info).fh = handle
            return 0
        except BaseException as problem:
            return -answer("opendir", problem, self._failed)

    def readdir(self, _path: int, buffer: int, filler: int, _offset: int, info: int) -> int:
        """The whole snapshot at once; libfuse deals it out."""
        try:
            self._served.readdir += 1
            handle = FileInfo.from_address(info).fh
            directory = self._operations.directories.get(handle)
            with self._waiting:
                dirents = directory.derive(packed)
            return 0 if fill(buffer, filler, handle, dirents) else -errno.ENOMEM
        except BaseException as problem:
            return -answer("readdir", problem, self._failed)

    def releasedir(self, _path: int, info: int) -> int:
        try:
            self._operations.directories.pop(FileInfo.from_address(info).fh)
            return 0
        except BaseException as problem:
            return -answer("releasedir", problem, self._failed)

    # --- files

    def open(self, path: bytes, info: int) -> int:
        try:
            self._served.open += 1
            opened = FileInfo.from_address(info)
            with self._waiting, self._vfs.call():
                opened.fh, pages = self._operations.open_file(decode(path), opened.flags, path)
            if pages is KEEP:
                opened.bits |= abi.KEEP_CACHE
            elif pages is BYPASS:
                opened.bits |= abi.DIRECT_IO
            return 0
        except BaseException as problem:
            return -answer("open", problem, self._failed)

    def read_buf(self, _path: int, result: int, size: int, offset: int, info: int) -> int:
        """Answers with a place in a local file, from where libfuse splices the bytes to the kernel, without the GIL.

        A byte less than asked for would tell the kernel that the file ends there, so the local file's length is
        checked (somebody may have truncated it), and anything short is an error.
        """
        try:
            served = self._served
            served.read += 1
            reader = self._readers.get(FileInfo.from_address(info).fh)
            if reader is None:
                raise BadHandle("read from a file that is not open")
            if reader.fresh:
                self._operations.begun(reader)
            file = reader.file
            length = file.size - offset
            if length > size:
                length = size
            elif length < 0:
                length = 0
            fd = file.fileno
            if length and not (file.ready(offset, length) and abi.file_end(fd, 0, SEEK_END) >= offset + length):
                fd = self._fetch(file, offset, length)
            vector = abi.malloc(abi.VECTOR.size)  # libfuse frees it
            if not vector:
                return -errno.ENOMEM
            abi.memmove(vector, abi.VECTOR.pack(1, 0, 0, length, abi.IN_FILE, 0, fd, offset), abi.VECTOR.size)
            c_void_p.from_address(result).value = vector
            served.bytes += length
            return 0
        except BaseException as problem:
            return -answer("read", problem, self._failed)

    def _fetch(self, file: OpenFile, offset: int, length: int) -> int:
        """Wait for bytes. Returns the file descriptor that has them."""
        self._served.waited += 1
        with self._waiting:
            got = file.prepare(offset, length)
        fd = file.fileno
        if got < length or abi.file_end(fd, 0, SEEK_END) < offset + length:
            raise CacheFault(f"the local file is shorter than what it should hold at {offset}")
        return fd

    def release(self, _path: int, info: int) -> int:
        try:
            self._operations.release_file(FileInfo.from_address(info).fh)
            return 0
        except BaseException as problem:
            return -answer("release", problem, self._failed)
