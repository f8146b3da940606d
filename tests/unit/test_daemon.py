"""Going to the background: what the parent learns, what stays behind, and what the process list shows."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xnatfs import daemon
from xnatfs.errors import MountpointError

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from xnatfs import daemon

def work(live):
    {work}

def explain(error):
    return 9, f"{{type(error).__name__}}: {{error}}"

report = daemon.start(work, explain, output=Path({output!r}))
print(report.status, report.message, os.getsid(0) == os.getsid(report.pid) if not report.status else "-")
"""


def start(work: str, tmp_path: Path) -> str:
    """What the parent says; returns when nothing of the child holds its output any more."""
    script = SCRIPT.format(work=work, output=str(tmp_path / "output.log"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_parent_comes_back_when_the_child_is_live(tmp_path):
    assert start("live(); sys.stdin.read(); os.write(2, b'late words')", tmp_path) == "0  False"
    daemon_output = tmp_path / "output.log"
    assert daemon_output.exists()


def test_a_failure_before_that_is_the_parents(tmp_path):
    assert start("raise ValueError('no luck')", tmp_path) == "9 ValueError: no luck -"


def test_a_child_that_dies_without_a_word_is_noticed(tmp_path):
    said = start("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert said.startswith("1 the background process ended before the mount was live")


def test_the_child_keeps_no_terminal_and_no_directory(tmp_path):
    facts = tmp_path / "facts"
    work = f"live(); Path({str(facts)!r}).write_text(os.getcwd() + ' ' + os.readlink('/proc/self/fd/0'))"
    start(f"{work}; os.rename({str(facts)!r}, {f'{facts}.done'!r})", tmp_path)
    done = Path(f"{facts}.done")
    while not done.exists():
        pass
    assert done.read_text() == "/ /dev/null"


def test_a_forgotten_variable_is_not_in_proc_either():
    script = """
import os, subprocess
from pathlib import Path
from xnatfs.daemon import forget_variable
forget_variable("XNAT_PASS")
forget_variable("XNAT_PASS")
print(os.environ.get("XNAT_PASS"), b"s3cret" in Path("/proc/self/environ").read_bytes())
print(subprocess.run(["env"], capture_output=True, text=True).stdout.count("s3cret"))
"""
    variables = {"PATH": "/usr/bin:/bin", "XNAT_PASS": "s3cret"}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["None", "False", "0"], done.stderr


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_record_lives_as_long_as_its_mount(state, tmp_path):
    point = tmp_path / "mnt"
    with daemon.recorded(point, {"server": "https://host"}):
        facts = daemon.recorded_facts(point)
        assert facts is not None
        assert facts["server"] == "https://host"
        assert not daemon.wait_for_end(point, 0)
        with pytest.raises(MountpointError, match="another xnatfs"), daemon.recorded(point, {}):
            pass
        assert daemon.recorded_facts(point) == facts
    assert daemon.recorded_facts(point) is None
    assert daemon.wait_for_end(point, 0)


def test_the_next_mount_waits_for_the_one_before(state, tmp_path):
    """It had the record open before that one removed it, so it must look again."""
    first = daemon.recorded(tmp_path, {"number": 1})
    first.__enter__()
    timer = threading.Timer(0.1, lambda: first.__exit__(None, None, None))
    timer.start()
    with daemon.recorded(tmp_path, {"number": 2}, patience=20):
        facts = daemon.recorded_facts(tmp_path)
        assert facts is not None
        assert facts["number"] == 2
    timer.join()


def test_a_record_of_a_dead_process_counts_for_nothing(state, tmp_path):
    path = daemon.record_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('{"pid": 1}')
    assert daemon.recorded_facts(tmp_path) is None
    assert daemon.wait_for_end(tmp_path, 0)


def test_no_place_for_a_record_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with daemon.recorded(tmp_path, {}):
        assert daemon.recorded_facts(tmp_path) is None
