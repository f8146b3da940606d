"""``xnatfs get`` as a person meets it: the real command, interrupted, with something missing, on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest
from support import truth
from support.faces import environment, until
from support.moving import contents, md5s
from support.studies import one_session

from xnatfs.demo import DemoServer, Rule

FILES = 30
STALLED = "dicom_0020.bin"


@pytest.fixture(scope="module")
def study():
    model = one_session(scans=1, resources=("DICOM",), files=FILES, size=3000)
    with DemoServer(model) as server:
        yield server, {path: truth.md5(truth.content(file)) for path, file in truth.tree(model, "P").items()}


@pytest.fixture
def site(study):
    server, expected = study
    server.reset_log()
    yield server, expected
    server.faults.clear()
    server.faults.release()


@pytest.fixture
def start(site, tmp_path):
    """Begin ``xnatfs get P OUT`` with more options; where it goes."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    login = {"XNAT_HOST": site[0].url, "XNAT_USER": "admin", "XNAT_PASS": "admin"}

    def begin(*options, **pipes):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        command = [sys.executable, "-m", "xnatfs", "get", *options, "P", str(out)]
        return subprocess.Popen(
            command, env=environment(home, TERM="xterm", **login), stdin=subprocess.DEVNULL, text=True, **pipes
        )

    return begin, out


def ended(process):
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_interrupted_and_run_again_only_the_missing_is_fetched(site, start):
    server, expected = site
    begin, out = start
    server.faults.add(Rule("stall", path=STALLED, at=100, count=None))
    process = begin("--no-series", "--jobs", "4")
    until(lambda: len(list(out.rglob("*.bin"))) == FILES - 1)
    process.send_signal(signal.SIGINT)
    status, _, complaint = ended(process)
    assert (status, complaint.strip()) == (130, "xnatfs: interrupted")
    there = md5s(out)
    assert there == {path: digest for path, digest in expected.items() if not path.endswith(STALLED)}
    server.faults.clear()
    server.faults.release()
    server.reset_log()
    status, said, _ = ended(begin())
    assert status == 0
    assert said.startswith("copied 1 file, ")
    assert f"{FILES - 1} files" in said
    assert contents(server) == (0, 1)
    assert md5s(out) == expected


def test_what_is_missing_is_named_and_the_status_says_so(site, start):
    server, _ = site
    begin, out = start
    server.faults.add(Rule("status", path=STALLED, status=403, count=None))
    status, said, complaints = ended(begin("--no-series", "--quiet"))
    assert (status, said) == (3, "")
    first, last = complaints.splitlines()
    assert first.startswith(f"xnatfs: /P/S/E/1/DICOM/{STALLED}: missing: ")
    assert last.startswith("xnatfs: 1 missing; ")
    assert len(md5s(out)) == FILES - 1


def test_a_dry_run_writes_nothing(start):
    begin, out = start
    status, said, complaints = ended(begin("--dry-run"))
    assert (status, complaints) == (0, "")
    assert said.startswith(f"{FILES} files, ")
    assert not out.exists()


def test_on_a_terminal_there_is_a_bar(start):
    begin, _ = start
    ours, theirs = pty.openpty()
    process = begin(stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # how a terminal says that the other end is closed
        pass
    os.close(ours)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith(f"copied {FILES} files, ")
    assert f"of {FILES} files".encode() in shown
