"""Random readers of a mount, and the truth that they compare with: what each file has been, and when.

Whatever is read must be of one version that a listing could still show when the file was opened, or a permitted errno.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from xnatfs.demo.content import Pattern

PERMITTED = {"EIO", "ETIMEDOUT", "EHOSTUNREACH", "EACCES", "ESTALE", "ENOENT"}
CALL, CHILD = 60.0, 300.0
"""Seconds after which a call counts as hanging, and a program that makes many. A path has six names, each of which may
have to be looked up anew, and the kernel cuts a read into pieces: each of them has a deadline of its own."""
PIECE = 128 * 1024
"""Bytes asked for at once: what the kernel asks the mount for at once."""

OTHER_BYTES = bytes(255 - value for value in range(256))
"""What the fault `change` makes of each byte."""
MAPPED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    print(hashlib.md5(mapped).hexdigest())
"""


class History:
    """What a file has been, and when."""

    def __init__(self, content: Pattern) -> None:
        self._states = [(content, float("-inf"), float("inf"))]

    @property
    def last(self) -> Pattern:
        return self._states[-1][0]

    def put(self, content: Pattern, change: Callable[[], Any]) -> None:
        """``change`` makes it so on the server; while it does, both versions count."""
        *older, (before, begin, _) = self._states
        new = (content, time.monotonic(), float("inf"))
        self._states = [*self._states, new]
        change()
        self._states = [*older, (before, begin, time.monotonic()), new]

    def between(self, since: float, until: float) -> list[Pattern]:
        return [content for content, begin, end in self._states if begin <= until and end >= since]


@dataclass(frozen=True, eq=False)
class Place:
    """A file as the mount has it, and what it has been."""

    path: str
    history: History
    beside: frozenset[str]
    """The names in its directory, its own included."""
    open: dict[object, float] = field(default_factory=dict)
    """Who has it open, and since when: as long as somebody reads a version, its size is what everybody sees."""


