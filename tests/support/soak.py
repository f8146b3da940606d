"""Random readers of a mount whose server misbehaves at random and whose files change: right or an error, and level.

Used by the short test in the suite and by ``scripts/soak``.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.faces import mounted
from support.readers import CALL, Findings, History, Place, Reader
from xnatfs.cache.ledger import Ledger
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.demo.content import Pattern

SESSIONS, FILES = 6, 12
SIZES = [3_000, 70_000, 500_000, 2_500_000]
CACHE_LIMIT = 40_000_000
METADATA, READ, TTL = 3, 4, 2
"""Seconds: the deadlines of the mount, and how long its listings hold."""
STALE = TTL + METADATA + 10.0
"""Seconds for which an old version may still be opened: as long as a listing holds, after an answer that took its time
to come, on a machine that does other things as well."""
KEPT = SESSIONS * FILES
"""Entries that the cache keeps open when nobody uses them: in the end that is all files."""
HANDLES, THREADS = 140 + KEPT, 90
"""Bounds when all is quiet: connections, threads of the pools and of the loop, and entries that are still held."""
GLOOM = 60.0
"""Seconds with nothing but errors after which the mount does not recover."""

NO_LOGIN, LISTINGS = "/data/(?!JSESSION|auth)", "/data/(projects|experiments)$|/(files|resources|scans)$"
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
    {"action": "drip", "size": 1_000, "seconds": 0.05},
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
SPARING_LOGIN = [
    fault for fault in FAULTS if fault["action"] in ("unauthorized", "expire") or fault.get("status") == 403
]
"""A password that was refused is not sent again, and a session that is lost right after the login is not ours: the rest
of the time would be EACCES."""


@dataclass
class Sample:
    second: float
    memory: int
    """Resident KiB."""
    handles: int
    threads: int
    cached: int
    """Bytes on the disk of the cache."""
    booked: int
    """Bytes that the cache's own books say."""


