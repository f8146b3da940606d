"""Every fault against every operation on a real mount: the cells, what each may end in, and how one is run.

A cell has a project of its own, so that no cache hides its fault, and every file has bytes of its own. The table
`FAULTS` says what is allowed; it is also what ``scripts/matrix`` writes into ``xnatfs/docs/semantics.md``.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support.faces import until
from support.truth import md5
from xnatfs.deadlines import AFTERMATH
from xnatfs.demo import Archive, Rule
from xnatfs.demo.content import Pattern

METADATA, READ = 2.5, 3.0
"""Seconds: the deadlines of the mounts."""
SLACK = 6.0
"""Seconds more, for a machine that does other things as well."""
SPARE = 40
SIZE = 900_000
LARGE = 24 * 2**20
"""Bytes of a file of which the middle and the end are asked for as ranges."""
PIECE = 4096

OK, TIMED, AWAY, EIO, EACCES, ENOENT, ESTALE = "ok", "ETIMEDOUT", "EHOSTUNREACH", "EIO", "EACCES", "ENOENT", "ESTALE"


OTHER = "other"
"""Exactly the bytes of the other version: a part of a file is not covered by the digest of the whole."""
_OTHER = bytes(255 - value for value in range(256))
FEWER = "fewer"
"""The names without the scans, which the server says that there are none of."""
BUS = "bus error"
"""What a memory map has in the place of any errno; and since it is of all of a file, at the end of another version."""
AGAIN = "ok "
"""The kernel asks once more when a read that it made in advance fails."""


@dataclass(frozen=True)
class Fault:
    """One thing that a server does, and what may come of it: once or always, to listings or to bytes.

    An outcome is ``ok`` (exactly the right bytes, names or attributes) or an errno; several, if time decides. Empty
    where the fault cannot meet what such an operation asks for.
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
    login: bool = False
    """It meets the login that a call makes whose session has expired."""
    teaches: bool = False
    """A mount behaves otherwise from then on, so that each of its cells has a mount of its own."""
    only: tuple[str, ...] = ()
    """The operations that it can meet, where that does not depend on their kind alone."""
    options: dict = field(default_factory=dict, hash=False)

    def meets(self, operation: str) -> bool:
        """Can it happen to what an operation asks for? Local ones ask for nothing: it happens beside them."""
        kind = OPERATIONS[operation]
        if kind == "local":
            return True
        return bool(self.allowed(kind, True)) and operation in (self.only or OPERATIONS)

    def allowed(self, kind: str, always: bool) -> set[str]:
        if kind == "local":
            return {OK}
        text = getattr(self, f"{'listing' if kind == 'listing' else 'bytes'}_{'always' if always else 'once'}")
        return set(text.split())


def _fault(
    name, action, *outcomes, sticks=False, alone=False, login=False, teaches=False, brings=OK, only=(), **options
):
    return Fault(name, action, *outcomes, sticks, brings, alone or login, login, teaches, only, options)


