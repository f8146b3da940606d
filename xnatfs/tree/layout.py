"""Which levels the mount has and what each one lists: records in, nodes out. Pure.

::

    PROJECT/SUBJECT/EXPERIMENT/SCAN/RESOURCE/folders/file
                   /          /resources/RESOURCE
                   /          /assessors/ASSESSOR/RESOURCE    and /in/RESOURCE
                   /          /reconstructions/RECON/RESOURCE and /in/RESOURCE
                   /resources/RESOURCE
           /resources/RESOURCE

``resources`` and ``assessors`` stand in every directory that may have some, empty or not, so that the shape of the
tree does not depend on its contents. ``reconstructions`` and ``in``, which hardly any site still uses, are listed only
where there is something in them; asked for by name they are always found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from xnatfs.tree import names
from xnatfs.tree.directory import Children
from xnatfs.tree.nodes import Address, DirNode, Level, LinkNode, Node, inode
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    Project,
    Reconstruction,
    Record,
    Resource,
    Scan,
    Subject,
)

META = ".xnat"
RESERVED = frozenset({"resources", "assessors", "reconstructions"})
"""No subject, experiment or scan is shown under one of these names, at whatever level: one rule to remember."""
ROOT = DirNode("", Address(Level.ROOT), 1)
ENTITIES = frozenset(
    {Level.ROOT, Level.PROJECT, Level.SUBJECT, Level.EXPERIMENT, Level.ASSESSORS, Level.RECONSTRUCTIONS}
)
"""Levels whose entries are labels of the archive, never names of files."""

_PROBES = frozenset(
    [
        "autorun.inf",
        "desktop.ini",
        "Desktop.ini",
        "Thumbs.db",
        "lost+found",
        ".hidden",
        ".directory",
        ".xdg-volume-info",
        ".DS_Store",
        ".localized",
        ".metadata_never_index",
        ".Spotlight-V100",
        ".fseventsd",
        ".TemporaryItems",
        ".apdisk",
        ".VolumeIcon.icns",
        ".git",
        ".svn",
        ".hg",
        ".comments",
        ".sh_thumbnails",
        ".thumbnails",
    ]
)


def is_probe(name: str) -> bool:
    """Is this a name that desktops and shells ask every directory for, and no archive uses as a label?"""
    return name in _PROBES or name.startswith((".Trash", "._"))


def place(address: Address) -> int:
    """The inode number of a directory."""
    return inode("dir", *(str(part) for part in address))


def below(here: DirNode, name: str, address: Address, record: Record | None = None, **changes: Any) -> DirNode:
    """A directory in another one; it has that one's time and stamp unless ``changes`` says otherwise."""
    return DirNode(
        name, address, place(address), changes.get("mtime_ns", here.mtime_ns), record, changes.get("stamp", here.stamp)
    )


def fixed(here: DirNode, level: Level) -> DirNode:
    """One of the reserved directories: ``resources``, ``assessors``, ``reconstructions``, ``in``."""
    address = here.address.at(level)
    if level is Level.INPUTS:
        address = address.at(level, inputs=True)
    return below(here, level.value, address)


def meta(here: DirNode) -> DirNode:
    """The ``.xnat`` of a directory."""
    return below(here, META, here.address._replace(level=Level.META, of=here.address.level), here.record)


def hidden(here: DirNode, *levels: Level) -> dict[str, DirNode]:
    """What is found by name and never listed."""
    return {META: meta(here), **{level.value: fixed(here, level) for level in levels}}


_Member = tuple[str, str, Callable[[str], Node]]
"""Label, ID and how to make the node once it has a name."""


def _children(
    here: DirNode, members: Sequence[_Member], listed: Sequence[Level] = (), unlisted: Sequence[Level] = ()
) -> Children:
    reserved = {level.value for level in (*listed, *unlisted)}
    if here.address.level in (Level.PROJECT, Level.SUBJECT, Level.EXPERIMENT):
        reserved |= RESERVED
    given = names.assign([(label, ident) for label, ident, _ in members], reserved)
    order = sorted(range(len(members)), key=lambda i: names.natural(given[i]))
    items: dict[str, Node] = {given[i]: members[i][2](given[i]) for i in order}
    links = {members[i][1]: given[i] for i in order if members[i][1] and members[i][1] not in items}
    items.update((level.value, fixed(here, level)) for level in listed)
    return Children(items, {k: v for k, v in links.items() if k not in reserved}, hidden(here, *unlisted))


def _ns(seconds: float) -> int:
    return int(seconds) * 1_000_000_000


def root(projects: Iterable[Project]) -> Children:
    def member(project: Project) -> _Member:
        address = Address(Level.PROJECT, project=project.id)
        return project.id, project.id, lambda name: below(ROOT, name, address, project)

    return _children(ROOT, [member(project) for project in projects])


def with_orphans(project: Project, subjects: Sequence[Subject], experiments: Iterable[Experiment]) -> list[Subject]:
    """The subjects, and one more for each experiment shared into the project without its subject."""
    known = {subject.id for subject in subjects}
    orphans: dict[str, Subject] = {}
    for experiment in experiments:
        ident = experiment.subject_id
        if ident and ident not in known and ident not in orphans:
            uri = f"{project.uri}/subjects/{ident}"
            orphans[ident] = Subject(ident, experiment.subject_label or ident, uri, inserted=experiment.inserted)
    return [*subjects, *orphans.values()]


