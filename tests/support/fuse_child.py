"""A mount of a `FakeVfs` in a process of its own, steered by lines of JSON: ``["call", "name", ...]``.

As a program it is the daemon; `Mount` starts one and talks to it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from xnatfs.errors import SettingsError
from xnatfs.fuse_kernel import PageCache
from xnatfs.fuse_mount import MountOptions, find, unmount

TESTS = Path(__file__).resolve().parents[1]
END = 15
"""Seconds after which a daemon that does not end has failed its test."""


class Mount:
    """A running daemon. Use as a context manager: it ends, and its mount goes, whatever the test did."""

    def __init__(self, directory: Path, loop: str = "fast", setup: Sequence[Sequence[object]] = (), **options: object):
        self.path = directory / "mnt"
        self.path.mkdir()
        self.log = directory / "log"
        store = directory / "store"
        store.mkdir()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.fuse_child", str(self.path), str(store), loop, json.dumps(options)],
                cwd=TESTS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            for command in setup:
                self.call(*command)
            self._send(["mount"])
            first = self._receive()
            assert first == "live", (first, self.log.read_text())
        except BaseException:
            self.process.kill()
            self.__exit__()
            raise

    def call(self, name, *arguments, **keywords):
        """Call a method of the `FakeVfs` in the daemon, or of the daemon; the result, if JSON can carry it."""
        self._send([name, arguments, keywords])
        return self._receive()

    def _send(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _receive(self):
        line = self.process.stdout.readline()
        assert line, f"the daemon has died: {self.log.read_text()}"
        return json.loads(line)

    def until(self, name, value):
        """Wait until a count of the `FakeVfs` has a value."""
        assert self.call("wait_for", name, value), (name, self.call("counted"))

    def end(self):
        """Wait for the daemon to end by itself; its exit status."""
        return self.process.wait(END)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if find(self.path):
            unmount(self.path, lazy=True)


class Daemon:
    """The other end: commands that are no methods of the file system."""

    def __init__(self, vfs):
        self.vfs = vfs
        self.forget = lambda: None
        self.fails = False

    def fail_when_ready(self):
        self.fails = True

    def counted(self):
        return {
            **self.vfs.counts,
            "threads": threading.active_count(),
            "fds": len(list(Path("/proc/self/fd").iterdir())),
        }

    def wait_for(self, name, value):
        for _ in range(3000):
            if self.counted().get(name, 0) == value:
                return True
            threading.Event().wait(0.005)  # polls a counter; decides nothing but when to give up
        return False

    def open_gate(self):
        self.vfs.gate.set()

    def hold_next(self, name):
        """Of the next ``opened`` or ``tell`` the kernel hears only when the gate is opened, though it is settled."""
        original = getattr(PageCache, name)

        def held(pages, *arguments):
            setattr(PageCache, name, original)
            decision = original(pages, *arguments)
            self.vfs.counts["waiting"] += 1
            self.vfs.gate.wait()
            return decision

        setattr(PageCache, name, held)

    def add_raising(self):
        """``/raise/OPERATION:EXCEPTION`` for all of both."""
        from support.fake_vfs import OPERATIONS, RAISERS

        for operation in OPERATIONS:
            for name in RAISERS:
                path, raises = f"/raise/{operation}:{name}", {operation: name}
                if operation in ("opendir", "readdir"):
                    self.vfs.add_directory(path, raises=raises)
                elif operation == "readlink":
                    self.vfs.add_link(path, "target", raises=raises)
                else:
                    self.vfs.add_file(path, b"must not be seen", raises=raises)

    def write(self, path, text, version, **more):
        self.vfs.add_file(path, text.encode(), version, **more)
        self.vfs.refresh()

    def fill(self, path, size, seed, **more):
        """A file of pseudo-random bytes."""
        import random

        self.vfs.add_file(path, random.Random(seed).randbytes(size), **more)

    def fill_slow(self, path, size, seed):
        self.fill(path, size, seed, slow=True)

    def truncate_local(self, path, size):
        os.truncate(self.vfs._find(path).local, size)

    def spin(self, seconds):
        """A busy thread, as parsing a big listing would be."""

        def work():
            from time import monotonic

            until, number = monotonic() + seconds, 0
            while monotonic() < until:
                number += 1

        threading.Thread(target=work, daemon=True).start()

    def run_forget(self):
        self.forget()

    def statfs_raise(self, name):
        self.vfs.statfs_raises = name

    def do(self, name, arguments, keywords):
        function = getattr(self, name, None) or getattr(self.vfs, name)
        result = function(*arguments, **keywords)
        return result if isinstance(result, dict | list | str | int | float | bool) else None


def main():
    from support.fake_vfs import FakeVfs
    from xnatfs import fuse_loop

    mountpoint, store, loop, options = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    daemon = Daemon(FakeVfs(Path(store)))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    lock = threading.Lock()
    mounting: queue.SimpleQueue[None] = queue.SimpleQueue()

    def say(message):
        with lock:
            out.write(json.dumps(message) + "\n")

    def listen():
        for line in sys.stdin:
            message = json.loads(line)
            if message == ["mount"]:
                mounting.put(None)
            else:
                say(daemon.do(*message))

    def ready():
        if daemon.fails:
            raise SettingsError("ready has failed")
        say("live")

    threading.Thread(target=listen, daemon=True).start()
    mounting.get()
    fuse_loop.mount(
        daemon.vfs,
        mountpoint,
        loop=loop,
        options=MountOptions(**json.loads(options)),
        ready=ready,
        forget=lambda forget: setattr(daemon, "forget", forget),
    )
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("fuse")]
    ignored = int(re.search(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    report = {"threads": left, "SIGPIPE ignored": bool(ignored >> (signal.SIGPIPE - 1) & 1)}
    Path(mountpoint).with_name("left").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
