"""How far ahead of a reader is fetched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xnatfs.cache.blocks import BLOCK
from xnatfs.transfer.readahead import CHUNK, FIRST, MAXIMUM, ReadAhead, align, next_chunk

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def after(*reads: tuple[int, int], size: int = GIB) -> ReadAhead:
    ahead = ReadAhead(size)
    for offset, length in reads:
        ahead.read(offset, length)
    return ahead


def test_a_header_costs_the_first_window_and_no_more() -> None:
    assert after((0, 4 * KIB)).limit == FIRST
    assert after((0, 4 * KIB), (4 * KIB, 12 * KIB)).limit == FIRST
    assert after((0, 128 * KIB)).limit == FIRST
    assert not after((0, 128 * KIB)).sequential


def test_a_small_file_is_fetched_whole() -> None:
    assert after((200 * KIB, 10), size=FIRST).limit == FIRST
    assert after((0, 1), size=10).limit == 10


def test_the_window_doubles_as_the_reads_go_on() -> None:
    ahead = ReadAhead(GIB)
    windows: list[int] = []
    for offset in range(0, 256 * MIB, 128 * KIB):
        ahead.read(offset, 128 * KIB)
        windows.append(ahead.limit - ahead.position)
    assert windows[1:] == sorted(windows[1:])
    assert windows[1] == FIRST
    assert windows[15] == 2 * MIB  # after 2 MiB
    assert windows[-1] == MAXIMUM


def test_the_end_of_the_file_is_the_limit() -> None:
    ahead = ReadAhead(10 * MIB)
    for offset in range(0, 10 * MIB, MIB):
        ahead.read(offset, MIB)
    assert ahead.limit == 10 * MIB


def test_reads_out_of_order_are_still_in_sequence() -> None:
    ahead = ReadAhead(GIB)
    for offset in (0, 256, 128, 384, 640, 512):
        ahead.read(offset * KIB, 128 * KIB)
    assert ahead.jumps == 0
    assert ahead.sequential
    assert ahead.position == 768 * KIB


def test_a_jump_collapses_the_window() -> None:
    ahead = ReadAhead(GIB)
    for offset in range(0, 64 * MIB, MIB):
        ahead.read(offset, MIB)
    ahead.read(500 * MIB, 4 * KIB)
    assert not ahead.sequential
    assert ahead.limit == 500 * MIB + FIRST // 2


def test_random_reads_cost_the_blocks_that_they_touch() -> None:
    ahead = ReadAhead(GIB)
    for number in range(10):
        ahead.read((number * 37 % 10) * 90 * MIB + 1000, 4 * KIB)
    begin = ahead.start // BLOCK * BLOCK
    assert ahead.limit == begin + BLOCK
    ahead.read(10 * MIB, 300 * KIB)
    assert ahead.limit == align(10 * MIB + 300 * KIB, GIB)


def test_a_reader_that_settles_after_jumps_is_sequential_again() -> None:
    ahead = after((0, 4096), (300 * MIB, 4096), (600 * MIB, 4096), (100 * MIB, 4096))
    for offset in range(100 * MIB, 101 * MIB, 128 * KIB):
        ahead.read(offset, 128 * KIB)
    assert ahead.sequential
    assert ahead.jumps == 0


def test_reads_served_from_the_cache_unseen_do_not_look_like_a_jump() -> None:
    ahead = ReadAhead(GIB)
    for offset in range(0, 8 * MIB, 128 * KIB):
        ahead.read(offset, 128 * KIB)
    far = ahead.limit
    ahead.read(far, 128 * KIB, contiguous=True)  # it read on to there, nobody was asked
    assert ahead.jumps == 0
    assert ahead.limit - ahead.position == far + 128 * KIB


def test_a_new_handle_that_begins_where_the_cached_part_ends_reads_on() -> None:
    ahead = ReadAhead(GIB)
    ahead.read(512 * KIB, 128 * KIB, contiguous=True)
    assert ahead.sequential


def test_reading_back_and_forth_near_by_is_no_sequence_of_new_bytes() -> None:
    ahead = ReadAhead(GIB)
    for _ in range(100):
        ahead.read(0, 64 * KIB)
        ahead.read(32 * KIB, 64 * KIB)
    assert ahead.limit == FIRST


@given(
    size=st.integers(1, 4 * GIB),
    reads=st.lists(st.tuples(st.integers(0, 4 * GIB), st.integers(1, 256 * KIB), st.booleans()), max_size=40),
)
def test_the_limit_covers_the_read_and_keeps_its_bounds(size: int, reads: list[tuple[int, int, bool]]) -> None:
    ahead = ReadAhead(size)
    for offset, length, contiguous in reads:
        if offset >= size:
            continue
        length = min(length, size - offset)
        ahead.read(offset, length, contiguous=contiguous)
        assert ahead.limit <= size
        assert ahead.limit % BLOCK == 0 or ahead.limit == size
        assert ahead.limit >= ahead.position
        assert ahead.limit <= max(ahead.position, ahead.start + FIRST) + MAXIMUM + BLOCK
        assert ahead.position >= ahead.start


@given(lengths=st.lists(st.integers(1, 256 * KIB), min_size=1, max_size=200))
def test_in_sequence_at_most_as_much_again_is_fetched(lengths: list[int]) -> None:
    ahead = ReadAhead(4 * GIB)
    read = 0
    for length in lengths:
        ahead.read(read, length)
        read += length
        assert ahead.limit <= max(FIRST, 2 * read + FIRST) + BLOCK


def test_chunks_grow_while_they_are_fast_and_shrink_when_they_are_slow() -> None:
    chunk = BLOCK
    for _ in range(10):
        chunk = next_chunk(chunk, 0.001)
    assert chunk == CHUNK
    for _ in range(10):
        chunk = next_chunk(chunk, 1.0)
    assert chunk == BLOCK
    assert next_chunk(4 * BLOCK, 0.05) == 4 * BLOCK
