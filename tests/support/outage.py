"""A server that is away, or silent, in the middle of a ``cp -r``: who waits how long, and when all is well again."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.faces import mounted, until
from support.studies import one_session
from xnatfs.demo import DemoServer, Rule

SIZE = 40_000
SCANS, FILES = 6, 20
SLACK = 6.0
"""Seconds more than a deadline, for a machine that does other things as well."""
RECOVERY = 10.0
"""Seconds after the server's return in which everything must be well again."""


@dataclass
class Calls:
    """All calls of one kind during the outage."""

    limit: float
    longest: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class Report:
    kind: str
    seconds: float
    calls: dict[str, Calls] = field(default_factory=dict)
    copy_status: int = 0
    copy_complaints: int = 0
    copy_seconds: float = 0.0
    """From the beginning of the outage to the end of ``cp -r``."""
    recovery: float = 0.0
    """From the server's return to the first listing and the first bytes that were not known before."""
    wrong: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        found = list(self.wrong)
        for what, calls in self.calls.items():
            if calls.longest > calls.limit + SLACK:
                found.append(f"{what} took {calls.longest:.1f} s, the limit is {calls.limit:g} s")
            if not calls.outcomes:
                found.append(f"{what}: none came to its end")
        if self.recovery > RECOVERY:
            found.append(f"well again only {self.recovery:.1f} s after the server's return")
        return found

    def text(self) -> str:
        ended = "whole" if self.copy_status == 0 else f"with status {self.copy_status}"
        lines = [
            f"outage of {self.seconds:.0f} s, the server is {self.kind}",
            f"  cp -r ended {ended}, {self.copy_seconds:.1f} s after its beginning; complaints: {self.copy_complaints}",
        ]
        for what, calls in self.calls.items():
            outcomes = ", ".join(f"{count} {name}" for name, count in sorted(calls.outcomes.items()))
            lines.append(f"  {what:26} longest {calls.longest:7.3f} s of {calls.limit:g} s; {outcomes}")
        lines.append(f"  well again {self.recovery:.2f} s after the server's return")
        return "\n".join(lines)