PAUSED = f"{OK} {TIMED}"
FILES_OF = ("lookup", "open", "xattr")
"""Operations that ask for a listing of files."""
RANGES = ("read middle", "read end")
"""Operations that ask for a range, in a file that is large enough for that."""
LOGGED_IN = ("lookup", "read middle")
"""Two will do for what meets the login, since each of its cells has the server for itself."""
ARCHIVES = ("copy series",)
MAPPED = """
import errno, hashlib, mmap, sys
try:
    with open(sys.argv[1], "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        print(hashlib.md5(mapped).hexdigest())
except OSError as problem:
    sys.exit(errno.errorcode[problem.errno])
"""
DATES = {"Date": "Sun, 22 Nov 2026 10:00:00 GMT"}
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
    _fault("status 429, retry at a date", "status", PAUSED, f"{TIMED} {EIO}", OK, f"{TIMED} {EIO}", status=429,
           headers={"Retry-After": "Sun, 22 Nov 2026 10:00:01 GMT", **DATES}),
    _fault("status 500 with a page", "status", f"{OK} {EIO}", EIO, AGAIN + EIO, EIO, status=500),
    _fault("status 502", "status", OK, EIO, OK, EIO, status=502),
    _fault("status 503", "status", OK, EIO, OK, EIO, status=503),
    _fault("status 503, retry after an hour", "status", EIO, EIO, AGAIN + EIO, EIO, status=503,
           headers={"Retry-After": "3600"}),
    _fault("status 503, retry at a date in an hour", "status", EIO, EIO, AGAIN + EIO, EIO, status=503,
           headers={"Retry-After": "Sun, 22 Nov 2026 11:00:00 GMT", **DATES}),
    _fault("status 503, retry after nonsense", "status", OK, EIO, OK, EIO, status=503,
           headers={"Retry-After": "-1, soon"}),
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
    _fault("200 for a Range", "ignore_range", "", "", OK, OK, only=RANGES, teaches=True),
    _fault("another range than asked for", "other_range", "", "", AGAIN + EIO, EIO, only=RANGES,
           size=65536),
    _fault("range past the end, then silence", "overrun", "", "", AGAIN + EIO, EIO,
           only=RANGES, size=7),
    _fault("other bytes of the same length", "change", "", "", f"{OK} {OTHER}", f"{OK} {OTHER} {EIO}", brings=OTHER),
    _fault("listing that is no JSON", "malformed", f"{OK} {EIO}", EIO, "", ""),
    _fault("listing that breaks off", "truncate", OK, EIO, "", ""),
    _fault("listing with URIs of another session", "foreign", OK, EIO, "", "", only=FILES_OF),
    _fault("listing without sizes", "empty_size", OK, OK, "", "", only=FILES_OF),
    _fault("listing with wrong digests", "digest", OK, OK, "", "", only=FILES_OF),
    _fault("damaged zip member", "damage_member", "", "", OK, OK, only=ARCHIVES, at=1),
    _fault("zip cut in the middle", "cut", "", "", OK, OK, only=ARCHIVES, query="format=zip", at=100_000),
    _fault("zip that stalls in the middle", "stall", "", "", OK, OK, only=ARCHIVES, teaches=True, query="format=zip",
           at=100_000),
    _fault("login: no answer", "no_answer", PAUSED, TIMED, PAUSED, TIMED, login=True, only=LOGGED_IN),
    _fault("login: reset", "reset", OK, AWAY, OK, AWAY, login=True, only=LOGGED_IN),
    _fault("login: status 500 with a page", "status", f"{OK} {EIO}", EIO, f"{OK} {EIO}", EIO, login=True,
           only=LOGGED_IN, status=500),
    _fault("login: status 503, retry after 1 s", "status", PAUSED, f"{TIMED} {EIO}", PAUSED, f"{TIMED} {EIO}",
           login=True, only=LOGGED_IN, status=503, headers={"Retry-After": "1"}),
]  # fmt: skip

