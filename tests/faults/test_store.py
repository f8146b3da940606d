"""The store: limits, rights, and a disk that does not play along. Time is a clock that the tests tick."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import random
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cachedir import (
    NAMESPACE,
    block,
    entry_files,
    fill,
    flip,
    identity_of,
    keep,
    open_store,
    readable,
)

from xnatfs.cache import audit, disk, eviction, private
from xnatfs.cache import index as indexes
from xnatfs.cache import store as store_module
from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.cache.hashing import Buffers
from xnatfs.cache.identity import Identity, key_of
from xnatfs.cache.idle import Idle
from xnatfs.cache.ledger import Counts, Ledger
from xnatfs.cache.store import Limits, Store
from xnatfs.errors import CacheFault, ContentDamaged
from xnatfs.stats import Stats
from xnatfs.xnat.records import FileRecord

CONTENT = random.Random(11).randbytes(5 * BLOCK + 99)
TOTAL = block_count(len(CONTENT))
FOUR = 4 * BLOCK + 4096
"""What a file of four blocks occupies."""


class Clock:
    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float = 1) -> None:
        self.now += seconds


def four_blocks(seed: int) -> bytes:
    return random.Random(seed).randbytes(4 * BLOCK)


def disk_usage(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in entry_files(root))


def is_kept(store: Store, content: bytes) -> bool:
    return store._disk.path(key_of(NAMESPACE, identity_of(content))).exists()


def works(store: Store, content: bytes = CONTENT) -> None:
    """Whatever state the store is in: a file goes in and comes out."""
    entry = store.open(identity_of(content))
    while not entry.complete:  # another thread may be at it, and what it is writing is skipped
        fill(entry, content)
    assert readable(entry, content) == set(range(block_count(len(content))))
    assert entry.sound
    entry.release()


# -- identity ----------------------------------------------------------------------------------------------------------


def test_address_size_and_digest_are_the_identity_and_the_date_where_there_is_no_digest() -> None:
    md5 = "D41D8CD98F00B204E9800998ECF8427E"
    base = key_of("a", Identity("/one", 5, md5, "1"))
    assert key_of("a", Identity("/one", 5, md5.lower(), "2")) == base
    others = [
        key_of("b", Identity("/one", 5, md5, "1")),
        key_of("a", Identity("/two", 5, md5, "1")),
        key_of("a", Identity("/one", 6, md5, "1")),
        key_of("a", Identity("/one", 5, "", "1")),
        key_of("a", Identity("/one", 5, "", "2")),
        key_of("a", Identity("/two", 5, "", "1")),
        key_of("a", Identity("/two\0", 5, "", "1")),
        key_of("a", Identity("/one", 5, "no digest", "3")),
        key_of("a", Identity("/\udcff", 5, "", "1")),
    ]
    assert len({base, *others}) == len(others) + 1


def test_what_is_listed_of_a_file_is_its_identity() -> None:
    file = FileRecord("/experiments/E/files/", "a/b", 7, digest="d" * 32)
    assert Identity.of(file, 9, "date") == Identity("/experiments/E/files/a/b", 9, "d" * 32, "date")


def test_one_process_has_one_entry_per_identity_and_it_ends_with_the_last_release(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    first, second = store.open(identity_of(CONTENT)), store.open(identity_of(CONTENT))
    assert first is second
    first.release()
    second.write(0, CONTENT[:BLOCK])
    fd = second.fileno
    second.release()
    with pytest.raises(OSError):
        os.fstat(fd)
    assert store.open(identity_of(CONTENT)) is not second


def test_a_whole_file_stays_open_for_a_while_after_the_last_release(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    fill(entry, CONTENT)
    entry.release()
    assert store.open(identity_of(CONTENT)) is entry
    assert entry.sound
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()
    store.close()
    with pytest.raises(OSError):
        os.fstat(entry.fileno)


def test_an_idle_entry_that_another_process_evicted_is_fetched_again(tmp_path: Path) -> None:
    store, other = open_store(tmp_path / "cache"), open_store(tmp_path / "cache")
    works(store)
    assert other.clear() > 0
    again = store.open(identity_of(CONTENT))
    assert not again.complete
    assert again.is_empty()
    again.release()
    works(store)


def test_an_idle_entry_that_somebody_changed_is_verified_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    works(store)
    (path,) = entry_files(tmp_path / "cache")
    with path.open("r+b") as file:
        file.seek(BLOCK + 5)
        file.write(b"damage")
    again = store.open(identity_of(CONTENT))
    assert 1 not in readable(again, CONTENT)
    fill(again, CONTENT)
    assert readable(again, CONTENT) == set(range(TOTAL))
    again.release()


def test_idle_entries_are_bounded_and_give_their_space_back(tmp_path: Path) -> None:
    idle = Idle(most=2)
    store = open_store(tmp_path / "cache")
    entries = [store.open(identity_of(four_blocks(seed))) for seed in range(3)]
    for seed, entry in enumerate(entries):
        fill(entry, four_blocks(seed))
    gone = [list(idle.put(entry)) for entry in entries]
    assert gone == [[], [], entries[:1]]
    assert idle.take(entries[0].key) is None
    assert idle.take(entries[1].key) is entries[1]
    assert list(idle.drain()) == entries[2:]
    assert list(idle.drain()) == []
    assert not Idle(most_bytes=8 * 4 * BLOCK - 8).fits(entries[0])
    for entry in entries:
        entry.release()
    store.set_limits(Limits(1, 1))
    for entry in entries:
        with pytest.raises(OSError):
            os.fstat(entry.fileno)


def test_idle_entries_give_their_descriptors_to_who_lacks_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "cache")
    for number in range(3):
        keep(store, four_blocks(number))
    opening = store_module.open_file

    def scarce(*arguments: Any) -> Any:
        if store._idle._entries:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opening(*arguments)

    monkeypatch.setattr(store_module, "open_file", scarce)
    works(store)
    assert is_kept(store, CONTENT)
    assert store.degraded is None


def test_a_file_that_was_opened_and_not_read_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    store.open(identity_of(CONTENT)).release()
    assert entry_files(tmp_path / "cache") == []
    assert (store.usage().bytes, store.usage().entries) == (0, 0)


def test_threads_that_open_and_release_at_once_get_along(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    contents = [four_blocks(seed) for seed in range(3)]
    start, failures = threading.Barrier(6), list[BaseException]()

    def use(seed: int) -> None:
        start.wait(10)
        try:
            for content in random.Random(seed).choices(contents, k=30):
                works(store, content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert store._entries == {}
    assert store.usage().entries == 3
    assert store.degraded is None


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_no_umask")
def test_everything_is_for_the_user_alone_and_reveals_no_name(tmp_path: Path) -> None:
    store = open_store(tmp_path / "deep" / "cache")
    keep(store, CONTENT, uri="/projects/SECRET/files/Smith", digest=False)
    paths = [store.root, *store.root.rglob("*")]
    assert len(paths) > 5
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert "SECRET" not in str(path)
        assert not path.is_file() or b"Smith" not in path.read_bytes()
    assert (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_a_directory_of_ours_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    open_store(tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CacheFault, match="another user"):
        open_store(tmp_path / "cache")


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(CacheFault, match=r"thesis\.doc"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_link_in_the_place_of_an_entry_is_not_followed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    path = store._disk.path(key_of(NAMESPACE, identity_of(CONTENT)))
    path.parent.mkdir()
    (tmp_path / "victim").write_text("precious")
    path.symlink_to(tmp_path / "victim")
    works(store)
    assert (tmp_path / "victim").read_text() == "precious"


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first_and_before_anything_is_written(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path / "cache", Limits(max_bytes=4 * FOUR), clock=clock)
    contents = [four_blocks(seed) for seed in range(6)]
    for content in contents[:4]:
        keep(store, content)
        clock.tick()
    works(store, contents[0])  # used again
    clock.tick()
    for content in contents[4:]:
        keep(store, content)
        clock.tick()
        assert disk_usage(tmp_path / "cache") <= 4 * FOUR
    assert [is_kept(store, content) for content in contents] == [True, False, False, True, True, True]
    assert store.usage() == store_module.Usage(4 * FOUR, 4, 4 * FOUR)


def test_what_is_open_is_never_evicted(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path / "cache", Limits(max_bytes=3 * FOUR), clock=clock)
    contents = [four_blocks(seed) for seed in range(6)]
    for content in contents[:2]:
        keep(store, content)
        clock.tick()
    oldest = store.open(identity_of(contents[0]))
    clock.tick(1000)
    for content in contents[2:]:
        keep(store, content)
        clock.tick()
    assert [is_kept(store, content) for content in contents] == [True, False, False, False, True, True]
    assert readable(oldest, contents[0]) == set(range(4))
    oldest.release()


def test_when_all_is_in_use_a_file_goes_on_outside_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path / "cache", Limits(max_bytes=FOUR + 3 * BLOCK))
    one, two, three = (four_blocks(seed) for seed in range(3))
    first, second = store.open(identity_of(one)), store.open(identity_of(two))
    fill(first, one)
    fd = second.fileno
    for number in range(4):
        second.write(number, block(two, number))
        assert readable(second, two) == set(range(number + 1))
        assert disk_usage(tmp_path / "cache") <= FOUR + 3 * BLOCK
    assert second.private
    assert second.fileno == fd
    assert second.sound
    assert store.degraded is not None
    assert "full" in store.degraded
    works(store, three)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    second.release()
    first.release()
    works(store, three)
    assert is_kept(store, three)
    assert store.degraded is None


def test_a_file_larger_than_the_whole_cache_evicts_nothing_and_can_be_read(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache", Limits(max_bytes=FOUR))
    keep(store, four_blocks(1))
    works(store, random.Random(3).randbytes(9 * BLOCK + 5))
    assert is_kept(store, four_blocks(1))


def test_limits_hold_under_many_writers(tmp_path: Path) -> None:
    """Looked at whenever all of them are in the middle of a file, and when all have finished one."""
    root, limits = tmp_path / "cache", Limits(max_bytes=9 * FOUR)
    store = open_store(root, limits)
    failures, measured = list[BaseException](), list[int]()
    together = threading.Barrier(6, action=lambda: measured.append(disk_usage(root)), timeout=20)

    def write(seed: int) -> None:
        try:
            for number in range(12):
                content = four_blocks(100 * seed + number)
                entry = store.open(identity_of(content))
                entry.write(2, content[2 * BLOCK :])
                together.wait()
                fill(entry, content)
                assert readable(entry, content) == set(range(4))
                together.wait()
                entry.release()
        except BaseException as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(measured) == 24
    metadata = 9 * 4096  # a file system may need a block of its own for a file written in pieces
    assert 4 * FOUR < max(measured) <= limits.max_bytes + metadata
    assert abs(store.usage().bytes - disk_usage(root)) <= metadata
    assert store.degraded is None


def test_free_space_is_kept_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of ten files' size, of which two must stay free."""
    root = tmp_path / "cache"
    store = open_store(root, Limits(max_bytes=100 * FOUR, min_free_bytes=2 * FOUR))
    real = os.fstatvfs

    class Small:
        f_frsize = 1

        def __init__(self) -> None:
            self.f_bavail = 10 * FOUR - disk_usage(root)

    monkeypatch.setattr(os, "fstatvfs", lambda fd: Small())
    for number in range(15):
        keep(store, four_blocks(number))
        assert Small().f_bavail >= 2 * FOUR
    assert store.usage().entries == 8
    monkeypatch.setattr(os, "fstatvfs", real)


