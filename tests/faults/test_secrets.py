"""No secret where others look, none sent to others, and no bytes for those who have lost the right to them."""

from __future__ import annotations

import base64
import errno
import gc
import io
import logging
import os
import re
import stat
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
from support.faces import direct, mounted, until
from support.rawserver import CERTIFICATE, FakeXnat, Hidden, RawServer, Someone, reply
from support.studies import ONE_FILE, one_file

from xnatfs import app, credentials, logs
from xnatfs import settings as all_settings
from xnatfs.deadlines import Deadline
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.errors import SettingsError, Unreachable, XnatfsError
from xnatfs.vfs import Timing
from xnatfs.xnat.client import Client

ROOT = Path(app.__file__).parents[1]
PASSWORD = "s3cr3t-PASS-7qz"
SHADES = [PASSWORD, base64.b64encode(f"admin:{PASSWORD}".encode()).decode(), PASSWORD[::-1]]


WRONG = ("close", "unauthorized", "login_page", "login_redirect", "malformed", "gzip", "expire", "cut")


def small(label="subject-label-77x"):
    """Project P with one subject of a label that nothing else contains."""
    archive = Archive()
    session = archive.add_session(archive.add_subject(archive.add_project("P"), label), "E")
    resource = archive.add_resource(archive.add_scan(session, "1", type="T1"), "R")
    archive.add_file(resource, "a.bin", b"bytes of a")
    return archive


def secrets_of(server):
    return [*SHADES, *(session for session in server.logins.sessions if len(session) >= 16)]


def _code(call, *arguments):
    try:
        call(*arguments)
    except OSError as problem:
        return errno.errorcode[problem.errno]
    return "ok"


# --- where others look ---------------------------------------------------------------------------------------------


