"""What a running mount says of itself and of those who use it, asked as a person, a script and Prometheus would."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.faces import mounted, until
from support.studies import one_file

from xnatfs import cli
from xnatfs import mounted as mount_at
from xnatfs.demo import Archive, DemoServer
from xnatfs.demo.faults import Rule
from xnatfs.fuse_kernel import Look
from xnatfs.fuse_ops import XnatOperations

pytestmark = pytest.mark.mount

PASSWORD = "s3cr3t-PASS-7qz"
LABEL = "subject-label-77x"
FILE = f"/P/{LABEL}/E/1/R/a.bin"


@pytest.fixture(scope="module")
def server():
    archive = Archive()
    session = archive.add_session(archive.add_subject(archive.add_project("P"), LABEL), "E")
    resource = archive.add_resource(archive.add_scan(session, "1", type="T1"), "R")
    archive.add_file(resource, "a.bin", b"a" * 100_000)
    archive.add_file(resource, "b.bin", b"b" * 100_000)
    with DemoServer(archive, users={"admin": PASSWORD}) as found:
        yield found


@pytest.fixture(scope="module")
def face(server, tmp_path_factory):
    base = tmp_path_factory.mktemp("status")
    options = ("--access-log", str(base / "access.log"), "--ttl", "0.2")
    with mounted(server.url, base / "mnt", base, *options, password=PASSWORD) as found:
        found.base = base
        yield found
        assert "Traceback" not in found.text()


@pytest.fixture
def run(face, monkeypatch, capsys):
    """A command of the user who mounted: exit status, stdout, stderr."""

    def run(*words, home=face.base / "home"):
        monkeypatch.setenv("HOME", str(home))
        for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        handlers, level = list(logging.getLogger().handlers), logging.getLogger("xnatfs").level
        try:
            status = cli.main([str(word) for word in words])
        finally:
            logging.getLogger().handlers[:] = handlers
            logging.getLogger("xnatfs").setLevel(level)
            logging.captureWarnings(False)
        return (status, *capsys.readouterr())

    return run


def status_of(face):
    return json.loads((face.root / ".xnat" / "status.json").read_bytes())


def metrics_of(face):
    text = (face.root / ".xnat" / "metrics").read_text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def lines_of(face):
    return [json.loads(line) for line in (face.base / "access.log").read_text().splitlines()]


def test_status_is_the_same_in_the_command_the_file_and_the_metrics(face, run):
    assert len(face.read(FILE)) == 100_000
    status, out, _ = run("status", face.path(f"/P/{LABEL}"), "--json")
    told, shown, samples = json.loads(out), status_of(face), metrics_of(face)
    assert status == 0
    for key in ("server", "user", "mountpoint", "pid", "since", "options"):
        assert told[key] == shown[key]
    assert (shown["mountpoint"], shown["user"], shown["pid"]) == (str(face.root), "admin", face.process.pid)
    assert shown["connection"]["state"] == "ok"
    assert shown["connection"]["session_age"] >= 0
    assert shown["requests"]["logins"] == 1
    assert shown["bytes"]["read"] >= 100_000
    assert shown["operations"]["open"] >= 2
    assert shown["cache"]["bytes"] >= 100_000
    assert samples["xnatfs_requests_total", "get"] >= told["requests"]["get"] > 3
    assert samples["xnatfs_server_up",] == 1
    status, out, _ = run("status", face.root)
    assert (status, "admin" in out, "connection\tok" in out) == (0, True, True)


def test_all_mounts_are_listed_without_asking_them(face, run):
    status, out, _ = run("status", "--json")
    mine = next(one for one in json.loads(out) if one["mountpoint"] == str(face.root))
    assert status == 0
    assert (mine["state"], mine["user"], mine["pid"]) == ("live", "admin", face.process.pid)
    assert str(face.root) in run("status")[1]


def test_a_mount_is_found_by_any_path_to_it(face, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(face.path("/P"))
    monkeypatch.chdir(tmp_path)
    for path in (face.root, face.path("/P/none/such"), link, "link/x"):
        assert mount_at.find(str(path)) == face.root


def test_a_path_that_is_no_mount_is_an_error(run, tmp_path):
    for words in (("status", tmp_path), ("top", tmp_path), ("loglevel", tmp_path, "debug"), ("debug", tmp_path)):
        status, out, err = run(*words)
        assert (status, out) == (6, "")
        assert "not below a mount" in err


def test_while_the_server_hangs_status_and_metrics_answer_without_it(face, server):
    """Nothing is known any more, not even the list of projects: nothing on the way to these files may ask for it."""
    face.read("/.xnat/refresh-all")
    rule = server.faults.add(Rule("no_answer", count=None))
    server.reset_log()
    try:
        assert status_of(face)["server"] == server.url
        assert metrics_of(face)["xnatfs_info", status_of(face)["version"], server.url] == 1
        assert {"status.json", "metrics"} <= set(os.listdir(face.root / ".xnat"))
        assert server.requests == []
    finally:
        server.faults.remove(rule)


def test_the_access_log_says_who_did_what_and_what_it_cost(face, server):
    before = len(lines_of(face))
    server.reset_log()
    reader = subprocess.Popen(["cat", face.path(f"/P/{LABEL}/E/1/R/b.bin")], stdout=subprocess.PIPE)
    assert reader.communicate()[0] == b"b" * 100_000
    with pytest.raises(FileNotFoundError):
        os.stat(face.path("/P/none"))
    lines = lines_of(face)[before:]
    reads = [line for line in lines if line["operation"] == "read" and line["path"].endswith("/b.bin")]
    assert sum(line["bytes"] for line in reads) == 100_000
    assert {(line["pid"], line["command"], line["uid"]) for line in reads} == {(reader.pid, "cat", os.geteuid())}
    (opened,) = [line for line in lines if line["operation"] == "open"]
    assert opened["path"] == f"/P/{LABEL}/E/1/R/b.bin"
    absent = [line for line in lines if line["path"] == "/P/none"]
    assert [line["errno"] for line in absent] == ["ENOENT"]
    assert sum(line["requests"] for line in reads) == 1
    assert sum(line["requests"] for line in lines) == len(server.requests)
    assert all(line["seconds"] >= 0 for line in lines)


def test_the_log_level_changes_while_it_is_mounted(face, run):
    assert run("loglevel", face.root, "debug") == (0, "", "")
    assert status_of(face)["log_level"] == "debug"
    with pytest.raises(FileNotFoundError):
        os.stat(face.path("/P/for-the-log"))
    until(lambda: "ENOENT: /P/for-the-log" in face.text())
    assert run("loglevel", face.root, "warning") == (0, "", "")
    assert status_of(face)["log_level"] == "warning"
    with pytest.raises(FileNotFoundError):
        os.stat(face.path("/P/not-for-the-log"))
    assert "not-for-the-log" not in face.text()
    assert list((face.base / "home/.local/state/xnatfs/mounts").glob("*.level")) == []


def test_the_record_of_a_process_that_is_gone_makes_nobody_signal_another(run, face, monkeypatch):
    """A record without its lock, with the number of somebody else's process, is what a crash leaves behind."""
    from xnatfs import daemon, loglevel
    from xnatfs.errors import MountpointError

    monkeypatch.setenv("HOME", str(face.base / "home"))
    other = subprocess.Popen(["sleep", "60"])
    try:
        record = daemon.record_path(Path("/gone"))
        record.write_text(json.dumps({"pid": other.pid, loglevel.FACT: True}))
        with pytest.raises(MountpointError, match="no process of yours"):
            loglevel.change(Path("/gone"), "debug")
        with pytest.raises(MountpointError, match="no process of yours"):
            daemon.send_signal(Path("/gone"), 9)
        assert other.poll() is None
        record.unlink()
    finally:
        other.kill()
        other.wait()