def project(here: DirNode, subjects: Iterable[Subject]) -> Children:
    def member(subject: Subject) -> _Member:
        address = here.address.at(Level.SUBJECT, subject=subject.id)
        when, stamp = _ns(subject.inserted), f"{subject.modified:.6f}"
        return subject.label, subject.id, lambda name: below(here, name, address, subject, mtime_ns=when, stamp=stamp)

    return _children(here, [member(subject) for subject in subjects], listed=[Level.RESOURCES])


def by_subject(experiments: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(experiment.subject_id, []).append(experiment)
    return groups


def subject(here: DirNode, experiments: Iterable[Experiment]) -> Children:
    def member(experiment: Experiment) -> _Member:
        address = here.address.at(Level.EXPERIMENT, experiment=experiment.id)
        when = _ns(experiment.inserted) or here.mtime_ns
        stamp = f"{here.stamp}/{experiment.modified:.6f}"
        return (
            experiment.label,
            experiment.id,
            lambda name: below(here, name, address, experiment, mtime_ns=when, stamp=stamp),
        )

    return _children(here, [member(experiment) for experiment in experiments], listed=[Level.RESOURCES])


_SESSION_LEVELS = [Level.RESOURCES, Level.ASSESSORS]


def slug(text: str) -> str:
    """A scan's type as part of a name: ``T1w MPRAGE (2)`` -> ``T1w_MPRAGE_2``; empty when nothing is left."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")


def scan(here: DirNode, name: str, record: Scan) -> DirNode:
    """The directory of a scan in that of its session."""
    return below(here, name, here.address.at(Level.SCAN, part=record.id, part_level=Level.SCAN), record)


def experiment(here: DirNode, scans: Sequence[Scan], has_reconstructions: bool, by_type: bool = False) -> Children:
    """A session. ``by_type`` calls a scan ``3-T1w`` and not ``3``; the other name is a link in either case."""
    idents = {scan.id for scan in scans}

    def long(scan: Scan) -> str:
        kind = slug(scan.type)
        name = f"{scan.id}-{kind}"
        return name if kind and name not in idents else scan.id  # scan 3 of type MR2 beside a scan 3-MR2

    def member(record: Scan) -> _Member:
        return long(record) if by_type else record.id, record.id, lambda name: scan(here, name, record)

    more = [Level.RECONSTRUCTIONS]
    listed = _SESSION_LEVELS + more if has_reconstructions else _SESSION_LEVELS
    children = _children(here, [member(scan) for scan in scans], listed, [] if has_reconstructions else more)
    if by_type:
        return children
    reserved = {*RESERVED, META}
    shown = {item.record.id: name for name, item in children.items.items() if isinstance(item.record, Scan)}
    aliases = {names.fitted(names.shown(long(scan))): shown[scan.id] for scan in scans if scan.id in shown}
    links = {name: target for name, target in aliases.items() if name not in children.items and name not in reserved}
    return replace(children, links={**links, **children.links})


BY_TYPE = "by-type"


def by_type(meta: DirNode) -> DirNode:
    """The directory of links that stands in the ``.xnat`` of a session."""
    return below(meta, BY_TYPE, meta.address.at(Level.BY_TYPE))


def types(here: DirNode, listed: Iterable[Node]) -> Children:
    """``by-type``: a directory for each type of scan, and in it links to the scans as the session lists them."""
    groups: dict[str, list[str]] = {}
    for node in listed:
        if isinstance(node, DirNode) and isinstance(node.record, Scan):
            groups.setdefault(slug(node.record.type) or "untyped", []).append(node.name)
    if not here.address.folder:
        folders = {name: below(here, name, here.address._replace(folder=name)) for name in sorted(groups)}
        return Children(folders)
    links = groups.get(here.address.folder, [])
    made = {
        name: LinkNode(name, f"../../../{name}", inode("by-type", str(here.ino), name), here.mtime_ns) for name in links
    }
    return Children(made)


def assessors(here: DirNode, records: Iterable[Assessor]) -> Children:
    def member(record: Assessor) -> _Member:
        address = here.address.at(Level.ASSESSOR, part=record.id, part_level=Level.ASSESSOR)
        return record.label, record.id, lambda name: below(here, name, address, record)

    return _children(here, [member(record) for record in records])


def reconstructions(here: DirNode, records: Iterable[Reconstruction]) -> Children:
    def member(record: Reconstruction) -> _Member:
        address = here.address.at(Level.RECONSTRUCTION, part=record.id, part_level=Level.RECONSTRUCTION)
        return record.id, record.id, lambda name: below(here, name, address, record)

    return _children(here, [member(record) for record in records])


def by_owner(resources: Iterable[Resource]) -> dict[tuple[str, str], list[Resource]]:
    """A session-wide listing by ``(category, owner ID)``; the session's own stand under ``("resources", "")``."""
    groups: dict[tuple[str, str], list[Resource]] = {}
    for resource in resources:
        owner = "" if resource.category == "resources" else resource.owner_id
        groups.setdefault((resource.category, owner), []).append(resource)
    return groups


def resources(here: DirNode, records: Iterable[Resource], has_inputs: bool = False) -> Children:
    """What holds resources: a scan, an assessor, a reconstruction, ``in``, or any ``resources`` directory."""

    def member(record: Resource) -> _Member:
        address = here.address.at(Level.RESOURCE, resource=record.id)
        return record.label, record.id, lambda name: below(here, name, address, record)

    inputs = [Level.INPUTS] if here.address.level in (Level.ASSESSOR, Level.RECONSTRUCTION) else []
    listed = inputs if has_inputs else []
    return _children(here, [member(record) for record in records], listed, [] if has_inputs else inputs)
