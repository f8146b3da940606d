"""mount(8), fstab, umount, fusermount and a service manager, for real: what the kernel shows, and a clean end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.faces import environment, in_mounts, mounted, until
from support.studies import one_session

from xnatfs import fuse_mount
from xnatfs.demo import DemoServer
from xnatfs.system import install

pytestmark = pytest.mark.mount

for_root = pytest.mark.skipif(os.geteuid() != 0, reason="puts files into /sbin and mounts by mount(8)")


@pytest.fixture(scope="module")
def server():
    with DemoServer(one_session(scans=1, files=1)) as server:
        yield server


@pytest.fixture(scope="module")
def helpers():
    """The helpers where mount(8) looks for them; what was there is there again afterwards."""
    paths = [Path("/", name) for name in install.HELPERS]
    before = {path: path.read_bytes() for path in paths if path.exists()}
    for path in before:
        path.unlink()
    try:
        list(install.install(Path("/"), {}))
        yield
    finally:
        list(install.remove(Path("/"), {}))
        for path, content in before.items():
            path.write_bytes(content)
            path.chmod(0o755)


@pytest.fixture
def config(server, tmp_path):
    """A config file with the login, and with its cache and log below ``tmp_path``."""
    server.reset_log()
    path = tmp_path / "config.json"
    login = {"server": server.url, "user": "admin", "password": "admin"}
    path.write_text(
        json.dumps({**login, "cache_dir": str(tmp_path / "cache"), "log_file": str(tmp_path / "mount.log")})
    )
    path.chmod(0o600)
    return path


@pytest.fixture
def point(tmp_path):
    path = tmp_path / "point"
    path.mkdir()
    return path


@pytest.fixture
def call(tmp_path):
    """Run a command as a person with an empty home, which mount(8) does not see."""

    def call(*words, directory=None):
        return subprocess.run(
            [str(word) for word in words],
            cwd=directory,
            env=environment(tmp_path / "home"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


@pytest.fixture
def works(call):
    """The same for what goes well without a remark: its output."""

    def works(*words):
        done = call(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    return works


def serving(point):
    """Process ids of whoever serves ``point``, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(point) in words and any(b"xnatfs" in word for word in words):
            found.append(int(process.name))
    return found


def ended(point, server):
    """The mount is gone, and so are the process behind it and its session on the server."""
    assert not in_mounts(point)
    until(lambda: not serving(point))
    assert server.count("/data/JSESSION", "DELETE") == 1


def shown(point):
    found = fuse_mount.find(point)
    return found.fstype, found.source, set(found.options)


@for_root
def test_a_line_of_fstab(call, works, server, helpers, config, point, tmp_path):
    """As 'user' may mount it; the flags are those that mount(8) makes of that word."""
    words = f"noauto,user,_netdev,x-systemd.automount,config={config},ttl=5,uid=1234,gid=4321,umask=027,allow_other"
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{server.url} {point} xnatfs {words} 0 0\n")
    assert "0 parse errors, 0 errors" in call("findmnt", "--verify", "--tab-file", fstab).stderr
    done = call("mount", "-T", fstab, point)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "other users of this machine" in done.stderr
    kind, source, options = shown(point)
    assert (kind, source) == ("fuse.xnatfs", server.url)
    assert {"ro", "noexec", "nosuid", "nodev", "allow_other", "default_permissions"} <= options
    found = (point / "P").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 4321, 0o550)
    other = ["setpriv", "--reuid=65534", "--clear-groups"]  # starts in the mount, since it may not pass tmp_path
    assert call(*other, "--regid=4321", "ls", directory=point).stdout == "P\n"
    assert "Permission denied" in call(*other, "--regid=65534", "ls", directory=point).stderr
    works("umount", point)
    ended(point, server)


@for_root
def test_the_type_of_fuse_and_its_names(works, server, helpers, config, point, tmp_path):
    """-v says where the log is, as the command itself does."""
    said = works("mount", "-v", "-t", "fuse.xnatfs", "none", point, "-o", f"rw,fsname=a,subtype=b,config={config}")
    assert f"is mounted on {point}; log: {tmp_path / 'mount.log'}" in said
    kind, source, options = shown(point)
    assert (kind, source) == ("fuse.b", "a")
    assert "ro" in options
    assert {"nosuid", "nodev"} <= options
    assert not {"noexec", "allow_other"} & options
    assert (point / "P").stat().st_mode & 0o777 == 0o555
    works("fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", point)
    ended(point, server)


def test_mount_fuse_calls_the_command_itself(works, server, config, point):
    """As fuse3's mount.fuse was seen to: SOURCE DIR -o OPTIONS, with dev and suid added for root."""
    words = "exec" if os.geteuid() else "dev,suid"
    works(sys.executable, "-m", "xnatfs", server.url, point, "-o", f"rw,config={config},{words}")
    kind, _, options = shown(point)
    assert kind == "fuse.xnatfs"
    assert ({"nosuid", "nodev"} <= options) == (words == "exec")
    works(sys.executable, "-m", "xnatfs", "umount", point)
    ended(point, server)


@for_root
@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("bogus", 1, "-o bogus: unknown mount option"),
        ("guest,config=/no/such", 1, "/no/such"),
        ("username=joe", 32, "no password for user joe"),
    ],
)
def test_errors_reach_who_mounts(call, server, helpers, point, options, status, said):
    done = call("mount", "-t", "xnatfs", server.url, point, "-o", options)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_auto_unmount_unmounts_when_the_process_is_killed(server, tmp_path):
    with mounted(server.url, tmp_path / "mount", tmp_path, "-o", "auto_unmount") as face:
        face.kill()
        until(lambda: not in_mounts(face.root))


def test_a_service_manager_is_told_of_the_beginning_and_the_end(server, config, point, tmp_path):
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        words = [sys.executable, "-m", "xnatfs", "mount", "--foreground", "--quiet", "--config", config, point]
        variables = environment(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"))
        with subprocess.Popen(words, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                told = manager.recv(4096).decode()
                assert told.splitlines()[0] == "READY=1"
                assert f"is mounted on {point}" in told
                assert os.listdir(point) == ["P"]
                process.terminate()
                assert manager.recv(4096) == b"STOPPING=1\n"
                assert process.wait(60) == 0
            finally:
                process.kill()
    ended(point, server)


def test_a_manager_that_cannot_be_reached_is_no_error(tmp_path, monkeypatch):
    from xnatfs.system.notify import notify

    for address in ("", "relative", str(tmp_path / "nobody"), "@xnatfs nobody"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify(READY="1")
