"""Copies, warm caches and pins, over HTTP against the demo server: what arrives, what it costs, what is missing."""

from __future__ import annotations

import hashlib
import os
import random
from types import SimpleNamespace

import pytest
from support import truth
from support.moving import archive, contents, get, md5s, pin, warm
from support.studies import one_session

from xnatfs import moving
from xnatfs.cache.kept import KeptListings
from xnatfs.deadlines import Deadline
from xnatfs.demo import Archive, DemoServer, Rule, synthetic_archive
from xnatfs.errors import CacheFault, InvalidRequest, NotFound, SettingsError, Unreachable
from xnatfs.offline import KeptArchive
from xnatfs.progress import Progress

FILES, SCANS = 40, 3


@pytest.fixture(scope="module")
def demo():
    with DemoServer(synthetic_archive()) as server:
        yield server


@pytest.fixture(scope="module")
def study():
    """Three scans with one resource of 40 files, half of them in folders."""
    model = one_session(scans=SCANS, resources=("DICOM",), files=FILES, size=5000, folders=True)
    with DemoServer(model) as server:
        yield server, {path: truth.md5(truth.content(file)) for path, file in truth.tree(model, "P").items()}


@pytest.fixture
def site(study):
    server, expected = study
    server.faults.clear()
    server.reset_log()
    yield server, expected
    server.faults.clear()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def to(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("project", ["DEMO", "ODD", "SHARED"])
def test_a_copy_of_a_project_is_what_the_mount_shows(demo, cache, to, project):
    outcome = get(demo.url, cache, to, project)
    expected = truth.tree(demo.archive, project)
    lost = {path for path in expected if path.endswith("/gone.txt")}  # listed, and not on the server's disk
    whole = {path: truth.md5(truth.content(file)) for path, file in expected.items() if path not in lost}
    assert {problem.path for problem in outcome.problems} == lost
    assert md5s(to) == whole
    assert outcome.fetched == len(whole)
    with archive(demo.url, cache) as app:
        path = next(iter(whole))
        assert (to / path[1:]).stat().st_mtime_ns == app.vfs.getattr(path).mtime_ns


def test_a_whole_resource_comes_as_one_archive_and_no_request_for_a_file(site, cache, to):
    server, expected = site
    outcome = get(server.url, cache, to, "P/S/E")
    assert md5s(to) == expected
    assert contents(server) == (SCANS, 0)
    assert (outcome.fetched, outcome.present, outcome.problems) == (SCANS * FILES, 0, [])
    assert outcome.fetched_bytes == sum((to / path[1:]).stat().st_size for path in expected)


def test_without_archives_every_file_is_asked_for_once(site, cache, to):
    server, expected = site
    get(server.url, cache, to, "P", series=False, jobs=3)
    assert md5s(to) == expected
    assert contents(server) == (0, SCANS * FILES)


def test_a_second_copy_asks_for_no_content(site, cache, to):
    server, _ = site
    get(server.url, cache, to, "P")
    server.reset_log()
    outcome = get(server.url, cache, to, "P")
    assert contents(server) == (0, 0)
    assert (outcome.fetched, outcome.present) == (0, SCANS * FILES)


def test_only_what_is_missing_or_wrong_is_fetched_again(site, cache, to):
    server, expected = site
    get(server.url, cache, to, "P")
    gone, cut, changed = (to / path[1:] for path in list(expected)[:3])
    gone.unlink()
    os.truncate(cut, 100)
    data = bytearray(changed.read_bytes())
    data[7] ^= 1
    changed.write_bytes(data)
    server.reset_log()
    outcome = get(server.url, cache, to, "P")
    assert md5s(to) == expected
    assert (outcome.fetched, outcome.present) == (3, SCANS * FILES - 3)
    assert contents(server) == (0, 3)


def test_an_archive_that_breaks_off_leaves_whole_files_only_and_the_rest_comes_singly(site, cache, to):
    server, expected = site
    for _ in range(4):
        server.faults.add(Rule("cut", query="format=zip", at=150_000, count=1))
    outcome = get(server.url, cache, to, "P/S/E/1")
    assert not outcome.problems
    assert md5s(to) == {path: digest for path, digest in expected.items() if path.startswith("/P/S/E/1/")}
    zips, singles = contents(server)
    assert zips == 1
    assert 0 < singles < FILES


def test_what_stays_damaged_is_missing_and_the_rest_is_there(site, cache, to):
    server, expected = site
    bad = next(path for path in expected if path.startswith("/P/S/E/1/"))
    server.faults.add(Rule("change", path=f"{bad.rpartition('/')[2]}$", count=None))
    outcome = get(server.url, cache, to, "P/S/E/1", series=False)
    assert [problem.path for problem in outcome.problems] == [bad]
    assert "digest" in str(outcome.problems[0].error)
    assert bad not in md5s(to)
    assert len(md5s(to)) == FILES - 1  # and no leftovers


def test_a_part_that_cannot_be_listed_is_missing_and_the_rest_is_there(site, cache, to):
    server, expected = site
    server.faults.add(Rule("status", path="/projects/P/resources", status=403, count=None))
    outcome = get(server.url, cache, to, "P")
    assert [problem.path for problem in outcome.problems] == ["/P/resources"]
    assert md5s(to) == expected


def test_one_file_a_folder_and_a_scan_by_its_other_name(site, cache, to):
    server, expected = site
    file = next(path for path in expected if "/part " in path)
    folder = file.rpartition("/")[0]
    get(server.url, cache, to, file[1:])
    assert md5s(to) == {file: expected[file]}
    get(server.url, cache, to, folder)
    assert md5s(to) == {path: digest for path, digest in expected.items() if path.startswith(f"{folder}/")}
    get(server.url, cache, to / "bare", "P/S/E/2-T1", "P/S/E/1/DICOM", bare=True)
    assert {path.split("/")[1] for path in md5s(to / "bare")} == {"2", "DICOM"}


def test_what_is_cached_is_copied_from_there_and_a_copy_adds_nothing(site, cache, to):
    server, _ = site
    warm(server.url, cache, "P/S/E/1")
    with archive(server.url, cache) as app:
        before = app.store.usage()
    server.reset_log()
    get(server.url, cache, to, "P/S/E/1", "P/S/E/2")
    assert contents(server) == (1, 0)
    with archive(server.url, cache) as app:
        assert app.store.usage() == before
    server.reset_log()
    get(server.url, cache, to / "again", "P/S/E/1", use_cache=False)
    assert contents(server) == (1, 0)
    assert len(md5s(to)) == 3 * FILES


def test_what_makes_no_sense_is_said_before_anything_is_fetched(site, cache, to):
    server, _ = site
    with pytest.raises(NotFound):
        get(server.url, cache, to, "P/nobody")
    with pytest.raises(InvalidRequest, match="mount itself"):
        get(server.url, cache, to, "P/.xnat/children.csv")
    with pytest.raises(SettingsError, match="one name"):
        get(server.url, cache, to, "P/S/E/1/DICOM", "P/S/E/2/DICOM", bare=True)
    to.write_text("a file")
    with pytest.raises(SettingsError, match="not a directory"):
        get(server.url, cache, to, "P")
    assert contents(server) == (0, 0)


def test_a_dry_run_counts_what_is_missing(site, cache, to):
    server, _ = site
    get(server.url, cache, to, "P/S/E/1")
    server.reset_log()
    with archive(server.url, cache) as app:
        copy = moving.Copy(app, ["P"], to, Progress(), bare=False, cache=True)
        files, size = copy.missing()
    assert files == 2 * FILES
    assert size > 0
    assert (copy.plan.files, contents(server)) == (3 * FILES, (0, 0))


# -- warm and pin ----------------------------------------------------------------------------------------------------


def read(app, path):
    with_open = app.vfs.open(path)
    try:
        return hashlib.md5(with_open.read(0, with_open.size)).hexdigest()
    finally:
        with_open.close()


def test_what_is_warm_is_read_without_a_request_for_content(site, cache):
    server, expected = site
    outcome = warm(server.url, cache, "P/S/E")
    assert (outcome.fetched, contents(server)) == (SCANS * FILES, (SCANS, 0))
    server.reset_log()
    with archive(server.url, cache) as app:
        assert {path: read(app, path) for path in expected} == expected
    assert contents(server) == (0, 0)
    assert warm(server.url, cache, "P").present == SCANS * FILES


def test_what_does_not_fit_is_refused_before_anything_is_fetched(site, cache):
    server, _ = site
    with pytest.raises(CacheFault, match="do not fit"):
        warm(server.url, cache, "P", cache_size="100K")
    pin(server.url, cache, "P/S/E/1", cache_size="600K")
    server.reset_log()
    with pytest.raises(CacheFault, match=r"beside the .* pinned"):
        pin(server.url, cache, "P/S/E/2", cache_size="600K")
    assert contents(server) == (0, 0)
    assert pin(server.url, cache, "P/S/E/1", cache_size="600K").present == FILES


def test_a_pin_outlives_what_else_is_read_and_ends_when_it_is_unpinned(site, cache):
    server, expected = site
    pin(server.url, cache, "P/S/E/1", cache_size="900K")
    with archive(server.url, cache, cache_size="900K") as app:
        for path in expected:
            read(app, path)
        ((found),) = moving.pinned(cache, app.namespace)
        assert (found.pin.path, found.pin.files, found.files) == ("/P/S/E/1", FILES, FILES)
        moving.unpin(app.store.pins, "/P/S/E/1")
        with pytest.raises(NotFound, match="nothing else"):
            moving.unpin(app.store.pins, "/P/S/E/1")


# -- when the server is away -----------------------------------------------------------------------------------------


@pytest.fixture
def pinned(tmp_path, cache):
    """A cache with scan 1 pinned, of a server that is gone by now; where it was, and the MD5s of the scan."""
    model = one_session(scans=2, resources=("DICOM",), files=5, folders=True)
    model.add_project("OTHER")
    with DemoServer(model) as server:
        pin(server.url, cache, "P/S/E/1")
        with archive(server.url, cache) as app:
            app.vfs.directory("/P/S/E/2")
        url = server.url
    return url, {path: truth.md5(truth.content(file)) for path, file in truth.tree(model, "P").items()}


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "server away"])
def test_without_the_server_what_is_pinned_is_listed_and_read_and_the_rest_is_an_error(pinned, cache, offline):
    url, expected = pinned
    with archive(url, cache, offline=offline) as app:
        assert app.check() if offline else True
        assert set(app.vfs.directory("/").names()) == {"P", "OTHER"}
        assert set(app.vfs.directory("/P/S/E").names()) == {"1", "2", "resources", "assessors"}
        mine = {path: digest for path, digest in expected.items() if path.startswith("/P/S/E/1/")}
        assert {path: read(app, path) for path in mine} == mine
        with pytest.raises(Unreachable):
            app.vfs.directory("/OTHER")
        other = next(path for path in expected if path not in mine)
        with pytest.raises(Unreachable):
            read(app, other)
        for path in ("/P/S/new", "/nobody", "/P/S/E/1/DICOM/new"):
            with pytest.raises(Unreachable):
                app.vfs.lookup(path)


