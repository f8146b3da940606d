"""Listings on disk, for when the server is away: what it last said, and when.

::

    ROOT/v1/<namespace>/listings/<hash of what was asked>      0600, one for each answer

    magic "XNATFSLS" | format u32 | CRC-32 u32 of what follows | seconds since the epoch f64 | zlib of JSON

An answer is records (`xnatfs.xnat.records`) in tuples and mappings. In the JSON a scalar stands for itself, and
everything else is a list whose first element says what it is; there is nothing in it that could be executed. The
format is a checksum of the fields of the records, so that it changes with them. A file that does not check out, or is
of another format, is an answer that is not there.

Bounded: beyond `MOST` bytes the answers written longest ago go, except those that a pin needs. Errors of the disk are
logged and cost the answer, never the call.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from xnatfs.cache.disk import Disk
from xnatfs.cache.pins import write_whole
from xnatfs.xnat.filelist import NO_DIGEST, FileList
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)

log = logging.getLogger(__name__)

MOST = 256 * 1024 * 1024
"""Bytes of listings of one server and user; about 20 million files."""
_SPARE = 0.8
"""Of that, what is left after some had to go."""

_MAGIC = b"XNATFSLS"
_HEAD = struct.Struct("<8sII")
_TIME = struct.Struct("<d")
_RECORDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Assessor, Experiment, FileRecord, Project, Reconstruction, Resource, Scan, Subject)
}
VERSION = 1
"""Of everything in a file but the fields of records."""
FORMAT = zlib.crc32(
    repr([VERSION, *((name, [part.name for part in fields(kind)]) for name, kind in _RECORDS.items())]).encode()
)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer of the server, and when it was given, in seconds since the epoch."""

    value: Any
    at: float


def name_of(kind: str, *args: str) -> str:
    """Under which the answer to a question is kept; tells nothing of it."""
    return blake2b("\0".join((kind, *args)).encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


class KeptListings:
    """See the module. ``pinned`` gives the names that must stay. Any thread may call anything.

    ``_lock`` guards ``_size``; held while old answers are removed.
    """

    def __init__(
        self,
        root: Path,
        namespace: str,
        *,
        pinned: Callable[[], Collection[str]] = tuple,
        most: int = MOST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = Disk(root, namespace).home / "listings"
        self._pinned = pinned
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._size: int | None = None

    def put(self, name: str, value: Any) -> None:
        """Keep an answer as of now."""
        body = _TIME.pack(self._clock()) + zlib.compress(json.dumps(_pack(value)).encode(), 1)
        raw = _HEAD.pack(_MAGIC, FORMAT, zlib.crc32(body)) + body
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._home / name, raw)
            self._make_room(len(raw))
        except OSError as error:
            log.warning("a listing could not be kept in %s: %s", self._home, error.strerror or error)

    def get(self, name: str) -> Kept | None:
        """The answer that was kept last; None when there is none, or it is damaged."""
        try:
            raw = (self._home / name).read_bytes()
            magic, format_, crc = _HEAD.unpack_from(raw)
            body = raw[_HEAD.size :]
            if magic != _MAGIC or format_ != FORMAT or zlib.crc32(body) != crc:
                return None
            return Kept(_unpack(json.loads(zlib.decompress(body[_TIME.size :]))), *_TIME.unpack_from(body))
        except (OSError, ValueError, LookupError, TypeError, struct.error, zlib.error):
            return None

    def drop(self, name: str) -> None:
        """The server does not say so any more."""
        with contextlib.suppress(OSError):
            (self._home / name).unlink(missing_ok=True)

    def any(self) -> bool:
        """Is there anything?"""
        with contextlib.suppress(OSError), os.scandir(self._home) as found:
            return next(found, None) is not None
        return False

    def _make_room(self, added: int) -> None:
        with self._lock:
            if self._size is not None:
                self._size += added  # what was replaced counts twice until the next look
                if self._size <= self._most:
                    return
            found = []
            with os.scandir(self._home) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        info = entry.stat(follow_symlinks=False)
                        found.append((info.st_mtime_ns, info.st_size, entry.name))
            self._size = sum(size for _, size, _ in found)
            if self._size <= self._most:
                return
            kept = set(self._pinned())
            for _, size, name in sorted(found):
                if self._size <= self._most * _SPARE:
                    break
                if name not in kept:
                    self.drop(name)
                    self._size -= size


# -- records as JSON -------------------------------------------------------------------------------------------------


def _pack(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.decode("latin-1")]
    if isinstance(value, FileList):
        return _pack_files(value)
    if isinstance(value, Mapping):
        return ["map", *([key, _pack(item)] for key, item in value.items())]
    if isinstance(value, Sequence):
        return ["tuple", *map(_pack, value)]
    return [type(value).__name__, *(_pack(getattr(value, part.name)) for part in fields(value))]


def _pack_files(files: FileList) -> list[Any]:
    """By columns; format, content and tags by number, being nearly always the same."""
    traits: dict[tuple[str, str, str], int] = {}
    paths, sizes, digests, which = [], [], [], []
    for file in files:
        paths.append(file.path)
        sizes.append(file.size)
        digests.append(file.digest)
        which.append(traits.setdefault((file.format, file.content, file.tags), len(traits)))
    return ["files", files.base, files.resource_id, paths, sizes, digests, [list(one) for one in traits], which]


def _unpack(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind == "tuple":
        return tuple(map(_unpack, parts))
    if kind == "map":
        return {key: _unpack(item) for key, item in parts}
    if kind == "bytes":
        return parts[0].encode("latin-1")
    if kind == "files":
        return _unpack_files(*parts)
    return _RECORDS[kind](*map(_unpack, parts))


def _unpack_files(
    base: str,
    resource_id: str,
    paths: list[str],
    sizes: list[int | None],
    digests: list[str],
    traits: list[list[str]],
    which: list[int],
) -> FileList:
    packed = b"".join(bytes.fromhex(digest) if digest else NO_DIGEST for digest in digests)
    numbers = array("q", [-1 if size is None else size for size in sizes])
    if not len(paths) == len(sizes) == len(which) or len(packed) != 16 * len(paths):
        raise ValueError("columns of unequal length")
    known = [(one[0], one[1], one[2]) for one in traits]
    return FileList(base, resource_id, paths, numbers, packed, known, array("L", which) if len(known) > 1 else None)
