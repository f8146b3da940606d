"""The commands as a person or a script meets them: output, exit statuses, logins, secrets. Against the demo server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.faces import environment, in_mounts, until
from support.tls import tls_in_front_of

from xnatfs import cli, errors
from xnatfs.demo import DemoServer, ServerOptions, synthetic_archive

PASSWORD = "s3cr3t-PASS-7qz"


@pytest.fixture(scope="module")
def site():
    with DemoServer(synthetic_archive(), users={"admin": PASSWORD}, context_path="xnat") as server:
        yield server


@pytest.fixture(scope="module")
def open_site():
    with DemoServer(synthetic_archive(), options=ServerOptions(require_login=False)) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command without a terminal; extra keywords are environment variables, of which it has no others.

    What forks runs as a process; the rest in this one, which saves the start of an interpreter each time.
    """

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        if words and words[0] in ("mount", "demo"):
            return as_process(words, environment(home, **variables))
        with monkeypatch.context() as patch:
            for name in list(os.environ):
                patch.delenv(name)
            for name, value in environment(home, **variables).items():
                patch.setenv(name, value)
            return in_this_process(words)

    return run


def as_process(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xnatfs", *words]
    return subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def in_this_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    root, ours = logging.getLogger(), logging.getLogger("xnatfs")
    levels, handlers = (root.level, ours.level), list(root.handlers)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(words)
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        logging.captureWarnings(False)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "surrogateescape"))
    return subprocess.CompletedProcess(words, status, *texts)


@pytest.fixture
def logged_in(run, site):
    """The same with a login from the environment."""

    def run_logged_in(*arguments: object, **variables: str):
        return run(*arguments, **{"XNAT_HOST": site.url, "XNAT_USER": "admin", "XNAT_PASS": PASSWORD, **variables})

    return run_logged_in


