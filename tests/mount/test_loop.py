"""Both loops on a real mount: contents, names, page cache, waiting, and every way for a mount to end."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.fake_vfs import MTIME_NS
from support.fuse_child import Mount

from xnatfs import fuse_mount
from xnatfs.errors import MountpointError

pytestmark = pytest.mark.mount

ODD_NAMES = [
    "blank in it",
    "Prüfung",
    "日本語",
    "new\nline",
    "tab\t",
    "'quotes\"",
    "back\\slash",
    "#%+?&;:",
    ".hidden",
    "-n",
    "~",
    "not-utf-8-\udcff\udcfe",
    "x" * 200,
    "e\u0301",
    "\u202e",
    "*",
]
SIZE = 3_000_000
SYS_TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]


@pytest.fixture(params=["fast", "plain"])
def loop(request):
    return request.param


@pytest.fixture
def mounted(loop, tmp_path):
    """Mounts: ``mounted(*setup, **options)``."""
    with _Mounts(tmp_path, loop) as make:
        yield make


class _Mounts:
    def __init__(self, path, loop):
        self._path, self._loop, self._made = path, loop, []

    def __call__(self, *setup, **options):
        path = self._path / str(len(self._made))
        path.mkdir()
        self._made.append(Mount(path, self._loop, setup, **options))
        return self._made[-1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for mount in self._made:
            mount.__exit__(*exception)


def code_of(call, *arguments):
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno]


def ended_cleanly(mount):
    status, report = mount.end(), json.loads(mount.path.with_name("left").read_text())
    return status == 0 and report == {"threads": [], "SIGPIPE ignored": True} and not fuse_mount.is_mounted(mount.path)


# --- what one sees


def test_stat(mounted):
    mount = mounted(("fill", "/p/file", 1025, 1), ("add_link", "/p/link", "file"), uid=12, gid=34, umask=0o027)
    file, directory, link = (os.lstat(mount.path / name) for name in ("p/file", "p", "p/link"))
    assert [stat.filemode(seen.st_mode) for seen in (file, directory, link)] == [
        "-r--r-----",
        "dr-xr-x---",
        "lrwxrwxrwx",
    ]
    assert (file.st_uid, file.st_gid, file.st_nlink, directory.st_nlink) == (12, 34, 1, 2)
    assert (file.st_size, file.st_blocks, file.st_blksize, file.st_mtime_ns) == (1025, 3, 16384, MTIME_NS)
    assert os.readlink(mount.path / "p/link") == "file"
    descriptor = os.open(mount.path / "p/file", os.O_RDONLY)
    with os.scandir(mount.path / "p") as entries:
        listed = {entry.name: entry.inode() for entry in entries}
    assert listed == {"file": file.st_ino, "link": link.st_ino}
    assert os.fstat(descriptor).st_ino == file.st_ino
    os.close(descriptor)
    entry = fuse_mount.find(mount.path)
    assert (entry.source, entry.fstype, "ro" in entry.options) == ("xnatfs", "fuse.xnatfs", True)


def test_a_big_directory_is_listed_whole(mounted):
    mount = mounted(("add_many", "/big", 20_000))
    for _ in range(2):
        entries = list(os.scandir(mount.path / "big"))
        assert sorted(entry.name for entry in entries) == [f"file-{number:06d}.dcm" for number in range(20_000)]
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)
    assert all(entry.inode() == entry.stat().st_ino for entry in entries[:50])
    with os.scandir(mount.path / "big") as again:  # rewinddir after a part of it
        next(again)
    listed = subprocess.run(["ls", "-a", mount.path / "big"], capture_output=True, text=True, check=True).stdout
    assert listed.split()[:3] == [".", "..", "file-000000.dcm"]


def test_odd_names(mounted):
    mount = mounted(*(("write", f"/odd/{name}", name.encode("ascii", "replace").decode(), "1") for name in ODD_NAMES))
    assert sorted(os.listdir(mount.path / "odd")) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert (mount.path / "odd" / name).read_bytes() == name.encode("ascii", "replace")
    for name in ("nope", "nope-\udcfc", "n" * 255):
        assert code_of(os.stat, mount.path / "odd" / name) == "ENOENT"
    assert code_of(os.getxattr, mount.path / "odd" / "~", "user.\udcff") == "ENODATA"


def test_attributes(mounted):
    mount = mounted(("write", "/f", "x", "1"))
    assert os.getxattr(mount.path / "f", "user.xnat.id") == "Prüfung".encode()
    assert os.listxattr(mount.path / "f") == ["user.xnat.id", "user.xnat.label"]
    assert code_of(os.getxattr, mount.path / "f", "user.other") == "ENODATA"
    before = mount.call("counted")["getxattr"]
    assert code_of(os.getxattr, mount.path / "f", "security.selinux") == "ENOTSUP"
    assert mount.call("counted")["getxattr"] == before


def test_nothing_can_be_changed(mounted):
    mount = mounted(("write", "/d/f", "x", "1"))
    directory, file = mount.path / "d", mount.path / "d" / "f"
    changes = [
        (os.mkdir, directory / "n"),
        (os.mknod, directory / "n"),
        (os.unlink, file),
        (os.rmdir, directory),
        (os.rename, file, directory / "n"),
        (os.symlink, "x", directory / "n"),
        (os.link, file, directory / "n"),
        (os.chmod, file, 0o777),
        (os.chown, file, 1, 1),
        (os.utime, file),
        (os.truncate, file, 0),
        (os.setxattr, file, "user.xnat.id", b"x"),
        (os.removexattr, file, "user.xnat.id"),
        (os.open, file, os.O_WRONLY),
        (os.open, file, os.O_RDWR),
        (os.open, file, os.O_RDONLY | os.O_TRUNC),
        (os.open, directory / "n", os.O_CREAT | os.O_WRONLY),
    ]
    assert {(change.__name__, code_of(change, *rest)) for change, *rest in changes} == {
        (change.__name__, "EROFS") for change, *_ in changes
    }
    assert file.read_text() == "x"


# --- contents


def test_parallel_readers_see_the_truth(mounted):
    mount = mounted(("fill", "/p/big", SIZE, 7), ("fill", "/p/odd", 131_073, 8), ("fill", "/p/none", 0, 9))
    truth = random.Random(7).randbytes(SIZE)

    def read(seed):
        choose = random.Random(seed)
        descriptor = os.open(mount.path / "p/big", os.O_RDONLY)
        try:
            for _ in range(60):
                offset, size = choose.randrange(SIZE + 5000), choose.choice([1, 100, 4096, 65536, 300_000])
                assert os.pread(descriptor, size, offset) == truth[offset : offset + size], (offset, size)
        finally:
            os.close(descriptor)
        return hashlib.sha256((mount.path / "p/big").read_bytes()).digest()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(16))) == {hashlib.sha256(truth).digest()}
    assert (mount.path / "p/odd").read_bytes() == random.Random(8).randbytes(131_073)
    assert (mount.path / "p/none").read_bytes() == b""


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_reading_at_and_past_the_end(mounted, flags):
    mount = mounted(("fill", "/f", 10_000, 3))
    truth = random.Random(3).randbytes(10_000)
    descriptor = os.open(mount.path / "f", os.O_RDONLY | flags)
    assert os.pread(descriptor, 8192, 8192) == truth[8192:]
    assert os.pread(descriptor, 4096, 12_288) == b""
    assert os.pread(descriptor, 4096, 1 << 40) == b""
    os.close(descriptor)


def test_a_local_file_that_is_too_short_is_an_error_and_no_end_of_file(mounted):
    mount = mounted(("fill", "/f", 1_000_000, 3))
    descriptor = os.open(mount.path / "f", os.O_RDONLY)
    mount.call("truncate_local", "/f", 4096)
    assert code_of(os.pread, descriptor, 8192, 500_000) == "EIO"
    assert os.fstat(descriptor).st_size == 1_000_000
    os.close(descriptor)


def test_a_thousand_opens_leak_nothing(mounted):
    mount = mounted(("fill", "/f", 10, 3))
    (mount.path / "f").read_bytes()
    mount.until("open_files", 0)
    before = mount.call("counted")["fds"]
    for _ in range(1000):
        os.close(os.open(mount.path / "f", os.O_RDONLY))
        os.listdir(mount.path)
    mount.until("open_files", 0)
    mount.until("fds", before)


class TestVersions:
    def test_pages_are_kept_while_the_version_is_the_same(self, mounted):
        mount = mounted(("fill", "/f", 500_000, 3))
        first = (mount.path / "f").read_bytes()
        reads = mount.call("counted")["reads"]
        assert (mount.path / "f").read_bytes() == first
        assert mount.call("counted")["reads"] == reads

    def test_a_new_version_is_seen_whole(self, mounted):
        mount = mounted(("write", "/f", "old " * 1000, "1"))
        assert (mount.path / "f").read_text() == "old " * 1000
        for number, text in enumerate(("new " * 1000, "longer " * 2000, "short", "")):
            mount.call("write", "/f", text, f"2.{number}")
            with (mount.path / "f").open() as file:  # the kernel's attributes are still those of before
                assert os.fstat(file.fileno()).st_size == len(text)
                assert file.read() == text

    def test_readers_of_two_versions_do_not_see_each_others_bytes(self, mounted):
        mount = mounted(("write", "/f", "old " * 20_000, "1"))
        with (mount.path / "f").open("rb", buffering=0) as old:
            assert old.read(4) == b"old "
            mount.call("write", "/f", "new " * 20_000, "2")
            for _ in range(2):
                assert (mount.path / "f").read_bytes() == b"new " * 20_000
                assert os.pread(old.fileno(), 200_000, 0) == b"old " * 20_000
        mount.until("open_files", 0)
        assert (mount.path / "f").read_bytes() == b"new " * 20_000

    def test_beside_an_older_version_a_new_one_can_be_read_and_not_be_mapped_shared(self, mounted):
        """The kernel has one set of pages for both; a private map cannot be refused, and would show some of the old."""
        mount = mounted(("write", "/f", "old " * 20_000, "1"))
        with (mount.path / "f").open("rb", buffering=0) as old:
            assert old.read(4) == b"old "
            mount.call("write", "/f", "new " * 20_000, "2")
            with (mount.path / "f").open("rb", buffering=0) as new:
                with pytest.raises(OSError, match="No such device"):
                    mmap.mmap(new.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
                assert new.read() == b"new " * 20_000

    def test_nobody_sees_pages_of_the_version_before_while_the_kernel_is_yet_to_hear_of_a_new_one(self, mounted):
        mount = mounted(("write", "/f", "old " * 20_000, "1"))
        assert (mount.path / "f").read_bytes() == b"old " * 20_000
        mount.until("open_files", 0)
        mount.call("write", "/f", "new " * 20_000, "2")
        mount.call("hold_next", "opened")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit((mount.path / "f").read_bytes)
            mount.until("waiting", 1)
            try:
                assert (mount.path / "f").read_bytes() == b"new " * 20_000
            finally:
                mount.call("open_gate")
            assert first.result() == b"new " * 20_000

    def test_nobody_sees_a_new_version_under_the_size_of_the_one_before(self, mounted):
        """One has looked it up again, and the kernel is yet to hear of the new size: another one opens the file."""
        mount = mounted(("write", "/f", "old " * 1000, "1"))
        assert (mount.path / "f").read_text() == "old " * 1000
        mount.until("open_files", 0)
        mount.call("write", "/f", "newer " * 1000, "2")
        mount.call("hold_next", "tell")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit((mount.path / "f").read_text)
            mount.until("waiting", 1)
            try:
                with (mount.path / "f").open() as file:
                    assert os.fstat(file.fileno()).st_size == 6000
                    assert file.read() == "newer " * 1000
            finally:
                mount.call("open_gate")
            assert first.result() == "newer " * 1000

    @pytest.mark.parametrize("count", [30_000, 10_000])
    def test_a_version_of_another_size_cannot_be_opened_beside_an_older_one(self, mounted, count):
        mount = mounted(("write", "/f", "old " * 20_000, "1"))
        with (mount.path / "f").open("rb", buffering=0) as old:
            assert old.read(4) == b"old "
            mount.call("write", "/f", "new " * count, "2")
            with pytest.raises(OSError, match="Stale") as problem:
                (mount.path / "f").open("rb")
            assert problem.value.errno == errno.ESTALE
            assert os.fstat(old.fileno()).st_size == (mount.path / "f").stat().st_size == 80_000
            assert os.pread(old.fileno(), 200_000, 0) == b"old " * 20_000
        mount.until("open_files", 0)
        with (mount.path / "f").open("rb") as new:
            assert os.fstat(new.fileno()).st_size == 4 * count
            assert new.read() == b"new " * count


# --- waiting


@contextmanager
def blocked_reads(mount, count):
    """That many reads that wait in the file system, each in a thread."""
    seen = [None] * count

    def read(number):
        try:
            seen[number] = (mount.path / "slow" / str(number)).read_bytes()
        except OSError as problem:
            seen[number] = errno.errorcode[problem.errno]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    mount.until("waiting", count)
    yield seen
    for thread in threads:
        thread.join()


def test_reads_that_wait_do_not_stop_the_others(mounted):
    slow = [("fill_slow", f"/slow/{number}", 3000, number) for number in range(40)]
    mount = mounted(*slow, ("fill", "/ready/f", SIZE, 7), ("add_many", "/ready/many", 100))
    with blocked_reads(mount, 40) as seen:
        with ThreadPoolExecutor(8) as pool:  # each of these would hang until the test times out
            contents = list(pool.map(lambda _: (mount.path / "ready/f").read_bytes(), range(8)))
        assert set(contents) == {random.Random(7).randbytes(SIZE)}
        assert len(os.listdir(mount.path / "ready/many")) == 100
        assert all(os.stat(mount.path / "ready/many" / f"file-{number:06d}.dcm").st_size == 4 for number in range(100))
        assert os.statvfs(mount.path).f_bsize == 4096
        mount.call("open_gate")
    assert seen == [random.Random(number).randbytes(3000) for number in range(40)]


# --- the end


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGHUP", "umount", "fusermount3", "unmount"])
def test_every_way_to_end_it_is_clean(mounted, how):
    mount = mounted(("fill", "/f", 10, 3))
    (mount.path / "f").read_bytes()
    if how.startswith("SIG"):
        mount.process.send_signal(getattr(signal, how))
    elif how == "unmount":
        fuse_mount.unmount(mount.path)
    else:
        subprocess.run([how, *(["-u"] if how == "fusermount3" else []), mount.path], check=True)
    assert ended_cleanly(mount)
    log = mount.log.read_text()
    assert "waiting" not in log
    assert "Traceback" not in log


def _takes_sigterm(task):
    """libfuse's own threads, in the plain loop, have it blocked."""
    blocked = next(line for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk"))
    return not int(blocked.split()[1], 16) & (1 << (signal.SIGTERM - 1))


def test_a_signal_is_heard_whichever_thread_the_kernel_gives_it_to(mounted):
    """The kernel may choose any; a main thread asleep in a lock would not come to and run the handler."""
    mount = mounted(("fill", "/f", 10, 3))
    (mount.path / "f").read_bytes()
    last = max(
        filter(_takes_sigterm, Path(f"/proc/{mount.process.pid}/task").iterdir()), key=lambda task: int(task.name)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(SYS_TGKILL, mount.process.pid, int(last.name), int(signal.SIGTERM)) == 0
    assert ended_cleanly(mount)


def test_a_signal_ends_it_while_files_are_open(mounted):
    mount = mounted(("fill", "/f", 10, 3))
    descriptor = os.open(mount.path / "f", os.O_RDONLY)
    mount.process.send_signal(signal.SIGTERM)
    assert ended_cleanly(mount)
    with suppress(OSError):  # not connected any more
        os.close(descriptor)


def test_a_signal_ends_it_while_reads_wait_for_the_server(mounted):
    mount = mounted(*[("fill_slow", f"/slow/{number}", 3000, number) for number in range(5)])
    with blocked_reads(mount, 5) as seen:
        mount.process.send_signal(signal.SIGTERM)
        assert ended_cleanly(mount)
    for number, answer in enumerate(seen):  # the bytes where the kernel asked once more, else an error
        assert isinstance(answer, str) or answer == random.Random(number).randbytes(3000)


def test_busy(mounted):
    mount = mounted(("fill", "/f", 10, 3))
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], cwd=mount.path, stdin=-1, stdout=-1
    ) as user:
        user.stdout.readline()
        with pytest.raises(MountpointError, match=rf"busy, in use by .* \({user.pid}\)"):
            fuse_mount.unmount(mount.path)
        assert os.listdir(mount.path) == ["f"]
        user.communicate(b"\n")
    fuse_mount.unmount(mount.path)
    assert ended_cleanly(mount)


