#!/usr/bin/env python3
"""A big file through the mount, beside curl and the local disk.

Listings come from the demo server, bytes from nginx (sendfile), which stands in front of it for all alike. Where a
slower wire is asked for, the demo server sends the bytes at that rate, for all alike. Needs root, FUSE, nginx, curl.

    scripts/bench/big_file.py [--quick] [--runs N] [--json FILE] [PART ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from common import (
    MIB,
    SESSION,
    Comparison,
    Server,
    check,
    cookie,
    cpu_seconds,
    curl,
    digest,
    make_file,
    mounted,
    nginx,
    parse,
    parser,
    report,
    run,
    scratch,
    timed,
)

BIG = SESSION / "1" / "R" / "big.bin"
URL = "/data/projects/P/subjects/S/experiments/E/scans/1/resources/R/files/big.bin"
GIGABIT = 117e6
"""Bytes a second of 1 Gbit Ethernet after its headers."""
REAL = 363e6
"""Bytes a second of a file of 300 MB from a real XNAT 1.6.4, to a client on the same machine."""


def read_all(path: Path, size: int = MIB) -> None:
    """Every byte, and nothing done with it: what ``cat`` to nowhere costs, without a pipe."""
    buffer = memoryview(bytearray(size))
    descriptor = os.open(path, os.O_RDONLY)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def throughput(size: int, seconds: float, **more: float) -> dict[str, float]:
    return {"MB/s": size / seconds / 1e6, **{name.replace("_", " "): value for name, value in more.items()}}


class Cold:
    """A file of that size on a server, and the ways to get it. Each way starts with nothing."""

    def __init__(self, folder: Path, server: Server, url: str, size: int) -> None:
        self.folder, self.server, self.url, self.size = folder, server, url, size
        self.session = cookie(url)
        self.truth = digest(folder / "study" / BIG)
        self.checked: set[str] = set()

    def _verify(self, variant: str, path: Path) -> None:
        if variant not in self.checked:
            check(digest(path) == self.truth, variant)
            self.checked.add(variant)

    def curl_away(self) -> dict[str, float]:
        return throughput(self.size, timed(lambda: curl(self.url, URL, "-o", "/dev/null", session=self.session)))

    def curl_file(self, *, verified: bool = False) -> dict[str, float]:
        """With ``verified``: and then md5sum, which is what the mount does while it reads."""
        target = self.folder / "curl.out"
        seconds = timed(lambda: curl(self.url, URL, "-o", target, session=self.session))
        if verified:
            seconds += timed(lambda: run("md5sum", target))
        self._verify("curl", target)
        target.unlink()
        return throughput(self.size, seconds)

    def mount(self, *options: str) -> dict[str, float]:
        with mounted(self.url, self.folder, *options) as mount:
            path = mount.root / BIG
            path.stat()  # listings are known, as they are to who gives curl the URL
            self.server.reset()
            before = mount.cpu
            seconds = timed(lambda: read_all(path))
            used, requests = mount.cpu - before, self.server.log()["data requests"]
            self._verify("mount", path)
            return throughput(
                self.size, seconds, daemon_CPU_s=used, daemon_RSS_MiB=mount.memory / MIB, data_requests=requests
            )

    def mount_copy(self) -> dict[str, float]:
        with mounted(self.url, self.folder) as mount:
            path, target = mount.root / BIG, self.folder / "cp.out"
            path.stat()
            before = mount.cpu
            seconds = timed(lambda: run("cp", path, target))
            used = mount.cpu - before
            self._verify("cp", target)
            target.unlink()
            return throughput(self.size, seconds, daemon_CPU_s=used)


def throughput_parts(arguments: argparse.Namespace, folder: Path) -> None:
    size = (64 if arguments.quick else 1024) * MIB
    make_file(folder / "study" / BIG, size)
    for digests, words in ((True, "MD5 in the listing"), (False, "no digest in the listing")):
        archive = {"kind": "directory", "path": folder / "study", "digests": digests}
        with (
            Server(archive, offload_root=folder / "study") as demo,
            nginx(folder / f"nginx{digests}", folder / "study", behind=demo.url) as url,
        ):
            cold = Cold(folder, demo, url, size)
            cold.mount()  # the server has hashed the file once
            variants = {
                "curl to a file": cold.curl_file,
                "curl to /dev/null": cold.curl_away,
                "curl to a file + md5sum": lambda cold=cold: cold.curl_file(verified=True),
                "mount, read": cold.mount,
                "mount, cp to a file": cold.mount_copy,
            }
            result = Comparison(
                f"Cold {size // MIB} MiB file, unlimited loopback, {words}",
                "curl to a file",
                "at least 0.9 of the throughput of curl",
                "The mount keeps what it reads in its cache, as curl to a file does. nginx with sendfile serves all.",
            )
            report(result.measure(variants, arguments.runs), arguments)


def limited(arguments: argparse.Namespace, folder: Path) -> None:
    size = (64 if arguments.quick else 1024) * MIB
    make_file(folder / "study" / BIG, size)
    for rate, words in ((GIGABIT, "1 Gbit/s"), (REAL, "363 MB/s, as a real XNAT sent on its own machine")):
        with Server({"kind": "directory", "path": folder / "study"}, bandwidth=rate) as demo:
            cold = Cold(folder, demo, demo.url, size)
            cold.mount()
            variants = {
                "curl to a file": cold.curl_file,
                "curl to /dev/null": cold.curl_away,
                "mount, read": cold.mount,
            }
            result = Comparison(
                f"Cold {size // MIB} MiB file at {words}",
                "curl to a file",
                "at least 0.9 of the throughput of curl",
                f"The demo server limits all bodies together to {rate / 1e6:.0f} MB/s. MD5 in the listing.",
            )
            report(result.measure(variants, arguments.runs), arguments)


def first_bytes(arguments: argparse.Namespace, folder: Path) -> None:
    size = (64 if arguments.quick else 1024) * MIB
    make_file(folder / "study" / BIG, size)
    with (folder / "study" / BIG).open("rb") as file:
        truth = file.read(16384)
    for latency in (0.0, 0.065):
        with Server({"kind": "directory", "path": folder / "study"}, bandwidth=50e6, latency=latency) as demo:
            session = cookie(demo.url)
            with mounted(demo.url, folder) as mount:
                (mount.root / BIG).stat()  # the server has hashed the file once

            def by_curl(url: str = demo.url, session: str = session) -> dict[str, float]:
                target = folder / "head"
                seconds = timed(lambda: curl(url, URL, "--range", "0-16383", "-o", target, session=session))
                check(target.read_bytes() == truth, "curl --range")
                return {"ms": 1000 * seconds}

            def by_mount(url: str = demo.url, *, known: bool = True) -> dict[str, float]:
                with mounted(url, folder) as mount:
                    path = mount.root / BIG
                    if known:
                        path.stat()
                    began = time.perf_counter()
                    got = subprocess.run(["head", "-c", "16384", path], check=True, stdout=subprocess.PIPE).stdout
                    seconds = time.perf_counter() - began
                    check(got == truth, "head -c")
                    return {"ms": 1000 * seconds}

            def by_mount_unlisted(url: str = demo.url) -> dict[str, float]:
                return by_mount(url, known=False)

            variants = {
                "curl --range": by_curl,
                "mount, head -c, listed": by_mount,
                "mount, head -c, nothing known": by_mount_unlisted,
            }
            result = Comparison(
                f"First 16 KiB of a cold {size // MIB} MiB file, 50 MB/s, {1000 * latency:.0f} ms latency",
                "curl --range",
                "at most 1.5 x the time of curl",
                "Listed: the path was looked at before, as its URL is known to curl. Both with the start of a process.",
            )
            report(result.measure(variants, arguments.runs), arguments)


def warm(arguments: argparse.Namespace, folder: Path) -> None:
    size = (64 if arguments.quick else 1024) * MIB
    local = folder / "study" / BIG
    make_file(local, size)
    archive = {"kind": "directory", "path": folder / "study"}
    with (
        Server(archive, offload_root=folder / "study") as demo,
        nginx(folder / "nginx", folder / "study", behind=demo.url) as url,
        mounted(url, folder) as mount,
    ):
        path = mount.root / BIG
        check(digest(path) == digest(local), "mount")
        read_all(local)

        def by_mount() -> dict[str, float]:
            before = mount.cpu
            seconds = timed(lambda: read_all(path))
            return throughput(size, seconds, daemon_CPU_s=mount.cpu - before)

        variants = {
            "local file, warm": lambda: throughput(size, timed(lambda: read_all(local))),
            "mount, warm": by_mount,
        }
        result = Comparison(
            f"Second read of {size // MIB} MiB, kernel cache warm",
            "local file, warm",
            "at least 0.95 of the local file",
        )
        report(result.measure(variants, max(arguments.runs, 9)), arguments)


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    readers, size = 50, (4 if arguments.quick else 64) * MIB
    first = folder / "study" / SESSION / "1" / "R" / "00.bin"
    make_file(first, size)
    for place in range(1, readers):  # one file on the server's disk under fifty names; the mount cannot know that
        os.link(first, first.with_name(f"{place:02d}.bin"))
    truth = digest(first)
    archive = {"kind": "directory", "path": folder / "study", "digests": False}
    with (
        Server(archive, offload_root=folder / "study") as demo,
        nginx(folder / "nginx", folder / "study", behind=demo.url) as url,
    ):

        def all_at_once(*, idle: bool = False) -> dict[str, float]:
            with mounted(url, folder) as mount:
                names = sorted((mount.root / SESSION / "1" / "R").iterdir())
                if idle:
                    return {"MiB RSS": mount.memory / MIB}
                sums = [subprocess.Popen(["md5sum", name], stdout=subprocess.PIPE, text=True) for name in names]
                began = time.perf_counter()
                for process in sums:
                    check(process.communicate()[0].split()[0] == truth, "one of 50 readers")
                seconds = time.perf_counter() - began
                return {
                    "MiB RSS": mount.memory / MIB,
                    "s": seconds,
                    "MB/s": readers * size / seconds / 1e6,
                    "daemon CPU s": cpu_seconds(mount.process.pid),
                    "threads": sum(1 for _ in Path(f"/proc/{mount.process.pid}/task").iterdir()),
                }

        variants = {"listed, nobody reads": lambda: all_at_once(idle=True), "50 x md5sum": all_at_once}
        result = Comparison(
            f"Memory of the daemon, {readers} concurrent readers of {size // MIB} MiB each, cold",
            "listed, nobody reads",
            "RSS below 200 MiB",
            "RSS is the peak (VmHWM).",
        )
        report(result.measure(variants, arguments.runs), arguments)


PARTS = {
    "throughput": (throughput_parts, "1 GiB against curl, on a loopback without limit"),
    "limited": (limited, "the same at 1 Gbit/s, and at the speed of a real XNAT"),
    "first": (first_bytes, "the first 16 KiB on a server of 50 MB/s"),
    "warm": (warm, "a second read against the local disk"),
    "memory": (memory, "50 concurrent readers"),
}


def main() -> None:
    shown = {name: text for name, (_, text) in PARTS.items()}
    arguments = parse(parser(__doc__ or "", shown), PARTS)
    for part in arguments.parts:
        with scratch(arguments) as folder:
            PARTS[part][0](arguments, folder)


if __name__ == "__main__":
    main()
