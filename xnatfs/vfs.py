"""The file system: an archive as directories and files, said without any protocol of a face.

Users: the FUSE face (`xnatfs.fuse_ops`, `xnatfs.fuse_loop`) and the command line (``xnatfs ls|stat|cat``). What is
decided here and in `xnatfs.browse`, and nowhere else: what a path means, what an attribute says, which version of a
file is opened. Paths are absolute, ``/PROJECT/SUBJECT/...``; errors are those of `xnatfs.errors`.

Any thread may call anything. No lock is held while a listing or a byte is waited for. Every call that may need the
network has a deadline: metadata and data each their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from xnatfs.browse import Browser
from xnatfs.cache.identity import Identity
from xnatfs.cache.listings import Listings, Submit
from xnatfs.deadlines import Budget, Clock, Deadline
from xnatfs.errors import InvalidRequest, IsADirectory, NoAttribute, NotADirectory, NotFound
from xnatfs.opened import ArchiveFile, Entry, Member, OpenFile, Reader, Siblings, TextFile
from xnatfs.questions import Archive
from xnatfs.stats import Stats
from xnatfs.tree import attributes, layout
from xnatfs.tree.directory import Directory
from xnatfs.tree.nodes import Attributes, DirNode, FileNode, LinkNode, Node, TextNode, kind_of
from xnatfs.xnat.records import FileRecord

SINCE = f"{attributes.PREFIX}listed"
"""Extended attribute of a directory that is shown as it was when the server was last there: when that was."""
PLACES = 64
"""Directories remembered because a file was opened in them."""
_NOWHERE = TextNode("", b"", 0)


class Store(Protocol):
    """What this module asks of `xnatfs.cache.store.Store`."""

    def open(self, identity: Identity) -> Any: ...
    def space(self) -> tuple[int, int]: ...


class Pool(Protocol):
    """What this module asks of `xnatfs.transfer.pool.Pool`."""

    def reader(self, entry: Any, file: Any, siblings: Any = None, *, walking: bool = False) -> Reader: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the disk that holds the cache."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long a listing holds, and how long a call may take."""

    ttl: float = 60.0
    metadata: float = 20.0
    read: float = 60.0


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory in which a file was opened, where others will soon be: found without the way from the root."""

    directory: Directory
    siblings: Siblings | None


class Vfs:
    """See the module. ``submit`` runs loads of listings on worker threads; ``status`` is what ``status.json`` shows."""

    def __init__(
        self,
        archive: Archive,
        store: Store,
        pool: Pool,
        *,
        submit: Submit,
        stats: Stats,
        timing: Timing | None = None,
        clock: Clock = time.monotonic,
        status: Callable[[], Mapping[str, Any]] | None = None,
        series: bool = True,
        scan_names: str = "id",
    ) -> None:
        self._timing = timing or Timing()
        self._store = store
        self._pool = pool
        self._clock = clock
        self._series = series
        self._listings = Listings(submit, clock=clock, stats=stats, ttl=self._timing.ttl)
        self._budget = Budget(self._timing.metadata, clock)
        self._soon = self._budget.deadline
        self.call = self._budget.call
        """To be entered round several of these calls that are one to whoever waits for it: they share a deadline."""
        self._places: dict[str, _Place] = {}
        self._told: list[Callable[[], None]] = []
        self._browser = Browser(archive, self._listings, clock=clock, status=status, scan_names=scan_names)

    def _read_deadline(self) -> Deadline:
        return Deadline(self._timing.read, self._clock)

    # -- names and attributes -----------------------------------------------------------------------------------

    def lookup(self, path: str, *, follow: bool = False) -> Node:
        """The node at a path; a link in its place unless ``follow``. Raises `NotFound`, `NotADirectory`."""
        return self._browser.walk(path, self._soon(), follow=follow)

    def attributes(self, node: Node) -> Attributes:
        """What stat shows. Asks the server once for the size of a file whose listing has none."""
        return Attributes(kind_of(node), node.ino, self._size(node), node.mtime_ns)

    def getattr(self, path: str) -> Attributes:
        with self.call():
            return self.attributes(self.lookup(path))

    def directory(self, path: str, *, wanted: str = "") -> Directory:
        """A directory as it is now. Raises `NotADirectory`.

        Who only wants to look up one name says which: names that desktops ask every directory for are `NotFound`
        where no listing is at hand, without a request, and a directory that holds no other name, and has expired, may
        do.
        """
        deadline = self._soon()
        node = self._browser.walk(path, deadline, follow=True)
        if not isinstance(node, DirNode):
            raise NotADirectory(path)
        if wanted:
            return self._browser.directory_for(node, wanted, deadline)
        return self._browser.directory(node, deadline)

    def readlink(self, path: str) -> str:
        node = self.lookup(path)
        if not isinstance(node, LinkNode):
            raise InvalidRequest(f"{path}: not a link")
        return node.target

    def listxattr(self, path: str) -> list[str]:
        return list(self._xattrs(path))

    def _xattrs(self, path: str) -> dict[str, bytes]:
        with self.call():
            node = self._browser.complete(self.lookup(path, follow=True), self._soon())
        since = self._browser.since(node.address) if isinstance(node, DirNode) else ""
        return {**attributes.xattrs(node), **({SINCE: since.encode()} if since else {})}

    def getxattr(self, path: str, name: str) -> bytes:
        """Raises `NoAttribute`. Only names below ``user.xnat.`` are ever looked for."""
        if not name.startswith(attributes.PREFIX):
            raise NoAttribute(name)
        try:
            return self._xattrs(path)[name]
        except KeyError:
            raise NoAttribute(name) from None

    def statfs(self) -> Space:
        """The disk of the cache; never the network."""
        return Space(*self._store.space())

    def refresh(self, path: str = "/", recursive: bool = True) -> None:
        """Forget what is known of a directory, and of all below it if ``recursive``; the next look asks the server.

        For a file, or a path that is not known (yet), this is the nearest directory above.
        """
        while True:
            try:
                node: Node = layout.ROOT if path in ("", "/") else self.lookup(path, follow=True)
            except (NotFound, NotADirectory):
                node = layout.ROOT if path in ("", "/") else _NOWHERE
            if isinstance(node, DirNode):
                break
            path = path.rstrip("/").rpartition("/")[0]
        self._browser.forget(node.address, recursive=recursive)
        for tell in self._told:
            tell()

    def on_refresh(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` after each refresh: for faces that know things by themselves, as the kernel does."""
        self._told.append(tell)

    def close(self) -> None:
        """Make every call that waits fail now: the mount is ending. What was open may still be closed."""
        self._listings.close()
        self._pool.close()

    # -- contents -----------------------------------------------------------------------------------------------

    def open(self, path: str, *, walking: bool = False) -> OpenFile:
        """Open a file for reading, at the version that the listing has now. No byte is fetched yet.

        ``walking``: whoever opens it has just listed its directory, and may want all that is there.
        """
        with self.call():
            return self._open(path, walking)

    def _open(self, path: str, walking: bool) -> OpenFile:
        above, _, name = path.rstrip("/").rpartition("/")
        place = self._places.get(above)
        node: Node | None = None
        if place is not None and place.directory.expires > self._clock():  # a refresh sets that back
            node = place.directory.get(name)
        if place is None or not isinstance(node, FileNode):
            parent, node = self._look(path, above, name)
            if isinstance(node, TextNode):
                if node.action:
                    self.refresh(above.rpartition("/")[0] or "/", node.action == "refresh-all")
                return TextFile(node.name, node.content, f"{node.ino}:{self._clock()}")
            if not isinstance(node, FileNode):
                raise IsADirectory(path)
            place = self._place(above, parent, node.stamp)
        size = self._size(node)
        if node.record.size is None and size == 0:
            raise NotFound(f"{path}: listed, but the server has no bytes for it")
        entry: Entry = self._store.open(Identity.of(node.record, size, node.stamp))
        try:
            reader = self._pool.reader(entry, node.record, place.siblings, walking=walking)
        except BaseException:
            entry.release()
            raise
        return ArchiveFile(size, str(node.version), entry, reader, self._read_deadline)

    def _look(self, path: str, above: str, name: str) -> tuple[DirNode, Node]:
        """A file and the directory that it is in, by the whole way from the root."""
        deadline = self._soon()
        parent = self._browser.walk(above, deadline, follow=True)
        if not isinstance(parent, DirNode):
            raise NotADirectory(f"{path}: goes through a file")
        if not name:
            raise IsADirectory(path)
        return parent, self._browser.child(parent, name, deadline)  # a link leads to a directory, never to a file

    def _place(self, above: str, parent: DirNode, stamp: str) -> _Place:
        """Remember where files are being opened."""
        place = _Place(self._browser.directory(parent, self._soon()), self._siblings(parent, stamp))
        if len(self._places) >= PLACES:
            self._places.clear()
        self._places[above] = place
        return place

    def _size(self, node: Node) -> int:
        if isinstance(node, TextNode):
            return len(node.content)
        if isinstance(node, LinkNode):
            return len(node.target.encode("utf-8", "surrogateescape"))
        if not isinstance(node, FileNode):
            return 0
        if node.record.size is not None:
            return node.record.size
        try:
            return self._browser.size(node.record, self._soon())
        except NotFound:
            return 0  # in the catalogue, but not on the server's disk: stays visible, opening it says so

    def _siblings(self, parent: DirNode, stamp: str) -> Siblings | None:
        if not self._series:
            return None
        files = self._browser.files_of(parent, self._soon()).value

        def members() -> list[Member]:
            return [
                Member.of(file, file.size, lambda file=file: self._entry(file, stamp))  # type: ignore[misc]
                for file in files
                if file.size is not None
            ]

        return Siblings.of(files[0], members)

    def _entry(self, file: FileRecord, stamp: str) -> Entry:
        assert file.size is not None
        entry: Entry = self._store.open(Identity.of(file, file.size, stamp))
        return entry
