"""What stands in a ``.xnat``: small files made when they are looked up, links by type, and what makes a refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xnatfs import metrics
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
OWN_SECONDS = 1.0
"""How long the ``.xnat`` of the root holds, which depends on no listing; what is in it is made at each look."""


class Browser(Protocol):
    """What this module asks of `xnatfs.browse.Browser`."""

    def directory(self, node: DirNode, deadline: Deadline) -> Directory: ...
    def complete(self, node: Node, deadline: Deadline) -> Node: ...
    def item(self, a: Address, uri: str, deadline: Deadline) -> bytes: ...


class Metadata:
    """Builds the directories of the levels META and BY_TYPE; ``status.json`` and ``metrics`` show ``status``."""

    def __init__(self, browser: Browser, clock: Clock, status: Callable[[], Mapping[str, Any]]) -> None:
        self._browser = browser
        self._clock = clock
        self._status = status

    def meta(self, here: DirNode, deadline: Deadline) -> tuple[Children, float]:
        """``.xnat``: small files made when they are looked up, so that stat knows their size before they are opened."""
        described = self._described(here)
        above = described.address
        expires = self._clock() + OWN_SECONDS
        if above.level is not Level.ROOT:
            expires = self._browser.directory(described, deadline).expires

        def table() -> list[dict[str, str]]:
            soon = Deadline(deadline.seconds, self._clock)
            nodes = self._browser.directory(described, soon).nodes()
            return attributes.rows(self._browser.complete(node, soon) for node in nodes)

        makers: dict[str, Callable[[], bytes]] = {
            "children.csv": lambda: attributes.as_csv(table()),
            "children.json": lambda: attributes.as_json(table()),
        }
        if above.level is Level.ROOT:
            makers["status.json"] = self._status_text
            makers["metrics"] = lambda: _padded(metrics.exposition(self._status()).encode(), b"#")
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
        return Children(items, {}, actions, make, brief), expires

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
        return _padded(attributes.as_json(self._status()).rstrip())


def _padded(text: bytes, comment: bytes = b"") -> bytes:
    """Padded with spaces, as JSON and a last comment allow, so that numbers may grow between stat and read."""
    text += comment
    return text.ljust((len(text) // 4096 + 1) * 4096 - 1) + b"\n"
