"""Cache directories as tests need them: what a kill leaves behind, and entries read with suspicion."""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

from xnatfs.cache import index as indexes
from xnatfs.cache.blocks import BLOCK, block_count, block_length
from xnatfs.cache.entry import Entry
from xnatfs.cache.identity import Identity
from xnatfs.cache.store import Limits, Store

NAMESPACE = "0a1b2c"
ROOMY = Limits(max_bytes=1 << 30)


OPENED: weakref.WeakSet[Store] = weakref.WeakSet()


def open_store(root: Path, limits: Limits = ROOMY, **options: Any) -> Store:
    """A store without threads of its own, closed after the test at the latest."""
    store = Store(root, limits, namespace=NAMESPACE, sweep_every=None, **options)
    OPENED.add(store)
    return store


def identity_of(
    content: bytes, *, digest: bool = True, uri: str = "/experiments/E/files/a", stamp: str = ""
) -> Identity:
    return Identity(uri, len(content), hashlib.md5(content).hexdigest() if digest else "", stamp)


def block(content: bytes, number: int) -> bytes:
    return content[number * BLOCK : number * BLOCK + block_length(len(content), number)]


def fill(entry: Entry, content: bytes) -> None:
    """Write what is missing, run by run."""
    for first, last in entry.missing(0, block_count(len(content))):
        entry.write(first, content[first * BLOCK : last * BLOCK])


def keep(store: Store, content: bytes, **options: Any) -> Identity:
    """Have a whole file in the store, closed."""
    identity = identity_of(content, **options)
    entry = store.open(identity)
    fill(entry, content)
    assert entry.complete
    entry.release()
    return identity


def readable(entry: Entry, content: bytes) -> set[int]:
    """The blocks that the entry says may be read; asserts that each of them reads as the truth."""
    there = set()
    for number in range(block_count(len(content))):
        if entry.has(number * BLOCK, BLOCK):
            there.add(number)
            got = os.pread(entry.fileno, block_length(len(content), number), number * BLOCK)
            assert got == block(content, number), f"block {number} is wrong"
    return there


def killed_copy(root: Path, to: Path) -> Path:
    """The directory as a process finds it that starts after this one was killed right now: no locks, no farewell."""
    return Path(shutil.copytree(root, to))


def entry_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("v*/*/??/*") if path.is_file())


def index_start(content: bytes) -> int:
    return indexes.start(len(content))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit, as a disk does: behind everybody's back, with the dates as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
