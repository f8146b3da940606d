"""At home on a system, without mounting: helpers, man pages, units, completion, credentials of a service manager."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.faces import environment, mounted
from support.studies import one_session

from xnatfs import cli, cli_complete, credentials, fuse_mount, mount_helper, settings
from xnatfs.demo import DemoServer
from xnatfs.errors import SettingsError
from xnatfs.options import MOUNT_WORDS, OPTIONS, parse_texts, settings_in
from xnatfs.system import install, manual, units

ROOT = Path(__file__).parent.parent
URL = "https://host/xnat"


@pytest.fixture
def run(tmp_path, monkeypatch, capfdbinary):
    """A command in this process, with an empty home: (status, stdout, stderr)."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*words):
        status = cli.main([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


# -- settings after -o -----------------------------------------------------------------------------------------------

VALUES = {"verify": "false", "proxy": "proxy:3128", "cache_size": "1G", "min_free": "2G"}
"""Of settings that are neither a number, nor a path, nor one of a few words."""


@pytest.mark.parametrize("dash", ["_", "-"])
def test_every_setting_can_be_given_as_a_mount_option(run, tmp_path, dash):
    """The first columns of 'config show' are name, value and where it comes from."""
    texts = []
    for word, option in MOUNT_WORDS.items():
        default = str(tmp_path / option.name) if option.metavar in ("D", "FILE") else "7"
        value = VALUES.get(word, (option.metavar or "").split("|")[-1] if "|" in (option.metavar or "") else default)
        texts.append(word.replace("_", dash) + ("" if option.fixed is not None else f"={value}"))
    status, out, err = run("config", "show", "--server", URL, "-o", ",".join([*texts, "allow_other"]))
    assert (status, err) == (0, "")
    origins = {line.split("\t")[0]: line.split("\t")[2] for line in out.splitlines()}
    assert {origins[option.name] for option in OPTIONS} == {f"option {option.flag}" for option in OPTIONS} - {""}
    assert "fuse_options\tallow_other\toption -o" in out


def test_an_option_wins_over_a_mount_option(run):
    _, out, _ = run("config", "show", "--json", "--server", URL, "-o", "ttl=5,cache_size=1G", "--ttl", "9")
    found = json.loads(out)
    assert (found["ttl"]["value"], found["cache_size"]["value"]) == (9, 2**30)


def test_flags_after_o_can_say_no(run):
    _, out, _ = run("config", "show", "--json", "--server", URL, "-o", "guest=false,series=false")
    found = json.loads(out)
    assert (found["guest"]["value"], found["series"]["value"]) == (False, False)
    assert settings_in(["no_series=false"]) == ({"series": False}, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttl", "ttl needs a value"),
        ("guest=perhaps", "guest=perhaps: not true or false"),
        ("parallel=999", "has to be from 1 to 64"),
        ("password=x", "others can read mount options"),
        ("bogus", "unknown mount option"),
        ("uid=nobody-at-all", "no valid value for uid"),
    ],
)
def test_a_wrong_mount_option_is_one_line(run, tmp_path, text, said):
    (tmp_path / "point").mkdir()
    status, out, err = run("mount", URL, tmp_path / "point", "--dry-run", "-o", text)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_login_for_who_cannot_take_one_is_refused(run, tmp_path):
    status, _, err = run("systemd", "install", "--dest", tmp_path, URL, tmp_path, "-o", "username=me")
    assert status == 2
    assert "user cannot be set here" in err


# -- the helper of mount(8) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (f"{URL} /m", f"mount --quiet -- {URL} /m"),
        (f"{URL} /m -o rw", f"mount --quiet -- {URL} /m"),  # mount(8) without options
        (f"{URL} /m -v -n -t xnatfs -o rw,noexec,ttl=5", f"mount -o noexec,ttl=5 -- {URL} /m"),
        (f"{URL} /m -o rw,user,_netdev -o ttl=5", f"mount --quiet -o user,_netdev,ttl=5 -- {URL} /m"),
        (f"{URL} /m -s -f -o bogus=1,ttl=5,x-a,uid=1", f"mount --quiet --dry-run -o ttl=5,x-a,uid=1 -- {URL} /m"),
        ("none /m -o config=/c", "mount --quiet -o config=/c -- /m"),
        (f"-o ro {URL} /m", f"mount --quiet -o ro -- {URL} /m"),
        (rf"{URL} /m -o fsname=a\,b", rf"mount --quiet -o fsname=a\,b -- {URL} /m"),
    ],
)
def test_what_mount8_passes_becomes_a_command(given, words):
    assert mount_helper.translated(given.split()) == words.split()


@pytest.mark.parametrize("given", ["", URL, f"{URL} /m /n", f"{URL} /m --move", f"{URL} /m -N 7"])
def test_another_call_is_a_usage_error_of_mount8(given, capfd):
    assert mount_helper.main(given.split()) == 1
    assert re.fullmatch(r"xnatfs: [^\n]+; usage: [^\n]+\n", capfd.readouterr().err)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 32), (2, 1), (3, 32), (4, 32), (5, 2), (6, 32), (130, 8)])
