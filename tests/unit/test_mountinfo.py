"""Mount options, the table of mounts, mountpoints: what needs no FUSE."""

from __future__ import annotations

import os

import pytest

from xnatfs import fuse_mount
from xnatfs.errors import FuseMissing, MountpointError, SettingsError
from xnatfs.fuse_mount import MountEntry, MountOptions, parse_mountinfo, parse_options

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 22 0:33 / /mnt/a\040blank\134and\011tab ro,nodev,relatime shared:5 master:2 - fuse.xnatfs https://x ro,user_id=0
37 22 0:34 / /mnt/none rw - tmpfs none rw
not a line
"""


def test_mountinfo_is_parsed_with_its_escapes():
    root, ours, plain = parse_mountinfo(MOUNTINFO)
    assert root == MountEntry("/", "/dev/vda", "ext4", ("rw", "relatime", "rw"), "254:0")
    assert (ours.mountpoint, ours.source, ours.device) == ("/mnt/a blank\\and\ttab", "https://x", "0:33")
    assert ours.ours
    assert "user_id=0" in ours.options
    assert not plain.ours


def test_the_real_table_has_a_root():
    assert "/" in {entry.mountpoint for entry in fuse_mount.mounts()}
    assert fuse_mount.is_mounted("/proc")
    assert not fuse_mount.is_dead("/proc")


class TestOptions:
    def test_what_people_bring_is_accepted(self):
        texts = ["allow_other,uid=1000,gid=100,umask=027", "ro,noauto,user,_netdev,x-systemd.automount,noatime,nofail"]
        options = parse_options(texts)
        assert (options.allow_other, options.uid, options.gid, options.umask) == (True, 1000, 100, 0o027)

    def test_names_are_users_and_groups(self):
        assert parse_options("uid=root,gid=root") == MountOptions(uid=0, gid=0)

    def test_the_later_wins_and_what_is_not_said_comes_from_the_base(self):
        options = parse_options("ttl=5,noexec,exec,suid", MountOptions(ttl=1, allow_root=True))
        assert (options.ttl, options.noexec, options.nosuid, options.allow_root) == (5.0, False, False, True)

    def test_a_comma_in_a_value(self):
        assert parse_options(r"fsname=a\,b").fsname == "a,b"
        assert parse_options(r"fsname=a\,b").kernel_options()["fsname"] == r"a\,b"

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("nonsense", "nonsense"),
            ("password=x", "password"),
            ("rw", "read-only"),
            ("uid=", "uid"),
            ("uid=nobody-of-that-name", "uid"),
            ("umask=9", "umask"),
            ("umask=7777", "umask"),
            ("ttl=soon", "ttl"),
            ("ttl=-1", "ttl"),
            ("ttl=nan", "ttl"),
            ("threads=0", "threads"),
            ("allow_other=yes", "allow_other"),
        ],
    )
    def test_nonsense_is_named(self, text, named):
        with pytest.raises(SettingsError, match=named):
            parse_options(text)

    def test_kernel_options(self):
        options = MountOptions(ttl=60, negative_ttl=100).kernel_options()
        assert options["ro"] is True
        assert options["use_ino"] is True
        assert options["attr_timeout"] == options["entry_timeout"] == "15"
        assert options["negative_timeout"] == "15"
        assert MountOptions().kernel_options()["negative_timeout"] == "5"
        assert (options["max_background"], options["congestion_threshold"]) == ("200", "150")
        assert not {"uid", "gid", "umask"} & set(options), "libfuse would make files writable with its umask"


class TestMountpoint:
    def test_a_good_one(self, tmp_path):
        (tmp_path / "link").symlink_to("dir")
        (tmp_path / "dir").mkdir()
        assert fuse_mount.check_mountpoint(tmp_path / "link") == str((tmp_path / "dir").resolve())

    def test_what_is_wrong_is_said(self, tmp_path):
        (tmp_path / "file").touch()
        for path, why in (
            (tmp_path / "missing", "no such directory"),
            (tmp_path / "file", "not a directory"),
            (tmp_path, "not empty"),
        ):
            with pytest.raises(MountpointError, match=why) as caught:
                fuse_mount.check_mountpoint(path)
            assert str(path) in str(caught.value)
        fuse_mount.check_mountpoint(tmp_path, nonempty=True)

    def test_unmounting_what_is_not_mounted(self, tmp_path):
        with pytest.raises(MountpointError, match="not mounted"):
            fuse_mount.unmount(tmp_path)


class TestRights:
    def test_no_fuse_device(self, monkeypatch):
        real = os.path.exists
        monkeypatch.setattr(fuse_mount.Path, "exists", lambda path: str(path) != "/dev/fuse" and real(path))
        with pytest.raises(FuseMissing, match="apt-get install fuse3 libfuse2"):
            fuse_mount.check_rights(MountOptions())

    def test_allow_other_needs_a_line_in_fuse_conf(self, monkeypatch, tmp_path):
        monkeypatch.setattr(fuse_mount.os, "geteuid", lambda: 1000)
        conf = tmp_path / "fuse.conf"
        conf.write_text("#user_allow_other\n")
        with pytest.raises(SettingsError, match="user_allow_other"):
            fuse_mount.check_rights(MountOptions(allow_other=True), fuse_conf=conf)
        conf.write_text("mount_max = 10\nuser_allow_other\n")
        fuse_mount.check_rights(MountOptions(allow_other=True), fuse_conf=conf)
        fuse_mount.check_rights(MountOptions())

    def test_no_fusermount(self, monkeypatch):
        monkeypatch.setattr(fuse_mount.os, "geteuid", lambda: 1000)
        monkeypatch.setattr(fuse_mount.shutil, "which", lambda _name: None)
        with pytest.raises(FuseMissing, match="fusermount"):
            fuse_mount.check_rights(MountOptions())


def test_libfuse_missing_is_explained(tmp_path):
    """In a process of its own: an import happens once."""
    import subprocess
    import sys

    code = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from xnatfs import errors, fuse_loop\n"
        "try: fuse_loop.load()\n"
        "except errors.FuseMissing as problem: print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libfuse2 cannot be loaded (Unable to find libfuse). Remedy: apt-get install fuse3 libfuse2" in done.stdout