def test_what_has_not_been_used_for_too_long_goes_with_the_sweep(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path / "cache", Limits(max_bytes=1 << 30, max_age_seconds=100), clock=clock)
    for number in range(3):
        keep(store, four_blocks(number))
    pinned = store.open(identity_of(four_blocks(2)))
    clock.tick(60)
    works(store, four_blocks(1))
    store.sweep()
    assert store.usage().entries == 3
    clock.tick(60)
    store._ledger.book(added=1 << 40, made=7)  # as after kills: the count of a sweep that removes is as exact
    store.sweep()
    assert [is_kept(store, four_blocks(number)) for number in range(3)] == [False, True, True]
    assert store.usage().entries == 2
    assert store.usage().bytes == disk_usage(tmp_path / "cache")
    pinned.release()


def test_a_smaller_limit_takes_effect_at_once(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path / "cache", clock=clock)
    for number in range(5):
        keep(store, four_blocks(number))
        clock.tick()
    store.set_limits(Limits(max_bytes=2 * FOUR))
    assert [is_kept(store, four_blocks(number)) for number in range(5)] == [False, False, False, True, True]
    assert store.usage() == store_module.Usage(2 * FOUR, 2, 2 * FOUR)


def test_in_a_large_cache_a_sample_decides_and_the_recently_used_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "SAMPLE", 12)
    clock = Clock()
    store = open_store(tmp_path / "cache", clock=clock)
    contents = [random.Random(number).randbytes(10) for number in range(120)]
    for content in contents:
        keep(store, content)
        clock.tick()
    looked: list[Path] = []
    look = disk.Disk.look
    monkeypatch.setattr(disk.Disk, "look", lambda self, shard: looked.append(shard) or look(self, shard))
    assert store._evictor.free(1) == 8192
    assert len(looked) < 100
    for _ in range(30):
        assert store._evictor.free(1) == 8192
    kept = [is_kept(store, content) for content in contents]
    assert kept.count(False) == 31
    assert kept[:60].count(False) > kept[60:].count(False)


