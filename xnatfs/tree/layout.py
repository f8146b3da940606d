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

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from xnatfs.tree import names
from xnatfs.tree.directory import Children
from xnatfs.tree.nodes import Address, Attributes, DirNode, FileNode, Kind, Level, LinkNode, Node, inode
from xnatfs.xnat.filelist import FileList, paths_of, record_at
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
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
        ".thumbnails",
    ]
)


def is_probe(name: str) -> bool:
    """Is this a name that desktops and shells ask every directory for, and no archive uses as a label?"""
    return name in _PROBES or name.startswith((".Trash", "._"))


def place(address: Address) -> int:
    """The inode number of a directory."""
    return inode("dir", *(str(part) for part in address))


def _dir(here: DirNode, name: str, address: Address, record: Record | None = None, **changes: Any) -> DirNode:
    return DirNode(
        name, address, place(address), changes.get("mtime_ns", here.mtime_ns), record, changes.get("stamp", here.stamp)
    )


def fixed(here: DirNode, level: Level) -> DirNode:
    """One of the reserved directories: ``resources``, ``assessors``, ``reconstructions``, ``in``."""
    address = here.address.at(level)
    if level is Level.INPUTS:
        address = address.at(level, inputs=True)
    return _dir(here, level.value, address)


def _hidden(here: DirNode, *levels: Level) -> dict[str, DirNode]:
    meta = here.address._replace(level=Level.META, of=here.address.level)
    return {META: _dir(here, META, meta, here.record), **{level.value: fixed(here, level) for level in levels}}


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
    return Children(items, {k: v for k, v in links.items() if k not in reserved}, _hidden(here, *unlisted))


def _ns(seconds: float) -> int:
    return int(seconds) * 1_000_000_000


def root(projects: Iterable[Project]) -> Children:
    def member(project: Project) -> _Member:
        address = Address(Level.PROJECT, project=project.id)
        return project.id, project.id, lambda name: _dir(ROOT, name, address, project)

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
        return subject.label, subject.id, lambda name: _dir(here, name, address, subject, mtime_ns=when, stamp=stamp)

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
            lambda name: _dir(here, name, address, experiment, mtime_ns=when, stamp=stamp),
        )

    return _children(here, [member(experiment) for experiment in experiments], listed=[Level.RESOURCES])


_SESSION_LEVELS = [Level.RESOURCES, Level.ASSESSORS]


