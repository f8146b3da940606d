"""Each check of `xnatfs doctor` where what it looks at is right and wrong; and the bundle of `xnatfs debug`."""

from __future__ import annotations

import os
import stat
import tarfile
import time

import pytest
from support.tls import tls_in_front_of

from xnatfs import bundle, connect, doctor
from xnatfs.credentials import Credentials, Secret
from xnatfs.demo import DemoServer, ServerOptions, synthetic_archive
from xnatfs.errors import CacheFault, FuseMissing, LoginFailed, SettingsError, Unreachable
from xnatfs.logs import Redactor
from xnatfs.settings import load


def states(checks):
    return {check.what: check.state for check in checks}


def settings(server=None, **values):
    return load({"server": server, **values}, {})


# -- this machine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "fuse"
    path.touch()
    return path


def fuse(device, conf, *, load=lambda: None, root=True):
    return {check.what: check for check in doctor.fuse(load, device, conf, root)}


def test_a_machine_that_has_fuse_is_well(device, tmp_path):
    found = fuse(device, tmp_path / "none")
    assert [found[what].state for what in ("fuse device", "libfuse", "allow_other")] == ["ok"] * 3


def test_a_missing_device_and_library_are_told_with_what_to_do(tmp_path):
    def missing():
        raise FuseMissing("libfuse2 cannot be loaded (x). Remedy: apt-get install libfuse2")

    found = fuse(tmp_path / "none", tmp_path / "none", load=missing)
    assert found["fuse device"].state == found["libfuse"].state == "fail"
    assert found["fuse device"].kind is found["libfuse"].kind is FuseMissing
    assert "--device" in found["fuse device"].remedy
    assert found["libfuse"].remedy == "apt-get install libfuse2"


def test_others_may_look_only_where_the_system_lets_them(device, tmp_path):
    conf = tmp_path / "fuse.conf"
    assert "may not" in fuse(device, conf, root=False)["allow_other"].found
    conf.write_text("#user_allow_other\n")
    assert "may not" in fuse(device, conf, root=False)["allow_other"].found
    conf.write_text("mount_max = 9\nuser_allow_other\n")
    assert "may not" not in fuse(device, conf, root=False)["allow_other"].found


@pytest.mark.parametrize("root", [True, False])
def test_a_fusermount_that_does_not_run_as_root_is_no_use_to_a_user(device, tmp_path, monkeypatch, root):
    helper = tmp_path / "fusermount3"
    helper.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = "warn" if root else "fail"
    assert fuse(device, tmp_path / "none", root=root)["fusermount"].state == wanted
    helper.chmod(0o4755)
    assert fuse(device, tmp_path / "none", root=root)["fusermount"].state == "ok" if os.geteuid() == 0 else wanted
    helper.unlink()
    assert fuse(device, tmp_path / "none", root=root)["fusermount"].state == wanted


@pytest.mark.parametrize(
    ("mode", "text", "state"),
    [(0o644, '{"password": "x"}', "fail"), (0o600, '{"password": "x"}', "ok"), (0o644, '{"server": "x"}', "ok")],
)
def test_a_password_that_others_can_read_is_a_failure(tmp_path, mode, text, state):
    path = tmp_path / "config.json"
    path.write_text(text)
    path.chmod(mode)
    (check,) = doctor.files({"config": path, "netrc": tmp_path / "none"})
    assert (check.what, check.state) == ("config", state)
    assert (f"chmod 600 {path}" in check.remedy) is (state == "fail")


def test_a_cache_that_may_be_made_is_well_and_is_not_made(tmp_path):
    (check,) = doctor.cache(settings(cache_dir=tmp_path / "a" / "b", cache_size="1M"))
    assert check.state == "ok"
    assert not (tmp_path / "a").exists()


def test_a_cache_among_other_files_or_on_a_full_disk_is_told(tmp_path):
    (tight,) = doctor.cache(settings(cache_dir=tmp_path, min_free="900P"))
    assert (tight.state, "free some space" in tight.remedy) == ("warn", True)
    (tmp_path / "thesis.tex").touch()
    (foreign,) = doctor.cache(settings(cache_dir=tmp_path))
    assert (foreign.state, foreign.kind) == ("fail", CacheFault)
    assert "thesis.tex" in foreign.found
    (file,) = doctor.cache(settings(cache_dir=tmp_path / "thesis.tex"))
    assert file.state == "fail"


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site():
    with DemoServer(synthetic_archive(), users={"ada": "right"}, options=ServerOptions(require_login=True)) as server:
        yield server