def test_nothing_is_looked_at_when_the_cache_is_opened_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "cache")
    for number in range(3):
        keep(store, four_blocks(number))
    monkeypatch.setattr(disk.Disk, "look", None)
    again = open_store(tmp_path / "cache")
    works(again, four_blocks(0))
    works(again, four_blocks(7))
    assert again.usage().entries == 4


# -- the books ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "garbled", "short"])
def test_lost_books_are_opened_anew_by_a_look_at_the_directory(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path / "cache")
    for number in range(3):
        keep(store, four_blocks(number))
    books = tmp_path / "cache" / "v1" / "usage"
    if damage == "missing":
        books.unlink()
    else:
        books.write_bytes(b"x" * 52 if damage == "garbled" else books.read_bytes()[:-1])
    again = open_store(tmp_path / "cache")
    assert again.usage() == store_module.Usage(3 * FOUR, 3, 1 << 30)


@pytest.mark.parametrize("damage", ["removed", "flipped", "emptied", "another directory"])
def test_limits_hold_also_when_the_books_are_lost_under_a_running_store(tmp_path: Path, damage: str) -> None:
    root = tmp_path / "cache"
    limits = Limits(max_bytes=4 * FOUR)
    store = open_store(root, limits)
    for number in range(4):
        keep(store, four_blocks(number))
    books = root / "v1" / "usage"
    if damage == "removed":
        books.unlink()
    elif damage == "flipped":
        flip(books, 9)
    elif damage == "emptied":
        os.truncate(books, 0)
    else:
        other = tmp_path / "other"
        for number in range(4):
            keep(open_store(other), four_blocks(10 + number))
        root.rename(tmp_path / "moved")
        other.rename(root)
    for number in range(4, 9):
        keep(store, four_blocks(number))
        assert disk_usage(root) <= limits.max_bytes
    assert store.usage().bytes == disk_usage(root)


