"""Whole directories handed to libfuse in one piece, in the form in which it passes them on to the kernel.

libfuse's own way is a call for each name, which through ctypes costs more than all else in listing a directory. It
collects what those calls give in a buffer of ``struct fuse_dirent`` and deals that out. So here the same bytes are made
once for each directory, and copied into that buffer.

Where the buffer is, is known from the source of libfuse 2.9 (``struct fuse_dh`` in ``lib/fuse.c``) and confirmed by
libfuse itself for every directory: after one name has been given in its way, its structure must say so. If it does not,
all names are given in its way.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable
from ctypes import PYFUNCTYPE, c_int, c_size_t, c_uint, c_uint64, c_void_p

from xnatfs import fuse_abi as abi
from xnatfs.fuse_vfs import Directory
from xnatfs.tree.nodes import Kind

_HEAD = struct.Struct("=QQII")
"""``struct fuse_dirent``: inode number, offset of the next entry, length of the name, type; the name follows, padded
to a multiple of 8 bytes."""
_TYPES = {Kind.DIRECTORY: 4, Kind.FILE: 8, Kind.LINK: 10}
"""As in ``d_type``: bits 12 to 15 of the mode."""
_UNKNOWN = 0xFFFF_FFFF
"""The inode number that libfuse gives to ``.`` and ``..``."""


class Handle(ctypes.Structure):
    """``struct fuse_dh``: what libfuse has for an open directory."""

    _fields_ = [
        ("lock", ctypes.c_char * 40),
        ("fuse", c_void_p),
        ("req", c_void_p),
        ("contents", c_void_p),
        ("allocated", c_int),
        ("len", c_uint),
        ("size", c_uint),
        ("needlen", c_uint),
        ("filled", c_int),
        ("fh", c_uint64),
        ("error", c_int),
    ]


_realloc = PYFUNCTYPE(c_void_p, c_void_p, c_size_t)(("realloc", ctypes.PyDLL(None)))


def _padded(length: int) -> int:
    return (length + 7) & ~7


def _pack(entries: Iterable[tuple[bytes, int, int]]) -> bytes:
    """Entries of name, type and inode number, ``.`` and ``..`` first."""
    parts, end, head, size = [], 0, _HEAD.pack, _HEAD.size
    for name, kind, ino in entries:
        room = _padded(len(name))
        end += size + room
        parts.append(head(ino, end, len(name), kind) + name.ljust(room, b"\0"))
    return b"".join(parts)


def packed(directory: Directory) -> bytes:
    """Everything that a directory lists, as ``struct fuse_dirent``."""
    listed = [(b".", _TYPES[Kind.DIRECTORY], _UNKNOWN), (b"..", _TYPES[Kind.DIRECTORY], _UNKNOWN)]
    listed += [(name.encode("utf-8", "surrogateescape"), _TYPES[kind], ino) for name, kind, ino in directory.entries()]
    return _pack(listed)


def unpacked(dirents: bytes) -> list[tuple[bytes, int, int]]:
    """Name, type and inode number of each entry."""
    found, at = [], 0
    while at < len(dirents):
        ino, at_next, length, kind = _HEAD.unpack_from(dirents, at)
        start = at + _HEAD.size
        found.append((dirents[start : start + length], kind, ino))
        at = at_next
    return found


_FIRST = len(_pack([(b".", 4, _UNKNOWN)]))


def fill(buffer: int, filler: int, handle: int, dirents: bytes) -> bool:
    """Answer a readdir. False when there is no memory for it.

    Args:
        buffer, filler: as libfuse passes them to ``readdir``.
        handle: the number that opendir gave to this directory.
    """
    give = abi.FILLER(filler)
    if give(buffer, b".", None, 0):
        return False
    there = Handle.from_address(buffer)
    if there.fh != handle or there.len != _FIRST or there.size < _FIRST or there.error or not there.contents:
        return _one_by_one(buffer, give, dirents)
    if there.size < len(dirents):
        larger = _realloc(there.contents, len(dirents))
        if not larger:
            return False
        there.contents, there.size = larger, len(dirents)
    abi.memmove(there.contents, dirents, len(dirents))
    there.len = len(dirents)
    return True


def _one_by_one(buffer: int, give: Callable[..., int], dirents: bytes) -> bool:
    room = (ctypes.c_char * abi.STAT_ROOM)()  # a struct stat, of which readdir wants two numbers
    attributes = ctypes.addressof(room)
    number, mode = abi.field(attributes, "st_ino"), abi.field(attributes, "st_mode")
    full = 0
    for name, kind, ino in unpacked(dirents)[1:]:
        number.value, mode.value = ino, kind << 12
        full = give(buffer, name, attributes, 0) or full
    return not full
