"""From an address to a directory: which listings feed it, and which request is the cheapest that brings them.

This is the first half of the file system's core (`xnatfs.vfs` is its face). It combines: the archive answers, the
listings cache keeps, the layout names. Nothing here knows of FUSE, errno or HTTP.

Requests, cold: the root 1; a project 2, side by side, after which its subjects cost none; a session 2, side by side,
and its scans none; its first resource 1 for all files of the session. A session of more than `DEEP_FILES` files is
asked one resource at a time until a second one is opened.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from xnatfs.cache.listings import Key, Listing, Listings, Pending
from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import NameTooLong, NotADirectory, NotFound, ServerFault
from xnatfs.metadata import Metadata
from xnatfs.tree import layout, names
from xnatfs.tree.directory import Children, Directory
from xnatfs.tree.nodes import Address, DirNode, Level, LinkNode, Node
from xnatfs.walks import Walker
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)

T = TypeVar("T")

DEEP_FILES = 5000
"""A session of up to this many files is listed whole at its first resource: a row costs a server about 0.3 ms."""

_SIZE = "size"

SNAPSHOTS, OVERHEAD = 400_000, 16
"""Entries of all directories kept assembled, and what a directory counts beside its own; the listings that they come
from are kept, and bounded, on their own. The largest directory is kept even if it has more."""


class Archive(Protocol):
    """What this module asks of `xnatfs.xnat.archive.Archive`."""

    def projects(self, *, deadline: Deadline) -> tuple[Project, ...]: ...
    def subjects(self, project_id: str, *, deadline: Deadline) -> tuple[Subject, ...]: ...
    def experiments(self, project_id: str, *, deadline: Deadline) -> tuple[Experiment, ...]: ...
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


class Browser:
    """Directories of the mount, assembled from listings. Thread-safe.

    ``_lock`` guards ``_snapshots`` and ``_singles`` and is never held while anything is loaded.
    """

    def __init__(
        self,
        archive: Archive,
        listings: Listings,
        *,
        clock: Clock,
        status: Callable[[], object] | None = None,
        scan_names: str = "id",
    ) -> None:
        self._archive = archive
        self._listings = listings
        self._clock = clock
        self._metadata = Metadata(self, clock, status or dict)
        self._scan_types = scan_names == "type"
        self._lock = threading.Lock()
        self._snapshots: dict[Address, Directory] = {}
        self._held = 0
        self._singles: dict[str, set[str]] = {}
        self._refreshes = 0
        self._walker = Walker(getattr(archive, "bulk", None), listings, self._survey, ttl=listings.ttl, clock=clock)

    # -- walking ------------------------------------------------------------------------------------------------

    def walk(self, path: str, deadline: Deadline, *, follow: bool = False) -> Node:
        """The node at a path. ``follow`` resolves a link at its end too; links in its middle always are.

        Raises `NotFound`, `NotADirectory`, `NameTooLong`, and whatever a listing raises.
        """
        node: Node = layout.ROOT
        steps = [name for name in path.split("/") if name not in ("", ".")]
        for depth, name in enumerate(steps, 1):
            if not isinstance(node, DirNode):
                raise NotADirectory(f"{path}: goes through a file")
            parent = node
            node = self.child(parent, name, deadline)
            if isinstance(node, LinkNode) and (follow or depth < len(steps)):
                if "/" in node.target:
                    whole = [*steps[: depth - 1], node.target, *steps[depth:]]
                    return self.walk(posixpath.normpath("/" + "/".join(whole)), deadline, follow=follow)
                node = self.child(parent, node.target, deadline)
        return node

    def child(self, parent: DirNode, name: str, deadline: Deadline) -> Node:
        """The node called ``name`` in a directory."""
        self.refuse_probe(parent, name)
        if len(name.encode("utf-8", "surrogateescape")) > names.NAME_MAX:
            raise NameTooLong(f"{name[:40]}...: longer than {names.NAME_MAX} bytes")
        node = self.directory(parent, deadline).get(name)
        if node is None:
            raise NotFound(name)
        return node

    def refuse_probe(self, parent: DirNode, name: str) -> None:
        """Raise `NotFound` for a name that no label has, unless a listing is at hand that would know."""
        if layout.is_probe(name) and parent.address.level in layout.ENTITIES and self.snapshot(parent.address) is None:
            raise NotFound(name)

    # -- directories --------------------------------------------------------------------------------------------

    def snapshot(self, address: Address) -> Directory | None:
        """A directory that is assembled and still holds; costs nothing."""
        directory = self._snapshots.get(address)
        return directory if directory is not None and directory.expires > self._clock() else None

    def directory(self, node: DirNode, deadline: Deadline) -> Directory:
        """A directory, from its snapshot or from listings."""
        known = self.snapshot(node.address)
        if known is not None:
            return known
        began = self._refreshes
        children, expires = _BUILD[node.address.level](self, node, deadline)
        directory = Directory(node, children, expires)
        with self._lock:
            if began != self._refreshes:  # assembled, at least in part, from what was to be forgotten meanwhile
                directory.expires = float("-inf")
                return directory
            self._drop(node.address)
            self._held += len(directory) + OVERHEAD
            self._snapshots[node.address] = directory
            while self._held > SNAPSHOTS and len(self._snapshots) > 1:
                self._drop(next(iter(self._snapshots)))
        return directory

    def _drop(self, address: Address) -> None:
        before = self._snapshots.pop(address, None)
        if before is not None:
            self._held -= len(before) + OVERHEAD

    def forget(self, address: Address, *, recursive: bool = True) -> None:
        """Forget what is known of a directory, and of everything below it if ``recursive``.

        Listings are of a project or of a session, so that is what is forgotten: below a session all of the session,
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

        with self._lock:
            self._refreshes += 1
            stale = list(self._snapshots.values())
            self._snapshots.clear()
            self._held = 0
            self._singles.clear()
        for directory in stale:
            directory.expires = float("-inf")  # faces keep snapshots of their own and look at this
        self._listings.forget(concerned)
        self._walker.forget()

    # -- one listing each ---------------------------------------------------------------------------------------

    def _ask(self, key: Key, load: Callable[..., T], *args: Any) -> Pending[T]:
        return self._listings.request(key, lambda deadline: load(*args, deadline=deadline))

    def _projects(self) -> Pending[tuple[Project, ...]]:
        return self._ask(Key("projects"), self._archive.projects)

    def _subjects(self, a: Address) -> Pending[tuple[Subject, ...]]:
        return self._ask(Key("subjects", a.project), self._archive.subjects, a.project)

    def _experiments(self, a: Address) -> Pending[tuple[Experiment, ...]]:
        return self._ask(Key("experiments", a.project), self._archive.experiments, a.project)

    def _scans(self, a: Address) -> Pending[tuple[Scan, ...]]:
        return self._ask(Key("scans", a.project, a.experiment), self._archive.scans, a.experiment)

    def _session_resources(self, a: Address) -> Pending[tuple[Resource, ...]]:
        key = Key("session resources", a.project, a.experiment)
        return self._ask(key, self._archive.session_resources, a.experiment)

    def _inputs(self, a: Address) -> Pending[tuple[Resource, ...]]:
        part = "assessors" if a.part_level is Level.ASSESSOR else "reconstructions"
        key = Key("inputs", a.project, a.experiment, part)
        return self._ask(key, self._archive.input_resources, a.experiment, part)

    def _container(self, a: Address, uri: str) -> Pending[tuple[Resource, ...]]:
        return self._ask(Key("resources", a.project, a.experiment, uri), self._archive.resources, uri)

    def size(self, file: FileRecord, deadline: Deadline) -> int:
        """Bytes of a file whose listing does not say: one request, kept like a listing."""
        key = Key(_SIZE, uri=file.base + file.path)
        return self._ask(key, self._archive.size, file).wait(deadline).value

    def item(self, a: Address, uri: str, deadline: Deadline) -> bytes:
        """The JSON document of an entity."""
        key = Key("item", a.project, a.experiment, uri)
        return self._ask(key, self._archive.item, uri).wait(deadline).value

    def complete(self, node: Node, deadline: Deadline) -> Node:
        """A node with everything that is known of it: a walk brings only what the names of scans need."""
        record = node.record if isinstance(node, DirNode) else None
        if not isinstance(node, DirNode) or not isinstance(record, Scan) or not record.partial:
            return node
        a = node.address
        key = Key("scans in full", a.project, a.experiment)
        for scan in self._ask(key, self._archive.scans, a.experiment).wait(deadline).value:
            if scan.id == record.id:
                return replace(node, record=scan)
        return node

    # -- levels -------------------------------------------------------------------------------------------------

    def _root(self, _here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        projects = self._projects().wait(deadline)
        return layout.root(projects.value), projects.expires

    def _project(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        asked = self._subjects(here.address), self._experiments(here.address)
        subjects, experiments = asked[0].wait(deadline), asked[1].wait(deadline)
        assert isinstance(here.record, Project)
        whole = layout.with_orphans(here.record, subjects.value, experiments.value)
        return layout.project(here, whole), min(subjects.expires, experiments.expires)

    def _subject(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        experiments = self._experiments(here.address).wait(deadline)
        mine = experiments.derive(layout.by_subject).get(here.address.subject, [])
        return layout.subject(here, mine), experiments.expires

    def _survey(self, project: str, deadline: Deadline) -> tuple[dict[str, Experiment], list[str]]:
        """The experiments of a project, and their IDs in the order in which the mount lists them."""
        a = Address(Level.PROJECT, project=project)
        asked = self._subjects(a), self._experiments(a)
        labels = {subject.id: subject.label for subject in asked[0].wait(deadline).value}
        experiments = {one.id: one for one in asked[1].wait(deadline).value}

        def place(one: Experiment) -> object:
            subject = labels.get(one.subject_id) or one.subject_label or one.subject_id
            return names.natural(subject), subject, names.natural(one.label)

        return experiments, [one.id for one in sorted(experiments.values(), key=place)]  # type: ignore[arg-type]

    def _experiment(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        self._walker.session(here.address.project, here.address.experiment, deadline)
        asked = self._scans(here.address), self._session_resources(here.address)
        scans, resources = asked[0].wait(deadline), asked[1].wait(deadline)
        has = any(category == "reconstructions" for category, _ in resources.derive(layout.by_owner))
        return layout.experiment(here, scans.value, has, self._scan_types), min(scans.expires, resources.expires)

    def _assessors(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        self._walker.session(here.address.project, here.address.experiment, deadline)
        key = Key("assessors", here.address.project, here.address.experiment)
        records = self._ask(key, self._archive.assessors, here.address.experiment).wait(deadline)
        return layout.assessors(here, records.value), records.expires

    def _reconstructions(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        key = Key("reconstructions", here.address.project, here.address.experiment)
        records = self._ask(key, self._archive.reconstructions, here.address.experiment).wait(deadline)
        return layout.reconstructions(here, records.value), records.expires

    def _part(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        """A scan, an assessor or a reconstruction: its resources."""
        a = here.address
        self._walker.session(a.project, a.experiment, deadline)
        resources = self._session_resources(a)
        inputs = None if a.level is Level.SCAN else self._inputs(a)
        answer = resources.wait(deadline)
        expires = answer.expires
        has_inputs = False
        if inputs is not None:
            answered = inputs.wait(deadline)
            expires = min(expires, answered.expires)
            has_inputs = any(resource.owner_id == a.part for resource in answered.value)
        mine = answer.derive(layout.by_owner).get((f"{a.level.value}s", a.part), [])
        return layout.resources(here, mine, has_inputs), expires

    def _in(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        inputs = self._inputs(here.address).wait(deadline)
        mine = [resource for resource in inputs.value if resource.owner_id == here.address.part]
        return layout.resources(here, mine), inputs.expires

    def _resources(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        records, expires = self._resources_of(here.address, deadline)
        return layout.resources(here, records), expires

    def _resources_of(self, a: Address, deadline: Deadline) -> tuple[list[Resource], float]:
        """Resources of a project, a subject or an experiment itself: known from the wider listing where it says."""
        if a.experiment:
            self._walker.session(a.project, a.experiment, deadline)
            session = self._session_resources(a).wait(deadline)
            return session.derive(layout.by_owner).get(("resources", ""), []), session.expires
        uri = f"/projects/{a.project}"
        if a.subject:
            subjects = self._subjects(a).wait(deadline)
            subject = subjects.derive(_by_id).get(a.subject)
            if subject is None:  # only an experiment of it is shared into the project
                return [], subjects.expires
            if subject.resources is not None:
                return list(subject.resources), subjects.expires
            uri = subject.uri
        listing = self._container(a, uri).wait(deadline)
        return list(listing.value), listing.expires

    def _files(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        listing = self.files_of(here, deadline)
        tree = listing.derive(layout.file_tree)
        if here.address.folder not in tree:
            raise NotFound(here.address.folder)
        return layout.files(here, tree, listing.value), listing.expires

    def files_of(self, here: DirNode, deadline: Deadline) -> Listing[Sequence[FileRecord]]:
        """All files of the resource that a RESOURCE or FOLDER directory belongs to."""
        a = here.address
        key = Key("files", a.project, a.experiment, a.resource)
        known = self._listings.peek(key)
        if known is not None:
            return known
        key_all = Key("session files", a.project, a.experiment)
        if a.experiment and not a.inputs:
            self._walker.files(a.project, a.experiment, deadline)
        if a.experiment and not a.inputs and self._deep(a, deadline):
            try:
                whole = self._ask(key_all, self._archive.session_files, a.experiment).wait(deadline)
            except ServerFault:
                self._listings.put(
                    key_all, None
                )  # one bad entry can spoil the all-in-one answer: one by one for a while
            else:
                known_there = whole.value is not None and a.resource in whole.value
                if known_there or (whole.value is not None and not self._resource(here, deadline).file_count):
                    return _part_of(whole, a.resource)
        return self._ask(key, self._archive.files, self._resource(here, deadline)).wait(deadline)

    def _deep(self, a: Address, deadline: Deadline) -> bool:
        """Is it time to list all files of the session at once?"""
        if self._listings.peek(Key("session files", a.project, a.experiment)) is not None:
            return True
        session = self._session_resources(a).wait(deadline)
        total = sum(resource.file_count or 0 for resource in session.value)
        with self._lock:
            if len(self._singles) > 4096:
                self._singles.clear()
            opened = self._singles.setdefault(a.experiment, set())
            opened.add(a.resource)
            return total <= DEEP_FILES or len(opened) > 1

    def _resource(self, here: DirNode, deadline: Deadline) -> Resource:
        if isinstance(here.record, Resource):
            return here.record
        a = here.address
        above = a._replace(level=Level.RESOURCES, resource="", folder="")
        if a.inputs:
            pool = self._inputs(a).wait(deadline).value
        elif a.experiment:
            pool = self._session_resources(a).wait(deadline).value
        else:
            pool = tuple(self._resources_of(above, deadline)[0])
        for resource in pool:
            if resource.id == a.resource:
                return resource
        raise NotFound(f"resource {a.resource}")

    def _meta(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        return self._metadata.meta(here, deadline)

    def _by_type(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        return self._metadata.by_type(here, deadline)


def _part_of(whole: Listing[Mapping[str, Sequence[FileRecord]]], resource: str) -> Listing[Sequence[FileRecord]]:
    """One resource of a session-wide listing, with a place of its own for what is derived from it."""
    parts: dict[str, Listing[Sequence[FileRecord]]] = whole.derive(_new_parts)
    if resource not in parts:
        records = whole.value.get(resource, ())
        parts[resource] = Listing(records, None, whole.expires, 0)
    return parts[resource]


def _by_id(subjects: Sequence[Subject]) -> dict[str, Subject]:
    return {subject.id: subject for subject in subjects}


def _new_parts(_value: object) -> dict[str, Any]:
    return {}


_BUILD: dict[Level, Callable[[Browser, DirNode, Deadline], tuple[Children, float]]] = {
    Level.ROOT: Browser._root,
    Level.PROJECT: Browser._project,
    Level.SUBJECT: Browser._subject,
    Level.EXPERIMENT: Browser._experiment,
    Level.SCAN: Browser._part,
    Level.ASSESSOR: Browser._part,
    Level.RECONSTRUCTION: Browser._part,
    Level.RESOURCES: Browser._resources,
    Level.ASSESSORS: Browser._assessors,
    Level.RECONSTRUCTIONS: Browser._reconstructions,
    Level.INPUTS: Browser._in,
    Level.RESOURCE: Browser._files,
    Level.FOLDER: Browser._files,
    Level.META: Browser._meta,
    Level.BY_TYPE: Browser._by_type,
}
