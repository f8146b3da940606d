"""What stands in a ``.xnat``: small files made when they are looked up, links by type, and what makes a refresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import NotFound
from xnatfs.tree import attributes, layout
from xnatfs.tree.directory import Children, Directory
from xnatfs.tree.nodes import Address, DirNode, Kind, Level, Node, TextNode, inode
from xnatfs.xnat.records import FileRecord, Resource

ACTIONS = ("refresh", "refresh-all")
"""Unlisted files of each ``.xnat``: opening one forgets what is known of the directory, or of all below as well."""
REFRESHED = b"refreshed\n"
"""What there is to read in them."""


class Browser(Protocol):
    """What this module asks of `xnatfs.browse.Browser`."""

    def directory(self, node: DirNode, deadline: Deadline) -> Directory: ...
    def complete(self, node: Node, deadline: Deadline) -> Node: ...
    def item(self, a: Address, uri: str, deadline: Deadline) -> bytes: ...


class Metadata:
    """Builds the directories of the levels META and BY_TYPE. ``status`` is what ``status.json`` shows."""

    def __init__(self, browser: Browser, clock: Clock, status: Callable[[], object]) -> None:
        self._browser = browser
        self._clock = clock
        self._status = status

    def meta(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        """``.xnat``: small files made when they are looked up, so that stat knows their size before they are opened."""
        described = self._described(here)
        above = described.address
        known = self._browser.directory(described, deadline)

        def table() -> list[dict[str, str]]:
            soon = Deadline(deadline.seconds, self._clock)
            return attributes.rows(self._browser.complete(node, soon) for node in known.nodes())

        makers: dict[str, Callable[[], bytes]] = {
            "children.csv": lambda: attributes.as_csv(table()),
            "children.json": lambda: attributes.as_json(table()),
        }
        if above.level is Level.ROOT:
            makers["status.json"] = self._status_text
        elif isinstance(here.record, Resource):
            record = here.record
            makers["item.json"] = lambda: attributes.as_json(attributes.describe(record))
        elif here.record is not None and not isinstance(here.record, FileRecord):
            uri = here.record.uri
            makers["item.json"] = lambda: self._browser.item(above, uri, Deadline(deadline.seconds, self._clock))

        def number(name: str) -> int:
            return inode("meta", str(here.ino), name)

        def make(name: str, item: Callable[[], bytes] | DirNode) -> Node:
            return item if isinstance(item, DirNode) else TextNode(name, item(), number(name), here.mtime_ns)

        def brief(name: str, item: Callable[[], bytes] | DirNode) -> tuple[Kind, int]:
            return (Kind.DIRECTORY, item.ino) if isinstance(item, DirNode) else (Kind.FILE, number(name))

        items: dict[str, Callable[[], bytes] | DirNode] = {**makers}
        if above.level is Level.EXPERIMENT:
            items[layout.BY_TYPE] = layout.by_type(here)

        actions: dict[str, Node] = {
            action: TextNode(action, REFRESHED, number(action), here.mtime_ns, action) for action in ACTIONS
        }
        return Children(items, {}, actions, make, brief), known.expires

    def by_type(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        session = self._browser.directory(self._described(here), deadline)
        children = layout.types(here, session.nodes())
        if here.address.folder and not children.items:
            raise NotFound(here.address.folder)
        return children, session.expires

    @staticmethod
    def _described(here: DirNode) -> DirNode:
        """The directory that a ``.xnat``, or something in it, tells about."""
        assert here.address.of is not None
        above = here.address._replace(
            level=here.address.of, of=None, folder="" if here.address.level is Level.BY_TYPE else here.address.folder
        )
        return DirNode("", above, layout.place(above), here.mtime_ns, here.record, here.stamp)

    def _status_text(self) -> bytes:
        """Padded with spaces, which JSON allows, so that numbers may grow between stat and read."""
        text = attributes.as_json(self._status()).rstrip()
        return text.ljust((len(text) // 4096 + 1) * 4096 - 1) + b"\n"
