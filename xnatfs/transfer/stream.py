"""One running download that fills one entry.

`Stream.run` is called by a worker and moves bytes until the stream is done, or has come to its limit (it *parks*: the
connection stays open, the thread goes), or readers of other files wait for a thread. The bytes go from the worker's
buffer straight into the entry; the stream keeps none.

TCP itself takes in some more than the limit says: what the kernel buffers of a parked connection (up to a few MiB on
a fast line) has crossed the wire and is lost when the stream is closed.

All attributes are guarded by the pool's lock, which is not held while the source or the entry is called.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from xnatfs.cache.blocks import BLOCK
from xnatfs.deadlines import Deadline
from xnatfs.errors import ContentChanged, ContentDamaged, ServerFault, TimedOut, Unreachable, XnatfsError
from xnatfs.transfer.context import Abort, Context
from xnatfs.transfer.protocols import Download
from xnatfs.transfer.readahead import align, next_chunk

if TYPE_CHECKING:
    from xnatfs.transfer.feed import Feed

log = logging.getLogger(__name__)

TURN = 0.25
"""Seconds after which a stream lets a reader of another file have its thread."""
RESUME = 512 * 1024
"""A parked stream is not woken for less, unless a reader waits."""
PRESENT = 1024 * 1024
"""A stream that has met so much in a row that was there already ends: others have been here."""


class State(enum.Enum):
    QUEUED = "waits for a thread"
    RUNNING = "runs"
    PARKED = "waits for its readers"
    BROKEN = "waits before it tries again"
    ENDED = "has ended"


class Stream:
    """See the module. Offsets are bytes of the file, at blocks' borders but for the end of the file."""

    def __init__(self, context: Context, feed: Feed, start: int, stop: int, limit: int, *, urgent: bool) -> None:
        self.context = context
        self.feed = feed
        self.start = start
        self.stop = stop
        self.limit = limit
        self.urgent = urgent
        self.position = start
        """What comes next; all before it, from ``start`` on, stands in the entry."""
        self.state = State.QUEUED
        self.cancelled = False
        self.opened = False
        """An answer has begun: it is known whether the server honours Range."""
        self.touched = context.clock()
        self.progressed = float("-inf")
        """When the last byte came (clock)."""
        self.moved = 0
        self.rate = 0.0
        """Bytes per second while moving."""
        self._download: Download | None = None
        self._chunk = BLOCK
        self._skipped = 0
        self._breaks = 0
        self._fruitless = 0
        self._mark = start
        """How far any attempt came."""
        self._parked_at = 0.0
        self._idle_timer = False

    # -- lock held ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.state is not State.ENDED and not self.cancelled

    def covers(self, offset: int) -> bool:
        """Will this stream come by there?"""
        return self.alive and self.position <= offset < self.stop

    def distance(self) -> float:
        """How far ahead a reader may be to wait for it rather than for a stream of its own."""
        return max(self.context.tuning.join, 0.5 * self.rate)

    def allow(self, limit: int, *, urgent: bool) -> None:
        """Go on up to ``limit``; at once when a reader waits, else when it is worth it."""
        self.limit = max(self.limit, min(limit, self.stop))
        if urgent:
            self.context.workers.promote(self)
        room = self.limit - self.position
        if self.state is State.PARKED and ((urgent and room > 0) or room >= min(RESUME, self.stop - self.position)):
            self._submit()

    def abort(self) -> Abort:
        """End it; call what this returns once the lock is free."""
        if not self.alive:
            return lambda: None
        self.cancelled = True
        self.context.stats.add("transfer.cancelled")
        download = self._download
        if self.state is not State.RUNNING:
            self.context.workers.withdraw(self)
            self._end(None)
        return download.close if download is not None else lambda: None

    def _submit(self) -> None:
        self.context.parked.pop(self, None)
        self.state = State.QUEUED
        self.context.workers.submit(self)

    def _end(self, error: XnatfsError | None) -> None:
        self.state = State.ENDED
        self._download = None
        self.context.parked.pop(self, None)
        self.feed.ended(self, error)

    def _park(self) -> Abort | None:
        """Let the thread go, keep the connection; too many of these, and the oldest is given up."""
        self.state = State.PARKED
        self.urgent = False
        self._parked_at = self.context.clock()
        self.context.parked[self] = None
        if not self._idle_timer:
            self._idle_timer = True
            self.context.workers.at(self._parked_at + self.context.tuning.idle, self._idle)
        if len(self.context.parked) <= self.context.max_parked:
            return None
        oldest = next((stream for stream in self.context.parked if stream.feed.ranged), None)
        return oldest.abort() if oldest is not None else None

    # -- no lock held -------------------------------------------------------------------------------------------

    def _idle(self) -> None:
        """Nobody has read on for a while: give the connection up, or take the rest where it cannot be resumed."""
        close: Abort = lambda: None  # noqa: E731
        with self.context.lock:
            self._idle_timer = False
            if self.state is not State.PARKED:
                return
            due = self._parked_at + self.context.tuning.idle
            if due > self.context.clock():
                self._idle_timer = True
                self.context.workers.at(due, self._idle)
            elif self.feed.ranged:
                close = self.abort()
            else:
                self.allow(self.stop, urgent=False)
        close()

    def run(self, buffer: memoryview) -> None:
        """One slice, on a worker. Whatever goes wrong goes to the feed."""
        with self.context.lock:
            if self.state is not State.QUEUED:
                return
            self.state = State.RUNNING
        error: Exception | None = None
        try:
            if self._download is None:
                self._open()
            self._pump(buffer)
        except XnatfsError as problem:
            error = problem
        except Exception as problem:
            log.exception("a download failed in a way that nobody foresaw")
            error = problem
        if error is not None:
            self._failed(error)

    def _open(self) -> None:
        """Ask for what is wanted, and check that the answer is about that."""
        context, feed = self.context, self.feed
        with context.lock:
            deadline = feed.deadline(self) or Deadline(context.tuning.opening, context.clock)
            start, stop = self.position, self.stop
        began = context.clock()
        context.stats.add("transfer.streams")
        download = context.source.open_stream(feed.file, start, stop, deadline=deadline)
        try:
            adopted = self._check(download, start, stop)
        except BaseException:
            download.close()
            raise
        context.measured(context.clock() - began)
        with context.lock:
            self._download = download
            self.opened = True
            if adopted:
                feed.whole = True
                self.start = self.position = self._mark = 0
                self.stop = feed.entry.size
                rival = next((s for s in feed.streams if s is not self and s.alive and s.opened and not s.start), None)
                if rival is not None:  # one body without Range is enough
                    self.cancelled = True
            feed.changed()

    def _check(self, download: Download, start: int, stop: int) -> bool:
        """Is this the whole body although a part was asked for? Raises `ContentChanged`, `ServerFault`."""
        size, path, length = self.feed.entry.size, self.feed.file.path, download.length
        self.feed.same_version(download.last_modified)
        partial = (start, stop) != (0, size)
        if download.start == start and length == stop - start:
            return False
        if download.start == 0 and (length == size or (length is None and partial and self._whole_body())):
            return partial
        if download.start == start and length is None:
            return False
        if download.start == 0 and length is not None:
            raise ContentChanged(f"{path}: the server has {length} bytes, the listing said {size}")
        raise ServerFault(f"{path}: asked for bytes {start}-{stop - 1}, got {length} bytes from {download.start}")

    def _whole_body(self) -> bool:
        return self.start > 0 or self.context.source.ranges is False

    def _pump(self, buffer: memoryview) -> None:
        """Move bytes while there is room."""
        turn = self.context.clock() + TURN
        while (room := self._room(turn)) > 0:
            download = self._download
            assert download is not None  # only the worker that runs a stream takes it away
            self._move(download, buffer[: min(room, self._chunk)])
        if room < 0:
            self._finish()

    def _room(self, turn: float) -> int:
        """Bytes that may be moved now; 0: this slice is over; -1: all is here."""
        context, feed = self.context, self.feed
        close: Abort | None = None
        with context.lock:
            if self.cancelled:
                close = self._download.close if self._download else None
                self._end(None)
                room = 0
            elif self.position >= self.stop or (self._skipped >= PRESENT and feed.ranged):
                room = -1
            else:
                self.urgent = feed.waited_for(self)
                room = align(self.limit, self.stop) - self.position
                if room <= 0:
                    close = self._park()
                    room = 0
                elif context.workers.contended() and (not self.urgent or context.clock() >= turn):
                    self._submit()
                    room = 0
        if close is not None:
            close()
        return room

    def _move(self, download: Download, buffer: memoryview) -> None:
        """One chunk from the network into the entry. What came before a failure is kept as far as it fills blocks."""
        context, entry = self.context, self.feed.entry
        began = context.clock()
        filled = 0
        try:
            while filled < len(buffer):
                count = download.readinto(buffer[filled:])
                if count <= 0:
                    raise Unreachable(
                        f"{self.feed.file.path}: the download ended early, at byte {self.position + filled}"
                    )
                filled += count
                self.touched = context.clock()
        except BaseException:
            self._keep(buffer[: filled // BLOCK * BLOCK])
            raise
        seconds = context.clock() - began
        first = self.position // BLOCK
        absent = entry.missing(first, first + -(-filled // BLOCK))
        self._skipped = 0 if absent else self._skipped + filled
        self._keep(buffer)
        self._chunk = next_chunk(self._chunk, seconds)
        if seconds > 0:
            rate = filled / seconds
            self.rate = rate if not self.rate else self.rate + 0.3 * (rate - self.rate)

    def _keep(self, data: memoryview) -> None:
        if not len(data):
            return
        self.feed.entry.write(self.position // BLOCK, data)
        context = self.context
        context.stats.add("transfer.bytes", len(data))
        with context.lock:
            self.position += len(data)
            self.moved += len(data)
            self.progressed = self.touched
            self.feed.changed()

    def _finish(self) -> None:
        """All that was asked for is here."""
        download, entry = self._download, self.feed.entry
        assert download is not None
        if download.length is None and self.position >= entry.size and download.readinto(memoryview(bytearray(1))):
            # Of unknown length, and it goes on. Whoever waited was served already: a new version for the next one.
            entry.reset()
            raise ContentChanged(f"{self.feed.file.path}: longer than the {entry.size} bytes of the listing")
        download.close()
        with self.context.lock:
            self._end(None)

    def _failed(self, error: Exception) -> None:
        """Try again if there is a point and somebody waits; else tell those who wait."""
        context, feed = self.context, self.feed
        with context.lock:
            download, self._download = self._download, None
            midway, self.opened = self.opened, False
            if isinstance(error, ContentDamaged):
                self.feed.damaged_whole()
        if download is not None:
            download.close()
        with context.lock:
            if self.state is State.ENDED:
                return
            if self.cancelled:
                self._end(None)
                return
            delay = self._next_attempt(error) if midway else None  # to open is tried again by the source, not here
            if delay is None:
                self._end(error if isinstance(error, XnatfsError) else XnatfsError(f"{type(error).__name__}: {error}"))
                return
            context.stats.add("transfer.retries")
            self.state = State.BROKEN
            self._skipped = 0
            self._mark = max(self._mark, self.position)
            if not feed.ranged or isinstance(error, ContentDamaged):
                self.start = self.position = 0
                self.stop = feed.entry.size
            feed.changed()
            if delay > 0:
                context.workers.at(context.clock() + delay, self._retry)
            else:
                self._submit()

    def _next_attempt(self, error: Exception) -> float | None:
        """Seconds until the next attempt, or None to give up."""
        tuning = self.context.tuning
        if not self.feed.waited_for(self):
            return None
        if isinstance(error, ContentDamaged):
            self.feed.damaged += 1
            self._mark = 0
            return 0.0 if self.feed.damaged == 1 else None
        if not isinstance(error, (Unreachable, TimedOut)):
            return None
        self._breaks += 1
        self._fruitless = 0 if self.position > self._mark else self._fruitless + 1
        if self._breaks > tuning.breaks or self._fruitless > tuning.retries:
            return None
        return self.context.jitter(max(1, self._fruitless))

    def _retry(self) -> None:
        with self.context.lock:
            if self.state is State.BROKEN:
                self._submit()
