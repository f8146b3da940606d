"""An entry tells the truth or says that it does not know: any order of writes, a crash anywhere, any damage.

A crash is a copy of the cache directory taken at that instant: what a killed process has written stays in the kernel.
A power loss may in addition have lost any of the written pages, in any order.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cachedir import (
    block,
    entry_files,
    fill,
    flip,
    identity_of,
    index_start,
    keep,
    killed_copy,
    open_store,
    readable,
)

from xnatfs.cache import entry as entry_module
from xnatfs.cache import index as indexes
from xnatfs.cache import store as store_module
from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.cache.entry import Entry
from xnatfs.cache.hashing import Buffers
from xnatfs.cache.store import Store
from xnatfs.errors import CacheFault, ContentDamaged

SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 6 * BLOCK + 4321]
CONTENTS = {
    (size, kind): (random.Random(size).randbytes(size) if kind == "noise" else bytes(size))
    for size in SIZES
    for kind in ("noise", "zeros")  # zeros look like a hole: the content that cannot be told from damage by looking
}
contents = st.sampled_from(sorted(CONTENTS)).map(CONTENTS.__getitem__)
writes = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), max_size=8)


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xnatfs-test-") as name:
        yield Path(name)


def write_runs(entry: Entry, content: bytes, runs: list[tuple[int, int]]) -> set[int]:
    """Write as a downloader would, overlapping and out of order; returns the blocks that it brought."""
    total, brought = block_count(len(content)), set()
    for first, count in runs:
        last = min(first + count, total)
        if first < last:
            entry.write(first, content[first * BLOCK : last * BLOCK])
            if entry._digest or not brought or last - first < total:  # a whole that nobody can judge is not joined
                brought |= set(range(first, last))
    return brought


@settings(max_examples=50, deadline=None)
@given(contents, writes, st.booleans())
def test_any_order_of_writes_reads_as_the_truth(content: bytes, runs: list[tuple[int, int]], digest: bool) -> None:
    with directory() as root:
        store = open_store(root / "cache")
        entry = store.open(identity_of(content, digest=digest))
        total = block_count(len(content))
        brought = write_runs(entry, content, runs)
        assert readable(entry, content) == brought
        assert entry.missing(0, total) == absent_runs(brought, total)
        assert entry.complete == entry.sound == (len(brought) == total)
        fill(entry, content)
        assert entry.complete
        assert readable(entry, content) == set(range(total))
        entry.release()
        store.close()


@settings(max_examples=50, deadline=None)
@given(contents, writes, st.booleans())
def test_a_killed_process_leaves_exactly_what_it_had_recorded(
    content: bytes, runs: list[tuple[int, int]], digest: bool
) -> None:
    with directory() as root:
        store = open_store(root / "cache")
        entry = store.open(identity_of(content, digest=digest))
        brought = write_runs(entry, content, runs)
        after = open_store(killed_copy(root / "cache", root / "copy"))
        again = after.open(identity_of(content, digest=digest))
        assert readable(again, content) == brought
        assert again.complete == entry.complete
        fill(again, content)
        assert again.sound
        for used in (entry, again):
            used.release()


@settings(max_examples=100, deadline=None)
@given(contents, writes, st.booleans(), st.booleans(), st.data())
def test_after_a_crash_and_any_damage_no_wrong_byte_is_served(
    content: bytes, runs: list[tuple[int, int]], digest: bool, whole: bool, data: st.DataObject
) -> None:
    """Cut anywhere, bits flipped anywhere, pages of data or index lost: what `has` claims is the truth."""
    with directory() as root:
        store = open_store(root / "cache")
        entry = store.open(identity_of(content, digest=digest))
        brought = write_runs(entry, content, runs)
        if whole:
            fill(entry, content)
            brought = set(range(block_count(len(content))))
        copy = killed_copy(root / "cache", root / "copy")
        (path,) = entry_files(copy)
        harmed = damage(path, content, data)
        after = open_store(copy)
        again = after.open(identity_of(content, digest=digest))
        there = readable(again, content)
        assert there <= brought
        if not harmed:
            assert there == brought
        # and it can be mended: the rest is fetched, the whole verified, also for the next process
        fill(again, content)
        fill(again, content)
        assert again.sound
        assert readable(again, content) == set(range(block_count(len(content))))
        third = open_store(killed_copy(copy, root / "third"))
        last = third.open(identity_of(content, digest=digest))
        assert last.complete
        assert readable(last, content) == set(range(block_count(len(content))))
        for used in (entry, again, last):
            used.release()


def damage(path: Path, content: bytes, data: st.DataObject) -> bool:
    """Harm the file in up to three ways; returns whether anything was changed."""
    before = path.read_bytes()
    for _ in range(data.draw(st.integers(0, 3))):
        size = path.stat().st_size
        kind = data.draw(
            st.sampled_from(["cut", "flip", "flip index", "lose a block", "lose a page", "grow", "delete"])
        )
        if kind == "delete":
            path.unlink(missing_ok=True)
            return True
        if kind == "cut" and size:
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, size - 1))])
        elif kind == "flip" and size:
            flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
        elif kind == "flip index" and size > index_start(content):
            flip(path, data.draw(st.integers(index_start(content), size - 1)), data.draw(st.integers(0, 7)))
        elif kind == "grow":
            path.write_bytes(path.read_bytes() + data.draw(st.binary(min_size=1, max_size=40)))
        elif kind.startswith("lose") and size:
            unit = BLOCK if kind == "lose a block" else 4096
            at = data.draw(st.integers(0, (size - 1) // unit)) * unit
            raw = path.read_bytes()
            path.write_bytes(raw[:at] + bytes(min(unit, size - at)) + raw[at + unit :])
    return path.read_bytes() != before


def absent_runs(present: set[int], total: int) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(set(range(total)) - present):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


# -- the digest, and the block that is held back -----------------------------------------------------------------------

CONTENT = CONTENTS[(6 * BLOCK + 4321, "noise")]
TOTAL = block_count(len(CONTENT))


@pytest.mark.parametrize("order", [list(range(TOTAL)), list(reversed(range(TOTAL))), [3, 0, 6, 1, 5, 2, 4]])
@pytest.mark.parametrize("wrong", [0, 3, TOTAL - 1])
def test_bytes_that_do_not_match_the_digest_never_become_a_whole_file(
    tmp_path: Path, order: list[int], wrong: int
) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    for number in order[:-1]:
        entry.write(number, damaged(number, wrong))
    assert not entry.has(order[-1] * BLOCK, 1)
    with pytest.raises(ContentDamaged):
        entry.write(order[-1], damaged(order[-1], wrong))
    assert entry.missing(0, TOTAL) == [(0, TOTAL)]
    assert not any(entry.has(number * BLOCK, 1) for number in range(TOTAL))
    assert not entry.complete
    fill(entry, CONTENT)  # the same entry takes the right bytes afterwards
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


def damaged(number: int, wrong: int) -> bytes:
    data = bytearray(block(CONTENT, number))
    data[5] ^= number == wrong
    return bytes(data)


def test_a_small_file_in_one_piece_is_judged_before_it_is_written(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    with pytest.raises(ContentDamaged):
        entry.write(0, CONTENT[:-1] + b"!")
    assert entry.missing(0, TOTAL) == [(0, TOTAL)]
    entry.write(0, memoryview(bytearray(CONTENT)))
    assert entry.sound
    entry.release()


def test_nobody_reads_or_finds_the_last_block_while_the_whole_is_being_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caught in the act: at the moment of the verdict the block is neither readable nor on record."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(0, CONTENT[: (TOTAL - 1) * BLOCK])
    seen: list[tuple[bool, set[int]]] = []
    hash_ = entry._hash
    assert hash_ is not None
    matches = hash_.matches

    def looking(size: int, start: int) -> bool:
        copy = open_store(killed_copy(tmp_path / "cache", tmp_path / "copy"))
        other = copy.open(identity_of(CONTENT))
        seen.append((entry.has((TOTAL - 1) * BLOCK, 1), readable(other, CONTENT)))
        entry.write(TOTAL - 1, b"x" * len(block(CONTENT, TOTAL - 1)))  # a second bringer is ignored meanwhile
        other.release()
        return matches(size, start)

    monkeypatch.setattr(hash_, "matches", looking)
    entry.write(TOTAL - 1, block(CONTENT, TOTAL - 1))
    assert seen == [(False, set(range(TOTAL - 1)))]
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


def test_without_a_digest_the_size_decides(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT, digest=False))
    for number in range(TOTAL):
        assert not entry.complete
        entry.write(number, block(CONTENT, number))
    assert entry.sound
    entry.release()


@pytest.mark.parametrize(
    ("first", "length"),
    [(0, 10), (0, BLOCK + 1), (-1, BLOCK), (TOTAL, BLOCK), (TOTAL - 1, 4320), (TOTAL - 1, BLOCK), (TOTAL - 1, 4322)],
)
def test_what_is_not_whole_blocks_of_this_file_is_refused(tmp_path: Path, first: int, length: int) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    with pytest.raises(ValueError, match="not whole blocks"):
        entry.write(first, bytes(length))
    entry.release()


def test_what_is_present_is_not_written_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(1, block(CONTENT, 1))
    entry.write(0, bytes(3 * BLOCK)[:BLOCK] + bytes(BLOCK) + block(CONTENT, 2))
    assert entry.has(BLOCK, 2 * BLOCK)
    entry.reset()
    assert not entry.has(BLOCK, 1)
    fill(entry, CONTENT)
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


def test_a_file_of_no_bytes_is_there_from_the_start(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(b""))
    assert entry.complete
    assert entry.sound
    assert entry.has(0, 100)
    assert entry.missing(0, 0) == []
    entry.write(0, b"")
    entry.release()
    assert entry_files(tmp_path / "cache") == []


def test_a_reset_lasts_beyond_a_crash_and_shuts_out_writes_that_were_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A writer has its block down. 2. The entry is reset. 3. The writer gets on: its block is of the old version."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(0, block(CONTENT, 0))
    written, go_on = threading.Event(), threading.Event()
    checksums = indexes.checksums

    def halting(*args: object) -> object:
        written.set()
        assert go_on.wait(10)
        return checksums(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(indexes, "checksums", halting)
    writer = threading.Thread(target=entry.write, args=(2, bytes(BLOCK)))
    writer.start()
    assert written.wait(10)
    entry.reset()
    monkeypatch.undo()
    assert entry.generation == 1
    entry.write(2, block(CONTENT, 2))  # still claimed by the late writer: skipped, it could be overwritten by it
    assert not entry.has(2 * BLOCK, 1)
    go_on.set()
    writer.join(10)
    assert readable(entry, CONTENT) == set()
    copy = open_store(killed_copy(tmp_path / "cache", tmp_path / "copy"))
    other = copy.open(identity_of(CONTENT))
    assert readable(other, CONTENT) == set()
    fill(entry, CONTENT)
    assert readable(entry, CONTENT) == set(range(TOTAL))
    for used in (entry, other):
        used.release()


def test_many_threads_writing_the_same_blocks_do_no_harm(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    for round_ in range(5):
        content = random.Random(round_).randbytes(len(CONTENT))
        entry = store.open(identity_of(content))
        start = threading.Barrier(6)
        failures: list[BaseException] = []

        def bring(
            seed: int,
            entry: Entry = entry,
            content: bytes = content,
            start: threading.Barrier = start,
            failures: list[BaseException] = failures,
        ) -> None:
            order = random.Random(seed).sample(range(TOTAL), TOTAL)
            start.wait(10)
            try:
                for number in order:
                    entry.write(number, block(content, number))
                    readable(entry, content)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=bring, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert failures == []
        assert entry.sound
        assert readable(entry, content) == set(range(TOTAL))
        entry.release()
    report = store.verify()
    assert (report.entries, report.damaged) == (5, 0)


def test_verified_once_is_not_verified_again_unless_somebody_touched_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(open_store(tmp_path / "cache"), CONTENT)
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    assert entry.complete
    assert not entry.sound
    assert not entry.ready(0, 1)
    assert entry.has(0, 1)
    assert entry.ready(0, 1)
    assert not entry.ready(BLOCK, 1)
    assert entry.has(0, len(CONTENT))
    assert entry.sound
    entry.release()
    assert store.open(identity_of(CONTENT)).sound  # remembered beyond the release
    (path,) = entry_files(tmp_path / "cache")
    with path.open("r+b") as file:  # somebody else, and with a new date
        file.write(b"!")
    again = store.open(identity_of(CONTENT))  # open already: the date is looked at all the same
    assert again.complete
    assert not again.sound
    assert not again.has(0, 1)
    assert again.has(BLOCK, 1)
    assert again.missing(0, TOTAL) == [(0, 1)]
    fill(again, CONTENT)
    assert readable(again, CONTENT) == set(range(TOTAL))
    again.release()
    again.release()


def test_damage_from_before_is_found_before_the_whole_is_vouched_for(tmp_path: Path) -> None:
    """A block of an earlier process, that nobody has asked for, is looked at when the last one arrives."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(0, CONTENT[: 3 * BLOCK])
    copy = killed_copy(tmp_path / "cache", tmp_path / "copy")
    entry.release()
    flip(entry_files(copy)[0], BLOCK)
    again = open_store(copy).open(identity_of(CONTENT))
    again.write(3, CONTENT[3 * BLOCK :])
    assert not again.complete
    assert again.missing(0, TOTAL) == [(1, 2)]
    assert again.has(3 * BLOCK, 4 * BLOCK)
    fill(again, CONTENT)
    assert readable(again, CONTENT) == set(range(TOTAL))
    assert "sound" in repr(again)
    again.release()