def test_the_sweep_puts_wrong_books_right(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    for number in range(3):
        keep(store, four_blocks(number))
    store._ledger.book(added=1 << 40, made=7)  # a process was killed, many times
    store.sweep()
    assert store.usage() == store_module.Usage(3 * FOUR, 3, 1 << 30)
    store._ledger.book(removed=1 << 40, gone=7)
    store.sweep()
    assert store.usage() == store_module.Usage(3 * FOUR, 3, 1 << 30)


def test_what_is_thrown_away_and_fetched_anew_is_booked_once(tmp_path: Path) -> None:
    """Else the books grow with every version and every damage, and the cache shrinks until the next sweep."""
    store = open_store(tmp_path / "cache")
    right, wrong = four_blocks(1), four_blocks(2)
    entry = store.open(identity_of(right))
    for number in range(3):
        entry.write(number, block(right, number))
    for _ in range(5):
        entry.reset()
        assert store.usage().bytes >= disk_usage(tmp_path / "cache")
        entry.write(1, block(wrong, 1))
    with pytest.raises(ContentDamaged):
        fill(entry, right)
    fill(entry, right)
    assert entry.complete
    entry.release()
    store.close()
    flip(entry_files(tmp_path / "cache")[0], 2 * BLOCK + 5)
    again = open_store(tmp_path / "cache")
    entry = again.open(identity_of(right))
    assert readable(entry, right) == {0, 1, 3}
    fill(entry, right)
    entry.release()
    assert again.usage() == store_module.Usage(FOUR, 1, 1 << 30)
    assert disk_usage(tmp_path / "cache") == FOUR


@pytest.mark.parametrize(
    ("booked", "added", "removed", "counted", "result"),
    [
        (100, 0, 0, 70, 70),  # nothing happened meanwhile: the count is exact
        (100, 50, 0, 100, 150),  # written meanwhile, not seen by the count: possible, so the books stand
        (100, 50, 0, 150, 150),  # seen by the count: possible too
        (100, 50, 0, 300, 300),  # the books are too low whatever was seen
        (100, 0, 40, 100, 60),
        (100, 0, 40, 60, 60),
        (100, 0, 40, 20, 20),
        (100, 0, 0, 0, 0),
    ],
)
def test_a_count_corrects_the_books_only_as_far_as_it_can_know(
    tmp_path: Path, booked: int, added: int, removed: int, counted: int, result: int
) -> None:
    ledger = Ledger(tmp_path / "usage")
    ledger.begin(Counts(added=booked))
    before = ledger.read()
    assert before is not None
    ledger.book(added=added, removed=removed)
    ledger.settle(counted, 0, before, 5.0)
    after = ledger.read()
    assert after is not None
    assert (after.bytes, after.swept) == (result, 5.0)
    ledger.close()


def test_a_process_that_stopped_in_the_middle_of_booking_stops_nobody_else(tmp_path: Path) -> None:
    pauses: list[float] = []
    ledger = Ledger(tmp_path / "usage", sleep=pauses.append)
    with (tmp_path / "usage").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ledger.begin(Counts(added=5))
    assert ledger.read() == Counts(added=5)
    assert 0 < sum(pauses) < 1
    ledger.close()


def test_the_books_and_the_names_of_entries_are_those_of_the_format_version(tmp_path: Path) -> None:
    """If this fails, two versions misread each other's books: raise FORMAT_VERSION, then put the new bytes here.

    For other names that is not needed: an entry that is not found goes when it is the one used longest ago.
    """
    assert indexes.FORMAT_VERSION == 1
    ledger = Ledger(tmp_path / "usage")
    ledger.begin(Counts(added=258, removed=3, made=4, gone=5, swept=1.5))
    ledger.close()
    assert (tmp_path / "usage").read_bytes().hex() == (
        "584e415446535553" "0201000000000000030000000000000004000000000000000500000000000000"
        "000000000000f83f" "797addcf"
    )  # fmt: skip
    assert (
        key_of("0a1b", Identity("/a", 7, "D41D8CD98F00B204E9800998ECF8427E", "s"))
        == "fbd7fe814cf87349bacaa6aaf053b9cbfdd04841"
    )
    assert key_of("0a1b", Identity("/a", 7, "", "s")) == "5e12d7635deb3f6e4a192745016c59d5ad5a49c0"


# -- a disk that does not play along -----------------------------------------------------------------------------------


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_directory_that_cannot_be_made_costs_the_cache_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = open_store(tmp_path / "file" / "cache")
    assert store.degraded is not None
    works(store)
    works(store, random.Random(1).randbytes(2 << 20))
    assert len(warnings_in(caplog)) == 1
    assert "file/cache" in warnings_in(caplog)[0]
    assert store.usage().bytes == 0
    assert store.space()[0] > 0
    assert store.clear() == 0
    with pytest.raises(CacheFault):
        store.verify()
    store.close()


def test_a_read_only_disk_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path / "cache")
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(tmp_path)) and flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    works(store)
    works(store)
    assert store.degraded is not None
    assert "Read-only" in store.degraded
    assert len(warnings_in(caplog)) == 1
    monkeypatch.undo()
    works(store)
    assert store.degraded is None
    assert is_kept(store, CONTENT)


