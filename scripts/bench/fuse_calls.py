#!/usr/bin/env python3
"""What the FUSE face costs per call and per byte, beside C: ``scripts/bench/fuse_calls.py [--quick] [--json]``.

One tree of local files (in /dev/shm, so that no disk is measured) is mounted by

* ``fast``, ``plain``: xnatfs's two loops over a file system that only passes local files on (no XNAT, no cache);
* ``bindfs``: the C passthrough of Debian, on libfuse2 as well;
* ``stock``: fusepy as its own examples use it, with its default threads.

In every round each of them is mounted afresh and does all the work, so that what else the machine does meets all
alike. Given are medians, and medians of each round's ratio to bindfs. ``--pinned`` puts the client and the daemon on
one CPU, which takes out the wake-up of another CPU, as large as a call and as variable. Needs root, /dev/fuse, libfuse2
and bindfs.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from operator import truediv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20


# --- the file systems that are measured: this script again, as a daemon ------------------------------------------


class _LocalDirectory:
    """A listing with the attributes of all that it lists, as one of an archive has them."""

    def __init__(self, vfs, path):
        self.expires = time.monotonic() + 3600.0
        with os.scandir(path) as found:
            self._nodes = {entry.name: vfs.attributes_of(entry.path) for entry in found}
        self._entries = [(name, node.kind, node.ino) for name, node in self._nodes.items()]
        self._derived = {}

    def entries(self):
        return self._entries

    def derive(self, make):
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]

    def get(self, name):
        return self._nodes.get(name)

    stat = get


class _LocalFile:
    def __init__(self, path):
        self.fileno = os.open(path, os.O_RDONLY)
        status = os.fstat(self.fileno)
        self.size, self.version = status.st_size, str(status.st_mtime_ns)

    def ready(self, _offset, _size):
        return True

    def prepare(self, offset, size):
        return max(0, min(size, self.size - offset))

    def read(self, offset, size):
        return os.pread(self.fileno, size, offset)

    def close(self):
        os.close(self.fileno)


class _LocalVfs:
    """Passes a local directory on: the least that a file system behind the loops can do."""

    def __init__(self, top):
        from xnatfs.tree.nodes import Kind

        self._top = str(top)
        self._kinds = {False: Kind.FILE, True: Kind.DIRECTORY}
        self._directories = {}

    def attributes_of(self, path):
        import stat

        from xnatfs.tree.nodes import Attributes, inode

        status = os.lstat(path)
        kind = self._kinds[stat.S_ISDIR(status.st_mode)]
        return Attributes(kind, inode(path), status.st_size, status.st_mtime_ns)

    def attributes(self, node):
        return node

    def getattr(self, path):
        from xnatfs.errors import NotFound

        try:
            return self.attributes_of(self._top + path)
        except FileNotFoundError:
            raise NotFound(path) from None

    def directory(self, path, *, wanted=""):  # as `xnatfs.vfs` has it
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = _LocalDirectory(self, self._top + path)
        return found

    def open(self, path, *, walking=False):
        return _LocalFile(self._top + path)

    def statfs(self):
        raise OSError

    listxattr = getxattr = readlink = statfs

    def close(self):
        pass


def _serve_ours(loop, source, mountpoint, options):
    from xnatfs import fuse_loop
    from xnatfs.fuse_mount import parse_options

    if "busy" in options:
        options.remove("busy")
        threading.Thread(target=_spin, daemon=True).start()
    fuse_loop.mount(_LocalVfs(source), mountpoint, loop=loop, options=parse_options(options))


def _spin():
    while True:
        sum(range(1000))


def _serve_stock(source, mountpoint, options):
    import fuse

    class Passthrough(fuse.Operations):
        use_ns = True

        def getattr(self, path, _fh=None):
            try:
                status = os.lstat(source + path)
            except OSError as problem:
                raise fuse.FuseOSError(problem.errno or errno.EIO) from None
            names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
            times = {name: getattr(status, name + "_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
            return {name: getattr(status, name) for name in names} | times

        def readdir(self, path, _fh):
            return [".", "..", *os.listdir(source + path)]  # noqa: PTH208  # as in fusepy's example

        def open(self, path, flags):
            return os.open(source + path, flags)

        def read(self, _path, size, offset, fh):
            return os.pread(fh, size, offset)

        def release(self, _path, fh):
            os.close(fh)

        statfs = None

    if "busy" in options:
        threading.Thread(target=_spin, daemon=True).start()
    fuse.FUSE(Passthrough(), mountpoint, foreground=True)


VARIANTS: dict[str, Callable[[str, str, list[str]], list[str]]] = {
    "bindfs": lambda source, mountpoint, _options: ["bindfs", "-f", source, mountpoint],
    **{
        name: lambda source, mountpoint, options, name=name: (
            [sys.executable, __file__, "--serve", name, source, mountpoint, *options]
        )
        for name in ("fast", "plain", "stock")
    },
}


@contextmanager
def mounted(variant, source, options=()):
    """Mounts a variant; gives the mountpoint and the process."""
    mountpoint = tempfile.mkdtemp(prefix="xnatfs-bench-")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(VARIANTS[variant](str(source), mountpoint, list(options)), env=environment)
    try:
        for _ in range(1000):
            if os.path.ismount(mountpoint):
                break
            if process.poll() is not None:
                raise SystemExit(f"{variant} did not mount")
            time.sleep(0.01)
        time.sleep(0.2)  # the read-ahead is raised just after the mount is live
        yield Path(mountpoint), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        Path(mountpoint).rmdir()


# --- the work ----------------------------------------------------------------------------------------------------


def _rate(count, work):
    gc.collect()
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def _read_all(path, flags=0):
    buffer = memoryview(bytearray(MIB))
    descriptor = os.open(path, os.O_RDONLY | flags)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def sequential(top, size):
    return _rate(size / MIB, lambda: _read_all(top / "big" / "0"))


def parallel(top, size):
    """Four readers, each with a file of its own."""

    def work():
        threads = [threading.Thread(target=_read_all, args=(top / "big" / str(number),)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _rate(4 * (size // 4) / MIB, work)


def random_4k(top, size, count):
    """4 KiB at random places of a file that the kernel has no pages of; no read-ahead comes of it."""
    descriptor = os.open(top / "big" / "random", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    places = random.Random(1).sample(range(size // 4 // 4096), count)
    rate = _rate(count, lambda: [os.pread(descriptor, 4096, place * 4096) for place in places])
    os.close(descriptor)
    return rate


def open_close(top, count):
    path = str(top / "one")
    os.close(os.open(path, os.O_RDONLY))
    return _rate(count, lambda: [os.close(os.open(path, os.O_RDONLY)) for _ in range(count)])


def stat_first(top, count):
    """The first look at each of many files of a known directory: a request each, whatever the kernel may cache."""
    (top / "many" / "nothing").exists()
    paths = [f"{top}/many/{number:05d}" for number in range(count)]
    return _rate(count, lambda: [os.stat(path) for path in paths])


def ls_l(top):
    begin = time.perf_counter()
    subprocess.run(["ls", "-l", top / "listed"], stdout=subprocess.DEVNULL, check=True)
    return 1 / (time.perf_counter() - begin)


def warm(top, size):
    """A second read of the whole file, which the kernel may have kept."""
    return _rate(size / MIB, lambda: _read_all(top / "big" / "0"))


def make_tree(top, size, files):
    (top / "big").mkdir(parents=True)
    block = random.Random(0).randbytes(MIB)
    for name, length in (("0", size), *((str(number), size // 4) for number in range(1, 5)), ("random", size // 4)):
        with (top / "big" / name).open("wb") as file:
            for _ in range(length // MIB):
                file.write(block)
    (top / "one").write_bytes(b"one")
    for directory in ("many", "listed"):
        (top / directory).mkdir()
        for number in range(files):
            (top / directory / f"{number:05d}").write_bytes(b"x" * 100)


UNITS = {
    "sequential": "MiB/s",
    "sequential, warm": "MiB/s",
    "4 readers": "MiB/s",
    "random 4 KiB": "reads/s",
    "open+close": "1/s",
    "stat, first": "1/s",
    "ls -l": "1/s",
    "daemon CPU": "GiB/s of CPU",
}


def one_round(top, process, size, files, quick):
    calls = 3000 if quick else 10_000
    result = {}
    before = _cpu(process.pid)
    result["sequential"] = sequential(top, size)
    used = max(_cpu(process.pid) - before, 0.01)
    result["daemon CPU"] = size / (1 << 30) / used
    result["sequential, warm"] = warm(top, size)
    result["4 readers"] = parallel(top, size)
    result["random 4 KiB"] = random_4k(top, size, calls)
    result["open+close"] = open_close(top, calls)
    result["stat, first"] = stat_first(top, files)
    result["ls -l"] = ls_l(top)
    return result


def _cpu(process):
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- with a busy daemon: latencies -------------------------------------------------------------------------------


def latencies(source, variant, count, options):
    """Milliseconds, median and 95th percentile, of cached 128 KiB reads and of stats."""
    with mounted(variant, source, options) as (top, _):
        descriptor = os.open(top / "big" / "0", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        taken = {"read 128 KiB": [], "stat": []}
        for number in range(count):
            begin = time.perf_counter()
            os.pread(descriptor, 131_072, number * 131_072)
            taken["read 128 KiB"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            os.stat(top / "many" / f"{number:05d}")
            taken["stat"].append(time.perf_counter() - begin)
        os.close(descriptor)
    return {
        what: (1000 * statistics.median(seconds), 1000 * sorted(seconds)[int(0.95 * len(seconds))])
        for what, seconds in taken.items()
    }


# --- the report --------------------------------------------------------------------------------------------------


def measure(arguments):
    size, files = (128 * MIB, 2000) if arguments.quick else (1024 * MIB, 10_000)
    top = Path(tempfile.mkdtemp(prefix="xnatfs-bench-", dir="/dev/shm"))
    samples = {variant: {what: [] for what in UNITS} for variant in arguments.variants}
    try:
        make_tree(top, size, files)
        for number in range(arguments.rounds):
            for variant in arguments.variants[number % 2 :] + arguments.variants[: number % 2]:
                with mounted(variant, top, arguments.option) as (mountpoint, process):
                    for what, value in one_round(mountpoint, process, size, files, arguments.quick).items():
                        samples[variant][what].append(value)
        busy = {
            variant: latencies(top, variant, 200, [*arguments.option, "busy"])
            for variant in arguments.variants
            if variant != "bindfs"
        }
    finally:
        shutil.rmtree(top)
    medians = {
        variant: {what: statistics.median(values) for what, values in found.items()}
        for variant, found in samples.items()
    }
    base = samples[arguments.variants[0]]
    ratios = {
        variant: {what: statistics.median(map(truediv, found[what], base[what])) for what in UNITS}
        for variant, found in samples.items()
    }
    sizes = {"size": size, "files": files, "rounds": arguments.rounds}
    return {**sizes, "medians": medians, "ratios": ratios, "samples": samples, "busy": busy}


def show(report):
    from rich.console import Console
    from rich.table import Table

    medians, ratios = report["medians"], report["ratios"]
    table = Table(title=f"medians of {report['rounds']} rounds; in brackets the ratio to the first")
    for column in ("", "unit", *medians):
        table.add_column(column, justify="right")
    for what, unit in UNITS.items():
        cells = [f"{found[what]:,.1f} ({ratios[variant][what]:.2f})" for variant, found in medians.items()]
        table.add_row(what, unit, *cells)
    console = Console()
    console.print(table)
    latency = Table(title="with a busy thread in the daemon: milliseconds, median / 95th percentile")
    for column in ("", *report["busy"]):
        latency.add_column(column, justify="right")
    for what in ("read 128 KiB", "stat"):
        latency.add_row(what, *("{:.2f} / {:.2f}".format(*found[what]) for found in report["busy"].values()))
    console.print(latency)


def main():
    if sys.argv[1:2] == ["--serve"]:
        variant, source, mountpoint, *options = sys.argv[2:]
        if variant == "stock":
            return _serve_stock(source, mountpoint, options)
        return _serve_ours(variant, source, mountpoint, options)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="128 MiB and 2,000 files in place of 1 GiB and 10,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pinned", action="store_true", help="client and daemon on one CPU")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--option", action="append", default=[], help="an -o option for fast and plain")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    if arguments.pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    report = measure(arguments)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return None


if __name__ == "__main__":
    main()
