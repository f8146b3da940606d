"""The access log as a file: what a line says, and that it may be moved away."""

from __future__ import annotations

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xnatfs.access_log import AccessLog, command_of
from xnatfs.errors import SettingsError
from xnatfs.stats import Cause


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "access.log"


@pytest.fixture
def log(path):
    made = AccessLog(path)
    yield made
    made.close()


def tell(log, path="/P/S", operation="read", errno_name=None, count=10, pid=None, **caused):
    cause = Cause()
    for name, amount in caused.items():
        cause.add(name.replace("__", "."), amount)
    log.tell(
        operation, path, time.perf_counter() - 0.25, errno_name, count, cause, os.getpid() if pid is None else pid, 1000
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_happened_how_long_it_took_and_for_whom(log, path):
    tell(log, requests__total=2, bytes__received=99)
    (line,) = lines(path)
    assert 0.25 <= line.pop("seconds") < 20
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "operation": "read",
        "path": "/P/S",
        "errno": None,
        "bytes": 10,
        "requests": 2,
        "received": 99,
        "pid": os.getpid(),
        "uid": 1000,
        "command": Path("/proc/self/comm").read_text().strip(),
    }


def test_who_is_not_known_is_not_made_up(log, path):
    tell(log, pid=0)
    tell(log, pid=2**22 + 1)  # beyond the largest number of a process
    assert [(line["pid"], line["uid"], line["command"]) for line in lines(path)] == [
        (None, None, None),
        (2**22 + 1, 1000, None),
    ]
    assert command_of(0) is None


def test_names_that_are_no_text_stay_one_line_and_can_be_had_back(log, path):
    odd = b"/P/a\nb\xff".decode("utf-8", "surrogateescape")
    tell(log, path=odd)
    (line,) = lines(path)
    assert os.fsencode(line["path"]) == b"/P/a\nb\xff"


def test_it_is_for_its_owner_only(log, path):
    tell(log)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_after_it_was_moved_away_a_new_one_begins(log, path):
    tell(log, path="/before")
    path.rename(path.with_suffix(".1"))
    tell(log, path="/after")
    assert [line["path"] for line in lines(path.with_suffix(".1"))] == ["/before"]
    assert [line["path"] for line in lines(path)] == ["/after"]


def test_lines_of_many_threads_stay_whole(log, path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: tell(log, path=f"/{number}" * 200), range(200)))
    assert {line["path"] for line in lines(path)} == {f"/{number}" * 200 for number in range(200)}


def test_a_full_disk_costs_the_line_and_nothing_else(caplog):
    log = AccessLog(Path("/dev/full"))
    tell(log)
    assert "No space left" in caplog.text
    log.close()


def test_a_place_that_cannot_be_written_is_said_before_the_mount(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="access log"):
        AccessLog(tmp_path / "file" / "access.log")
