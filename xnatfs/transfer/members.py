"""Which member of an archive is which file. Pure.

A resource's archive has members ``SESSION/scans/3-T1/resources/DICOM/files/sub/a.dcm`` (contract 5.5): a prefix that
ends in ``/resources/LABEL/files/`` and is the same for all, then the path as in the listing. A member is matched by
exactly that, or not at all: no guess by suffix, by base name or by size can put one file's bytes under another's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from xnatfs.transfer.protocols import Member

_PREFIX = re.compile(r"(?:[^/]+/)*?resources/[^/]+/files/")


class Index:
    """The files of a resource by path, with their places in the listing."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.by_path: dict[str, Member] = {}
        self.places: dict[str, int] = {}
        """Bytes of the files listed before each."""
        self.total = 0
        self.largest = 0
        for member in members:
            if member.path not in self.by_path:
                self.by_path[member.path] = member
                self.places[member.path] = self.total
                self.total += member.size
                self.largest = max(self.largest, member.size)

    def __len__(self) -> int:
        return len(self.by_path)


class Matcher:
    """Matches the members of one archive. The first that fits says what the prefix of all is."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._prefix = ""
        self._seen: set[str] = set()

    def match(self, name: bytes) -> Member | None:
        """The file of a member; None for a foreign name and for the second of one name."""
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            return None
        found = _PREFIX.match(text)
        prefix = self._prefix or (found.group() if found else "")
        if not prefix or not text.startswith(prefix):
            return None
        member = self._index.by_path.get(text[len(prefix) :])
        if member is None or member.path in self._seen:
            return None
        self._prefix = prefix
        self._seen.add(member.path)
        return member
