"""What an archive holds, as frozen records, and how one row of a listing becomes one.

A ``uri`` is the raw text of a path below ``/data`` (``/experiments/XNAT_E00001/scans/3``), not percent-encoded,
without the context path of the site; `xnatfs.xnat.urls` turns it into a request. Times are seconds since the
epoch; XNAT gives server-local times without a zone (contract 0.4), which are read as UTC; 0 means unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resource:
    """A file collection (DICOM, NIFTI, SNAPSHOTS, ...)."""

    id: str
    """``xnat_abstractresource_id``, a decimal number as text."""
    label: str
    """Empty when the resource has none."""
    uri: str
    category: str = ""
    """Where it hangs in a session-wide listing: resources, scans, assessors, reconstructions."""
    owner_id: str = ""
    """``cat_id``: scan ID, assessor ID or reconstruction ID in a session-wide listing."""
    file_count: int | None = None
    file_size: int | None = None
    """Sums that the server keeps; None when never computed, and possibly stale."""
    format: str = ""
    content: str = ""
    tags: str = ""
    xsi_type: str = ""


@dataclass(frozen=True, slots=True)
class Project:
    id: str
    uri: str
    name: str = ""
    secondary_id: str = ""
    description: str = ""
    pi: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    id: str
    label: str
    """As seen from the project that was asked (contract 3.5)."""
    uri: str
    project: str = ""
    """The owning project, which is another one for a shared subject."""
    inserted: float = 0.0
    modified: float = 0.0
    fields: tuple[tuple[str, str], ...] = ()
    """Demographics by their XNAT shortcut names, only those that are set: (("gender", "F"), ("yob", "1980"))."""
    resources: tuple[Resource, ...] | None = None
    """None when the server did not say; an empty tuple when it has none."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A session or any other subject-level experiment."""

    id: str
    label: str
    uri: str
    subject_id: str
    subject_label: str = ""
    project: str = ""
    xsi_type: str = ""
    date: str = ""
    inserted: float = 0.0
    modified: float = 0.0
    resources: tuple[Resource, ...] | None = None
    """The session-level resources; None when the server did not say."""


@dataclass(frozen=True, slots=True)
class Scan:
    id: str
    uri: str
    type: str = ""
    series_description: str = ""
    quality: str = ""
    note: str = ""
    xsi_type: str = ""
    frames: str = ""
    partial: bool = False
    """At most ``id`` and ``type`` are known: it comes from a listing of many sessions, or of its resources."""


@dataclass(frozen=True, slots=True)
class Assessor:
    id: str
    label: str
    uri: str
    """``/experiments/{session}/assessors/{id}``"""
    xsi_type: str = ""
    date: str = ""
    inserted: float = 0.0
    project: str = ""
    partial: bool = False
    """``inserted`` is not known: it comes from the document of its session."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    id: str
    uri: str
    type: str = ""
    base_scan_type: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an experiment consists of, as far as one request could tell."""

    scans: tuple[Scan, ...]
    assessors: tuple[Assessor, ...] | None = None
    """None: not said."""
    no_inputs: bool = False
    """Has none of the assessors any input resource? False: not said."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a resource, as the listing has it."""

    base: str
    """Raw URI of the resource's files: ``/experiments/E/scans/3/resources/123/files/``; one string for all of them."""
    path: str
    """Raw text after ``/files/``, with folders."""
    size: int | None
    """Bytes; None when the listing has none."""
    digest: str = ""
    """MD5 in lower-case hex; empty when the server has none."""
    resource_id: str = ""
    format: str = field(default="")
    content: str = ""
    tags: str = ""


Record = Project | Subject | Experiment | Scan | Assessor | Reconstruction | Resource | FileRecord
