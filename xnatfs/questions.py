"""What is asked of the archive: under which key an answer is kept, which call brings it, what a refresh forgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from xnatfs.cache.listings import Key, Listing, Listings, Pending
from xnatfs.deadlines import Deadline
from xnatfs.tree.nodes import Address, Level
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

T = TypeVar("T")

_SIZE = "size"


class Archive(Protocol):
    """What the core asks of `xnatfs.xnat.archive.Archive`."""

    def projects(self, *, deadline: Deadline) -> tuple[Project, ...]: ...
    def subjects(self, project_id: str, *, deadline: Deadline) -> tuple[Subject, ...]: ...
    def experiments(self, project_id: str, *, deadline: Deadline) -> tuple[Experiment, ...]: ...
    def parts(self, experiment_id: str, *, deadline: Deadline) -> Parts: ...
    def scans(self, experiment_id: str, *, deadline: Deadline) -> tuple[Scan, ...]: ...
    def assessors(self, experiment_id: str, *, deadline: Deadline) -> tuple[Assessor, ...]: ...
    def reconstructions(self, experiment_id: str, *, deadline: Deadline) -> tuple[Reconstruction, ...]: ...
    def session_resources(self, experiment_id: str, *, deadline: Deadline) -> tuple[Resource, ...]: ...
    def input_resources(self, experiment_id: str, part: str, *, deadline: Deadline) -> tuple[Resource, ...]: ...
    def resources(self, container_uri: str, *, deadline: Deadline) -> tuple[Resource, ...]: ...
    def session_files(self, experiment_id: str, *, deadline: Deadline) -> Mapping[str, Sequence[FileRecord]]: ...
    def files(self, resource: Resource, *, deadline: Deadline) -> Sequence[FileRecord]: ...
    def item(self, uri: str, *, deadline: Deadline) -> bytes: ...
    def size(self, file: FileRecord, *, deadline: Deadline) -> int: ...


class Questions:
    """One method for each kind of listing. It gives what is there or on its way, so that several can be asked for
    side by side before the first is waited for. Thread-safe.
    """

    def __init__(self, archive: Archive, listings: Listings) -> None:
        self._archive = archive
        self._listings = listings

    def _ask(self, key: Key, load: Callable[..., T], *args: Any) -> Pending[T]:
        return self._listings.request(key, lambda deadline: load(*args, deadline=deadline))

    def projects(self) -> Pending[tuple[Project, ...]]:
        return self._ask(Key("projects"), self._archive.projects)

    def subjects(self, a: Address) -> Pending[tuple[Subject, ...]]:
        return self._ask(Key("subjects", a.project), self._archive.subjects, a.project)

    def experiments(self, a: Address) -> Pending[tuple[Experiment, ...]]:
        return self._ask(Key("experiments", a.project), self._archive.experiments, a.project)

    def scans(self, a: Address) -> Pending[tuple[Scan, ...]]:
        """The scans of an experiment; its assessors come along where one request can tell both."""

        def load(deadline: Deadline) -> tuple[Scan, ...]:
            since = self._listings.forgotten
            parts = self._archive.parts(a.experiment, deadline=deadline)
            if parts.assessors is not None:
                self._listings.put(Key("assessors", a.project, a.experiment), parts.assessors, since=since)
            if parts.no_inputs:
                self._listings.put(Key("inputs", a.project, a.experiment, "assessors"), (), since=since)
            return parts.scans

        return self._listings.request(Key("scans", a.project, a.experiment), load)

    def knows_scans(self, a: Address) -> bool:
        return self._listings.peek(Key("scans", a.project, a.experiment)) is not None

    def scans_in_full(self, a: Address) -> Pending[tuple[Scan, ...]]:
        """The scans with all their attributes, which some of the shorter ways do not bring."""
        return self._ask(Key("scans in full", a.project, a.experiment), self._archive.scans, a.experiment)

    def assessors(self, a: Address) -> Pending[tuple[Assessor, ...]]:
        return self._ask(Key("assessors", a.project, a.experiment), self._archive.assessors, a.experiment)

    def assessors_in_full(self, a: Address) -> Pending[tuple[Assessor, ...]]:
        return self._ask(Key("assessors in full", a.project, a.experiment), self._archive.assessors, a.experiment)

    def reconstructions(self, a: Address) -> Pending[tuple[Reconstruction, ...]]:
        key = Key("reconstructions", a.project, a.experiment)
        return self._ask(key, self._archive.reconstructions, a.experiment)

    def session_resources(self, a: Address) -> Pending[tuple[Resource, ...]]:
        """The resources of an experiment at all its levels."""
        key = Key("session resources", a.project, a.experiment)
        return self._ask(key, self._archive.session_resources, a.experiment)

    def inputs(self, a: Address) -> Pending[tuple[Resource, ...]]:
        """The input resources of all assessors, or all reconstructions, of an experiment."""
        part = "assessors" if a.part_level is Level.ASSESSOR else "reconstructions"
        key = Key("inputs", a.project, a.experiment, part)
        return self._ask(key, self._archive.input_resources, a.experiment, part)

    def resources(self, a: Address, uri: str) -> Pending[tuple[Resource, ...]]:
        """The resources of one container."""
        return self._ask(Key("resources", a.project, a.experiment, uri), self._archive.resources, uri)

    def session_files(self, a: Address) -> Pending[Mapping[str, Sequence[FileRecord]] | None]:
        """All files of an experiment, by resource. None: see `spoil_session_files`."""
        key = Key("session files", a.project, a.experiment)
        return self._ask(key, self._archive.session_files, a.experiment)

    def knows_session_files(self, a: Address) -> bool:
        return self._listings.peek(Key("session files", a.project, a.experiment)) is not None

    def spoil_session_files(self, a: Address) -> None:
        """One bad entry can spoil the all-in-one answer: the resources one by one for a while."""
        self._listings.put(Key("session files", a.project, a.experiment), None)

    def files(self, a: Address, resource: Resource) -> Pending[Sequence[FileRecord]]:
        """The files of one resource."""
        return self._ask(Key("files", a.project, a.experiment, resource.id), self._archive.files, resource)

    def known_files(self, a: Address) -> Listing[Sequence[FileRecord]] | None:
        return self._listings.peek(Key("files", a.project, a.experiment, a.resource))

    def size(self, file: FileRecord) -> Pending[int]:
        """Bytes of a file whose listing does not say; kept like a listing."""
        return self._ask(Key(_SIZE, uri=file.base + file.path), self._archive.size, file)

    def item(self, a: Address, uri: str) -> Pending[bytes]:
        """The JSON document of an entity."""
        return self._ask(Key("item", a.project, a.experiment, uri), self._archive.item, uri)

    def forget(self, address: Address, *, recursive: bool) -> None:
        """Forget the answers about a directory, and about everything below it if ``recursive``.

        Answers are of a project or of a session, so that is what is forgotten: below a session all of the session,
        with the lists of subjects and sessions that lead to it if ``recursive``; above it all of the project.
        """

        def concerned(key: Key) -> bool:
            if key.kind == _SIZE or (address.level is Level.ROOT and recursive):
                return True
            if address.level is Level.ROOT or key.kind == "projects":
                return key.kind == "projects" and (
                    address.level is Level.ROOT or (address.level is Level.PROJECT and recursive)
                )
            if key.project != address.project:
                return False
            if not recursive:
                return key.experiment == address.experiment
            return not address.experiment or key.experiment in ("", address.experiment)

        self._listings.forget(concerned)
