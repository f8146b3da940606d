"""What a stand-in XNAT holds: projects, subjects, experiments, scans, resources, files; and how they change.

Threads: any. Readers take no lock: they iterate over tuples made from the dicts in one step. Every change goes through
`Archive` (one lock, `Archive.version` counts changes, so that answers may be cached until the next one).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from xnatfs.demo.content import Bytes, Content
from xnatfs.demo.model import (
    START,
    Assessor,
    Experiment,
    Item,
    Labelled,
    Project,
    Reconstruction,
    Resource,
    Scan,
    StoredFile,
    Subject,
)

__all__ = [
    "Archive",
    "Assessor",
    "Experiment",
    "Item",
    "Labelled",
    "Project",
    "Reconstruction",
    "Resource",
    "Scan",
    "StoredFile",
    "Subject",
    "ticking",
]


def ticking(start: datetime = START) -> Callable[[], datetime]:
    """A clock that moves on by a second and a bit each time it is read: every run stamps the same times."""
    now = start

    def tick() -> datetime:
        nonlocal now
        now += timedelta(seconds=1, milliseconds=7)
        return now

    return tick


class Archive:
    """All of it. ``clock`` stamps insertions and changes; by default a deterministic one."""

    def __init__(self, clock: Callable[[], datetime] | None = None, *, prefix: str = "XNAT") -> None:
        self.clock = clock or ticking()
        self.prefix = prefix
        self.lock = threading.RLock()
        self.version = 0
        self.cacheable = True
        """False when bytes can change without `version` moving (files on the user's disk)."""
        self.projects: dict[str, Project] = {}
        self.subjects: dict[str, Subject] = {}
        self.experiments: dict[str, Experiment] = {}
        self.assessors: dict[str, Assessor] = {}
        self.resources: dict[int, Resource] = {}
        self._next = {"S": 0, "E": 0, "resource": 100, "scan": 0, "recon": 0}

    # building ---------------------------------------------------------------------------------------------------------

    def add_project(
        self, id: str, name: str = "", *, access: str = "private", members: dict[str, str] | None = None, **fields: str
    ) -> Project:
        with self.lock:
            now = self.clock()
            project = Project(id, "xnat:projectData", now, now, fields, name=name or id, access=access)
            project.members.update(members or {})
            self.projects[id] = project
            self._changed()
            return project

    def add_subject(
        self, project: Project, label: str, *, custom: dict[str, str] | None = None, **fields: str
    ) -> Subject:
        with self.lock:
            now = self.clock()
            subject = Subject(
                self._id("S"), "xnat:subjectData", now, now, fields, label=label, project=project, custom=custom or {}
            )
            self.subjects[subject.id] = subject
            self._changed()
            return subject

    def add_session(
        self,
        subject: Subject,
        label: str,
        xsi_type: str = "xnat:mrSessionData",
        *,
        project: Project | None = None,
        custom: dict[str, str] | None = None,
        **fields: str,
    ) -> Experiment:
        """A session, or with another ``xsi_type`` any experiment of a subject."""
        with self.lock:
            now = self.clock()
            owner = project or subject.project
            experiment = Experiment(self._id("E"), xsi_type, now, now, fields, label=label, project=owner)
            experiment.subject = subject
            experiment.custom.update(custom or {})
            self.experiments[experiment.id] = experiment
            self._changed(subject)
            return experiment

    def add_scan(self, session: Experiment, id: str, xsi_type: str = "xnat:mrScanData", **fields: str) -> Scan:
        with self.lock:
            now = self.clock()
            scan = Scan(id, xsi_type, now, now, fields, number=self._number("scan"), session=session)
            session.scans[id] = scan
            self._changed(session)
            return scan

    def add_assessor(
        self, session: Experiment, label: str, xsi_type: str = "xnat:qcManualAssessorData", **fields: str
    ) -> Assessor:
        with self.lock:
            now = self.clock()
            assessor = Assessor(self._id("E"), xsi_type, now, now, fields, label=label, project=session.project)
            assessor.session = session
            session.assessors[assessor.id] = assessor
            self.assessors[assessor.id] = assessor
            self._changed(session)
            return assessor

    def add_reconstruction(self, session: Experiment, id: str, **fields: str) -> Reconstruction:
        with self.lock:
            now = self.clock()
            number = self._number("recon")
            recon = Reconstruction(id, "xnat:reconstructedImageData", now, now, fields, number=number, session=session)
            session.reconstructions[id] = recon
            self._changed(session)
            return recon

    def add_resource(
        self, parent: Item, label: str, *, direction: str = "", format: str = "", content: str = "", tags: str = ""
    ) -> Resource:
        """A resource; the ones of a reconstruction are always ``out`` or ``in``."""
        with self.lock:
            if isinstance(parent, Reconstruction) and not direction:
                direction = "out"
            resource = Resource(
                self._number("resource"), label, parent, direction, format, content, tags, changed=self.clock()
            )
            parent.resources[resource.number] = resource
            self.resources[resource.number] = resource
            self._changed(parent)
            return resource

    def add_file(
        self,
        resource: Resource,
        path: str,
        content: Content | bytes,
        *,
        format: str = "",
        description: str = "",
        tags: tuple[str, ...] = (),
        modified: datetime | None = None,
        user: str = "admin",
    ) -> StoredFile:
        """Catalogue a file; one that is there under this path is replaced, its creation time kept."""
        with self.lock:
            now = modified or self.clock()
            before = resource.files.get(path)
            stored = StoredFile(
                path,
                Bytes(content) if isinstance(content, bytes) else content,
                before.created if before else now,
                now,
                format or (before.format if before else ""),
                description or (before.description if before else ""),
                tags,
                created_by=user,
            )
            resource.files[path] = stored
            resource.changed = now
            # A replacement of equal length leaves count and size of the resource as they were, and then XNAT does
            # not touch the row, so that no parent's last_modified moves (contract 10).
            if before is None or before.content.size != stored.content.size:
                self._changed(resource.parent)
            else:
                self._changed()
            return stored

    def add_files(
        self, resource: Resource, files: Iterable[tuple[str, Content]], *, format: str = "", description: str = ""
    ) -> None:
        """Many new files as one change, all of one moment."""
        with self.lock:
            now = self.clock()
            added = {path: StoredFile(path, content, now, now, format, description) for path, content in files}
            resource.files = {**resource.files, **added}
            resource.changed = now
            self._changed(resource.parent)

    # changing ---------------------------------------------------------------------------------------------------------

    def replace_file(self, resource: Resource, path: str, content: Content | bytes) -> StoredFile:
        """New bytes under an old name (KeyError if there is none)."""
        resource.files[path]
        return self.add_file(resource, path, content)

    def delete_file(self, resource: Resource, path: str) -> None:
        with self.lock:
            del resource.files[path]
            resource.changed = self.clock()
            self._changed(resource.parent)

    def rename(self, item: Labelled, label: str, project_id: str | None = None) -> None:
        """Another label, in the owning project or in one it is shared into."""
        with self.lock:
            if project_id in item.shares:
                item.shares[project_id] = label
            else:
                item.label = label
            self._changed(item)

    def share(self, item: Labelled, project: Project, label: str = "") -> None:
        """Show a subject, experiment or assessor in another project too, under ``label`` (default: its own)."""
        with self.lock:
            item.shares[project.id] = label or item.label
            self._changed(item)

    def unshare(self, item: Labelled, project: Project) -> None:
        with self.lock:
            del item.shares[project.id]
            self._changed(item)

    def delete(self, thing: Item | Resource) -> None:
        """Remove a resource, scan, assessor, reconstruction, experiment, subject or project with all below it."""
        with self.lock:
            if isinstance(thing, Resource):
                thing.parent.resources.pop(thing.number, None)
                self.resources.pop(thing.number, None)
                self._changed(thing.parent)
                return
            for child in tuple(self._children(thing)):
                self.delete(child)
            if isinstance(thing, Scan):
                thing.session.scans.pop(thing.id, None)
            elif isinstance(thing, Reconstruction):
                thing.session.reconstructions.pop(thing.id, None)
            elif isinstance(thing, Assessor):
                thing.session.assessors.pop(thing.id, None)
                self.assessors.pop(thing.id, None)
            elif isinstance(thing, Experiment):
                self.experiments.pop(thing.id, None)
            elif isinstance(thing, Subject):
                self.subjects.pop(thing.id, None)
            elif isinstance(thing, Project):
                self.projects.pop(thing.id, None)
            self._changed(thing.parent_item())

    def _children(self, thing: Item) -> Iterator[Item | Resource]:
        yield from thing.resources.values()
        if isinstance(thing, Experiment):
            yield from (*thing.scans.values(), *thing.assessors.values(), *thing.reconstructions.values())
        elif isinstance(thing, Subject):
            yield from self.experiments_of(thing)
        elif isinstance(thing, Project):
            yield from (s for s in tuple(self.subjects.values()) if s.project is thing)

    def touch(self, item: Item | None = None) -> None:
        """Say that something was changed by hand; moves ``last_modified`` of ``item`` and what it hangs in."""
        with self.lock:
            self._changed(item)

    # looking ----------------------------------------------------------------------------------------------------------

    def subjects_of(self, project: Project) -> tuple[Subject, ...]:
        """Owned and shared ones."""
        return tuple(s for s in tuple(self.subjects.values()) if s.is_in(project.id))

    def experiments_of(self, owner: Project | Subject) -> tuple[Experiment, ...]:
        """All experiments of a subject, or those owned by or shared into a project."""
        everything = tuple(self.experiments.values())
        if isinstance(owner, Subject):
            return tuple(e for e in everything if e.subject is owner)
        return tuple(e for e in everything if e.is_in(owner.id))

    def files(self) -> Iterator[tuple[Resource, StoredFile]]:
        """Every file of the archive with its resource: the truth that a mount is compared with."""
        for resource in tuple(self.resources.values()):
            for stored in tuple(resource.files.values()):
                yield resource, stored

    def resource_called(self, label: str) -> Resource:
        """The first resource of that label (LookupError if there is none)."""
        for resource in tuple(self.resources.values()):
            if resource.label == label:
                return resource
        raise LookupError(f"no resource is called {label}")

    def find(self, label: str) -> Labelled:
        """The one subject, experiment or assessor of that label or ID (LookupError if none or several)."""
        pools: Iterable[Labelled] = (
            *self.subjects.values(),
            *self.experiments.values(),
            *self.assessors.values(),
        )
        found = [item for item in pools if label in (item.id, item.label)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} things are called {label}")
        return found[0]

    def _id(self, kind: str) -> str:
        return f"{self.prefix}_{kind}{self._number(kind):05d}"

    def _number(self, kind: str) -> int:
        self._next[kind] += 1
        return self._next[kind]

    def _changed(self, item: Item | None = None) -> None:
        self.version += 1
        if item is not None:
            now = self.clock()
            # Triggers in XNAT's database carry a change up to the subject, and not to the project (contract 10).
            while item is not None and not isinstance(item, Project):
                item.modified = now
                item = item.parent_item()
