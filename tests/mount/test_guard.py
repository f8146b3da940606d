"""Test number one: whatever an operation raises, a mounted call gives the tabled errno, and the mount lives on."""

from __future__ import annotations

import errno
import os

import pytest
from support.fake_vfs import OPERATIONS, RAISERS
from support.fuse_child import Mount

pytestmark = pytest.mark.mount

# Written out here once more, so that a slip in the product's table is seen.
EXPECTED = {
    "NotFound": errno.ENOENT,
    "NotADirectory": errno.ENOTDIR,
    "IsADirectory": errno.EISDIR,
    "ReadOnly": errno.EROFS,
    "NameTooLong": errno.ENAMETOOLONG,
    "NoAttribute": errno.ENODATA,
    "InvalidRequest": errno.EINVAL,
    "AccessDenied": errno.EACCES,
    "LoginFailed": errno.EACCES,
    "TimedOut": errno.ETIMEDOUT,
    "Unreachable": errno.EHOSTUNREACH,
    "ContentChanged": errno.ESTALE,
    "BadHandle": errno.EBADF,
}


def _read(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)


CALLS = {
    "getattr": os.stat,
    "opendir": os.listdir,
    "readdir": os.listdir,
    "open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "read": _read,
    "readlink": os.readlink,
    "getxattr": lambda path: os.getxattr(path, "user.xnat.id"),
    "listxattr": os.listxattr,
}


@pytest.fixture(scope="module", params=["fast", "plain"])
def mount(request, tmp_path_factory):
    setup = [("add_raising",), ("add_file", "/alive/yes")]
    with Mount(tmp_path_factory.mktemp("guard"), request.param, setup) as mount:
        yield mount
    log = mount.log.read_text()
    assert mount.process.returncode == 0, log
    for trouble in ("Exception ignored", "bad error value", "NameError", "read too many bytes"):
        assert trouble not in log, log


def expected(operation, name):
    code = EXPECTED.get(name, errno.EIO)
    # glibc's readdir takes ENOENT for the end of the directory, and would show an empty one.
    return "ESTALE" if (operation, code) == ("readdir", errno.ENOENT) else errno.errorcode[code]


def outcome(call, path):
    """The errno of a call, or what it returned."""
    try:
        return call(path)
    except OSError as problem:
        return errno.errorcode[problem.errno]


def test_every_operation_is_tried():
    assert set(CALLS) == set(OPERATIONS) - {"release"}
    assert len(RAISERS) > 60


@pytest.mark.parametrize("operation", sorted(CALLS))
def test_a_mounted_call_gives_the_tabled_errno_and_never_success(mount, operation):
    wrong = {}
    for name in RAISERS:
        for _ in range(2):  # a second time: what the first left behind must not turn into success
            seen = outcome(CALLS[operation], mount.path / "raise" / f"{operation}:{name}")
            if seen != expected(operation, name):
                wrong[name] = seen
        assert os.listdir(mount.path / "alive") == ["yes"], name
    assert wrong == {}


def test_release_that_raises_leaks_nothing_and_the_mount_lives_on(mount):
    for name in RAISERS:
        assert _read(mount.path / "raise" / f"release:{name}") == b"must not be seen"
    mount.until("open_files", 0)
    assert os.listdir(mount.path / "alive") == ["yes"]


def test_statfs(mount):
    wrong = {}
    for name in RAISERS:
        mount.call("statfs_raise", name)
        seen = outcome(os.statvfs, mount.path)
        if seen != expected("statfs", name):
            wrong[name] = seen
    mount.call("statfs_raise", "")
    assert wrong == {}
    assert os.statvfs(mount.path).f_blocks == (1 << 40) // 4096


def test_a_foreign_exception_is_logged_with_its_traceback(mount):
    assert outcome(os.stat, mount.path / "raise" / "getattr:KeyError") == "EIO"
    log = mount.log.read_text()
    assert "unexpected KeyError" in log
    assert "Traceback" in log
