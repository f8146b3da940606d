"""What a resource lists: folders and files, from a packed listing, made only as far as somebody looks. Pure.

``find`` takes the names of two million files once, and each of them is asked for by name seldom or never. So a
directory of files is a few closures over its listing; the table of its names comes with the first look-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from xnatfs.tree import names
from xnatfs.tree.directory import Children, Later
from xnatfs.tree.layout import below, hidden
from xnatfs.tree.nodes import Attributes, DirNode, FileNode, Kind, Level, Node
from xnatfs.xnat.filelist import FileList, paths_of, record_at
from xnatfs.xnat.records import FileRecord

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


def files(
    here: DirNode,
    tree: Tree,
    listed: Sequence[FileRecord],
    tell: Callable[[Later], None] | None = None,
    derived: dict[Hashable, Any] | None = None,
) -> Children:
    """A resource or one of its folders.

    ``tell``: see `Later`. ``derived``: see `Children`; to be kept with the listing, by address.
    """
    address = here.address
    folders, places = tree[address.folder]
    as_they_are = not folders and isinstance(listed, FileList) and listed.plain and len(places) == len(listed)

    def given(paths: Sequence[str]) -> list[str]:
        """The names of the folders, then those of the files; ``paths`` are those of the whole listing."""
        if as_they_are:
            return list(paths)
        labels = folders + [paths[place].rpartition("/")[2] for place in places]
        shown = [names.shown(label) for label in labels]
        if len(set(shown)) != len(shown) or any(map(names.too_long, shown)):
            return names.assign([(label, "" if at < len(folders) else "file") for at, label in enumerate(labels)])
        return shown

    def items() -> dict[str, Any]:
        """Name -> folder, or a file's place in the listing, or that and its path where the name is not the path."""
        paths = paths_of(listed)
        named = given(paths)
        if as_they_are:
            return dict(zip(named, places, strict=True))
        made: dict[str, Any] = {}
        for name, folder in zip(named, folders, strict=False):
            path = f"{address.folder}/{folder}" if address.folder else folder
            made[name] = below(here, name, address.at(Level.FOLDER, folder=path))
        made.update(zip(named[len(folders) :], ((place, paths[place]) for place in places), strict=True))
        return made

    seed = hashlib.blake2b("\0".join(str(part) for part in address).encode("utf-8", "surrogatepass"), digest_size=8)

    def number(name: str) -> int:
        digest = seed.copy()
        digest.update(name.encode("utf-8"))
        return (int.from_bytes(digest.digest(), "big") & 0x7FFF_FFFF_FFFF_FFFF) | 2

    def make(name: str, item: Any) -> Node:
        if isinstance(item, DirNode):
            return item
        place, path = (item, name) if as_they_are else item
        record = record_at(listed, place, path)
        return FileNode(name, record, number(name), here.mtime_ns + fingerprint(record), here.stamp)

    def brief(name: str, item: Any) -> tuple[Kind, int]:
        return (Kind.DIRECTORY, item.ino) if isinstance(item, DirNode) else (Kind.FILE, number(name))

    def stat(name: str, item: Any) -> Attributes | None:
        if isinstance(item, DirNode) or not isinstance(listed, FileList):
            return None
        size, digest = listed.brief(item if as_they_are else item[0])
        if size < 0:
            return None
        return Attributes(Kind.FILE, number(name), size, here.mtime_ns + digest % 1_000_000_000)

    table = Later(len(folders) + len(places), items, tell)

    def briefs() -> list[tuple[str, Kind, int]]:
        named = given(paths_of(listed))
        found = [(name, *brief(name, table[name])) for name in named[: len(folders)]]
        copy, from_bytes, kind = seed.copy, int.from_bytes, Kind.FILE
        for name in named[len(folders) :]:
            digest = copy()
            digest.update(name.encode("utf-8"))
            found.append((name, kind, from_bytes(digest.digest(), "big") & 0x7FFF_FFFF_FFFF_FFFF | 2))
        return found

    return Children(table, {}, hidden(here), make, brief, briefs, stat, {} if derived is None else derived)


def fingerprint(record: FileRecord) -> int:
    """Nanoseconds that tell one version of a file from the next.

    XNAT lists no time per file, so a file has the second of its session. The part below the second comes from the
    digest: a file whose content changes changes its mtime, which is what rsync, make and the kernel's page cache go by.
    """
    return int(record.digest[:12], 16) % 1_000_000_000 if record.digest else 0