OPERATIONS = {
    "lookup": "listing",
    "readdir": "listing",
    "open": "listing",
    "xattr": "listing",
    "item.json": "listing",
    "children.csv": "listing",
    "read start": "bytes",
    "read middle": "bytes",
    "read end": "bytes",
    "mmap": "bytes",
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
        limit = {"listing": SLACK + METADATA, "bytes": SLACK + 2 * READ, "local": METADATA}[kind]
        if self.cell.operation == "copy series":
            limit += FILES * READ
        allowed = self.cell.fault.allowed(kind, self.cell.always)
        if self.outcome not in allowed and not (self.outcome == BUS and allowed - {OK}):
            return f"{self.cell}: {self.outcome}"
        if not self.fired:
            return f"{self.cell}: the fault did not happen"
        if self.seconds > limit:
            return f"{self.cell}: {self.outcome} only after {self.seconds:.1f} s"
        if self.after not in (OK, self.cell.fault.brings):
            return f"{self.cell}: {self.outcome}, and when the fault is gone: {self.after}"
        return ""


def cells() -> list[Cell]:
    return [
        Cell(fault, operation, always)
        for fault in FAULTS
        for operation in OPERATIONS
        if fault.meets(operation)
        for always in (False, True)
    ]


FILES = 6


class Field:
    """An archive with a project for each cell, of one session; ``P000``, ``P001``, ..."""

    def __init__(self, part: list[Cell]) -> None:
        self.archive = Archive()
        self.ids = []
        self.sizes = [LARGE if cell.fault.only == RANGES else SIZE for cell in part] + [LARGE] * SPARE
        for number in range(len(self.sizes)):
            subject = self.archive.add_subject(self.archive.add_project(f"P{number:03d}"), "S")
            session = self.archive.add_session(subject, "E")
            self.ids.append(session.id)
            scan = self.archive.add_scan(session, "1", type="T1")
            one = self.archive.add_resource(scan, "R")
            self.archive.add_file(one, "a.bin", self.content(number))
            series = self.archive.add_resource(scan, "SERIES")
            for index in range(FILES):
                self.archive.add_file(series, f"{index}.dcm", self.member(number, index))

    def content(self, number: int) -> Pattern:
        """Of the single file of a project."""
        return Pattern(self.sizes[number], 2 * number + 1)

    @staticmethod
    def member(number: int, index: int) -> Pattern:
        """Of a file of its series."""
        return Pattern(30_000 + index, 1_000_000 + 10 * number + index)


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
    """Runs cells on one mount of a `Field`, and those that teach a mount something on ``fresh()`` ones."""

    def __init__(self, server, field, face, fresh) -> None:
        self.server = server
        self.field = field
        self.face = face
        self.fresh = fresh

    def run(self, cell: Cell, number: int) -> Result:
        top = self.face.path(f"/P{number:03d}/S/E")
        file = f"{top}/1/R/a.bin"
        content = self.field.content(number)
        call = {
            "lookup": lambda: self._stat(file, content),
            "readdir": lambda: self._names(top),
            "open": lambda: os.close(os.open(file, os.O_RDONLY)),
            "xattr": lambda: self._xattr(file, content),
            "read start": lambda: self._bytes(file, content, 0),
            "read middle": lambda: self._bytes(file, content, content.size // 2),
            "read end": lambda: self._bytes(file, content, content.size - PIECE),
            "item.json": lambda: self._item(top, self.field.ids[number]),
            "children.csv": lambda: self._table(top),
            "mmap": lambda: self._mapped(file, content),
            "copy series": lambda: self._series(f"{top}/1/SERIES", number),
            "statfs": lambda: self._space(top),
        }
        handle = None
        beside = self._beside(cell)
        if cell.kind != "listing":  # a machine that does other things as well may not get there in time at once
            until(lambda: outcome_of(lambda: self._stat(file, content)) == OK)
            until(lambda: outcome_of(lambda: self._listed(f"{top}/1/SERIES")) == OK)
        if cell.kind == "local":
            handle = os.open(file, os.O_RDONLY)
            call["release"] = lambda: os.close(handle)
        rules = self._rules(cell, number)
        reading = None
        if beside:
            # a refresh, or nothing would be asked for; with the fault there already, since it may be what meets it
            first = Path(f"{top}/.xnat/refresh").read_bytes if OPERATIONS[beside] == "listing" else lambda: None
            reading = threading.Thread(target=lambda: (outcome_of(first), outcome_of(call[beside])))
            reading.start()
            until(lambda: self.server.faults.hits(rules[-1]) or not reading.is_alive())
        began = time.monotonic()
        outcome = outcome_of(call[cell.operation])
        seconds = time.monotonic() - began
        fired = self.server.faults.hits(rules[-1])
        for rule in rules:
            self.server.faults.remove(rule)
        if reading is not None:
            reading.join()
        if cell.operation == "statfs":
            os.close(handle)
        after = self._afterwards(cell, call if cell.operation != "release" else {**call, "release": call["read start"]})
        return Result(cell, outcome, seconds, after, fired)

    @staticmethod
    def _beside(cell: Cell) -> str:
        """What is under way while a local operation runs, so that the fault happens: one that needs the server."""
        if cell.kind != "local":
            return ""
        likely = ("read start", "read middle", "copy series", "readdir", "open")
        return next(name for name in likely if cell.fault.meets(name))

    def _rules(self, cell: Cell, number: int) -> list[Rule]:
        """What makes the fault; the last one is the fault itself."""
        fault, count = cell.fault, None if cell.always else 1
        here = f"/experiments/{self.field.ids[number]}"
        if not fault.login:
            return [self.server.faults.add(Rule(fault.action, path=here, count=count, **fault.options))]
        ended = Rule("expire", path=here)
        return [
            self.server.faults.add(ended),
            self.server.faults.add(Rule(fault.action, path="/data/JSESSION", count=count, **fault.options)),
        ]

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
        while (cell.fault.sticks or cell.fault.login) and after != OK and time.monotonic() < end:
            after = outcome_of(call[cell.operation])
            threading.Event().wait(0.1)
        return after

    def run_all(self, part: list[Cell], at_once: int) -> list[Result]:
        """All cells, several at a time but for those that concern each other.

        One that ran out of time where the table does not say so was slow, or this machine is: it is tried once more,
        alone, on one of the `SPARE` projects.
        """
        beside = [number for number, cell in enumerate(part) if not (cell.fault.alone or cell.fault.teaches)]
        with ThreadPoolExecutor(at_once) as workers:
            results = dict(zip(beside, workers.map(lambda n: self.run(part[n], n), beside), strict=True))
        for number, cell in enumerate(part):
            if cell.fault.alone:
                results[number] = self.run(cell, number)
            elif cell.fault.teaches:
                with self.fresh() as face:
                    results[number] = Runner(self.server, self.field, face, self.fresh).run(cell, number)
        slow = [
            number for number in results if TIMED in results[number].wrong or " only after " in results[number].wrong
        ]
        for spare, number in enumerate(slow[:SPARE], len(part)):
            results[number] = self.run(part[number], spare)
        return [results[number] for number in range(len(part))]

    @staticmethod
    def _stat(path: str, content: Pattern) -> str:
        size = os.stat(path).st_size
        return "" if size == content.size else f"size {size}"

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
    def _item(top: str, session: str) -> str:
        text = Path(f"{top}/.xnat/item.json").read_bytes()
        return "" if json.loads(text) and session.encode() in text else "WRONG ITEM"

    @staticmethod
    def _table(top: str) -> str:
        with open(f"{top}/.xnat/children.csv", encoding="utf-8", newline="") as table:
            names = [row["entry"] for row in csv.DictReader(table)]
        return "" if names == ["1"] else FEWER if not names else f"WRONG ROWS {names}"

    @staticmethod
    def _mapped(path: str, content: Pattern) -> str:
        """In a process of its own, which a bus error may end, and which does not hold up the server here."""
        done = subprocess.run([sys.executable, "-c", MAPPED, path], capture_output=True, text=True, check=False)
        if done.returncode == -signal.SIGBUS:
            return BUS
        if done.returncode:
            raise OSError(getattr(errno, done.stderr.strip()), done.stderr)
        whole = content.read(0, content.size)
        right = {md5(data): text for data, text in ((whole, ""), (whole.translate(_OTHER), OTHER))}
        return right.get(done.stdout.strip(), "WRONG BYTES")

    @staticmethod
    def _bytes(path: str, content: Pattern, offset: int) -> str:
        found, right = _read(path, offset, PIECE), content.read(offset, PIECE)
        return "" if found == right else OTHER if found == right.translate(_OTHER) else "WRONG BYTES"

    @staticmethod
    def _series(folder: str, number: int) -> str:
        """All files, one after the other, up to the first error; as cp does, by who has listed them."""
        os.listdir(folder)
        for index in range(FILES):
            content = Field.member(number, index)
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
        outcomes = (fault.listing_once, fault.listing_always, fault.bytes_once, fault.bytes_always)
        cell = [" or ".join(text.split()) or "-" for text in outcomes]
        lines.append(f"| {fault.name} | {' | '.join(cell)} |")
    return "\n".join(lines) + "\n"
