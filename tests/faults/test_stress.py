"""Everything at once on one cache directory, in rounds between which it is damaged: no byte that is served is wrong.

Two stores with a pool each, as two mounts have them; readers of single files and of a series; downloads that break;
files that are replaced on the server, with and without digests; eviction, clearing, sweeps and audits meanwhile.
XNATFS_STRESS=300 makes it as many rounds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.cachedir import entry_files, open_store
from support.fakes import FakeDownload, FakeFile, FakeMember, FakeSource, content, zip_of

from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.identity import Identity
from xnatfs.cache.store import Limits, Store
from xnatfs.deadlines import Deadline
from xnatfs.errors import ContentChanged, ContentDamaged, Unreachable, XnatfsError
from xnatfs.opened import ArchiveFile
from xnatfs.transfer.pool import Pool, Tuning

ROUNDS = int(os.environ.get("XNATFS_STRESS", "6"))
URI = "/experiments/E/scans/1/resources/9"
SIZES = [1000, BLOCK, 3 * BLOCK + 17, 9 * BLOCK, 20 * BLOCK + 4321, 40 * BLOCK]
SECONDS = 20.0


class Server(FakeSource):
    """Files of two versions each, the second with another date; downloads are cut now and then."""

    def __init__(self, chance: random.Random) -> None:
        self.versions = {
            f"{number:02}{kind}": (content(size, 2 * number), content(size, 2 * number + 1))
            for number, size in enumerate(SIZES)
            for kind in ("digest", "plain")
        }
        files = {path: old for path, (old, _) in self.versions.items()}
        prefix = "S/scans/1-T/resources/DICOM/files/"
        super().__init__(files, {URI: zip_of((prefix + path, data) for path, data in files.items())}, piece=50_000)
        self._chance = chance
        self._new = {id(new) for _, new in self.versions.values()}
        self.prepare = self._cut_and_date

    def _cut_and_date(self, download: FakeDownload) -> None:
        if download.path != URI:
            download.last_modified = 2000.0 if id(download.body.obj) in self._new else 1000.0
        if self._chance.random() < 0.2:
            download.cut = self._chance.randrange(len(download.body) + 1)

    def replace(self, path: str) -> None:
        """By the other version."""
        old, new = self.versions[path]
        self.files[path] = new if self.files[path] is old else old

    def identity(self, path: str) -> Identity:
        data = self.versions[path][0]
        return Identity(path, len(data), hashlib.md5(data).hexdigest() if path.endswith("digest") else "")


class Mount:
    """A store and a pool, as one mount has them; the resource is its own `Siblings`."""

    key = resource_uri = URI

    def __init__(self, root: Path, server: Server, limits: Limits, seed: int) -> None:
        self.store: Store = open_store(root, limits, temp=root.parent)
        self.server = server
        self.pool = Pool(server, workers=3, tuning=Tuning(backoff=0.0), rng=random.Random(seed))

    def members(self) -> list[Any]:
        return [
            FakeMember(path, identity.size, identity.digest, FakeFile(path), lambda it=identity: self.store.open(it))  # type: ignore[misc]
            for path in self.server.versions
            for identity in [self.server.identity(path)]
        ]

    def open(self, path: str, siblings: bool) -> ArchiveFile:
        entry = self.store.open(self.server.identity(path))
        reader = self.pool.reader(entry, FakeFile(path), self if siblings else None)
        return ArchiveFile(entry.size, "v", entry, reader, lambda: Deadline(SECONDS))

    def close(self) -> None:
        self.pool.close()
        self.store.close()


def read(mount: Mount, chance: random.Random, seen: Counter[str]) -> None:
    """One handle: some reads of it, all of one version."""
    path = chance.choice(sorted(mount.server.versions))
    possible = mount.server.versions[path][: 1 if path.endswith("digest") else 2]
    file = mount.open(path, siblings=chance.random() < 0.5)
    whole = chance.random() < 0.4
    got: list[tuple[int, bytes]] = []
    try:
        for number in range(-(-file.size // BLOCK) if whole else chance.randint(1, 6)):
            offset = number * BLOCK if whole else chance.randrange(file.size)
            got.append((offset, file.read(offset, BLOCK if whole else chance.randint(1, 3 * BLOCK))))
            seen["read"] += 1
    except (Unreachable, ContentChanged, ContentDamaged) as error:
        seen[type(error).__name__] += 1
    finally:
        file.close()
    fits = [data for data in mount.server.versions[path] if all(data[at : at + len(part)] == part for at, part in got)]
    assert fits, f"{path}: bytes of no version, or of two"
    if whole and sum(len(part) for _, part in got) == file.size:
        assert any(data is one for data in possible for one in fits), f"{path}: another version than its digest says"
        seen["whole"] += 1


def damage(root: Path, chance: random.Random) -> None:
    for path in chance.sample(entry_files(root), len(entry_files(root)) // 3):
        size = path.stat().st_size
        with path.open("r+b") as file:
            if chance.random() < 0.3 or not size:
                file.truncate(chance.randrange(size + 1))
                continue
            for _ in range(chance.randint(1, 4)):
                file.seek(chance.randrange(size))
                file.write(chance.randbytes(1))


def test_whatever_happens_at_once_every_byte_is_of_one_version(tmp_path: Path) -> None:
    root, seen = tmp_path / "cache", Counter[str]()
    for number in range(ROUNDS):
        chance = random.Random(number)
        server = Server(random.Random(number))
        limits = Limits(max_bytes=chance.choice([2_000_000, 6_000_000, 1 << 30]))
        mounts = [Mount(root, server, limits, number) for _ in range(2)]
        over = threading.Event()
        jobs: list[Callable[[], object]] = [
            mounts[0].store.sweep,
            mounts[1].store.verify,
            mounts[1].store.clear,
            *(functools.partial(server.replace, path) for path in server.versions),
        ]

        def meddle(jobs: list[Callable[[], object]] = jobs, over: threading.Event = over, seed: int = number) -> None:
            which = random.Random(seed)
            while not over.wait(0.005):
                with contextlib.suppress(XnatfsError):
                    which.choice(jobs)()

        def reads(seed: int, mounts: list[Mount] = mounts) -> None:
            mine = random.Random(seed)
            for _ in range(12):
                read(mine.choice(mounts), mine, seen)

        meddling = threading.Thread(target=meddle)
        meddling.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(reads, range(8 * number, 8 * number + 8)))
        finally:
            over.set()
            meddling.join()
            for mount in mounts:
                mount.close()
            for download in server.downloads:
                download.close()
        if root.exists():
            damage(root, chance)
    assert seen["read"] > 50 * ROUNDS
    assert seen["whole"] > 5 * ROUNDS