def test_top_shows_the_mount(face, run):
    status, out, _ = run("top", face.root, "--once", "--interval", "0.05")
    assert status == 0
    assert server_line(out)
    assert "getattr" in out


def server_line(out):
    return [line for line in out.splitlines() if line.startswith("server ok")]


def test_the_bundle_holds_what_helps_and_neither_secrets_nor_labels(face, server, run, tmp_path):
    assert run("loglevel", face.root, "debug")[0] == 0
    with pytest.raises(FileNotFoundError):
        os.stat(face.path(f"/P/{LABEL}/none"))
    facts = next(one for one in json.loads(run("status", "--json")[1]) if one["mountpoint"] == str(face.root))
    log = Path(facts["log"])
    log.parent.mkdir(parents=True)
    log.write_bytes(face.log.read_bytes())  # a mount in the foreground logs to its terminal
    assert LABEL in log.read_text()
    for name, more in (("plain", ()), ("labels", ("--labels",))):
        path = tmp_path / f"{name}.tar.gz"
        status, out, _ = run("debug", face.root, "-o", path, "--server", server.url, "--user", "admin", *more)
        assert (status, str(path) in out) == (0, True)
        with tarfile.open(path) as archive:
            texts = {one.name.partition("/")[2]: archive.extractfile(one).read() for one in archive.getmembers()}
        assert {"status.json", "metrics.txt", "doctor.json", "versions.json", "settings.json"} <= set(texts)
        assert b"logged in at" in texts["log.txt"]
        whole = b"".join(texts.values())
        secrets = [PASSWORD, *(session for session in server.logins.sessions if len(session) >= 16)]
        assert len(secrets) > 1
        for secret in (*secrets, "JSESSIONID="):
            assert secret.encode() not in whole, name
        assert (LABEL.encode() in whole) is bool(more), name
        states = {check["check"]: check["state"] for check in json.loads(texts["doctor.json"])}
        assert states["server"] == "ok"
        assert "login" not in states


