"""Sessions of the server end, and passwords are revoked, while it is mounted."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.faces import mounted
from support.rawserver import HandClock

from xnatfs.demo import Archive, DemoServer, Rule

pytestmark = pytest.mark.mount
PROJECTS = 130
CALLERS = 100
DATA = b"0123456789" * 30_000


def _archive() -> Archive:
    """So many projects of one file each, whose listings nobody has seen yet."""
    archive = Archive()
    for number in range(PROJECTS):
        subject = archive.add_subject(archive.add_project(f"P{number:03d}"), "S")
        scan = archive.add_scan(archive.add_session(subject, "E"), "1", type="T1")
        archive.add_file(archive.add_resource(scan, "R"), "a.bin", DATA)
    return archive


def _outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as problem:
        return errno.errorcode[problem.errno]


def _file(number):
    return f"/P{number:03d}/S/E/1/R/a.bin"


def test_a_mount_outlives_its_sessions_and_who_meets_that_together_logs_in_once(tmp_path):
    clock = HandClock()
    with DemoServer(_archive(), clock=clock) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        logins = server.logins
        assert logins.logins == 1
        held = os.open(face.path(_file(0)), os.O_RDONLY)
        for number in range(1, 6):
            clock.now += logins.timeout + 1
            assert face.listdir(f"/P{number:03d}") == ["S", "resources"]
            clock.now += logins.timeout + 1
            assert face.read(_file(number)) == DATA
            assert logins.logins == 1 + 2 * number
        clock.now += logins.timeout + 1
        assert os.pread(held, 1000, 200_000) == DATA[200_000:201_000]
        os.close(held)

        before = logins.logins
        logins.expire_all()
        server.faults.add(Rule("delay", path="/data/JSESSION", seconds=0.3))  # all of them meet it before it is over
        with ThreadPoolExecutor(CALLERS) as callers:
            found = callers.map(lambda number: face.listdir(f"/P{number:03d}"), range(20, 20 + CALLERS))
            assert list(found) == [["S", "resources"]] * CALLERS
        assert logins.logins == before + 1
        assert logins.failed == {}


def test_a_password_that_was_revoked_is_sent_once_and_locks_no_account(tmp_path):
    with DemoServer(_archive()) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        server.logins.users["admin"] = "another"
        server.logins.expire_all()
        server.reset_log()
        with ThreadPoolExecutor(CALLERS) as callers:
            found = callers.map(lambda number: _outcome(face.listdir, f"/P{number:03d}"), range(CALLERS))
            assert set(found) == {"EACCES"}
        for number in range(CALLERS, PROJECTS):
            assert _outcome(face.read, _file(number)) == "EACCES"
        assert server.logins.failed == {"admin": 1}
        assert sum("authorization" in request.headers for request in server.requests) == 1
