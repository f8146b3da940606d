#!/usr/bin/env python3
"""``xnatfs get`` of a session of 4,000 files beside the ways that others have for it, 65 ms away.

Every variant is timed as a whole, from its start to the last file on disk: interpreter, login and listings included.
xnatpy and pyxnat are asked for what their documentation offers for a session: one archive of all scans, unpacked. What
each variant has written is compared with the source, file by file; none but ``xnatfs get`` does that itself. Needs
curl, unzip, and from PyPI pyxnat and xnat.

    scripts/bench/get.py [--quick] [--runs N] [--json FILE] [PART ...]
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import (
    PASSWORD,
    SESSION,
    USER,
    Comparison,
    Run,
    Server,
    check,
    cookie,
    curl,
    end,
    environment,
    make_series,
    parse,
    parser,
    report,
    run,
    say,
    scratch,
)

LATENCY = 0.065
SCANS, FILES = 20, 200
LEAST, MOST = 2048, 60 * 1024
"""Bytes of a file."""
URL = f"/data/projects/{SESSION.parts[0]}/subjects/{SESSION.parts[1]}/experiments/{SESSION.parts[2]}"
ALL = f"{URL}/scans/ALL/files?format=zip"
_MEMBER = re.compile(r"scans/(?P<scan>\d+)[^/]*/resources/(?P<resource>[^/]+)/files/(?P<file>.+)$")

Found = dict[str, str]
"""SCAN/RESOURCE/FILE -> MD5."""


def found_below(folder: Path) -> Found:
    """Every file there, leftovers too, by its place in the session; of an unpacked archive as well."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            member = _MEMBER.search(name)
            name = "/".join(member.groups()) if member else name
            found[name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return found


class Ways:
    """A session on a server, and the ways to have all of it in a directory. Each starts with nothing."""

    def __init__(self, folder: Path, server: Server, truth: Found) -> None:
        self.folder, self.server, self.truth = folder, server, truth
        self.out = folder / "out"
        self.by_zip()  # the server has its checksums

    def _timed(self, work: Callable[[], object], found: Callable[[], Path], what: str) -> dict[str, float]:
        self.server.reset()
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        log = self.server.log()
        written = found_below(found())
        check(written == self.truth, what)
        shutil.rmtree(self.out)
        return {"s": seconds, "files verified": len(written), **log}

    def by_zip(self) -> dict[str, float]:
        def work() -> None:
            self.out.mkdir()
            curl(self.server.url, ALL, "-o", self.out / "all.zip", session=cookie(self.server.url))
            run("unzip", "-q", self.out / "all.zip", "-d", self.out)
            (self.out / "all.zip").unlink()

        return self._timed(work, lambda: self.out, "curl and unzip")

    def get(self, *options: str) -> subprocess.Popen[bytes]:
        """``xnatfs get``, begun."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "xnatfs", "get", "--quiet", *options, "--cache-dir", str(home / "cache")]
        return subprocess.Popen(
            [*command, SESSION.as_posix(), str(self.out)],
            env=environment(home, XNAT_HOST=self.server.url, XNAT_USER=USER, XNAT_PASS=PASSWORD),
            stdin=subprocess.DEVNULL,
        )

    def by_get(self, *options: str) -> dict[str, float]:
        return self._timed(lambda: ended(self.get(*options)), lambda: self.out / SESSION, "xnatfs get")

    def by_client(self, name: str) -> dict[str, float]:
        def work() -> None:
            self.out.mkdir()
            command = [sys.executable, __file__, "--client", name, self.server.url, str(self.out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        return self._timed(work, lambda: self.out, name)

    def interrupted(self) -> dict[str, dict[str, float]]:
        """Ctrl-C when about half is there, then again, and again with everything there."""
        measured = {}
        self.server.reset()
        began = time.perf_counter()
        process = self.get()
        while process.poll() is None and sum(1 for _ in self.out.rglob("*.dcm")) < len(self.truth) // 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        measured["until Ctrl-C"] = {"s": time.perf_counter() - began, **self._partly(), **self.server.log()}
        for name in ("the same again", "and again"):
            self.server.reset()
            began = time.perf_counter()
            ended(self.get())
            seconds = time.perf_counter() - began
            measured[name] = {"s": seconds, **self._partly(), **self.server.log()}
        check(found_below(self.out / SESSION) == self.truth, "xnatfs get, interrupted and resumed")
        shutil.rmtree(self.out)
        return measured

    def _partly(self) -> dict[str, float]:
        """Files that are there, and how many of them are whole and right: all of them have to be."""
        there = found_below(self.out / SESSION)
        right = sum(self.truth.get(name) == digest for name, digest in there.items())
        check(right == len(there), "a file under its own name that is not whole")
        return {"files verified": right}


def ended(process: subprocess.Popen[bytes]) -> None:
    try:
        check(process.wait(200) == 0, f"exit status {process.returncode}")
    finally:
        end(process)


# --- other clients, in processes of their own ---------------------------------------------------------------------


def client_pyxnat(url: str, out: Path) -> None:
    import pyxnat

    with pyxnat.Interface(server=url, user=USER, password=PASSWORD) as interface:
        scans = interface.select("/project/P/subject/S/experiment/E").scans()
        scans.download(str(out), type="ALL", extract=True, removeZip=True)


def client_xnatpy(url: str, out: Path) -> None:
    import xnat

    with xnat.connect(url, user=USER, password=PASSWORD) as session:
        session.projects["P"].subjects["S"].experiments["E"].download_dir(str(out), verbose=False)


CLIENTS: dict[str, Callable[[str, Path], None]] = {"pyxnat": client_pyxnat, "xnatpy": client_xnatpy}


# --- parts --------------------------------------------------------------------------------------------------------


def make_study(folder: Path, arguments: argparse.Namespace) -> Found:
    scans, files = (4, 50) if arguments.quick else (SCANS, FILES)
    session = folder / "study" / SESSION
    if not session.exists():
        for scan in range(1, scans + 1):
            make_series(session / str(scan) / "DICOM", files, LEAST, MOST)
    return found_below(session)


def copies(arguments: argparse.Namespace, folder: Path) -> None:
    truth = make_study(folder, arguments)
    size = sum(path.stat().st_size for path in (folder / "study").rglob("*") if path.is_file()) / 1e6
    with Server({"kind": "directory", "path": folder / "study"}, latency=LATENCY) as server:
        ways = Ways(folder, server, truth)
        variants: dict[str, Run] = {
            "curl zip + unzip": ways.by_zip,
            "xnatfs get": ways.by_get,
            "xnatpy, download_dir": lambda: ways.by_client("xnatpy"),
            "pyxnat, scans().download": lambda: ways.by_client("pyxnat"),
        }
        result = Comparison(
            f"A session of {len(truth)} files, {size:.0f} MB, 65 ms latency, to a directory",
            "curl zip + unzip",
            note="From the start of each program. MB: of contents sent.",
        )
        report(result.measure(variants, arguments.runs), arguments)


def singly(arguments: argparse.Namespace, folder: Path) -> None:
    truth = make_study(folder, arguments)
    with Server({"kind": "directory", "path": folder / "study"}, latency=LATENCY) as server:
        ways = Ways(folder, server, truth)
        variants: dict[str, Run] = {
            "xnatfs get": ways.by_get,
            "xnatfs get --no-series": lambda: ways.by_get("--no-series"),
            "xnatfs get --no-series --jobs 32": lambda: ways.by_get("--no-series", "--jobs", "32"),
        }
        result = Comparison(
            f"The same {len(truth)} files by one request each, as from a server without archives",
            "xnatfs get",
            note=f"One after the other, so many requests would wait {len(truth) * LATENCY:.0f} s for their answers.",
        )
        report(result.measure(variants, 1), arguments)


def resumed(arguments: argparse.Namespace, folder: Path) -> None:
    truth = make_study(folder, arguments)
    with Server({"kind": "directory", "path": folder / "study"}, latency=LATENCY) as server:
        ways = Ways(folder, server, truth)
        result = Comparison(
            f"xnatfs get of {len(truth)} files, interrupted when half are there and run again",
            "until Ctrl-C",
            note="Verified: compared with the source; no file stood under its name that was not whole.",
        )
        for number in range(arguments.runs):
            for name, measured in ways.interrupted().items():
                result.samples.setdefault(name, []).append(measured)
                say(f"  {result.title} | round {number + 1}/{arguments.runs} | {name}: {measured['s']:.3f} s")
        report(result, arguments)


PARTS = {
    "copies": (copies, "a session beside curl and unzip, xnatpy and pyxnat"),
    "singly": (singly, "the same without archives"),
    "resumed": (resumed, "interrupted and run again"),
}


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        CLIENTS[sys.argv[2]](sys.argv[3], Path(sys.argv[4]))
        return
    arguments = parse(parser(__doc__ or "", {name: text for name, (_, text) in PARTS.items()}), PARTS)
    with scratch(arguments) as folder:
        for part in arguments.parts:
            PARTS[part][0](arguments, folder)


if __name__ == "__main__":
    main()
