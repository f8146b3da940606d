"""A hunt for deadlocks: many workers, every operation, and an alarm when one of them gets no further. And what a mount
that goes to the background must survive: the fork itself, and its log being moved away.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faces import environment, in_mounts, mounted
from support.readers import MAPPED
from support.studies import one_session
from support.truth import content, md5, tree

from xnatfs.demo import DemoServer

pytestmark = pytest.mark.mount
SECONDS = float(os.environ.get("XNATFS_HUNT", "1.5"))
WORKERS = 24
ALARM = 10.0
"""Seconds in which a worker must come to the end of one operation; the server answers at once all the while."""
DIRECTORIES = ["", "/P", "/P/S", "/P/S/E", "/P/S/E/1", "/P/S/E/1/R", "/P/S/E/2/R", "/P/S/E/.xnat", "/.xnat"]


class Hunt:
    """Workers that each do one random operation after the other."""

    def __init__(self, face, truth, seconds):
        self.face = face
        self.truth = truth
        self.paths = sorted(truth)
        self.end = time.monotonic() + seconds
        self.done = Counter()
        self.wrong = []
        self.since = {}
        self.lock = threading.Lock()

    def look(self, chance):
        os.stat(self.face.path(chance.choice(self.paths)))

    def names(self, chance):
        os.listdir(self.face.path(chance.choice(DIRECTORIES)))

    def absent(self, chance):
        with contextlib.suppress(FileNotFoundError):
            os.stat(self.face.path(f"{chance.choice(DIRECTORIES[:7])}/{chance.choice(['.Trash', 'no such name'])}"))

    def whole(self, chance):
        path = chance.choice(self.paths)
        assert self.face.read(path) == self.truth[path]

    def part(self, chance):
        path = chance.choice(self.paths)
        offset, size = chance.randrange(len(self.truth[path])), chance.choice([1, 4096, 70_000])
        right = self.truth[path][offset : offset + size]
        assert self.face.read(path, offset, len(right)) == right

    def mapped(self, chance):
        """In a process of its own: this one holds the interpreter's lock in a page fault, which the server needs."""
        path = chance.choice(self.paths)
        done = subprocess.run(
            [sys.executable, "-c", MAPPED, self.face.path(path)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == md5(self.truth[path])

    def held(self, chance):
        path = chance.choice(self.paths)
        descriptors = [os.open(self.face.path(path), os.O_RDONLY) for _ in range(5)]
        chance.shuffle(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def attributes(self, chance):
        path = self.face.path(chance.choice(self.paths))
        for name in os.listxattr(path):
            os.getxattr(path, name)

    def link(self, chance):
        assert os.readlink(self.face.path("/P/XNAT_S00001")) == "S"

    def space(self, chance):
        os.statvfs(self.face.path("/P"))

    def status(self, chance):
        assert b"counters" in Path(self.face.path("/.xnat/status.json")).read_bytes()

    def document(self, chance):
        where = chance.choice(["/P", "/P/S", "/P/S/E", "/P/S/E/1"])
        assert self.face.read(f"{where}/.xnat/{chance.choice(['item.json', 'children.csv', 'children.json'])}")

    def refresh(self, chance):
        where = chance.choice(["", "/P", "/P/S/E"])
        assert self.face.read(f"{where}/.xnat/{chance.choice(['refresh', 'refresh-all'])}") == b"refreshed\n"

    def hangup(self, chance):
        self.face.process.send_signal(chance.choice([signal.SIGHUP, signal.SIGUSR1]))

    def change(self, chance):
        with pytest.raises(OSError, match="Read-only"):
            Path(self.face.path(chance.choice(self.paths))).unlink()

    OPERATIONS = (
        [look, names, absent, whole, part, part, held, attributes, document] * 4
        + [link, space, status, change, refresh, hangup, mapped]
    )  # fmt: skip

    def work(self, number):
        chance = random.Random(number)
        while time.monotonic() < self.end and not self.wrong:
            operation = chance.choice(self.OPERATIONS)
            with self.lock:
                self.since[number] = (time.monotonic(), operation.__name__)
            try:
                operation(self, chance)
            except Exception as problem:
                self.wrong.append(f"{operation.__name__}: {problem!r}")
            with self.lock:
                self.done[operation.__name__] += 1
                del self.since[number]

    def run(self):
        workers = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            threading.Event().wait(0.1)
            with self.lock:
                stuck = [what for since, what in self.since.values() if time.monotonic() - since > ALARM]
            if stuck:
                faulthandler.dump_traceback()
                self.face.process.kill()  # or the workers that hang would hang this test as well
                self.wrong.append(f"no progress for {ALARM:g} s: {Counter(stuck)}")
                return


@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_no_operation_ever_waits_for_another(tmp_path, loop):
    """Listings expire, files are evicted, and everything is forgotten, while all of it is in use."""
    archive = one_session(scans=3, resources=("R",), files=8, size=300_000)
    truth = {path: content(stored) for path, stored in tree(archive, "P").items()}
    options = ["--ttl", "0.3", "--cache-size", "3M", "--min-free", "1M"]
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, *options, loop=loop) as face:
        assert os.readlink(face.path(f"/P/{next(iter(archive.subjects))}")) == "S"
        hunt = Hunt(face, truth, SECONDS)
        hunt.run()
        print(f"{loop}: {hunt.done.total()} operations by {WORKERS} workers: {dict(hunt.done)}")
        assert hunt.wrong == []
        assert set(hunt.done) == {operation.__name__ for operation in Hunt.OPERATIONS}
        assert "Traceback" not in face.text()


@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_a_mount_in_the_background_survives_the_fork_and_a_moved_log(tmp_path, loop):
    """Threads, relative paths and the log are those of the process that stays."""
    archive = one_session(scans=1, resources=("R",), files=20, size=50_000)
    truth = {path: content(stored) for path, stored in tree(archive, "P").items()}
    point, log = tmp_path / "mnt", tmp_path / "logs" / "mount.log"
    point.mkdir()
    with DemoServer(archive) as server:
        command = [sys.executable, "-m", "xnatfs", "mount", server.url, "mnt", "--loop", loop]
        command += ["--cache-dir", "cache", "--log-file", "logs/mount.log", "--log-level", "info"]
        variables = environment(tmp_path, XNAT_USER="admin", XNAT_PASS="admin", PYTHONPATH=os.pathsep.join(sys.path))
        subprocess.run(command, cwd=tmp_path, env=variables, check=True, stdout=subprocess.DEVNULL, timeout=60)
        try:
            with ThreadPoolExecutor(8) as readers:
                found = readers.map(lambda path: Path(f"{point}{path}").read_bytes(), truth)
                assert list(found) == list(truth.values())
            assert any((tmp_path / "cache").rglob("*"))
            log.rename(log.with_suffix(".1"))
        finally:
            command = [sys.executable, "-m", "xnatfs", "umount", str(point)]
            subprocess.run(command, cwd=tmp_path, env=variables, check=True, timeout=60)
        assert not in_mounts(point)
        assert server.logins.active() == 0
        assert "mounting on" in log.with_suffix(".1").read_text()
        assert "unmounted from" in log.read_text()
        assert "Traceback" not in log.read_text() + log.with_suffix(".1").read_text()
