"""Which blocks of a file are there: pure arithmetic, no I/O and no lock.

A file of ``size`` bytes is ``block_count(size)`` blocks of `BLOCK` bytes; only the last may be shorter. Ranges of
blocks are half open, ``[first, last)``, like slices.
"""

from __future__ import annotations

BLOCK = 64 * 1024
"""Bytes per block: half of the kernel's usual read (128 KiB), small enough that reading a header costs little."""


def block_of(offset: int) -> int:
    """Number of the block that holds byte ``offset``."""
    return offset // BLOCK


def block_range(offset: int, size: int) -> tuple[int, int]:
    """The blocks ``[first, last)`` that ``size`` bytes from ``offset`` on touch; empty when ``size`` <= 0."""
    first = offset // BLOCK
    if size <= 0:
        return first, first
    return first, -(-(offset + size) // BLOCK)


def block_count(size: int) -> int:
    """How many blocks a file of ``size`` bytes has."""
    return -(-size // BLOCK)


def block_length(size: int, number: int) -> int:
    """Bytes in block ``number`` of a file of ``size`` bytes.

    Raises ValueError for a block that the file does not have.
    """
    if not 0 <= number < block_count(size):
        raise ValueError(f"a file of {size} bytes has no block {number}")
    return min(BLOCK, size - number * BLOCK)


def whole_blocks(size: int, first: int, length: int) -> int:
    """The block after ``length`` bytes from block ``first`` on, of a file of ``size`` bytes.

    Raises ValueError when that are not whole blocks of the file.
    """
    end = first * BLOCK + length
    if first < 0 or end > size or (end % BLOCK and end != size):
        raise ValueError(f"{length} bytes from block {first} on are not whole blocks of a file of {size}")
    return block_count(end)


class Blocks:
    """A set of blocks of one file; one byte each, so that the searching is done by memchr.

    Looking (`has`, `holds`, `missing`) needs no lock: each look is one call into a bytearray. Changing does, since
    `absent` is counted along.
    """

    __slots__ = ("_marks", "absent", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._marks = bytearray(block_count(size))
        self.absent = len(self._marks)
        """How many blocks are not in the set."""

    def __len__(self) -> int:
        """How many blocks the file has, in the set or not."""
        return len(self._marks)

    def __contains__(self, number: int) -> bool:
        return 0 <= number < len(self._marks) and self._marks[number] == 1

    @property
    def complete(self) -> bool:
        return self.absent == 0

    def has(self, offset: int, size: int) -> bool:
        """Are all blocks of these bytes in the set? Bytes beyond the end of the file are not asked for."""
        return self.holds(*block_range(offset, min(size, self.size - offset)))

    def holds(self, first: int, last: int) -> bool:
        """Are all of ``[first, last)`` in the set?"""
        return self.absent == 0 or first >= last or self._marks.find(0, first, last) < 0

    def mark(self, first: int, last: int) -> None:
        """Put ``[first, last)`` into the set."""
        self.absent -= self._marks.count(0, first, last)
        self._marks[first:last] = b"\1" * (last - first)

    def drop(self, first: int, last: int) -> None:
        """Take ``[first, last)`` out of the set."""
        self.absent += self._marks.count(1, first, last)
        self._marks[first:last] = bytes(last - first)

    def clear(self) -> None:
        self.drop(0, len(self._marks))

    def first_missing(self, start: int = 0) -> int:
        """The lowest block from ``start`` on that is not in the set; the number of blocks when there is none."""
        found = self._marks.find(0, start)
        return len(self._marks) if found < 0 else found

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The runs of ``[first, last)`` that are not in the set, in order."""
        return self._runs(0, first, last)

    def present(self, first: int, last: int) -> list[tuple[int, int]]:
        """The runs of ``[first, last)`` that are in the set, in order."""
        return self._runs(1, first, last)

    def lacking(self, runs: list[tuple[int, int]]) -> int:
        """How many bytes of the file lie in those blocks of ``runs`` that are not in the set."""
        missing = [run for first, last in runs for run in self.missing(first, last)]
        return sum(min(last * BLOCK, self.size) - first * BLOCK for first, last in missing)

    def _runs(self, wanted: int, first: int, last: int) -> list[tuple[int, int]]:
        marks, runs = self._marks, []
        first, last = max(first, 0), min(last, len(marks))
        while first < last and (start := marks.find(wanted, first, last)) >= 0:
            end = marks.find(1 - wanted, start, last)
            first = last if end < 0 else end
            runs.append((start, first))
        return runs

    def copy(self) -> Blocks:
        made = Blocks(self.size)
        made.load(self.to_bytes())
        return made

    def to_bytes(self) -> bytes:
        """A byte 0 or 1 for each block, for `load`."""
        return bytes(self._marks)

    def load(self, marks: bytes) -> None:
        """Become what `to_bytes` gave for a file of the same size. Raises ValueError for anything else."""
        if len(marks) != len(self._marks) or marks.strip(b"\0\1"):
            raise ValueError("not the marks of a file of this size")
        self._marks[:] = marks
        self.absent = self._marks.count(0)
