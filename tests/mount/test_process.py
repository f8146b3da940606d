"""The process behind a mount: how it was started, what it is short of, and how it is told to end."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.faces import environment, in_mounts, mounted, until
from support.fuse_child import Mount
from support.studies import one_session
from support.truth import content, tree

from xnatfs.demo import DemoServer

pytestmark = pytest.mark.mount
FILES = 150
PYTHON_COULD_NOT_FLUSH = 120
"""The exit status that Python has for that, whatever else went well."""


@pytest.fixture(params=["fast", "plain"])
def loop(request):
    return request.param


@pytest.fixture(scope="module")
def archive():
    return one_session(scans=1, resources=("R",), files=FILES, size=3000)


@pytest.fixture(scope="module")
def truth(archive):
    return {path: content(stored) for path, stored in tree(archive, "P").items()}


@contextmanager
def descriptors(soft):
    """This process, and what it starts, may have so many open unless it asks for more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_files_can_be_open_than_a_shell_allows_a_program(archive, truth, loop, tmp_path):
    with DemoServer(archive) as server:
        taken = max(map(int, os.listdir("/proc/self/fd")))  # this process needs some itself, to start the mount
        with descriptors(max(64, taken + 20)):
            mount = mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop)
            face = mount.__enter__()
        try:
            held = {path: os.open(face.path(path), os.O_RDONLY) for path in truth}
            assert len(held) == FILES
            for path, descriptor in held.items():
                assert os.pread(descriptor, 5000, 0) == truth[path]
                os.close(descriptor)
        finally:
            mount.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("where", "closed"),
    [("", "<&-"), ("", "<&- >&- 2>&-"), ("--foreground", ">&- 2>&-"), ("--foreground", "2>/dev/full")],
)
def test_a_mount_needs_no_standard_streams(archive, truth, tmp_path, where, closed):
    """As cron, an init script or a desktop may start it; what takes their numbers must not be taken for them."""
    point, path = tmp_path / "mnt", next(iter(truth))
    point.mkdir()
    with DemoServer(archive) as server:
        words = f"exec {sys.executable} -m xnatfs mount {server.url} {point} {where} --cache-dir {tmp_path / 'cache'}"
        words += f" --log-file {tmp_path / 'log'} --log-level debug {closed}"
        variables = environment(tmp_path, XNAT_USER="admin", XNAT_PASS="admin", PYTHONPATH=os.pathsep.join(sys.path))
        process = subprocess.Popen(["sh", "-c", words], env=variables, stdout=subprocess.DEVNULL)
        try:
            until(lambda: in_mounts(point) or process.poll() is not None)
            if not where:
                assert process.wait(60) == 0
            assert Path(f"{point}{path}").read_bytes() == truth[path]
            if not where:
                assert f"/{path.rpartition('/')[2]} " in (tmp_path / "log").read_text()
        finally:
            command = [sys.executable, "-m", "xnatfs", "umount", str(point)]
            subprocess.run(command, env=variables, check=False, timeout=60)
        assert process.wait(60) == (PYTHON_COULD_NOT_FLUSH if "full" in closed else 0)
        assert server.logins.active() == 0
    assert not in_mounts(point)


def test_a_mount_in_the_background_outlives_the_session_that_started_it(archive, truth, tmp_path):
    """As when a terminal is closed, with all that runs in it."""
    point, path = tmp_path / "mnt", next(iter(truth))
    point.mkdir()
    variables = environment(tmp_path, XNAT_USER="admin", XNAT_PASS="admin", PYTHONPATH=os.pathsep.join(sys.path))
    with DemoServer(archive) as server:
        words = (
            f"{sys.executable} -m xnatfs mount {server.url} {point} --cache-dir {tmp_path / 'cache'}; echo; sleep 100"
        )
        with subprocess.Popen(
            ["sh", "-c", words], env=variables, stdout=subprocess.PIPE, start_new_session=True
        ) as shell:
            assert b"is mounted on" in shell.stdout.readline()
            os.killpg(shell.pid, signal.SIGKILL)
        assert Path(f"{point}{path}").read_bytes() == truth[path]
        subprocess.run([sys.executable, "-m", "xnatfs", "umount", str(point)], env=variables, check=True, timeout=60)
        assert server.logins.active() == 0


def _ended(mount):
    assert mount.end() == 0
    assert not in_mounts(mount.path)
    assert "Traceback" not in mount.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR2])
def test_no_signal_that_people_send_leaves_a_dead_mount(loop, tmp_path, number):
    with Mount(tmp_path, loop, [("fill", "/f", 10, 3)]) as mount:
        (mount.path / "f").read_bytes()
        mount.process.send_signal(number)
        _ended(mount)


@contextmanager
def a_read_that_waits(mount):
    """In a thread; gives the list that its outcome will stand in."""
    outcome = []

    def read():
        try:
            outcome.append((mount.path / "slow").read_bytes())
        except OSError as problem:
            outcome.append(errno.errorcode[problem.errno])

    reader = threading.Thread(target=read)
    reader.start()
    mount.until("waiting", 1)
    yield outcome
    reader.join(30)
    assert not reader.is_alive()


def test_signals_one_after_the_other_while_a_read_waits_are_one(loop, tmp_path):
    with Mount(tmp_path, loop, [("fill_slow", "/slow", 3000, 3)]) as mount, a_read_that_waits(mount) as outcome:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            with suppress(ProcessLookupError):
                mount.process.send_signal(number)
        _ended(mount)
    assert outcome != [b""]


def test_what_is_left_lazily_serves_the_reads_that_wait_and_then_ends(loop, tmp_path):
    with Mount(tmp_path, loop, [("fill_slow", "/slow", 3000, 3)]) as mount:
        with a_read_that_waits(mount) as outcome:
            subprocess.run(["fusermount3", "-uz", mount.path], check=True)
            assert not in_mounts(mount.path)
            mount.call("open_gate")
        assert [len(data) for data in outcome] == [3000]
        _ended(mount)


def test_a_mount_that_is_broken_off_by_force_is_not_left_dead(loop, tmp_path):
    """umount -f of a busy one ends the connection, and leaves the mount."""
    with Mount(tmp_path, loop, [("fill_slow", "/slow", 3000, 3)]) as mount:
        with a_read_that_waits(mount) as outcome:
            done = subprocess.run(["umount", "-f", mount.path], capture_output=True, text=True, check=False)
            assert "busy" in done.stderr
        assert outcome == ["ENOTCONN"]
        if loop == "plain":  # libfuse's own loop waits for its calls, at most for their deadline
            mount.call("open_gate")
        _ended(mount)


ARENAS = """
import re, sys, threading
from xnatfs import mounting
if sys.argv[1] == "together":
    mounting._keep_memory_together()
barrier = threading.Barrier(16)
def work():
    barrier.wait()
    kept = [bytearray(1000 + n) for n in range(200)]
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps") if " rw-p 00000000 00:00 0" in line]
print(sum(start % (64 << 20) == 0 for start in starts))
"""


@pytest.mark.parametrize(("how", "most"), [("together", 1), ("apart", 16)])
def test_the_threads_of_a_mount_share_their_memory(how, most):
    """Beside the main arena, which has no such address. What one thread has freed is of use to the others then."""
    done = subprocess.run([sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= most
    assert how == "together" or int(done.stdout) > 1  # else this shows nothing