def examine(url, password="right", clock=time.time, **values):
    login = Credentials("ada", Secret(password), "test") if password else None
    found = settings(url, **values)
    with connect.visitor(found) as client:
        return {check.what: check for check in doctor.server(client, found, lambda: login, clock)}


def test_a_good_server_is_well_and_its_session_is_ended(site):
    before = site.logins.active()
    found = examine(site.url)
    assert states(found.values()) == {"server": "ok", "tls": "warn", "xnat": "ok", "clock": "ok", "login": "ok"}
    assert "ada" in found["login"].found
    assert site.logins.active() == before


def test_a_refused_password_is_sent_once(site):
    site.reset_log()
    found = examine(site.url, "wrong")
    assert (found["login"].state, found["login"].kind) == ("fail", LoginFailed)
    assert [r.status for r in site.requests if r.headers.get("authorization")] == [401]


def test_whom_nobody_asks_for_a_login_sends_none(site):
    site.reset_log()
    with connect.visitor(settings(site.url)) as client:
        assert "login" not in states(doctor.server(client, settings(site.url), None))
    assert not any(r.headers.get("authorization") for r in site.requests)


@pytest.mark.parametrize(("wrong", "word"), [(-3600, "ahead of"), (3600, "behind")])
def test_a_clock_that_differs_is_told_with_which_way(site, wrong, word):
    check = examine(site.url, clock=lambda: time.time() + wrong)["clock"]
    assert check.state == "warn"
    assert f"3600 s {word}" in check.found or f"3599 s {word}" in check.found or f"3601 s {word}" in check.found


def test_a_certificate_is_trusted_or_not_or_not_looked_at(site, tmp_path):
    with tls_in_front_of(site.port, tmp_path) as (port, certificate):
        url = f"https://localhost:{port}"
        refused = examine(url)
        assert states(refused.values()) == {"server": "fail"}
        assert "--insecure" in refused["server"].remedy
        assert examine(url, verify=str(certificate))["tls"].state == "ok"
        assert examine(url, verify=False)["tls"].state == "warn"


def test_a_server_that_is_not_there_is_the_only_finding():
    found = examine("http://127.0.0.1:9")
    assert states(found.values()) == {"server": "fail"}
    assert found["server"].kind is Unreachable
    assert "check the address" in found["server"].remedy


@pytest.mark.parametrize(("version", "state"), [("1.8.10", "ok"), ("1.10", "ok"), ("1.6.5", "warn"), ("", "warn")])
def test_old_and_unknown_servers_are_worth_a_warning(version, state):
    assert doctor._version(version).state == state


# -- the bundle ------------------------------------------------------------------------------------------------------

LOG = """\
cut off in the middle: subject-7
2026-11-22 13:58:53,724 INFO MainThread xnatfs.app: mounting
2026-11-22 13:58:53,725 DEBUG fuse-1 xnatfs.fuse_ops: getattr: ENOENT: /P/subject-7
and its second line subject-7
2026-11-22 13:58:54,000 ERROR fuse-1 xnatfs.fuse_ops: unexpected
Traceback (most recent call last):
"""


def test_labels_are_left_out_of_the_log_and_nothing_else(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(LOG)
    kept = bundle.log_tail(path, labels=False)
    assert "subject-7" not in kept
    assert kept.splitlines() == [line for number, line in enumerate(LOG.splitlines()) if number in (1, 4, 5)]
    assert bundle.log_tail(path, labels=True) == LOG
    assert "No such file" in bundle.log_tail(tmp_path / "none", labels=True)


def test_a_bundle_is_for_its_owner_never_overwrites_and_is_cleaned_once_more(tmp_path):
    path, hidden = tmp_path / "b.tar.gz", Redactor()
    hidden.hide("s3cret-PASS", "ada")
    bundle.write(path, {"a.txt": "Cookie: JSESSIONID=ABCDEF; s3cret-PASS", "d/b.txt": "fine\udcff"}, hidden)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        texts = {member.name: archive.extractfile(member).read().decode() for member in archive.getmembers()}
    assert set(texts) == {"xnatfs-debug/a.txt", "xnatfs-debug/d/b.txt"}
    assert "s3cret" not in "".join(texts.values())
    assert "ABCDEF" not in "".join(texts.values())
    with pytest.raises(SettingsError, match="File exists"):
        bundle.write(path, {}, hidden)


def test_the_versions_are_those_of_the_dependencies():
    found = bundle.versions()
    assert {"xnatfs", "python", "platform", "requests", "fusepy", "click"} <= set(found)
    assert "pytest" not in found
