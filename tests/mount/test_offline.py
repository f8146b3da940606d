"""A mount of a server that is not there, by the real command: what is pinned, and nothing that is not true."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from support import truth
from support.faces import environment, mounted
from support.moving import md5s
from support.studies import one_session

from xnatfs.demo import DemoServer

pytestmark = pytest.mark.mount


def command(home, cache, *words, **variables):
    done = subprocess.run(
        [sys.executable, "-m", "xnatfs", *map(str, words), "--cache-dir", str(cache)],
        env=environment(home, XNAT_USER="admin", **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def code(work):
    with pytest.raises(OSError) as caught:
        work()
    return errno.errorcode[caught.value.errno]


def test_what_is_pinned_is_there_without_the_server_and_the_rest_is_ehostunreach(tmp_path):
    model = one_session(scans=2, resources=("DICOM",), files=6, folders=True)
    expected = {path: truth.md5(truth.content(file)) for path, file in truth.tree(model, "P").items()}
    home, cache, out = tmp_path / "home", tmp_path / "cache", tmp_path / "out"
    home.mkdir()
    with DemoServer(model) as server:
        url, online = server.url, {"XNAT_HOST": server.url, "XNAT_PASS": "admin"}
        with mounted(url, tmp_path / "live", tmp_path, cache_dir=cache) as live:
            # a path below the mount says which archive, whose and which cache
            words = ("pin", live.root / "P/S/E/1")
            status, said, complaints = command(home, cache, *words, XNAT_PASS="admin")
            assert (status, complaints) == (0, "")
            assert "fetched 6 files" in said
        status, said, _ = command(home, cache, "get", "P/S/E/2", out, "--bare", **online)
        assert (status, len(md5s(out))) == (0, 6)
    with mounted(url, tmp_path / "mnt", tmp_path, "--offline", cache_dir=cache) as mount:
        root = mount.root
        scan = {path: digest for path, digest in expected.items() if path.startswith("/P/S/E/1/")}
        assert {f"/P/S/E/1{path}": digest for path, digest in md5s(root / "P/S/E/1").items()} == scan
        other = next(path for path in expected if path not in scan)
        assert code(lambda: (root / other[1:]).read_bytes()) == "EHOSTUNREACH"
        for name in ("P/S/new", "P/S/E/1/DICOM/new.bin", "new"):
            assert code(lambda name=name: os.stat(root / name)) == "EHOSTUNREACH"
        assert os.getxattr(root / "P/S", "user.xnat.listed").endswith(b" UTC")
        state = json.loads((root / ".xnat/status.json").read_text())["offline"]
        assert state["mode"] == "offline"
        assert state["old"] > 0
    status, said, complaints = command(home, cache, "get", "--offline", "P/S/E", out, XNAT_HOST=url)
    assert status == 4
    assert said.startswith("copied 6 files")
    assert complaints.count("missing: ") == 6
    assert "Traceback" not in complaints
    assert md5s(out / "P") == {path.removeprefix("/P"): digest for path, digest in scan.items()}


def test_without_anything_kept_an_offline_mount_says_so(tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    words = ("mount", "http://127.0.0.1:9", point, "--offline")
    status, said, complaints = command(tmp_path, tmp_path / "cache", *words)
    assert (status, said) == (4, "")
    assert "no listing is kept" in complaints