@dataclass
class Findings:
    """What all readers together have seen. Thread-safe."""

    done: Counter = field(default_factory=Counter)
    """Operations by kind and outcome."""
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds that the longest call of each kind took."""
    wrong: list[str] = field(default_factory=list)
    right: float = field(default_factory=time.monotonic)
    """When an operation last went well."""
    _waiting: dict[int, tuple[str, float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def waiting(self, what: str, limit: float = CALL):
        """Round a call: how long it takes is noted, and `hanging` knows of it."""
        me, began = threading.get_ident(), time.monotonic()
        self._waiting[me] = (what, began, began + limit)
        try:
            yield
        finally:
            del self._waiting[me]
            with self._lock:
                self.longest[what] = max(self.longest.get(what, 0.0), time.monotonic() - began)

    def hanging(self) -> list[str]:
        """Calls that should have ended."""
        now = time.monotonic()
        return [f"{what}: for {now - since:.0f} s" for what, since, end in [*self._waiting.values()] if now > end]

    def note(self, what: str, outcome: str, wrong: str) -> None:
        with self._lock:
            self.done[f"{what} {outcome}"] += 1
            if outcome == "ok":
                self.right = time.monotonic()
            if wrong:
                self.wrong.append(f"{what}: {wrong}")


class Reader:
    """One thread's reading. ``stale``: seconds for which an old version may still be opened."""

    def __init__(
        self, findings: Findings, chance: random.Random, copies: Path, stale: float, *, programs: bool
    ) -> None:
        self._findings = findings
        self._chance = chance
        self._copy_to = copies / f"copy-{chance.random()}"
        self._stale = stale
        self._kinds = [self._whole, self._parts, self._parts, self._look, self._attributes]
        if programs:
            self._kinds += [self._mapped, self._copied]

    def step(self, place: Place) -> None:
        """Something with this file."""
        kind = self._chance.choice(self._kinds)
        began = time.monotonic()
        try:
            wrong, outcome = kind(place, began), "ok"
        except OSError as problem:
            outcome = errno.errorcode.get(problem.errno or 0, str(problem.errno))
            wrong = "" if outcome in PERMITTED else f"outcome {outcome}"
        self._findings.note(kind.__name__[1:], outcome, f"{place.path}: {wrong}" if wrong else "")

    def whole(self, place: Place) -> str:
        """Why what is read from one end to the other is no version of now; empty if it is. Raises OSError."""
        return self._whole(place, time.monotonic())

    # -- one method for each thing to do: what is wrong, or an OSError -------------------------------------------------

    def _whole(self, place: Place, began: float) -> str:
        with self._opened(place) as descriptor:
            versions = self._possible(place, began)
            pieces = []
            while piece := self._call("read", os.read, descriptor, PIECE):
                pieces.append(piece)
        data = b"".join(pieces)
        return "" if any(data == one.read(0, one.size) for one in versions) else _what(data, versions)

    def _parts(self, place: Place, began: float) -> str:
        """All of one version. Which one is settled by the first part: the digest of the listing covers wholes only."""
        with self._opened(place) as descriptor:
            length = self._call("fstat", os.fstat, descriptor).st_size
            versions: list[Pattern] = []
            for _ in range(self._chance.randrange(1, 8)):
                offset, size = self._chance.randrange(length), self._chance.choice([1, 4096, 65_537, 400_000])
                found = self._pread(descriptor, min(size, length - offset), offset)
                possible = versions or self._possible(place, began)
                versions = [one for one in possible if one.size == length and _fits(found, one, offset, size)]
                if not versions:
                    whose = _whose(found, offset, place.history, possible)
                    return f"{len(found)} of {size} bytes at {offset} of {length}, {whose}"
        return ""

    def _look(self, place: Place, began: float) -> str:
        names = self._call("listdir", os.listdir, Path(place.path).parent)
        if set(names) != place.beside:
            return f"wrong names: {sorted(set(names) ^ place.beside)}"
        since = min([began, *place.open.copy().values()])
        size = self._call("stat", os.stat, place.path).st_size
        sizes = {one.size for one in self._possible(place, since)}
        return "" if size in sizes else f"size {size}, not one of {sizes}"

    def _attributes(self, place: Place, began: float) -> str:
        self._call("statvfs", os.statvfs, place.path)
        digest = self._call("getxattr", os.getxattr, place.path, "user.xnat.digest").decode()
        digests = {one.md5 for one in self._possible(place, began)}
        return "" if digest in digests else f"digest {digest}, not one of {digests}"

    def _mapped(self, place: Place, began: float) -> str:
        with self._using(place):
            done = self._call("mmap by a program", _run, sys.executable, "-c", MAPPED, place.path)
        if done.returncode:  # a bus error, or an OSError of open
            raise OSError(errno.EIO, "mmap")
        digests = {one.md5 for one in self._possible(place, began)}
        return "" if done.stdout.strip() in digests else "wrong bytes in memory"

    def _copied(self, place: Place, began: float) -> str:
        with self._using(place):
            done = self._call("cp", _run, "cp", place.path, str(self._copy_to))
        if done.returncode:
            raise OSError(errno.EIO, done.stderr)
        data, versions = self._copy_to.read_bytes(), self._possible(place, began)
        right = hashlib.md5(data).hexdigest() in {one.md5 for one in versions}
        return "" if right else f"exit status 0, and {_what(data, versions)}"

    # -- their calls --------------------------------------------------------------------------------------------------

    def _possible(self, place: Place, began: float) -> list[Pattern]:
        return place.history.between(began - self._stale, time.monotonic())

    def _call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._findings.waiting(what, CHILD if function is _run else CALL):
            return function(*arguments)

    @contextmanager
    def _opened(self, place: Place):
        with self._using(place):
            descriptor = self._call("open", os.open, place.path, os.O_RDONLY)
            try:
                yield descriptor
            finally:
                self._call("close", os.close, descriptor)

    @contextmanager
    def _using(self, place: Place):
        place.open[self] = time.monotonic()
        try:
            yield
        finally:
            del place.open[self]

    def _pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """One read may come out short where a later page of it fails: whoever goes on meets the error there."""
        found = b""
        while len(found) < size:
            piece = self._call("pread", os.pread, descriptor, min(PIECE, size - len(found)), offset + len(found))
            if not piece:
                break
            found += piece
        return found


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def _fits(data: bytes, content: Pattern, offset: int, size: int) -> bool:
    """A part of a file is not covered by the digest of the whole: it may be of what the fault `change` makes of it."""
    right = content.read(offset, size)
    if data == right:
        return True
    return len(data) == len(right) and all(f in (r, 255 - r) for f, r in zip(data, right, strict=True))


def _whose(data: bytes, offset: int, history: History, versions: list[Pattern]) -> str:
    """Of which versions the pages of a part are, the youngest being 0; a dash before it: the other bytes of it."""
    states = history.between(float("-inf"), float("inf"))[::-1]
    owners = []
    for start in range(0, len(data), 4096):
        page = data[start : start + 4096]
        owner = "?"
        for number, content in enumerate(states):
            right = content.read(offset + start, len(page))
            if page in (right, right.translate(OTHER_BYTES)):
                owner = f"{'' if page == right else '-'}{number}"
                break
        owners.append(owner)
    runs = [f"{len(list(group))} of {owner}" for owner, group in groupby(owners)]
    return f"pages: {', '.join(runs)}; expected {[states.index(one) for one in versions]}"


def _what(data: bytes, versions: list[Pattern]) -> str:
    """How a whole differs from each version that it might be."""
    texts = []
    for version in versions:
        right = version.read(0, version.size)
        pages = [n for n in range(0, len(right), 4096) if data[n : n + 4096] != right[n : n + 4096]]
        other = [n for n in pages if data[n : n + 4096] == right[n : n + 4096].translate(OTHER_BYTES)]
        ends = f" from {pages[0]} to {pages[-1]}" if pages else ""
        texts.append(f"of {len(right)}: {len(pages)} wrong pages{ends}, {len(other)} of them the other bytes")
    return f"{len(data)} bytes of no version ({'; '.join(texts)})"
