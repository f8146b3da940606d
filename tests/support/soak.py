"""Random readers of a real mount under random faults, and a look at memory, handles and threads all the while."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support.faces import mounted
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.demo.content import Pattern

SESSIONS, FILES = 6, 12
SIZES = [3_000, 70_000, 500_000, 2_500_000]
CACHE_LIMIT = 40_000_000
PERMITTED = {"EIO", "ETIMEDOUT", "EHOSTUNREACH", "EACCES", "ESTALE", "ENOENT"}
KEPT = SESSIONS * FILES
"""Entries that the cache keeps open when nobody uses them: in the end that is all files."""
HANDLES, THREADS = 140 + KEPT, 90
"""Bounds when all is quiet: connections, threads of the pools and of the loop, and entries that are still held."""
QUIET = 60.0
"""Seconds without any progress of a reader after which it counts as hanging."""

PATHS = "/data/(?!JSESSION|auth)"
"""All but the login: a password that was refused is not sent again, and the rest of the time would be EACCES."""
FAULTS = [
    {"action": "delay", "seconds": 0.3},
    {"action": "no_answer"},
    {"action": "close"},
    {"action": "stall", "at": 20_000},
    {"action": "cut", "at": 0},
    {"action": "cut", "at": 70_000},
    {"action": "cut", "at": 1_000_000},
    {"action": "reset", "at": 0},
    {"action": "reset", "at": 200_000},
    {"action": "drip", "size": 10_000, "seconds": 0.05},
    {"action": "status", "status": 500},
    {"action": "status", "status": 503},
    {"action": "status", "status": 403},
    {"action": "status", "status": 429, "headers": {"Retry-After": "1"}},
    {"action": "login_page"},
    {"action": "login_redirect"},
    {"action": "unauthorized"},
    {"action": "expire"},
    {"action": "length", "size": 5},
    {"action": "length", "size": -5},
    {"action": "gzip"},
    {"action": "ignore_range"},
    {"action": "other_range", "size": 65_536},
    {"action": "change"},
    {"action": "damage_member", "at": 2},
    {"action": "malformed"},
    {"action": "truncate"},
]

OTHER_BYTES = bytes(255 - value for value in range(256))
MAPPED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    print(hashlib.md5(mapped).hexdigest())
"""


@dataclass
class Sample:
    second: float
    memory: int
    """Resident KiB."""
    handles: int
    threads: int
    cached: int
    """Bytes on the disk of the cache."""


