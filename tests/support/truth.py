"""What the mount of a demo archive must show, computed from the archive's model and not from the code under test."""

from __future__ import annotations

import hashlib

from xnatfs.demo.archive import Archive, Experiment, Item, Reconstruction, Resource, Scan, StoredFile, Subject

FIXED = {"resources", "assessors", "reconstructions", "in"}


def content(stored: StoredFile) -> bytes:
    return bytes(stored.content.read(0, stored.content.size))


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _named(things, label, ident, reserved=()):
    """Names of a directory by the rule of the README: label, else ID; the lowest ID keeps a contested name."""
    taken = {}
    ordered = sorted(things, key=lambda thing: (len(ident(thing)), ident(thing)))
    names = {}
    for thing in ordered:
        name = label(thing)
        if not name or name in reserved:
            name = ident(thing)
        name = name.replace("/", "%2F")
        if name in taken:
            name = f"{name}~{ident(thing)}"
        taken[name] = thing
        names[id(thing)] = name
    return [(names[id(thing)], thing) for thing in things]


def _resources(item: Item, direction=None):
    found = [r for r in item.resources.values() if direction is None or r.direction == direction]
    return _named(found, lambda r: r.label, lambda r: str(r.number))


def tree(archive: Archive, project: str) -> dict[str, StoredFile]:
    """Path in the mount -> file, for all files of a project."""
    found: dict[str, StoredFile] = {}
    model = archive.projects[project]

    def put(prefix: str, resources) -> None:
        for name, resource in resources:
            for stored in resource.files.values():
                found[f"{prefix}/{name}/{stored.path}"] = stored

    put(f"/{project}/resources", _resources(model))
    experiments = archive.experiments_of(model)
    subjects: list[Subject] = list(archive.subjects_of(model))
    subjects += [s for s in {e.subject for e in experiments} if s not in subjects]
    for subject_name, subject in _named(subjects, lambda s: s.label_in(project), lambda s: s.id, FIXED):
        below = f"/{project}/{subject_name}"
        if subject.is_in(project):
            put(f"{below}/resources", _resources(subject))
        mine = [e for e in experiments if e.subject is subject]
        for label, experiment in _named(mine, lambda e: e.label_in(project), lambda e: e.id, FIXED):
            _session(f"{below}/{label}", experiment, project, put)
    return found


def _session(below: str, experiment: Experiment, project: str, put) -> None:
    put(f"{below}/resources", _resources(experiment))
    for scan in experiment.scans.values():
        put(f"{below}/{scan_name(scan)}", _resources(scan))
    assessors = list(experiment.assessors.values())
    for label, assessor in _named(assessors, lambda a: a.label_in(project), lambda a: a.id):
        put(f"{below}/assessors/{label}", [(n, r) for n, r in _resources(assessor) if r.direction != "in"])
        put(f"{below}/assessors/{label}/in", _resources(assessor, "in"))
    for recon in experiment.reconstructions.values():
        put(f"{below}/reconstructions/{recon.id}", _resources(recon, "out"))
        put(f"{below}/reconstructions/{recon.id}/in", _resources(recon, "in"))


def scan_name(scan: Scan | Reconstruction) -> str:
    return scan.id.replace("/", "%2F")


def resource_path(archive: Archive, project: str, resource: Resource) -> str:
    """Where a resource with files is mounted."""
    for path, stored in tree(archive, project).items():
        if any(stored is other for other in resource.files.values()):
            return path[: -len(stored.path) - 1]
    raise LookupError(resource.label)
