"""One directory at one moment: names, nodes, and until when it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xnatfs.errors import Unreachable
from xnatfs.tree.nodes import Attributes, DirNode, Kind, LinkNode, Node, inode, kind_of

R = TypeVar("R")


def _is_node(_name: str, item: Any) -> Node:
    return item  # type: ignore[no-any-return]


def _brief(_name: str, item: Any) -> tuple[Kind, int]:
    return kind_of(item), item.ino


class Later(Mapping[str, Any]):
    """A table of known size that is made when somebody looks something up in it: ``find`` never does.

    ``tell`` hears of each time that it was made, so that whoever counts tables can have it dropped.
    """

    __slots__ = ("__weakref__", "_made", "_make", "_size", "_tell")

    def __init__(self, size: int, make: Callable[[], dict[str, Any]], tell: Callable[[Later], None] | None) -> None:
        self._size = size
        self._make = make
        self._tell = tell
        self._made: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        made = self._made
        if made is None:
            made = self._made = self._make()  # two threads may both make it, and get equal ones
            if self._tell is not None:
                self._tell(self)
        return made

    def drop(self) -> None:
        """Let go of it; it is made again when it is needed."""
        self._made = None

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._all().get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return self._size


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
    derived: dict[Hashable, Any] = field(default_factory=dict)
    """What `Directory.derive` keeps. One that lives longer than the directory saves making it again."""


class Directory:
    """An immutable snapshot of a directory. ``expires`` is on the clock of whoever made it."""

    __slots__ = ("_children", "_since", "expires", "node")

    def __init__(self, node: DirNode, children: Children, expires: float, since: str = "") -> None:
        """``since``: when the server said so, if it is away by now; then what is not here may exist all the same."""
        self.node = node
        self.expires = expires
        self._since = since
        self._children = children

    def __len__(self) -> int:
        return len(self._children.items)

    def names(self) -> list[str]:
        return list(self._children.items)

    def entries(self) -> Sequence[tuple[str, Kind, int]]:
        """``(name, kind, inode number)`` of everything listed; made anew by each call."""
        brief, briefs = self._children.brief, self._children.briefs
        if briefs is not None:
            return briefs()
        return [(name, *brief(name, item)) for name, item in self._children.items.items()]

    def derive(self, make: Callable[[Directory], R]) -> R:
        """``make(self)``, computed once; it must depend on nothing but names, kinds and inode numbers.

        Two threads may both compute it, and get equal results.
        """
        derived = self._children.derived
        if make not in derived:
            derived[make] = make(self)
        result: R = derived[make]
        return result

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
        """The node of a listed name; else a link for an ID, or an unlisted node; else None.

        Raises `Unreachable` in place of None where that cannot be known.
        """
        children = self._children
        item = children.items.get(name)
        if item is not None:
            return children.make(name, item)
        target = children.links.get(name)
        if target is not None:
            return LinkNode(name, target, inode("link", str(self.node.ino), name), self.node.mtime_ns)
        if self._since and name not in children.hidden:
            raise Unreachable(f"{name}: not in the listing of {self._since}, and the server is away")
        return children.hidden.get(name)
