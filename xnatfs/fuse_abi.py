"""libfuse2's structures as the fast loop needs them, checked before they are used.

Importing this module imports fusepy and so loads libfuse2; without it `FuseMissing` is raised, with the remedy.
fusepy's own structures are used wherever it has them. What it lacks (the five newest operations, buffers that name a
file descriptor) is declared here after ``fuse.h`` and ``fuse_common.h`` of libfuse 2.9.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import struct
import warnings
from collections.abc import Callable
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from xnatfs.errors import FuseMissing
from xnatfs.fuse_kernel import Look
from xnatfs.fuse_mount import INSTALL
from xnatfs.tree.nodes import Attributes, Kind

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import fuse
except OSError as problem:  # "Unable to find libfuse", or a library that cannot be loaded
    raise FuseMissing(f"libfuse2 cannot be loaded ({problem}). Remedy: {INSTALL}") from None
except ImportError as problem:
    raise FuseMissing(f"fusepy cannot be imported ({problem}). Remedy: pip install fusepy") from None

library: Any = fuse._libfuse
FUSE: Any = fuse.FUSE
FIELDS: list[tuple[Any, ...]] = fuse.fuse_operations._fields_

OPERATIONS: dict[str, Any] = {
    "getattr": CFUNCTYPE(c_int, c_char_p, c_void_p),
    "fgetattr": CFUNCTYPE(c_int, c_char_p, c_void_p, c_void_p),
    "open": CFUNCTYPE(c_int, c_char_p, c_void_p),
    "read_buf": CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_int64, c_void_p),
    "release": CFUNCTYPE(c_int, c_void_p, c_void_p),
    "opendir": CFUNCTYPE(c_int, c_char_p, c_void_p),
    "readdir": CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int64, c_void_p),
    "releasedir": CFUNCTYPE(c_int, c_void_p, c_void_p),
}
"""Prototypes of the operations that the fast loop serves itself: addresses instead of fusepy's converted objects."""

FILLER = PYFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_int64)
"""readdir's callback into libfuse. Keeps the GIL: it only copies, and would else hand the GIL over for each name."""


def caller() -> int:
    """The thread that the call which is being served comes from, as the kernel numbers it."""
    return int(library.fuse_get_context().contents.pid)


class Operations(ctypes.Structure):
    """``struct fuse_operations`` of libfuse 2.9: fusepy's, and the five members that it does not know."""

    _fields_ = [
        *fuse.fuse_operations._fields_,
        *((name, c_void_p) for name in ("poll", "write_buf", "read_buf", "flock", "fallocate")),
    ]


class Buffer(ctypes.Structure):
    """``struct fuse_buf``: bytes in memory, or bytes of a file from ``pos`` on."""

    _fields_ = [
        ("size", c_size_t),
        ("flags", c_int),
        ("mem", c_void_p),
        ("fd", c_int),
        ("pos", c_int64),
    ]


class BufferVector(ctypes.Structure):
    """``struct fuse_bufvec`` with one buffer."""

    _fields_ = [
        ("count", c_size_t),
        ("idx", c_size_t),
        ("off", c_size_t),
        ("buf", Buffer),
    ]


VECTOR = struct.Struct("@NNNNi4xPi4xq")
"""`BufferVector` for packing: count, idx, off, size, flags, mem, fd, pos."""
IN_FILE = 1 << 1 | 1 << 2 | 1 << 3
"""FUSE_BUF_IS_FD, FUSE_BUF_FD_SEEK (read at ``pos``), FUSE_BUF_FD_RETRY (go on after a short read)."""


class FileInfo(ctypes.Structure):
    """``struct fuse_file_info`` with its bits as one word, which is quicker than fusepy's with a field for each."""

    _fields_ = [
        ("flags", c_int),
        ("fh_old", ctypes.c_ulong),
        ("writepage", c_int),
        ("bits", ctypes.c_uint),
        ("fh", ctypes.c_uint64),
        ("lock_owner", ctypes.c_uint64),
    ]


ROOT = 1
"""The kernel's number for the root directory (FUSE_ROOT_ID)."""
DIRECT_IO, KEEP_CACHE = 1 << 0, 1 << 1
STAT_SIZE = ctypes.sizeof(fuse.c_stat)
"""Bytes. The real structure has up to 24 reserved bytes more, which libfuse has zeroed."""
STAT_ROOM = 256
"""Bytes that a structure needs which libfuse reads: it copies the reserved ones too."""

_process = ctypes.PyDLL(None)  # PyDLL keeps the GIL: right for calls of nanoseconds
memmove: Callable[[int, bytes, int], int] = PYFUNCTYPE(c_void_p, c_void_p, c_char_p, c_size_t)(("memmove", _process))
malloc: Callable[[int], int | None] = PYFUNCTYPE(c_void_p, c_size_t)(("malloc", _process))
file_end: Callable[[int, int, int], int] = PYFUNCTYPE(c_int64, c_int, c_int64, c_int)(("lseek", _process))
"""lseek; ``file_end(fd, 0, os.SEEK_END)`` is the length of the file. Positional reads do not mind the moved offset."""


PATHS = "xnatfs-paths"
"""Name of a codec: UTF-8 where a byte that is none survives (surrogateescape). fusepy takes a codec's name only."""


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != PATHS:
        return None
    return codecs.CodecInfo(
        name=PATHS,
        encode=lambda text, _errors="strict": codecs.utf_8_encode(text, "surrogateescape"),
        decode=lambda data, _errors="strict": codecs.utf_8_decode(data, "surrogateescape", True),
    )


codecs.register(_find_codec)