def fails(done: subprocess.CompletedProcess[str], status: int, *said: str) -> None:
    """One line on stderr that starts with the command's name, holds ``said`` and no secret; nothing on stdout."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert re.fullmatch(r"xnatfs: [^\n]+\n", done.stderr), done.stderr
    for word in said:
        assert word in done.stderr
    assert PASSWORD not in done.stderr


def works(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done
    assert done.stderr == ""
    return done.stdout


# -- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.SettingsError("x"), 2),
        (errors.LoginFailed("x"), 3),
        (errors.AccessDenied("x"), 3),
        (errors.Unreachable("x"), 4),
        (errors.TimedOut("x"), 4),
        (errors.ServerFault("x"), 4),
        (errors.FuseMissing("x"), 5),
        (errors.MountpointError("x"), 6),
        (errors.CacheFault("x"), 7),
        (errors.NotFound("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_every_failure_has_its_status(error, status):
    assert cli.explain(error)[0] == status


def test_version_and_help(run):
    assert re.fullmatch(r"xnatfs \d+\.\d+\.\d+\n", works(run("--version")))
    assert "Exit status" in works(run("--help"))
    assert run().returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "ls"),
        (["mount"], "MOUNTPOINT"),
        (["mount", "a", "b", "c"], "MOUNTPOINT"),
        (["mount", "a", "b", "--server", "c"], "twice"),
        (["mount", "--no-such", "b"], "--no-such"),
        (["mount", "https://host", "b", "--ttl", "soon"], "--ttl"),
        (["mount", "https://host", "b", "--password", "x"], "--password"),
        (["mount", "https://me:pw@host", "b"], "--user"),
        (["mount", "b"], "no server"),
        (["ls", "--config", "/no/such.json"], "/no/such.json"),
        (["ls", "--server", "https://host", "--user", "u", "--guest"], "--guest"),
        (["ls", "--server", "https://host", "--insecure", "--ca", "/dev/null"], "--ca"),
        (["docs", "nothing"], "troubleshooting"),
    ],
)
def test_wrong_usage_is_one_line_and_2(home, monkeypatch, arguments, said):
    for name in [name for name in os.environ if name.startswith("XNAT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    fails(in_this_process(arguments), 2, said)


def test_a_config_open_to_others_is_refused_with_the_remedy(run, tmp_path):
    path = tmp_path / "pyxnat.cfg"
    path.write_text(json.dumps({"server": "https://host", "user": "u", "password": PASSWORD}))
    path.chmod(0o644)
    fails(run("ls", "--config", path), 2, f"chmod 600 {path}")


# -- looking without a mount -----------------------------------------------------------------------------------------


def test_ls_lists_names_one_a_line(logged_in):
    assert works(logged_in("ls")).split() == ["DEMO", "EMPTY", "GUARDED", "ODD", "OPEN", "SHARED"]
    assert "sub-01" in works(logged_in("ls", "DEMO/")).split()


def test_ls_long_and_json_tell_kind_size_and_id(logged_in, site):
    rows = [line.split("\t") for line in works(logged_in("ls", "-l", "DEMO")).splitlines()]
    subject = site.archive.find("sub-01")
    assert ["d", "-", subject.id, "sub-01"] in [[row[0], row[1], row[3], row[4]] for row in rows]
    entries = json.loads(works(logged_in("ls", "DEMO", "--json")))
    assert {"sub-01", "sub-02"} <= {entry["name"] for entry in entries}
    assert next(entry["id"] for entry in entries if entry["name"] == "sub-01") == subject.id


def test_names_come_out_byte_for_byte(logged_in, home, site):
    expected = {item["name"] for item in json.loads(works(logged_in("ls", "ODD", "--json")))}
    listed = logged_in("ls", "ODD").stdout
    assert "\t" not in listed
    assert set(listed.splitlines()) == {name for name in expected if "\n" not in name}


def some_file(logged_in) -> tuple[str, int]:
    """A path in the demo, and its size."""
    folder = "DEMO/sub-01/sub-01_MR1/1/DICOM"
    entry = json.loads(works(logged_in("ls", folder, "--json")))[0]
    return f"{folder}/{entry['name']}", entry["size"]


def test_cat_writes_exactly_the_bytes(site, home, logged_in):
    path, size = some_file(logged_in)
    command = [sys.executable, "-m", "xnatfs", "cat", path, "--server", site.url, "--user", "admin"]
    done = subprocess.run(command, env=environment(home, XNAT_PASS=PASSWORD), capture_output=True, timeout=60)
    truth = {file.content.md5 for _, file in site.archive.files() if file.content.size == size}
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.md5(done.stdout).hexdigest() in truth


def test_stat_shows_the_attributes(logged_in, site):
    shown = dict(line.split("\t", 1) for line in works(logged_in("stat", "DEMO/sub-01")).splitlines())
    assert shown["kind"] == "directory"
    assert shown["user.xnat.label"] == "sub-01"
    document = json.loads(works(logged_in("stat", "DEMO/sub-01/sub-01_MR1/1", "--json")))
    assert document["attributes"]["user.xnat.xsi_type"] == "xnat:mrScanData"


def test_an_id_works_where_a_label_does(logged_in, site):
    subject = site.archive.find("sub-01")
    assert works(logged_in("ls", f"DEMO/{subject.id}")) == works(logged_in("ls", "DEMO/sub-01"))


def test_what_is_not_there_is_said(logged_in):
    fails(logged_in("ls", "DEMO/nobody"), 1, "/DEMO/nobody: no such file")
    fails(logged_in("cat", "DEMO"), 1, "/DEMO: is a directory")


def test_a_reader_that_goes_away_is_no_error(site, home, logged_in):
    path, _ = some_file(logged_in)
    command = f"{sys.executable} -m xnatfs cat {path} --server {site.url} --user admin | head -c 10 >/dev/null"
    variables = environment(home, XNAT_PASS=PASSWORD)
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], env=variables, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


# -- logins ----------------------------------------------------------------------------------------------------------


def test_the_session_is_ended(logged_in, site):
    before = site.logins.active()
    works(logged_in("ls"))
    assert site.logins.active() == before


def test_a_wrong_password_is_sent_once_and_ends_in_3(logged_in, site):
    site.reset_log()
    fails(logged_in("ls", XNAT_PASS="not-the-" + PASSWORD[::-1]), 3, "admin")
    assert [request.status for request in site.requests if request.headers.get("authorization")] == [401]


def test_no_password_and_nobody_to_ask_is_3(run, site):
    fails(run("ls", "--server", site.url, "--user", "admin"), 3, "no password for user admin")


def test_unreachable_is_4(run):
    fails(run("ls", "--server", "http://no-such-host.invalid", "--guest"), 4, "no-such-host.invalid")
    fails(run("ls", "--server", "http://127.0.0.1:9", "--guest"), 4, "127.0.0.1:9")


def test_guests_see_an_open_site_and_are_turned_away_elsewhere(run, site, open_site):
    assert works(run("ls", "--server", open_site.url)).split() == ["OPEN"]
    fails(run("ls", "--server", site.url), 3, "login")


def test_a_login_for_one_server_is_not_sent_to_another(logged_in, open_site):
    open_site.reset_log()
    assert works(logged_in("ls", "--server", open_site.url)).split() == ["OPEN"]
    assert not any(request.headers.get("authorization") for request in open_site.requests)


def test_a_password_is_asked_for_without_echo(site, home):
    command = f"{sys.executable} -m xnatfs ls --server {site.url} --user admin"
    process = subprocess.Popen(
        ["script", "-qec", command, "/dev/null"],
        env=environment(home, TERM="dumb"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    shown = b""
    while b"Password of admin" not in shown or not shown.rstrip().endswith(b":"):
        piece = os.read(process.stdout.fileno(), 1024)
        assert piece, shown
        shown += piece
    process.stdin.write(f"{PASSWORD}\n".encode())
    process.stdin.flush()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown + rest
    assert b"DEMO" in rest
    assert PASSWORD.encode() not in shown + rest


def test_certificates_are_checked(run, site, tmp_path):
    login = {"XNAT_USER": "admin", "XNAT_PASS": PASSWORD}
    with tls_in_front_of(site.port, tmp_path) as (port, certificate):
        server = f"https://localhost:{port}/xnat"
        fails(run("ls", "--server", server, **login), 4, "certificate", "--insecure")
        assert "DEMO" in works(run("ls", "--server", server, "--ca", certificate, **login))
        careless = run("ls", "--server", server, "--insecure", **login)
        assert (careless.returncode, "DEMO" in careless.stdout) == (0, True)
        assert re.fullmatch(r"xnatfs: [^\n]*not checked[^\n]*\n", careless.stderr)
        config = tmp_path / "config.json"
        config.write_text(
            json.dumps({"server": server, "user": "admin", "password": PASSWORD, "verify": str(certificate)})
        )
        config.chmod(0o600)
        assert "DEMO" in works(run("ls", "--config", config))


# -- config ----------------------------------------------------------------------------------------------------------


def test_config_show_names_the_origin_and_hides_the_password(logged_in, site):
    shown = {
        line.split("\t")[0]: line.split("\t")[1:]
        for line in works(logged_in("config", "show", "--ttl", "5m")).splitlines()
    }
    assert shown["server"] == [site.url, "environment XNAT_HOST"]
    assert shown["password"] == ["********", "environment XNAT_PASS"]
    assert shown["ttl"] == ["300", "option --ttl"]
    assert shown["parallel"] == ["8", "default"]
    document = json.loads(works(logged_in("config", "show", "--json")))
    assert document["password"] == {"value": "********", "origin": "environment XNAT_PASS"}


def test_config_save_and_use(logged_in, run, tmp_path, home):
    target = tmp_path / "saved.json"
    works(logged_in("config", "save", target, "--ttl", "5m"))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "DEMO" in works(run("ls", "--config", target))
    fails(logged_in("config", "save", target), 2, "--force")
    works(logged_in("config", "save", target, "--force", "--no-password"))
    assert PASSWORD not in target.read_text()
    works(logged_in("config", "save"))
    assert "DEMO" in works(run("ls"))
    assert "saved config" in works(run("config", "show"))


def test_docs_are_printed(run):
    assert "troubleshooting" in works(run("docs")).split()
    assert works(run("docs", "troubleshooting")).startswith("# ")


# -- mounts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def point(tmp_path: Path):
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    if in_mounts(path):
        subprocess.run(["umount", "-l", str(path)], check=False)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def gone(pid: int) -> bool:
    """Has a process that is no child of ours ended? Waits for it; the test's own timeout is the limit."""
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)


