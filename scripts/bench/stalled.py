#!/usr/bin/env python3
"""Does a file that never arrives slow down anything else? `ls`, `stat` and reads of other files, with and without it.

    scripts/bench/stalled.py [--quick] [--runs N] [--json FILE] [PART ...]

Each `ls` and `stat` goes to a session that was not seen before, each read to a file that was not read before. Needs
root and FUSE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from blocked import FOLDER, spread, stalled_readers
from common import (
    MIB,
    Comparison,
    Mounted,
    Run,
    Server,
    check,
    make_file,
    mounted,
    parse,
    parser,
    report,
    scratch,
)

SESSIONS, SIZE = 400, 20_000
"""Sessions of one file each, and its bytes."""


def resource(mount: Mounted, place: int) -> Path:
    return mount.root / "P" / "S" / f"E{place}" / "1" / "R"


def names(mount: Mounted, place: int) -> None:
    check([path.name for path in resource(mount, place).iterdir()] == ["a.dcm"], "the names")


def size(mount: Mounted, place: int) -> None:
    check((resource(mount, place) / "a.dcm").stat().st_size == SIZE, "the size")


def content(mount: Mounted, place: int) -> None:
    check(len((resource(mount, place) / "a.dcm").read_bytes()) == SIZE, "a short read")


def measure(arguments: argparse.Namespace, folder: Path, what: str, call: Callable[[Mounted, int], None]) -> None:
    study = folder / "study"
    make_file(study / FOLDER / "slow_00.bin", MIB)
    count = 40 if arguments.quick else SESSIONS
    for place in range(count):
        make_file(study / "P" / "S" / f"E{place}" / "1" / "R" / "a.dcm", SIZE, seed=place)

    with Server({"kind": "directory", "path": study}) as server:

        def measured(*, stalled: bool) -> dict[str, float]:
            with (
                mounted(server.url, folder, "--no-series", "--read-timeout", "600") as mount,
                stalled_readers(server, mount, 1) if stalled else nullcontext(),
            ):
                taken = []
                if call is content:  # what is read was listed before
                    for place in range(count):
                        size(mount, place)
                for place in range(count):
                    began = time.perf_counter()
                    call(mount, place)
                    taken.append(1000 * (time.perf_counter() - began))
                return spread(taken, 0.99)

        variants: dict[str, Run] = {
            "nothing stalls": lambda: measured(stalled=False),
            "a file stalls": lambda: measured(stalled=True),
        }
        result = Comparison(
            f"{what} while a file that somebody reads never arrives",
            "nothing stalls",
            "p99 below 2 x",
            f"{count} calls in each run, none of them to what was looked at before.",
        )
        report(result.measure(variants, arguments.runs), arguments)


PARTS = {
    "ls": (names, "`ls` of a directory", "the names of a directory"),
    "stat": (size, "`stat` of a file", "the size of a file"),
    "read": (content, "Open and read a file of 20 kB", "a file that was never read before"),
}


def main() -> None:
    arguments = parse(parser(__doc__ or "", {name: text for name, (_, _, text) in PARTS.items()}), PARTS)
    for part in arguments.parts:
        call, title, _ = PARTS[part]
        with scratch(arguments) as folder:
            measure(arguments, folder, title, call)


if __name__ == "__main__":
    main()
