"""What a refresh makes visible, through the kernel with its caches of names and attributes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.faces import environment, mounted, until
from support.studies import one_session

from xnatfs.demo import DemoServer

pytestmark = pytest.mark.mount
FOLDER = "/P/S/E/1/DICOM"


@pytest.fixture
def server():
    with DemoServer(one_session(scans=2, files=3)) as found:
        yield found


@pytest.fixture
def face(server, tmp_path):
    with mounted(server.url, tmp_path / "mnt", tmp_path, "--ttl", "1000") as found:
        yield found
        assert "Traceback" not in found.text()


def command(face, *words):
    done = subprocess.run(
        [sys.executable, "-m", "xnatfs", *words],
        env=environment(face.root.parent / "home"),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def subjects(face):
    return sorted(name for name in os.listdir(face.path("/P")) if name != "resources")


def session_of(server):
    project = server.archive.projects["P"]
    return next(iter(server.archive.experiments_of(project)))


def replace_file(server, data, scan="1", name="dicom_0000.bin"):
    resource = next(r for r in session_of(server).scans[scan].resources.values() if r.label == "DICOM")
    server.archive.replace_file(resource, name, data)


def look(face):
    """Fill the kernel's caches: sizes, names, and names that are not there."""
    before = {name: face.stat(f"{FOLDER}/{name}").size for name in face.listdir(FOLDER)}
    assert not os.path.exists(face.path("/P/new"))
    return before


def by_reading(face, path):
    assert face.read(f"{path}/.xnat/refresh-all") == b"refreshed\n"


def by_command(face, path):
    assert command(face, "refresh", "--recursive", face.path(path)) == (0, "")


def by_signal(face, path):
    before = face.text().count("forgetting all listings")
    face.process.send_signal(signal.SIGHUP)
    until(lambda: face.text().count("forgetting all listings") > before)


@pytest.mark.parametrize("refresh", [by_reading, by_command])
def test_a_new_subject_and_a_replaced_file_are_seen_at_once(server, face, refresh):
    look(face)
    server.archive.add_subject(server.archive.projects["P"], "new")
    replace_file(server, b"n" * 5000)
    assert subjects(face) == ["S"]
    refresh(face, "/P")
    assert subjects(face) == ["S", "new"]
    assert Path(face.path("/P/new")).is_dir()
    assert face.stat(f"{FOLDER}/dicom_0000.bin").size == 5000
    assert face.read(f"{FOLDER}/dicom_0000.bin") == b"n" * 5000


def test_a_hangup_refreshes_everything(server, face):
    look(face)
    server.archive.add_subject(server.archive.projects["P"], "new")
    by_signal(face, "/")
    until(lambda: Path(face.path("/P/new")).is_dir())


def test_a_renamed_subject_is_seen_under_one_name_only(server, face):
    look(face)
    server.archive.rename(server.archive.find("S"), "S2")
    by_reading(face, "/P")
    assert subjects(face) == ["S2"]
    assert not os.path.exists(face.path("/P/S"))
    assert face.listdir("/P/S2/E/1/DICOM")


class Changes:
    """What can be seen of one change after the other, each time as it was or as it is now and nothing between."""

    def __init__(self, server, face):
        self.server, self.face = server, face
        self.subject = "S"
        self.content = face.read(f"{FOLDER}/dicom_0000.bin")

    def file(self):
        """The bytes of the file; they are as many as the open file and stat say."""
        with open(self.face.path(f"/P/{self.subject}/E/1/DICOM/dicom_0000.bin"), "rb") as file:
            size, data = os.fstat(file.fileno()).st_size, file.read()
        assert len(data) == size
        return data

    def make(self, wait):
        """Every change in turn; ``wait(condition)`` until it is seen."""
        for data in (b"n" * 5000, b"m" * 5000, b"o" * 10):
            before, self.content = self.content, data
            replace_file(self.server, data)
            wait(lambda before=before, data=data: self._one_of(self.file(), before, data))
        project = self.server.archive.projects["P"]
        self.server.archive.add_session(next(iter(self.server.archive.subjects_of(project))), "F")
        wait(lambda: self._one_of(self.face.listdir("/P/S"), ["E", "resources"], ["E", "F", "resources"]))
        self.server.archive.rename(self.server.archive.find("S"), "S2")
        wait(lambda: self._one_of(subjects(self.face), ["S"], ["S2"]))
        self.subject = "S2"
        wait(lambda: not os.path.exists(self.face.path("/P/S")))
        wait(lambda: self.face.listdir("/P/S2") == ["E", "F", "resources"])
        assert self.file() == self.content

    @staticmethod
    def _one_of(seen, before, now):
        assert seen in (before, now)
        return seen == now


def test_every_change_is_seen_after_a_refresh_at_once(server, face):
    look(face)

    def refreshed(condition):
        by_reading(face, "/")
        assert condition()

    Changes(server, face).make(refreshed)


@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_every_change_is_seen_when_its_time_is_up_and_never_in_part(server, tmp_path, loop):
    with mounted(server.url, tmp_path / "short", tmp_path, "--ttl", "0.4", loop=loop) as face:
        look(face)
        Changes(server, face).make(until)


def test_a_refresh_of_one_directory_leaves_the_sessions_below_it(server, face):
    look(face)
    server.reset_log()
    assert face.read("/P/.xnat/refresh") == b"refreshed\n"
    look(face)
    assert sorted(r.path for r in server.requests) == ["/data/projects/P/experiments", "/data/projects/P/subjects"]


def test_a_path_that_is_only_now_on_the_server_can_be_refreshed(server, face):
    look(face)
    server.archive.add_subject(server.archive.projects["P"], "new")
    assert command(face, "refresh", face.path("/P/new")) == (0, "")
    assert Path(face.path("/P/new")).is_dir()


def test_what_is_no_mount_cannot_be_refreshed(face, tmp_path):
    status, said = command(face, "refresh", str(tmp_path))
    assert status == 6
    assert "not below a mount" in said


def test_an_open_reader_gets_its_old_bytes_or_estale_and_never_a_mixture(server, face):
    path = face.path(f"{FOLDER}/dicom_0000.bin")
    with open(path, "rb", buffering=0) as reader:
        old = reader.read(100)
        replace_file(server, b"n" * 7000)
        by_reading(face, "/")
        rest, failed = [], 0
        try:
            while piece := reader.read(512):
                rest.append(piece)
        except OSError as error:
            failed = error.errno
        assert failed == errno.ESTALE or len(old) + sum(map(len, rest)) == 2048
        assert b"n" * 100 not in b"".join(rest)
    until(lambda: face.stat(f"{FOLDER}/dicom_0000.bin").size == 7000)  # closing is told to xnatfs a little later
    assert face.read(f"{FOLDER}/dicom_0000.bin") == b"n" * 7000


def test_the_control_files_are_in_no_listing_and_looking_at_them_does_nothing(server, face):
    look(face)
    server.reset_log()
    assert "refresh" not in os.listdir(face.path("/P/.xnat"))
    assert face.stat("/P/.xnat/refresh").size == len(b"refreshed\n")
    look(face)
    assert not server.requests


def test_writing_is_refused_by_the_kernel_which_is_why_reading_does_it(face):
    with pytest.raises(OSError, match="Read-only"):
        os.open(face.path("/P/.xnat/refresh"), os.O_WRONLY)