def test_an_old_answer_says_so(pinned, cache):
    url, _ = pinned
    with archive(url, cache, offline=True) as app:
        assert app.archive.status()["old"] == 0
        listed = app.vfs.getxattr("/P/S", "user.xnat.listed").decode()
        assert listed.endswith(" UTC")
        state = app.archive.status()
        assert (state["mode"], state["oldest"]) == ("offline", listed)
        assert state["age"] >= 0


def test_an_answer_counts_as_old_no_longer_than_it_is_remembered(cache):
    now = [1e9]
    asked = SimpleNamespace(bulk=None, away=False)

    def subjects(_project, *, deadline):
        if asked.away:
            raise Unreachable("away")
        return ()

    asked.subjects = subjects
    kept = KeptArchive(asked, KeptListings(cache, "abc", clock=lambda: now[0]), keep=True, ttl=60, clock=lambda: now[0])
    kept.subjects("P", deadline=Deadline(1))
    assert kept.since("P", "") == ""
    now[0] += 3600
    asked.away = True
    kept.subjects("P", deadline=Deadline(1))
    assert kept.since("P", "") == "2001-09-09 01:46 UTC"
    assert kept.status()["age"] == 3600
    now[0] += 61
    assert (kept.since("P", ""), kept.status()["old"]) == ("", 0)
    kept.subjects("P", deadline=Deadline(1))
    assert kept.since("P", "") != ""
    asked.away = False
    kept.subjects("P", deadline=Deadline(1))
    assert kept.since("P", "") == ""