def test_a_disk_that_cannot_be_read_back_gives_an_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(0, CONTENT[: 3 * BLOCK])

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(CacheFault, match="read back"):
        entry.write(3, CONTENT[3 * BLOCK :])
    assert entry.missing(0, TOTAL) == [(0, TOTAL)]
    monkeypatch.undo()
    fill(entry, CONTENT)
    assert entry.sound
    entry.release()
    again = open_store(tmp_path / "cache").open(identity_of(CONTENT))
    monkeypatch.setattr(os, "preadv", broken)
    assert again.complete
    assert not again.has(0, 1)  # verified before it is believed, and it cannot be
    again.release()


def test_a_reset_that_cannot_be_recorded_gives_the_file_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next process would believe the record of what was thrown away."""
    store = open_store(tmp_path / "cache")
    keep(store, CONTENT)
    entry = store.open(identity_of(CONTENT))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", broken)
    entry.reset()
    monkeypatch.undo()
    assert entry.private
    assert entry_files(tmp_path / "cache") == []
    fill(entry, CONTENT)
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()
    assert store.usage().bytes == 0


def test_a_file_cut_short_under_a_reader_is_noticed_at_the_next_open(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    keep(store, CONTENT)
    entry = store.open(identity_of(CONTENT))
    assert entry.sound
    os.truncate(entry_files(tmp_path / "cache")[0], 2 * BLOCK)
    again = store.open(identity_of(CONTENT))
    assert not again.sound
    assert readable(again, CONTENT) == {0, 1}
    fill(again, CONTENT)
    assert readable(again, CONTENT) == set(range(TOTAL))
    again.release()
    entry.release()
    next_process = open_store(tmp_path / "cache").open(identity_of(CONTENT))
    fill(next_process, CONTENT)
    assert readable(next_process, CONTENT) == set(range(TOTAL))
    next_process.release()


def test_a_whole_file_is_never_joined_with_parts_of_another_version(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(1, bytes(2 * BLOCK))
    label = entry.label
    assert entry.vouch(label) == label  # somebody has read that
    with pytest.raises(ContentDamaged):
        entry.write(0, CONTENT)
    assert readable(entry, CONTENT) == set()
    assert entry.vouch(label) is None
    entry.write(0, CONTENT)
    assert entry.sound
    entry.release()


def test_a_whole_file_without_a_digest_is_kept_where_nothing_is_and_nowhere_else(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT, digest=False))
    entry.write(3, block(CONTENT, 3))
    entry.write(0, CONTENT)
    assert readable(entry, CONTENT) == {3}
    entry.write(0, CONTENT[: 3 * BLOCK])
    entry.write(4, CONTENT[4 * BLOCK :])
    assert entry.sound
    entry.release()


def test_who_has_read_of_a_whole_file_does_not_read_on_in_another_version(tmp_path: Path) -> None:
    """It was damaged on the disk, and what the server had to mend it was of another date."""
    store = open_store(tmp_path / "cache")
    entry = store.open(keep(store, CONTENT, digest=False))
    assert entry.sound
    label = entry.label  # and bytes go out without asking for more
    entry.reset()
    assert entry.vouch(label) is None
    assert entry.vouch(entry.label) == entry.label
    entry.release()


def test_a_whole_file_completes_parts_of_its_own_and_is_known_to_be_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(2, block(CONTENT, 2))
    with pytest.raises(ContentDamaged):
        entry.write(0, bytes(len(CONTENT)))
    assert readable(entry, CONTENT) == {2}  # what is wrong by itself does no harm to what is there
    entry.write(0, CONTENT)
    assert entry.sound
    other = open_store(killed_copy(tmp_path / "cache", tmp_path / "copy")).open(identity_of(CONTENT))
    assert other.complete
    assert readable(entry, CONTENT) == readable(other, CONTENT) == set(range(TOTAL))
    for used in (entry, other):
        used.release()


def test_a_whole_file_is_not_kept_while_somebody_else_is_writing_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That part may be of another version, and would come to stand beside it."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    reserve = store.reserve

    def meanwhile(*args: Any) -> bool:
        monkeypatch.undo()
        entry.write(0, CONTENT)
        return reserve(*args)

    monkeypatch.setattr(store, "reserve", meanwhile)
    entry.write(3, bytes(BLOCK))
    assert entry.missing(0, TOTAL) == [(0, 3), (4, TOTAL)]
    entry.release()


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("dated", [True, False])
def test_parts_whose_date_was_lost_are_not_joined(tmp_path: Path, digest: bool, dated: bool) -> None:
    """Also where a digest will tell in the end: parts are read before that."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT, digest=digest))
    if dated:
        assert entry.from_version(1000.0)
    entry.write(0, block(CONTENT, 0))
    entry.release()
    (path,) = entry_files(tmp_path / "cache")
    if dated:
        flip(path, index_start(CONTENT) + indexes.HEADER_SIZE + 2)  # the record of the date
    again = open_store(tmp_path / "cache").open(identity_of(CONTENT, digest=digest))
    assert readable(again, CONTENT) == {0}
    assert not again.from_version(1000.0)
    again.reset()
    assert again.from_version(2000.0)
    again.release()


