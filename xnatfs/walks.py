"""When a whole project is being walked, and which sessions to ask for together then.

Entering sessions one by one costs three requests each. Whoever enters the third one of a project within the time to
live is taken to walk all of it: then two requests bring the scans of all sessions and say which have assessors, and
resources and files come for many sessions at a time, those that the walk will reach next, one batch ahead of it.

Only listings are filled in here, with what the request for the single session would have brought. Whatever cannot be
told apart with certainty is left out, and `xnatfs.browse` asks for it as ever: the tree never depends on the way.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from xnatfs.cache.listings import Key, Listing, Listings, Pending
from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import ServerFault, XnatfsError
from xnatfs.xnat.records import Experiment, FileRecord, Resource, Scan

log = logging.getLogger(__name__)

SESSIONS = 3
"""Sessions of one project, entered within the time to live, that make a walk."""
ROWS = 65_000
"""Files in one batch at most: a row costs a server about 0.3 ms, and all of them wait for the last."""
SECONDS = 8.0
"""Time that a batch may take, by the rate of those before it."""
FIRST, GROWTH = 4, 2
"""Sessions in the first batch of files, and how much larger the next one may be."""
FIRST_RESOURCES, GROWTH_RESOURCES = 10, 10
MOST_IDS, MOST_TEXT = 100, 2000
"""IDs in one request, and their characters: a real server takes a longer list for no list at all."""
ALONE = 20_000
"""A session of more files is asked by itself."""


class Outline(Protocol):
    """See `xnatfs.xnat.bulk.Outline`."""

    @property
    def scans(self) -> tuple[Scan, ...]: ...
    @property
    def counts(self) -> Mapping[str, int | None]: ...
    @property
    def places(self) -> Mapping[str, str]: ...


class Bulk(Protocol):
    """What this module asks of `xnatfs.xnat.bulk.Bulk`."""

    works: bool

    def outlines(self, project_id: str, *, deadline: Deadline) -> Mapping[str, Outline] | None: ...
    def assessed(self, project_id: str, *, deadline: Deadline) -> Mapping[str, str] | None: ...
    def resources(
        self,
        ids: Sequence[str],
        places: Mapping[str, tuple[str, str]],
        assessors: Mapping[str, str],
        *,
        deadline: Deadline,
    ) -> Mapping[str, tuple[Resource, ...]]: ...
    def files(self, ids: Sequence[str], *, deadline: Deadline) -> Mapping[str, Mapping[str, Sequence[FileRecord]]]: ...


# -- policy: pure ----------------------------------------------------------------------------------------------------


class Detector:
    """Tells a walk from a look. Not thread-safe."""

    def __init__(self, ttl: float, sessions: int = SESSIONS) -> None:
        self._ttl = ttl
        self._sessions = sessions
        self._entered: dict[tuple[str, str], dict[str, float]] = {}

    def entered(self, what: str, project: str, session: str, now: float) -> bool:
        """Note that ``what`` (its directories, its files) of a session was looked at. Is the project being walked?"""
        seen = self._entered.setdefault((what, project), {})
        seen.pop(session, None)
        seen[session] = now
        while (oldest := next(iter(seen))) != session and (seen[oldest] < now - self._ttl or len(seen) > MOST_IDS):
            del seen[oldest]
        return len(seen) >= self._sessions

    def forget(self) -> None:
        self._entered.clear()


def choose(
    order: Sequence[str],
    start: int,
    rows_of: Callable[[str], int | None],
    sessions: int,
    rows: int,
) -> list[str]:
    """The sessions of the next batch: from ``order[start]`` on, at least one if there is any.

    ``rows_of`` estimates the rows of a session; None for one that must not be in a batch.
    """
    chosen: list[str] = []
    text = total = 0
    for ident in itertools.islice(order, start, None):
        size = rows_of(ident)
        if size is None:
            continue
        total += size
        text += len(ident) + 1
        if chosen and (len(chosen) >= min(sessions, MOST_IDS) or total > rows or text > MOST_TEXT):
            break
        chosen.append(ident)
    return chosen


# -- one project -----------------------------------------------------------------------------------------------------


@dataclass
class Overview:
    """What is known of a project that is being walked."""

    outlines: Mapping[str, Outline]
    assessors: Mapping[str, str]
    experiments: Mapping[str, Experiment]
    order: Sequence[str]
    expires: float
    position: dict[str, int] = field(init=False)
    assessed: Collection[str] = field(init=False)

    def __post_init__(self) -> None:
        self.position = {ident: place for place, ident in enumerate(self.order)}
        self.assessed = frozenset(self.assessors.values())

    def covers(self, session: str) -> bool:
        """Is everything known that is needed to ask for this session together with others?"""
        experiment = self.experiments.get(session)
        return (
            session in self.outlines
            and session in self.position
            and experiment is not None
            and experiment.resources is not None
        )

    def places(self, session: str) -> dict[str, tuple[str, str]]:
        own = self.experiments[session].resources or ()
        found = {resource.id: (session, "") for resource in own}
        found.update((number, (session, scan)) for number, scan in self.outlines[session].places.items())
        return found

    def files(self, session: str) -> int | None:
        """Files of a session, about; None when a resource of it has no count."""
        counts = [*self.outlines[session].counts.values()]
        counts += [resource.file_count for resource in self.experiments[session].resources or ()]
        return None if None in counts else sum(count or 0 for count in counts)


class Batches:
    """Batches of one kind for one `Overview`. The caller holds a lock."""

    def __init__(self, overview: Overview, first: int, growth: int, rows_of: Callable[[str], int | None]) -> None:
        self.overview = overview
        self.sessions = first
        self.rows = ROWS
        self._growth = growth
        self.rows_of = rows_of
        self._of: dict[str, tuple[list[str], Pending[object]] | None] = {}
        self.newest: list[str] = []
        self.front: frozenset[str] = frozenset()
        """The sessions of the newest batch, until the next one is asked for."""

    def of(self, session: str) -> tuple[list[str], Pending[object]] | None:
        return self._of.get(session)

    def excluded(self, session: str) -> bool:
        """Is this session one to be asked by itself?"""
        return self._of.get(session, ()) is None

    def next(self, start: int) -> list[str]:
        """The IDs of a batch that begins at or behind a place of the walk."""

        def rows_of(session: str) -> int | None:
            return None if session in self._of or not self.overview.covers(session) else self.rows_of(session)

        return choose(self.overview.order, start, rows_of, self.sessions, self.rows)

    def started(self, ids: list[str], pending: Pending[object]) -> None:
        self._of.update(dict.fromkeys(ids, (ids, pending)))
        self.newest = ids
        self.front = frozenset(ids)
        self.sessions = min(MOST_IDS, self.sessions * self._growth)

    def failed(self, ids: list[str]) -> None:
        """None of these came: half of them next time; at last each by itself."""
        if len(ids) <= 2:
            self._of.update(dict.fromkeys(ids, None))
            return
        for ident in ids:
            self._of.pop(ident, None)
        self.sessions = max(1, len(ids) // 2)

    def alone(self, ids: Collection[str]) -> None:
        self._of.update(dict.fromkeys(ids, None))


# -- the walker ------------------------------------------------------------------------------------------------------


class Walker:
    """Fills the listings of sessions that a walk will reach. Thread-safe; its lock is never held while loading.

    ``survey(project, deadline)`` gives the experiments of a project by ID and their IDs in the order of the mount.
    """

    def __init__(
        self,
        bulk: Bulk | None,
        listings: Listings,
        survey: Callable[[str, Deadline], tuple[Mapping[str, Experiment], Sequence[str]]],
        *,
        ttl: float,
        clock: Clock,
    ) -> None:
        self._bulk = bulk
        self._listings = listings
        self._survey = survey
        self._clock = clock
        self._lock = threading.Lock()
        self._detector = Detector(ttl)
        self._overviews: dict[str, tuple[Listing[Any], Listing[Any], Overview]] = {}
        self._batches: dict[tuple[str, str], Batches] = {}
        self._numbers = itertools.count()

    def forget(self) -> None:
        """After a refresh: who looks at one session then shall not fetch a hundred."""
        with self._lock:
            self._detector.forget()
            self._overviews.clear()
            self._batches.clear()

    def session(self, project: str, session: str, deadline: Deadline) -> None:
        """The directories of a session are wanted: fill in what a walk brings along."""
        wanted = Key("scans", project, session), Key("session resources", project, session)
        if not self._at_front("resources", project, session) and all(map(self._listings.peek, wanted)):
            return
        overview = self._walked("session", project, session, deadline)
        if overview is None:
            return
        if self._listings.peek(wanted[0]) is None:
            self._listings.put(wanted[0], overview.outlines[session].scans, expires=overview.expires)
        self._bring("resources", project, session, overview, deadline)

    def files(self, project: str, session: str, deadline: Deadline) -> None:
        """The files of a session are wanted."""
        wanted = Key("session files", project, session)
        if not self._at_front("files", project, session) and self._listings.peek(wanted) is not None:
            return
        overview = self._walked("files", project, session, deadline)
        if overview is not None and (overview.files(session) or 0) <= ALONE:
            self._bring("files", project, session, overview, deadline)

    def _at_front(self, kind: str, project: str, session: str) -> bool:
        """Has the walk come to the newest batch, so that it is time for the next?"""
        batches = self._batches.get((kind, project))
        return batches is not None and session in batches.front

    # -- the overview -------------------------------------------------------------------------------------------

    def _walked(self, what: str, project: str, session: str, deadline: Deadline) -> Overview | None:
        """What is known of the project if it is being walked and the session is one of its own."""
        if self._bulk is None or not self._bulk.works:
            return None
        with self._lock:
            if not self._detector.entered(what, project, session, self._clock()):
                return None
        try:
            overview = self._overview(self._bulk, project, deadline)
        except XnatfsError as error:
            log.debug("project %s cannot be listed at once: %s", project, error)
            return None
        return overview if overview is not None and overview.covers(session) else None

    def _overview(self, bulk: Bulk, project: str, deadline: Deadline) -> Overview | None:
        asked = (
            self._listings.request(Key("outlines", project), lambda d: bulk.outlines(project, deadline=d)),
            self._listings.request(Key("assessed", project), lambda d: bulk.assessed(project, deadline=d)),
        )
        outlines, assessed = asked[0].wait(deadline), asked[1].wait(deadline)
        if outlines.value is None or assessed.value is None:
            return None
        with self._lock:
            known = self._overviews.get(project)
        if known is not None and known[0] is outlines and known[1] is assessed:
            return known[2]
        experiments, order = self._survey(project, deadline)
        expires = min(outlines.expires, assessed.expires)
        overview = Overview(outlines.value, assessed.value, experiments, order, expires)
        with self._lock:
            self._overviews[project] = (outlines, assessed, overview)
        return overview

    # -- batches ------------------------------------------------------------------------------------------------

    def _bring(self, kind: str, project: str, session: str, overview: Overview, deadline: Deadline) -> None:
        """Wait for the batch that the session is in, and see to it that the next one is on its way."""
        while not deadline.expired():
            with self._lock:
                batches = self._batches_of(kind, project, overview)
                if batches.excluded(session):
                    return
                batch = batches.of(session)
                if batch is None:
                    if batches.rows_of(session) is None:
                        return
                    batch = self._start(kind, project, batches, overview.position[session])
                if batch is None or session not in batch[0]:
                    return
                if batches.newest is batch[0]:
                    batches.front = frozenset()
                    self._start(kind, project, batches, overview.position[batch[0][-1]] + 1)
            try:
                batch[1].wait(deadline)
                return
            except ServerFault as error:
                log.debug("%d sessions at once: %s", len(batch[0]), error)
                with self._lock:
                    if batches.of(session) is batch:
                        batches.failed(batch[0])
            except XnatfsError as error:
                log.debug("%d sessions at once: %s", len(batch[0]), error)
                with self._lock:
                    batches.alone(batch[0])
                return

    def _batches_of(self, kind: str, project: str, overview: Overview) -> Batches:
        batches = self._batches.get((kind, project))
        if batches is None or batches.overview is not overview:
            before, first = batches, FIRST if kind == "files" else FIRST_RESOURCES
            growth = GROWTH if kind == "files" else GROWTH_RESOURCES
            if kind == "files":
                batches = Batches(overview, first, growth, lambda ident: _small(overview.files(ident)))
            else:
                batches = Batches(overview, first, growth, lambda ident: len(overview.places(ident)) + 1)
            if before is not None:
                batches.sessions, batches.rows = before.sessions, before.rows
            self._batches[kind, project] = batches
        return batches

    def _start(self, kind: str, project: str, batches: Batches, start: int) -> tuple[list[str], Pending[object]] | None:
        """With the lock held. Starting a load takes no time; running it is for the worker threads."""
        ids = batches.next(start)
        if not ids:
            return None
        load = self._load_files if kind == "files" else self._load_resources
        since = self._listings.forgotten
        key = Key(f"batch of {kind}", project, uri=str(next(self._numbers)))
        pending: Pending[object] = self._listings.request(key, lambda d: load(project, ids, batches, since, d))
        batches.started(ids, pending)
        return ids, pending

    def _load_resources(
        self, project: str, ids: list[str], batches: Batches, since: int, deadline: Deadline
    ) -> tuple[()]:
        assert self._bulk is not None
        overview = batches.overview
        places = {number: place for ident in ids for number, place in overview.places(ident).items()}
        found = self._bulk.resources(ids, places, overview.assessors, deadline=deadline)
        for session, resources in found.items():
            self._listings.put(Key("session resources", project, session), resources, since=since)
            if session not in overview.assessed:
                self._listings.put(Key("assessors", project, session), (), since=since)
        return ()

    def _load_files(self, project: str, ids: list[str], batches: Batches, since: int, deadline: Deadline) -> tuple[()]:
        assert self._bulk is not None
        began = self._clock()
        found = self._bulk.files(ids, deadline=deadline)
        count = sum(len(files) for session in found.values() for files in session.values())
        seconds = self._clock() - began
        if seconds > 0 and count > 1000:
            batches.rows = max(2000, min(ROWS, int(count / seconds * SECONDS)))
        for session in ids:
            if session in found or batches.overview.files(session) == 0:
                self._listings.put(Key("session files", project, session), found.get(session, {}), since=since)
        return ()


def _small(files: int | None) -> int | None:
    """A session without counts is not put in a batch: nothing would tell whether the answer is whole."""
    return None if files is None or files > ALONE else files
