"""One resource on its way as one zip: its members go into the entries of the files, one by one, while it arrives.

A member counts only when the zip's checksum over it is right, its size is that of the listing, and its entry has
verified it by MD5 where the listing has one. A cut or damaged archive keeps what was complete before.

The zip is read by ``stream_unzip`` (this is the only module that knows it), pulled step by step, so that between two
steps the archive can rest with its connection open and without a thread. Measured: 1 GB/s for members of 150 kB,
20 microseconds a member, with chunks of 64 KiB; larger ones are copied more often than they save calls. Storing a
member costs six times as much, most of it in MD5 and in the disk, so threads of their own do it beside the unpacking.

Attributes are guarded by the pool's lock; source, entries and the library are called without it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

import stream_unzip

from xnatfs.cache.blocks import BLOCK, block_count
from xnatfs.deadlines import Deadline
from xnatfs.errors import CacheFault, ContentDamaged, ServerFault, XnatfsError
from xnatfs.transfer.context import Abort, Context
from xnatfs.transfer.members import Index, Matcher
from xnatfs.transfer.protocols import Download, Entry, Member
from xnatfs.transfer.stream import TURN, State

if TYPE_CHECKING:
    from xnatfs.transfer.walks import Series

log = logging.getLogger(__name__)

PIECE = 64 * 1024
"""Bytes handed to the library at once."""
AHEAD = 8 * 1024 * 1024
"""Bytes of whole members that may wait for being stored."""
HOLD = 8 * 1024 * 1024
"""Members up to this are kept in memory until their checksum is known to be right, so that nobody reads a damaged one;
larger ones are readable as they arrive, as a single download is."""
ENOUGH = 1024 * 1024
"""An archive that has brought its allowance goes on when that has grown by this."""
EXCESS = 16 * 1024 * 1024
"""An archive larger than four times the listing's bytes plus this is not what was asked for."""


