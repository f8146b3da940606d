"""Whatever is read by however many readers from whatever source: slices of the file, or an error."""

from __future__ import annotations

import itertools
import os
import random
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import PATIENCE, FakeDownload, FakeEntry, FakeFile, FakeResource, FakeSource, content, md5, until

from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.identity import Identity
from xnatfs.cache.store import Limits, Store
from xnatfs.deadlines import Deadline
from xnatfs.errors import ContentChanged, ContentDamaged, Unreachable
from xnatfs.stats import Stats
from xnatfs.transfer import pool as pool_module
from xnatfs.transfer.pool import Pool, Tuning

KIB = 1024
MIB = 1024 * KIB
FILE = FakeFile("f")
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class OwnedLock:
    """A lock that knows who holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.owner: int | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got = self._lock.acquire(blocking, timeout)
        if got:
            self.owner = threading.get_ident()
        return got

    def release(self) -> None:
        self.owner = None
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self.owner == threading.get_ident()


@pytest.fixture(autouse=True)
def no_lock_across_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every call of an entry or a source checks that the pool's lock is not held by its thread."""
    locks: list[OwnedLock] = []
    broken: list[str] = []

    def make() -> OwnedLock:
        locks[:] = [OwnedLock()]  # of the latest pool
        return locks[0]

    def guarded(owner: type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if any(lock.owner == threading.get_ident() for lock in locks):
                broken.append(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("has", "missing", "write", "reset", "retain", "release"):
        guarded(FakeEntry, name)
    for name in ("open_stream", "open_zip"):
        guarded(FakeSource, name)
    for name in ("readinto", "close"):
        guarded(FakeDownload, name)
    guarded(FakeResource, "members")
    threads = types.SimpleNamespace(Lock=make, current_thread=threading.current_thread)
    monkeypatch.setattr(pool_module, "threading", threads)
    yield
    assert not broken


@dataclass
class World:
    size: int
    honours: bool
    known: bool
    tells_length: bool
    piece: int
    cuts: list[int]
    digest: bool
    workers: int
    reads: list[list[tuple[int, int]]]


def worlds(**fixed: Any) -> st.SearchStrategy[World]:
    parts: dict[str, Any] = {
        "size": st.one_of(st.integers(1, 3 * BLOCK), st.integers(1, 24 * BLOCK)),
        "honours": st.booleans(),
        "known": st.booleans(),
        "tells_length": st.booleans(),
        "piece": st.sampled_from([1000, 65536, 100_000, 1 << 30]),
        "cuts": st.just([]),
        "digest": st.booleans(),
        "workers": st.sampled_from([1, 2, 8]),
        "reads": st.lists(
            st.lists(st.tuples(st.integers(0, 24 * BLOCK), st.integers(1, 4 * BLOCK)), max_size=8),
            min_size=1,
            max_size=5,
        ),
    }
    return st.builds(World, **{**parts, **fixed})


class Run:
    """Reads of several readers, each on a thread of its own."""

    def __init__(self, world: World, entry: Any, source: FakeSource | None = None) -> None:
        self.world = world
        self.data = content(world.size)
        self.entry = entry
        self.source = source or FakeSource(
            {FILE.path: self.data},
            honours=world.honours,
            ranges=world.honours if world.known else None,
            tells_length=world.tells_length,
            piece=world.piece,
        )
        cuts = list(world.cuts)

        def prepare(download: FakeDownload) -> None:
            if cuts:
                download.cut = cuts.pop(0)

        if source is None:
            self.source.prepare = prepare
        self.stats = Stats()
        self.failures: list[BaseException] = []
        self.right = True

    def one(self, pool: Pool, reads: list[tuple[int, int]]) -> None:
        reader = pool.reader(self.entry, FILE)
        try:
            for offset, size in reads:
                try:
                    reader.ensure(offset, size, Deadline(PATIENCE))
                except (Unreachable, ContentChanged, ContentDamaged) as error:
                    self.failures.append(error)
                    continue
                clipped = max(0, min(size, self.world.size - offset))
                data = os.pread(self.entry.fileno, clipped, offset) if clipped else b""
                if data != self.data[offset : offset + size]:
                    self.right = False
        finally:
            reader.close()

    def all(self) -> None:
        pool = Pool(
            self.source,
            workers=self.world.workers,
            stats=self.stats,
            tuning=Tuning(backoff=0.0),
            rng=random.Random(3),
        )
        try:
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda reads: self.one(pool, reads), self.world.reads))
        finally:
            pool.close()