def test_statuses_are_those_of_mount8(monkeypatch, ours, theirs):
    monkeypatch.setattr(cli, "main", lambda words: ours)
    assert mount_helper.main([URL, "/m"]) == theirs


def test_mount_fuse_is_told_from_a_command():
    assert mount_helper.is_call([URL, "/m", "-o", "rw,dev,suid"])
    assert not any(mount_helper.is_call(words) for words in ([], ["mount", URL, "/m"], ["--help"], ["ls"]))


def test_helpers_are_put_in_place_and_taken_away(run, tmp_path):
    top = tmp_path / "root"
    status, out, err = run("install-helpers", "--dest", top)
    assert (status, err) == (0, "")
    files = sorted(path for path in top.rglob("*") if path.is_file())
    assert sorted(f"installed {path}" for path in files) == sorted(out.splitlines())
    assert {path.stat().st_mode & 0o777 for path in files if path.parent.name == "sbin"} == {0o755}
    for name in ("mount.xnatfs", "mount.fuse.xnatfs"):
        assert sys.executable in (top / "sbin" / name).read_text()
    assert run("install-helpers", "--dest", top)[0] == 0  # again: an update
    status, out, _ = run("install-helpers", "--dest", top, "--remove")
    assert sorted(f"removed {path}" for path in files) == sorted(out.splitlines())
    assert not [path for path in top.rglob("*") if path.is_file()]


