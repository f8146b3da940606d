"""Where settings come from, in which order, and that each one remembers it."""

from __future__ import annotations

import json
import stat
from dataclasses import fields
from pathlib import Path

import pytest

from xnatfs import options, settings
from xnatfs.credentials import Secret
from xnatfs.errors import SettingsError
from xnatfs.options import BY_NAME, OPTIONS
from xnatfs.settings import Settings, Sourced

PASSWORD = "s3cr3t-Pä%ss"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: object, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(mode)
        return path

    return write


def load(flags=None, environ=None, **files) -> Settings:
    return settings.load(flags or {}, {"NETRC": "/nonexistent", **(environ or {})}, **files)


def test_every_option_is_a_field_and_the_other_way_round():
    assert {option.name for option in OPTIONS} | {"server", "user", "password", "notes"} == {
        entry.name for entry in fields(Settings)
    }


def test_without_anything_everything_is_default():
    found = load()
    assert found.ttl == Sourced(60.0, "default")
    assert found.cache_size.value == 10 * 2**30
    assert found.cache_dir.value == Path.home() / ".cache" / "xnatfs"
    with pytest.raises(SettingsError, match="no server"):
        found.need_server()


def test_the_order_of_places(write):
    config = write("config.json", {"ttl": 1, "cache_size": "1G", "parallel": 2})
    saved = write("saved.json", {"ttl": 2, "cache_size": "2G", "parallel": 3, "loop": "plain", "series": False})
    environ = {"XNATFS_TTL": "3", "XNATFS_PARALLEL": "4", "XNATFS_LOOP": "fast"}
    found = load({"ttl": "4m"}, environ, config=config, saved=saved)
    assert found.ttl == Sourced(240.0, "option --ttl")
    assert found.cache_size == Sourced(2**30, f"file {config}")
    assert found.parallel == Sourced(2, f"file {config}")
    assert found.loop == Sourced("fast", "environment XNATFS_LOOP")
    assert found.series == Sourced(False, f"saved config {saved}")


def test_the_order_for_the_login(write):
    config = write("config.json", {"server": "https://a", "user": "cu", "password": "cp"})
    saved = write("saved.json", {"server": "https://a", "user": "su", "password": "sp"})
    environ = {"XNAT_HOST": "https://a", "XNAT_USER": "eu", "XNAT_PASS": "ep"}

    def who(**given):
        found = load(given.pop("flags", {}), given.pop("environ", {}), **given)
        return found.user.value, found.password.value and found.password.value.reveal(), found.password.origin

    assert who(config=config, environ=environ, saved=saved) == ("cu", "cp", f"file {config}")
    assert who(environ=environ, saved=saved) == ("eu", "ep", "environment XNAT_PASS")
    assert who(saved=saved) == ("su", "sp", f"saved config {saved}")
    assert who(flags={"user": "eu"}, config=config, environ=environ) == ("eu", "ep", "environment XNAT_PASS")
    assert who(flags={"user": "nobody"}, config=config, environ=environ) == ("nobody", None, "not set")


def test_netrc_comes_after_the_saved_config(write):
    netrc = write("netrc", "machine a login nu password np")
    saved = write("saved.json", {"server": "https://a"})
    found = load({}, {"NETRC": str(netrc)}, saved=saved)
    assert (found.user.value, found.password.origin) == ("nu", f"netrc {netrc}")
    assert load({"guest": True}, {"NETRC": str(netrc)}, saved=saved).user.value is None


def test_what_belongs_to_another_server_stays_there(write):
    saved = write("saved.json", {"server": "https://lab", "user": "u", "password": "p", "verify": False, "ttl": 5})
    found = load({"server": "https://elsewhere"}, saved=saved)
    assert (found.user.value, found.password.value) == (None, None)
    assert found.verify == Sourced(True, "default")
    assert found.ttl.value == 5.0
    assert any("https://lab" in note for note in found.notes)


def test_verify_is_a_bool_or_a_file(write, tmp_path):
    ca = write("ca.pem", "")
    assert load(config=write("a.json", {"verify": False})).verify.value is False
    assert load(config=write("b.json", {"verify": str(ca)})).verify.value == ca
    with pytest.raises(SettingsError, match="no such file of CA certificates"):
        load({"verify": str(tmp_path / "none.pem")})
    assert load({"verify": False}).verify == Sourced(False, "option --insecure")


def test_a_proxy_is_a_secret_and_its_password_never_an_option(write):
    config = write("config.json", {"proxy": "http://me:pw@proxy:3128"})
    found = load(config=config)
    assert found.proxy.value == Secret("http://me:pw@proxy:3128")
    assert "pw" not in repr(found)
    assert {name: value for name, value, _ in found.shown()}["proxy"] == "********"
    plain = load({"proxy": "proxy:3128"})
    assert {name: value for name, value, _ in plain.shown()}["proxy"] == "http://proxy:3128"
    with pytest.raises(SettingsError, match="config") as error:
        load({"proxy": "http://me:pw@proxy:3128"})
    assert "pw" not in str(error.value)


def test_unknown_keys_are_noted_and_ignored(write):
    found = load(config=write("config.json", {"server": "https://a", "jsession": "x", "ttl": 7}))
    assert found.ttl.value == 7.0
    assert any("jsession" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"server": ', "is not JSON \\(line 1"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"server": 7}', "'server' is not a text"),
        ('{"ttl": "soon"}', "'ttl': 'soon': not"),
        ('{"ttl": NaN}', "'ttl'"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "is not JSON"),
    ],
)
def test_a_broken_file_is_one_clear_line(write, content, said):
    with pytest.raises(SettingsError, match=said) as error:
        load(config=write("config.json", content))
    assert "\n" not in str(error.value)