class Archive:
    """See the module."""

    def __init__(self, context: Context, series: Series, index: Index) -> None:
        self._context = context
        self.series = series
        self._index = index
        self._matcher = Matcher(index)
        self.urgent = True
        self.state = State.QUEUED
        self.touched = context.clock()
        self.received = 0
        """Bytes of the zip so far."""
        self._bulk = 0
        """The same, and the unpacked bytes of what is thrown away."""
        self.cancelled = False
        self.over = threading.Event()
        """Set when nothing more will come."""
        self._download: Download | None = None
        self._steps: Iterator[None] | None = None
        self._storing: deque[tuple[Future[None], int]] = deque()
        self._waiting_bytes = 0
        """Bytes of what is being stored. These two belong to the worker."""
        self._in_hand: set[str] = set()
        """Files that have arrived and are being stored."""
        self._began = context.clock()
        self._first_byte_at: float | None = None
        self._passed: set[str] = set()
        """Files that need not be waited for any more: they are in their entries, or will not come."""
        self._filled = 0
        """Files that were brought, or were there already."""
        self._cursor = 0
        """Bytes listed before the file that is coming."""
        self._ordered = True
        """The files have come in the order of the listing so far."""

    # -- lock held --------------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Bytes per second since the first."""
        if self._first_byte_at is None:
            return 0.0
        return self.received / max(1e-3, self._context.clock() - self._first_byte_at)

    def expects(self, path: str) -> bool:
        """May this file still come?"""
        return path in self._index.by_path and path not in self._passed

    def seconds_to(self, path: str) -> float | None:
        """How long until the archive should be there; None before its first byte.

        One that has fallen silent is taken to be so for as long again, whatever its rate was before.
        """
        if self._first_byte_at is None:
            return None
        if path in self._in_hand:
            return 0.0
        left = (self._index.total - self.received) / 2.0
        if self._ordered:
            left = self._index.places[path] - self._cursor
            if left < 0:
                return float("inf")
        return max(0.0, left) / max(1.0, self.rate) + max(0.0, self._context.clock() - self.touched)

    def more_allowed(self) -> None:
        """One more file was opened: an archive that had brought enough may go on."""
        if self.state is State.PARKED and self.series.allowance() > ENOUGH:
            self._submit()

    def abort(self) -> Abort:
        """End it; call what this returns once the lock is free."""
        if self.cancelled or self.state is State.ENDED:
            return lambda: None
        self.cancelled = True
        self._context.stats.add("transfer.cancelled")
        download, steps = self._download, self._steps
        if self.state is State.RUNNING:
            return download.close if download is not None else lambda: None
        self._context.workers.withdraw(self)
        self._end(None)
        return lambda: _close(download, steps)

    def _submit(self) -> None:
        self.state = State.QUEUED
        self._context.workers.submit(self)

    def _end(self, error: XnatfsError | None) -> None:
        self.state = State.ENDED
        self.series.ended(self, error)
        self.over.set()

    # -- on a worker, no lock held ------------------------------------------------------------------------------------

    def run(self, _buffer: memoryview) -> None:
        """One slice."""
        with self._context.lock:
            if self.state is not State.QUEUED:
                return
            self.state = State.RUNNING
        error: XnatfsError | None = None
        try:
            if self._steps is None:
                self._steps = self._read()
            turn = self._context.clock() + TURN
            for _ in self._steps:
                if self._rests(turn):
                    return
            self._stored(0)
            if 2 * self._filled < len(self._index):
                error = ServerFault(f"{self.series.uri}: the archive has few of the files of the listing")
        except XnatfsError as problem:
            error = problem
        except stream_unzip.UnzipError as problem:
            error = ServerFault(f"{self.series.uri}: the archive is damaged or cut ({type(problem).__name__})")
        except Exception as problem:
            log.exception("an archive failed in a way that nobody foresaw")
            error = XnatfsError(f"{self.series.uri}: {type(problem).__name__}")
        _close(self._download, self._steps)
        wait(future for future, _ in self._storing)  # who waits for one of these need not fetch it
        with self._context.lock:
            if error is not None and not self.cancelled:
                log.info("an archive of a resource failed, its files are fetched singly: %s", type(error).__name__)
                log.debug("%s", error)
            self._end(None if self.cancelled else error)

    def _rests(self, turn: float) -> bool:
        """Is this slice over? If so the state says why, and another worker may be at it already."""
        with self._context.lock:
            now = self._context.clock()
            if self.cancelled:
                return False  # the next step comes to an end, the connection being closed
            if self.series.allowance() <= 0:
                self.state = State.PARKED
                for feed in self._context.feeds.values():
                    feed.changed()  # who waits for it fetches singly, which may allow it more
                return True
            if self._context.workers.contended() and now >= turn:
                self.urgent = now - self.series.active < 1.0
                self._submit()
                return True
            return False

    def _read(self) -> Iterator[None]:
        """The archive in steps of about one piece."""
        pieces = self._pieces()
        for name, size, chunks in stream_unzip.stream_unzip(pieces, chunk_size=PIECE):
            member = self._matcher.match(name)
            if member is not None:
                self._came_to(member)
            if member is not None and size in (None, member.size):
                yield from self._fill(member, chunks)
            else:
                yield from self._drain(chunks)
                if member is not None:
                    self._came_by(member, None)
            yield
        for _ in pieces:  # the directory at the end: read to it, the connection serves the next request
            yield

    def _drain(self, chunks: Iterator[bytes]) -> Iterator[None]:
        for chunk in chunks:
            self._count(len(chunk))
            yield

    def _count(self, amount: int) -> None:
        """Packed or unpacked: an archive that is no end larger than the listing says is not what was asked for."""
        self._bulk += amount
        if self._bulk > 4 * self._index.total + EXCESS:
            raise ServerFault(f"{self.series.uri}: the archive is far larger than the listing says")

    def _pieces(self) -> Iterator[bytes]:
        context = self._context
        deadline = Deadline(context.tuning.opening, context.clock)
        download = context.source.open_zip(self.series.uri, deadline=deadline)
        with context.lock:
            self._download = download
            if self.cancelled:
                return
        buffer = memoryview(bytearray(PIECE))
        while (count := download.readinto(buffer)) and not self.cancelled:
            self.touched = context.clock()
            with context.lock:
                if self._first_byte_at is None:
                    self._first_byte_at = self.touched
                self.received += count
                self.series.brought += count
            self._count(count)
            context.stats.add("transfer.bytes", count)
            yield bytes(buffer[:count])

    def _fill(self, member: Member, chunks: Iterator[bytes]) -> Iterator[None]:
        """One member into its entry."""
        if member.size > HOLD:
            yield from self._fill_as_it_comes(member, chunks)
            return
        pieces: list[bytes] = []
        length = 0
        for chunk in chunks:
            pieces.append(chunk)
            length += len(chunk)
            if length > member.size:
                self._damaged(member, "longer in the archive than in the listing")
                self._came_by(member, None)
                yield from self._drain(chunks)
                return
            yield
        self._stored(AHEAD - length)
        with self._context.lock:
            if not self.cancelled:
                self._in_hand.add(member.path)
                self._waiting_bytes += length
                self._storing.append((self._context.storing.submit(self._store, member, pieces), length))

    def _stored(self, most: int) -> None:
        """Wait until no more than ``most`` bytes wait for being stored; raises what went wrong with earlier ones."""
        while self._storing and (self._waiting_bytes > most or self._storing[0][0].done()):
            future, size = self._storing.popleft()
            self._waiting_bytes -= size
            future.result()

    def _store(self, member: Member, pieces: list[bytes]) -> None:
        """A whole member, whose checksum in the zip was right, into its entry. On a thread of `Context.storing`."""
        try:
            entry: Entry = member.open_entry()
        except CacheFault:
            self._came_by(member, None)
            return
        try:
            if sum(map(len, pieces)) != member.size:
                raise ContentDamaged("shorter in the archive than in the listing")
            if not entry.complete:
                entry.write(0, b"".join(pieces), dated=False)
        except ContentDamaged as error:
            self._damaged(member, str(error))
        finally:
            self._came_by(member, entry)
            entry.release()

    def _damaged(self, member: Member, reason: str) -> None:
        log.warning("a file in an archive is not what the listing says; it will be fetched singly")
        log.debug("%s in %s: %s", member.path, self.series.uri, reason)

    def _fill_as_it_comes(self, member: Member, chunks: Iterator[bytes]) -> Iterator[None]:
        """A large member into its entry, without all of it in memory."""
        entry: Entry = member.open_entry()
        try:
            if entry.complete or not _nothing_is_in(entry):
                yield from self._drain(chunks)
            else:
                yield from self._copy(member, entry, chunks)
        except ContentDamaged as error:
            self._damaged(member, str(error))
            yield from self._drain(chunks)
        finally:
            self._came_by(member, entry)
            entry.release()

    def _copy(self, member: Member, entry: Entry, chunks: Iterator[bytes]) -> Iterator[None]:
        """The bytes of a member; the last of them only when its checksum was right."""
        pending = bytearray()
        block = 0
        try:
            for chunk in chunks:
                pending += chunk
                if block * BLOCK + len(pending) > member.size:
                    raise ContentDamaged(f"{member.path}: longer in the archive than in the listing")
                if len(pending) > HOLD:
                    whole = (len(pending) - 1) // BLOCK
                    with memoryview(pending) as view:
                        entry.write(block, view[: whole * BLOCK], dated=False)
                    del pending[: whole * BLOCK]
                    block += whole
                    with self._context.lock:
                        self._tell(entry)
                yield
            if block * BLOCK + len(pending) != member.size:
                raise ContentDamaged(f"{member.path}: shorter in the archive than in the listing")
        except (ContentDamaged, stream_unzip.IntegrityError):
            if block and not entry.complete:
                entry.reset()
            raise
        if pending:
            entry.write(block, memoryview(pending), dated=False)

    def _came_to(self, member: Member) -> None:
        """This file comes next."""
        with self._context.lock:
            place = self._index.places[member.path]
            self._ordered = self._ordered and place >= self._cursor
            self._cursor = max(self._cursor, place)

    def _came_by(self, member: Member, entry: Entry | None) -> None:
        """Nothing more will come for this file."""
        with self._context.lock:
            self._in_hand.discard(member.path)
            if member.path not in self._passed:
                self._passed.add(member.path)
                self._filled += entry is not None and entry.complete
            self._tell(entry)

    def _tell(self, entry: Entry | None) -> None:
        """Wake the readers of an entry. Lock held."""
        feed = self._context.feeds.get(id(entry))
        if feed is not None:
            feed.changed()


def _nothing_is_in(entry: Entry) -> bool:
    """Else parts may be of another version, of which an archive says nothing: only a whole with a digest can tell."""
    blocks = block_count(entry.size)
    return list(entry.missing(0, blocks)) == [(0, blocks)]


def _close(download: Download | None, steps: Iterator[None] | None) -> None:
    if download is not None:
        download.close()
    if steps is not None:
        steps.close()  # type: ignore[attr-defined]
