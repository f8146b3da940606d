"""One directory at one moment: names, nodes, and until when it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xnatfs.tree.nodes import Attributes, DirNode, Kind, LinkNode, Node, inode, kind_of


def _is_node(_name: str, item: Any) -> Node:
    return item  # type: ignore[no-any-return]


def _brief(_name: str, item: Any) -> tuple[Kind, int]:
    return kind_of(item), item.ino


@dataclass(frozen=True, slots=True)
class Children:
    """What a directory holds, before anyone says how long that is true.

    ``items`` maps each listed name to a node, or to something smaller from which ``make(name, item)`` builds the node
    when it is asked for and ``brief(name, item)`` says kind and inode number: a directory of 100,000 files is then
    little more than its listing.
    """

    items: Mapping[str, Any]
    links: Mapping[str, str] = field(default_factory=dict)
    """ID -> listed name: found by look-up, never listed."""
    hidden: Mapping[str, Node] = field(default_factory=dict)
    """Found by look-up, never listed: ``.xnat`` and its like."""
    make: Callable[[str, Any], Node] = _is_node
    brief: Callable[[str, Any], tuple[Kind, int]] = _brief
    briefs: Callable[[], list[tuple[str, Kind, int]]] | None = None
    """The same for everything listed at once, where that is quicker."""
    stat: Callable[[str, Any], Attributes | None] | None = None
    """What `Attributes` an item has, without making its node; None where that takes more."""


class Directory:
    """An immutable snapshot of a directory. ``expires`` is on the clock of whoever made it."""

    __slots__ = ("_children", "_entries", "expires", "node")

    def __init__(self, node: DirNode, children: Children, expires: float) -> None:
        self.node = node
        self.expires = expires
        self._children = children
        self._entries: list[tuple[str, Kind, int]] | None = None

    def __len__(self) -> int:
        return len(self._children.items)

    def names(self) -> list[str]:
        return list(self._children.items)

    def entries(self) -> Sequence[tuple[str, Kind, int]]:
        """``(name, kind, inode number)`` of everything listed, built once."""
        if self._entries is None:
            brief, briefs = self._children.brief, self._children.briefs
            if briefs is not None:
                self._entries = briefs()
            else:
                self._entries = [(name, *brief(name, item)) for name, item in self._children.items.items()]
        return self._entries

    def nodes(self) -> list[Node]:
        """Every listed node."""
        make = self._children.make
        return [make(name, item) for name, item in self._children.items.items()]

    def stat(self, name: str) -> Attributes | None:
        """The attributes of a listed name, if they can be told without making its node."""
        children = self._children
        if children.stat is None:
            return None
        item = children.items.get(name)
        return None if item is None else children.stat(name, item)

    def get(self, name: str) -> Node | None:
        """The node of a listed name; else a link for an ID, or an unlisted node; else None."""
        children = self._children
        item = children.items.get(name)
        if item is not None:
            return children.make(name, item)
        target = children.links.get(name)
        if target is not None:
            return LinkNode(name, target, inode("link", str(self.node.ino), name), self.node.mtime_ns)
        return children.hidden.get(name)
