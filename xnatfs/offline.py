"""The archive as it last was, for when the server is away: what was listed is kept on disk and answered from there.

`KeptArchive` stands between the file system and `xnatfs.xnat.archive.Archive` and has the same calls. It keeps the
answers to calls that list something if it is told to, and gives a kept one where the server cannot be asked: no
connection, no answer in time, or ``offline``, when it is not even tried. Anything that the server *says* is believed:
what it calls absent or forbidden is kept no longer. Contents are not its business but for one thing: offline, asking
for them is `Unreachable` at once.

An answer that is not from the server says when it was: `since` for a directory, `status` for all. A name that such a
listing lacks may exist by now, so that it is not called absent (`xnatfs.browse`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from xnatfs.cache.kept import Kept, KeptListings, name_of
from xnatfs.deadlines import Deadline
from xnatfs.errors import AccessDenied, NotFound, ServerFault, TimedOut, Unreachable
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Parts,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xnatfs.xnat.archive import Archive

T = TypeVar("T")


class KeptArchive:
    """See the module. Any thread may call anything.

    ``_lock`` guards ``_old`` and ``_notes``; a leaf.
    """

    def __init__(
        self,
        archive: Archive,
        listings: KeptListings,
        *,
        keep: bool = False,
        use: bool = True,
        offline: bool = False,
        ttl: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``keep`` every answer; ``use`` kept ones when the server is away; ``offline`` never asks it.

        ``ttl``: seconds for which whoever asks remembers an answer.
        """
        self.keep = keep
        self.offline = offline
        self.bulk = None if offline else _KeptBulk(archive.bulk, self)
        self._use = use or offline
        self._ttl = max(ttl, 5.0)  # a directory that is assembled from answers takes a moment
        self._archive = archive
        self._listings = listings
        self._clock = clock
        self._lock = threading.Lock()
        self._old: dict[str, dict[str, tuple[float, float]]] = {}
        """Scope -> name of each kept answer that was given last -> its time, and until when it may be shown."""
        self._notes: set[str] | None = None

    # -- what is told of it ---------------------------------------------------------------------------------------

    def since(self, project: str, experiment: str) -> str:
        """When the server said what is shown of a directory, if it was not now: ``2026-11-22 14:05 UTC``, else empty.

        Of the listings of an experiment, or else of a project, or else of the list of projects; the oldest counts.
        """
        with self._lock:
            times = self._times(experiment or project)
        return _shown(min(times)) if times else ""

    def _times(self, scope: str) -> list[float]:
        """Of the kept answers that are shown, as far as they are still in memory. Lock held."""
        now = self._clock()
        return [at for at, until in self._old.get(scope, {}).values() if until > now]

    def status(self) -> dict[str, Any]:
        """For ``status.json``: ``mode`` is ``offline`` or ``online``; ``old`` answers shown, and since when."""
        with self._lock:
            old = [at for scope in self._old for at in self._times(scope)]
        oldest = min(old, default=None)
        return {
            "mode": "offline" if self.offline else "online",
            "keeps": self.keep,
            "old": len(old),
            "oldest": None if oldest is None else _shown(oldest),
            "age": None if oldest is None else round(self._clock() - oldest),
        }

    @contextmanager
    def noting(self) -> Iterator[set[str]]:
        """Keep every answer meanwhile; gives the names under which they are kept."""
        before, self.keep = self.keep, True
        self._notes = set()
        try:
            yield self._notes
        finally:
            self.keep, self._notes = before, None

    # -- asking ---------------------------------------------------------------------------------------------------

    def _ask(self, scope: str, kind: str, args: Sequence[str], call: Callable[[], T]) -> T:
        """``scope`` is the experiment or project that an answer belongs to."""
        name = name_of(kind, *args)
        if self.offline:
            what = " ".join((kind, *args))
            error = Unreachable(f"{what}: no listing is kept, and this is offline ('xnatfs warm' and 'pin' keep them)")
            return cast("T", self._kept(scope, name, error))
        try:
            value = call()
        except (Unreachable, TimedOut) as problem:
            return cast("T", self._kept(scope, name, problem))
        except (NotFound, AccessDenied):
            self._listings.drop(name)
            raise
        with self._lock:
            self._old.get(scope, {}).pop(name, None)
        self.note(name, value)
        return value

    def note(self, name: str, value: Any) -> None:
        """The server has just said so."""
        if self.keep:
            self._listings.put(name, value)
            with self._lock:
                if self._notes is not None:
                    self._notes.add(name)

    def _kept(self, scope: str, name: str, error: Exception) -> Any:
        kept: Kept | None = self._listings.get(name) if self._use else None
        if kept is None:
            raise error
        with self._lock:
            self._old.setdefault(scope, {})[name] = kept.at, self._clock() + self._ttl
        return kept.value

    # -- the calls of the archive ---------------------------------------------------------------------------------

    def projects(self, *, deadline: Deadline) -> tuple[Project, ...]:
        return self._ask("", "projects", (), lambda: self._archive.projects(deadline=deadline))

    def subjects(self, project_id: str, *, deadline: Deadline) -> tuple[Subject, ...]:
        ask = self._archive.subjects
        return self._ask(project_id, "subjects", (project_id,), lambda: ask(project_id, deadline=deadline))

    def experiments(self, project_id: str, *, deadline: Deadline) -> tuple[Experiment, ...]:
        ask = self._archive.experiments
        return self._ask(project_id, "experiments", (project_id,), lambda: ask(project_id, deadline=deadline))

    def scans(self, experiment_id: str, *, deadline: Deadline) -> tuple[Scan, ...]:
        ask = self._archive.scans
        return self._ask(experiment_id, "scans", (experiment_id,), lambda: ask(experiment_id, deadline=deadline))

    def parts(self, experiment_id: str, *, deadline: Deadline) -> Parts:
        """Kept as the scans, the assessors and their inputs."""
        found = Parts(())

        def scans() -> tuple[Scan, ...]:
            nonlocal found
            found = self._archive.parts(experiment_id, deadline=deadline)
            return found.scans

        kept = self._ask(experiment_id, "scans", (experiment_id,), scans)
        if found.assessors is not None:
            self.note(name_of("assessors", experiment_id), found.assessors)
        if found.no_inputs:
            self.note(name_of("inputs", experiment_id, "assessors"), ())
        return replace(found, scans=kept)

    def assessors(self, experiment_id: str, *, deadline: Deadline) -> tuple[Assessor, ...]:
        ask = self._archive.assessors
        return self._ask(experiment_id, "assessors", (experiment_id,), lambda: ask(experiment_id, deadline=deadline))

    def reconstructions(self, experiment_id: str, *, deadline: Deadline) -> tuple[Reconstruction, ...]:
        ask = self._archive.reconstructions
        args = (experiment_id,)
        return self._ask(experiment_id, "reconstructions", args, lambda: ask(experiment_id, deadline=deadline))

    def session_resources(self, experiment_id: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        ask = self._archive.session_resources
        args = (experiment_id,)
        return self._ask(experiment_id, "session resources", args, lambda: ask(experiment_id, deadline=deadline))

    def input_resources(self, experiment_id: str, part: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        ask = self._archive.input_resources
        args = (experiment_id, part)
        return self._ask(experiment_id, "inputs", args, lambda: ask(experiment_id, part, deadline=deadline))

    def resources(self, container_uri: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        ask = self._archive.resources
        args = (container_uri,)
        return self._ask(_scope(container_uri), "resources", args, lambda: ask(container_uri, deadline=deadline))

    def session_files(self, experiment_id: str, *, deadline: Deadline) -> Mapping[str, Sequence[FileRecord]]:
        """Raises `ServerFault` where only the files of single resources may be kept: then those are asked for."""
        ask = self._archive.session_files
        try:
            return self._ask(
                experiment_id, "session files", (experiment_id,), lambda: ask(experiment_id, deadline=deadline)
            )
        except (Unreachable, TimedOut) as error:
            raise ServerFault(f"{experiment_id}: its files are not kept together") from error

    def files(self, resource: Resource, *, deadline: Deadline) -> Sequence[FileRecord]:
        ask = self._archive.files
        scope = _scope(resource.uri)
        try:
            return self._ask(scope, "files", (resource.uri,), lambda: ask(resource, deadline=deadline))
        except (Unreachable, TimedOut):
            together = self._listings.get(name_of("session files", scope)) if self._use else None
            if together is not None and resource.id in together.value:
                found: Sequence[FileRecord] = together.value[resource.id]
                return found
            if self._use and resource.file_count == 0:  # as the kept listing of resources has it
                return ()
            raise

    def item(self, uri: str, *, deadline: Deadline) -> bytes:
        return self._ask(_scope(uri), "item", (uri,), lambda: self._archive.item(uri, deadline=deadline))

    def size(self, file: FileRecord, *, deadline: Deadline) -> int:
        args = (file.base + file.path,)
        return self._ask(_scope(file.base), "size", args, lambda: self._archive.size(file, deadline=deadline))

    # -- contents -------------------------------------------------------------------------------------------------

    @property
    def ranges(self) -> bool | None:
        return self._archive.ranges

    def open_stream(self, file: FileRecord, start: int, stop: int, *, deadline: Deadline) -> Any:
        if self.offline:
            _refuse(file.path)
        return self._archive.open_stream(file, start, stop, deadline=deadline)

    def open_zip(self, resource_uri: str, *, deadline: Deadline) -> Any:
        if self.offline:
            _refuse(resource_uri)
        return self._archive.open_zip(resource_uri, deadline=deadline)


class _KeptBulk:
    """Answers about many sessions at once (`xnatfs.xnat.bulk.Bulk`), kept as those about each would be."""

    def __init__(self, bulk: Any, archive: KeptArchive) -> None:
        self._bulk = bulk
        self._archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bulk, name)

    def outlines(self, project_id: str, *, deadline: Deadline) -> Any:
        found = self._bulk.outlines(project_id, deadline=deadline)
        if self._archive.keep:
            for session, outline in (found or {}).items():
                self._archive.note(name_of("scans", session), outline.scans)
        return found

    def resources(
        self, ids: Sequence[str], places: Any, assessors: Mapping[str, str], *, deadline: Deadline
    ) -> Mapping[str, tuple[Resource, ...]]:
        found: Mapping[str, tuple[Resource, ...]] = self._bulk.resources(ids, places, assessors, deadline=deadline)
        if self._archive.keep:
            assessed = set(assessors.values())
            for session, resources in found.items():
                self._archive.note(name_of("session resources", session), resources)
                if session not in assessed:
                    self._archive.note(name_of("assessors", session), ())
        return found

    def files(self, ids: Sequence[str], *, deadline: Deadline) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._bulk.files(ids, deadline=deadline)
        for session, files in found.items():
            self._archive.note(name_of("session files", session), files)
        return found


def _scope(uri: str) -> str:
    """The experiment, else the project or what else a path below ``/data`` begins with."""
    parts = uri.strip("/").split("/")
    places = dict(zip(parts[::2], parts[1::2], strict=False))
    return places.get("experiments") or places.get("projects") or ""


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _refuse(what: str) -> NoReturn:
    raise Unreachable(f"{what}: not in the cache, and this is offline")
