"""The whole of it against a model: an archive that changes, a network that goes, a cache that rots, remounts.

The model knows, for every file, the versions that a listing may still show: those since the last time that all
listings expired. Invariant: whatever is read is exactly a part of one of them, the same one for as long as a handle is
open, or the error is one that the events of that time allow.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.cachedir import flip
from support.rawserver import HandClock, Hidden, Someone

from xnatfs.cache.store import Limits, Store
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.errors import ContentChanged, ContentDamaged, NotFound, ServerFault, TimedOut, Unreachable
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Pool, Tuning
from xnatfs.vfs import Timing, Vfs
from xnatfs.xnat.archive import Archive as RestArchive
from xnatfs.xnat.client import Client

EXAMPLES = int(os.environ.get("XNATFS_EXAMPLES", "25"))
FOLDER = "/P/S/E/1/R"
SIZES = [0, 1, 65_535, 65_536, 200_000, 700_000]
NAMES = ["a.bin", "b.bin", "folder/c.bin", "folder/d.bin", "e.bin", "gone.bin"]
TTL = 60.0


def bytes_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


class Mounted:
    """The core on a cache directory, from `Client` to `Vfs`."""

    def __init__(self, url: str, cache: Path, clock: HandClock) -> None:
        stats = Stats()
        client = Client(url, Someone("admin", Hidden("admin")), sleep=lambda _: None, stats=stats)
        self._archive = RestArchive(client)
        self._store = Store(cache, Limits(max_bytes=2**32), namespace="model", stats=stats, sweep_every=None)
        self._pool = Pool(self._archive, stats=stats, tuning=Tuning(backoff=0.0, grace=0.0))
        self._loaders = ThreadPoolExecutor(4, "listing")
        self.vfs = Vfs(
            self._archive,
            self._store,
            self._pool,
            submit=self._loaders.submit,
            stats=stats,
            timing=Timing(ttl=TTL, metadata=20, read=20),
            clock=clock,
        )

    def close(self) -> None:
        self.vfs.close()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._pool.close()
        self._store.close()
        self._archive.close()


class Handle:
    """An open file, and the versions that all that was read of it so far fits to."""

    def __init__(self, path: str, opened, versions: list[bytes]) -> None:
        self.path = path
        self.opened = opened
        self.versions = versions


class Model(RuleBasedStateMachine):
    digests = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="xnatfs-model-"))
        self.clock = HandClock()
        self.archive = Archive()
        session = self.archive.add_session(self.archive.add_subject(self.archive.add_project("P"), "S"), "E")
        self.resource = self.archive.add_resource(self.archive.add_scan(session, "1", type="T1"), "R")
        self.states: dict[str, list[bytes | None]] = {}
        """For each name what it has been since all listings expired last; None: not there."""
        self.count = 0
        for name, size in zip(NAMES, SIZES, strict=True):
            self.states[name] = [None]
            self.put(name, size)
        self.expired()
        self.server = DemoServer(self.archive).start()
        self.lost: Rule | None = None
        self.was_lost = False
        self.handles: list[Handle] = []
        self.mounted = Mounted(self.server.url, self.folder / "cache", self.clock)

    def teardown(self) -> None:
        try:
            for handle in self.handles:
                handle.opened.close()
            self.mounted.close()
        finally:
            self.server.stop()
            shutil.rmtree(self.folder)

    # --- the model -------------------------------------------------------------------------------------------------

    def put(self, name: str, size: int) -> None:
        self.count += 1
        data = bytes_of(self.count, size)
        # a real server's disk shows the second of the change
        moment = self.archive.clock() + timedelta(seconds=10 * self.count)
        stored = self.archive.add_file(self.resource, name, data, modified=moment)
        stored.has_digest = self.digests
        self.states[name].append(data)

    def expired(self) -> None:
        self.states = {name: [states[-1]] for name, states in self.states.items()}

    def versions(self, name: str) -> list[bytes]:
        return [state for state in self.states[name] if state is not None]

    def changed(self, name: str) -> bool:
        return len(self.states[name]) > 1

    def allowed(self, problem: Exception, *names: str) -> bool:
        """Does what has happened explain an error?"""
        if isinstance(problem, NotFound):
            return any(None in self.states[name] for name in names)
        if isinstance(problem, (ContentChanged, ContentDamaged)):
            return any(self.changed(name) for name in names)
        return self.lost is not None and isinstance(problem, (Unreachable, TimedOut, ServerFault))

    # --- what a user does --------------------------------------------------------------------------------------------

    @rule()
    def list_directory(self) -> None:
        try:
            found = set(self.mounted.vfs.directory(FOLDER).names())
        except Exception as problem:
            if not self.allowed(problem):
                raise
            return
        top = {name for name in NAMES if "/" not in name}
        assert {name for name in top if None not in self.states[name]} <= found
        assert found <= {name for name in top if self.versions(name)} | {"folder"}

    @rule(name=st.sampled_from(NAMES))
    def stat_file(self, name: str) -> None:
        try:
            size = self.mounted.vfs.getattr(f"{FOLDER}/{name}").size
        except Exception as problem:
            if not self.allowed(problem, name):
                raise
            return
        assert size in {len(version) for version in self.versions(name)}

    @rule(name=st.sampled_from(NAMES))
    def open_file(self, name: str) -> None:
        if len(self.handles) >= 3:
            return
        versions = self.versions(name)
        try:
            opened = self.mounted.vfs.open(f"{FOLDER}/{name}")
        except Exception as problem:
            if not self.allowed(problem, name):
                raise
            return
        fitting = [version for version in versions if len(version) == opened.size]
        assert fitting
        self.handles.append(Handle(name, opened, fitting))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), at=st.floats(0, 1), size=st.sampled_from([1, 4096, 65_536, 131_072, 10**6]))
    def read_some(self, which: int, at: float, size: int) -> None:
        handle = self.handles[which % len(self.handles)]
        offset = int(at * handle.opened.size)
        try:
            data = handle.opened.read(offset, size)
        except Exception as problem:
            # an open file may meet every change since it was opened, also one that the listings have expired over
            known = handle.versions != [self.states[handle.path][-1]]
            changed = isinstance(problem, (ContentChanged, ContentDamaged, NotFound)) and known
            if not changed and not self.allowed(problem, handle.path):
                raise
            return
        handle.versions = [version for version in handle.versions if version[offset : offset + size] == data]
        assert handle.versions, f"{handle.path}: {len(data)} bytes at {offset} are of no version, or of another one"

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2))
    def close_file(self, which: int) -> None:
        self.handles.pop(which % len(self.handles)).opened.close()

    @rule(name=st.sampled_from(NAMES))
    def read_whole(self, name: str) -> None:
        versions = self.versions(name)
        try:
            opened = self.mounted.vfs.open(f"{FOLDER}/{name}")
            try:
                data = opened.read(0, opened.size)
            finally:
                opened.close()
        except Exception as problem:
            if not self.allowed(problem, name):
                raise
            return
        assert data in versions

    @rule(name=st.sampled_from(NAMES), again=st.booleans())
    def read_parts_around_a_change(self, name: str, again: bool) -> None:
        """A part of one version stays in the cache while the next one takes its place, with as many bytes."""
        for _ in range(2):
            self.open_file(name)
            for at in (0.0, 0.9):
                if self.handles:
                    self.read_some(len(self.handles) - 1, at, 4096)
            if self.handles:
                self.close_file(len(self.handles) - 1)
            self.overwrite_in_place(name)
            if again:
                self.remount("", 0)

    # --- what happens to it ------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), size=st.sampled_from(SIZES))
    def overwrite(self, name: str, size: int) -> None:
        self.put(name, size)

    @rule(name=st.sampled_from(NAMES))
    def overwrite_in_place(self, name: str) -> None:
        """With as many bytes: neither size nor any date of the session tells."""
        if self.states[name][-1] is not None:
            self.put(name, len(self.states[name][-1]))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if self.states[name][-1] is not None and sum(s[-1] is not None for s in self.states.values()) > 2:
            self.archive.delete_file(self.resource, name)
            self.states[name].append(None)

    @rule()
    def expire(self) -> None:
        self.clock.now += TTL + 1
        self.expired()

    @rule(corrupt=st.sampled_from(["", "flip", "truncate", "delete", "garbage"]), seed=st.integers(0, 2**16))
    def remount(self, corrupt: str, seed: int) -> None:
        for handle in self.handles:
            handle.opened.close()
        self.handles.clear()
        self.mounted.close()
        if corrupt:
            self.rot(corrupt, random.Random(seed))
        self.mounted = Mounted(self.server.url, self.folder / "cache", self.clock)
        self.expired()

    def rot(self, how: str, chance: random.Random) -> None:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.stat().st_size]
        if not files:
            return
        path = chance.choice(files)
        size = path.stat().st_size
        if how == "flip":
            flip(path, chance.randrange(size), chance.randrange(8))
        elif how == "truncate":
            os.truncate(path, chance.randrange(size))
        elif how == "delete":
            path.unlink()
        else:
            path.write_bytes(chance.randbytes(size))

    @rule(action=st.sampled_from(["reset", "close", "cut"]))
    def lose_network(self, action: str) -> None:
        if self.lost is None:
            self.lost = self.server.faults.add(Rule(action, count=None))

    @precondition(lambda self: self.lost is not None)
    @rule()
    def get_network_back(self) -> None:
        assert self.lost is not None
        self.server.faults.remove(self.lost)
        self.lost = None

    @invariant()
    def local_answers_come_without_network(self) -> None:
        assert self.mounted.vfs.statfs().total > 0


class ModelWithoutDigests(Model):
    """The same where the server never computed a digest: a change in place, of as many bytes, is not to be seen."""

    digests = False

    def expired(self) -> None:
        """What is cached stays as good as the listing can tell: versions of one length in a row are one to it."""
        for name, states in self.states.items():
            kept = [states.pop()]
            while states and kept[0] is not None and states[-1] is not None and len(states[-1]) == len(kept[0]):
                kept.insert(0, states.pop())
            self.states[name] = kept


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("remount", [True, False])
def test_a_cached_part_of_one_version_is_not_joined_with_another(tmp_path, digests, remount):
    """Also where nobody has had the file open in between, and the listing does not tell."""
    archive = Archive()
    session = archive.add_session(archive.add_subject(archive.add_project("P"), "S"), "E")
    resource = archive.add_resource(archive.add_scan(session, "1", type="T1"), "R")
    old, new = bytes_of(1, 900_000), bytes_of(2, 900_000)
    path = f"{FOLDER}/a.bin"

    def put(data: bytes, seconds: float) -> None:
        archive.add_file(resource, "a.bin", data, modified=archive.clock() + timedelta(seconds=seconds))
        resource.files["a.bin"].has_digest = digests

    put(old, 0)
    # the digest of the old one stays in the listing, as it does until that expires
    with DemoServer(archive) as server:
        mounted = Mounted(server.url, tmp_path / "cache", HandClock())
        try:
            first = mounted.vfs.open(path)
            assert first.read(0, 1000) == old[:1000]
            first.close()
            put(new, 1000)
            if remount and not digests:  # with one, a new mount has another entry anyhow
                mounted.close()
                mounted = Mounted(server.url, tmp_path / "cache", HandClock())
            second = mounted.vfs.open(path)
            with pytest.raises(ContentChanged):
                second.read(500_000, 1000)
            with pytest.raises(ContentChanged):
                second.read(500_000, 1000)
            second.close()
            third = mounted.vfs.open(path)
            assert third.read(500_000, 1000) == new[500_000:501_000]
            assert third.read(0, 1000) == new[:1000]
            third.close()
        finally:
            mounted.close()


LIMITS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    derandomize="XNATFS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)
TestModel = Model.TestCase
TestModel.settings = LIMITS
TestModelWithoutDigests = ModelWithoutDigests.TestCase
TestModelWithoutDigests.settings = LIMITS
for _case in (TestModel, TestModelWithoutDigests):
    _case.pytestmark = [pytest.mark.timeout(120 if EXAMPLES < 100 else 3600)]
del _case
