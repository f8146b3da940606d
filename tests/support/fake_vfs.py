"""A file system in memory for tests of the FUSE face: real descriptors, scripted failures, a gate for slow bytes."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from xnatfs import errors
from xnatfs.tree.nodes import Attributes, Kind, inode

MTIME_NS = 1_700_000_000_123_456_789


def _classes(module, base):
    return [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]


def _raisers():
    """Everything that the guard must cope with: name -> how one is made."""
    made = {kind.__name__: lambda kind=kind: kind("scripted") for kind in _classes(errors, Exception)}
    for kind in _classes(requests.exceptions, Exception):
        arguments = ("scripted", "", 0) if issubclass(kind, ValueError) and "JSON" in kind.__name__ else ("scripted",)
        made[f"requests-{kind.__name__}"] = lambda kind=kind, arguments=arguments: kind(*arguments)
    return made | {
        "BadZipFile": lambda: zipfile.BadZipFile("scripted"),
        "KeyError": lambda: KeyError("scripted"),
        "ValueError": lambda: ValueError("scripted"),
        "OSError-no-errno": lambda: OSError("scripted"),
        "OSError-errno": lambda: OSError(2, "an errno that must not be believed"),
        "OSError-negative": lambda: OSError(-5, "scripted"),
        "FileNotFoundError-no-errno": lambda: FileNotFoundError("scripted"),
        "JSONDecodeError": lambda: json.JSONDecodeError("scripted", "", 0),
        "SSLError": lambda: ssl.SSLError("scripted"),
        "SystemExit": lambda: SystemExit(0),
        "KeyboardInterrupt": KeyboardInterrupt,
        "GeneratorExit": GeneratorExit,
        "MemoryError": MemoryError,
        "RecursionError": RecursionError,
        "Exception": lambda: Exception("scripted"),
        "BaseException": lambda: BaseException("scripted"),
    }


RAISERS = _raisers()
OPERATIONS = ("getattr", "opendir", "readdir", "open", "read", "release", "readlink", "getxattr", "listxattr")


@dataclass
class Node:
    """A thing in the fake tree. ``raises`` maps an operation to the name of what it raises."""

    kind: Kind
    ino: int
    children: dict[str, Node] = field(default_factory=dict)
    local: str = ""
    size: int = 0
    version: str = ""
    target: str = ""
    slow: bool = False
    raises: dict[str, str] = field(default_factory=dict)

    def fail(self, operation):
        if operation in self.raises:
            raise RAISERS[self.raises[operation]]()


class FakeDirectory:
    def __init__(self, node, expires):
        self._node = node
        self._children = dict(node.children)
        self.expires = expires
        self._entries = [(name, child.kind, child.ino) for name, child in self._children.items() if name[:1] != "\0"]

    def entries(self):
        self._node.fail("readdir")
        return self._entries

    def derive(self, make):
        return make(self)

    def stat(self, name):
        return None

    def get(self, name):
        return self._children.get(name)


class FakeFile:
    def __init__(self, vfs, node):
        self._vfs, self._node = vfs, node
        self.fileno = os.open(node.local, os.O_RDONLY)
        self.size, self.version = node.size, node.version

    def ready(self, offset, size):
        self._vfs.count("reads")
        return "read" not in self._node.raises and (not self._node.slow or self._vfs.gate.is_set())

    def prepare(self, offset, size):
        self._node.fail("read")
        if self._node.slow:
            self._vfs.wait_at_gate()
        return max(0, min(size, self.size - offset))

    def read(self, offset, size):
        self._vfs.count("reads")
        return os.pread(self.fileno, self.prepare(offset, size), offset)

    def close(self):
        os.close(self.fileno)
        self._vfs.count("open_files", -1)
        self._node.fail("release")


@dataclass
class Space:
    total: int = 1 << 40
    free: int = 1 << 39


class FakeVfs:
    """Built by `add_*`, changed at any time; `refresh` makes the changes visible, as the end of a TTL would."""

    def __init__(self, store: Path, ttl: float = 3600.0) -> None:
        self._store = Path(store)
        self._ttl = ttl
        self._lock = threading.Lock()
        self._snapshots: dict[str, FakeDirectory] = {}
        self.root = Node(Kind.DIRECTORY, 2)
        self.gate = threading.Event()
        self.closed = False
        self.counts: dict[str, int] = {"open_files": 0, "waiting": 0}
        self.statfs_raises = ""

    # -- making it

    def add_directory(self, path, **more):
        return self._put(path, Node(Kind.DIRECTORY, inode(path), **more))

    def add_link(self, path, target, **more):
        return self._put(path, Node(Kind.LINK, inode(path), target=target, **more))

    def add_file(self, path, data=b"", version="1", **more):
        local = self._store / f"{inode(path)}-{version}"
        local.write_bytes(data)
        return self._put(path, self._file(path, str(local), len(data), version, **more))

    def add_many(self, path, count):
        """A big directory; the files are all one."""
        local = self._store / "many"
        local.write_bytes(b"many")
        children = self.add_directory(path).children
        for number in range(count):
            name = f"file-{number:06d}.dcm"
            children[name] = self._file(f"{path}/{name}", str(local), 4, "1")

    @staticmethod
    def _file(path, local, size, version, **more):
        return Node(Kind.FILE, inode(path), local=local, size=size, version=version, **more)

    def _put(self, path, node):
        parent, _, name = path.strip("/").rpartition("/")
        place = self.root
        for step in parent.split("/"):
            if step:
                place = place.children.setdefault(step, Node(Kind.DIRECTORY, inode(step)))
        place.children[name] = node
        return node

    def refresh(self):
        with self._lock:
            for snapshot in self._snapshots.values():
                snapshot.expires = 0.0
            self._snapshots.clear()

    # -- being watched

    def count(self, name, by=1):
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + by

    def wait_at_gate(self):
        self.count("waiting")
        self.gate.wait()
        self.count("waiting", -1)
        if self.closed:
            raise errors.Unreachable("the file system was closed")

    # -- the interface

    def _find(self, path) -> Any:
        place = self.root
        for name in path.split("/"):
            if name:
                if place.kind is not Kind.DIRECTORY:
                    raise errors.NotADirectory(path)
                try:
                    place = place.children[name]
                except KeyError:
                    raise errors.NotFound(path) from None
        return place

    def call(self):
        return nullcontext()

    def attributes(self, node):
        self.count("attributes")
        node.fail("getattr")
        return Attributes(node.kind, node.ino, len(node.target) or node.size, MTIME_NS)

    def getattr(self, path):
        return self.attributes(self._find(path))

    def directory(self, path, *, wanted=""):
        node = self._find(path)
        if node.kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(path)
        node.fail("opendir")
        with self._lock:
            if path not in self._snapshots:
                self._snapshots[path] = FakeDirectory(node, time.monotonic() + self._ttl)
            return self._snapshots[path]

    def readlink(self, path):
        node = self._find(path)
        node.fail("readlink")
        return node.target

    def open(self, path, *, walking=False):
        node = self._find(path)
        node.fail("open")
        self.count("open")
        self.count("open_files")
        return FakeFile(self, node)

    def listxattr(self, path):
        self.count("listxattr")
        self._find(path).fail("listxattr")
        return ["user.xnat.id", "user.xnat.label"]

    def getxattr(self, path, name):
        self.count("getxattr")
        self._find(path).fail("getxattr")
        if name != "user.xnat.id":
            raise errors.NoAttribute(name)
        return "Prüfung".encode()

    def statfs(self):
        if self.statfs_raises:
            raise RAISERS[self.statfs_raises]()
        return Space()

    def close(self):
        self.closed = True
        self.gate.set()
