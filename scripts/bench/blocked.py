#!/usr/bin/env python3
"""Does slow work in the daemon hold up what is ready? Forty reads that wait for the network, and a long listing.

    scripts/bench/blocked.py [--quick] [--runs N] [--json FILE] [PART ...]

Needs root, FUSE, and bindfs, the control that feels the same load on the machine without being in the same daemon.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import (
    MIB,
    SESSION,
    Comparison,
    Mounted,
    Run,
    Server,
    check,
    digest,
    end,
    make_file,
    mounted,
    parse,
    parser,
    peer_mount,
    report,
    scratch,
)

FOLDER = SESSION / "1" / "R"
READ = 128 * 1024
SLOW = 40


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def read_pieces(path: Path, count: int) -> list[float]:
    """Milliseconds of reads of 128 KiB each, none of which the kernel has pages of."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    taken = []
    for number in range(count):
        began = time.perf_counter()
        got = len(os.pread(descriptor, READ, number * READ))
        taken.append(1000 * (time.perf_counter() - began))
        check(got == READ, "a short read")
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    return taken


def open_and_read(path: Path) -> float:
    """Milliseconds to open, read the first 128 KiB, and close."""
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    got = os.pread(descriptor, READ, 0)
    os.close(descriptor)
    taken = 1000 * (time.perf_counter() - began)
    check(len(got) == READ, "a short read")
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    return taken


def spread(taken: list[float], share: float = 0.95) -> dict[str, float]:
    return {f"ms, p{share * 100:.0f}": percentile(taken, share), "p50": statistics.median(taken), "max": max(taken)}


@contextmanager
def stalled_readers(server: Server, mount: Mounted, count: int = SLOW) -> Iterator[None]:
    """So many processes that have opened a file each and wait for its first byte, which does not come."""
    server.ask(do="fault", action="stall", path="/files/slow_", count=None)
    paths = [mount.root / FOLDER / f"slow_{number:02d}.bin" for number in range(count)]
    readers = [subprocess.Popen(["head", "-c", "1", path], stdout=subprocess.DEVNULL) for path in paths]
    try:
        until = time.monotonic() + 60
        while not all(_reads(reader.pid, path) for reader, path in zip(readers, paths, strict=True)):
            check(time.monotonic() < until, "the readers do not wait")
            time.sleep(0.05)
        time.sleep(1)
        yield
        check(all(reader.poll() is None for reader in readers), "a reader did not wait")
    finally:
        server.ask(do="release")
        for reader in readers:
            end(reader)


def _reads(pid: int, path: Path) -> bool:
    """Has this process the file open, and is it asleep?"""
    try:
        names = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return str(path) in names and state in "SD"


def waiting(arguments: argparse.Namespace, folder: Path) -> None:
    for number in range(SLOW):
        make_file(folder / "study" / FOLDER / f"slow_{number:02d}.bin", MIB, seed=number)
    ready = folder / "study" / FOLDER / "ready.bin"
    make_file(ready, 8 * MIB, seed=99)
    count = 20 if arguments.quick else 100

    with Server({"kind": "directory", "path": folder / "study"}) as server:

        def measured(*, slow: bool) -> dict[str, float]:
            with mounted(server.url, folder, "--no-series") as mount:
                path = mount.root / FOLDER / "ready.bin"
                check(digest(path) == digest(ready), "the ready file")
                if not slow:
                    return spread([open_and_read(path) for _ in range(count)])
                with stalled_readers(server, mount):
                    return spread([open_and_read(path) for _ in range(count)])

        variants: dict[str, Run] = {
            "idle daemon": lambda: measured(slow=False),
            f"{SLOW} reads wait": lambda: measured(slow=True),
        }
        result = Comparison(
            f"Open and read 128 KiB of a ready file while {SLOW} reads wait for the network",
            "idle daemon",
            "at most 100 ms",
            f"{count} reads in each run; the kernel's pages are dropped before each.",
        )
        report(result.measure(variants, arguments.runs), arguments)


@contextmanager
def listing_again_and_again(directory: Path) -> Iterator[list[float]]:
    """``ls`` of a directory in a loop, in the background; the seconds that each took."""
    stop, taken = threading.Event(), []

    def loop() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            subprocess.run(["ls", "-U", directory], stdout=subprocess.DEVNULL, check=True)
            taken.append(time.perf_counter() - began)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def listing(arguments: argparse.Namespace, folder: Path) -> None:
    files = 10_000 if arguments.quick else 100_000
    ready = folder / "study" / FOLDER / "ready.bin"
    make_file(ready, 64 * MIB, seed=99)
    many = SESSION / "many" / "R"
    archive = {"kind": "listing", "files": files, "path": folder / "study"}

    def reads(path: Path, seconds: float) -> list[float]:
        taken: list[float] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            taken += read_pieces(path, 64 * MIB // READ)
            time.sleep(0.01)
        return taken

    with Server(archive) as server:

        def measured(*, busy: bool, control: bool = False) -> dict[str, float]:
            seconds = 3.0 if arguments.quick else 10.0
            command = ["bindfs", "-f", str(ready.parent)]
            with (
                mounted(server.url, folder, "--ttl", "0", "--metadata-timeout", "60") as mount,
                peer_mount(folder, command, 3) as bound,
            ):
                path = mount.root / FOLDER / "ready.bin"
                check(digest(path) == digest(ready), "the ready file")
                if control:
                    path = bound / "ready.bin"
                if not busy:
                    return spread(reads(path, seconds))
                with listing_again_and_again(mount.root / many) as taken:
                    while not taken:
                        time.sleep(0.05)
                    found = spread(reads(path, seconds))
                    return {**found, "listings": len(taken), "s each": statistics.median(taken)}

        variants: dict[str, Run] = {
            "idle daemon": lambda: measured(busy=False),
            "listings in a loop": lambda: measured(busy=True),
            "bindfs, beside the listings": lambda: measured(busy=True, control=True),
        }
        result = Comparison(
            f"Cached 128 KiB reads while the daemon lists a resource of {files:,} files in a loop",
            "idle daemon",
            "p95 at most 2 ms",
            "bindfs is another daemon on the same two cores: what server, ls and parsing take from anybody.",
        )
        report(result.measure(variants, arguments.runs), arguments)


PARTS = {
    "waiting": (waiting, "a ready file while forty reads wait for the network"),
    "listing": (listing, "cached reads while a listing of 100,000 files is parsed"),
}


def main() -> None:
    arguments = parse(parser(__doc__ or "", {name: text for name, (_, text) in PARTS.items()}), PARTS)
    for part in arguments.parts:
        with scratch(arguments) as folder:
            PARTS[part][0](arguments, folder)


if __name__ == "__main__":
    main()
