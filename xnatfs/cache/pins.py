"""What must stay in the cache: pinned paths, and the entries that their files are in.

::

    ROOT/v1/<namespace>/pins/<hash of path>     JSON, 0600, one for each pinned path

One file for each pin, written whole or not at all, is all that processes need to agree: who pins or unpins replaces
or removes it, and who evicts sees by the time of the directory that something has changed. A pin speaks of entries by
their keys, so that it holds whether they are there yet or not, and for exactly the versions that were pinned.

Nothing here takes a lock of the store; errors are OSError, and a file that makes no sense is a pin that is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from xnatfs.cache import index
from xnatfs.cache.disk import Disk

FORMAT = 1
_PAGE = 4096
_TICK = 0.1
"""Seconds; two changes of a directory within one tick of its clock look like one."""


def occupied(size: int) -> int:
    """Bytes on disk of an entry of a file of ``size`` bytes, with its index."""
    return sum(-(-part // _PAGE) * _PAGE for part in (size, index.room(size)))


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned path."""

    path: str
    """In the mount."""
    keys: Mapping[str, int] = field(repr=False)
    """Key of each entry -> bytes that it occupies."""
    listings: tuple[str, ...] = field(default=(), repr=False)
    """Names of the kept listings that lead to it (`kept`)."""
    files: int = 0
    bytes: int = 0
    at: float = 0.0
    """When it was pinned, in seconds since the epoch."""


class Pins:
    """All pins in the cache directory ``root``; those of one ``namespace`` can be changed."""

    def __init__(self, root: Path, namespace: str) -> None:
        self._disk = Disk(root, namespace)
        self._base = self._disk.base
        self._home = self._disk.home / "pins"
        self._lock = threading.Lock()
        self._seen: dict[Path, int] | None = None
        self._keys: dict[str, int] = {}

    # -- what eviction asks ---------------------------------------------------------------------------------------

    def keys(self) -> Mapping[str, int]:
        """Every pinned entry of all namespaces, and the bytes that it occupies.

        Some microseconds while no pin changes.
        """
        with self._lock:
            seen = self._times()
            if seen != self._seen:
                self._keys = {key: size for folder in seen for pin in _pins(folder) for key, size in pin.keys.items()}
                recent = any(time.time() - changed / 1e9 < _TICK for changed in seen.values())
                self._seen = None if recent else seen
            return self._keys

    def _times(self) -> dict[Path, int]:
        times = {}
        with contextlib.suppress(OSError), os.scandir(self._base) as homes:
            for home in homes:
                folder = Path(home.path) / "pins"
                with contextlib.suppress(OSError):
                    times[folder] = folder.stat().st_mtime_ns
        return times

    def count(self) -> int:
        """Pinned paths of all namespaces."""
        return sum(1 for folder in self._times() for _ in _pins(folder))

    def entry(self, key: str) -> Path:
        """The file of an entry of this namespace, there or not."""
        return self._disk.path(key)

    def forget_all(self) -> None:
        """Remove every pin, and every kept listing, of all namespaces. Raises OSError."""
        for folder in self._times():
            shutil.rmtree(folder)
        for home in self._base.iterdir():
            shutil.rmtree(home / "listings", ignore_errors=True)

    # -- pinning --------------------------------------------------------------------------------------------------

    def all(self) -> list[Pin]:
        """The pins of this namespace, by path."""
        return sorted(_pins(self._home), key=lambda pin: pin.path)

    def listings(self) -> set[str]:
        """Names of the listings that lead to what is pinned in this namespace."""
        return {name for pin in self.all() for name in pin.listings}

    def needed(self, keys: Mapping[str, int], path: str) -> int:
        """Bytes that all that is pinned would occupy if ``path`` were pinned, perhaps anew, with these entries."""
        mine = self._path(path)
        others = {
            key: size
            for folder in self._times()
            for name, pin in _named(folder)
            if folder / name != mine
            for key, size in pin.keys.items()
        }
        return sum({**others, **keys}.values())

    def add(self, pin: Pin) -> None:
        """Pin, or pin anew. Raises OSError."""
        document = {
            "format": FORMAT,
            "path": pin.path,
            "at": pin.at,
            "files": pin.files,
            "bytes": pin.bytes,
            "keys": dict(pin.keys),
            "listings": list(pin.listings),
        }
        self._home.mkdir(mode=0o700, exist_ok=True)
        write_whole(self._path(pin.path), json.dumps(document).encode())

    def remove(self, path: str) -> bool:
        """Unpin; False when that path was not pinned. Raises OSError."""
        try:
            self._path(path).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, path: str) -> Path:
        return self._home / blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _pins(folder: Path) -> Iterator[Pin]:
    for _, pin in _named(folder):
        yield pin


def _named(folder: Path) -> Iterable[tuple[str, Pin]]:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if not path.name.startswith("."):
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                    yield path.name, _load(path.read_bytes())


def _load(raw: bytes) -> Pin:
    document = json.loads(raw)
    if document["format"] != FORMAT:
        raise ValueError("a pin of another version")
    keys = {str(key): int(size) for key, size in document["keys"].items()}
    listings = tuple(str(name) for name in document["listings"])
    return Pin(
        str(document["path"]),
        keys,
        listings,
        int(document["files"]),
        int(document["bytes"]),
        float(document["at"]),
    )


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file of mode 0600, all of it or nothing. Raises OSError."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with open(fd, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