def test_a_busy_mount_can_be_left_lazily(mounted):
    mount = mounted(("fill", "/f", 10, 3))
    with (mount.path / "f").open("rb") as file:
        fuse_mount.unmount(mount.path, lazy=True)
        assert not fuse_mount.is_mounted(mount.path)
        assert file.read() == random.Random(3).randbytes(10)
    assert ended_cleanly(mount)


def test_a_mountpoint_in_use_is_refused(mounted):
    mount = mounted()
    with pytest.raises(MountpointError, match="mounted there already"):
        fuse_mount.check_mountpoint(mount.path)
    assert not fuse_mount.is_dead(mount.path)


def _dead(mounted):
    mount = mounted(("fill", "/f", 10, 3))
    os.stat(mount.path)  # so that the kernel has attributes of it that hide its death from stat
    mount.process.kill()
    mount.process.wait()
    assert fuse_mount.is_mounted(mount.path)
    assert fuse_mount.is_dead(mount.path)
    return mount


def test_a_dead_mount_is_cleared_before_mounting(mounted):
    mount = _dead(mounted)
    assert fuse_mount.check_mountpoint(mount.path) == str(mount.path)
    assert not fuse_mount.is_mounted(mount.path)


def test_a_dead_mount_is_cleared_by_unmounting(mounted):
    mount = _dead(mounted)
    fuse_mount.unmount(mount.path)
    assert not fuse_mount.is_mounted(mount.path)
    assert not fuse_mount.is_dead(mount.path)


