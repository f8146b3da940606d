"""What commands cost in requests. Counts are exact, so they may be asserted."""

from __future__ import annotations

import os
import subprocess

import pandas
import pytest
from support.faces import mounted
from support.studies import SESSION, one_session

from xnatfs.demo import Archive, DemoServer, bulk_project

pytestmark = pytest.mark.mount


@pytest.fixture
def server():
    with DemoServer(one_session()) as found:
        yield found


@pytest.fixture
def mnt(server, tmp_path):
    with mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        server.reset_log()
        yield face.root


def asked(server):
    return [f"{r.method} {r.path}?{r.query}" for r in server.requests]


def sh(command, cwd):
    done = subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mounting_asks_for_login_identity_and_projects(server, tmp_path):
    with mounted(server.url, tmp_path / "mnt", tmp_path):
        assert len(asked(server)) <= 3
        assert sum("/projects" in line for line in asked(server)) == 1
    assert asked(server)[-1].startswith("DELETE ")


def test_the_root_costs_nothing_after_mounting(server, mnt):
    assert sh("ls", mnt) == "P\n"
    assert asked(server) == []


def test_a_project_costs_two_and_its_subjects_nothing_more(server, mnt):
    sh("ls -l P", mnt)
    assert len(asked(server)) == 2
    sh("ls -l P/S P/S/resources", mnt)
    assert len(asked(server)) == 2


def test_find_over_a_session_of_4000_files_costs_three_and_no_data(server, mnt):
    session = server.archive.find("E")
    server.archive.add_assessor(session, "without-resources")
    server.archive.add_scan(session, "without-resources")
    sh("ls P/S", mnt)
    server.reset_log()
    found = sh("find . -type f", f"{mnt}{SESSION}").splitlines()
    assert len(found) == 4000
    assert len(asked(server)) == 3, asked(server)
    assert sh("ls -d without-resources assessors/without-resources", f"{mnt}{SESSION}")
    assert len(asked(server)) == 3, asked(server)
    assert not any("/files/" in line for line in asked(server))
    server.reset_log()
    assert sh("find . -type f", f"{mnt}{SESSION}").splitlines() == found
    assert asked(server) == []


def test_sizes_and_attributes_cost_nothing_beyond_the_listing(server, mnt):
    sh("find . -type f", f"{mnt}{SESSION}")
    server.reset_log()
    sh("ls -lR . && du -s . && getfattr -d -R .", f"{mnt}{SESSION}")
    assert asked(server) == []


def test_a_thousand_stats_in_a_cold_directory_make_one_listing(server, mnt):
    from concurrent.futures import ThreadPoolExecutor

    path = f"{mnt}{SESSION}/1/DICOM"
    os.listdir(f"{mnt}{SESSION}/1")
    server.reset_log()
    with ThreadPoolExecutor(32) as pool:
        sizes = list(pool.map(lambda i: os.stat(f"{path}/dicom_{i % 200:04d}.bin").st_size, range(1000)))
    assert set(sizes) == {2048}
    assert len(asked(server)) == 1


def test_a_resource_that_is_gone_to_directly_costs_two(server, mnt):
    sh("ls P/S", mnt)
    server.reset_log()
    assert len(sh("ls -l 7/DICOM", f"{mnt}{SESSION}").splitlines()) == 201
    assert len(asked(server)) == 2, asked(server)
    assert sh("getfattr --only-values -n user.xnat.series_description 7", f"{mnt}{SESSION}") == "t1"
    assert len(asked(server)) == 3, asked(server)


def test_copying_a_resource_costs_a_few_requests_and_a_second_copy_none(server, mnt, tmp_path):
    sh("find . -type f", f"{mnt}{SESSION}")
    server.reset_log()
    sh(f"cp -r 3/DICOM {tmp_path}/one", f"{mnt}{SESSION}")
    assert len(asked(server)) <= 3, asked(server)
    assert sum("format=zip" in line for line in asked(server)) == 1
    server.reset_log()
    sh(f"cp -r 3/DICOM {tmp_path}/two && diff -r {tmp_path}/one {tmp_path}/two", f"{mnt}{SESSION}")
    assert asked(server) == []


def test_listing_a_series_and_reading_one_header_of_it_fetches_no_more(tmp_path):
    with (
        DemoServer(one_session(1, ("DICOM",), 8, 300_000)) as server,
        mounted(server.url, tmp_path / "mnt", tmp_path) as face,
    ):
        series = f"{face.root}{SESSION}/1/DICOM"
        first = sorted(os.listdir(series))[0]
        server.reset_log()
        with open(f"{series}/{first}", "rb") as file:
            file.read(100)
        assert len(asked(server)) == 1
        assert "format=zip" not in asked(server)[0]


