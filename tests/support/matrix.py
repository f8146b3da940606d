"""Every fault against every operation on a real mount: the cells, what each may end in, and how one is run.

A cell has a project of its own, so that no cache hides its fault, and every file has bytes of its own. The table
`FAULTS` says what is allowed; it is also what ``scripts/matrix`` writes into ``xnatfs/docs/semantics.md``.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from support.faces import until
from xnatfs.deadlines import AFTERMATH
from xnatfs.demo import Archive, Rule
from xnatfs.demo.content import Pattern

METADATA, READ = 2.5, 3.0
"""Seconds: the deadlines of the mounts."""
SLACK = 6.0
"""Seconds more, for a machine that does other things as well."""
SPARE = 40
SIZE = 900_000
PIECE = 4096

OK, TIMED, AWAY, EIO, EACCES, ENOENT, ESTALE = "ok", "ETIMEDOUT", "EHOSTUNREACH", "EIO", "EACCES", "ENOENT", "ESTALE"


OTHER = "other"
"""Exactly the bytes of the other version: a part of a file is not covered by the digest of the whole."""
_OTHER = bytes(255 - value for value in range(256))
FEWER = "fewer"
"""The names without the scans, which the server says that there are none of."""
AGAIN = "ok "
"""The kernel asks once more when a read that it made in advance fails."""


@dataclass(frozen=True)
class Fault:
    """One thing that a server does, and what may come of it: once or always, to listings or to bytes.

    An outcome is ``ok`` (exactly the right bytes, names or attributes) or an errno; several, if time decides.
    """

    name: str
    action: str
    listing_once: str
    listing_always: str
    bytes_once: str
    bytes_always: str
    sticks: bool = False
    """The server has said something definite, which holds until the listing expires."""
    brings: str = OK
    """What a part of a file may be afterwards: what was fetched stays, until the whole is compared with its digest."""
    alone: bool = False
    """It concerns all sessions on the server, hence all cells that run beside it."""
    options: dict = field(default_factory=dict, hash=False)

    def allowed(self, kind: str, always: bool) -> set[str]:
        if kind == "local":
            return {OK}
        text = getattr(self, f"{'listing' if kind == 'listing' else 'bytes'}_{'always' if always else 'once'}")
        return set(text.split())


def _fault(name, action, *outcomes, sticks=False, alone=False, brings=OK, **options):
    return Fault(name, action, *outcomes, sticks=sticks, alone=alone, brings=brings, options=options)


PAUSED = f"{OK} {TIMED}"
FAULTS = [
    _fault("a little late", "delay", OK, OK, OK, OK, seconds=0.1),
    _fault("later than any deadline", "delay", PAUSED, TIMED, PAUSED, TIMED, seconds=30.0),
    _fault("no answer", "no_answer", PAUSED, TIMED, PAUSED, TIMED),
    _fault("closed before the answer", "close", OK, AWAY, OK, AWAY),
    _fault("stalls at once", "stall", PAUSED, TIMED, PAUSED, TIMED, at=0),
    _fault("stalls in the middle", "stall", PAUSED, TIMED, PAUSED, f"{OK} {TIMED}", at=100),
    _fault("cut at once", "cut", OK, AWAY, OK, AWAY, at=0),
    _fault("cut in the middle", "cut", OK, f"{AWAY} {EIO}", OK, f"{OK} {AWAY}", at=100),
    _fault("reset before the answer", "reset", OK, AWAY, OK, AWAY, at=0),
    _fault("reset in the middle", "reset", OK, f"{AWAY} {EIO}", OK, f"{OK} {AWAY}", at=100),
    _fault("a byte now and then", "drip", PAUSED, TIMED, PAUSED, TIMED, size=1, seconds=0.2),
    _fault("status 400", "status", f"{OK} {EIO}", EIO, AGAIN + EIO, EIO, status=400),
    _fault("status 401", "unauthorized", OK, EACCES, OK, EACCES),
    _fault("status 403", "status", EACCES, EACCES, AGAIN + EACCES, EACCES, status=403),
    _fault("status 404", "status", f"{OK} {ENOENT} {ESTALE} {FEWER}", f"{ENOENT} {ESTALE}", AGAIN + ENOENT, ENOENT,
           sticks=True, status=404),
    _fault("status 429, retry after 1 s", "status", PAUSED, f"{TIMED} {EIO}", OK, f"{TIMED} {EIO}", status=429,
           headers={"Retry-After": "1"}),
    _fault("status 500", "status", f"{OK} {EIO}", EIO, AGAIN + EIO, EIO, status=500),
    _fault("status 502", "status", OK, EIO, OK, EIO, status=502),
    _fault("status 503", "status", OK, EIO, OK, EIO, status=503),
    _fault("status 503, retry after an hour", "status", EIO, EIO, AGAIN + EIO, EIO, status=503,
           headers={"Retry-After": "3600"}),
    _fault("status 302 to another host", "status", AWAY, AWAY, AGAIN + AWAY, AWAY, status=302,
           headers={"Location": "http://127.0.0.2:9/"}),
    _fault("login page with status 200", "login_page", OK, EIO, OK, EIO),
    _fault("redirect to the login page", "login_redirect", OK, EACCES, OK, EACCES),
    _fault("all sessions expired", "expire", OK, EACCES, OK, EACCES, alone=True),
    _fault("Content-Length too large", "length", f"{PAUSED} {EIO} {AWAY}", f"{OK} {TIMED} {EIO} {AWAY}",
           f"{OK} {EIO} {ESTALE}", f"{OK} {EIO} {ESTALE}", size=7),
    _fault("Content-Length too small", "length", f"{OK} {EIO}", f"{OK} {EIO}", f"{OK} {EIO} {ESTALE}",
           f"{OK} {EIO} {ESTALE}", size=-7),
    _fault("gzip that nobody asked for", "gzip", f"{OK} {EIO}", EIO, AGAIN + EIO, EIO),
    _fault("200 for a Range", "ignore_range", OK, OK, OK, OK),
    _fault("another range than asked for", "other_range", OK, OK, f"{OK} {EIO}", f"{OK} {EIO}", size=65536),
    _fault("other bytes of the same length", "change", OK, OK, f"{OK} {OTHER}", f"{OK} {OTHER} {EIO}", brings=OTHER),
    _fault("listing that is no JSON", "malformed", f"{OK} {EIO}", EIO, OK, OK),
    _fault("listing that breaks off", "truncate", OK, EIO, OK, OK),
    _fault("listing with URIs of another session", "foreign", f"{OK} {EIO}", f"{OK} {EIO}", OK, OK),
    _fault("listing without sizes", "empty_size", OK, OK, OK, OK),
    _fault("listing with wrong digests", "digest", OK, OK, OK, OK),
    _fault("damaged zip member", "damage_member", OK, OK, OK, OK, at=1),
]  # fmt: skip

OPERATIONS = {
    "lookup": "listing",
    "readdir": "listing",
    "open": "listing",
    "xattr": "listing",
    "read start": "bytes",
    "read middle": "bytes",
    "read end": "bytes",
    "copy series": "bytes",
    "statfs": "local",
    "release": "local",
}
"""Operation -> what it needs of the server."""


@dataclass(frozen=True)
class Cell:
    fault: Fault
    operation: str
    always: bool

    @property
    def kind(self) -> str:
        return OPERATIONS[self.operation]

    def __str__(self) -> str:
        return f"{self.fault.name}, {'always' if self.always else 'once'}: {self.operation}"


@dataclass
class Result:
    cell: Cell
    outcome: str
    seconds: float
    after: str
    fired: int

    @property
    def wrong(self) -> str:
        """What is wrong with it; empty if nothing is."""
        kind = self.cell.kind
        # the kernel asks once more, a page at a time, when a read that it made in advance fails
        limit = SLACK + {"listing": METADATA, "bytes": 2 * READ, "local": 0.0}[kind]
        if self.cell.operation == "copy series":
            limit += FILES * READ
        if self.outcome not in self.cell.fault.allowed(kind, self.cell.always):
            return f"{self.cell}: {self.outcome}"
        if self.seconds > limit:
            return f"{self.cell}: {self.outcome} only after {self.seconds:.1f} s"
        if self.after not in (OK, self.cell.fault.brings):
            return f"{self.cell}: {self.outcome}, and when the fault is gone: {self.after}"
        return ""


def cells() -> list[Cell]:
    return [Cell(fault, operation, always) for fault in FAULTS for operation in OPERATIONS for always in (False, True)]


FILES = 6


class Field:
    """An archive with a project for each cell, of one session; ``P000``, ``P001``, ..."""

    def __init__(self, count: int) -> None:
        self.archive = Archive()
        self.ids = []
        for number in range(count + SPARE):
            subject = self.archive.add_subject(self.archive.add_project(f"P{number:03d}"), "S")
            session = self.archive.add_session(subject, "E")
            self.ids.append(session.id)
            scan = self.archive.add_scan(session, "1", type="T1")
            one = self.archive.add_resource(scan, "R")
            self.archive.add_file(one, "a.bin", self.content(number))
            series = self.archive.add_resource(scan, "SERIES")
            for index in range(FILES):
                self.archive.add_file(series, f"{index}.dcm", self.content(number, index))

    @staticmethod
    def content(number: int, index: int | None = None) -> Pattern:
        return (
            Pattern(SIZE, 2 * number + 1) if index is None else Pattern(30_000 + index, 1_000_000 + 10 * number + index)
        )


def outcome_of(call) -> str:
    try:
        wrong = call()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, str(problem))
    return wrong or OK


def _read(path: str, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


class Runner:
    """Runs cells on one mount of a `Field`."""

    def __init__(self, server, face) -> None:
        self.server = server
        self.face = face

    def run(self, cell: Cell, number: int) -> Result:
        top = self.face.path(f"/P{number:03d}/S/E")
        file = f"{top}/1/R/a.bin"
        content = Field.content(number)
        call = {
            "lookup": lambda: self._stat(file),
            "readdir": lambda: self._names(top),
            "open": lambda: os.close(os.open(file, os.O_RDONLY)),
            "xattr": lambda: self._xattr(file, content),
            "read start": lambda: self._bytes(file, content, 0),
            "read middle": lambda: self._bytes(file, content, SIZE // 2),
            "read end": lambda: self._bytes(file, content, SIZE - PIECE),
            "copy series": lambda: self._series(f"{top}/1/SERIES", number),
            "statfs": lambda: self._space(top),
        }
        handle = None
        if cell.kind != "listing":  # a machine that does other things as well may not get there in time at once
            until(lambda: outcome_of(lambda: self._stat(file)) == OK)
        if cell.kind == "bytes":
            until(lambda: outcome_of(lambda: self._listed(f"{top}/1/SERIES")) == OK)
        elif cell.kind == "local":
            handle = os.open(file, os.O_RDONLY)
            call["release"] = lambda: os.close(handle)
        faults = self.server.faults
        rule = faults.add(
            Rule(
                cell.fault.action,
                path=f"/experiments/{self.server.ids[number]}",
                count=None if cell.always else 1,
                **cell.fault.options,
            )
        )
        reading = None
        if cell.operation == "release":  # with a read under way in the same file
            reading = threading.Thread(target=outcome_of, args=(lambda: _read(file, 0, PIECE),))
            reading.start()
        began = time.monotonic()
        outcome = outcome_of(call[cell.operation])
        seconds = time.monotonic() - began
        fired = faults.hits(rule)
        faults.remove(rule)
        if reading is not None:
            reading.join()
        if cell.operation == "statfs":
            os.close(handle)
        after = self._afterwards(cell, call if cell.operation != "release" else {**call, "release": call["read start"]})
        return Result(cell, outcome, seconds, after, fired)

    def _afterwards(self, cell: Cell, call) -> str:
        """The next call; where the server has said something definite, the first one after that has expired.

        A call that joins a request that was under way while the fault was there shares its fate, hence a second one.
        """
        after = outcome_of(call[cell.operation])
        if after == TIMED:  # so does one that comes right after a time-out
            threading.Event().wait(AFTERMATH)
        if after != OK:
            after = outcome_of(call[cell.operation])
        end = time.monotonic() + SLACK
        while cell.fault.sticks and after != OK and time.monotonic() < end:
            after = outcome_of(call[cell.operation])
            threading.Event().wait(0.1)
        return after

    def run_all(self, part: list[Cell], at_once: int) -> list[Result]:
        """All cells, several at a time but for those that concern each other.

        One that ran out of time where the table does not say so was slow, or this machine is: it is tried once more,
        alone, on one of the `SPARE` projects.
        """
        beside = [number for number, cell in enumerate(part) if not cell.fault.alone]
        with ThreadPoolExecutor(at_once) as workers:
            results = dict(zip(beside, workers.map(lambda n: self.run(part[n], n), beside), strict=True))
        for number, cell in enumerate(part):
            if cell.fault.alone:
                results[number] = self.run(cell, number)
        slow = [number for number in results if TIMED in results[number].wrong]
        for spare, number in enumerate(slow[:SPARE], len(part)):
            results[number] = self.run(part[number], spare)
        return [results[number] for number in range(len(part))]

    @staticmethod
    def _stat(path: str) -> str:
        size = os.stat(path).st_size
        return "" if size == SIZE else f"size {size}"

    @staticmethod
    def _names(path: str) -> str:
        found = sorted(os.listdir(path))
        if found == ["assessors", "resources"]:
            return FEWER
        return "" if found == ["1", "assessors", "resources"] else f"WRONG NAMES {found}"

    @staticmethod
    def _listed(folder: str) -> str:
        return "" if len(os.listdir(folder)) == FILES else "WRONG NAMES"

    @staticmethod
    def _xattr(path: str, content: Pattern) -> str:
        value = os.getxattr(path, "user.xnat.path")
        return "" if value == b"a.bin" else f"WRONG VALUE {value!r}"

    @staticmethod
    def _bytes(path: str, content: Pattern, offset: int) -> str:
        found, right = _read(path, offset, PIECE), content.read(offset, PIECE)
        return "" if found == right else OTHER if found == right.translate(_OTHER) else "WRONG BYTES"

    @staticmethod
    def _series(folder: str, number: int) -> str:
        """All files, one after the other, up to the first error."""
        for index in range(FILES):
            content = Field.content(number, index)
            if _read(f"{folder}/{index}.dcm", 0, content.size) != content.read(0, content.size):
                return "WRONG BYTES"
        return ""

    @staticmethod
    def _space(path: str) -> str:
        return "" if os.statvfs(path).f_blocks > 0 else "no blocks"


def document() -> str:
    """The table as the document has it."""
    lines = [
        "| the server | listings, once | listings, always | bytes, once | bytes, always |",
        "|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        cell = [" or ".join(text.split()) for text in (fault.listing_once, fault.listing_always)]
        cell += [" or ".join(text.split()) for text in (fault.bytes_once, fault.bytes_always)]
        lines.append(f"| {fault.name} | {' | '.join(cell)} |")
    return "\n".join(lines) + "\n"
