"""What a PATH means: below a mount that place, else a place of the archive."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from xnatfs import daemon, fuse_mount, places
from xnatfs.errors import NotFound, SettingsError


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """Two mounts, of which one says who uses it; and a link to it."""
    points = [tmp_path / "mnt", tmp_path / "other"]
    for point in points:
        (point / "P/S").mkdir(parents=True)
    (tmp_path / "link").symlink_to(points[0])
    entries = [SimpleNamespace(mountpoint=str(point), source=f"https://{point.name}", ours=True) for point in points]
    foreign = SimpleNamespace(mountpoint="/", source="/dev/sda1", ours=False)
    facts = {"server": "https://host/xnat", "user": "ada", "cache_dir": "/cache"}
    monkeypatch.setattr(fuse_mount, "mounts", lambda: [foreign, *entries])
    monkeypatch.setattr(daemon, "recorded_facts", lambda point: facts if point == points[0] else None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["{}/mnt/P/S", "mnt/P/S/", "./mnt//P/./S", "link/P/S", "{}/link/P/S"])
def test_a_path_below_a_mount_is_that_place_of_its_archive(mounts, path):
    found = places.resolve([path.format(mounts)])
    assert found == places.Places(
        ("/P/S",), f"{mounts}/mnt", server="https://host/xnat", user="ada", cache_dir="/cache"
    )


def test_inside_a_mount_a_path_is_as_the_shell_sees_it(mounts, monkeypatch):
    monkeypatch.chdir(mounts / "mnt/P")
    assert places.resolve(["S", "../Q", "."]).paths == ("/P/S", "/Q", "/P")


@pytest.mark.parametrize("path", ["P/S", "/P/S/", "mnt2/P", "otherP/S", "."])
def test_any_other_path_is_one_of_the_archive(mounts, path):
    found = places.resolve([path])
    assert found.mount == found.server == ""
    assert found.paths == ("/" + path.strip("/").removeprefix("."),)


def test_a_mount_that_recorded_nothing_is_known_by_its_source(mounts):
    assert places.resolve(["other/P"]).server == "https://other"


def test_paths_of_two_archives_are_refused(mounts):
    for paths in (["mnt/P", "other/P"], ["mnt/P", "P"]):
        with pytest.raises(SettingsError, match="one archive"):
            places.resolve(paths)


def test_nothing_below_the_mountpoint_is_touched(mounts, monkeypatch):
    def refuse(path, *_args, **_kwargs):
        assert not os.fspath(path).startswith(f"{mounts}/mnt/"), path
        return real(path)

    real = os.lstat
    monkeypatch.setattr(os, "lstat", refuse)
    assert places.resolve(["mnt/P/S/E"]).paths == ("/P/S/E",)


def test_a_mount_of_another_layout_is_asked_which_place_it_is(mounts, monkeypatch):
    facts = {"server": "https://host", "layout": "archive"}
    asked = {f"{mounts}/mnt/P/arc001/E": b"/P/S/E"}

    def getxattr(path, name):
        if path not in asked:
            raise FileNotFoundError(2, "No such file or directory")
        return asked[path]

    monkeypatch.setattr(daemon, "recorded_facts", lambda _: facts)
    monkeypatch.setattr(os, "getxattr", getxattr)
    assert places.resolve(["mnt/P/arc001/E/"]).paths == ("/P/S/E",)
    with pytest.raises(NotFound, match="no such file"):
        places.resolve(["mnt/P/arc001/F"])
    asked.clear()
    monkeypatch.setattr(os, "getxattr", lambda *_: 1 / 0)
    facts["layout"] = "plain"
    assert places.resolve(["mnt/P/arc001/F"]).paths == ("/P/arc001/F",)
