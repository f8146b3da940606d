"""From an address to a directory: which listings feed it, and which request is the cheapest that brings them.

This is the first half of the file system's core (`xnatfs.vfs` is its face). It combines: the archive answers, the
listings cache keeps, the layout names. Nothing here knows of FUSE, errno or HTTP.

Requests, cold: the root 1; a project 2, side by side, after which its subjects cost none; a session 2, side by side,
and its scans and assessors none; its first resource 1 for all files of the session. A scan that is looked up without
listing its session takes 1 of those 2. A session of more than `DEEP_FILES` files is asked one resource at a time until
a second one is opened.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xnatfs.assembled import Assembled, Tables
from xnatfs.cache.listings import Listing, Listings
from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import NameTooLong, NotADirectory, NotFound, ServerFault
from xnatfs.metadata import Metadata
from xnatfs.questions import Archive, Questions
from xnatfs.tree import files, layout, names
from xnatfs.tree.directory import Children, Directory
from xnatfs.tree.nodes import Address, DirNode, Level, LinkNode, Node
from xnatfs.walks import Walker
from xnatfs.xnat.records import Assessor, Experiment, FileRecord, Project, Resource, Scan, Subject

DEEP_FILES = 5000
"""A session of up to this many files is listed whole at its first resource: a row costs a server about 0.3 ms."""


class Browser:
    """Directories of the mount, assembled from listings. Thread-safe.

    ``_lock`` guards ``_singles`` and is never held while anything is loaded.
    """

    def __init__(
        self,
        archive: Archive,
        listings: Listings,
        *,
        clock: Clock,
        status: Callable[[], Mapping[str, Any]] | None = None,
        scan_names: str = "id",
    ) -> None:
        self._ask = Questions(archive, listings)
        self._assembled = Assembled(clock)
        self._tables = Tables()
        self._metadata = Metadata(self, clock, status or dict)
        self._scan_types = scan_names == "type"
        self._lock = threading.Lock()
        self._singles: dict[str, set[str]] = {}
        self._since: Callable[[str, str], str] = getattr(archive, "since", _just_now)
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
        known = self._assembled.get(parent.address)
        if known is None:
            if name == layout.META and parent.address.level is Level.ROOT:
                return layout.meta(parent)  # without the list of projects: the mount's own files wait for no server
            _refuse_long(name)
            known = self.directory_for(parent, name, deadline)
        node = known.get(name)
        if node is None:
            _refuse_long(name)
            raise NotFound(name)
        return node

    # -- directories --------------------------------------------------------------------------------------------

    def directory(self, node: DirNode, deadline: Deadline) -> Directory:
        """A directory, from its snapshot or from listings."""
        known = self._assembled.get(node.address)
        if known is not None:
            return known
        began = self._assembled.forgotten
        children, expires = _BUILD[node.address.level](self, node, deadline)
        directory = Directory(node, children, expires, self.since(node.address))
        self._assembled.keep(directory, began)
        return directory

    def directory_for(self, node: DirNode, name: str, deadline: Deadline) -> Directory:
        """A directory of which only one name is wanted; it need not hold others, and then has expired.

        Raises `NotFound` for names that desktops ask every directory for, unless it is at hand and would know.
        """
        if layout.is_probe(name) and node.address.level in layout.ENTITIES:
            if self._assembled.get(node.address) is None:
                raise NotFound(name)
        elif node.address.level is Level.EXPERIMENT and self._assembled.get(node.address) is None:
            scan = self._scan(node, name, deadline)
            if scan is not None:
                return Directory(node, Children({name: scan}), float("-inf"))
        return self.directory(node, deadline)

    def _scan(self, session: DirNode, name: str, deadline: Deadline) -> DirNode | None:
        """A scan that the resources of its session show to be there: who knows where to go needs no list of scans."""
        a = session.address
        if self._scan_types or name in layout.RESERVED or name == layout.META or names.shown(name) != name:
            return None
        self._walker.session(a.project, a.experiment, deadline)
        if self._ask.knows_scans(a):
            return None
        resources = self._ask.session_resources(a).wait(deadline)
        if ("scans", name) not in resources.derive(layout.by_owner):
            return None
        return layout.scan(session, name, Scan(name, f"/experiments/{a.experiment}/scans/{name}", partial=True))

    def since(self, address: Address) -> str:
        """When the server said what a directory shows, in words, if it is away by now; else empty."""
        return self._since(address.project, address.experiment)

    def forget(self, address: Address, *, recursive: bool = True) -> None:
        """Forget what is known of a directory, and of everything below it if ``recursive``: see `Questions.forget`."""
        self._assembled.forget()
        self._tables = Tables()  # the other one would keep what was forgotten
        with self._lock:
            self._singles.clear()
        self._ask.forget(address, recursive=recursive)
        self._walker.forget()

    def size(self, file: FileRecord, deadline: Deadline) -> int:
        """Bytes of a file whose listing does not say: one request."""
        return self._ask.size(file).wait(deadline).value

    def item(self, a: Address, uri: str, deadline: Deadline) -> bytes:
        """The JSON document of an entity."""
        return self._ask.item(a, uri).wait(deadline).value

    def complete(self, node: Node, deadline: Deadline) -> Node:
        """A node with everything that is known of it: some listings bring no more than names need."""
        if not isinstance(node, DirNode) or not isinstance(node.record, (Scan, Assessor)) or not node.record.partial:
            return node
        whole: Sequence[Scan | Assessor]
        if isinstance(node.record, Scan):
            whole = self._ask.scans_in_full(node.address).wait(deadline).value
        else:
            whole = self._ask.assessors_in_full(node.address).wait(deadline).value
        return next((replace(node, record=record) for record in whole if record.id == node.record.id), node)

    # -- levels -------------------------------------------------------------------------------------------------

    def _root(self, _here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        projects = self._ask.projects().wait(deadline)
        return layout.root(projects.value), projects.expires

    def _project(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        asked = self._ask.subjects(here.address), self._ask.experiments(here.address)
        subjects, experiments = asked[0].wait(deadline), asked[1].wait(deadline)
        assert isinstance(here.record, Project)
        whole = layout.with_orphans(here.record, subjects.value, experiments.value)
        return layout.project(here, whole), min(subjects.expires, experiments.expires)

    def _subject(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        experiments = self._ask.experiments(here.address).wait(deadline)
        mine = experiments.derive(layout.by_subject).get(here.address.subject, [])
        return layout.subject(here, mine), experiments.expires

    def _survey(self, project: str, deadline: Deadline) -> tuple[dict[str, Experiment], list[str]]:
        """The experiments of a project, and their IDs in the order in which the mount lists them."""
        a = Address(Level.PROJECT, project=project)
        asked = self._ask.subjects(a), self._ask.experiments(a)
        labels = {subject.id: subject.label for subject in asked[0].wait(deadline).value}
        experiments = {one.id: one for one in asked[1].wait(deadline).value}

        def place(one: Experiment) -> object:
            subject = labels.get(one.subject_id) or one.subject_label or one.subject_id
            return names.natural(subject), subject, names.natural(one.label)

        return experiments, [one.id for one in sorted(experiments.values(), key=place)]  # type: ignore[arg-type]

    def _experiment(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        self._walker.session(here.address.project, here.address.experiment, deadline)
        asked = self._ask.scans(here.address), self._ask.session_resources(here.address)
        scans, resources = asked[0].wait(deadline), asked[1].wait(deadline)
        has = any(category == "reconstructions" for category, _ in resources.derive(layout.by_owner))
        return layout.experiment(here, scans.value, has, self._scan_types), min(scans.expires, resources.expires)

    def _assessors(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        self._walker.session(here.address.project, here.address.experiment, deadline)
        records = self._ask.assessors(here.address).wait(deadline)
        return layout.assessors(here, records.value), records.expires

    def _reconstructions(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        records = self._ask.reconstructions(here.address).wait(deadline)
        return layout.reconstructions(here, records.value), records.expires

    def _part(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        """A scan, an assessor or a reconstruction: its resources."""
        a = here.address
        self._walker.session(a.project, a.experiment, deadline)
        resources = self._ask.session_resources(a)
        inputs = None if a.level is Level.SCAN else self._ask.inputs(a)
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
        inputs = self._ask.inputs(here.address).wait(deadline)
        mine = [resource for resource in inputs.value if resource.owner_id == here.address.part]
        return layout.resources(here, mine), inputs.expires

    def _resources(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        records, expires = self._resources_of(here.address, deadline)
        return layout.resources(here, records), expires

    def _resources_of(self, a: Address, deadline: Deadline) -> tuple[list[Resource], float]:
        """Resources of a project, a subject or an experiment itself: known from the wider listing where it says."""
        if a.experiment:
            self._walker.session(a.project, a.experiment, deadline)
            session = self._ask.session_resources(a).wait(deadline)
            return session.derive(layout.by_owner).get(("resources", ""), []), session.expires
        uri = f"/projects/{a.project}"
        if a.subject:
            subjects = self._ask.subjects(a).wait(deadline)
            subject = subjects.derive(_by_id).get(a.subject)
            if subject is None:  # only an experiment of it is shared into the project
                return [], subjects.expires
            if subject.resources is not None:
                return list(subject.resources), subjects.expires
            uri = subject.uri
        listing = self._ask.resources(a, uri).wait(deadline)
        return list(listing.value), listing.expires

    def _files(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        listing = self.files_of(here, deadline)
        tree = listing.derive(files.file_tree)
        if here.address.folder not in tree:
            raise NotFound(here.address.folder)
        derived = listing.derive(_by_address).setdefault(here.address, {})
        return files.files(here, tree, listing.value, self._tables.made, derived), listing.expires

    def files_of(self, here: DirNode, deadline: Deadline) -> Listing[Sequence[FileRecord]]:
        """All files of the resource that a RESOURCE or FOLDER directory belongs to."""
        a = here.address
        known = self._ask.known_files(a)
        if known is not None:
            return known
        if a.experiment and not a.inputs:
            self._walker.files(a.project, a.experiment, deadline)
        if a.experiment and not a.inputs and self._deep(a, deadline):
            try:
                whole = self._ask.session_files(a).wait(deadline)
            except ServerFault:
                self._ask.spoil_session_files(a)
            else:
                there = whole.value is not None and a.resource in whole.value
                if there or (whole.value is not None and not self._resource(here, deadline).file_count):
                    return _part_of(whole, a.resource)
        return self._ask.files(a, self._resource(here, deadline)).wait(deadline)

    def _deep(self, a: Address, deadline: Deadline) -> bool:
        """Is it time to list all files of the session at once?"""
        if self._ask.knows_session_files(a):
            return True
        session = self._ask.session_resources(a).wait(deadline)
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
            pool = self._ask.inputs(a).wait(deadline).value
        elif a.experiment:
            pool = self._ask.session_resources(a).wait(deadline).value
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


def _refuse_long(name: str) -> None:
    if len(name.encode("utf-8", "surrogateescape")) > names.NAME_MAX:
        raise NameTooLong(f"{name[:40]}...: longer than {names.NAME_MAX} bytes")


def _part_of(whole: Listing[Mapping[str, Sequence[FileRecord]] | None], resource: str) -> Listing[Sequence[FileRecord]]:
    """One resource of a session-wide listing, with a place of its own for what is derived from it."""
    parts: dict[str, Listing[Sequence[FileRecord]]] = whole.derive(_new_parts)
    if resource not in parts:
        records = (whole.value or {}).get(resource, ())
        parts[resource] = Listing(records, None, whole.expires, 0)
    return parts[resource]


def _just_now(_project: str, _experiment: str) -> str:
    """Of an archive that never gives what was said earlier."""
    return ""


def _by_id(subjects: Sequence[Subject]) -> dict[str, Subject]:
    return {subject.id: subject for subject in subjects}


def _new_parts(_value: object) -> dict[str, Any]:
    return {}


def _by_address(_value: object) -> dict[Address, dict[Hashable, Any]]:
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
