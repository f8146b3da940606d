"""Which resources are being walked, and when one of them is fetched as a whole.

The `Book` remembers what was opened in which resource; a `Series` is one resource. When the policy says that an
archive pays, the series starts one (`xnatfs.transfer.series`), and readers of its files wait for their entries while
it comes by, or fetch singly what it will not reach soon. At most one archive per resource runs at a time.

All attributes are guarded by the pool's lock unless said otherwise.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

from xnatfs.errors import AccessDenied, LoginFailed, NotFound, XnatfsError
from xnatfs.transfer.context import Context
from xnatfs.transfer.members import Index
from xnatfs.transfer.policy import (
    FAILURES,
    RECENT,
    Walk,
    allowance,
    archive_pays,
    goes_on,
    patience,
    whole_pays,
    worth_waiting,
)
from xnatfs.transfer.protocols import Siblings
from xnatfs.transfer.series import Archive
from xnatfs.transfer.stream import State
from xnatfs.transfer.whole import Whole

KEPT = 256
"""Resources remembered."""
NEWEST = 64
"""Opens looked at by the policy."""
FRESH = 60.0
"""Seconds for which the list of a resource's files is used."""


class _Opened:
    """A file opened in this walk."""

    __slots__ = ("at", "cached", "extent", "round", "size")

    def __init__(self, at: float, size: int, cached: bool) -> None:
        self.at = at
        self.size = size
        self.cached = cached
        self.round = -1
        """The last round in which its bytes were wanted and not there."""
        self.extent = 0


