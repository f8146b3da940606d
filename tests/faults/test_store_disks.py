"""The cache on disks that really are full, read-only, gone or another one, and under a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cachedir import entry_files, fill, identity_of, keep, open_store, readable

from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.cache.store import Limits, Store
from xnatfs.errors import CacheFault

CONTENT = random.Random(11).randbytes(5 * BLOCK + 99)
TOTAL = block_count(len(CONTENT))
FOUR = 4 * BLOCK + 4096
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def four_blocks(seed: int) -> bytes:
    return random.Random(seed).randbytes(4 * BLOCK)


def works(store: Store, content: bytes = CONTENT) -> bool:
    """A file goes in and comes out; was it kept?"""
    entry = store.open(identity_of(content))
    fill(entry, content)
    assert entry.sound
    assert readable(entry, content) == set(range(block_count(len(content))))
    kept = not entry.private
    entry.release()
    return kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@needs_root
@pytest.mark.parametrize("spare", [0, 4096, 40_000, 3 * BLOCK, 3 * BLOCK + 4096, 5 * BLOCK + 4096])
def test_a_disk_that_others_fill_costs_no_byte(small_disk: Path, tmp_path: Path, spare: int) -> None:
    """Full in the middle of a file, of a block, or where the index goes; nothing can be evicted."""
    store = open_store(small_disk / "cache", temp=tmp_path)
    first = store.open(identity_of(CONTENT))
    first.write(0, CONTENT[: 2 * BLOCK])
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(small_disk).f_bavail == 0
    os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - spare)
    for number in range(TOTAL):
        first.write(number, CONTENT[number * BLOCK : (number + 1) * BLOCK])
        assert number in readable(first, CONTENT)
    assert first.sound
    assert first.private == (spare < 3 * BLOCK + 4096)
    first.release()
    (small_disk / "filler").unlink()
    assert works(store, four_blocks(1))
    assert store.degraded is None
    assert store.verify().damaged == 0
    store.close()


@needs_root
def test_a_disk_that_is_read_only_now_serves_what_is_open_and_keeps_nothing_new(
    small_disk: Path, tmp_path: Path
) -> None:
    store = open_store(small_disk / "cache", temp=tmp_path)
    keep(store, CONTENT)
    store.close()  # an idle entry could be written, and the disk would be busy
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = open_store(small_disk / "cache", temp=tmp_path)
    assert not works(store)
    assert not works(store, four_blocks(1))
    assert "Read-only" in (store.degraded or "")
    store.close()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    store = open_store(small_disk / "cache", temp=tmp_path)
    entry = store.open(identity_of(CONTENT))
    assert entry.complete
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()
    store.close()


@needs_root
def test_a_disk_that_is_taken_away_takes_nothing_from_those_who_read(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(small_disk / "cache", temp=tmp_path)
    keep(store, CONTENT)
    whole, half = store.open(identity_of(CONTENT)), store.open(identity_of(four_blocks(1)))
    half.write(0, four_blocks(1)[:BLOCK])
    subprocess.run(["umount", "-l", small_disk], check=True)
    fill(half, four_blocks(1))
    assert readable(whole, CONTENT) == set(range(TOTAL))
    assert readable(half, four_blocks(1)) == set(range(4))
    assert works(store, four_blocks(2))  # where the disk was, there is a directory
    for entry in (whole, half):
        entry.release()
    assert works(store)
    store.close()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", small_disk], check=True)  # for the fixture


@pytest.mark.parametrize("linked", [False, True])
def test_another_directory_in_its_place_is_used_for_what_is_right_in_it(tmp_path: Path, linked: bool) -> None:
    """Another cache of ours, with a damaged entry; put there, or linked to, under a running store."""
    root, other = tmp_path / "cache", tmp_path / "other"
    keep(open_store(other), CONTENT)
    (path,) = entry_files(other)
    with path.open("r+b") as file:
        file.write(b"damage")
    store = open_store(root)
    keep(store, four_blocks(1))
    reading = store.open(identity_of(four_blocks(1)))
    root.rename(tmp_path / "moved")
    if linked:
        root.symlink_to(other)
    else:
        other.rename(root)
    assert readable(reading, four_blocks(1)) == set(range(4))
    entry = store.open(identity_of(CONTENT))
    assert readable(entry, CONTENT) == set(range(1, TOTAL))
    fill(entry, CONTENT)
    assert entry.sound
    for used in (reading, entry):
        used.release()
    assert works(store, four_blocks(1))
    store.sweep()
    assert store.usage().bytes == sum(path.stat().st_blocks * 512 for path in entry_files(root))


def test_somebodys_documents_in_its_place_are_left_alone(tmp_path: Path) -> None:
    root, documents = tmp_path / "cache", tmp_path / "documents"
    documents.mkdir(mode=0o755)
    (documents / "thesis.tex").write_text("important")
    store = open_store(root)
    keep(store, CONTENT)
    root.rename(tmp_path / "moved")
    root.symlink_to(documents)
    assert not works(store, four_blocks(1))
    assert "thesis.tex" in (store.degraded or "")
    store.sweep()
    store.clear(pinned=True)
    assert [path.name for path in documents.iterdir()] == ["thesis.tex"]
    assert documents.stat().st_mode & 0o777 == 0o755
    with pytest.raises(CacheFault):
        open_store(root)


def test_a_clock_that_jumps_breaks_no_limit_and_removes_nothing_that_is_in_use(tmp_path: Path) -> None:
    now = [1e9]
    store = open_store(tmp_path / "cache", Limits(3 * FOUR, max_age_seconds=1000), clock=lambda: now[0])
    used = store.open(identity_of(four_blocks(0)))
    fill(used, four_blocks(0))
    for number, jump in enumerate([-1e8, 3e8, -2.5e8, 500, -500], start=1):
        now[0] += jump
        assert works(store, four_blocks(number))
        store.sweep()
        assert sum(path.stat().st_blocks * 512 for path in entry_files(tmp_path / "cache")) <= 3 * FOUR
        assert store.usage().bytes == sum(path.stat().st_blocks * 512 for path in entry_files(tmp_path / "cache"))
        assert readable(used, four_blocks(0)) == set(range(4))
    used.release()
