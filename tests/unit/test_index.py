"""The index format: its exact bytes, and what becomes of any damage to them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnatfs.cache import index as indexes
from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.cache.index import HEADER_SIZE, RECORD_SIZE

KEY = "00112233445566778899aabbccddeeff01234567"
DIGEST = "d41d8cd98f00b204e9800998ecf8427e"
SIZE = 5 * BLOCK + 17
HEAD = indexes.header(KEY, SIZE, DIGEST)
SALT = indexes.salt_of(HEAD)


def record_all(numbers: list[int], done: bool) -> bytes:
    records = [indexes.block_record(SALT, number, 1000 + number) for number in numbers]
    return b"".join([HEAD, *records, indexes.done_record(SALT, block_count(SIZE)) if done else b""])


def test_the_format_is_the_one_that_its_version_says() -> None:
    """If this fails, the format has changed: raise FORMAT_VERSION, then put the new bytes here."""
    assert indexes.FORMAT_VERSION == 1
    assert BLOCK == 65536
    assert (indexes.start(0), indexes.start(1), indexes.start(4096), indexes.start(4097)) == (0, 4096, 4096, 8192)
    assert HEAD.hex() == (
        "584e415446534958" "01000000" "00000100" "1100050000000000" "00112233445566778899aabbccddeeff01234567"
        "6434316438636439386630306232303465393830303939386563663834323765" + 32 * "00" + 16 * "00" + "fd5b6f97"
    )  # fmt: skip
    assert indexes.checksum(SALT, 3, b"block") == 0xC7E12116
    assert indexes.block_record(SALT, 3, 0x01020304).hex() == "0300000004030201424c434b5890056b"
    assert indexes.date_record(SALT, 0x5F5E1000).hex() == "00105e5f0000000044415445598e4e3b"
    assert indexes.room(SIZE) == 128 + 8 * 16
    assert indexes.done_record(SALT, 6).hex() == "0600000000000000444f4e455f900a64"


def test_what_was_recorded_is_read_back() -> None:
    index = indexes.parse(record_all([4, 0], done=False), HEAD, SIZE)
    assert index is not None
    assert index.present.present(0, 6) == [(0, 1), (4, 5)]
    assert (index.crcs[0], index.crcs[4]) == (1000, 1004)
    assert not index.complete
    assert index.end == indexes.start(SIZE) + HEADER_SIZE + 2 * RECORD_SIZE


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [0, 0, 1, 2, 3, 4, 5]])
def test_complete_is_all_blocks_and_then_the_word_for_it(order: list[int]) -> None:
    index = indexes.parse(record_all(order, done=True), HEAD, SIZE)
    assert index is not None
    assert index.complete
    assert index.present.complete
    assert list(index.crcs) == [1000 + number for number in range(6)]


def test_all_blocks_without_the_word_lack_one_again() -> None:
    """Whoever brings it makes the whole be verified."""
    index = indexes.parse(record_all([0, 1, 2, 3, 4, 5], done=False), HEAD, SIZE)
    assert index is not None
    assert not index.complete
    assert index.present.missing(0, 6) == [(5, 6)]


def test_a_block_written_after_the_word_takes_it_back() -> None:
    raw = record_all([0, 1, 2, 3, 4, 5], done=True) + indexes.block_record(SALT, 2, 77)
    index = indexes.parse(raw, HEAD, SIZE)
    assert index is not None
    assert not index.complete
    assert index.crcs[2] == 77


def test_the_word_without_all_blocks_counts_for_nothing() -> None:
    index = indexes.parse(record_all([0, 1, 2, 4, 5], done=True), HEAD, SIZE)
    assert index is not None
    assert not index.complete
    assert index.present.missing(0, 6) == [(3, 4)]


@pytest.mark.parametrize(
    "head",
    [
        indexes.header(KEY[:-1] + "8", SIZE, DIGEST),
        indexes.header(KEY, SIZE + 1, DIGEST),
        indexes.header(KEY, SIZE, ""),
        HEAD[:8] + b"\2" + HEAD[9:],
        b"",
        bytes(HEADER_SIZE),
    ],
)
def test_another_header_voids_the_file(head: bytes) -> None:
    assert indexes.parse(head + record_all([0], done=False)[HEADER_SIZE:], HEAD, SIZE) is None


@given(st.permutations(range(6)), st.booleans(), st.integers(0, HEADER_SIZE + 8 * RECORD_SIZE))
def test_a_torn_index_is_what_was_whole_in_it(order: list[int], done: bool, cut: int) -> None:
    index = indexes.parse(record_all(order, done)[:cut], HEAD, SIZE)
    if cut < HEADER_SIZE:
        assert index is None
        return
    assert index is not None
    whole = set(order[: (cut - HEADER_SIZE) // RECORD_SIZE])
    there = {number for number in range(6) if number in index.present}
    assert there == (whole if index.complete or len(whole) < 6 else whole - {5})
    assert index.complete == (done and cut >= HEADER_SIZE + 7 * RECORD_SIZE)


@settings(max_examples=300)
@given(st.permutations(range(6)), st.integers(0, 8 * (HEADER_SIZE + 7 * RECORD_SIZE) - 1))
def test_a_flipped_bit_costs_one_record_or_all_and_never_says_what_is_not_so(order: list[int], bit: int) -> None:
    raw = bytearray(record_all(order, done=True))
    raw[bit // 8] ^= 1 << bit % 8
    index = indexes.parse(bytes(raw), HEAD, SIZE)
    assert (index is None) == (bit // 8 < HEADER_SIZE)
    if index is None:
        return
    assert not index.complete
    assert index.present.absent == 1
    for number in range(6):
        assert number not in index.present or index.crcs[number] == 1000 + number


@given(st.binary(max_size=400))
def test_garbage_after_the_header_is_no_record(garbage: bytes) -> None:
    index = indexes.parse(HEAD + garbage, HEAD, SIZE)
    assert index is not None
    assert index.present.absent == 6
    zeros = indexes.parse(HEAD + bytes(4096), HEAD, SIZE)
    assert zeros is not None
    assert zeros.present.absent == 6


def test_a_block_at_another_place_fails_its_checksum_whatever_it_holds() -> None:
    """A hole behind the record of a block of zeros is the dangerous case."""
    zeros = bytes(BLOCK)
    sums = {indexes.checksum(SALT, number, zeros) for number in range(1000)}
    assert len(sums) == 1000


def test_bad_blocks_are_named_and_short_data_is_bad() -> None:
    content = random.Random(1).randbytes(SIZE)
    index = indexes.empty(HEAD, SIZE)
    for number in range(6):
        index.crcs[number] = indexes.checksum(SALT, number, content[number * BLOCK : (number + 1) * BLOCK])
    assert indexes.bad_blocks(index, 0, 6, memoryview(content)) == []
    assert indexes.bad_blocks(index, 2, 6, memoryview(content)[2 * BLOCK :]) == []
    assert indexes.bad_blocks(index, 0, 6, memoryview(content)[:-1]) == [5]
    assert indexes.bad_blocks(index, 0, 6, memoryview(content)[: 3 * BLOCK]) == [3, 4, 5]
    damaged = bytearray(content)
    damaged[BLOCK + 7] ^= 1
    assert indexes.bad_blocks(index, 0, 6, memoryview(damaged)) == [1]


@given(st.integers(0, 1 << 45), st.sampled_from(["", DIGEST]))
def test_a_header_can_be_read_by_itself(size: int, digest: str) -> None:
    head = indexes.header(KEY, size, digest)
    assert len(head) == HEADER_SIZE
    assert indexes.read_header(head + b"rest") == (KEY, size, digest)
    assert indexes.read_header(head[:-1]) is None
    assert indexes.read_header(head[:30] + b"\xff" + head[31:]) is None
    assert indexes.read_header(head[:45] + b"\xff" + head[46:]) is None


@pytest.mark.parametrize("complete", [True, False])
def test_the_date_of_the_version_is_kept_beside_the_blocks(complete):
    size = 3 * BLOCK + 10
    head = indexes.header("ab" * 20, size, "")
    salt = indexes.salt_of(head)
    records = [indexes.date_record(salt, 1_700_000_000)]
    records += [indexes.block_record(salt, number, 7 * number) for number in range(4 if complete else 2)]
    records += [indexes.done_record(salt, 4)] if complete else []
    index = indexes.parse(head + b"".join(records), head, size)
    assert index is not None
    assert index.date == 1_700_000_000
    assert index.complete == complete
    assert index.present.missing(0, 4) == ([] if complete else [(2, 4)])
    without = indexes.parse(head + b"".join(records[1:]), head, size)
    assert without is not None
    assert without.date is None


def test_a_record_of_a_block_that_the_file_has_not_is_none() -> None:
    raw = HEAD + indexes.block_record(SALT, block_count(SIZE), 7) + indexes.block_record(SALT, 1, 1001)
    index = indexes.parse(raw, HEAD, SIZE)
    assert index is not None
    assert index.present.present(0, 6) == [(1, 2)]
