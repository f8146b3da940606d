"""One file that is being read: its readers, those of them that wait, and the streams that bring its bytes.

A reader that lacks bytes becomes a waiter. It joins a stream that will soon pass the place, or starts one there; on a
server without Range there is one stream, from the start, and everybody waits for that. A waiter is woken whenever
blocks have arrived, and gets the error of the stream that it waits for, and of no other.

Everything is guarded by the pool's lock unless said otherwise. Entry and source are never called under it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from xnatfs.cache.blocks import BLOCK, block_of, block_range
from xnatfs.deadlines import AFTERMATH, Deadline
from xnatfs.errors import BadHandle, CacheFault, ContentChanged, TimedOut, Unreachable, XnatfsError
from xnatfs.transfer.context import Abort, Context, again
from xnatfs.transfer.policy import eager
from xnatfs.transfer.protocols import Entry, File
from xnatfs.transfer.readahead import ReadAhead, align
from xnatfs.transfer.stream import State, Stream

if TYPE_CHECKING:
    from xnatfs.transfer.walks import Series

TRIES = 12
"""Streams for one read; more, and the entry does not keep what it is given."""
SETTLING = 1.0
"""Seconds for a stream to say what has become of blocks that it brought and that are not there."""
AT_ONCE = 1024 * 1024
"""Bytes of a file that is fetched in one request when it seems that all of it will be read."""
WRITTEN = 0.25
"""Seconds until a reader looks again for bytes that somebody, as an archive, is just writing; he is told earlier."""
BUSY_REQUEST = 8 * 1024 * 1024
"""Bytes per request while readers of other files wait for a thread, so that no connection has to be kept open."""


class Waiter:
    """A read that waits for bytes."""

    __slots__ = ("deadline", "end", "error", "missed", "since", "single", "stream", "tries")

    def __init__(self, end: int, deadline: Deadline, now: float) -> None:
        self.end = end
        self.deadline = deadline
        self.since = now
        self.stream: Stream | None = None
        self.missed = False
        """Its stream has come by, and what it should have brought is not there."""
        self.error: XnatfsError | None = None
        self.single = False
        """Does not wait for an archive any more."""
        self.tries = 0


class Reader:
    """One open file. ``ensure`` from any thread, several at a time; ``close`` once."""

    def __init__(
        self, context: Context, entry: Entry, file: File, series: Series | None, *, walking: bool = False
    ) -> None:
        self._context = context
        self.entry = entry
        self.file = file
        self.series = series
        self.ahead = ReadAhead(entry.size, first=context.tuning.first, maximum=context.tuning.ahead)
        self.feed: Feed | None = None
        self.stream: Stream | None = None
        """The one that it reads along with."""
        self.granted = 0
        """Up to where it has been seen to that the bytes come."""
        self.stale: str = ""
        """Why no more bytes can be had by this handle: the file changed on the server while it was open."""
        self.served = False
        """Something was read by it that may not have been compared with the digest of the whole yet."""
        self.walking = walking
        """Opened by somebody who has just listed its directory."""
        self.eager = False
        """And who reads it whole, as it seems."""
        self.closed = False

    def ensure(self, offset: int, size: int, deadline: Deadline) -> None:
        """Wait until the entry has these bytes, verified; what lies beyond the end of the file is none's business.

        Raises `TimedOut` at the deadline, `ContentChanged`, `ContentDamaged`, and whatever the source raises for
        the download that should have brought them.
        """
        end = min(offset + size, self.entry.size)
        if offset < end and not (self.entry.complete and self.entry.has(offset, end - offset)):
            Feed.attach(self).ensure(self, offset, end, deadline)

    def close(self) -> None:
        """No more reads. If this was the last reader, the streams of the file end after the pool's grace period."""
        with self._context.lock:
            if self.closed:
                return
            self.closed = True
            if self.series is not None:
                self.series.left()
            feed = self.feed
        if feed is not None:
            feed.detach(self)


