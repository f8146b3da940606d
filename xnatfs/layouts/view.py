"""A layout over the plain tree: the same protocol (`xnatfs.fuse_vfs.Vfs`), with other directories above the resources.

A path of the layout is followed through its shapes to a path of the plain tree, and everything else is the plain
tree's: listings and their cost, bytes, attributes, errors. The directories that only a layout has are made from the
plain tree's, and expire with them.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from xnatfs.assembled import Assembled
from xnatfs.deadlines import Clock
from xnatfs.errors import InvalidRequest, IsADirectory, NameTooLong, NoAttribute, NotFound
from xnatfs.layouts.shapes import Fixed, Members, Shape
from xnatfs.opened import OpenFile
from xnatfs.tree import names
from xnatfs.tree.attributes import PREFIX
from xnatfs.tree.directory import Children, Directory
from xnatfs.tree.layout import META, ROOT, is_probe
from xnatfs.tree.nodes import Address, Attributes, DirNode, Level, LinkNode, Node, inode
from xnatfs.vfs import SINCE, Vfs

PATH = f"{PREFIX}path"
"""Extended attribute of everything in a layout: its path in the plain tree, which other commands take."""
REMEMBERED = 50_000
"""Paths of which it is remembered where they lead."""


class Spot(NamedTuple):
    """A directory of the layout."""

    shape: Shape | None
    """None: it is a directory of the plain tree, as that shows it."""
    path: str
    """Of the plain tree."""
    node: DirNode
    """As its own directory shows it."""
    until: float
    """When that expires."""


class _Listed(Directory):
    """A directory that only the layout has, and where its entries lead."""

    __slots__ = ("_source", "spots")

    def __init__(
        self, node: DirNode, children: Children, expires: float, spots: dict[str, Spot], source: Directory | None
    ) -> None:
        super().__init__(node, children, expires)
        self.spots = spots
        self._source = source

    def get(self, name: str) -> Node | None:
        """Raises `Unreachable` for a name that an old listing lacks, as the plain tree does."""
        found = super().get(name)
        if found is None and self._source is not None:
            self._source.get(name)
        return found


class View:
    """See the module. Any thread may call anything; ``clock`` is the one of ``plain``."""

    def __init__(self, plain: Vfs, root: Shape, *, clock: Clock = time.monotonic) -> None:
        self._plain = plain
        self._clock = clock
        self._root = Spot(root, "/", _directory("", root, "/", ROOT.ino, ROOT), float("inf"))
        self._assembled = Assembled(clock)
        self._spots: dict[str, Spot] = {}
        plain.on_refresh(self._forget)
        self.call = plain.call
        self.attributes = plain.attributes
        self.statfs = plain.statfs
        self.close = plain.close

    def _forget(self) -> None:
        self._assembled.forget()
        self._spots = {}  # whoever is on his way remembers it in the old one

    # -- what the face asks -------------------------------------------------------------------------------------

    def lookup(self, path: str, *, follow: bool = False) -> Node:
        """The node at a path; a link in its place unless ``follow``. Raises `NotFound`, `NotADirectory`."""
        spot, name = self._above(path)
        if not name:
            return spot.node
        if spot.shape is None:
            found = self._plain.lookup(_join(spot.path, name), follow=follow)
            return self._relinked(found, spot.path, path.rstrip("/").rpartition("/")[0])
        node = self._child(spot, name)[0]
        return self._enter(spot, name).node if follow and isinstance(node, LinkNode) else node

    def getattr(self, path: str) -> Attributes:
        return self.attributes(self.lookup(path))

    def directory(self, path: str, *, wanted: str = "") -> Directory:
        """See `Vfs.directory`."""
        spot = self._find(path)
        if spot.shape is None:
            plain = self._plain.directory(spot.path, wanted=wanted)
            if plain.node.address.level is not Level.BY_TYPE:
                return plain
            links = {node.name: self._relinked(node, spot.path, path.rstrip("/")) for node in plain.nodes()}
            return _Listed(plain.node, Children(links), plain.expires, {}, plain)
        known = self._assembled.get(spot.node.address)
        if known is not None:
            return known
        if wanted:
            if is_probe(wanted):
                raise NotFound(wanted)
            at_hand = self._at_hand(spot, wanted)
            if at_hand is not None:
                node, leads_to = at_hand
                children = Children({}, {}, {wanted: node})
                return _Listed(spot.node, children, float("-inf"), {wanted: leads_to}, None)
        return self._listed(spot)

    def readlink(self, path: str) -> str:
        node = self.lookup(path)
        if not isinstance(node, LinkNode):
            raise InvalidRequest(f"{path}: not a link")
        return node.target

    def _relinked(self, node: Node, plain: str, shown: str) -> Node:
        """A node of the plain directory ``plain``, shown as ``shown``: a link out of it has to lead there as well."""
        if not isinstance(node, LinkNode) or "/" not in node.target:
            return node
        leads_to = self.shown(posixpath.normpath(posixpath.join(plain, node.target)))
        return replace(node, target=posixpath.relpath(leads_to, shown))

    def open(self, path: str, *, walking: bool = False) -> OpenFile:
        spot, name = self._above(path)
        if spot.shape is None:
            return self._plain.open(_join(spot.path, name), walking=walking)
        if name:
            self._child(spot, name)
        raise IsADirectory(path)

    def listxattr(self, path: str) -> list[str]:
        plain, own = self._plain_path(path)
        return [name for name in self._plain.listxattr(plain) if own or name == SINCE] + [PATH]

    def getxattr(self, path: str, name: str) -> bytes:
        plain, own = self._plain_path(path)
        if name == PATH:
            return plain.encode("utf-8", "surrogateescape")
        if not own and name != SINCE:
            raise NoAttribute(name)
        return self._plain.getxattr(plain, name)

    # -- between the two trees ----------------------------------------------------------------------------------

    def plain_path(self, path: str) -> str:
        """Where a path of the layout leads in the plain tree. Raises `NotFound` where the layout has none such."""
        return self._plain_path(path)[0]

    def shown(self, plain: str) -> str:
        """Where the layout shows a path of the plain tree. Raises `NotFound` for what it does not show."""
        for found in self._search(self._root, "", plain):
            return found or "/"
        raise NotFound(plain)

    def _plain_path(self, path: str) -> tuple[str, bool]:
        """And whether the place stands for something of the archive, and not only for a group of such."""
        spot, name = self._above(path)
        if name and spot.shape is None:
            return _join(spot.path, name), True
        if name:
            spot = self._enter(spot, name)
        return spot.path, spot.shape is None or not spot.shape.group

    def _search(self, spot: Spot, at: str, plain: str) -> Iterator[str]:
        if spot.path == plain and (spot.shape is None or not spot.shape.group):
            yield at
        elif spot.shape is None:
            yield at + plain.removeprefix(spot.path)
        else:
            for name, below in self._listed(spot).spots.items():
                if plain == below.path or plain.startswith(_join(below.path, "")):
                    yield from self._search(below, f"{at}/{name}", plain)

    # -- walking ------------------------------------------------------------------------------------------------

    def _above(self, path: str) -> tuple[Spot, str]:
        """The directory of a path, and its last name; the root and no name for the root."""
        above, _, name = path.rstrip("/").rpartition("/")
        return self._find(above), name

    def _find(self, path: str) -> Spot:
        """The directory at a path; links on the way are followed. Raises `NotFound`, `NameTooLong`."""
        spots, now, spot, at = self._spots, self._clock(), self._root, ""
        known = spots.get(path)
        if known is not None and known.until > now:  # one file after the other is opened in a directory
            return known
        if len(spots) >= REMEMBERED:
            spots.clear()
        steps = [name for name in path.split("/") if name not in ("", ".")]
        for depth, name in enumerate(steps):
            if spot.shape is None:
                spot = spots[path] = spot._replace(path="/".join([spot.path, *steps[depth:]]))
                break
            at = f"{at}/{name}"
            known = spots.get(at)
            if known is None or known.until <= now:
                known = spots[at] = self._enter(spot, name)
            spot = known
        return spot

    def _enter(self, spot: Spot, name: str) -> Spot:
        node, leads_to = self._child(spot, name)
        if isinstance(node, LinkNode):
            leads_to = self._child(spot, node.target)[1]
        assert leads_to is not None
        return leads_to

    def _child(self, spot: Spot, name: str) -> tuple[Node, Spot | None]:
        """An entry of a directory that only the layout has, and where it leads unless it is a link."""
        known = self._assembled.get(spot.node.address)
        if known is None:
            at_hand = self._at_hand(spot, name)
            if at_hand is not None:
                return at_hand
            known = self._listed(spot)
        assert isinstance(known, _Listed)
        node = known.get(name)
        if node is None:
            if len(name.encode("utf-8", "surrogateescape")) > names.NAME_MAX:
                raise NameTooLong(f"{name[:40]}...: longer than {names.NAME_MAX} bytes")
            raise NotFound(name)
        return node, known.spots.get(name)

    def _at_hand(self, spot: Spot, name: str) -> tuple[Node, Spot] | None:
        """What is known to be there, or can be had for less than the whole listing."""
        shape = spot.shape
        assert shape is not None
        for fixed in shape.fixed:
            if fixed.name == name:
                below = _fixed(spot, fixed, spot.until)
                return below.node, below
        if name == META and spot.path == "/":  # what the mount says of itself must not wait for the list of projects
            meta = _meta(spot, spot.until)
            return meta.node, meta
        members = shape.members
        if members is None or members.level is not Level.SCAN or members.to is not None:
            return None
        node = self._plain.directory(spot.path, wanted=name).get(name)
        if isinstance(node, DirNode) and node.address.level is Level.SCAN and _is_called(node, name):
            return node, Spot(None, _join(spot.path, name), node, spot.until)
        return None

    # -- listing ------------------------------------------------------------------------------------------------

    def _listed(self, spot: Spot) -> _Listed:
        """A directory that only the layout has, made from those of the plain tree."""
        known = self._assembled.get(spot.node.address)
        if known is None:
            began = self._assembled.forgotten
            known = self._list(spot)
            self._assembled.keep(known, began)
        assert isinstance(known, _Listed)
        return known

    def _list(self, spot: Spot) -> _Listed:
        shape = spot.shape
        assert shape is not None
        source, expires = None, spot.until
        items: dict[str, Node] = {}
        links: dict[str, str] = dict(shape.links)
        spots: dict[str, Spot] = {}
        if shape.members is not None:
            source = self._plain.directory(_join(spot.path, shape.members.below))
            expires = source.expires
            found, expires = self._found(shape.members, spot, source)
            reserved = {fixed.name for fixed in shape.fixed}
            given = names.assign([(shape.members.label(n.record), n.record.id) for _, n in found], reserved)  # type: ignore[union-attr]
            for name, (path, node) in zip(given, found, strict=True):
                spots[name] = _member(name, shape.members.to, path, node, expires)
                items[name] = spots[name].node
            links |= _links(shape.members, zip(given, found, strict=True), reserved | items.keys())
        elif any(fixed.if_listed for fixed in shape.fixed):
            source = self._plain.directory(spot.path)
            expires = source.expires
        listed = {name for name, _, _ in source.entries()} if source is not None else set()
        hidden: dict[str, Node] = {}
        for fixed in shape.fixed:
            spots[fixed.name] = _fixed(spot, fixed, expires)
            place = hidden if fixed.if_listed and fixed.below not in listed else items
            place[fixed.name] = spots[fixed.name].node
        if META not in items:
            spots[META] = _meta(spot, expires)
            hidden[META] = spots[META].node
        return _Listed(spot.node, Children(items, links, hidden), expires, spots, source)

    def _found(self, members: Members, spot: Spot, source: Directory) -> tuple[list[tuple[str, DirNode]], float]:
        """The plain nodes that become entries, with their paths, in the order of the plain tree."""
        above = _join(spot.path, members.below)
        places = [(above, source)]
        if members.across:
            inner = [_join(above, node.name) for node in _of_level(source, Level.SUBJECT)]
            places = [(path, self._plain.directory(path)) for path in inner]
        expires = min([source.expires, *(place.expires for _, place in places)])
        return [
            (_join(path, node.name), node) for path, place in places for node in _of_level(place, members.level)
        ], expires


def _of_level(directory: Directory, level: Level) -> list[DirNode]:
    return [node for node in directory.nodes() if isinstance(node, DirNode) and node.address.level is level]


def _join(path: str, below: str) -> str:
    """A plain path below another; where ``below`` is empty, the other with a slash at its end, which says the same."""
    return f"{path.rstrip('/')}/{below}"


def _is_called(node: DirNode, name: str) -> bool:
    record: Any = node.record
    return node.name == name == names.shown(record.id)


def _directory(name: str, shape: Shape, path: str, ino: int, like: Node) -> DirNode:
    """A node for a directory that only the layout has. Its address, the key of what is kept, is no plain one."""
    assert isinstance(like, DirNode)
    return DirNode(name, Address(Level.ROOT, part=shape.name, folder=path), ino, like.mtime_ns, like.record, like.stamp)


def _member(name: str, to: Shape | None, path: str, node: DirNode, until: float) -> Spot:
    if to is None:
        return Spot(None, path, replace(node, name=name), until)
    return Spot(to, path, _directory(name, to, path, inode("layout", to.name, str(node.ino)), node), until)


def _fixed(spot: Spot, fixed: Fixed, until: float) -> Spot:
    path = _join(spot.path, fixed.below) if fixed.below else spot.path
    ino = inode("layout", fixed.name, str(spot.node.ino))
    shape = fixed.to or Shape(fixed.name)  # the node of a directory of the plain tree is known by its parent only
    return Spot(fixed.to, path, _directory(fixed.name, shape, path, ino, spot.node), until)


def _meta(spot: Spot, until: float) -> Spot:
    """The ``.xnat`` of the plain directory, in every directory of the layout that stands for it or for a part of it."""
    return _fixed(spot, Fixed(META, None, META), until)


def _links(members: Members, entries: Any, taken: Any) -> dict[str, str]:
    """Unlisted names: IDs, and ``DICOM`` for the one resource of that format."""
    entries = list(entries)
    found = {node.record.id: name for name, (_, node) in entries}
    if members.formats:
        dicom = [name for name, (_, node) in entries if node.record.format == "DICOM"]
        found |= {"DICOM": dicom[0]} if len(dicom) == 1 else {}
    return {link: name for link, name in found.items() if link and link not in taken}