# -- resets in the middle of it ----------------------------------------------------------------------------------------


class Interrupted(Buffers):
    """Buffers that let something happen just when one is taken, once: between a decision and the reading."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens: list[Callable[[], None]] = [happens]

    def take(self) -> bytearray:
        if self._happens:
            self._happens.pop()()
        return super().take()


@pytest.mark.parametrize("last", ["right", "wrong"])
def test_what_was_hashed_of_bytes_from_before_a_reset_never_counts_for_what_came_after_it(
    tmp_path: Path, last: str
) -> None:
    content = random.Random(8).randbytes(20 * BLOCK)
    spoilt = bytes(BLOCK) + content[BLOCK:]
    before, after = (spoilt, content) if last == "right" else (content, spoilt)
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(content))
    asked: list[Callable[[], None]] = []
    store.later = asked.append  # type: ignore[method-assign]
    entry.write(0, before[: 18 * BLOCK])
    assert asked
    # the helper knows how far to hash, and begins to read: the entry is reset at that instant
    store.buffers = entry._hash._buffers = Interrupted(entry.reset)  # type: ignore[union-attr]
    asked[0]()
    entry.write(0, after[: 10 * BLOCK])
    if last == "right":
        fill(entry, after)
        assert entry.sound
        assert readable(entry, content) == set(range(20))
    else:
        with pytest.raises(ContentDamaged):
            fill(entry, after)
        assert not entry.complete
    entry.release()


def test_a_move_out_of_the_store_takes_the_block_along_that_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage from before is found while the whole is verified, and is mended where the store has no room any more."""
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))
    entry.write(0, CONTENT[: (TOTAL - 1) * BLOCK])
    entry.release()
    (path,) = entry_files(tmp_path / "cache")
    flip(path, 5)
    store = open_store(tmp_path / "cache", temp=tmp_path)
    entry = store.open(identity_of(CONTENT))
    put = entry_module.put_blocks

    def full(*arguments: Any) -> None:
        if not entry.private:
            raise OSError(errno.ENOSPC, "full")
        put(*arguments)

    def mend(self: Store, entry: Entry, blocks: int) -> None:
        monkeypatch.setattr(entry_module, "put_blocks", full)
        entry.write(0, block(CONTENT, 0))

    monkeypatch.setattr(store_module.Store, "damaged", mend)
    entry.write(TOTAL - 1, block(CONTENT, TOTAL - 1))
    assert entry.private
    assert readable(entry, CONTENT)
    fill(entry, CONTENT)
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