def test_offline_nothing_is_sent(site, cache):
    server, _ = site
    warm(server.url, cache, "P/S/E/1")
    server.reset_log()
    with archive(server.url, cache, offline=True) as app:
        app.check()
        app.vfs.directory("/P/S/E/1/DICOM")
        with pytest.raises(Unreachable):
            read(app, "/P/S/E/2/DICOM/dicom_0000.bin")
    assert server.requests == []


def test_nothing_is_kept_unless_asked_for_and_everything_if_asked(site, tmp_path):
    server, _ = site
    for mode, kept in (("warmed", False), ("no", False), ("all", True)):
        cache = tmp_path / mode
        with archive(server.url, cache, keep_listings=mode) as app:
            app.vfs.directory("/P/S/E/1/DICOM")
        with archive(server.url, cache, offline=True) as app:
            if kept:
                assert len(app.vfs.directory("/P/S/E/1/DICOM")) > 0
            else:
                with pytest.raises(Unreachable, match="no listing is kept"):
                    app.vfs.directory("/")


def test_what_the_server_calls_absent_or_forbidden_is_kept_no_longer(site, cache):
    server, _ = site
    warm(server.url, cache, "P/S/E/1")
    server.faults.add(Rule("status", path="/data/projects/P/", status=403, count=None))
    with archive(server.url, cache) as app, pytest.raises(Exception, match="may not"):
        app.vfs.directory("/P")
    server.faults.clear()
    with archive(server.url, cache, offline=True) as app, pytest.raises(Unreachable):
        app.vfs.directory("/P")


def test_sessions_that_were_listed_in_batches_are_kept_as_if_one_by_one(tmp_path, cache):
    model = Archive()
    project = model.add_project("P")
    chance = random.Random(1)
    for number in range(8):
        session = model.add_session(model.add_subject(project, f"S{number}"), f"E{number}")
        resource = model.add_resource(model.add_scan(session, "1", type="T1"), "R")
        model.add_file(resource, "a.bin", chance.randbytes(100))
        model.add_resource(model.add_scan(session, "2", type="T2"), "EMPTY")
    with DemoServer(model) as server:
        warm(server.url, cache, "P")
        assert any("," in record.path for record in server.requests), "no batch was asked for"
        url = server.url
    with archive(url, cache, offline=True) as app:
        for path, file in truth.tree(model, "P").items():
            assert read(app, path) == truth.md5(truth.content(file))
        for number in range(8):
            assert app.vfs.directory(f"/P/S{number}/E{number}/2/EMPTY").names() == []
            assert app.vfs.directory(f"/P/S{number}/E{number}/assessors").names() == []
