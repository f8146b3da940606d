"""Block arithmetic, against the obvious model: sets of numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.cache.blocks import BLOCK, Blocks, block_count, block_length, block_of, block_range

SIZES = st.integers(0, 20 * BLOCK)


@given(SIZES)
def test_the_lengths_of_all_blocks_add_up_to_the_size(size: int) -> None:
    lengths = [block_length(size, number) for number in range(block_count(size))]
    assert sum(lengths) == size
    assert all(length == BLOCK for length in lengths[:-1])
    assert all(0 < length <= BLOCK for length in lengths)


@pytest.mark.parametrize("number", [-1, 2, 3])
def test_a_block_that_the_file_does_not_have_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="has no block"):
        block_length(2 * BLOCK, number)


@given(st.integers(0, 10 * BLOCK), st.integers(-5, 5 * BLOCK))
def test_the_range_is_exactly_the_blocks_that_hold_the_bytes(offset: int, size: int) -> None:
    touched = {block_of(at) for at in {*range(offset, offset + size, BLOCK), offset + size - 1} if size > 0}
    assert set(range(*block_range(offset, size))) == touched


@given(SIZES, st.lists(st.tuples(st.sampled_from(["mark", "drop", "clear"]), st.integers(0, 20), st.integers(0, 20))))
def test_any_sequence_of_changes_equals_a_set(size: int, changes: list[tuple[str, int, int]]) -> None:
    blocks, model = Blocks(size), set[int]()
    total = block_count(size)
    for change, a, b in changes:
        first, last = sorted((min(a, total), min(b, total)))
        if change == "mark":
            blocks.mark(first, last)
            model |= set(range(first, last))
        elif change == "drop":
            blocks.drop(first, last)
            model -= set(range(first, last))
        else:
            blocks.clear()
            model.clear()
    everything = set(range(total))
    assert len(blocks) == total
    assert blocks.absent == len(everything - model)
    assert blocks.complete == (model == everything)
    assert {number for number in range(total) if number in blocks} == model
    assert -1 not in blocks
    assert total not in blocks
    for first in range(total + 1):
        assert blocks.first_missing(first) == min((everything - model) & set(range(first, total)), default=total)
        for last in range(first, total + 1):
            part = set(range(first, last))
            assert blocks.holds(first, last) == (part <= model)
            for runs, wanted in (
                (blocks.missing(first, last), part - model),
                (blocks.present(first, last), part & model),
            ):
                assert [number for a, b in runs for number in range(a, b)] == sorted(wanted)
                assert all(before[1] < after[0] for before, after in pairwise(runs))
    copy = Blocks(size)
    copy.load(blocks.to_bytes())
    assert (copy.absent, copy.to_bytes()) == (blocks.absent, blocks.to_bytes())


@given(SIZES, st.data())
def test_has_speaks_of_bytes_and_forgives_the_end(size: int, data: st.DataObject) -> None:
    blocks = Blocks(size)
    present = data.draw(st.sets(st.integers(0, max(0, block_count(size) - 1)))) if size else set()
    for number in present:
        blocks.mark(number, number + 1)
    offset, count = data.draw(st.integers(0, size + BLOCK)), data.draw(st.integers(0, size + BLOCK))
    wanted = range(offset, min(offset + count, size))
    assert blocks.has(offset, count) == all(block_of(at) in present for at in (*wanted[::BLOCK], *wanted[-1:]))


@pytest.mark.parametrize("marks", [b"", b"\1\1", b"\2"])
def test_marks_of_another_file_are_refused(marks: bytes) -> None:
    with pytest.raises(ValueError, match="not the marks"):
        Blocks(BLOCK).load(marks)
