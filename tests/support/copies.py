"""Copies through a real mount while answers are cut, reset, too short or stalled at random places.

Each file is copied once, cold: by ``cp`` from a mount that asks for each file, or by ``cp -r`` of a whole resource
from one that asks for archives. What matters: no file that ``cp`` says nothing about differs from the truth.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support.faces import mounted
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.demo.content import Pattern

FILES = 50
"""In a resource; every session has one."""
SIZES = [0, 1, 700, 4096, 9_000, 30_000, 65_536, 65_537, 150_000, 400_000, 1_200_000]
WEIGHTS = [1, 2, 8, 8, 16, 16, 6, 6, 10, 4, 1]
AT_ONCE = 6
"""Copies under way at a time."""
ACTIONS = ["cut", "reset", "stall", "length"]
SHARES = [({"path": "/files/"}, 0.35), ({"query": "format=zip"}, 0.9), ({"query": "format=json"}, 0.1)]
"""Of so many of the requests for single files, archives and listings is an answer spoilt."""


def rules(chance: random.Random) -> list[Rule]:
    """Every action at many places: near the start, anywhere, close to the end, after the last byte."""
    made = []
    places = [0.0, 1.0, *(chance.random() for _ in range(8)), *(1 - chance.random() ** 4 for _ in range(4))]
    for action in ACTIONS:
        for place in places:
            size = chance.choice([-1, 1]) * chance.choice([1, 7, 4096])
            # of an archive, whose length nobody knows, so many bytes
            how = {"fraction": place, "at": int(place * FILES * 40_000), "size": size, "count": None}
            for which, share in SHARES:
                rare = 0.3 if action == "stall" else 1.0  # it takes the longest
                made.append(Rule(action, chance=rare * share / len(places) / len(ACTIONS), **which, **how))
    return made


@dataclass
class Report:
    copies: int = 0
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Files that ``cp`` complained of, by what it said."""
    wrong: list[str] = field(default_factory=list)
    """Files that ``cp`` said nothing of, and that differ."""
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def text(self) -> str:
        lines = [f"{self.copies} copies in {self.seconds:.0f} s, {sum(self.faults.values())} faults"]
        lines += [f"  {name:36} {count}" for name, count in sorted(self.faults.items())]
        lines.append(f"  right, and cp says nothing           {self.right}")
        lines += [f"  cp says: {what:27} {count}" for what, count in sorted(self.refused.items())]
        lines.append(f"  differ, and cp says nothing          {len(self.wrong)}")
        return "\n".join(lines)


class Copies:
    """One run of about ``copies`` files; ``seed`` decides sizes, faults and who is copied how."""

    def __init__(self, base: Path, copies: int, *, seed: int = 1, loop: str = "fast") -> None:
        self.base = base
        self.seed = seed
        self.loop = loop
        self.sessions = max(2, -(-copies // FILES))
        chance = random.Random(seed)
        self.sizes = [chance.choices(SIZES, WEIGHTS, k=FILES) for _ in range(self.sessions)]
        self.report = Report()
        self._lock = threading.Lock()

    def _content(self, session: int, number: int) -> Pattern:
        return Pattern(self.sizes[session][number], 1000 * session + number)

    def _archive(self) -> Archive:
        made = Archive()
        for session in range(self.sessions):
            subject = made.add_subject(made.add_project(f"P{session}"), "S")
            scan = made.add_scan(made.add_session(subject, "E"), "1", type="T1")
            resource = made.add_resource(scan, "R")
            for number in range(FILES):
                made.add_file(resource, f"{number}.bin", self._content(session, number))
        return made

    def run(self) -> Report:
        options = ["--metadata-timeout", "3", "--read-timeout", "3", "--min-free", "1M"]
        began = time.monotonic()
        with (
            DemoServer(self._archive()) as server,
            mounted(server.url, self.base / "archives", self.base, *options, loop=self.loop) as archives,
            mounted(
                server.url,
                self.base / "single",
                self.base,
                *options,
                "--no-series",
                loop=self.loop,
                cache_dir=self.base / "other cache",
            ) as single,
            ThreadPoolExecutor(AT_ONCE) as workers,
        ):
            self.faces = [single, archives]
            made = [server.faults.add(rule) for rule in rules(random.Random(self.seed))]
            list(workers.map(self._session, range(self.sessions)))
            for rule in made:
                self.report.faults[f"{rule.action} of {rule.path or rule.query}"] += server.faults.hits(rule)
            server.faults.clear()
            for log in (face.text() for face in self.faces):
                if "Traceback" in log:
                    self.report.wrong.append(log[log.index("Traceback") - 300 :][:3000])
        self.report.seconds = time.monotonic() - began
        return self.report

    def _session(self, session: int) -> None:
        """All files of a session: of every second session by one ``cp -r``, else one by one."""
        source = Path(self.faces[session % 2].path(f"/P{session}/S/E/1/R"))
        target = self.base / f"copy-{session}"
        if session % 2:
            self._judge(session, range(FILES), target / "R", ["cp", "-r", str(source), f"{target}/"], target)
        else:
            for number in random.Random(session).sample(range(FILES), FILES):
                copy = target / f"{number}.bin"
                self._judge(session, [number], target, ["cp", str(source / copy.name), str(copy)], target)
        shutil.rmtree(target)

    def _judge(self, session: int, numbers, where: Path, command: list[str], target: Path) -> None:
        target.mkdir(exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        lines = done.stderr.splitlines()
        whole = [line for line in lines if ".bin'" not in line]  # of the directory: what is missing was refused
        for number in numbers:
            copy = where / f"{number}.bin"
            about = [line for line in lines if f"/{copy.name}'" in line] or (whole if not copy.exists() else [])
            content = self._content(session, number)
            differs = not copy.exists() or copy.read_bytes() != content.read(0, content.size)
            with self._lock:
                self.report.copies += 1
                if done.returncode and about:
                    self.report.refused[about[0].rpartition(": ")[2]] += 1
                elif differs:
                    said = f"status {done.returncode}: {done.stderr.strip()[:500]}"
                    self.report.wrong.append(f"P{session} {copy.name} of {content.size} bytes, {said}")
                else:
                    self.report.right += 1
