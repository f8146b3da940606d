"""The things an archive holds, as plain objects that refer to each other. Changed only through `Archive`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from xnatfs.demo.content import Content

UTC = timezone.utc
START = datetime(2024, 6, 18, 15, 57, 30, 123000, tzinfo=UTC)
"""When the first thing in an archive was inserted; fixed, so that every run gives the same listings."""


@dataclass(eq=False)
class StoredFile:
    """One catalogued file. ``path`` is its raw name inside the resource, with folders."""

    path: str
    content: Content
    created: datetime
    modified: datetime
    format: str = ""
    description: str = ""
    """The entry's ``content`` attribute (RAW, QC, ...)."""
    tags: tuple[str, ...] = ()
    has_digest: bool = True
    has_size: bool = True
    """False: the listing's Size is empty."""
    missing: bool = False
    """True: catalogued, but the bytes are gone from the server's disk."""
    created_by: str = "admin"

    @property
    def last_modified(self) -> datetime:
        """As the server's disk has it."""
        try:
            return self.content.modified or self.modified
        except OSError:
            return self.modified

    @property
    def size(self) -> int | None:
        """Bytes; None when they are gone."""
        try:
            return None if self.missing else self.content.size
        except OSError:
            return None

    @property
    def digest(self) -> str:
        """MD5 in hex; empty when it was never computed or cannot be any more."""
        try:
            return self.content.md5 if self.has_digest and not self.missing else ""
        except OSError:
            return ""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(eq=False)
class Resource:
    """A file collection with a catalog."""

    number: int
    label: str
    parent: Item
    direction: str = ""
    """``""`` for plain ones, ``out`` or ``in`` of an assessor or reconstruction."""
    format: str = ""
    content: str = ""
    tags: str = ""
    files: dict[str, StoredFile] = field(default_factory=dict)
    counted: bool = True
    """False: ``file_count`` and ``file_size`` were never computed and are empty in listings."""
    poisoned: bool = False
    """True: a catalog entry that breaks every listing with it (an XNAT 1.6 answers 500)."""
    changed: datetime = START

    @property
    def file_count(self) -> str:
        return str(len(self.files)) if self.counted else ""

    @property
    def file_size(self) -> str:
        return str(sum(f.size or 0 for f in tuple(self.files.values()))) if self.counted else ""


@dataclass(eq=False)
class Item:
    """Anything with an ID, resources and a history."""

    id: str
    xsi_type: str
    inserted: datetime
    modified: datetime
    fields: dict[str, str] = field(default_factory=dict)
    """Values by their shortcut names (gender, date, series_description, ...); absent = NULL."""
    resources: dict[int, Resource] = field(default_factory=dict)

    def parent_item(self) -> Item | None:
        return None


@dataclass(eq=False)
class Scan(Item):
    number: int = 0
    """``xnat_imagescandata_id``"""
    session: Experiment = None  # type: ignore[assignment]

    def parent_item(self) -> Item:
        return self.session


@dataclass(eq=False)
class Reconstruction(Item):
    number: int = 0
    session: Experiment = None  # type: ignore[assignment]

    def parent_item(self) -> Item:
        return self.session


@dataclass(eq=False)
class Labelled(Item):
    """Subjects, experiments and assessors: a label, an owning project, and shares under labels of other projects."""

    label: str = ""
    project: Project = None  # type: ignore[assignment]
    shares: dict[str, str] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    """Custom variables (``fields/field``)."""

    def label_in(self, project_id: str | None) -> str:
        """The label as seen from that project."""
        return self.shares.get(project_id or "") or self.label

    def is_in(self, project_id: str) -> bool:
        return self.project.id == project_id or project_id in self.shares


@dataclass(eq=False)
class Subject(Labelled):
    def parent_item(self) -> Item:
        return self.project


@dataclass(eq=False)
class Experiment(Labelled):
    """A session or any other experiment of a subject."""

    subject: Subject = None  # type: ignore[assignment]
    scans: dict[str, Scan] = field(default_factory=dict)
    assessors: dict[str, Assessor] = field(default_factory=dict)
    reconstructions: dict[str, Reconstruction] = field(default_factory=dict)

    def parent_item(self) -> Item:
        return self.subject


@dataclass(eq=False)
class Assessor(Labelled):
    """An image assessor of a session."""

    session: Experiment = None  # type: ignore[assignment]

    def parent_item(self) -> Item:
        return self.session


@dataclass(eq=False)
class Project(Item):
    name: str = ""
    access: str = "private"
    """private, protected or public"""
    members: dict[str, str] = field(default_factory=dict)
    """Role (Owners, Members, Collaborators) of each user; site administrators need none."""