def test_auto_unmount(mounted):
    mount = mounted(("fill", "/f", 10, 3), auto_unmount=True)
    (watcher,) = [
        status.parent.name
        for status in Path("/proc").glob("[0-9]*/cmdline")
        if b"auto_unmount" in _text(status)
        and os.fsencode(mount.path) in _text(status)
        and b"fusermount" in _text(status)
    ]
    mount.process.kill()
    mount.process.wait()
    while b"fusermount" in _text(Path("/proc") / watcher / "cmdline"):
        threading.Event().wait(0.01)
    # fusermount gives up when it looks while the kernel is still taking the dead daemon apart; then it is ours to do.
    assert fuse_mount.check_mountpoint(mount.path) == str(mount.path)
    assert not fuse_mount.is_mounted(mount.path)


def _text(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_ready_raises_ends_the_mount_and_is_said(loop, tmp_path):
    with pytest.raises(AssertionError, match="SettingsError: ready has failed"):
        Mount(tmp_path, loop, [("fail_when_ready",)])
    assert not fuse_mount.is_mounted(tmp_path / "mnt")


def test_a_mount_that_fails_says_why(loop, tmp_path):
    with pytest.raises(AssertionError, match="MountpointError") as caught:
        Mount(tmp_path, loop, allow_other=True, allow_root=True)
    assert "mutually exclusive" in str(caught.value)


def test_a_refresh_is_seen_at_once(tmp_path):
    with Mount(tmp_path, "fast", [("write", "/p/d/f", "x", "1")], negative_ttl=3600, ttl=3600) as mount:
        assert code_of(os.stat, mount.path / "p/d/new") == "ENOENT"
        assert os.stat(mount.path / "p/d/f").st_size == 1
        mount.call("write", "/p/d/new", "new", "1")
        mount.call("write", "/p/d/f", "longer", "2")
        assert code_of(os.stat, mount.path / "p/d/new") == "ENOENT"
        mount.call("run_forget")
        assert (mount.path / "p/d/new").read_text() == "new"
        assert os.stat(mount.path / "p/d/f").st_size == 6
        assert (mount.path / "p/d/f").read_text() == "longer"


def test_read_ahead_is_raised_for_root(tmp_path):
    with Mount(tmp_path, "fast", read_ahead=384) as mount:
        os.stat(mount.path)
        device = fuse_mount.find(mount.path).device
        assert Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text() == "384\n"
