"""What the kernel and programs may ask at the edges: offsets, sizes, buffers, flags, streams of a directory, readers by
the hundred and readers that die.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuse_child import Mount

pytestmark = pytest.mark.mount
SIZE = 200_001
DATA = random.Random(7).randbytes(SIZE)
ENTRIES = 5000
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", params=["fast", "plain"])
def mount(request, tmp_path_factory):
    setup = [("fill", "/p/f", SIZE, 7), ("fill", "/p/empty", 0, 7), ("add_many", "/big", ENTRIES)]
    setup += [("fill_slow", f"/slow/{number}", 3000, number) for number in range(3)]
    with Mount(tmp_path_factory.mktemp("boundary"), request.param, setup) as mount:
        yield mount
        assert "Traceback" not in mount.log.read_text()


@pytest.fixture
def opened(mount):
    descriptor = os.open(mount.path / "p/f", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as problem:
        return errno.errorcode[problem.errno]


def test_offsets_and_sizes_at_their_limits(mount, opened):
    for offset in (SIZE, SIZE + 1, 2**31, 2**32 + 1, 2**62, 2**63 - 4097):
        assert os.pread(opened, 4096, offset) == b""
    assert os.pread(opened, 0, 0) == b""
    assert os.pread(opened, 10, SIZE - 1) == DATA[-1:]
    assert os.pread(opened, 2**30, 0) == DATA
    assert outcome(os.pread, opened, 2, 2**63 - 1) == "EINVAL"
    assert (mount.path / "p/empty").read_bytes() == b""
    assert os.lseek(opened, 0, os.SEEK_HOLE) == SIZE
    assert os.lseek(opened, 5, os.SEEK_DATA) == 5
    assert outcome(os.lseek, opened, SIZE, os.SEEK_DATA) == "ENXIO"


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(reads=st.lists(st.tuples(st.integers(0, SIZE + 5000), st.integers(0, 150_000), st.booleans()), max_size=12))
def test_any_sequence_of_offsets_and_sizes_equals_slicing(mount, reads):
    """With the kernel's pages and past them."""
    buffered, direct = (os.open(mount.path / "p/f", os.O_RDONLY | flag) for flag in (0, os.O_DIRECT))
    try:
        for offset, size, past in reads:
            assert os.pread(direct if past else buffered, size, offset) == DATA[offset : offset + size]
    finally:
        os.close(buffered)
        os.close(direct)


def test_flags_that_change_nothing_open_it_and_others_do_not(mount):
    path = mount.path / "p/f"
    for flags in (os.O_APPEND, os.O_CREAT, os.O_NOFOLLOW, os.O_NOATIME, os.O_DIRECT, os.O_PATH, os.O_SYNC):
        os.close(os.open(path, flags))
    refused = {
        os.O_CREAT | os.O_EXCL: "EEXIST",
        os.O_DIRECTORY: "ENOTDIR",
        os.O_WRONLY | os.O_APPEND: "EROFS",
        os.O_RDWR | os.O_CREAT: "EROFS",
        os.O_TRUNC: "EROFS",
    }
    assert {flags: outcome(os.open, path, flags) for flags in refused} == refused
    assert outcome(os.open, mount.path / "p", os.O_TMPFILE | os.O_RDWR) == "EROFS"
    assert outcome(os.open, mount.path / "p/new", os.O_CREAT) == "EROFS"
    assert [os.access(path, mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)] == [True, True, False, False]


def test_calls_on_an_open_file_that_change_nothing(mount, opened, tmp_path):
    os.fsync(opened)
    os.fdatasync(opened)
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_WILLNEED)
    fcntl.flock(opened, fcntl.LOCK_SH)
    fcntl.lockf(opened, fcntl.LOCK_SH)
    with open(tmp_path / "copy", "w+b", buffering=0) as copy:
        assert os.sendfile(copy.fileno(), opened, 0, 1000) == 1000
        assert outcome(os.copy_file_range, copy.fileno(), opened, 10, 0, 0) == "EBADF"
    assert (tmp_path / "copy").read_bytes() == DATA[:1000]
    assert outcome(fcntl.ioctl, opened, 0x80086601, bytes(8)) == "ENOTTY"  # FS_IOC_GETFLAGS: lsattr
    assert libc.fallocate(opened, 0, ctypes.c_long(0), ctypes.c_long(10)) == -1
    assert ctypes.get_errno() == errno.EBADF