def test_a_disk_without_file_locks_is_not_shared_blindly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(fd: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    store = open_store(tmp_path / "cache")
    works(store)
    assert store.degraded is not None
    assert entry_files(tmp_path / "cache") in ([], [store._disk.path(key_of(NAMESPACE, identity_of(CONTENT)))])
    assert len(warnings_in(caplog)) == 1


def test_a_directory_that_is_removed_under_us_is_made_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    keep(store, four_blocks(0))
    entry = store.open(identity_of(CONTENT))
    entry.write(0, block(CONTENT, 0))
    remove_tree(tmp_path / "cache")
    fill(entry, CONTENT)  # what is open goes on
    assert readable(entry, CONTENT) == set(range(TOTAL))
    works(store, four_blocks(1))
    assert is_kept(store, four_blocks(1))
    assert store.degraded is None
    entry.release()
    works(store)
    assert is_kept(store, CONTENT)
    store.sweep()
    assert store.usage().bytes == disk_usage(tmp_path / "cache")


def test_a_directory_that_became_something_else_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    remove_tree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    works(store)
    assert store.degraded is not None
    (tmp_path / "cache").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "foreign").touch()
    works(store)
    assert "foreign" in store.degraded


def remove_tree(root: Path) -> None:
    subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 5, 6, 7, 9])
