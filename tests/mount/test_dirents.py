"""Directories in one piece: the bytes are libfuse's own, and where its structure is another all names still come."""

from __future__ import annotations

import ctypes

import pytest

from xnatfs.tree.nodes import Kind

pytestmark = pytest.mark.mount  # needs libfuse

ENTRIES = [
    ("a", Kind.FILE, 7),
    ("sub-01", Kind.DIRECTORY, 2**63 - 1),
    ("ü" * 100, Kind.LINK, 3),
    ("12345678", Kind.FILE, 4),
]


class Listed:
    def entries(self):
        return ENTRIES


@pytest.fixture
def dirents():
    from xnatfs import fuse_abi, fuse_dirents

    fuse_abi.declare()
    return fuse_dirents


class Libfuse:
    """``fill_dir`` of libfuse 2.9 on a ``struct fuse_dh``, whose names it keeps as well."""

    def __init__(self, dirents, handle):
        from xnatfs import fuse_abi

        self.dh = dirents.Handle(fh=handle)
        self.names = []
        self.libc = ctypes.CDLL(None)
        self.libc.realloc.restype, self.libc.realloc.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)
        self._head = dirents._HEAD
        self.stat = fuse_abi.fuse.c_stat
        self.callback = fuse_abi.FILLER(self.fill)
        self.address = ctypes.cast(self.callback, ctypes.c_void_p).value

    def fill(self, _buffer, name, attributes, _offset):
        ino, mode = 0xFFFFFFFF, 0
        if attributes:
            found = self.stat.from_address(attributes)
            ino, mode = found.st_ino, found.st_mode
        self.names.append((name, mode >> 12, ino))
        end = self.dh.len + self._head.size + (len(name) + 7) // 8 * 8
        if self.dh.size < end:
            self.dh.contents = self.libc.realloc(self.dh.contents, max(1024, end))
            self.dh.size = max(1024, end)
        entry = self._head.pack(ino, end, len(name), mode >> 12) + name
        ctypes.memmove(self.dh.contents + self.dh.len, entry.ljust(end - self.dh.len, b"\0"), end - self.dh.len)
        self.dh.len = end
        return 0

    def answer(self):
        return ctypes.string_at(self.dh.contents, self.dh.len)


def wanted():
    types = {Kind.DIRECTORY: 4, Kind.FILE: 8, Kind.LINK: 10}
    return [(name.encode(), types[kind], ino) for name, kind, ino in ENTRIES]


@pytest.mark.parametrize("copies", [1, 100])
def test_a_directory_is_handed_over_in_one_piece(dirents, copies):
    packed = dirents._pack([(b".", 4, 0xFFFFFFFF), (b"..", 4, 0xFFFFFFFF), *wanted() * copies])
    fuse = Libfuse(dirents, 5)
    assert dirents.fill(ctypes.addressof(fuse.dh), fuse.address, 5, packed)
    assert fuse.answer() == packed
    assert [name for name, _, _ in fuse.names] == [b"."]
    assert dirents.unpacked(fuse.answer())[2:] == wanted() * copies


def test_the_bytes_are_those_that_libfuse_makes_name_by_name(dirents):
    packed = dirents.packed(Listed())
    fuse = Libfuse(dirents, 5)
    assert dirents.fill(ctypes.addressof(fuse.dh), fuse.address, 6, packed)  # the handle is not where it should be
    assert [name for name, _, _ in fuse.names] == [name for name, _, _ in dirents.unpacked(packed)]
    assert dirents.unpacked(fuse.answer())[2:] == wanted()
    assert len(fuse.answer()) == len(packed)