class Feed:
    """See the module."""

    def __init__(self, context: Context, entry: Entry, file: File) -> None:
        self.context = context
        self.entry = entry
        self.file = file
        self.readers: set[Reader] = set()
        self.waiters: set[Waiter] = set()
        self.streams: list[Stream] = []
        self.condition = threading.Condition(context.lock)
        self.version = 0
        """Raised whenever something changed that a waiter may wait for."""
        self.whole = False
        """The server gave the whole file when a part was asked for."""
        self.damaged = 0
        """Times that a complete download did not match size or digest."""
        self._last_modified: float | None = None
        self._mixed = False
        """Two versions were seen: nothing more is fetched until the streams of the old one are gone and forgotten."""
        self._left_at = 0.0
        self._in_vain = (-1, float("-inf"))
        """The block that a reader has waited for all his time, and when he gave up."""

    # -- coming and going (no lock held) --------------------------------------------------------------------------

    @classmethod
    def attach(cls, reader: Reader) -> Feed:
        """The feed of the reader's entry, which it belongs to from now on."""
        if reader.feed is not None:
            return reader.feed
        context, entry = reader._context, reader.entry
        entry.retain()
        with context.lock:
            feed = context.feeds.get(id(entry))
            surplus = feed is not None or reader.closed
            if not reader.closed:
                if feed is None:
                    feed = context.feeds[id(entry)] = cls(context, entry, reader.file)
                feed.readers.add(reader)
                reader.feed = feed
        if surplus:
            entry.release()
        if reader.feed is None:
            raise BadHandle(f"{reader.file.path}: closed")
        return reader.feed

    def detach(self, reader: Reader) -> None:
        tuning = self.context.tuning
        with self.context.lock:
            self.readers.discard(reader)
            if self.readers:
                return
            self._left_at = self.context.clock()
            if self.streams and not self.context.closed:
                self.context.workers.at(self._left_at + tuning.grace, self._expire)
        self._drop_if_unused()

    def _expire(self) -> None:
        """The grace period after a last close may be over: end what is under way, unless it is as good as done."""
        tuning = self.context.tuning
        closing: list[Abort] = []
        with self.context.lock:
            if self.readers or self.context.clock() < self._left_at + tuning.grace:
                return
            for stream in list(self.streams):
                if stream.opened and stream.stop - stream.position <= tuning.remainder:
                    stream.allow(stream.stop, urgent=False)
                else:
                    closing.append(stream.abort())
        for close in closing:
            close()
        self._drop_if_unused()

    def _drop_if_unused(self) -> None:
        with self.context.lock:
            if self.readers or self.streams or self._mixed or self.context.feeds.get(id(self.entry)) is not self:
                return
            del self.context.feeds[id(self.entry)]
        self.entry.release()

    # -- what streams tell (lock held) ------------------------------------------------------------------------------

    @property
    def ranged(self) -> bool:
        """May parts be asked for?"""
        return not self.whole and self.context.source.ranges is not False

    def changed(self) -> None:
        """Wake those who wait."""
        self.version += 1
        self.condition.notify_all()

    def waited_for(self, stream: Stream) -> bool:
        return any(waiter.stream is stream and not waiter.deadline.expired() for waiter in self.waiters)

    def deadline(self, stream: Stream) -> Deadline | None:
        """The latest of those who wait for a stream."""
        waiting = [waiter.deadline for waiter in self.waiters if waiter.stream is stream]
        return max(waiting, key=lambda deadline: deadline.at, default=None)

    def ended(self, stream: Stream, error: XnatfsError | None) -> None:
        """A stream is over; those who waited for it get its error, or look for another."""
        if stream in self.streams:
            self.streams.remove(stream)
        if self._mixed and not self.streams:
            self.context.workers.at(self.context.clock(), self._forget)
        for waiter in self.waiters:
            if waiter.stream is stream:
                waiter.stream = None
                # A time-out may be that of a reader who came before and had less time
                early = isinstance(error, TimedOut) and not waiter.deadline.expired()
                waiter.error = None if early and waiter.tries <= self.context.tuning.retries else error
        self.changed()
        if not self.streams and not self.readers:
            self.context.workers.at(self.context.clock(), self._drop_if_unused)

    def damaged_whole(self) -> None:
        """The whole did not match: who has read parts of it must not go on to a good end. Lock held."""
        for reader in self.readers:
            if reader.served:
                reader.stale = f"{self.file.path}: what was read so far does not match the listing; open it again"

    def same_version(self, last_modified: float | None) -> None:
        """All parts must come from one version. Raises `ContentChanged`, to every reader of the old one.

        No lock held.
        """
        if last_modified is None:
            return
        closing: list[Abort] = []
        same = self.entry.from_version(last_modified)  # what an earlier reader, or process, has left there
        with self.context.lock:
            if same and self._last_modified in (None, last_modified):
                self._last_modified = last_modified
                return
            self._last_modified = last_modified
            self._mixed = True
            message = f"{self.file.path}: changed on the server while it was being read; open it again"
            for reader in self.readers:
                reader.stale = message
            self.entry.disown()  # at once: whoever opens it anew before it is forgotten must not be taken for old
            closing = [stream.abort() for stream in list(self.streams) if stream.opened]
            self.changed()
        for close in closing:
            close()
        raise ContentChanged(message)

    def _forget(self) -> None:
        """The streams of the old version are gone: what they brought goes as well. No lock held."""
        if self.streams:
            return
        try:
            self.entry.reset()
        finally:
            with self.context.lock:
                self._mixed = False
                self.changed()
            self._drop_if_unused()  # not before: the entry must not be let go of while it is emptied

    # -- reading (no lock held) -------------------------------------------------------------------------------------

    def ensure(self, reader: Reader, offset: int, end: int, deadline: Deadline) -> None:
        """See `Reader.ensure`."""
        entry, context = self.entry, self.context
        first, last = block_range(offset, end - offset)
        contiguous = first > 0 and not entry.missing(first - 1, first)
        with context.lock:
            reader.ahead.read(offset, end - offset, contiguous=contiguous)
            if reader.walking and eager(offset, end - offset, entry.size):
                reader.eager = True
        waiter: Waiter | None = None
        try:
            while True:
                version = self.version
                if entry.has(offset, end - offset) and not reader.stale:
                    break
                if reader.series is not None:
                    reader.series.look(reader.file.path, eager=reader.eager)
                absent = entry.missing(first, last)
                with context.lock:
                    block = absent[0][0] if absent else first
                    if waiter is None:
                        self._raise_if_late(block)
                        waiter = Waiter(end, deadline, context.clock())
                        self.waiters.add(waiter)
                    self._raise_if_hopeless(reader, waiter)
                    if version == self.version:
                        seconds = self._provide(reader, waiter, block) if absent else WRITTEN
                        if version == self.version:
                            self.condition.wait(min(seconds, deadline.remaining()))
        except TimedOut:
            if waiter is not None:
                self._give_up(waiter, block)
            raise
        finally:
            if waiter is not None:
                with context.lock:
                    self.waiters.discard(waiter)
        reader.served = True
        self._run_ahead(reader)

    def _raise_if_late(self, block: int) -> None:
        """The kernel reads a page once more when that failed, and for one reader after the other. Lock held."""
        given_up, when = self._in_vain
        if block == given_up and self.context.clock() < when + AFTERMATH:
            raise TimedOut(f"{self.file.path}: nothing came for somebody who has waited for it until now")

    def _raise_if_hopeless(self, reader: Reader, waiter: Waiter) -> None:
        if waiter.error is not None:
            raise again(waiter.error)
        if reader.stale:
            raise ContentChanged(reader.stale)
        if self.context.closed:
            raise Unreachable(f"{self.file.path}: the file system is being unmounted")
        if waiter.tries > TRIES:
            raise CacheFault(f"{self.file.path}: the cache does not keep what was downloaded")
        waiter.deadline.check(self.file.path)

    def _provide(self, reader: Reader, waiter: Waiter, block: int) -> float:
        """See to it that a block comes; seconds after which to look again. Lock held."""
        if self._mixed:
            return float("inf")
        offset = block * BLOCK
        limit = max(reader.ahead.limit, align(waiter.end, self.entry.size))
        stream = waiter.stream
        if stream is not None and stream.state is State.RUNNING and offset < stream.position and not waiter.missed:
            waiter.missed = True  # its thread has just seen that the whole is damaged, and is about to say so
            return SETTLING
        if stream is None or not stream.covers(offset):
            stream = self._joinable(offset)
        if stream is not None:
            if stream is not reader.stream:
                self.context.stats.add("transfer.joins")
            self._follow(reader, waiter, stream)
            stream.allow(limit, urgent=True)
            return float("inf")
        alive = [stream for stream in self.streams if stream.alive]
        if alive and (not self.ranged or (self.context.source.ranges is None and not all(s.opened for s in alive))):
            # Without Range there is one stream; and while it is not known whether there is Range, one question.
            for stream in alive:
                if not self.ranged:  # it has passed: let it end, then start again
                    stream.allow(stream.stop, urgent=True)
            waiter.stream = None
            return float("inf")
        if reader.series is not None and not waiter.single:
            seconds = reader.series.wanted(reader.file.path, waiter.since)
            if seconds is not None:
                return seconds
            waiter.single = True
        self._follow(reader, waiter, self._start(reader, offset, limit, urgent=True))
        waiter.tries += 1
        return float("inf")

    def _follow(self, reader: Reader, waiter: Waiter, stream: Stream) -> None:
        waiter.stream = reader.stream = stream
        reader.granted = max(reader.granted, min(stream.stop, reader.ahead.limit))

    def _joinable(self, offset: int) -> Stream | None:
        """A stream that will soon come by. Lock held."""
        near = [
            stream
            for stream in self.streams
            if stream.covers(offset) and (not self.ranged or offset - stream.position <= stream.distance())
        ]
        return max(near, key=lambda stream: stream.position, default=None)

    def _start(self, reader: Reader, offset: int, limit: int, *, urgent: bool) -> Stream:
        """A new stream: to the end for those who read on, else as far as the window goes. Lock held."""
        size = self.entry.size
        if not self.ranged or size <= (AT_ONCE if reader.eager else self.context.tuning.first):
            start, stop = 0, size
        else:
            start, stop = offset, size if reader.ahead.sequential else limit
            if self.context.workers.busy():
                stop = min(stop, max(limit, align(start + BUSY_REQUEST, size)))
            for other in self.streams:
                if other.alive and start < other.start < stop <= other.stop:
                    stop = other.start  # the kernel asked out of order: from there on it is coming already
        stream = Stream(self.context, self, start, stop, min(limit, stop), urgent=urgent)
        self.streams.append(stream)
        self.context.workers.submit(stream)
        return stream

    def _run_ahead(self, reader: Reader) -> None:
        """The read is served: see to it that what comes next is under way."""
        context, size = self.context, self.entry.size
        with context.lock:
            if reader.series is not None:
                reader.series.reached(self.file.path, reader.ahead.position)
            limit = reader.ahead.limit
            if limit <= reader.granted or not reader.ahead.sequential or context.closed or self._mixed:
                return
            if reader.series is not None and reader.series.expected(self.file.path):
                return
            stream = reader.stream
            if stream is not None and stream.covers(stream.position):
                stream.allow(limit, urgent=False)
                if limit <= stream.stop or stream.stop == size:
                    reader.granted = limit
                    return
            begin = max(reader.ahead.position, stream.stop if stream is not None else 0)
            version = self.version
        if begin >= size:
            return
        absent = self.entry.missing(block_of(begin), -(-limit // BLOCK))
        with context.lock:
            if version != self.version or context.closed or reader.closed or self._mixed:
                return  # the next read looks again
            reader.granted = limit
            if not absent or (not self.ranged and self.streams):
                return
            offset = absent[0][0] * BLOCK
            stream = self._joinable(offset)
            if stream is None:
                stream = self._start(reader, offset, limit, urgent=False)
            else:
                stream.allow(limit, urgent=False)
            reader.stream = stream

    def _give_up(self, waiter: Waiter, block: int) -> None:
        """A reader's time is up. A stream that brought nothing all the while is dead, unless others wait for it."""
        close: Abort = lambda: None  # noqa: E731
        with self.context.lock:
            self.waiters.discard(waiter)
            stream = waiter.stream
            if stream is None or stream.progressed <= waiter.since:
                self._in_vain = block, self.context.clock()
                if stream is not None and not self.waited_for(stream):
                    close = stream.abort()
        close()