def test_names_that_shells_and_desktops_probe_for_cost_nothing(server, mnt):
    for name in (".Trash", ".Trash-0", "autorun.inf", ".hidden", ".xdg-volume-info", ".git", "._P"):
        assert not os.path.exists(f"{mnt}/P/{name}")
        assert not os.path.exists(f"{mnt}/{name}")
    assert asked(server) == []


def test_an_absent_name_costs_nothing_once_its_directory_is_known(server, mnt):
    sh("ls P", mnt)
    server.reset_log()
    assert not os.path.exists(f"{mnt}/P/nobody")
    assert asked(server) == []


def test_open_and_close_fetch_nothing(server, mnt):
    folder = f"{mnt}{SESSION}/1/DICOM"
    for name in os.listdir(folder)[:5]:
        descriptor = os.open(f"{folder}/{name}", os.O_RDONLY)
        assert os.fstat(descriptor).st_size == 2048
        os.close(descriptor)
    assert not any("/files/" in line or "format=zip" in line for line in asked(server))


def test_many_readers_of_one_file_cause_one_download(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from support.studies import ONE_FILE, one_file

    archive, data = one_file(8 * 2**20)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        with ThreadPoolExecutor(16) as pool:
            assert all(got == data for got in pool.map(lambda _: face.read(ONE_FILE), range(16)))
        sent = sum(r.bytes_sent for r in server.requests if "/files/" in r.path)
        assert sent <= 1.1 * len(data)


def test_a_session_costs_two_and_its_scans_nothing_more(server, mnt):
    sh("ls P/S", mnt)
    server.reset_log()
    sh("ls -l .", f"{mnt}{SESSION}")
    assert len(asked(server)) == 2
    sh("ls -l 1 2 3 resources", f"{mnt}{SESSION}")
    assert len(asked(server)) == 2
    sh("ls 1/DICOM", f"{mnt}{SESSION}")
    assert len(asked(server)) == 3
    sh("ls -l [0-9]*/DICOM [0-9]*/NIFTI", f"{mnt}{SESSION}")
    assert len(asked(server)) == 3


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    archive = Archive()
    bulk_project(archive, sessions=40, scans=2, resources=2, files=5)
    base = tmp_path_factory.mktemp("many")
    with DemoServer(archive) as server:
        yield server, base


@pytest.fixture
def project(many, tmp_path):
    server, _ = many
    with mounted(server.url, tmp_path / "mnt", tmp_path, "--ttl", "600") as face:
        server.reset_log()
        yield server, f"{face.root}/MANY"


def test_find_over_a_project_asks_for_many_sessions_at_once(project):
    server, path = project
    assert sh("find . -type f | wc -l", path).strip() == "800"
    assert len(asked(server)) <= 24, asked(server)
    server.reset_log()
    assert sh("find . -type f | wc -l", path).strip() == "800"
    assert asked(server) == []


def test_looking_into_every_session_asks_for_no_files(project):
    server, path = project
    sh("ls -d */*/*", path)
    assert len(asked(server)) <= 12, asked(server)
    assert not any("/files" in line for line in asked(server))


def test_the_table_of_a_project_costs_what_its_listing_does(project):
    server, path = project
    table = pandas.read_csv(f"{path}/.xnat/children.csv")
    assert len(asked(server)) == 2
    assert len(table) == 40
    assert set(table["entry"]) == {name for name in os.listdir(path) if name != "resources"}


def test_tables_of_sessions_and_scans_are_read_by_pandas(server, mnt):
    scans = pandas.read_csv(f"{mnt}{SESSION}/.xnat/children.csv", dtype=str).set_index("entry")
    assert list(scans.loc["3", ["id", "type", "series_description"]]) == ["3", "T1", "t1"]
    assert {"quality", "frames", "note", "xsi_type"} <= set(scans.columns)
    files = pandas.read_csv(f"{mnt}{SESSION}/1/DICOM/.xnat/children.csv")
    assert files["size"].sum() == 200 * 2048


def test_completing_a_name_costs_what_a_listing_does(project):
    server, path = project
    assert sh(f"bash -c 'compgen -f {path}/s0000'", "/").splitlines()
    assert len(asked(server)) == 2


def test_a_file_manager_costs_what_a_listing_does(project):
    server, path = project
    for probe in (".directory", ".hidden", ".xdg-volume-info", "autorun.inf", ".Trash-0", "._.", "desktop.ini"):
        assert not os.path.exists(f"{path}/{probe}")
    for name in os.listdir(path):
        os.stat(f"{path}/{name}")
        os.listxattr(f"{path}/{name}")
        os.access(f"{path}/{name}", os.R_OK | os.X_OK)
    assert len(asked(server)) == 2
