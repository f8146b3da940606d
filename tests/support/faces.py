"""The faces of the file system, behind one small interface, so that one suite states the behaviour of all."""

from __future__ import annotations

import os
import selectors
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xnatfs import credentials
from xnatfs.cache.store import Limits, Store
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Pool
from xnatfs.tree.nodes import Kind
from xnatfs.vfs import Timing, Vfs
from xnatfs.xnat.archive import Archive
from xnatfs.xnat.client import Client


def readable(descriptor: int, seconds: float) -> bool:
    """Is there something to read, within so long? Not by select, which knows descriptors below 1,024 only."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))


KINDS = {Kind.DIRECTORY: "dir", Kind.FILE: "file", Kind.LINK: "link"}


@dataclass
class Stat:
    kind: str
    size: int
    mtime_ns: int
    ino: int


class DirectFace:
    """The core, called as a library."""

    name = "vfs"

    def __init__(self, vfs: Vfs) -> None:
        self.vfs = vfs

    def listdir(self, path):
        return sorted(self.vfs.directory(path).names())

    def stat(self, path):
        found = self.vfs.getattr(path)
        return Stat(KINDS[found.kind], found.size, found.mtime_ns, found.ino)

    def read(self, path, offset=0, size=None):
        opened = self.vfs.open(path)
        try:
            return opened.read(offset, opened.size if size is None else size)
        finally:
            opened.close()

    def readlink(self, path):
        return self.vfs.readlink(path)

    def xattrs(self, path):
        return {name: self.vfs.getxattr(path, name) for name in self.vfs.listxattr(path)}


class MountFace:
    """A real mount, through the kernel."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name

    def path(self, path):
        return f"{self.root}{path}"

    def listdir(self, path):
        return sorted(os.listdir(self.path(path)))

    def stat(self, path):
        found = os.lstat(self.path(path))
        kind = "dir" if stat.S_ISDIR(found.st_mode) else "link" if stat.S_ISLNK(found.st_mode) else "file"
        return Stat(kind, 0 if kind == "dir" else found.st_size, found.st_mtime_ns, found.st_ino)

    def read(self, path, offset=0, size=None):
        fd = os.open(self.path(path), os.O_RDONLY)
        try:
            pieces = []
            left = os.fstat(fd).st_size if size is None else size
            while left > 0 and (piece := os.pread(fd, left, offset)):
                pieces.append(piece)
                offset += len(piece)
                left -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def readlink(self, path):
        return os.readlink(self.path(path))

    def xattrs(self, path):
        names = os.listxattr(self.path(path), follow_symlinks=True)
        return {name: os.getxattr(self.path(path), name) for name in names}


class _Login:
    """What the client needs of a login."""

    def __init__(self, user, password):
        self.user = user
        self.password = credentials.Secret(password)


@contextmanager
def direct(url, cache_dir, *, user="admin", password="admin", timing=None, **options):
    """The core on a demo server."""
    stats = Stats()
    login = _Login(user, password) if user else None
    client = Client(url, login, stats=stats)
    archive = Archive(client)
    store = Store(cache_dir, Limits(max_bytes=2**32), namespace="test", stats=stats)
    pool = Pool(archive, stats=stats)
    loaders = ThreadPoolExecutor(8, "listing")
    try:
        vfs = Vfs(
            archive,
            store,
            pool,
            submit=loaders.submit,
            stats=stats,
            timing=timing or Timing(),
            **options,
        )
        face = DirectFace(vfs)
        face.stats, face.store, face.pool, face.client = stats, store, pool, client
        yield face
    finally:
        loaders.shutdown(wait=False, cancel_futures=True)
        pool.close()
        store.close()
        archive.close()


def in_mounts(point) -> bool:
    """Does the kernel know a mount there, dead or alive?"""
    where = os.path.realpath(point)
    return any(line.split()[4] == where for line in Path("/proc/self/mountinfo").read_text().splitlines())


class Mounted(MountFace):
    """A mount by the real command, with the process behind it."""

    def __init__(self, root, name, process, log):
        super().__init__(root, name)
        self.process = process
        self.log = log

    def text(self):
        return self.log.read_text(errors="replace")

    def kill(self):
        """As if the power went for this process; leaves a dead mount behind."""
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()


def environment(home: Path, **more: str) -> dict[str, str]:
    """A person's environment with nothing of this machine's in it."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "COVERAGE_PROCESS_CONFIG") if key in os.environ}
    return {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", **more}


def start_mount(url, point, base, *options, loop="fast", user="admin", password="admin", cache_dir=None):
    """``xnatfs mount --foreground`` that is live; the caller ends it."""
    point.mkdir(parents=True, exist_ok=True)
    log = base / f"mount-{point.name}.log"
    home = base / "home"
    home.mkdir(exist_ok=True)
    secrets = {"XNAT_USER": user, "XNAT_PASS": password} if user else {}
    command = [sys.executable, "-m", "xnatfs", "mount", url, str(point), "--foreground", "--loop", loop]
    command += ["--cache-dir", str(cache_dir or base / "cache"), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment(home, **secrets), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output
        )
    assert process.stdout is not None
    until = time.monotonic() + 60
    line = b""
    while b"is mounted on" not in line:
        ready = readable(process.stdout.fileno(), until - time.monotonic())
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.wait()
            raise AssertionError(f"mount did not come up: {log.read_text(errors='replace')}")
    return Mounted(point, loop, process, log)


def stop_mount(mounted) -> None:
    """End it as a person would, and be sure that nothing is left."""
    try:
        if mounted.process.poll() is None:
            mounted.process.send_signal(signal.SIGTERM)
            mounted.process.wait(30)
    except subprocess.TimeoutExpired:
        mounted.process.kill()
        mounted.process.wait()
        raise
    finally:
        mounted.process.stdout.close()
    if in_mounts(mounted.root):
        subprocess.run(["umount", "-l", str(mounted.root)], check=False)


@contextmanager
def mounted(url, point, base, *options, **named):
    face = start_mount(url, point, base, *options, **named)
    try:
        yield face
    finally:
        stop_mount(face)


def until(true, seconds=30.0) -> None:
    """Wait for something that another process does and cannot signal."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.005)