@dataclass
class Report:
    seconds: float = 0.0
    done: Counter = field(default_factory=Counter)
    """Operations by kind and outcome."""
    faults: int = 0
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    """When all is quiet again."""
    before: Sample | None = None

    def problems(self) -> list[str]:
        """What must not be; empty if all is well."""
        found = list(self.wrong)
        assert self.before is not None
        assert self.after is not None
        if self.after.handles > HANDLES:
            found.append(f"{self.after.handles} handles")
        if self.after.threads > THREADS:
            found.append(f"{self.after.threads} threads")
        most = max((sample.cached for sample in self.samples), default=0)
        if most > CACHE_LIMIT * 1.25:
            found.append(f"{most} bytes in a cache of {CACHE_LIMIT}")
        if len(self.samples) >= 100:
            quarter = len(self.samples) // 4
            for name, room in (("memory", 20_000), ("handles", 12 + KEPT), ("threads", 8)):
                early = sorted(getattr(one, name) for one in self.samples[quarter : 2 * quarter])[quarter // 2]
                late = sorted(getattr(one, name) for one in self.samples[-quarter:])[quarter // 2]
                if late > early * 1.2 + room:
                    found.append(f"{name} grows: {early} in the second quarter, {late} in the last")
        return found

    def text(self) -> str:
        assert self.before is not None
        assert self.after is not None
        lines = [f"{self.seconds:.0f} s, {sum(self.done.values())} operations, {self.faults} faults"]
        lines += [f"  {name:28} {count}" for name, count in sorted(self.done.items())]
        for name in ("memory", "handles", "threads", "cached"):
            values = [getattr(sample, name) for sample in self.samples] or [0]
            middle = sorted(values)[len(values) // 2]
            ends = f"before {getattr(self.before, name)}, after {getattr(self.after, name)}"
            lines.append(f"  {name:8} {ends}, middle {middle}, most {max(values)}")
        return "\n".join(lines)


def _content(session: int, number: int) -> Pattern:
    return Pattern(SIZES[number % len(SIZES)] + session, 1000 * session + number)


def archive() -> Archive:
    """Sessions with one resource of mixed sizes and one series each; about 75 MB."""
    made = Archive()
    subject = made.add_subject(made.add_project("P"), "S")
    for session in range(SESSIONS):
        scan = made.add_scan(made.add_session(subject, f"e{session}"), "1", type="T1")
        mixed = made.add_resource(scan, "R")
        for number in range(FILES):
            made.add_file(mixed, f"{number}.bin", _content(session, number))
    return made


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """One read may come out short where a later page of it fails: whoever goes on meets the error there."""
    found = b""
    while len(found) < size and (piece := os.pread(descriptor, size - len(found), offset + len(found))):
        found += piece
    return found


def _difference(data: bytes, content: Pattern) -> str:
    """Which pages are wrong, and whether they are those of the other version; empty if none is."""
    right = content.read(0, content.size)
    if data == right:
        return ""
    if len(data) != len(right):
        return f"{len(data)} bytes of {len(right)}"
    pages = [n for n in range(0, len(right), 4096) if data[n : n + 4096] != right[n : n + 4096]]
    other = all(data[n : n + 4096] == right[n : n + 4096].translate(OTHER_BYTES) for n in pages)
    whose = "of the other version" if other else "of no version"
    return f"{len(pages)} wrong pages from {pages[0]} to {pages[-1]}, {whose}"


class Soak:
    """One run. ``seed`` decides what is read and what goes wrong, not in which order threads get to it."""

    def __init__(self, base: Path, seconds: float, *, seed: int = 1, readers: int = 8, loop: str = "fast") -> None:
        self.base = base
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.readers = readers
        self.loop = loop
        self.report = Report()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._progress: dict[int, float] = {}
        self._right = time.monotonic()

    def run(self) -> Report:
        options = ["--metadata-timeout", "3", "--read-timeout", "4", "--ttl", "2", "--cache-size", "40M"]
        options += ["--min-free", "1M"]
        with (
            DemoServer(archive()) as self.server,
            mounted(self.server.url, self.base / "mnt", self.base, *options, loop=self.loop) as self.face,
        ):
            self.report.before = self._sample(0.0)
            began = time.monotonic()
            threads = [
                threading.Thread(target=self._read, args=(number, random.Random(self.chance.random())))
                for number in range(self.readers)
            ]
            threads.append(threading.Thread(target=self._spoil, args=(random.Random(self.chance.random()),)))
            for thread in threads:
                thread.start()
            pause = max(0.1, min(1.0, self.seconds / 200))
            while (second := time.monotonic() - began) < self.seconds and not self.report.wrong:
                self._stop.wait(pause)
                self.report.samples.append(self._sample(second))
                self._alarm()
            self._stop.set()
            for thread in threads:
                thread.join(QUIET)
                if thread.is_alive():
                    self.report.wrong.append(f"{thread.name} hangs")
            self.server.faults.clear()
            self.report.seconds = time.monotonic() - began
            self._all_is_right_again()
            self.report.after = self._settled()
            log = self.face.text()
            if "Traceback" in log:
                self.report.wrong.append(log[log.index("Traceback") - 300 :][:3000])
        return self.report

    def _alarm(self) -> None:
        now = time.monotonic()
        for number, when in list(self._progress.items()):
            if now - when > QUIET:
                self.report.wrong.append(f"reader {number}: nothing for {now - when:.0f} s")
        if now - self._right > QUIET:
            self.report.wrong.append(f"only errors for {now - self._right:.0f} s")

    def _sample(self, second: float) -> Sample:
        pid = self.face.process.pid
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        cached = 0
        for path in (self.base / "cache").rglob("*"):
            try:
                cached += path.stat().st_blocks * 512
            except OSError:
                continue
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        return Sample(second, int(status["VmRSS"].split()[0]), handles, int(status["Threads"]), cached)

    def _settled(self) -> Sample:
        """As it is when what is still under way has ended."""
        assert self.report.before is not None
        end = time.monotonic() + 30
        sample = self._sample(self.seconds)
        while time.monotonic() < end and (sample.handles > HANDLES or sample.threads > THREADS):
            threading.Event().wait(0.2)
            sample = self._sample(self.seconds)
        return sample

    def _spoil(self, chance: random.Random) -> None:
        """Faults come and go; at most three at a time."""
        rules: list[Rule] = []
        while not self._stop.wait(chance.uniform(0.05, 0.6)):
            for_what = chance.choice(["/data/experiments/", "/files/", "format=zip", PATHS, "/scans"])
            where = {"query": for_what} if "=" in for_what else {"path": for_what}
            count = chance.choice([1, 1, 2, 5, None])
            rules.append(self.server.faults.add(Rule(**chance.choice(FAULTS), **where, count=count)))
            self.report.faults += 1
            self.server.reset_log()  # an hour of it takes a gigabyte
            while len(rules) > chance.choice([0, 1, 3]):
                self.server.faults.remove(rules.pop(0))
            if chance.random() < 0.2:
                self.server.faults.release()

    def _read(self, number: int, chance: random.Random) -> None:
        kinds = [self._whole, self._parts, self._parts, self._look]
        if number < 2:
            kinds += [self._mapped, self._copy]
        while not self._stop.is_set():
            kind = chance.choice(kinds)
            session, file = chance.randrange(SESSIONS), chance.randrange(FILES)
            path = self.face.path(f"/P/S/e{session}/1/R/{file}.bin")
            try:
                wrong = kind(path, _content(session, file), chance)
                outcome = "ok"
            except OSError as problem:
                wrong = ""
                outcome = errno.errorcode.get(problem.errno or 0, str(problem.errno))
                if outcome not in PERMITTED:
                    wrong = f"outcome {outcome}"
            with self._lock:
                self.report.done[f"{kind.__name__[1:]} {outcome}"] += 1
                self._progress[number] = time.monotonic()
                if outcome == "ok":
                    self._right = self._progress[number]
                if wrong:
                    self.report.wrong.append(f"{kind.__name__[1:]} of {path}: {wrong}")
        self._progress.pop(number, None)

    @staticmethod
    def _whole(path: str, content: Pattern, chance: random.Random) -> str:
        return _difference(Path(path).read_bytes(), content)

    @staticmethod
    def _parts(path: str, content: Pattern, chance: random.Random) -> str:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for _ in range(chance.randrange(1, 8)):
                offset, size = chance.randrange(content.size), chance.choice([1, 4096, 65_537, 400_000])
                right = content.read(offset, size)
                found = _pread(descriptor, len(right), offset)
                # a part of a file is not covered by the digest of the whole: it may be of the other version
                if len(found) != len(right):
                    return f"the file ends at {offset + len(found)}"
                if found != right and any(f not in (r, 255 - r) for f, r in zip(found, right, strict=True)):
                    return f"wrong bytes at {offset}"
        finally:
            os.close(descriptor)
        return ""

    @staticmethod
    def _look(path: str, content: Pattern, chance: random.Random) -> str:
        folder = Path(path).parent
        names = {f"{number}.bin" for number in range(FILES)}
        if set(os.listdir(folder)) != names:
            return "wrong names"
        size = os.stat(path).st_size
        return "" if size == content.size else f"size {size}"

    @staticmethod
    def _mapped(path: str, content: Pattern, chance: random.Random) -> str:
        done = subprocess.run([sys.executable, "-c", MAPPED, path], capture_output=True, text=True)
        if done.returncode:  # a bus error, or an OSError of open
            raise OSError(errno.EIO, "mmap")
        return "" if done.stdout.strip() == content.md5 else "wrong bytes in memory"

    def _copy(self, path: str, content: Pattern, chance: random.Random) -> str:
        target = self.base / f"copy-{threading.get_ident()}"
        done = subprocess.run(["cp", path, target], capture_output=True, text=True)
        if done.returncode:
            raise OSError(errno.EIO, done.stderr)
        wrong = _difference(target.read_bytes(), content)
        return f"exit status 0, and {wrong}" if wrong else ""

    def _all_is_right_again(self) -> None:
        """When the faults are gone every file is right, at the latest when the listings of that time have expired."""
        for session in range(SESSIONS):
            for number in range(FILES):
                path = self.face.path(f"/P/S/e{session}/1/R/{number}.bin")
                end = time.monotonic() + 20
                while True:
                    try:
                        wrong = self._whole(path, _content(session, number), self.chance)
                        break
                    except OSError as problem:
                        wrong = f"{path}: {problem} although all is well again"
                        if time.monotonic() > end:
                            break
                        threading.Event().wait(0.1)
                if wrong:
                    self.report.wrong.append(wrong)