def pid_of(home: Path) -> int:
    (record,) = (home / ".local/state/xnatfs/mounts").iterdir()
    return int(json.loads(record.read_text())["pid"])


@pytest.mark.mount
def test_mount_in_the_background_and_umount(logged_in, site, home, point):
    before = site.logins.active()
    line = works(logged_in("mount", point, "--cache-dir", home / "cache"))
    assert f"{site.url} (user admin) is mounted on {point}" in line
    log = Path(line.strip().rpartition("log: ")[2])
    assert log.exists()
    pid = pid_of(home)
    assert sorted(names_in(point)) == ["DEMO", "EMPTY", "GUARDED", "ODD", "OPEN", "SHARED"]
    fails(logged_in("mount", point), 6, "mounted there already")
    assert works(logged_in("umount", point)) == ""
    assert gone(pid)
    assert not in_mounts(point)
    assert site.logins.active() == before
    assert list((home / ".local/state/xnatfs/mounts").iterdir()) == []
    assert "Traceback" not in log.read_text()


@pytest.mark.mount
def test_no_secret_anywhere(logged_in, site, home, point):
    """Neither password nor session id in output, process list, environment, logs, cache: also at level debug."""
    done = logged_in("mount", point, "--cache-dir", home / "cache", "-v")
    sessions = [session for session in site.logins.sessions if len(session) >= 16]
    assert sessions
    pid = pid_of(home)
    for name in ("DEMO/sub-01/sub-01_MR1/1/DICOM", "DEMO/.xnat"):
        for file in (point / name).iterdir():
            file.read_bytes()
    seen = {"output": (done.stdout + done.stderr).encode()}
    for name in ("cmdline", "environ"):
        seen[name] = Path(f"/proc/{pid}/{name}").read_bytes()
    status = (point / ".xnat/status.json").read_bytes()
    seen["status"] = status
    logged_in("umount", point)
    for path in home.rglob("*"):
        seen[f"name of {path}"] = os.fsencode(path.name)
        if path.is_file():
            seen[str(path)] = path.read_bytes()
    assert any(name.endswith(".log") for name in seen)
    for place, content in seen.items():
        for secret in (PASSWORD, *sessions):
            assert secret.encode() not in content, place


