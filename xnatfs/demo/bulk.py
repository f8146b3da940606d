"""Archives of any size for benchmarks and tests: cheap, deterministic content, no imaging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xnatfs.demo.archive import Archive
from xnatfs.demo.content import Pattern
from xnatfs.demo.model import Assessor, Experiment, Item, Project, Reconstruction, Resource, Scan, Subject

Size = int | Callable[[int], int]
"""Bytes of each file, or a function that gives them from the file's number in its resource, 0 first."""

LABELS = ("DICOM", "NIFTI", "SNAPSHOTS", "QC", "LOGS")


def bulk_session(
    archive: Archive,
    *,
    scans: int = 10,
    resources: int = 2,
    files: int = 200,
    size: Size = 2048,
    project: str = "BULK",
    subject: str = "bulk-01",
    label: str = "bulk-01_MR1",
) -> Experiment:
    """A session of ``scans`` x ``resources`` x ``files`` files, in a project and subject that are made if needed."""
    home = archive.projects.get(project) or archive.add_project(project, project)
    owner = next((s for s in archive.subjects_of(home) if s.label == subject), None)
    owner = owner or archive.add_subject(home, subject)
    session = archive.add_session(owner, label, date="2024-01-02")
    number = 0
    for scan_number in range(1, scans + 1):
        scan = archive.add_scan(session, str(scan_number), type=f"T{scan_number}", quality="usable")
        for resource_number in range(resources):
            name = LABELS[resource_number] if resource_number < len(LABELS) else f"R{resource_number}"
            bulk_resource(archive, scan, name, files=files, size=size, first=number)
            number += files
    return session


def bulk_resource(
    archive: Archive, parent: Item, label: str = "DICOM", *, files: int = 100_000, size: Size = 1024, first: int = 0
) -> Resource:
    """One resource of that many files. ``first`` numbers the contents: equal numbers and sizes give equal bytes."""
    resource = archive.add_resource(parent, label, format=label)
    width = max(4, len(str(files)))
    suffix = {"DICOM": "dcm", "NIFTI": "nii", "SNAPSHOTS": "png"}.get(label, "dat")
    archive.add_files(
        resource,
        (
            (f"{n + 1:0{width}d}.{suffix}", Pattern(size(n) if callable(size) else size, first + n))
            for n in range(files)
        ),
        format=label,
    )
    return resource


def bulk_project(
    archive: Archive,
    *,
    sessions: int = 100,
    scans: int = 3,
    resources: int = 1,
    files: int = 5,
    size: Size = 256,
    project: str = "MANY",
) -> Project:
    """A project of that many subjects with one session each."""
    for number in range(1, sessions + 1):
        bulk_session(
            archive,
            scans=scans,
            resources=resources,
            files=files,
            size=size,
            project=project,
            subject=f"s{number:05d}",
            label=f"s{number:05d}_MR1",
        )
    return archive.projects[project]


def bulk_archive(
    *, scans: int = 10, resources: int = 2, files: int = 200, size: Size = 2048, project: str = "BULK"
) -> Archive:
    """An archive with nothing but one such session."""
    archive = Archive()
    bulk_session(archive, scans=scans, resources=resources, files=files, size=size, project=project)
    return archive


def export(archive: Archive, target: Path) -> None:
    """Write every file into directories, in the shape that `xnatfs.demo.directory` reads and a mount shows.

    For names that a path can carry; projects only show what they own.
    """
    for resource, stored in archive.files():
        if stored.missing:
            continue
        path = target.joinpath(*_place(resource), *stored.path.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in stored.content.chunks():
                file.write(piece)


def _place(resource: Resource) -> tuple[str, ...]:
    parent, label = resource.parent, resource.label or str(resource.number)
    if isinstance(parent, Project):
        return (parent.id, "resources", label)
    if isinstance(parent, Subject):
        return (parent.project.id, parent.label, "resources", label)
    if isinstance(parent, Experiment):
        return (*_session(parent), "resources", label)
    if isinstance(parent, Scan):
        return (*_session(parent.session), parent.id, label)
    assert isinstance(parent, (Assessor, Reconstruction))
    kind = "assessors" if isinstance(parent, Assessor) else "reconstructions"
    name = parent.label if isinstance(parent, Assessor) else parent.id
    direction = ("in",) if resource.direction == "in" else ()
    return (*_session(parent.session), kind, name, *direction, label)


def _session(session: Experiment) -> tuple[str, ...]:
    return session.subject.project.id, session.subject.label, session.label