def test_a_full_disk_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spare: int
) -> None:
    """After `spare` writes to the cache directory the disk is full, also for half a record."""
    store = open_store(tmp_path / "cache")
    real, left = os.pwrite, spare

    def full(fd: int, data: Any, at: int) -> int:
        nonlocal left
        if not Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(tmp_path / "cache" / "v1" / NAMESPACE):
            return real(fd, data, at)
        left -= 1
        if left < -1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, memoryview(data)[: 1 + len(data) // 2] if left < 0 else data, at)

    monkeypatch.setattr(os, "pwrite", full)
    entry = store.open(identity_of(CONTENT))
    for number in random.Random(spare).sample(range(TOTAL), TOTAL):
        entry.write(number, block(CONTENT, number))
    assert entry.sound
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()
    assert len(warnings_in(caplog)) <= 1
    monkeypatch.undo()
    works(store)
    assert store.verify().damaged == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_really_full_disk_makes_room_and_then_does_without(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={6 * FOUR}", "tmpfs", tmp_path / "disk"], check=True)
    try:
        store = open_store(tmp_path / "disk" / "cache", temp=tmp_path)
        for number in range(12):  # the limit says nothing, the disk does: the older ones make room
            works(store, four_blocks(number))
        pinned = [store.open(identity_of(four_blocks(number))) for number in range(20, 28)]
        for number, entry in zip(range(20, 28), pinned, strict=True):
            fill(entry, four_blocks(number))
        for number, entry in zip(range(20, 28), pinned, strict=True):
            assert readable(entry, four_blocks(number)) == set(range(4))
            entry.release()
        assert store.verify().damaged == 0
        store.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_when_bytes_can_be_kept_nowhere_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    store = open_store(tmp_path / "file" / "cache")

    def nothing(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(private, "_unlinked", nothing)
    monkeypatch.setattr(private, "_in_memory", nothing)
    with pytest.raises(CacheFault, match="neither"):
        store.open(identity_of(CONTENT))
    monkeypatch.undo()
    works(store)


def test_memory_is_used_for_little_and_given_back(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_store(tmp_path / "file" / "cache", temp=tmp_path)
    small = store.open(identity_of(CONTENT))
    assert small.files.place == "memory"
    large = store.open(Identity("/large", private.SMALL + 1))
    assert large.files.place == "temp"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]  # unlinked
    assert store._private._memory == len(CONTENT)
    small.release()
    large.release()
    assert store._private._memory == 0


def test_memory_has_a_limit_for_all_files_together(tmp_path: Path) -> None:
    files = private.PrivateFiles(tmp_path)
    made = [files.make(private.SMALL) for _ in range(private.MEMORY // private.SMALL + 1)]
    try:
        assert [place for _, place in made] == ["memory"] * (len(made) - 1) + ["temp"]
        files.gone(private.SMALL, "memory")
        made.append(files.make(private.SMALL))
        assert made[-1][1] == "memory"
    finally:
        for descriptor, _ in made:
            os.close(descriptor)


# -- damage, audits, ends ----------------------------------------------------------------------------------------------


def test_damage_is_counted_warned_of_once_and_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(open_store(tmp_path / "cache"), CONTENT)
    (path,) = entry_files(tmp_path / "cache")
    flip(path, 10)
    flip(path, 3 * BLOCK)
    stats = Stats()
    store = open_store(tmp_path / "cache", stats=stats)
    entry = store.open(identity_of(CONTENT))
    assert readable(entry, CONTENT) == set(range(TOTAL)) - {0, 3}
    assert not entry.complete
    assert stats.snapshot()["cache.damaged_blocks"] == 2
    assert len(warnings_in(caplog)) == 1
    fill(entry, CONTENT)
    entry.release()
    assert store.verify() == store_module.VerifyReport(entries=1, bytes=len(CONTENT), damaged=0, in_use=0)


def test_an_audit_finds_and_removes_what_is_damaged(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    for number in range(5):
        keep(store, four_blocks(number), digest=number != 4)
    partial = store.open(identity_of(CONTENT))
    partial.write(0, block(CONTENT, 0))
    paths = [store._disk.path(key_of(NAMESPACE, identity_of(four_blocks(number)))) for number in range(4)]
    flip(paths[0], 2 * BLOCK)  # a block
    flip(paths[1], 4 * BLOCK)  # the header
    os.truncate(paths[2], 100)
    paths[3].with_name("0" * 40).touch()  # left by a process that was killed in the moment of making it
    before = store.usage()
    report = store.verify()
    assert report == store_module.VerifyReport(entries=5, bytes=2 * 4 * BLOCK, damaged=3, in_use=1)
    assert store.usage().bytes <= before.bytes - 2 * FOUR  # two of them were whole
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert len(entry_files(tmp_path / "cache")) == 3
    partial.release()
    assert store.verify().bytes == 2 * 4 * BLOCK + BLOCK


def test_an_audit_goes_on_after_an_entry_that_goes_meanwhile(tmp_path: Path) -> None:
    keep(open_store(tmp_path / "cache"), CONTENT)
    paths = [tmp_path / "cache" / "gone", *entry_files(tmp_path / "cache")]
    report = audit.audit(disk.Disk(tmp_path / "cache", NAMESPACE), paths, Buffers(), lambda _: None)
    assert report == store_module.VerifyReport(entries=1, bytes=len(CONTENT), damaged=0, in_use=0)


def test_clear_leaves_what_is_open(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    other = Store(tmp_path / "cache", Limits(1 << 30), namespace="ff", sweep_every=None)
    keep(store, four_blocks(0))
    keep(other, four_blocks(1))
    entry = store.open(identity_of(CONTENT))
    fill(entry, CONTENT)
    assert store.clear() == 2 * FOUR
    assert store.usage().entries == 1
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


def test_the_helper_hashes_while_the_file_arrives(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = open_store(tmp_path / "cache")
    content = random.Random(5).randbytes(5 << 20)
    entry = store.open(identity_of(content))
    for at in range(0, 4 << 20, 1 << 20):
        entry.write(at // BLOCK, content[at : at + (1 << 20)])
    done = threading.Event()
    store.later(done.set)
    assert done.wait(10)
    assert entry._hash is not None
    assert entry._hash.at >= 3 << 20
    fill(entry, content)
    assert entry.sound
    entry.release()
    store.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("xnatfs-")]


def test_the_sweeper_starts_with_the_first_use_and_ends_with_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", Limits(1 << 30), namespace="ab")
    assert store._sweeper is None  # a fork into the background may still come
    works(store)
    assert store._sweeper is not None
    assert store._sweeper.is_alive()
    store.close()
    assert not store._sweeper.is_alive()
    works(store)  # late readers are still served


def test_the_sweeper_leaves_it_to_one_of_several_processes_and_survives_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = open_store(tmp_path / "cache", Limits(1 << 30, max_age_seconds=10), clock=clock)
    sweeps, waits = list[float](), list[float]()
    sweep = store._evictor.sweep

    def counted(limits: Limits, rest: Any) -> None:
        sweeps.append(clock())
        if len(sweeps) == 2:
            raise OSError(errno.EIO, "Input/output error")
        sweep(limits, lambda _: False)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.tick(100)
        return len(waits) == 6

    monkeypatch.setattr(store._evictor, "sweep", counted)
    started = clock()
    store._evictor.sweep_now_and_then(lambda: store.limits, 400, wait)
    assert [at - started for at in sweeps] == [100, 300, 400]
    assert waits[0] == eviction.FIRST_SWEEP
    assert min(waits[1:]) >= 400