@pytest.mark.mount
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_mount_cleanly(logged_in, site, home, point, how):
    before = site.logins.active()
    works(logged_in("mount", point))
    pid = pid_of(home)
    os.kill(pid, how)
    assert gone(pid)
    assert not in_mounts(point)
    assert site.logins.active() == before


@pytest.mark.mount
def test_a_killed_mount_is_cleared_by_umount_and_by_the_next_mount(logged_in, home, point):
    works(logged_in("mount", point))
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    works(logged_in("umount", point))
    assert not in_mounts(point)

    works(logged_in("mount", point))
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    works(logged_in("mount", point))
    assert "DEMO" in names_in(point)
    works(logged_in("umount", point))


@pytest.mark.mount
def test_a_busy_mount_stays_and_says_who(logged_in, point):
    works(logged_in("mount", point))
    with subprocess.Popen(["sleep", "60"], cwd=point / "DEMO") as process:
        try:
            fails(logged_in("umount", point), 6, "busy", f"({process.pid})")
            assert in_mounts(point)
            works(logged_in("umount", point, "--lazy"))
            assert not in_mounts(point)
        finally:
            process.kill()


@pytest.mark.mount
def test_what_fails_before_the_mount_is_live_is_said_by_the_command(logged_in, run, site, home, point, tmp_path):
    fails(logged_in("mount", point, XNAT_PASS="wrong-" + PASSWORD[::-1]), 3, "admin")
    fails(run("mount", "http://127.0.0.1:9", point, "--guest"), 4, "127.0.0.1:9")
    fails(logged_in("mount", tmp_path / "missing"), 6, "mkdir -p")
    fails(logged_in("mount", point, "--cache-dir", point / "cache"), 2, "below the mountpoint")
    fails(logged_in("mount", point, "--log-file", point / "log"), 2, "below the mountpoint")
    (tmp_path / "link").symlink_to(point.parent)
    fails(logged_in("mount", point, "--cache-dir", tmp_path / "link" / point.name / "cache"), 2, "below the mountpoint")
    (tmp_path / "bound").mkdir()
    subprocess.run(["mount", "--bind", point.parent, tmp_path / "bound"], check=True)
    try:
        cache = tmp_path / "bound" / point.name / "cache"
        fails(logged_in("mount", point, "--cache-dir", cache), 2, "below the mountpoint")
    finally:
        subprocess.run(["umount", tmp_path / "bound"], check=True)
    fails(logged_in("mount", point, "-o", "rw"), 2, "read-only")
    fails(logged_in("mount", point, FUSE_LIBRARY_PATH="/no/such/libfuse.so"), 5, "libfuse")
    fails(logged_in("umount", point), 6, "not mounted")
    (point / "something").touch()
    fails(logged_in("mount", point), 6, "not empty")
    assert not in_mounts(point)