@pytest.mark.mount
def test_no_secret_in_process_list_logs_or_cache_when_everything_goes_wrong(tmp_path):
    """At level debug, with every kind of error in between; and the environment of a child has none either."""
    with DemoServer(small(), users={"admin": PASSWORD}) as server:
        options = ("--log-level", "debug", "--metadata-timeout", "2", "--ttl", "0")
        with mounted(server.url, tmp_path / "mnt", tmp_path, *options, password=PASSWORD) as face:
            secrets = secrets_of(server)
            path = "/P/subject-label-77x/E/1/R/a.bin"
            for action in (
                "close",
                "unauthorized",
                "login_page",
                "login_redirect",
                "malformed",
                "gzip",
                "expire",
                "cut",
            ):
                rule = server.faults.add(Rule(action, path="/data/(projects|experiments)", count=6))
                _code(face.read, path)
                server.faults.remove(rule)
                secrets += secrets_of(server)
            pid = face.process.pid
            seen = {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")}
            seen["status"] = (face.root / ".xnat" / "status.json").read_bytes()
        for place in tmp_path.rglob("*"):
            seen[f"name of {place}"] = os.fsencode(place)
            if place.is_file():
                seen[str(place)] = place.read_bytes()
        for place, content in seen.items():
            for secret in secrets:
                assert secret.encode() not in content, place
        assert "login" in face.text()


@pytest.mark.mount
def test_labels_of_subjects_are_in_the_log_at_level_debug_only(tmp_path):
    with DemoServer(small()) as server:
        for level in ("info", "debug"):
            options = ("--log-level", level, "--metadata-timeout", "2", "--ttl", "0")
            with mounted(server.url, tmp_path / level, tmp_path, *options) as face:
                path = "/P/subject-label-77x/E/1/R/a.bin"
                for action in ("close", "malformed", "status"):
                    rule = server.faults.add(Rule(action, path="/data/(projects/P|experiments)", count=6))
                    _code(face.read, path)
                    _code(os.listdir, face.path("/P/subject-label-77x"))
                    server.faults.remove(rule)
                _code(face.stat, "/P/subject-label-77x/none")
                _code(os.open, face.path(path), os.O_WRONLY)
            if level == "info":
                assert "subject-label-77x" not in face.text()
                assert "EIO" in face.text()


def test_no_object_shows_a_secret(tmp_path):
    """repr and str of everything that is alive and ours, found through the garbage collector."""
    with DemoServer(small(), users={"admin": PASSWORD}) as server:
        environ = {"XNAT_HOST": server.url, "XNAT_USER": "admin", "XNAT_PASS": PASSWORD, "HOME": str(tmp_path)}
        settings = all_settings.load({"cache_dir": str(tmp_path / "cache")}, environ)
        login = credentials.complete(settings.choice(), None)
        with app.App(settings, login) as running:
            running.check()
            secrets = secrets_of(server)
            ours = [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("xnatfs.")]
            ours = [thing for thing in ours if not str(type(thing).__module__).startswith("xnatfs.demo")]
            assert {"App", "Client", "Credentials", "Settings", "Login", "Vfs"} <= {type(one).__name__ for one in ours}
            session = running.client._login.session(Deadline(5))
            assert session.id in secrets
            for thing in [*ours, session]:
                for text in (repr(thing), str(thing)):
                    for secret in secrets:
                        assert secret not in text, type(thing)


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 500, 503])
def test_no_error_or_traceback_of_a_login_shows_the_password(status, caplog):
    headers = {"Location": f"http://other/?p={PASSWORD}"} if status == 302 else {}
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    redactor = logs.Redactor()
    redactor.hide(PASSWORD, "admin")
    handler.setFormatter(logs.RedactingFormatter(redactor))
    caplog.set_level(logging.DEBUG)
    with RawServer(lambda _: reply(status, f"<html>{PASSWORD}</html>", kind="text/html", headers=headers)) as server:
        client = Client(server.url, Someone("admin", Hidden(PASSWORD)), sleep=lambda _: None)
        with pytest.raises(XnatfsError) as caught:
            client.login(Deadline(10))
        client.close()
    texts = [str(caught.value), repr(caught.value), caplog.text]
    texts.append("".join(traceback.format_exception(caught.value)))
    for text in texts:
        for secret in SHADES[:2]:
            assert secret not in text
    record = logging.LogRecord("xnatfs", 40, "", 0, "x %s", (caught.value,), (caught.type, caught.value, caught.tb))
    assert PASSWORD not in handler.format(record)


def test_nobody_else_may_look_into_the_cache(tmp_path):
    archive, data = one_file(300_000)
    with DemoServer(archive) as server, direct(server.url, tmp_path / "cache") as face:
        assert face.read(ONE_FILE) == data
        for place in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
            assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0, place


def test_server_and_user_have_a_cache_of_their_own():
    class Login:
        def __init__(self, user):
            self.user = user

    names = {app.namespace(s, u and Login(u)) for s in ("https://a", "https://b") for u in ("", "me", "you")}
    assert len(names) == 6


# --- what is sent, and to whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["/data/JSESSION", "/data/auth", "/data/projects", "/data/experiments"])
def test_a_redirect_to_another_place_gets_nothing(status, where):
    """Neither credentials nor session: no redirect is followed, whatever the server says."""
    with RawServer(lambda _: reply(200, "{}")) as elsewhere:

        def script(request):
            return reply(status, "", headers={"Location": f"{elsewhere.url}{request.target}"})

        site = FakeXnat(script, user="admin", password=PASSWORD)

        def answer(request):
            return script(request) if request.path.startswith(where) else site(request)

        with RawServer(answer) as server:
            client = Client(server.url, Someone("admin", Hidden(PASSWORD)), sleep=lambda _: None)
            with pytest.raises(XnatfsError):
                client.get_rows("/data/projects" if "experiments" not in where else where, deadline=Deadline(10))
            client.close()
        assert elsewhere.requests == []


