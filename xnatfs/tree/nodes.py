"""What stands in a directory of the mount.

A node is a value: what it is called, which part of the archive it stands for, its stable inode number and its time.
Sizes and contents come from the record that it carries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from xnatfs.xnat.records import FileRecord, Record


class Kind(Enum):
    """What the kernel sees."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


class Level(Enum):
    """What a directory lists."""

    ROOT = "root"
    PROJECT = "project"
    SUBJECT = "subject"
    EXPERIMENT = "experiment"
    SCAN = "scan"
    ASSESSOR = "assessor"
    RECONSTRUCTION = "reconstruction"
    RESOURCE = "resource"
    FOLDER = "folder"
    RESOURCES = "resources"
    ASSESSORS = "assessors"
    RECONSTRUCTIONS = "reconstructions"
    INPUTS = "in"
    META = ".xnat"
    BY_TYPE = "by-type"


class Address(NamedTuple):
    """Which directory: IDs only, so that a renamed label moves nothing. Hashable, the key of directory snapshots."""

    level: Level
    project: str = ""
    subject: str = ""
    experiment: str = ""
    part: str = ""
    """Scan, assessor or reconstruction ID."""
    part_level: Level | None = None
    """What ``part`` is: SCAN, ASSESSOR or RECONSTRUCTION."""
    inputs: bool = False
    """Below the ``in`` directory of an assessor or reconstruction."""
    resource: str = ""
    folder: str = ""
    """Raw path inside the resource, without slashes at its ends."""
    of: Level | None = None
    """For META and BY_TYPE: the level of the directory that it describes."""

    def at(self, level: Level, **changes: object) -> Address:
        """The address of something below this one."""
        return self._replace(level=level, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class DirNode:
    name: str
    address: Address
    ino: int
    mtime_ns: int = 0
    record: Record | None = None
    stamp: str = ""
    """Dates of subject and session: tells versions of the files below apart when they have no digest."""


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file of a resource."""

    name: str
    record: FileRecord
    ino: int
    mtime_ns: int = 0
    stamp: str = ""

    @property
    def version(self) -> str:
        """Equal for equal bytes, as far as the archive tells: the digest, else size and dates."""
        return self.record.digest or f"{self.record.size}@{self.stamp}"


@dataclass(frozen=True, slots=True)
class TextNode:
    """A small file that xnatfs makes itself: the contents of a ``.xnat`` directory."""

    name: str
    content: bytes
    ino: int
    mtime_ns: int = 0
    action: str = ""
    """What opening it does: ``refresh`` forgets its directory, ``refresh-all`` everything below as well."""


@dataclass(frozen=True, slots=True)
class LinkNode:
    """A symbolic link from an ID to the name that a listing shows."""

    name: str
    target: str
    ino: int
    mtime_ns: int = 0


Node = DirNode | FileNode | TextNode | LinkNode


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat shows, without mode bits and owners, which are the face's business. Size in bytes."""

    kind: Kind
    ino: int
    size: int
    mtime_ns: int


def kind_of(node: Node) -> Kind:
    if isinstance(node, DirNode):
        return Kind.DIRECTORY
    return Kind.LINK if isinstance(node, LinkNode) else Kind.FILE


def inode(*identity: str) -> int:
    """A stable 63-bit inode number from what identifies a node. Never 0 or 1, which have meanings of their own."""
    digest = hashlib.blake2b("\0".join(identity).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") & 0x7FFF_FFFF_FFFF_FFFF) | 2