@pytest.mark.mount
def test_a_cache_directory_with_other_things_in_it_is_7(logged_in, point, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").touch()
    fails(logged_in("mount", point, "--cache-dir", photos), 7, str(photos))


@pytest.mark.mount
def test_the_foreground_ends_with_ctrl_c(site, home, point):
    before = site.logins.active()
    process = subprocess.Popen(
        [sys.executable, "-m", "xnatfs", "mount", site.url, str(point), "--foreground", "--user", "admin"],
        env=environment(home, XNAT_PASS=PASSWORD), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "Ctrl-C unmounts" in process.stdout.readline()
    assert "DEMO" in names_in(point)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, in_mounts(point)) == (0, False), said
    assert site.logins.active() == before
    assert "Traceback" not in said


# -- the demo --------------------------------------------------------------------------------------------------------


@pytest.mark.mount
def test_the_demo_needs_nothing_and_leaves_nothing(run, home, tmp_path):
    point = tmp_path / "made" / "demo"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    text = works(run("demo", point, "--background", TMPDIR=str(temporary)))
    url = re.search(r"http://\S+", text)[0].rstrip(",")
    assert "DEMO" in names_in(point)
    assert "DEMO" in works(run("ls", "--server", url, "--user", "admin", XNAT_PASS="admin"))
    works(run("umount", point))
    assert not point.exists()
    assert list(temporary.iterdir()) == []
    until(lambda: run("ls", "--server", url, "--guest").returncode == 4)  # it ends when it hears of the mount's end


def test_demo_serve_says_where_and_who(home):
    process = subprocess.Popen(
        [sys.executable, "-m", "xnatfs", "demo", "--serve"],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert re.search(r"http://127\.0\.0\.1:\d+ \(user admin, password admin\)", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_demo_shows_a_directory_of_ones_own(run, home, tmp_path):
    folder = tmp_path / "own/STUDY/anna/visit1/1/DICOM/deep"
    folder.mkdir(parents=True)
    (folder / "image.dcm").write_bytes(b"mine")
    command = [sys.executable, "-m", "xnatfs", "demo", "--serve", "--data", str(tmp_path / "own")]
    with subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://\S+", process.stdout.readline())[0]
        path = "STUDY/anna/visit1/1/DICOM/deep/image.dcm"
        assert works(run("cat", path, "--server", url, "--user", "admin", XNAT_PASS="admin")) == "mine"
        process.terminate()


def test_demo_problems_are_said(run, site, tmp_path):
    fails(run("demo", "--serve", "--port", site.port), 2, str(site.port))
    faults = tmp_path / "faults.json"
    faults.write_text('[{"action": "no such"}]')
    fails(run("demo", "--serve", "--faults", faults), 2, "faults.json: rule 1: no fault is called 'no such'")
    fails(run("demo", "--serve", "--faults", tmp_path / "missing"), 2, "missing")
    fails(run("demo", tmp_path / "mnt", "--port", site.port), 2, str(site.port))