class Outage:
    """One outage. ``kind``: ``away`` (nothing listens) or ``silent`` (requests are taken, and nothing is said)."""

    def __init__(
        self,
        base: Path,
        seconds: float,
        *,
        kind: str = "away",
        loop: str = "fast",
        metadata: float = 20.0,
        read: float = 60.0,
    ) -> None:
        self.base = base
        self.metadata, self.read = metadata, read
        self.loop = loop
        self.report = Report(kind, seconds)
        self.archive = one_session(scans=SCANS, resources=("R",), files=FILES, size=SIZE)
        for number in range(200):  # never looked at before the end of the outage
            self.archive.add_subject(self.archive.add_project(f"N{number}"), "S")
        self._over = threading.Event()

    def run(self) -> Report:
        options = ["--metadata-timeout", f"{self.metadata:g}", "--read-timeout", f"{self.read:g}"]
        self.server = DemoServer(self.archive).start()
        try:
            with mounted(self.server.url, self.base / "mnt", self.base, *options, loop=self.loop) as self.face:
                self._outage()
                self._all_is_right()
                if "Traceback" in self.face.text():
                    self.report.wrong.append(self.face.text()[-3000:])
        finally:
            self.server.stop()
        return self.report

    def _outage(self) -> None:
        cached = self._path(SCANS, 0)
        right = Path(cached).read_bytes()
        held = os.open(cached, os.O_RDONLY)
        halfway = self.server.faults.add(Rule("stall", path="/scans/[234]/.*files", at=100, count=None))
        copy = subprocess.Popen(
            ["cp", "-r", self.face.path("/P/S/E"), self.base / "copy"], stderr=subprocess.PIPE, text=True
        )
        until(lambda: self.server.faults.hits(halfway))
        away = Rule("no_answer", count=None)
        if self.report.kind == "away":
            self.server.stop()
        else:
            self.server.faults.add(away)
        began = time.monotonic()
        if Path(cached).read_bytes() != right:
            self.report.wrong.append("what is cached is not served while the server is away")
        fresh = itertools.count()
        meta, read = self.metadata, 2 * self.read  # the kernel asks again where what it read in advance failed
        threads = [
            self._watch("stat of a listed file", meta, lambda: os.stat(cached)),
            self._watch("ls of what is unknown", meta, lambda: os.listdir(self.face.path(f"/N{next(fresh) % 200}"))),
            self._watch("reading what is not cached", meta + read, lambda: Path(self._path(5, FILES - 1)).read_bytes()),
            self._watch("reading an open file", 0.0, lambda: os.pread(held, SIZE, 0)),
            self._watch("statfs", 0.0, lambda: os.statvfs(self.face.root)),
            self._watch("status.json", 0.0, lambda: Path(self.face.path("/.xnat/status.json")).read_bytes()),
        ]
        ender = threading.Thread(target=self._end_of, args=(copy, began))
        ender.start()
        threading.Event().wait(max(0.0, self.report.seconds - (time.monotonic() - began)))
        self._over.set()
        for thread in threads:  # none of them may still be inside a call for longer than its limit
            thread.join(self.metadata + 2 * self.read + 4 * SLACK)
            if thread.is_alive():
                self.report.wrong.append(f"{thread.name} hangs")
        os.close(held)
        if self.report.kind == "away":
            self.server = DemoServer(self.archive, port=self.server.port).start()
        else:
            self.server.faults.clear()
        back = time.monotonic()
        for call in (lambda: os.listdir(self.face.path("/N199")), lambda: Path(self._path(5, 1)).read_bytes()):
            until(lambda call=call: self._outcome(call) == "ok", 10 * RECOVERY)
        self.report.recovery = time.monotonic() - back
        ender.join(SCANS * FILES * SLACK)
        if ender.is_alive():
            copy.kill()
            self.report.wrong.append("cp -r does not end")

    def _path(self, scan: int, number: int) -> str:
        return self.face.path(f"/P/S/E/{scan}/R/r_{number:04d}.bin")

    @staticmethod
    def _outcome(call: Callable[[], object]) -> str:
        try:
            call()
        except OSError as problem:
            return errno.errorcode.get(problem.errno or 0, str(problem))
        return "ok"

    def _watch(self, what: str, limit: float, call: Callable[[], object]) -> threading.Thread:
        """Make this call again and again while the outage lasts, and take the time."""
        calls = self.report.calls[what] = Calls(limit)

        def run() -> None:
            while not self._over.is_set():
                began = time.monotonic()
                outcome = self._outcome(call)
                calls.longest = max(calls.longest, time.monotonic() - began)
                calls.outcomes[outcome] += 1
                self._over.wait(0.05)

        thread = threading.Thread(target=run, name=what)
        thread.start()
        return thread

    def _end_of(self, copy: subprocess.Popen[str], began: float) -> None:
        """When ``cp -r`` has ended: what it did not complain of is right."""
        _, complaints = copy.communicate()
        self.report.copy_seconds = time.monotonic() - began
        self.report.copy_status = copy.returncode
        self.report.copy_complaints = len(complaints.splitlines())
        if bool(copy.returncode) != bool(complaints):
            self.report.wrong.append(f"cp ended with {copy.returncode} and said: {complaints[:500]}")
        for scan, number in itertools.product(range(1, SCANS + 1), range(FILES)):
            part = self.base / "copy" / str(scan) / "R" / f"r_{number:04d}.bin"
            if part.exists() and f"/{scan}/R/{part.name}'" not in complaints and part.read_bytes() != self._truth(part):
                self.report.wrong.append(f"{part} differs, and cp said nothing of it")

    def _truth(self, part: Path) -> bytes:
        (session,) = self.archive.experiments.values()
        (resource,) = session.scans[part.parts[-3]].resources.values()
        content = resource.files[part.name].content
        return content.read(0, content.size)

    def _all_is_right(self) -> None:
        shutil.rmtree(self.base / "copy", ignore_errors=True)
        again = subprocess.run(
            ["cp", "-r", self.face.path("/P/S/E"), self.base / "copy"], capture_output=True, text=True, timeout=100
        )
        if again.returncode:
            self.report.wrong.append(f"afterwards: {again.stderr[:500]}")
        for part in (self.base / "copy").rglob("*.bin"):
            if part.read_bytes() != self._truth(part):
                self.report.wrong.append(f"afterwards {part} differs")
