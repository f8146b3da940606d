"""Downloads of a mount: readers ask for bytes, streams and archives bring them, a bounded number at a time.

Users: `xnatfs.vfs` makes one `Pool` and one `Reader` per open file. What the parts do:

- `xnatfs.transfer.readahead`: how far ahead of a reader to fetch; pure
- `xnatfs.transfer.policy`: when a whole resource is fetched as one archive; pure
- `xnatfs.transfer.feed`: one file that is being read, its readers and its streams
- `xnatfs.transfer.stream`: one running download that fills one entry
- `xnatfs.transfer.walks`: which resources are being walked, so that one may be fetched as a whole
- `xnatfs.transfer.whole`: for those who say beforehand that they will read all of one
- `xnatfs.transfer.series`: a whole resource as one zip that fills many entries
- `xnatfs.transfer.storing`: threads that put its members into their entries
- `xnatfs.transfer.workers`: the threads that move bytes

Lock: there is one, here. Order store -> pool -> entry; no call to a source, an entry or a listing is made under it.
Memory: 1 MiB per thread and, per archive, 16 MiB, whatever the number of readers.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from xnatfs.deadlines import Clock
from xnatfs.stats import Stats
from xnatfs.transfer.context import Context, Tuning
from xnatfs.transfer.feed import Feed, Reader
from xnatfs.transfer.protocols import Entry, File, Siblings, Source
from xnatfs.transfer.storing import Storing
from xnatfs.transfer.walks import Book
from xnatfs.transfer.whole import Whole
from xnatfs.transfer.workers import Workers

__all__ = ["Pool", "Reader", "Running", "Tuning", "Whole"]


@dataclass(frozen=True, slots=True)
class Running:
    """One transfer, for ``status.json``."""

    kind: str
    """``file`` or ``archive``."""
    name: str
    """Path of the file in its resource, or URI of the resource."""
    state: str
    bytes: int
    """Moved so far."""
    rate: float
    """Bytes per second while moving."""
    readers: int
    """Reads that wait for it."""
    size: int = 0
    """Of the whole file; 0 where it is not known."""


class Pool:
    """See the module. ``workers``: requests that move bytes at a time; more connections may be open and at rest."""

    def __init__(
        self,
        source: Source,
        *,
        workers: int = 8,
        clock: Clock = time.monotonic,
        stats: Stats | None = None,
        grace: float = 5.0,
        tuning: Tuning | None = None,
        rng: random.Random | None = None,
    ) -> None:
        lock = threading.Lock()
        self._context = Context(
            source=source,
            workers=Workers(lock, limit=max(1, workers), clock=clock),
            lock=lock,
            clock=clock,
            stats=stats or Stats(),
            tuning=tuning or Tuning(grace=grace),
            random=rng or random.Random(),  # noqa: S311  # jitter, no secret
            storing=Storing(),
            max_parked=2 * max(1, workers),
        )
        self._book = Book(self._context)

    def reader(self, entry: Entry, file: File, siblings: Siblings | None = None, *, walking: bool = False) -> Reader:
        """A reader of an open file; no request is made before it asks for bytes. ``walking``: see `Vfs.open`.

        To be called for every open, of complete entries too: the series engine learns from it what is used. The
        caller keeps its own hold on the entry, and releases it after `Reader.close`.
        """
        series = None
        if siblings is not None:
            series = self._book.opened(siblings, file.path, entry.size, cached=entry.complete)
        reader = Reader(self._context, entry, file, series, walking=walking)
        with self._context.lock:
            known = id(entry) in self._context.feeds
        if known and not entry.complete:  # within the grace period of an earlier reader: keep its streams
            Feed.attach(reader)
        return reader

    def whole(self, siblings: Siblings, missing: int) -> Whole | None:
        """All of a resource is going to be read, ``missing`` of its files are not there: its archive, where that pays.

        None where single requests are as good, or where as many archives as there may be are under way.
        """
        return self._book.whole(siblings, missing)

    def status(self) -> list[Running]:
        """What is under way."""
        with self._context.lock:
            files = [
                Running(
                    "file",
                    feed.file.path,
                    stream.state.value,
                    stream.moved,
                    stream.rate,
                    sum(waiter.stream is stream for waiter in feed.waiters),
                    feed.entry.size,
                )
                for feed in self._context.feeds.values()
                for stream in feed.streams
            ]
            archives = [
                Running("archive", archive.series.uri, archive.state.value, archive.received, archive.rate, 0)
                for archive in self._book.archives
            ]
        return files + archives

    def wake(self) -> None:
        """Look at the clock now, for a clock that is ticked by hand."""
        context = self._context
        with context.lock:
            context.workers.wake()
            for feed in context.feeds.values():
                feed.changed()

    def close(self, timeout: float = 2.0) -> None:
        """Cut all that is under way, fail those who wait, and wait up to ``timeout`` seconds for the threads."""
        context = self._context
        with context.lock:
            context.closed = True
            feeds = list(context.feeds.values())
            closing = [stream.abort() for feed in feeds for stream in list(feed.streams)]
            closing += [archive.abort() for archive in list(self._book.archives)]
            for feed in feeds:
                feed.changed()
            threads = context.workers.close()
        for close in closing:
            close()
        until = time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        context.storing.close(max(0.0, until - time.monotonic()))
        with context.lock:
            left = [feed for feed in context.feeds.values() if not feed.readers and not feed.streams]
            for feed in left:
                del context.feeds[id(feed.entry)]
        for feed in left:
            feed.entry.release()
