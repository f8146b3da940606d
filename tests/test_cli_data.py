"""The commands that fill, pin and look after the cache, as a person or a script meets them."""

from __future__ import annotations

import json
import logging
import os

import pytest
from support.faces import environment
from support.studies import one_session

from xnatfs import cli
from xnatfs.demo import DemoServer

FILES = 6


@pytest.fixture(scope="module")
def site():
    with DemoServer(one_session(scans=2, resources=("DICOM",), files=FILES, size=20_000)) as server:
        yield server


@pytest.fixture
def run(site, tmp_path, monkeypatch, capfd):
    """Run a command in this process, with a home of its own: status, stdout, stderr."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment(home, XNAT_HOST=site.url, XNAT_USER="admin").items():
        monkeypatch.setenv(name, value)
    root, ours = logging.getLogger(), logging.getLogger("xnatfs")
    before = root.level, ours.level, list(root.handlers)

    def run(*words, password=True):
        if password:
            monkeypatch.setenv("XNAT_PASS", "admin")
        status = cli.main([str(word) for word in words])
        return (status, *capfd.readouterr())

    yield run
    root.handlers[:] = before[2]
    root.setLevel(before[0])
    ours.setLevel(before[1])
    logging.captureWarnings(False)


def shown(run):
    status, out, err = run("cache", "show", "--json", password=False)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_a_pin_is_listed_shown_kept_and_let_go(run):
    status, out, err = run("warm", "P/S/E")
    assert (status, err) == (0, "")
    assert out.startswith(f"fetched {2 * FILES} files, ")
    status, out, err = run("pin", "P/S/E/1")
    assert (status, err) == (0, "")
    assert out.startswith("pinned; fetched 0 files, ")
    status, out, err = run("pin", "--list", password=False)  # nobody is asked for anything
    assert (status, err) == (0, "")
    path, files, _, there, _ = out.rstrip("\n").split("\t")
    assert (path, files, there) == ("/P/S/E/1", str(FILES), "100 %")
    before = shown(run)
    assert (before["files"], before["pins"]) == (2 * FILES, 1)
    assert run("cache", "clear", password=False)[0] == 0
    after = shown(run)
    assert (after["files"], after["pins"]) == (FILES, 1)
    assert after["bytes"] == after["pinned"]
    assert run("unpin", "/P/S/E/1", password=False) == (0, "", "")
    status, out, err = run("unpin", "P/S/E/1", password=False)
    assert (status, out) == (1, "")
    assert "is not pinned, and nothing else is" in err
    run("cache", "clear", password=False)
    assert shown(run)["files"] == 0


def test_clearing_all_takes_pins_and_kept_listings_as_well(run):
    run("pin", "P/S/E/1")
    assert run("ls", "--offline", "P/S/E/1", password=False)[0] == 0
    assert run("cache", "clear", "--all", password=False)[0] == 0
    assert (shown(run)["files"], shown(run)["pins"]) == (0, 0)
    assert run("pin", "--list", password=False) == (0, "", "")
    status, _, err = run("ls", "--offline", "P/S/E/1", password=False)
    assert status == 4
    assert "no listing is kept" in err


def test_what_is_damaged_goes_and_the_status_says_so(run, tmp_path):
    run("warm", "P/S/E/1")
    assert run("cache", "verify", password=False)[0] == 0
    entry = next((tmp_path / "home/.cache/xnatfs/v1").glob("*/??/*"))
    data = bytearray(entry.read_bytes())
    data[100] ^= 1
    entry.write_bytes(data)
    status, out, err = run("cache", "verify", password=False)
    assert (status, err) == (7, "")
    assert "1 damaged and removed" in out
    assert shown(run)["files"] == FILES - 1


def test_a_limit_is_saved_and_holds_at_once_but_not_below_what_is_pinned(run):
    run("warm", "P")
    run("pin", "P/S/E/1")
    status, out, err = run("cache", "limit", "50K", password=False)
    assert (status, out) == (2, "")
    assert "are pinned" in err
    assert shown(run)["files"] == 2 * FILES
    pinned = shown(run)["pinned"]
    status, out, err = run("cache", "limit", pinned + 4096, password=False)
    assert (status, err) == (0, "")
    found = shown(run)
    assert (found["limit"], found["bytes"], found["files"]) == (pinned + 4096, pinned, FILES)
    assert run("cache", "limit", "nonsense", password=False)[0] == 2


def test_without_a_cache_the_commands_say_so(run):
    for words in (("show",), ("verify",), ("clear",)):
        status, out, err = run("cache", *words, password=False)
        assert (status, out) == (7, "")
        assert "no cache" in err
    assert run("cache")[0] == 2


@pytest.mark.parametrize(
    "words", [("get", "P"), ("warm",), ("pin",), ("pin", "--list", "P"), ("get", "P", "x", "--jobs", "0")], ids=str
)
def test_wrong_use_is_status_2(run, words):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