def test_the_helper_runs_from_anywhere_and_imports_nothing_from_there(tmp_path):
    (tmp_path / "xnatfs").mkdir()
    (tmp_path / "xnatfs" / "__init__.py").write_text("raise SystemExit('imported from the working directory')")
    helper = tmp_path / "mount.xnatfs"
    helper.write_text(install.helper_script())
    done = subprocess.run(["/bin/sh", helper, URL], cwd=tmp_path, env={"PATH": "/"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "usage: mount.xnatfs" in done.stderr


def test_a_helper_whose_python_is_gone_says_so(tmp_path):
    helper = tmp_path / "mount.xnatfs"
    helper.write_text(install.helper_script("/no such/python"))
    done = subprocess.run(["/bin/sh", helper, URL, "/m"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "xnatfs: the Python that this was installed with is gone: /no such/python\n",
    )


def test_a_file_of_somebody_else_is_left_alone(run, tmp_path):
    foreign = tmp_path / "sbin" / "mount.fuse.xnatfs"
    foreign.parent.mkdir()
    foreign.write_text("theirs")
    status, out, err = run("install-helpers", "--dest", tmp_path)
    assert (status, out) == (2, "")
    assert str(foreign) in err
    run("install-helpers", "--dest", tmp_path, "--remove")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [foreign]
    assert foreign.read_text() == "theirs"


# -- man pages -------------------------------------------------------------------------------------------------------

PAGES = manual.pages(cli.cli)


@pytest.mark.parametrize("name", PAGES)
def test_man_pages_are_those_of_the_commands(name):
    assert (ROOT / "docs" / "man" / name).read_text(encoding="utf-8") == PAGES[name], "run scripts/man"


@pytest.mark.parametrize("name", PAGES)
def test_man_pages_use_no_markup_by_accident(name):
    for line in PAGES[name].splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or re.match(r"\.(TH|SH|SS|TP|PP|nf|fi|br)( |$)", line), line


def test_every_mount_option_is_in_the_man_page():
    page = re.sub(r"\\f.|\\(?=-)", "", PAGES["man8/mount.xnatfs.8"])
    words = {*fuse_mount._FLAGS, *fuse_mount._OPPOSITES, *fuse_mount._VALUES, *MOUNT_WORDS, "config", "username"}
    for word in words:
        assert re.search(rf"\b{word}\b", page), word


# -- units -----------------------------------------------------------------------------------------------------------


def made(out):
    return Path(re.match(r"wrote (\S+);", out)[1])


@pytest.mark.parametrize("whose", ["--system", "--user"])
def test_systemd_accepts_the_units(run, tmp_path, monkeypatch, whose):
    config = tmp_path / "a 100% c.json"
    config.write_text(json.dumps({"server": URL, "user": "me", "password": "s3cret"}))
    config.chmod(0o600)
    point = tmp_path / "my xnat"
    status, out, err = run(
        "systemd", "install", whose, "--dest", tmp_path, "--config", config, point, "-o", "allow_other,ttl=5,uid=7"
    )
    assert (status, err) == (0, "")
    unit = made(out)
    text = unit.read_text()
    assert "s3cret" not in text
    assert "Type=notify" in text
    assert "RestartPreventExitStatus=2 3 5 6" in text
    assert "--ttl=5 -o allow_other -o uid=7" in text
    assert ("LoadCredential=" in text) == (whose == "--system")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    checked = subprocess.run(["systemd-analyze", whose, "--man=no", "verify", unit], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    status, out, _ = run("systemd", "remove", whose, "--dest", tmp_path, point)
    assert (status, out) == (0, f"removed {unit}\n")
    assert not unit.exists()


def test_a_unit_of_another_mountpoint_is_not_overwritten(run, tmp_path):
    run("systemd", "install", "--dest", tmp_path, URL, "/mnt/a_b")
    status, _, err = run("systemd", "install", "--dest", tmp_path, URL, "/mnt/a b")
    assert status == 2
    assert "not for /mnt/a b" in err
    assert run("systemd", "remove", "--dest", tmp_path, "/mnt/a b")[0] == 2


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("plain-1.0/x", "plain-1.0/x"),
        ("a b", '"a b"'),
        ("50%", "50%%"),
        ("$HOME", "$$HOME"),
        ('say "x"\\', '"say \\"x\\"\\\\"'),
        ("a;b", '"a;b"'),
        ("", '""'),
    ],
)
def test_words_reach_systemd_as_they_are(word, text):
    assert units.quoted(word) == text


def test_a_text_that_no_unit_can_hold_is_refused():
    with pytest.raises(SettingsError, match="unit file"):
        units.quoted("a\nExecStart=b")


def test_a_credential_of_the_manager_is_read_whatever_its_mode(tmp_path, monkeypatch):
    """An access list for User= shows in the mode as rights of the group."""
    config = tmp_path / "xnatfs.json"
    config.write_text('{"server": "https://host", "user": "me", "password": "s3cret"}')
    config.chmod(0o440)
    with pytest.raises(SettingsError, match="open to others"):
        settings.read_config(config)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert settings.read_config(config).offer.password == credentials.Secret("s3cret")


def test_a_password_may_be_a_credential_of_the_manager(tmp_path):
    (tmp_path / "xnatfs.password").write_text("s3cret\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "XNAT_USER": "me"}
    found = settings.load({"server": URL}, environ)
    assert (found.user.value, found.password.value) == ("me", credentials.Secret("s3cret"))
    assert found.password.origin == "credential xnatfs.password"
    assert settings.load({"server": URL}, {**environ, "XNAT_PASS": "other"}).password.value.reveal() == "other"


# -- completion ------------------------------------------------------------------------------------------------------

PATHS = {"xnatfs ls P": {"P/"}, "xnatfs ls P/S/E/1": {"P/S/E/1/"}}
LINES = {"bash": {**PATHS, "xnatfs com": {"completion"}, "xnatfs cat X/": set()}, "zsh": PATHS, "fish": PATHS}

ASK = {
    "bash": r"""
        source "$1"; compopt() { :; }
        read -ra COMP_WORDS <<< "$2"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
        _xnatfs_completion xnatfs
        for word in "${COMPREPLY[@]}"; do echo "$word"; done
    """,
    "zsh": r"""
        compdef() { :; }; _describe() { print -l ${${(P)3}%%:*}; }
        compadd() { print -l ${(P)${@[-1]}}; }; source $1
        words=(${=2}); CURRENT=$#words; _xnatfs_completion
    """,
    "fish": r"""source $argv[1]; complete -C "$argv[2]" | string split -f1 \t""",
}


def completed(shell, line, tmp_path, variables):
    script = tmp_path / f"completion.{shell}"
    words = [f"{tmp_path}/ask.{shell}", script, line]
    Path(words[0]).write_text(ASK[shell])
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), *words], env=variables, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_shells_complete_commands_and_paths_of_the_archive(tmp_path):
    """Of a mount of it, without a login; else with the login that is saved; nothing where that fails."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    program = bin_directory / "xnatfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m xnatfs "$@"\n')
    program.chmod(0o755)
    with DemoServer(one_session(scans=1, files=1)) as server:
        base = environment(tmp_path / "home", XNAT_HOST=server.url)
        base["PATH"] = f"{bin_directory}:{base['PATH']}"
        with mounted(server.url, tmp_path / "mount", tmp_path):
            for shell in ASK:
                assert shutil.which(shell), f"{shell} is missing: scripts/setup test"
                (tmp_path / f"completion.{shell}").write_text(cli_complete.script(shell, cli.cli))
                for line, names in LINES[shell].items():
                    # whoever gets nothing within two seconds, on a busy machine, presses the key once more
                    found = completed(shell, line, tmp_path, base) or completed(shell, line, tmp_path, base)
                    assert found == names, (shell, line)
        assert completed("bash", "xnatfs ls P/", tmp_path, base) == set()
        known = {**base, "XNAT_USER": "admin", "XNAT_PASS": "admin"}
        assert completed("bash", "xnatfs ls P/", tmp_path, known) == {"P/S/", "P/resources/"}
        wrong = {**base, "XNAT_USER": "joe", "XNAT_PASS": "wrong"}
        server.reset_log()
        for _ in range(2):
            assert completed("bash", "xnatfs ls P/", tmp_path, wrong) == set()
        assert server.count("/data/JSESSION") == 1  # not once for every key: sites lock accounts


def test_all_texts_of_options_are_words_of_their_own():
    """So that -o a,b,c=d is one list: only -o itself may be given more than once."""
    assert [option.flag for option in OPTIONS if option.parse is parse_texts] == ["-o"]
