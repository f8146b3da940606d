#!/usr/bin/env python3
"""Listings: sessions, whole projects, large directories, beside curl, bindfs, pyxnat and xnatpy.

The server is the demo server in a process of its own; answers are made by it anew for each cold run, on the same
processors. bindfs shows a tree of empty files of the same names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import (
    PASSWORD,
    USER,
    Comparison,
    Mounted,
    Server,
    cookie,
    curl,
    drop_caches,
    mounted,
    parse,
    parser,
    peer_mount,
    report,
    run,
    scratch,
    timed,
)

BULK = Path("BULK/bulk-01/bulk-01_MR1")
ALL_FILES = "/data/experiments/XNAT_E00001/files?all=true&format=json"


def find(root: Path) -> int:
    """Entries that ``find`` sees."""
    done = subprocess.run(["find", str(root)], stdout=subprocess.PIPE, check=True)
    return done.stdout.count(b"\n")


def entries_of(root: Path) -> list[str]:
    return sorted(child.name for child in root.iterdir())


def walked(root: Path, expected: int) -> Callable[[], None]:
    def work() -> None:
        found = find(root)
        if found != expected:
            raise SystemExit(f"{root}: {found} entries where there are {expected}")

    return work


def cost(server: Server, mount: Mounted, work: Callable[[], object]) -> dict[str, float]:
    """Seconds, and what they cost."""
    server.reset()
    before = mount.cpu
    seconds = timed(work)
    log = server.log()
    return {
        "seconds": seconds,
        "requests": log["other requests"],
        "MB listed": log["listed MB"],
        "CPU of the mount, s": mount.cpu - before,
        "memory of the mount at most, MiB": mount.memory / 2**20,
    }


@contextmanager
def local(base: Path, directories: list[str], files: int, name: str) -> Iterator[Path]:
    """bindfs over empty files of these names."""
    real = Path(tempfile.mkdtemp(prefix="real-", dir=base))
    for directory in directories:
        folder = real / directory
        folder.mkdir(parents=True)
        for number in range(1, files + 1):
            os.close(os.open(folder / name.format(number), os.O_CREAT | os.O_WRONLY))
    with peer_mount(base, ["bindfs", "-f", str(real)], 3) as point:
        yield point


def session(arguments: argparse.Namespace, base: Path) -> None:
    """`find` over a session of 4,000 files against one `curl` of all its files and `json.loads` of that."""
    files = 20 if arguments.quick else 200
    with Server({"kind": "session", "scans": 10, "resources": 2, "files": files, "size": 64}) as server:
        key = cookie(server.url)
        answer = base / "answer.json"

        def whole() -> dict[str, float]:
            def work() -> None:
                curl(server.url, ALL_FILES, "-o", answer, session=key)
                json.loads(answer.read_bytes())

            return {"seconds": timed(work)}

        def ours() -> dict[str, float]:
            with mounted(server.url, base) as mount:
                entries_of(mount.root / BULK.parent)
                return cost(server, mount, walked(mount.root / BULK, 1 + 10 + 2 + 20 + 20 * files))

        variants = {"curl + json.loads": whole, "find, cold": ours}
        demand = "at most 3 requests, at most 1.3 x"
        title = f"a session of {20 * files} files"
        report(Comparison(title, "curl + json.loads", demand).measure(variants, arguments.runs), arguments)


def project(arguments: argparse.Namespace, base: Path) -> None:
    """`find` over a project, 20 ms away: cold, and again; beside `find` on bindfs."""
    sessions = 10 if arguments.quick else arguments.sessions
    shape = {"kind": "project", "sessions": sessions, "scans": 10, "resources": 2, "files": 100}
    entries = 2 + sessions * (2 + 1 + 2 + 10 + 20 + 2000)
    names = [
        f"s{n:05d}/s{n:05d}_MR1/{scan}/{label}"
        for n in range(1, sessions + 1)
        for scan in range(1, 11)
        for label in ("DICOM", "NIFTI")
    ]
    with (
        Server(shape, latency=0.02) as server,
        local(base, names, 100, "{:04d}.dcm") as peer,
        mounted(server.url, base, "--ttl", "86400") as mount,
    ):
        root = mount.root / "MANY"
        entries_of(mount.root)
        cold = cost(server, mount, walked(root, entries))
        cold["entries a second"] = entries / cold["seconds"]
        once = Comparison(
            f"find over {sessions} sessions, {entries} entries: cold", "find, cold", "at most 60 requests"
        )
        report(once.measure({"find, cold": lambda: cold}, 1), arguments)

        def warm() -> dict[str, float]:
            return cost(server, mount, walked(root, entries))

        def bind() -> dict[str, float]:
            return {"seconds": timed(lambda: find(peer))}

        again = Comparison(f"find over {sessions} sessions: again", "bindfs", "at most 2 x")
        report(again.measure({"bindfs": bind, "find, warm": warm}, arguments.runs), arguments)


def directory(arguments: argparse.Namespace, base: Path) -> None:
    """`ls -l` of 100,000 files, its subject known: cold, and again; beside bindfs and one `curl` of the listing."""
    files = 2000 if arguments.quick else 100_000
    with (
        Server({"kind": "session", "scans": 1, "resources": 1, "files": files, "size": 1}) as server,
        local(base, ["D"], files, "{:06d}.dcm") as peer,
    ):
        key = cookie(server.url)

        def cold() -> dict[str, float]:
            with mounted(server.url, base) as mount:
                entries_of(mount.root / BULK.parent)
                return cost(server, mount, lambda: run("ls", "-l", mount.root / BULK / "1" / "DICOM"))

        def bind() -> dict[str, float]:
            drop_caches()
            return {"seconds": timed(lambda: run("ls", "-l", peer / "D"))}

        def get() -> dict[str, float]:
            return {"seconds": timed(lambda: curl(server.url, ALL_FILES, "-o", os.devnull, session=key))}

        variants = {"bindfs": bind, "curl": get, "ls -l, cold": cold}
        demand = "at most 2 requests; at most 2 x bindfs and one curl"
        report(Comparison(f"ls -l of {files} files", "bindfs", demand).measure(variants, arguments.runs), arguments)

        with mounted(server.url, base) as mount:
            there = mount.root / BULK / "1" / "DICOM"
            run("ls", "-l", there)
            again = {
                "bindfs": lambda: {"seconds": timed(lambda: run("ls", "-l", peer / "D"))},
                "ls -l, warm": lambda: cost(server, mount, lambda: run("ls", "-l", there)),
            }
            run("ls", "-l", peer / "D")
            title, demand = f"ls -l of {files} files, again", "at most 1.25 x"
            report(Comparison(title, "bindfs", demand).measure(again, arguments.runs), arguments)

        with mounted(server.url, base) as mount, ThreadPoolExecutor(32) as pool:
            entries_of(mount.root / BULK)

            there, width = mount.root / BULK / "1" / "DICOM", max(4, len(str(files)))

            def stats() -> None:
                list(pool.map(lambda n: (there / f"{n:0{width}d}.dcm").stat(), range(1, 1001)))

            one = cost(server, mount, stats)
            once = Comparison("1,000 stats at once, cold", "stat", "1 request")
            report(once.measure({"stat": lambda: one}, 1), arguments)


def clients(arguments: argparse.Namespace, base: Path) -> None:
    """The names of all files of a session, as pyxnat and xnatpy get them."""
    files = 20 if arguments.quick else 200
    with Server({"kind": "session", "scans": 10, "resources": 2, "files": files, "size": 64}) as server:

        def measured(names: Callable[[], int]) -> dict[str, float]:
            server.reset()
            found: list[int] = []
            seconds = timed(lambda: found.append(names()))
            if found != [20 * files]:
                raise SystemExit(f"{found} files where there are {20 * files}")
            log = server.log()
            return {
                "seconds": seconds,
                "requests": log["other requests"] + log["data requests"],
                "MB": log["listed MB"] + log["MB"],
            }

        def by_pyxnat() -> dict[str, float]:
            import pyxnat

            connection = pyxnat.Interface(server=server.url, user=USER, password=PASSWORD)
            path = f"/project/BULK/subject/bulk-01/experiment/{BULK.name}/scans/*/resources/*/files/*"
            return measured(lambda: len(connection.select(path).get()))

        def by_xnatpy() -> dict[str, float]:
            import xnat

            with xnat.connect(server.url, user=USER, password=PASSWORD, loglevel="ERROR") as connection:

                def names() -> int:
                    found: Any = connection.experiments[BULK.name]
                    return sum(len(r.files) for scan in found.scans.values() for r in scan.resources.values())

                return measured(names)

        def by_mount() -> dict[str, float]:
            with mounted(server.url, base) as mount:
                return measured(lambda: find(mount.root / BULK) - 33)

        variants = {"find on the mount": by_mount, "pyxnat": by_pyxnat, "xnatpy": by_xnatpy}
        title = f"names of the {20 * files} files of a session, without login"
        report(Comparison(title, "find on the mount").measure(variants, arguments.runs), arguments)


PARTS = {"session": session, "directory": directory, "project": project, "clients": clients}


def main() -> None:
    made = parser(__doc__ or "", {name: (part.__doc__ or "").splitlines()[0] for name, part in PARTS.items()})
    made.add_argument("--sessions", type=int, default=1000, metavar="N", help="of 2,000 files, in part project")
    arguments = parse(made, PARTS)
    with scratch(arguments) as base:
        for name in arguments.parts:
            PARTS[name](arguments, base)


if __name__ == "__main__":
    main()