def check() -> None:
    """Raise `FuseMissing` unless libfuse and its structures are what the fast loop was written for."""
    version = library.fuse_version()
    if not 29 <= version < 30:
        raise FuseMissing(f"libfuse {version // 10}.{version % 10} is loaded, 2.9 is needed. Remedy: {INSTALL}")
    wrong = sorted(name for name, (expected, seen) in _layouts().items() if expected != seen)
    if not wrong and not _stat_agrees():
        wrong = ["struct stat"]
    if wrong:
        raise FuseMissing(f"libfuse's structures differ here ({', '.join(wrong)}). Remedy: xnatfs mount --loop plain")


def _layouts() -> dict[str, tuple[object, object]]:
    """Expected and found, for 64-bit Linux."""
    stat = fuse.c_stat
    return {
        "pointer": (8, ctypes.sizeof(c_void_p)),
        "struct stat": (120, STAT_SIZE),
        "times in struct stat": ((16, 32), (stat.st_mtimespec.offset - _TIMES, stat.st_ctimespec.offset - _TIMES)),
        "numbers in struct stat": ((8, 8, 8), (stat.st_ino.size, stat.st_size.size, stat.st_blocks.size)),
        "struct fuse_file_info": ((0, 20, 24, 40), _offsets(FileInfo, "flags", "bits", "fh")),
        "fusepy's fuse_file_info": ((0, 24, 40), _offsets(fuse.fuse_file_info, "flags", "fh")),
        "struct fuse_buf": ((8, 16, 24, 32, 40), _offsets(Buffer, "flags", "mem", "fd", "pos")),
        "struct fuse_bufvec": ((8, 16, 24, 64), _offsets(BufferVector, "idx", "off", "buf")),
        "packed fuse_bufvec": (ctypes.sizeof(BufferVector), VECTOR.size),
        "struct fuse_operations": (
            (0, 112, 120, 152, 200, 208, 272, 312, 336, 352, 360),
            _offsets(
                Operations,
                *("getattr", "open", "read", "release", "opendir", "readdir", "fgetattr", "ioctl"),
                *("read_buf", "fallocate"),
            ),
        ),
    }


def _offsets(structure: Any, *fields: str) -> tuple[int, ...]:
    return (*(getattr(structure, field).offset for field in fields), ctypes.sizeof(structure))


def _stat_agrees() -> bool:
    """Does the C library's own stat, read through fusepy's structure, say what Python's says?"""
    c_stat = getattr(ctypes.CDLL(None), "stat", None)  # a macro in the C library before glibc 2.33
    if c_stat is None:
        return True
    room = ctypes.create_string_buffer(STAT_ROOM)  # the C library writes the reserved bytes too
    if c_stat(os.fsencode(__file__), room) != 0:
        return True
    seen, expected = fuse.c_stat.from_buffer(room), Path(__file__).stat()
    names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blksize", "st_blocks")
    same = all(getattr(seen, name) == getattr(expected, name) for name in names)
    return same and seen.st_mtimespec.tv_sec * 10**9 + seen.st_mtimespec.tv_nsec == expected.st_mtime_ns


def declare() -> None:
    """Tell ctypes the prototypes of the library calls that the fast loop makes."""
    for name, result, arguments in (
        ("fuse_setup", c_void_p, (c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p, c_void_p)),
        ("fuse_get_session", c_void_p, (c_void_p,)),
        ("fuse_session_next_chan", c_void_p, (c_void_p, c_void_p)),
        ("fuse_session_receive_buf", c_int, (c_void_p, c_void_p, c_void_p)),
        ("fuse_session_process_buf", None, (c_void_p, c_void_p, c_void_p)),
        ("fuse_session_loop", c_int, (c_void_p,)),
        ("fuse_session_exit", None, (c_void_p,)),
        ("fuse_session_exited", c_int, (c_void_p,)),
        ("fuse_chan_bufsize", c_size_t, (c_void_p,)),
        ("fuse_lowlevel_notify_inval_entry", c_int, (c_void_p, ctypes.c_uint64, c_char_p, c_size_t)),
        ("fuse_unmount", None, (c_char_p, c_void_p)),
        ("fuse_destroy", None, (c_void_p,)),
        ("fuse_exit", None, (c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


_number, _times = struct.Struct("=Q").pack_into, struct.Struct("=6q").pack_into
_INO, _SIZE, _BLOCKS = fuse.c_stat.st_ino.offset, fuse.c_stat.st_size.offset, fuse.c_stat.st_blocks.offset
_TIMES = fuse.c_stat.st_atimespec.offset
"""Offsets. The times of access, modification and change follow one another, which `check` makes sure of."""


class StatPacker:
    """`Attributes` to the bytes of a ``struct stat``: faster than setting fusepy's structure field by field."""

    def __init__(self, look: Look) -> None:
        self._start = {kind: self._made(look, kind) for kind in Kind}

    @staticmethod
    def _made(look: Look, kind: Kind) -> bytearray:
        made = fuse.c_stat()
        fuse.set_st_attrs(made, look.fields(Attributes(kind, 0, 0, 0)), use_ns=True)
        return bytearray(made)

    def pack(self, attributes: Attributes) -> bytes:
        room, size = self._start[attributes.kind].copy(), attributes.size
        seconds, rest = divmod(attributes.mtime_ns, 1_000_000_000)
        _number(room, _INO, attributes.ino)
        _number(room, _SIZE, size)
        _number(room, _BLOCKS, (size + 511) // 512)
        _times(room, _TIMES, seconds, rest, seconds, rest, seconds, rest)
        return bytes(room)


def field(address: int, name: str) -> Any:
    """A number in the ``struct stat`` at an address, to be set by ``.value``."""
    kind = dict(fuse.c_stat._fields_)[name]
    return kind.from_address(address + getattr(fuse.c_stat, name).offset)
