"""How far ahead of a reader to fetch. Pure: no clock, no lock, no I/O.

One `ReadAhead` follows one open file. It starts with a window small enough for those who only read a header, grows
it to what was read in sequence so far (so that it doubles as the reader eats its way through), and shrinks it when
the reads jump about.

Bound: of a file larger than `FIRST`, a reader that has read ``n`` bytes in sequence is granted at most
``max(FIRST, 2 n + FIRST)`` bytes, and never more than `MAXIMUM` beyond its position; a reader that jumps costs
`FIRST` bytes for the first place, half of it for the second, and then the blocks it asks for.
"""

from __future__ import annotations

from xnatfs.cache.blocks import BLOCK

FIRST = 256 * 1024
"""Bytes fetched for a first read: header readers (pydicom, nibabel, ``head -c``) want 4 to 24 KiB, a DICOM slice of
that size is worth fetching whole, and at 50 MB/s it costs 5 ms."""
MAXIMUM = 64 * 1024 * 1024
"""Bytes that a stream may be ahead of its reader. They stand in the cache, not in memory."""
SLACK = 512 * 1024
"""Reads this near to the expected place are in sequence: the kernel's own read-ahead arrives out of order."""
CHUNK = 1024 * 1024
"""Bytes moved at once, at most."""


def align(offset: int, size: int) -> int:
    """The end of the block that ``offset`` stands in, or the end of the file."""
    return min(size, -(-offset // BLOCK) * BLOCK)


def next_chunk(chunk: int, seconds: float) -> int:
    """How much to move at once, after ``chunk`` bytes took ``seconds``: readers wait for a chunk, so not for long."""
    if seconds < 0.02:
        return min(CHUNK, chunk * 2)
    if seconds > 0.1:
        return max(BLOCK, chunk // 2 // BLOCK * BLOCK)
    return chunk


class ReadAhead:
    """The reads of one open file, and what follows from them. Not locked: its owner is."""

    __slots__ = ("_first", "_maximum", "_size", "jumps", "position", "reads", "run", "start")

    def __init__(self, size: int, *, first: int = FIRST, maximum: int = MAXIMUM) -> None:
        self._size = size
        self._first = first
        self._maximum = maximum
        self.start = -1
        """Where the present sequence of reads began; -1 before the first."""
        self.position = 0
        """Where it has come to."""
        self.run = 0
        """Bytes read in it."""
        self.reads = 0
        """How many reads that were."""
        self.jumps = 0
        """Sequences given up since the last long one."""

    def read(self, offset: int, size: int, *, contiguous: bool = False) -> None:
        """Note a read. ``contiguous``: the block before it is there, so it may go on where unseen reads ended."""
        end = offset + size
        if self.start < 0:
            self._begin(offset, contiguous)
        elif offset > max(self.position + SLACK, self.limit):
            self._jump(offset, contiguous)
        elif offset < self.position - SLACK:
            self._jump(offset, contiguous=False)
        elif contiguous and offset > self.position:
            self.run += offset - self.position  # served from the cache without asking
            self.position = offset
        fresh = end - self.position
        if fresh > 0:
            self.reads += 1
            self.run += min(size, fresh)
            self.position = end
        if self.run >= 2 * self._first:
            self.jumps = 0

    def _begin(self, offset: int, contiguous: bool) -> None:
        self.start = self.position = offset
        self.run = self._first // 2 if contiguous else 0
        self.reads = 1 if contiguous else 0

    def _jump(self, offset: int, contiguous: bool) -> None:
        self.jumps += 1
        self._begin(offset, contiguous and self.jumps <= 2)

    @property
    def sequential(self) -> bool:
        """More was read in sequence than a header: worth a request that goes on to the end."""
        return self.reads > 1 and self.run > self._first // 2

    @property
    def limit(self) -> int:
        """How far to fetch: an offset, at the end of a block or of the file."""
        if self._size <= self._first:
            return self._size
        if self.sequential:
            return align(self.position + min(max(self._first, self.run), self._maximum), self._size)
        opening = max(BLOCK, self._first >> self.jumps)
        begin = max(0, self.start) // BLOCK * BLOCK
        return align(max(begin + opening, self.position), self._size)