def test_of_a_mount_whose_process_died_the_log_is_still_found(server, run, tmp_path):
    with mounted(server.url, tmp_path / "mnt", tmp_path, password=PASSWORD) as dead:
        dead.kill()
        home = tmp_path / "home"
        status, out, _ = run("status", "--json", home=home)
        mine = next(one for one in json.loads(out) if one["mountpoint"] == str(dead.root))
        assert (status, mine["state"]) == (0, "dead")
        Path(mine["log"]).parent.mkdir(parents=True)
        Path(mine["log"]).write_text("2026-11-22 13:58:53,724 ERROR MainThread xnatfs.app: why it died\n")
        assert "not connected" in run("status", dead.root, home=home)[2]
        checks = json.loads(run("doctor", "--json", home=home)[1])
        assert f"xnatfs umount {dead.root}" in [check["remedy"] for check in checks if check["state"] == "warn"]
        assert run("debug", dead.root, "-o", tmp_path / "d.tar.gz", home=home)[0] == 0
        with tarfile.open(tmp_path / "d.tar.gz") as archive:
            assert b"why it died" in archive.extractfile("xnatfs-debug/log.txt").read()
            assert b"not connected" in archive.extractfile("xnatfs-debug/status.txt").read()


def test_the_plain_loop_counts_and_logs_the_same(tmp_path):
    archive, data = one_file(50_000)
    access = tmp_path / "access.log"
    with (
        DemoServer(archive) as server,
        mounted(server.url, tmp_path / "mnt", tmp_path, "--access-log", str(access), loop="plain") as face,
    ):
        assert face.read("/P/S/E/1/R/big.bin") == data
        lines = [json.loads(line) for line in access.read_text().splitlines()]
        reads = [line for line in lines if line["operation"] == "read"]
        assert sum(line["bytes"] for line in reads) == len(data)
        assert {line["pid"] for line in reads} == {os.getpid()}
        assert sum(line["requests"] for line in reads) >= 1
        found = status_of(face)
        assert found["bytes"]["read"] >= len(data)
        assert found["operations"]["open"] >= 1
        assert metrics_of(face)["xnatfs_operations_total", "read"] >= 1


class Looked:
    """A file system of which only the space is asked for."""

    call = nullcontext

    def statfs(self):
        return type("Space", (), {"total": 4096, "free": 0})


def test_a_log_that_fails_does_not_fail_the_operation(monkeypatch, caplog):
    from xnatfs import fuse_watch

    def fail(*_arguments):
        raise OSError

    caller = type("Caller", (), {"contents": type("Context", (), {"pid": 1, "uid": 2})})
    monkeypatch.setattr(fuse_watch.abi, "library", type("Library", (), {"fuse_get_context": staticmethod(caller)}))
    operations = fuse_watch.WatchedOperations(Looked(), Look(0, 0, 0), None, fail)
    assert operations("statfs", "/")["f_blocks"] == 1
    assert operations.watched("getattr", lambda *_: -2)(b"/x", 0) == -2
    assert caplog.text.count("the access log misses an operation") == 2


def test_without_an_access_log_the_callbacks_are_the_bare_ones():
    def callback(*_arguments):
        return 0

    assert XnatOperations(Looked(), Look(0, 0, 0)).watched("getattr", callback) is callback