def _xattr(call, path, *arguments, size):
    buffer = ctypes.create_string_buffer(size) if size else None
    length = getattr(libc, call)(os.fsencode(path), *arguments, buffer, ctypes.c_size_t(size))
    return errno.errorcode[ctypes.get_errno()] if length < 0 else length


def test_attributes_in_buffers_of_any_size(mount):
    path, value = mount.path / "p/f", len("Prüfung".encode())
    sizes = (0, 1, value - 1, value, 1000)
    assert [_xattr("getxattr", path, b"user.xnat.id", size=size) for size in sizes] == [value, "ERANGE", "ERANGE"] + [
        value
    ] * 2
    listed = len(b"user.xnat.id\0user.xnat.label\0")
    assert [_xattr("listxattr", path, size=size) for size in (0, 1, listed - 1, listed)] == [
        listed,
        "ERANGE",
        "ERANGE",
        listed,
    ]
    assert outcome(os.getxattr, path, "user.other") == outcome(os.getxattr, path, "user." + "x" * 250) == "ENODATA"
    assert outcome(os.getxattr, path, "trusted.x") == outcome(os.getxattr, path, "security.x") == "ENOTSUP"


def test_names_and_paths_at_their_limits(mount):
    assert outcome(os.stat, mount.path / ("n" * 255)) == "ENOENT"
    deep = f"{mount.path}/p" + "/." * 1900
    assert os.stat(deep).st_ino == os.stat(mount.path / "p").st_ino
    assert outcome(os.stat, mount.path / "p/f/x") == outcome(os.listdir, mount.path / "p/f") == "ENOTDIR"
    directory = os.open(mount.path / "p", os.O_RDONLY)
    assert outcome(os.read, directory, 10) == "EISDIR"
    os.close(directory)


class Stream:
    """A directory read by readdir(3), which can go back to a place."""

    def __init__(self, path):
        for name, result in (("opendir", ctypes.c_void_p), ("readdir", ctypes.c_void_p), ("telldir", ctypes.c_long)):
            getattr(libc, name).restype = result
        self._at = ctypes.c_void_p(libc.opendir(os.fsencode(path)))

    def next(self):
        entry = libc.readdir(self._at)
        return ctypes.string_at(entry + 19).decode() if entry else None  # struct dirent: d_name

    def rest(self):
        return list(iter(self.next, None))

    def tell(self):
        return libc.telldir(self._at)

    def seek(self, place):
        libc.seekdir(self._at, ctypes.c_long(place))

    def close(self):
        libc.closedir(self._at)


def test_a_stream_of_a_directory_goes_back_to_any_place_and_is_of_one_moment(mount):
    """While the directory gets other entries, and after the kernel's buffer has been filled several times."""
    stream = Stream(mount.path / "big")
    places, names = [], []
    for _ in range(3000):
        places.append(stream.tell())
        names.append(stream.next())
    mount.call("add_many", "/big", ENTRIES + 100)
    names += stream.rest()
    assert sorted(names) == [".", "..", *(f"file-{number:06d}.dcm" for number in range(ENTRIES))]
    for number in (2999, 0, 1500, 1):
        stream.seek(places[number])
        assert stream.next() == names[number]
    stream.close()
    mount.call("add_many", "/big", ENTRIES)


def test_hundreds_of_readers_at_once(mount):
    def read(number):
        offset = random.Random(number).randrange(SIZE)
        with open(mount.path / "p/f", "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(5000) == DATA[offset : offset + 5000]

    with ThreadPoolExecutor(300) as readers:
        assert all(readers.map(read, range(900)))
    mount.until("open_files", 0)


def test_a_reader_that_dies_in_the_middle_of_a_read_leaves_nothing_open(mount):
    code = "import sys; open(sys.argv[1], 'rb').read()"
    readers = [subprocess.Popen([sys.executable, "-c", code, mount.path / f"slow/{number}"]) for number in range(3)]
    mount.until("waiting", 3)
    for reader in readers:
        reader.send_signal(signal.SIGKILL)
    mount.call("open_gate")  # the kernel waits for the answer of a read that has begun
    assert [reader.wait(30) for reader in readers] == [-signal.SIGKILL] * 3
    mount.until("open_files", 0)
    assert (mount.path / "p/f").read_bytes() == DATA