def test_only_the_login_carries_the_password():
    site = FakeXnat(lambda _: reply(200, '{"ResultSet": {"Result": []}}'), user="admin", password=PASSWORD)
    with RawServer(site) as server:
        client = Client(server.url, Someone("admin", Hidden(PASSWORD)))
        for _ in range(3):
            client.get_rows("/data/projects", deadline=Deadline(10))
        client.logout(Deadline(5))
        client.close()
        carrying = [request.path for request in server.requests if "authorization" in request.headers]
        assert carrying == ["/data/JSESSION"]
        assert not any(PASSWORD in request.target for request in server.requests)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_proxy_of_the_environment_is_not_shown_what_is_sent_to_this_machine(monkeypatch, name):
    with RawServer(lambda _: reply(200, "{}")) as proxy, RawServer(FakeXnat(lambda _: reply(200, "{}"))) as server:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        client = Client(server.url.replace("127.0.0.1", name), Someone(), sleep=lambda _: None)
        assert client.login(Deadline(10)) == "ann"
        client.close()
        assert proxy.requests == []


def test_the_proxy_of_the_environment_is_used_for_others_unless_it_says_not_to(monkeypatch):
    with RawServer(lambda _: reply(200, '{"ResultSet": {"Result": []}}')) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NO_PROXY", "xnat.invalid")
        for server, asked in (("http://other.invalid", 1), ("http://xnat.invalid", 1)):
            client = Client(server, None, sleep=lambda _: None)
            with suppress(Unreachable):
                client.get_rows("/data/projects", deadline=Deadline(10))
            client.close()
            assert len(proxy.requests) == asked


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environment_may_name_certificates_and_never_ends_their_check(monkeypatch, tmp_path, variable):
    with RawServer(FakeXnat(lambda _: reply(200, "{}")), tls=True) as server:
        for bundle, trusted in ((CERTIFICATE, True), ("", False), (str(tmp_path / "none.pem"), False)):
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv(variable, bundle)
            client = Client(server.url, Someone(), sleep=lambda _: None)
            if trusted:
                assert client.login(Deadline(10)) == "ann"
            else:
                with pytest.raises(Unreachable):
                    client.login(Deadline(10))
            client.close()


def test_a_cookie_for_another_place_is_not_kept():
    cookies = ["a=1; Domain=.example.org; Path=/", "b=1; Domain=other.invalid; Path=/", "c=1; Path=/"]
    head = "none" + "".join(f"\r\nSet-Cookie: {cookie}" for cookie in cookies)
    with RawServer(FakeXnat(lambda _: reply(200, '{"ResultSet": {"Result": []}}', headers={"X": head}))) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None)
        for _ in range(2):
            client.get_rows("/data/projects", deadline=Deadline(10))
        client.close()
        assert [one for one in server.requests[-1].headers["cookie"].split("; ") if "JSESSION" not in one] == ["c=1"]


# --- rights that are lost ------------------------------------------------------------------------------------------


@pytest.mark.mount
@pytest.mark.parametrize("loop", ["fast", "plain"])
@pytest.mark.parametrize("how", ["removed from the project", "status 403"])
def test_who_has_lost_a_project_cannot_read_what_is_cached(tmp_path, loop, how):
    archive, data = one_file(300_000)
    project = archive.projects["P"]
    project.members["bob"] = "Collaborators"
    with DemoServer(archive, users={"bob": "bob"}) as server:
        options = ("--ttl", "1")
        with mounted(server.url, tmp_path / "mnt", tmp_path, *options, loop=loop, user="bob", password="bob") as face:
            assert face.read(ONE_FILE) == data
            if how == "status 403":
                server.faults.add(Rule("status", status=403, path="/data/experiments/", count=None))
            else:
                del project.members["bob"]
                archive.touch()
            until(lambda: _code(face.read, ONE_FILE) in ("EACCES", "ENOENT"), 20.0)
            if how == "status 403":
                assert _code(face.read, ONE_FILE) == "EACCES"
                assert _code(os.listdir, face.path("/P/S/E")) == "EACCES"
            for _ in range(3):
                assert _code(face.read, ONE_FILE) in ("EACCES", "ENOENT")


