"""Several processes on one cache directory, and processes that are killed."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cache_worker import ENTRIES, content_of
from support.cachedir import (
    block,
    entry_files,
    fill,
    flip,
    identity_of,
    index_start,
    keep,
    open_store,
    readable,
)

from xnatfs.cache import private
from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.cache.store import Limits
from xnatfs.errors import CacheFault
from xnatfs.stats import Stats

CONTENT = random.Random(7).randbytes(5 * BLOCK + 99)
TOTAL = block_count(len(CONTENT))
TESTS = Path(__file__).parents[1]


def worker(root: Path, seed: int, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.cache_worker", str(root), str(seed), *options],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_leaves_no_wrong_byte_and_no_lock(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "cache"
    reported: dict[int, set[int]] = {}
    with worker(root, seed, "endless") as process:
        assert process.stdout is not None
        for _ in range(random.Random(seed).randint(1, 60)):
            number, which = map(int, process.stdout.readline().split())
            reported.setdefault(number, set()).add(which)
        process.kill()
    store = open_store(root)
    for number, blocks in reported.items():
        content = content_of(number)
        entry = store.open(identity_of(content))
        assert not entry.private
        assert readable(entry, content) >= blocks  # what was said to be down is down
        fill(entry, content)
        assert entry.sound
        entry.release()
    assert store.verify().damaged == 0


def test_processes_side_by_side_never_mix(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    workers = [worker(root, seed) for seed in range(3)]
    for process in workers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    store = open_store(root)
    report = store.verify()
    assert (report.damaged, report.in_use) == (0, 0)
    for number in range(ENTRIES):  # and whoever came first has left a whole file
        entry = store.open(identity_of(content_of(number)))
        assert entry.complete
        entry.release()


# Two stores on one directory in one process stand for two processes: their locks are as independent.


def test_a_file_that_another_process_fills_is_private_here(tmp_path: Path) -> None:
    one, two = (open_store(tmp_path / "cache") for _ in range(2))
    first, second = one.open(identity_of(CONTENT)), two.open(identity_of(CONTENT))
    assert not first.private
    assert second.private
    first.write(0, block(CONTENT, 0))
    assert not second.has(0, 1)
    fill(second, CONTENT)
    assert readable(second, CONTENT) == set(range(TOTAL))
    assert readable(first, CONTENT) == {0}
    second.release()
    fill(first, CONTENT)
    first.release()
    assert len(entry_files(tmp_path / "cache")) == 1
    third = two.open(identity_of(CONTENT))  # complete now, and shared
    assert not third.private
    assert readable(third, CONTENT) == set(range(TOTAL))
    third.release()


def test_a_complete_file_is_shared_and_cannot_be_evicted_by_another(tmp_path: Path) -> None:
    one, two = (open_store(tmp_path / "cache") for _ in range(2))
    keep(one, CONTENT)
    entries = [store.open(identity_of(CONTENT)) for store in (one, two)]
    assert not any(entry.private for entry in entries)
    entries[0].release()
    assert one.clear() == 0
    assert readable(entries[1], CONTENT) == set(range(TOTAL))
    entries[1].release()
    assert one.clear() > 0
    assert entry_files(tmp_path / "cache") == []


def test_damage_in_a_file_that_others_read_is_mended_in_a_copy(tmp_path: Path) -> None:
    """The others hold it for reading, so that nobody may write it; they will find the damage themselves."""
    keep(open_store(tmp_path / "cache"), CONTENT)
    stats = Stats()
    one, two = open_store(tmp_path / "cache", stats=stats), open_store(tmp_path / "cache")
    other = two.open(identity_of(CONTENT))
    (path,) = entry_files(tmp_path / "cache")
    flip(path, 2 * BLOCK + 5)
    entry = one.open(identity_of(CONTENT))
    fd = entry.fileno
    assert readable(entry, CONTENT) == set(range(TOTAL)) - {2}
    assert stats.snapshot()["cache.damaged_blocks"] == 1
    fill(entry, CONTENT)
    assert entry.private
    assert entry.fileno == fd
    assert entry.sound
    assert readable(entry, CONTENT) == set(range(TOTAL))
    assert readable(other, CONTENT) == set(range(TOTAL)) - {2}
    entry.release()
    fill(other, CONTENT)  # now it is alone with the file
    assert not other.private
    assert readable(other, CONTENT) == set(range(TOTAL))
    other.release()
    assert one.verify().damaged == 0


def test_a_reset_of_a_file_that_others_read_leaves_them_theirs(tmp_path: Path) -> None:
    one, two = (open_store(tmp_path / "cache") for _ in range(2))
    keep(one, CONTENT)
    mine, other = one.open(identity_of(CONTENT)), two.open(identity_of(CONTENT))
    mine.reset()
    assert mine.private
    assert readable(mine, CONTENT) == set()
    assert readable(other, CONTENT) == set(range(TOTAL))
    mine.release()
    other.release()


def test_limits_hold_for_all_processes_together(tmp_path: Path) -> None:
    limits = Limits(max_bytes=20 * BLOCK)
    stores = [open_store(tmp_path / "cache", limits) for _ in range(2)]
    for number in range(12):
        keep(stores[number % 2], random.Random(number).randbytes(4 * BLOCK))
        assert disk_usage(tmp_path / "cache") <= limits.max_bytes
    assert stores[0].usage() == stores[1].usage()
    assert stores[0].usage().bytes == disk_usage(tmp_path / "cache")


def test_an_evicted_file_that_is_being_opened_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. We open the file. 2. Another process removes it. 3. We lock what nobody will find any more: try again."""
    from xnatfs.cache import disk

    keep(open_store(tmp_path / "cache"), CONTENT)
    other, store = open_store(tmp_path / "cache"), open_store(tmp_path / "cache")
    flock = disk.flock
    cleared: list[int] = []

    def late(fd: int, *, exclusive: bool) -> bool:
        if not cleared:
            cleared.append(0)
            cleared[0] = other.clear()
        return flock(fd, exclusive=exclusive)

    monkeypatch.setattr(disk, "flock", late)
    entry = store.open(identity_of(CONTENT))
    assert cleared[0] > 0
    assert entry.missing(0, TOTAL) == [(0, TOTAL)]
    assert not entry.private
    fill(entry, CONTENT)
    entry.release()
    assert index_start(CONTENT) < entry_files(tmp_path / "cache")[0].stat().st_size