class Series:
    """One resource."""

    def __init__(self, context: Context, book: Book, siblings: Siblings) -> None:
        self._context = context
        self._book = book
        self.siblings = siblings
        self.uri = siblings.resource_uri
        self.archive: Archive | None = None
        self.active = context.clock()
        """When it was last read in, by anybody."""
        self.opened_bytes = 0
        """Size of the files opened in this walk."""
        self.brought = 0
        """Bytes that archives have brought in this walk."""
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._alone = False
        """The archive under way began with a single file, and no other was opened since."""
        self._eager = -1
        """The last round in which somebody read the first file whole after listing the directory."""
        self._round = 0
        """Raised when an archive ends: what led to that one is no reason for another."""
        self._done = False
        """An archive came to its end in this walk: what it did not bring, another would not."""
        self._index: Index | None = None
        self._indexed_at = 0.0
        self._failures = 0
        self._failed_at = 0.0

    # -- what readers tell ------------------------------------------------------------------------------------------

    def opened(self, siblings: Siblings, path: str, size: int, *, cached: bool) -> None:
        """A file was opened. Lock held."""
        now = self._context.clock()
        if now - self.active > RECENT and self.archive is None:
            self._opened.clear()
            self.opened_bytes = self.brought = 0
            self._done = False
        self.active = now
        self.siblings = siblings
        known = self._opened.get(path)
        if known is None:
            self._opened[path] = _Opened(now, size, cached)
            self.opened_bytes += size
            self._alone = False
            if self.archive is not None:
                self.archive.more_allowed()

    def left(self) -> None:
        """A file was closed. Lock held."""
        self.active = self._context.clock()

    def reached(self, path: str, position: int) -> None:
        """A file was read up to there. Lock held."""
        opened = self._opened.get(path)
        if opened is not None:
            opened.extent = max(opened.extent, position)

    def look(self, path: str, *, eager: bool = False) -> None:
        """Bytes of a file are wanted and not there (``eager``: see `policy.Walk`). No lock held."""
        context = self._context
        with context.lock:
            now = self.active = context.clock()
            opened = self._opened.get(path)
            if opened is None:
                opened = self._opened[path] = _Opened(now, 0, cached=False)
            opened.round = self._round
            if eager:
                self._eager = self._round
            if self.archive is not None or (len(self._opened) < 2 and not eager):
                return
            if self._index is not None and now - self._indexed_at < FRESH:
                return
        try:
            index = Index(self.siblings.members())
        except XnatfsError:  # the listing is gone: no archive then
            return
        with context.lock:
            if self.archive is None:
                self._index = index
                self._indexed_at = now

    def wanted(self, path: str, since: float) -> float | None:
        """Seconds that a reader that waits since then should go on waiting for an archive; None: fetch singly.

        Lock held.
        """
        now = self.active = self._context.clock()
        if self.archive is None and self._pays(now):
            self._begin()
            self._alone = self.archive is not None and len(self._opened) < 2
            if self._alone:
                return None  # the archive is for those that follow; this one comes as fast beside it
        archive = self.archive
        if archive is None or archive.state is State.PARKED or not archive.expects(path):
            return None
        waited, latency = now - since, self._context.latency
        if not worth_waiting(archive.seconds_to(path), waited, latency):
            return None
        return max(0.05, min(0.25, patience(latency) - waited))

    def expected(self, path: str) -> bool:
        """Is an archive on its way that will bring this file? Lock held."""
        return self.archive is not None and self.archive.expects(path)

    def whole(self, index: Index, missing: int) -> Archive | None:
        """All of it is going to be read, and ``missing`` of its files are not there: begin its archive if that pays.

        One that is under way already serves as well. Lock held.
        """
        self._index, self._indexed_at = index, self._context.clock()
        self.active = self._indexed_at
        self.opened_bytes = max(self.opened_bytes, index.total)
        self.brought = 0
        self._alone = False
        walk = Walk(
            files=len(index),
            total=index.total,
            largest=index.largest,
            wanted=missing,
            cached=len(index) - missing,
            thorough=missing,
            failures=self._failures,
        )
        if self.archive is None and whole_pays(walk):
            self._begin()
        return self.archive

    # -- archives (lock held) -----------------------------------------------------------------------------------------

    def allowance(self) -> int:
        """Bytes that archives may still bring."""
        return allowance(self.opened_bytes, alone=self._alone) - self.brought

    def _pays(self, now: float) -> bool:
        if self._index is None or self._done:
            return False
        if self._failures and now - self._failed_at > self._context.tuning.forget:
            self._failures = 0
        recent = [
            opened for opened in itertools.islice(reversed(self._opened.values()), NEWEST) if opened.at >= now - RECENT
        ]
        wanted = [opened for opened in recent if opened.round == self._round and not opened.cached]
        walk = Walk(
            files=len(self._index),
            total=self._index.total,
            largest=self._index.largest,
            wanted=len(wanted),
            cached=sum(opened.cached for opened in recent),
            thorough=sum(4 * opened.extent >= opened.size for opened in wanted),
            seconds=wanted[0].at - wanted[1].at if len(wanted) > 1 else 0.0,
            failures=self._failures,
            eager=self._eager == self._round,
        )
        return archive_pays(walk) and (not self.brought or self.allowance() >= self._index.total)

    def _begin(self) -> None:
        assert self._index is not None
        if self._book.room_for_archive():
            self.archive = Archive(self._context, self, self._index)
            self._book.archives.append(self.archive)
            self._context.stats.add("transfer.archives")
            self._context.workers.submit(self.archive)
            self._context.workers.at(self.active + goes_on(len(self._opened), self._context.tuning.grace), self._watch)

    def ended(self, archive: Archive, error: XnatfsError | None) -> None:
        """The archive is over: who waited for it looks for another way."""
        self.archive = None
        self._round += 1
        self._book.archives.remove(archive)
        self._done = error is None and not archive.cancelled
        if error is not None:
            fatal = isinstance(error, (AccessDenied, LoginFailed, NotFound))
            self._failures = FAILURES if fatal else self._failures + 1
            self._failed_at = self._context.clock()
        for feed in self._context.feeds.values():
            if any(reader.series is self for reader in feed.readers):
                feed.changed()

    def _watch(self) -> None:
        """Nobody has read in this resource for the grace period: cut its archive. No lock held."""
        with self._context.lock:
            if self.archive is None:
                return
            due = self.active + goes_on(len(self._opened), self._context.tuning.grace)
            if due > self._context.clock():
                self._context.workers.at(due, self._watch)
                return
            close = self.archive.abort()
        close()


class Book:
    """The resources in which files were opened lately."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._series: OrderedDict[str, Series] = OrderedDict()
        self.archives: list[Archive] = []

    def opened(self, siblings: Siblings, path: str, size: int, *, cached: bool) -> Series:
        """Note that a file was opened. No lock held."""
        with self._context.lock:
            series = self._of(siblings)
            series.opened(siblings, path, size, cached=cached)
            return series

    def whole(self, siblings: Siblings, missing: int) -> Whole | None:
        """See `Series.whole`. No lock held."""
        index = Index(siblings.members())
        with self._context.lock:
            series = self._of(siblings)
            archive = series.whole(index, missing)
        return Whole(self._context, series, archive) if archive is not None else None

    def _of(self, siblings: Siblings) -> Series:
        series = self._series.get(siblings.key)
        if series is None:
            series = self._series[siblings.key] = Series(self._context, self, siblings)
            if len(self._series) > KEPT:
                oldest = next(key for key, kept in self._series.items() if kept.archive is None)
                del self._series[oldest]
        self._series.move_to_end(siblings.key)
        return series

    def room_for_archive(self) -> bool:
        """May one more archive start? One that waits for its readers makes room. Lock held."""
        if len(self.archives) < self._context.tuning.archives:
            return True
        parked = next((archive for archive in self.archives if archive.state is State.PARKED), None)
        if parked is None:
            return False
        self._context.workers.at(self._context.clock(), parked.abort())
        return True