@dataclass
class Report:
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0
    faults: int = 0
    overwritten: int = 0
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    """When all is quiet again."""
    before: Sample | None = None

    def problems(self) -> list[str]:
        """What must not be; empty if all is well."""
        found = list(self.findings.wrong)
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
            for name, room in (("memory", 20_000), ("handles", 12 + KEPT), ("threads", 8)):
                _, early, _, late = self._medians(name)
                if late > early * 1.2 + room:
                    found.append(f"{name} grows: {early} in the second quarter, {late} in the last")
        return found

    def _medians(self, name: str) -> list[int]:
        """Of the four quarters of the time."""
        count = len(self.samples)
        quarters = [self.samples[n * count // 4 : (n + 1) * count // 4] for n in range(4)]
        values = [sorted(getattr(sample, name) for sample in part) for part in quarters]
        return [part[len(part) // 2] if part else 0 for part in values]

    def text(self) -> str:
        assert self.before is not None
        assert self.after is not None
        done = self.findings.done
        lines = [f"{self.seconds:.0f} s, {sum(done.values())} operations, {self.faults} faults"]
        lines[0] += f", {self.overwritten} files overwritten"
        lines += [f"  {name:28} {count}" for name, count in sorted(done.items())]
        lines += [f"  longest {name:20} {seconds:.2f} s" for name, seconds in sorted(self.findings.longest.items())]
        for name in ("memory", "handles", "threads", "cached", "booked"):
            ends = f"before {getattr(self.before, name):,}, after {getattr(self.after, name):,}"
            middles = " ".join(f"{value:,}" for value in self._medians(name))
            most = max((getattr(sample, name) for sample in self.samples), default=0)
            lines.append(f"  {name:8} {ends}, medians of the quarters {middles}, most {most:,}")
        return "\n".join(lines)


def _content(session: int, number: int) -> Pattern:
    return Pattern(SIZES[number % len(SIZES)] + session, 1000 * session + number)


class Soak:
    """One run. ``seed`` decides what is read and what goes wrong, not in which order threads get to it."""

    def __init__(self, base: Path, seconds: float, *, seed: int = 1, readers: int = 8, loop: str = "fast") -> None:
        self.base = base
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.readers = readers
        self.loop = loop
        self.report = Report()
        self.findings = self.report.findings
        self._stop = threading.Event()
        self._archive = Archive()
        self._subject = self._archive.add_subject(self._archive.add_project("P"), "S")
        self._files = [file for number in range(SESSIONS) for file in self._session(number)]

    def _session(self, session: int) -> list[tuple[Any, str, Place]]:
        """Its files of mixed sizes: resource, name, and the place in the mount. All sessions have about 55 MB."""
        scan = self._archive.add_scan(self._archive.add_session(self._subject, f"e{session}"), "1", type="T1")
        mixed = self._archive.add_resource(scan, "R")
        names = [f"{number}.bin" for number in range(FILES)]
        found = []
        for number, name in enumerate(names):
            content = _content(session, number)
            self._archive.add_file(mixed, name, content)
            path = f"{self.base}/mnt/P/S/e{session}/1/R/{name}"
            found.append((mixed, name, Place(path, History(content), frozenset(names))))
        return found

    def run(self) -> Report:
        options = ["--metadata-timeout", str(METADATA), "--read-timeout", str(READ), "--ttl", str(TTL)]
        options += ["--cache-size", f"{CACHE_LIMIT // 1_000_000}M", "--min-free", "1M"]
        with (
            DemoServer(self._archive) as self.server,
            mounted(self.server.url, self.base / "mnt", self.base, *options, loop=self.loop) as self.face,
        ):
            self.report.before = self._sample(0.0)
            began = time.monotonic()
            works = [lambda chance, n=number: self._read(chance, programs=n < 2) for number in range(self.readers)]
            threads = [
                threading.Thread(target=work, args=(random.Random(self.chance.random()),))
                for work in (*works, self._spoil, self._overwrite)
            ]
            for thread in threads:
                thread.start()
            pause = max(0.1, min(1.0, self.seconds / 200))
            while (second := time.monotonic() - began) < self.seconds and not self.findings.wrong:
                self._stop.wait(pause)
                self.report.samples.append(self._sample(second))
                self._alarm()
            self._stop.set()
            self.server.faults.clear()
            for thread in threads:
                thread.join(CALL)
                if thread.is_alive():
                    self.findings.wrong.append(f"{thread.name} hangs")
            self.report.seconds = time.monotonic() - began
            self._all_is_right_again()
            self.report.after = self._settled()
            log = self.face.text()
            if "Traceback" in log:
                self.findings.wrong.append(log[max(0, log.index("Traceback") - 300) :][:3000])
        return self.report

    def _alarm(self) -> None:
        self.findings.wrong.extend(self.findings.hanging())
        if time.monotonic() - self.findings.right > GLOOM:
            self.findings.wrong.append(f"nothing but errors for {GLOOM:.0f} s")

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
        books = Ledger(next((self.base / "cache").glob("v*")) / "usage")
        counts = books.read()
        books.close()
        booked = counts.bytes if counts else 0
        return Sample(second, int(status["VmRSS"].split()[0]), handles, int(status["Threads"]), cached, booked)

    def _settled(self) -> Sample:
        """As it is when what is still under way has ended."""
        end = time.monotonic() + 30
        sample = self._sample(self.seconds)
        while time.monotonic() < end and (sample.handles > HANDLES or sample.threads > THREADS):
            threading.Event().wait(0.2)
            sample = self._sample(self.seconds)
        return sample

    # -- what goes on beside each other -------------------------------------------------------------------------------

    def _read(self, chance: random.Random, *, programs: bool) -> None:
        reader = Reader(self.findings, chance, self.base, STALE, programs=programs)
        while not self._stop.is_set():
            reader.step(chance.choice(self._files)[2])

    def _overwrite(self, chance: random.Random) -> None:
        """Each file once in half a minute or so, by one of the same size every other time."""
        seed = SESSIONS * 1000
        while not self._stop.wait(chance.uniform(0.0, 0.8)):
            resource, name, place = chance.choice(self._files)
            seed += 1
            size = place.history.last.size
            content = Pattern(size if chance.random() < 0.5 else max(1, size + chance.randrange(-2000, 2000)), seed)
            place.history.put(content, lambda r=resource, n=name, c=content: self._archive.replace_file(r, n, c))
            self.report.overwritten += 1

    def _spoil(self, chance: random.Random) -> None:
        """Faults come and go; at most three at a time."""
        rules: list[Rule] = []
        while not self._stop.wait(chance.uniform(0.05, 0.6)):
            fault = chance.choice(FAULTS)
            anything = NO_LOGIN if fault in SPARING_LOGIN else "/data/"
            for_what = chance.choice(["/data/experiments/", "/files/", "format=zip", anything, LISTINGS])
            where = {"query": for_what} if "=" in for_what else {"path": for_what}
            rules.append(self.server.faults.add(Rule(**fault, **where, count=chance.choice([1, 1, 2, 5, None]))))
            self.report.faults += 1
            self.server.reset_log()  # an hour of it takes a gigabyte
            while len(rules) > chance.choice([0, 1, 3]):
                self.server.faults.remove(rules.pop(0))
            if chance.random() < 0.2:
                self.server.faults.release()

    def _all_is_right_again(self) -> None:
        """When the faults are gone every file is right, at the latest when the listings of that time have expired."""
        reader = Reader(self.findings, self.chance, self.base, TTL, programs=False)
        for _, _, place in self._files:
            end = time.monotonic() + 20 + STALE
            while True:
                try:
                    wrong = reader.whole(place)
                    break
                except OSError as problem:
                    wrong = f"{place.path}: {problem} although all is well again"
                    if time.monotonic() > end:
                        break
                    threading.Event().wait(0.1)
            if wrong:
                self.findings.wrong.append(wrong)