def disk_usage(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in entry_files(root))


def test_who_cannot_go_on_elsewhere_keeps_others_from_writing_what_he_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset is refused, since others read the file and there is no room for a copy: what is read must not change."""
    one, two = (open_store(tmp_path / "cache") for _ in range(2))
    identity = keep(one, CONTENT, digest=False)
    first, second = one.open(identity), two.open(identity)
    assert readable(first, CONTENT) == set(range(TOTAL))

    def nowhere(*_: object) -> None:
        raise CacheFault("no room")

    monkeypatch.setattr(one, "private_file", nowhere)
    with pytest.raises(CacheFault):
        first.reset()
    second.reset()
    fill(second, bytes(len(CONTENT)))  # another version
    assert second.private
    assert readable(first, CONTENT) == set(range(TOTAL))
    for entry in (first, second):
        entry.release()


@pytest.mark.parametrize("why", ["limit", "disk"])
def test_a_private_entry_for_which_the_store_has_no_room_goes_on_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Another process fills the file, so that it is private here; then there is no room, and all is in use."""
    monkeypatch.setattr(private, "SMALL", 0)  # else it would be in memory from the beginning
    limits = Limits(max_bytes=TOTAL * BLOCK + 4096)
    one, two = (open_store(tmp_path / "cache", limits, temp=tmp_path) for _ in range(2))
    first, second = one.open(identity_of(CONTENT)), two.open(identity_of(CONTENT))
    assert second.private
    assert second.files.place == "store"
    second.write(0, block(CONTENT, 0))
    if why == "limit":
        fill(first, CONTENT)
    else:
        real = os.pwrite

        def full(fd: int, data: bytes, at: int) -> int:
            if fd == second.fileno and second.files.place == "store":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data, at)

        monkeypatch.setattr(os, "pwrite", full)
    for number in range(TOTAL):
        second.write(number, block(CONTENT, number))
    assert second.files.place == "temp"
    assert two._private_bytes == 0
    assert readable(second, CONTENT) == set(range(TOTAL))
    for entry in (second, first):
        entry.release()
    assert two._private_bytes == 0


def test_two_processes_that_make_the_same_first_file_of_a_shard_do_not_take_it_for_a_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (open_store(tmp_path / "cache") for _ in range(2))
    mkdir = Path.mkdir
    entries = []

    def late(path: Path, *args: Any, **kwargs: Any) -> None:
        mkdir(path, *args, **kwargs)
        monkeypatch.undo()
        entries.append(two.open(identity_of(CONTENT)))

    monkeypatch.setattr(Path, "mkdir", late)
    entries.append(one.open(identity_of(CONTENT)))
    assert [entry.private for entry in entries] == [False, True]
    assert one.degraded is two.degraded is None
    for entry in entries:
        entry.release()
