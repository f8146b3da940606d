"""From an address to a directory: which listings feed it, and which request is the cheapest that brings them.

This is the first half of the file system's core (`xnatfs.vfs` is its face). It combines: the archive answers, the
listings cache keeps, the layout names. Nothing here knows of FUSE, errno or HTTP.

Requests, cold: the root 1; a project 2, side by side, after which its subjects cost none; a session 2, side by side,
and its scans none; its first resource 1 for all files of the session. A session of more than `DEEP_FILES` files is
asked one resource at a time until a second one is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from xnatfs.cache.listings import Key, Listing, Listings, Pending
from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import NameTooLong, NotADirectory, NotFound, ServerFault
from xnatfs.tree import attributes, layout, names
from xnatfs.tree.directory import Children, Directory
from xnatfs.tree.nodes import Address, DirNode, Kind, Level, LinkNode, Node, TextNode, inode
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

SNAPSHOTS = 4096
"""Directories kept assembled; the listings that they come from are kept, and bounded, on their own."""


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
    def session_files(self, experiment_id: str, *, deadline: Deadline) -> Mapping[str, tuple[FileRecord, ...]]: ...
    def files(self, resource: Resource, *, deadline: Deadline) -> tuple[FileRecord, ...]: ...
    def item(self, uri: str, *, deadline: Deadline) -> bytes: ...
    def size(self, file: FileRecord, *, deadline: Deadline) -> int: ...


class Browser:
    """Directories of the mount, assembled from listings. Thread-safe.

    ``_lock`` guards ``_snapshots`` and ``_singles`` and is never held while anything is loaded.
    """

    def __init__(
        self, archive: Archive, listings: Listings, *, clock: Clock, status: Callable[[], object] | None = None
    ) -> None:
        self._archive = archive
        self._listings = listings
        self._clock = clock
        self._status = status or dict
        self._lock = threading.Lock()
        self._snapshots: dict[Address, Directory] = {}
        self._singles: dict[str, set[str]] = {}

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
        children, expires = _BUILD[node.address.level](self, node, deadline)
        directory = Directory(node, children, expires)
        with self._lock:
            self._snapshots.pop(node.address, None)
            while len(self._snapshots) >= SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]
            self._snapshots[node.address] = directory
        return directory

    def forget(self, address: Address) -> None:
        """Forget what is known of a directory and of everything below it."""

        def concerned(key: Key) -> bool:
            if address.level is Level.ROOT or key.kind == _SIZE:
                return True
            if key.project != address.project:
                return key.kind == "projects" and address.level is Level.PROJECT
            return not address.experiment or key.experiment in ("", address.experiment)

        with self._lock:
            stale = list(self._snapshots.values())
            self._snapshots.clear()
            self._singles.clear()
        for directory in stale:
            directory.expires = float("-inf")  # faces keep snapshots of their own and look at this
        self._listings.forget(concerned)

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

    def _experiment(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        asked = self._scans(here.address), self._session_resources(here.address)
        scans, resources = asked[0].wait(deadline), asked[1].wait(deadline)
        has = any(category == "reconstructions" for category, _ in resources.derive(layout.by_owner))
        return layout.experiment(here, scans.value, has), min(scans.expires, resources.expires)

    def _assessors(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
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
            session = self._session_resources(a).wait(deadline)
            return session.derive(layout.by_owner).get(("resources", ""), []), session.expires
        uri = f"/projects/{a.project}"
        if a.subject:
            subjects = self._subjects(a).wait(deadline)
            subject = next((one for one in subjects.value if one.id == a.subject), None)
            if subject is not None and subject.resources is not None:
                return list(subject.resources), subjects.expires
            uri = subject.uri if subject is not None else f"{uri}/subjects/{a.subject}"
        listing = self._container(a, uri).wait(deadline)
        return list(listing.value), listing.expires

    def _files(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        listing = self.files_of(here, deadline)
        tree = listing.derive(layout.file_tree)
        if here.address.folder not in tree:
            raise NotFound(here.address.folder)
        return layout.files(here, tree), listing.expires

    def files_of(self, here: DirNode, deadline: Deadline) -> Listing[tuple[FileRecord, ...]]:
        """All files of the resource that a RESOURCE or FOLDER directory belongs to."""
        a = here.address
        key = Key("files", a.project, a.experiment, a.resource)
        known = self._listings.peek(key)
        if known is not None:
            return known
        if a.experiment and not a.inputs and self._deep(a, deadline):
            key_all = Key("session files", a.project, a.experiment)
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
            if len(self._singles) > SNAPSHOTS:
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

    # -- .xnat --------------------------------------------------------------------------------------------------

    def _meta(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        """``.xnat``: small files made when they are looked up, so that stat knows their size before they are opened."""
        assert here.address.of is not None
        above = here.address._replace(level=here.address.of, of=None)
        described = DirNode("", above, layout.place(above), here.mtime_ns, here.record, here.stamp)
        known = self.directory(described, deadline)
        makers: dict[str, Callable[[], bytes]] = {
            "children.csv": lambda: attributes.as_csv(attributes.rows(known.nodes())),
            "children.json": lambda: attributes.as_json(attributes.rows(known.nodes())),
        }
        if above.level is Level.ROOT:
            makers["status.json"] = self._status_text
        elif isinstance(here.record, Resource):
            record = here.record
            makers["item.json"] = lambda: attributes.as_json(attributes.describe(record))
        elif here.record is not None and not isinstance(here.record, FileRecord):
            uri = here.record.uri
            makers["item.json"] = lambda: self.item(above, uri, Deadline(deadline.seconds, self._clock))

        def number(name: str) -> int:
            return inode("meta", str(here.ino), name)

        def make(name: str, render: Callable[[], bytes]) -> Node:
            return TextNode(name, render(), number(name), here.mtime_ns)

        return Children(makers, {}, {}, make, lambda name, _item: (Kind.FILE, number(name))), known.expires

    def _status_text(self) -> bytes:
        """Padded with spaces, which JSON allows, so that numbers may grow between stat and read."""
        text = attributes.as_json(self._status()).rstrip()
        return text.ljust((len(text) // 4096 + 1) * 4096 - 1) + b"\n"


def _part_of(whole: Listing[Mapping[str, tuple[FileRecord, ...]]], resource: str) -> Listing[tuple[FileRecord, ...]]:
    """One resource of a session-wide listing, with a place of its own for what is derived from it."""
    parts: dict[str, Listing[tuple[FileRecord, ...]]] = whole.derive(_new_parts)
    if resource not in parts:
        records = whole.value.get(resource, ())
        parts[resource] = Listing(records, None, whole.expires, 0)
    return parts[resource]


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
}