class PreadEntry(FakeEntry):
    """A fake entry whose bytes stand in a memory file, so that reads are done as on the real one."""

    def __init__(self, size: int, digest: str = "") -> None:
        super().__init__(size, digest)
        self.fileno = os.memfd_create("entry")
        os.ftruncate(self.fileno, size)

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:
        for a, b in self.missing(block, block + -(-len(data) // BLOCK)):
            os.pwrite(self.fileno, memoryview(data)[(a - block) * BLOCK : (b - block) * BLOCK], a * BLOCK)
        super().write(block, data)

    def close(self) -> None:
        os.close(self.fileno)


@contextmanager
def ran(world: World, prepare: Callable[[Run], None] = lambda run: None) -> Iterator[Run]:
    """All readers of a world, on a fake entry."""
    entry = PreadEntry(world.size, md5(content(world.size)) if world.digest else "")
    try:
        run = Run(world, entry)
        prepare(run)
        run.all()
        yield run
        assert entry.users == 1
    finally:
        entry.close()


@SLOW
@given(world=worlds())
def test_every_read_equals_a_slice(world: World) -> None:
    with ran(world) as run:
        assert run.right
        assert run.failures == []
        if not world.honours:
            assert len(run.source.asked) <= 1  # never several streams of a file that cannot be had in parts
        if world.size <= 4 * BLOCK:
            assert len(run.source.asked) <= 1


@SLOW
@given(world=worlds(cuts=st.lists(st.integers(0, 20 * BLOCK), max_size=6)))
def test_every_read_from_a_source_that_breaks_is_a_slice_or_an_error(world: World) -> None:
    with ran(world) as run:
        assert run.right
        if run.failures:
            assert len(world.cuts) > 2  # two breaks are mended


@SLOW
@given(world=worlds(digest=st.just(True)), when=st.integers(0, 4), dated=st.booleans())
def test_a_file_that_changes_is_never_a_mixture_that_counts_as_complete(world: World, when: int, dated: bool) -> None:
    changed = content(world.size, 5)
    bodies = itertools.count(1)

    def prepare(download: FakeDownload) -> None:
        new = next(bodies) > when
        if dated:
            download.last_modified = 200.0 if new else 100.0
        if new:
            download.body = memoryview(changed)[download.start : download.start + len(download.body)]

    with ran(world, lambda run: setattr(run.source, "prepare", prepare)) as run:
        if run.entry.complete:
            assert md5(os.pread(run.entry.fileno, world.size, 0)) == md5(run.data)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds(cuts=st.lists(st.integers(0, 20 * BLOCK), max_size=2)))
def test_the_same_with_entries_on_disk(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory: Path = tmp_path_factory.mktemp("cache")
    store = Store(directory, Limits(1 << 30), namespace="n" * 16, sweep_every=None)
    identity = Identity("/f", world.size, md5(content(world.size)) if world.digest else "")
    entry = store.open(identity)
    try:
        run = Run(world, entry)
        run.all()
        assert run.right
        assert run.failures == []
        assert entry.users == 1
    finally:
        entry.release()
        store.close()


def test_a_series_into_entries_on_disk(tmp_path: Path) -> None:
    files = {f"{number:03}.dcm": content(3000 + number * 1777, number) for number in range(60)}
    store = Store(tmp_path / "cache", Limits(1 << 30), namespace="n" * 16, sweep_every=None)
    resource = FakeResource(files)

    def open_entry(path: str) -> Any:
        return store.open(Identity(path, len(files[path]), md5(files[path])))

    resource._opener = lambda path: lambda: open_entry(path)  # type: ignore[method-assign,assignment]
    source = FakeSource(dict(files), {resource.resource_uri: resource.zip()}, piece=5000)
    pool = Pool(source, stats=Stats())
    paths = list(files)
    random.Random(1).shuffle(paths)
    try:
        for path in paths:
            entry = open_entry(path)
            reader = pool.reader(entry, FakeFile(path), resource)
            reader.ensure(0, len(files[path]), Deadline(PATIENCE))
            assert os.pread(entry.fileno, len(files[path]), 0) == files[path]
            reader.close()
            entry.release()
        assert len(source.asked) == 2
    finally:
        pool.close()
        store.close()


def test_what_an_archive_is_just_writing_is_waited_for_and_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk: what a single download brings meanwhile would not be kept, however often it is asked for."""
    data = content(20 * BLOCK)
    store = Store(tmp_path / "cache", Limits(1 << 30), namespace="n" * 16, sweep_every=None)
    entry = store.open(Identity("/f", len(data), md5(data)))
    writing, go_on = threading.Event(), threading.Event()
    reserve = store.reserve

    def slow(*args: Any) -> bool:
        writing.set()
        assert go_on.wait(PATIENCE)
        return reserve(*args)

    monkeypatch.setattr(store, "reserve", slow)
    source = FakeSource({FILE.path: data})
    pool = Pool(source)
    reader = pool.reader(entry, FILE)
    try:
        with ThreadPoolExecutor(2) as threads:
            writer = threads.submit(entry.write, 0, data)
            assert writing.wait(PATIENCE)
            reading = threads.submit(reader.ensure, 5 * BLOCK, BLOCK, Deadline(PATIENCE))
            until(lambda: any(feed.waiters for feed in pool._context.feeds.values()))
            go_on.set()
            writer.result(PATIENCE)
            reading.result(PATIENCE)
        assert source.asked == []
        assert os.pread(entry.fileno, BLOCK, 5 * BLOCK) == data[5 * BLOCK : 6 * BLOCK]
    finally:
        go_on.set()
        reader.close()
        entry.release()
        pool.close()
        store.close()