def slug(text: str) -> str:
    """A scan's type as part of a name: ``T1w MPRAGE (2)`` -> ``T1w_MPRAGE_2``; empty when nothing is left."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")


def experiment(here: DirNode, scans: Sequence[Scan], has_reconstructions: bool, by_type: bool = False) -> Children:
    """A session. ``by_type`` calls a scan ``3-T1w`` and not ``3``; the other name is a link in either case."""
    idents = {scan.id for scan in scans}

    def long(scan: Scan) -> str:
        kind = slug(scan.type)
        name = f"{scan.id}-{kind}"
        return name if kind and name not in idents else scan.id  # scan 3 of type MR2 beside a scan 3-MR2

    def member(scan: Scan) -> _Member:
        address = here.address.at(Level.SCAN, part=scan.id, part_level=Level.SCAN)
        return long(scan) if by_type else scan.id, scan.id, lambda name: _dir(here, name, address, scan)

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
    return _dir(meta, BY_TYPE, meta.address.at(Level.BY_TYPE))


def types(here: DirNode, listed: Iterable[Node]) -> Children:
    """``by-type``: a directory for each type of scan, and in it links to the scans as the session lists them."""
    groups: dict[str, list[str]] = {}
    for node in listed:
        if isinstance(node, DirNode) and isinstance(node.record, Scan):
            groups.setdefault(slug(node.record.type) or "untyped", []).append(node.name)
    if not here.address.folder:
        folders = {name: _dir(here, name, here.address._replace(folder=name)) for name in sorted(groups)}
        return Children(folders)
    links = groups.get(here.address.folder, [])
    made = {
        name: LinkNode(name, f"../../../{name}", inode("by-type", str(here.ino), name), here.mtime_ns) for name in links
    }
    return Children(made)


def assessors(here: DirNode, records: Iterable[Assessor]) -> Children:
    def member(record: Assessor) -> _Member:
        address = here.address.at(Level.ASSESSOR, part=record.id, part_level=Level.ASSESSOR)
        when = _ns(record.inserted) or here.mtime_ns
        return record.label, record.id, lambda name: _dir(here, name, address, record, mtime_ns=when)

    return _children(here, [member(record) for record in records])


def reconstructions(here: DirNode, records: Iterable[Reconstruction]) -> Children:
    def member(record: Reconstruction) -> _Member:
        address = here.address.at(Level.RECONSTRUCTION, part=record.id, part_level=Level.RECONSTRUCTION)
        return record.id, record.id, lambda name: _dir(here, name, address, record)

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
        return record.label, record.id, lambda name: _dir(here, name, address, record)

    inputs = [Level.INPUTS] if here.address.level in (Level.ASSESSOR, Level.RECONSTRUCTION) else []
    listed = inputs if has_inputs else []
    return _children(here, [member(record) for record in records], listed, [] if has_inputs else inputs)


Tree = dict[str, tuple[list[str], Sequence[int]]]
"""Folder path -> names of the folders in it, places of its files in the listing. The resource itself is ``""``."""


def file_tree(records: Sequence[FileRecord]) -> Tree:
    """The folders of a resource.

    An entry listed twice counts once: both would be the same request. An absolute path is left out: it names nothing
    inside the resource.
    """
    paths = paths_of(records)
    if not any("/" in path for path in paths) and len(set(paths)) == len(paths):
        return {"": ([], range(len(paths)))}
    tree: Tree = {"": ([], [])}
    seen: set[str] = set()
    for place, path in enumerate(paths):
        if path in seen or path.startswith("/"):
            continue
        seen.add(path)
        folder = path.rpartition("/")[0]
        if folder not in tree:
            _grow(tree, folder)
        places = tree[folder][1]
        assert isinstance(places, list)
        places.append(place)
    return tree


def _grow(tree: Tree, folder: str) -> None:
    """Enter a folder and every folder above it that is not known yet. A hostile path may have 10,000 of them."""
    new = []
    while folder not in tree:
        new.append(folder)
        folder = folder.rpartition("/")[0]
    for path in reversed(new):
        above, _, name = path.rpartition("/")
        tree[path] = ([], [])
        tree[above][0].append(name)


def files(here: DirNode, tree: Tree, listed: Sequence[FileRecord]) -> Children:
    """A resource or one of its folders: nodes are made when they are asked for."""
    address = here.address
    folders, places = tree[address.folder]
    paths = paths_of(listed)
    if len(places) != len(paths):
        paths = [paths[place] for place in places]
    labels = [*folders, *(paths if not address.folder else (path.rpartition("/")[2] for path in paths))]
    if (
        not address.folder
        and not folders
        and isinstance(listed, FileList)
        and listed.plain
        and len(labels) == len(listed)
    ):
        given = labels
    else:
        given = [names.shown(label) for label in labels]
        if len(set(given)) != len(given) or any(map(names.too_long, given)):
            given = names.assign([(label, "" if at < len(folders) else "file") for at, label in enumerate(labels)])
    items: dict[str, Any] = {}
    for name, folder in zip(given, folders, strict=False):
        path = f"{address.folder}/{folder}" if address.folder else folder
        below = address.at(Level.FOLDER, folder=path)
        items[name] = _dir(here, name, below)
    items.update(zip(given[len(folders) :], range(len(paths)), strict=True))
    seed = hashlib.blake2b("\0".join(str(part) for part in address).encode("utf-8", "surrogatepass"), digest_size=8)

    def number(name: str) -> int:
        digest = seed.copy()
        digest.update(name.encode("utf-8"))
        return (int.from_bytes(digest.digest(), "big") & 0x7FFF_FFFF_FFFF_FFFF) | 2

    def make(name: str, item: DirNode | int) -> Node:
        if isinstance(item, DirNode):
            return item
        record = record_at(listed, places[item], paths[item])
        return FileNode(name, record, number(name), here.mtime_ns + fingerprint(record), here.stamp)

    def brief(name: str, item: DirNode | int) -> tuple[Kind, int]:
        return (Kind.DIRECTORY, item.ino) if isinstance(item, DirNode) else (Kind.FILE, number(name))

    def briefs() -> list[tuple[str, Kind, int]]:
        listed_here = [(name, *brief(name, items[name])) for name in given[: len(folders)]]
        copy, from_bytes, kind = seed.copy, int.from_bytes, Kind.FILE
        for name in given[len(folders) :]:
            digest = copy()
            digest.update(name.encode("utf-8"))
            listed_here.append((name, kind, from_bytes(digest.digest(), "big") & 0x7FFF_FFFF_FFFF_FFFF | 2))
        return listed_here

    def stat(name: str, item: DirNode | int) -> Attributes | None:
        if isinstance(item, DirNode) or not isinstance(listed, FileList):
            return None
        size, digest = listed.brief(places[item])
        if size < 0:
            return None
        return Attributes(Kind.FILE, number(name), size, here.mtime_ns + digest % 1_000_000_000)

    return Children(items, {}, {} if META in items else _hidden(here), make, brief, briefs, stat)


def fingerprint(record: FileRecord) -> int:
    """Nanoseconds that tell one version of a file from the next.

    XNAT lists no time per file, so a file has the second of its session. The part below the second comes from the
    digest: a file whose content changes changes its mtime, which is what rsync, make and the kernel's page cache go by.
    """
    return int(record.digest[:12], 16) % 1_000_000_000 if record.digest else 0
