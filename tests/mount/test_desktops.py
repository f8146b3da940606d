"""What file managers cost: the calls that they make on a folder, played, and what the server is then asked for.

`scripts/screenshots` runs the real ones; `xnatfs docs desktops` has what that showed.
"""

from __future__ import annotations

import os
import random

import pytest
from support.desktops import FOLDERS, KIB, Cost, cost, opened_by_pcmanfm, opened_by_thunar, probe
from support.faces import mounted

from xnatfs.demo import DemoServer, bulk_resource, synthetic_archive
from xnatfs.demo.archive import Archive

pytestmark = pytest.mark.mount

MANAGERS = {"thunar": opened_by_thunar, "pcmanfm": opened_by_pcmanfm}
HEAD = 256 * KIB
"""Bytes that looking at the beginning of a file may cost."""
LISTINGS = {"root": 0, "project": 2, "session": 2, "dicom": 1, "nifti": 0, "snapshots": 0}
"""Requests for opening these one after the other, the root first."""
SMALL, LARGE, PICTURE = 100 * KIB, 1200 * KIB, 3000 * KIB
FILES = {"SMALL": 60, "LARGE": 30, "PICTURES": 3}


def add_folders(archive: Archive, label: str) -> None:
    """A session with what is hard on a file manager, for one test: bytes that were read once cost nothing again."""
    home = archive.projects.get("HARD") or archive.add_project("HARD")
    scan = archive.add_scan(archive.add_session(archive.add_subject(home, label), label), "1")
    for name, size in (("SMALL", SMALL), ("LARGE", LARGE), ("PICTURES", PICTURE)):
        bulk_resource(archive, scan, name, files=FILES[name], size=size, first=1000 * len(archive.subjects))


@pytest.fixture(scope="module")
def server():
    archive = synthetic_archive(odd=False)
    for label in (*MANAGERS, "shuffled", "pictures"):
        add_folders(archive, label)
    with DemoServer(archive) as found:
        yield found


@pytest.fixture(scope="module")
def mnt(server, tmp_path_factory):
    base = tmp_path_factory.mktemp("desktops")
    with mounted(server.url, base / "mnt", base) as face:
        yield str(face.root)


def hard(mnt, label, resource):
    """A folder of such a session, and the names of its files."""
    folder = f"{mnt}/HARD/{label}/{label}/1/{resource}"
    return folder, sorted(os.listdir(folder))


@pytest.mark.parametrize("manager", MANAGERS)
def test_opening_folders_costs_their_listings_and_no_content(server, tmp_path, manager):
    with mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        for name, listings in LISTINGS.items():
            server.reset_log()
            MANAGERS[manager](f"{face.root}/{FOLDERS[name]}", ())
            assert cost(server) == Cost(listings, 0, 0), name


def test_what_desktops_probe_for_costs_nothing_once_a_folder_is_known(server, mnt):
    folders = [f"{mnt}/{FOLDERS[name]}" for name in LISTINGS]
    for folder in folders:
        os.listdir(folder)
    server.reset_log()
    for folder in folders:
        probe(folder)
    assert cost(server) == Cost(0, 0, 0)


@pytest.mark.parametrize("manager", MANAGERS)
def test_looking_at_the_beginning_of_each_small_file_costs_one_archive_at_most(server, mnt, manager):
    folder, names = hard(mnt, manager, "SMALL")
    server.reset_log()
    MANAGERS[manager](folder, names)
    found = cost(server)
    assert 0 < found.received <= FILES["SMALL"] * HEAD
    assert found.contents < FILES["SMALL"] / 2  # one archive, and what it would not have brought soon


@pytest.mark.parametrize("manager", MANAGERS)
def test_looking_at_the_beginning_of_each_large_file_costs_so_much_a_file(server, mnt, manager):
    folder, names = hard(mnt, manager, "LARGE")
    server.reset_log()
    MANAGERS[manager](folder, names)
    found = cost(server)
    assert 0 < found.received <= FILES["LARGE"] * HEAD
    assert found.contents == FILES["LARGE"]


def test_looking_in_any_order_costs_an_archive_and_the_beginning_of_each_file_at_most(server, mnt):
    folder, names = hard(mnt, "shuffled", "SMALL")
    random.Random(7).shuffle(names)
    server.reset_log()
    opened_by_thunar(folder, names)
    found = cost(server)
    assert sum("format=zip" in one.query for one in server.requests) <= 1
    assert found.received <= FILES["SMALL"] * (SMALL + HEAD) + 64 * KIB


def test_thumbnails_cost_each_picture_once(server, mnt):
    """Two programs read each picture, as Thunar's thumbnailer does; the second finds it in the cache."""
    folder, names = hard(mnt, "pictures", "PICTURES")
    server.reset_log()
    for _ in range(2):
        for name in names:
            with open(f"{folder}/{name}", "rb") as picture:
                while picture.read(64 * KIB):
                    pass
    whole = FILES["PICTURES"] * PICTURE
    assert whole <= cost(server).received < whole + PICTURE  # a read-ahead that comes late begins a download of its own
