"""The status document, its metrics, and what `xnatfs top` makes of two of them."""

from __future__ import annotations

import io
import json
import math
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from xnatfs import metrics, mounted, status, top, units
from xnatfs.cache.store import Usage
from xnatfs.errors import MountpointError
from xnatfs.settings import load
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Running
from xnatfs.xnat.client import Connection

DOCS = Path(status.__file__).parent / "docs" / "monitoring.md"


def document(away=None, reason="", uptime=100.0, transfers=(), **counts):
    stats = Stats()
    for name, count in counts.items():
        stats.add(name.replace("__", "."), count)
    return status.document(
        status.Parts(
            load({"server": "https://x.org", "proxy": "http://p:1"}, {"XNAT_PASS": "s3cret", "XNAT_USER": "ada"}),
            "ada",
            stats,
            SimpleNamespace(connection=Connection(away, reason, 42.04)),
            SimpleNamespace(usage=lambda: Usage(2048, 3, 4096), root=Path("/cache"), degraded=None),
            SimpleNamespace(status=lambda: list(transfers)),
            1000.0,
            "/mnt",
        ),
        now=1000.0 + uptime,
    )


def parsed(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_document_says_how_the_mount_is():
    found = document(requests__get=3, requests__total=3, listings__hits=3, listings__loads=1, errors__EIO=2)
    assert (found["format"], found["server"], found["mountpoint"], found["uptime"]) == (1, "https://x.org", "/mnt", 100)
    assert found["since"] == "1970-01-01T00:16:40+00:00"
    assert found["connection"] == {"state": "ok", "away": None, "reason": None, "session_age": 42.0}
    assert found["requests"] == {"get": 3, "total": 3}
    assert found["errors"] == {"EIO": 2}
    assert found["hits"]["listings"] == {"hits": 3, "misses": 1, "rate": 0.75}
    assert found["hits"]["data"]["rate"] is None
    assert found["cache"]["bytes"] == 2048
    assert found["process"]["memory"] > 2**20
    assert found["process"]["threads"] >= 1
    assert found["options"]["ttl"] == 60.0
    assert "s3cret" not in json.dumps(found)


def test_a_server_that_is_away_and_a_login_that_was_refused_are_told():
    assert document(away=3.0, reason="refused it")["connection"]["state"] == "away"
    assert document(reason="wrong password")["connection"]["state"] == "refused"


def test_every_key_is_described_and_what_is_described_exists():
    described = set(re.findall(r"^\| `([a-z_.]+)` \|", DOCS.read_text(), re.MULTILINE))
    found = document(transfers=[Running("file", "a", "running", 1, 2.0, 1, 10)])
    keys = set(found)
    for group in ("connection", "bytes", "cache", "process"):
        keys |= {f"{group}.{key}" for key in found[group]}
    assert keys - {"connection", "bytes", "cache", "process"} == described
    names = {name for name, _ in parsed(metrics.exposition(document(away=1.0, errors__EIO=1, requests__logins=1)))}
    assert {name for name in names if f"`{name}`" not in DOCS.read_text()} == set()


def test_metrics_are_read_by_the_real_parser_and_say_the_same():
    running = Running("file", "a", "running", 1, 2.0, 1, 10)
    found = document(
        requests__get=7, requests__total=7, requests__logins=1, operations__read=9, errors__EIO=2,
        bytes__received=2**60, data__hits=3, data__misses=1, transfers=[running],
    )  # fmt: skip
    values = parsed(metrics.exposition(found))
    assert values["xnatfs_info", (("server", "https://x.org"), ("version", found["version"]))] == 1
    assert values["xnatfs_server_up", ()] == 1
    assert values["xnatfs_requests_total", (("method", "get"),)] == 7
    assert values["xnatfs_request_events_total", (("event", "logins"),)] == 1
    assert values["xnatfs_operations_total", (("operation", "read"),)] == 9
    assert values["xnatfs_errors_total", (("errno", "EIO"),)] == 2
    assert values["xnatfs_received_bytes_total", ()] == 2**60
    assert values["xnatfs_hits_total", (("layer", "data"),)] == 3
    assert values["xnatfs_misses_total", (("layer", "data"),)] == 1
    assert values["xnatfs_cache_limit_bytes", ()] == 4096
    assert values["xnatfs_transfers", ()] == 1
    assert values["xnatfs_session_age_seconds", ()] == 42
    assert not any(math.isnan(value) for value in values.values())
    assert parsed(metrics.exposition(document(away=1.0)))["xnatfs_server_up", ()] == 0


def test_metrics_survive_odd_texts_and_a_document_with_nothing_in_it():
    odd = 'a"b\\c\nd'
    labels = next(labels for name, labels in parsed(metrics.exposition({"server": odd})) if name == "xnatfs_info")
    assert dict(labels)["server"] == odd
    assert {name for name, _ in parsed(metrics.exposition({}))} == {"xnatfs_info"}


# -- top -------------------------------------------------------------------------------------------------------------


def test_rates_are_those_of_the_interval():
    before = document(uptime=10.0, requests__total=10, operations__read=5, listings__hits=10, listings__loads=10)
    after = document(
        uptime=12.0, requests__total=30, operations__read=5, operations__open=8, bytes__read=4096, listings__hits=16,
        listings__loads=12,
    )  # fmt: skip
    one = top.frame(before, after)
    assert (one.requests, one.read, one.received) == (10.0, 2048.0, 0.0)
    assert one.operations == [("open", 4.0, 8), ("read", 0.0, 5)]
    assert one.hits["listings"] == (0.75, round(16 / 28, 4))
    assert one.hits["data"] == (None, None)


def drawn(shown, width=120):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(shown)
    return console.file.getvalue()


def test_the_picture_shows_what_matters_and_nothing_that_moves_the_cursor():
    many = [Running("file", f"evil\x1b[2J{number}.bin", "running", 512, 64.0, 1, 1024) for number in range(20)]
    away = document(away=7.0, reason="no route\x1b]", operations__read=3, errors__EIO=1, transfers=many)
    text = drawn(top.picture(top.frame(away, away)))
    assert "\x1b" not in text
    for word in (
        "/mnt",
        "server away for 7 s: no route",
        "512 B of 1.0 KiB",
        "and 8 more",
        "EIO",
        "2.0 KiB of 4.0 KiB",
    ):
        assert word in text
    assert "no transfers" in drawn(top.picture(top.frame(document(), document())))


def test_once_shows_one_interval_and_ends(capsys):
    statuses = iter([document(uptime=1.0), document(uptime=3.0, requests__total=5)])
    pauses = []
    top.watch(lambda: next(statuses), 2.0, True, pauses.append)
    assert pauses == [2.0]
    assert "2.5 requests/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 * 2**20, "200 MiB"),
        (10 * 2**30, "10.0 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes_for_a_person(count, text):
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")]
)
def test_times_for_a_person(seconds, text):
    assert units.duration(seconds) == text


# -- asking a mount --------------------------------------------------------------------------------------------------


def test_what_never_answers_is_given_up():
    never = threading.Event()
    with pytest.raises(TimeoutError):
        mounted.within(0.01, never.wait)
    never.set()
    assert mounted.within(20, lambda: 5) == 5
    with pytest.raises(KeyError):
        mounted.within(20, lambda: {}["x"])


def test_a_directory_that_is_no_mount_says_so(tmp_path):
    with pytest.raises(MountpointError, match="not below a mount"):
        mounted.find(str(tmp_path / "x"))
    (tmp_path / ".xnat").mkdir()
    for text in ("{}", "no JSON", "[]", '{"format": 99}'):
        (tmp_path / ".xnat" / "status.json").write_text(text)
        with pytest.raises(MountpointError, match="another version"):
            mounted.of(tmp_path)