def test_expired_listings_are_asked_for_again_before_cached_bytes_are_served(tmp_path):
    archive, data = one_file(300_000)
    with DemoServer(archive) as server, direct(server.url, tmp_path / "cache", timing=Timing(ttl=0.0)) as face:
        assert face.read(ONE_FILE) == data
        server.reset_log()
        assert face.read(ONE_FILE) == data
        listed = [request.path for request in server.requests]
        assert any(re.search("/experiments/[^/]+/(files|resources|scans)", path) for path in listed)
        assert not any(path.endswith("big.bin") for path in listed)


def test_allow_other_warns():
    environ = {"XNAT_HOST": "https://host", "HOME": "/nonexistent"}
    settings = all_settings.load({"fuse_options": ("allow_other",)}, environ)
    assert any("other users" in text for text in app.warnings(settings, None))


def test_what_a_command_has_read_is_in_no_environment_any_more(tmp_path):
    """Neither in its own, as /proc shows it, nor in that of a child."""
    code = (
        "import subprocess\n"
        "from xnatfs.cli_options import settings_from\n"
        "found = settings_from(None, False, False, {'server': 'https://host'})\n"
        "print(open('/proc/self/environ').read(), subprocess.run(['env'], capture_output=True, text=True).stdout)\n"
        "assert found.proxy.value.reveal().endswith('@proxy:3128') and found.password.value\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XNAT_USER": "me", "XNAT_PASS": PASSWORD}
    environ["XNATFS_PROXY"] = f"http://me:{PASSWORD}@proxy:3128"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=ROOT)
    assert "HOME" in done.stdout, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [0o602, 0o606, 0o666])
def test_a_config_file_that_everybody_can_change_is_refused_though_it_holds_no_password(tmp_path, mode):
    config = tmp_path / "config.json"
    config.write_text('{"server": "https://host", "verify": false}')
    config.chmod(mode)
    with pytest.raises(SettingsError, match=f"changed by everybody .*chmod o-w {config}"):
        all_settings.read_config(config)
    config.chmod(0o664)
    assert all_settings.read_config(config).offer.server == "https://host"


@pytest.mark.parametrize("mask", [0, 0o077])
def test_a_saved_config_is_for_its_owner_only_whatever_was_there(tmp_path, mask):
    environ = {"XNAT_HOST": "https://host", "XNAT_USER": "me", "XNAT_PASS": PASSWORD, "HOME": str(tmp_path)}
    config = tmp_path / "new" / "config.json"
    before = os.umask(mask)
    try:
        settings = all_settings.load({}, environ)
        all_settings.save_config(config, settings, overwrite=False)
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        config.chmod(0o644)
        with config.open() as old:
            all_settings.save_config(config, settings, overwrite=True)
            assert stat.S_IMODE(config.stat().st_mode) == 0o600
            assert os.fstat(old.fileno()).st_ino != config.stat().st_ino  # who had it open has the old one
    finally:
        os.umask(before)
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert [path.name for path in config.parent.iterdir()] == ["config.json"]


def test_no_child_of_a_command_is_given_the_password(tmp_path):
    """A command that starts a program must not hand it the environment that it was given itself."""
    code = (
        "import os, subprocess, sys\n"
        "from xnatfs.daemon import forget_variable\n"
        "forget_variable('XNAT_PASS')\n"
        "print(subprocess.run(['env'], capture_output=True, text=True).stdout)\n"
    )
    environ = {"PATH": os.environ["PATH"], "XNAT_PASS": PASSWORD}
    done = subprocess.run(
        ["python3", "-c", code], env=environ, capture_output=True, text=True, cwd=Path(app.__file__).parents[1]
    )
    assert PASSWORD not in done.stdout