def test_a_verdict_on_bytes_that_were_changed_since_they_were_read_counts_for_nothing(tmp_path: Path) -> None:
    keep(open_store(tmp_path / "cache"), CONTENT)
    (path,) = entry_files(tmp_path / "cache")
    store = open_store(tmp_path / "cache")
    entry = store.open(identity_of(CONTENT))

    class Late(Buffers):
        def give(self, buffer: bytearray) -> None:
            super().give(buffer)
            if path.stat().st_mtime_ns != 0:  # read, and found right; somebody changes it, and that is noticed
                flip(path, 5)
                os.utime(path, ns=(0, 0))
                assert not entry.recheck()

    store.buffers = Late()
    for _ in range(2):
        if entry.has(0, len(CONTENT)):
            assert os.pread(entry.fileno, len(CONTENT), 0) == CONTENT
    assert readable(entry, CONTENT) == set(range(1, TOTAL))
    entry.release()


def test_a_file_whose_last_record_cannot_be_written_is_whole_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a later process one block."""
    entry = open_store(tmp_path / "cache").open(identity_of(CONTENT))
    entry.write(0, CONTENT[: (TOTAL - 1) * BLOCK])

    def full(records: bytes) -> None:
        if records:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(entry, "_log", full)
    entry.write(TOTAL - 1, block(CONTENT, TOTAL - 1))
    assert entry.sound
    assert readable(entry, CONTENT) == set(range(TOTAL))
    entry.release()


@pytest.mark.parametrize("digest", [True, False])
def test_nothing_with_a_date_is_joined_with_bytes_of_which_none_is_known(tmp_path: Path, digest: bool) -> None:
    """A download has said its date and brought nothing yet; an archive, which says none, brings another version."""
    identity = identity_of(CONTENT, digest=digest)
    store = open_store(tmp_path / "cache")
    entry = store.open(identity)
    assert entry.from_version(1000.0)
    entry.write(0, CONTENT, dated=False)
    assert entry.complete
    assert entry.from_version(1000.0)  # nothing is
    entry.release()
    store.close()
    flip(entry_files(tmp_path / "cache")[0], 5)
    again = open_store(tmp_path / "cache").open(identity)
    assert not again.has(0, 1)
    assert not again.from_version(1000.0)  # what is fetched for the damaged block must not stand beside the rest
    again.reset()
    assert again.from_version(2000.0)
    again.release()
