"""The whole of it against a model: an archive that changes, a network that goes, a cache that rots, remounts.

The model knows, for every file, the versions that a listing may still show: those since the last time that all
listings expired. Invariant: whatever is read is exactly a part of one of them, the same one for as long as a handle is
open, or the error is one that the events of that time allow.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.cachedir import flip
from support.faces import start_mount, stop_mount
from support.rawserver import HandClock, Hidden, Someone

from xnatfs.cache.store import Limits, Store
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.errors import AccessDenied, ContentChanged, ContentDamaged, NotFound, ServerFault, TimedOut, Unreachable
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Pool, Tuning
from xnatfs.vfs import Timing, Vfs
from xnatfs.xnat.archive import Archive as RestArchive
from xnatfs.xnat.client import Client
from xnatfs.xnat.login import LONGEST_UNHEARD

EXAMPLES = int(os.environ.get("XNATFS_EXAMPLES", "16"))
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
        self._clock = clock
        client = Client(url, Someone("admin", Hidden("admin")), sleep=lambda _: None, clock=clock, stats=stats)
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

    def kill(self) -> None:
        """What it does from now on is lost: its cache is as it was."""
        there = self._store.root
        shutil.copytree(there, there.with_name("killed"))
        self.close()
        shutil.rmtree(there)
        there.with_name("killed").rename(there)

    def expire(self) -> None:
        self._clock.now += TTL + 1

    def close(self) -> None:
        self.vfs.close()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._pool.close()
        self._store.close()
        self._archive.close()


EVENTS = {"overwrite", "delete", "rename", "expire", "remount", "kill", "corrupt", "sessions", "right", "network"}
CALLS = ("list", "stat", "open", "read", "read whole")
T = TypeVar("T")


class Handle:
    """An open file, what was read of it, and the versions that all of that fits to."""

    def __init__(self, path: str, opened: Any, versions: list[bytes]) -> None:
        self.path = path
        self.opened = opened
        self.versions = versions
        self.reads: list[tuple[int, int, bytes]] = []

    def fits(self, version: bytes) -> bool:
        return all(version[offset : offset + size] == data for offset, size, data in self.reads)


class Model(RuleBasedStateMachine):
    digests = True
    remounts_quickly = True
    wanted = EVENTS | {f"{call}: right" for call in CALLS} | {"open: error", "read whole: error"}
    """What a run of this must have tried, or it shows nothing."""
    happened: ClassVar[Counter[str]] = Counter()
    """How often which call was right, or an error that had its reason; and how often what happened to it."""

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
        self.troubles: dict[str, tuple[Rule, int]] = {}
        """What is wrong now, and for how many calls more."""
        self.over = False
        """Has one of them just ended? Who joins a request that was under way then shares its fate, once."""
        self.handles: list[Handle] = []
        self.mounted = self.mount()

    def mount(self) -> Mounted:
        return Mounted(self.server.url, self.folder / "cache", self.clock)

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
        self.place(name, bytes_of(self.count + 1, size))

    def place(self, name: str, data: bytes) -> None:
        self.count += 1
        self.happened["overwrite"] += 1
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
        if isinstance(problem, AccessDenied):
            return "right" in self.troubles
        return "network" in self.troubles and isinstance(problem, (Unreachable, TimedOut, ServerFault))

    def outlived(self, problem: Exception) -> bool:
        """Is it an error that an open file may meet when it has changed, however long ago?"""
        return isinstance(problem, (ContentChanged, ContentDamaged, NotFound))

    def tried(self, what: str, call: Callable[[], T], *names: str, stale: bool = False) -> T | None:
        """What a call gives; None if it ends in an error that what has happened explains."""
        over, self.over = self.over, False
        try:
            result = call()
        except Exception as problem:
            if not (stale and self.outlived(problem)) and not self.allowed(problem, *names):
                if over:
                    return self.tried(what, call, *names, stale=stale)
                raise
            self.happened[f"{what}: error"] += 1
            self.troubles_go_on()
            return None
        self.happened[f"{what}: right"] += 1
        self.troubles_go_on()
        return result

    # --- what a user does --------------------------------------------------------------------------------------------

    @rule()
    def list_directory(self) -> None:
        found = self.tried("list", lambda: set(self.mounted.vfs.directory(FOLDER).names()))
        if found is not None:
            top = {name for name in NAMES if "/" not in name}
            assert {name for name in top if None not in self.states[name]} <= found
            assert found <= {name for name in top if self.versions(name)} | {"folder"}

    @rule(name=st.sampled_from(NAMES))
    def stat_file(self, name: str) -> None:
        size = self.tried("stat", lambda: self.mounted.vfs.getattr(f"{FOLDER}/{name}").size, name)
        assert size is None or size in {len(version) for version in self.versions(name)} | self.sizes_in_use(name)

    def sizes_in_use(self, _name: str) -> set[int]:
        """Of versions that are past, and may be shown nevertheless."""
        return set()

    @rule(name=st.sampled_from(NAMES))
    def open_file(self, name: str) -> None:
        if len(self.handles) >= 3:
            return
        versions = self.versions(name)
        opened = self.tried("open", lambda: self.mounted.vfs.open(f"{FOLDER}/{name}"), name)
        if opened is not None:
            fitting = [version for version in versions if len(version) == opened.size]
            assert fitting
            self.handles.append(Handle(name, opened, fitting))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), at=st.floats(0, 1), size=st.sampled_from([1, 4096, 65_536, 131_072, 10**6]))
    def read_some(self, which: int, at: float, size: int) -> None:
        handle = self.handles[which % len(self.handles)]
        offset = int(at * handle.opened.size)
        # an open file may meet every change since it was opened, also one that the listings have expired over
        stale = handle.versions != [self.states[handle.path][-1]]
        data = self.tried("read", lambda: handle.opened.read(offset, size), handle.path, stale=stale)
        if data is None:
            return
        handle.reads.append((offset, size, data))
        handle.versions = [version for version in handle.versions if handle.fits(version)]
        assert handle.versions, f"{handle.path}: {len(data)} bytes at {offset} are of no version, or of another one"

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2))
    def close_file(self, which: int) -> None:
        self.handles.pop(which % len(self.handles)).opened.close()

    @rule(name=st.sampled_from(NAMES))
    def read_whole(self, name: str) -> None:
        versions = self.versions(name)

        def read() -> bytes:
            opened = self.mounted.vfs.open(f"{FOLDER}/{name}")
            try:
                return bytes(opened.read(0, opened.size))
            finally:
                opened.close()

        data = self.tried("read whole", read, name)
        assert data is None or data in versions

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
            if again and self.remounts_quickly:
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
            self.happened["delete"] += 1

    @rule()
    def expire(self) -> None:
        self.mounted.expire()
        self.expired()
        self.happened["expire"] += 1

    @rule(corrupt=st.sampled_from(["", "flip", "truncate", "delete", "garbage"]), seed=st.integers(0, 2**16))
    def remount(self, corrupt: str, seed: int) -> None:
        self.happened["remount"] += 1
        for handle in self.handles:
            handle.opened.close()
        self.handles.clear()
        self.mounted.close()
        if corrupt:
            self.rot(corrupt, random.Random(seed))
        self.mounted = self.mount()
        self.expired()

    @rule(corrupt=st.sampled_from(["", "", "flip", "truncate", "delete", "garbage"]), seed=st.integers(0, 2**16))
    def kill_and_remount(self, corrupt: str, seed: int) -> None:
        """The next one finds what lay on the disk at that moment."""
        self.happened["kill"] += 1
        self.mounted.kill()
        for handle in self.handles:
            handle.opened.close()
        self.handles.clear()
        if corrupt:
            self.rot(corrupt, random.Random(seed))
        self.mounted = self.mount()
        self.expired()

    def rot(self, how: str, chance: random.Random) -> None:
        files = [path for path in sorted((self.folder / "cache").rglob("*")) if path.is_file() and path.stat().st_size]
        if not files:
            return
        self.happened["corrupt"] += 1
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

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, old: str, new: str) -> None:
        """On the server, where that is deleting and writing."""
        data = self.states[old][-1]
        if data is not None and old != new:
            self.place(new, data)
            self.delete(old)
            self.happened["rename"] += 1

    @rule()
    def end_sessions(self) -> None:
        """The login expires; nobody may notice."""
        self.happened["sessions"] += 1
        self.server.logins.expire_all()

    @rule(calls=st.integers(1, 5))
    def withdraw_the_right(self, calls: int) -> None:
        self.trouble("right", Rule("status", path="/experiments/|/projects/P", status=403, count=None), calls)

    @rule(action=st.sampled_from(["reset", "close", "cut"]), calls=st.integers(1, 5))
    def lose_network(self, action: str, calls: int) -> None:
        self.trouble("network", Rule(action, count=None), calls)

    def trouble(self, kind: str, rule: Rule, calls: int) -> None:
        """It lasts for some calls."""
        if kind not in self.troubles:
            self.troubles[kind] = (self.server.faults.add(rule), calls)

    def troubles_go_on(self) -> None:
        for kind, (fault, calls) in list(self.troubles.items()):
            if calls:
                self.troubles[kind] = fault, calls - 1
            else:
                self.happened[kind] += self.server.faults.hits(fault) > 0
                self.server.faults.remove(fault)
                del self.troubles[kind]
                self.over = True
                self.clock.now += LONGEST_UNHEARD  # logins that were cut off are tried again after a pause

    @invariant()
    def local_answers_come_without_network(self) -> None:
        assert self.mounted.vfs.statfs().total > 0


class ModelWithoutDigests(Model):
    """The same where the server never computed a digest: a change in place, of as many bytes, is not to be seen."""

    digests = False
    happened: ClassVar[Counter[str]] = Counter()

    def place(self, name: str, data: bytes) -> None:
        """Whoever has it open and nothing of it yet may get this version as well as his."""
        super().place(name, data)
        for handle in getattr(self, "handles", []):
            if handle.path == name and handle.opened.size == len(data) and handle.fits(data):
                handle.versions = [*handle.versions, data]

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


class Opened:
    """An open file of a real mount."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        pieces = []
        while size and (piece := os.pread(self._descriptor, size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a mount that was killed
            os.close(self._descriptor)


class RealMount:
    """A mount through the kernel, with the few calls of `Vfs` that the model makes."""

    def __init__(self, url: str, folder: Path) -> None:
        options = ["--ttl", "3600", "--metadata-timeout", "5", "--read-timeout", "5"]
        self._face = start_mount(url, folder / "mnt", folder, *options, cache_dir=folder / "cache")
        self.vfs = self

    def directory(self, path: str) -> Any:
        found = self._face.listdir(path)
        return SimpleNamespace(names=lambda: found)

    def getattr(self, path: str) -> Any:
        return self._face.stat(path)

    def open(self, path: str) -> Opened:
        return Opened(self._face.path(path))

    def statfs(self) -> Any:
        return SimpleNamespace(total=os.statvfs(self._face.root).f_blocks)

    def expire(self) -> None:
        assert Path(self._face.path("/.xnat/refresh-all")).read_bytes() == b"refreshed\n"

    def kill(self) -> None:
        self._face.kill()
        subprocess.run(["umount", "-l", str(self._face.root)], check=True)

    def close(self) -> None:
        stop_mount(self._face)


class ModelOfAMount(Model):
    """The same through the kernel and a process that is really killed; time to live passes by a refresh."""

    remounts_quickly = False
    wanted = EVENTS - {"network", "right"} | {f"{call}: right" for call in CALLS}
    happened: ClassVar[Counter[str]] = Counter()

    def mount(self) -> Any:
        """It can only begin while the server is there."""
        self.past: dict[str, set[int]] = {}
        for fault, _ in self.troubles.values():
            self.server.faults.remove(fault)
        self.troubles.clear()
        return RealMount(self.server.url, self.folder)

    def expired(self) -> None:
        for handle in getattr(self, "handles", []):
            self.past.setdefault(handle.path, set()).add(handle.opened.size)
        super().expired()

    def sizes_in_use(self, name: str) -> set[int]:
        """While a version is being read its size is shown, and when a refresh met it, until soon after it is closed."""
        return self.past.get(name, set()) | {one.opened.size for one in self.handles if one.path == name}

    def outlived(self, problem: Exception) -> bool:
        return isinstance(problem, OSError) and problem.errno in (errno.ESTALE, errno.EIO, errno.ENOENT)

    def allowed(self, problem: Exception, *names: str) -> bool:
        code = problem.errno if isinstance(problem, OSError) else None
        if code == errno.ENOENT:
            return any(None in self.states[name] for name in names)
        if code == errno.EACCES:
            return "right" in self.troubles
        changed = any(self.changed(name) for name in names)
        if code == errno.ESTALE:
            return changed or any(one.path in names and one.versions != self.states[one.path] for one in self.handles)
        return code == errno.EIO and (changed or "network" in self.troubles)

    @rule(calls=st.integers(1, 5))
    def lose_network(self, calls: int) -> None:
        """Answers that are not tried again: pauses would take most of the time here."""
        self.trouble("network", Rule("status", status=500, count=None), calls)


class Exercised:
    """A state machine as a test that fails, too, when it has not tried what it is there for."""

    def runTest(self) -> None:
        happened = type(self)._machine.happened  # type: ignore[attr-defined]
        happened.clear()
        super().runTest()  # type: ignore[misc]
        print(dict(happened))
        assert type(self)._machine.wanted - set(+happened) == set()  # type: ignore[attr-defined]


LIMITS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize="XNATFS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)


class TestModel(Exercised, Model.TestCase):
    _machine = Model
    settings = LIMITS


class TestModelWithoutDigests(Exercised, ModelWithoutDigests.TestCase):
    _machine = ModelWithoutDigests
    settings = LIMITS


@pytest.mark.mount
class TestModelOfAMount(Exercised, ModelOfAMount.TestCase):
    _machine = ModelOfAMount
    settings = settings(LIMITS, max_examples=max(3, EXAMPLES // 10), stateful_step_count=25)


for _case in (TestModel, TestModelWithoutDigests, TestModelOfAMount):
    _case.pytestmark = [*getattr(_case, "pytestmark", []), pytest.mark.timeout(120 if EXAMPLES < 100 else 3600)]
del _case