def test_no_such_config_is_said_but_no_saved_config_is_fine(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load(config=tmp_path / "none.json")
    assert load(saved=tmp_path / "none.json").server.value is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_password_that_others_can_read_is_refused_with_the_remedy(write, mode):
    config = write("it's mine.json", {"server": "https://a", "user": "u", "password": PASSWORD}, mode)
    with pytest.raises(SettingsError, match="chmod 600 ") as error:
        load(config=config)
    assert PASSWORD not in str(error.value)
    assert "'\"'\"'" in str(error.value), "the command can be pasted into a shell"


def test_a_file_without_password_may_be_read_by_others(write):
    assert load(config=write("config.json", {"server": "https://a", "user": "u"}, 0o644)).user.value == "u"


# -- saving ----------------------------------------------------------------------------------------------------------


def test_save_and_load_are_a_round_trip(write, tmp_path):
    config = write(
        "config.json", {"server": "https://a/x", "user": "u", "password": PASSWORD, "verify": False, "ttl": 5}
    )
    target = tmp_path / "new" / "saved.json"
    settings.save_config(target, load({"parallel": "3"}, config=config), overwrite=False)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert json.loads(target.read_text()) == {
        "server": "https://a/x", "user": "u", "password": PASSWORD, "verify": False, "ttl": 5.0, "parallel": 3,
    }  # fmt: skip
    again = load(config=target)
    assert again.password.value == Secret(PASSWORD)
    assert [path.name for path in target.parent.iterdir()] == ["saved.json"]


def test_save_does_not_overwrite_unless_told(write):
    target = write("config.json", {"server": "https://old"})
    with pytest.raises(SettingsError, match="exists; --force"):
        settings.save_config(target, load({"server": "https://new"}), overwrite=False)
    settings.save_config(target, load({"server": "https://new"}), overwrite=True)
    assert json.loads(target.read_text()) == {"server": "https://new"}


def test_save_without_password(write, tmp_path):
    config = write("config.json", {"server": "https://a", "user": "u", "password": PASSWORD})
    settings.save_config(tmp_path / "b.json", load(config=config), overwrite=False, with_password=False)
    assert PASSWORD not in (tmp_path / "b.json").read_text()


# Importing the real pyxnat warns of its own old dependencies; "error" is for our code.
@pytest.mark.filterwarnings("ignore")
def test_the_real_pyxnat_loads_what_we_save_and_we_load_what_it_saves(tmp_path):
    pyxnat = pytest.importorskip("pyxnat")
    ours = tmp_path / "ours.json"
    environ = {"XNAT_HOST": "https://a/x", "XNAT_USER": "u", "XNAT_PASS": PASSWORD}
    settings.save_config(ours, load({"proxy": "http://p:1", "verify": False, "ttl": "9"}, environ), overwrite=False)
    interface = pyxnat.Interface.__new__(pyxnat.Interface)
    interface._anonymous = False
    interface.load_config(str(ours))
    assert (interface._server, interface._user, interface._pwd, interface._verify) == (
        "https://a/x",
        "u",
        PASSWORD,
        False,
    )
    assert interface._proxy_url.geturl() == "http://p:1"

    theirs = tmp_path / "theirs.json"
    interface.save_config(str(theirs))
    if stat.S_IMODE(theirs.stat().st_mode) & 0o066:
        with pytest.raises(SettingsError, match="chmod 600"):
            load(config=theirs)
    theirs.chmod(0o600)
    found = load(config=theirs)
    assert (found.server.value, found.user.value, found.password.value) == ("https://a/x", "u", Secret(PASSWORD))
    assert (found.verify.value, found.proxy.value) == (False, Secret("http://p:1"))


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10G", 10 * 2**30),
        ("500m", 500 * 2**20),
        ("1.5T", 3 * 2**39),
        ("4096", 4096),
        (4096, 4096),
        ("10GiB", 10 * 2**30),
        ("10 GB", 10 * 2**30),
    ],
)
def test_sizes(text, size):
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "ten", "-1G", "0", "5X", "nan", "1e999"])
def test_what_is_no_size_is_said(text):
    with pytest.raises(SettingsError, match="option --cache-size: "):
        load({"cache_size": text})


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("1.5", 1.5), ("10m", 600), ("2H", 7200), ("30d", 2592000), (0, 0)]
)
def test_times(text, seconds):
    assert options.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "5y", "nan", "inf"])
def test_what_is_no_time_is_said(text):
    with pytest.raises(SettingsError, match="environment XNATFS_TTL: "):
        load({}, {"XNATFS_TTL": text})


def test_zero_is_a_value():
    assert load({"ttl": 0}).ttl == Sourced(0.0, "option --ttl")


def test_mount_options_stay_as_they_were_given(write):
    assert load({"fuse_options": ("ro,allow_other", "umask=022")}).fuse_options.value == ("ro,allow_other", "umask=022")
    assert load(config=write("c.json", {"fuse_options": "ro"})).fuse_options.value == ("ro",)


@pytest.mark.parametrize(
    ("name", "text"),
    [("loop", "quick"), ("parallel", "0"), ("log_level", "loud"), ("read_timeout", "0"), ("guest", "maybe")],
)
def test_a_wrong_value_names_where_it_stands(name, text):
    option = BY_NAME[name]
    with pytest.raises(SettingsError, match=f"environment {option.variable}: '{text}': "):
        load({}, {option.variable: text})
