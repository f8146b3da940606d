"""Every call of the archive against the demo server, and every file of its synthetic archive, odd names included."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.rawserver import Hidden, Someone

from xnatfs.deadlines import Deadline
from xnatfs.demo import DemoServer, Rule, ServerOptions, synthetic_archive
from xnatfs.errors import AccessDenied, ContentChanged, LoginFailed, NotFound, ServerFault, Unreachable
from xnatfs.xnat.archive import Archive
from xnatfs.xnat.client import Client
from xnatfs.xnat.download import Download
from xnatfs.xnat.records import FileRecord, Resource

USERS = {"admin": "admin", "reader": "reader"}


def soon() -> Deadline:
    return Deadline(30)


@contextmanager
def served(
    options: ServerOptions | None = None, *, user: str | None = "admin", context: str = ""
) -> Iterator[tuple[DemoServer, Archive]]:
    chosen = options if options is not None else ServerOptions()
    with DemoServer(synthetic_archive(), users=USERS, context_path=context, options=chosen) as server:
        client = Client(server.url, None if user is None else Someone(user, Hidden(USERS[user])), sleep=lambda _: None)
        archive = Archive(client)
        try:
            yield server, archive
        finally:
            archive.close()


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[DemoServer, Archive]]:
    with served(context="/xnat") as pair:
        yield pair


@pytest.fixture
def archive(site: tuple[DemoServer, Archive]) -> Archive:
    return site[1]


def read(download: Download) -> bytes:
    buffer, out = memoryview(bytearray(65536)), bytearray()
    try:
        while count := download.readinto(buffer):
            out += buffer[:count]
        return bytes(out)
    finally:
        download.close()


def session_id(archive: Archive, project: str, label: str) -> str:
    return next(e.id for e in archive.experiments(project, deadline=soon()) if e.label == label)


def all_resources(archive: Archive, only: set[str]) -> Iterator[Resource]:
    for project in archive.projects(deadline=soon()):
        if project.id not in only:
            continue
        yield from archive.resources(project.uri, deadline=soon())
        for subject in archive.subjects(project.id, deadline=soon()):
            yield from archive.resources(subject.uri, deadline=soon())
        for experiment in archive.experiments(project.id, deadline=soon()):
            yield from archive.session_resources(experiment.id, deadline=soon())
            for part in ("assessors", "reconstructions"):
                yield from archive.input_resources(experiment.id, part, deadline=soon())


@pytest.mark.parametrize(
    ("options", "only"),
    [
        (ServerOptions(), {"DEMO", "ODD", "SHARED", "OPEN", "GUARDED", "EMPTY"}),
        (ServerOptions(firewall=False, shuffle=3), {"ODD"}),
        (ServerOptions(ranges=False, digests=False, sizes=False), {"ODD"}),
    ],
    ids=["1.8", "no firewall, shuffled", "no ranges, digests, sizes"],
)
def test_every_file_of_the_archive_is_read_right(options: ServerOptions, only: set[str]) -> None:
    with served(options) as (server, archive):
        truth: dict[tuple[int, str], bytes] = {}
        for resource, file in server.archive.files():
            truth[resource.number, file.path] = file.content.read(0, file.content.size)
        gone = {(r.number, f.path) for r, f in server.archive.files() if f.missing}
        seen: set[tuple[int, str]] = set()
        for resource in all_resources(archive, only):
            for file in archive.files(resource, deadline=soon()):
                key = (int(file.resource_id), file.path)
                if key in seen:  # shared with another project
                    continue
                seen.add(key)
                if key in gone:
                    with pytest.raises(NotFound):
                        archive.size(file, deadline=soon())
                    continue
                size = file.size if file.size is not None else archive.size(file, deadline=soon())
                assert size == len(truth[key])
                if file.digest:
                    assert file.digest == hashlib.md5(truth[key]).hexdigest()
                if size:
                    assert read(archive.open_stream(file, 0, size, deadline=soon())) == truth[key], key
        assert seen <= set(truth)
        if "DEMO" in only:
            assert seen == set(truth)


def test_parts_of_files(archive: Archive) -> None:
    experiment = session_id(archive, "ODD", "odd subject #1")
    for files in archive.session_files(experiment, deadline=soon()).values():
        for file in files:
            if not file.size or file.size < 4:
                continue
            whole = read(archive.open_stream(file, 0, file.size, deadline=soon()))
            download = archive.open_stream(file, 1, file.size - 1, deadline=soon())
            assert read(download) == (whole[1:-1] if download.start else whole)
    assert archive.ranges is True


def test_projects_subjects_and_experiments(archive: Archive) -> None:
    projects = archive.projects(deadline=soon())
    assert {p.id for p in projects} >= {"DEMO", "SHARED", "ODD", "EMPTY", "OPEN"}
    assert all(p.uri == f"/projects/{p.id}" for p in projects)
    subjects = {s.label: s for s in archive.subjects("DEMO", deadline=soon())}
    assert dict(subjects["sub-01"].fields)["gender"]
    assert subjects["sub-01"].inserted > 1e9
    assert [r.label for r in subjects["sub-01"].resources or ()] == ["CONSENT"]
    assert subjects["sub-02"].resources == ()
    experiments = {e.label: e for e in archive.experiments("DEMO", deadline=soon())}
    assert experiments["sub-04_interview"].xsi_type
    assert experiments["sub-01_MR1"].subject_id == subjects["sub-01"].id
    assert [r.label for r in experiments["sub-01_MR1"].resources or ()] == ["NOTES"]
    assert archive.subjects("EMPTY", deadline=soon()) == ()
    with pytest.raises(NotFound):
        archive.subjects("NOSUCH", deadline=soon())


def test_shared_things_have_the_label_of_the_sharing_project(archive: Archive) -> None:
    shared = {s.label: s for s in archive.subjects("SHARED", deadline=soon())}
    own = {s.label: s for s in archive.subjects("DEMO", deadline=soon())}
    assert shared["case-A"].id == own["sub-01"].id
    assert shared["case-A"].project == "DEMO"
    assert {e.label for e in archive.experiments("SHARED", deadline=soon())} == {"case-A_visit1", "sub-02_MR1"}


def test_the_parts_of_a_session(archive: Archive) -> None:
    experiment = session_id(archive, "DEMO", "sub-01_MR1")
    scans = {s.id: s for s in archive.scans(experiment, deadline=soon())}
    assert list(scans) == ["1", "2", "3", "4-MR2"]
    assert scans["2"].type == "T1 MPRAGE"
    assert scans["2"].frames == "32"
    assessors = {a.label: a for a in archive.assessors(experiment, deadline=soon())}
    assert set(assessors) == {"sub-01_MR1_QC", "sub-01_MR1_auto"}
    (reconstruction,) = archive.reconstructions(experiment, deadline=soon())
    assert reconstruction.id == "average"
    inputs = archive.input_resources(experiment, "assessors", deadline=soon())
    assert [(r.label, r.owner_id) for r in inputs] == [("SOURCE", assessors["sub-01_MR1_auto"].id)]
    assert {r.label for r in archive.resources(assessors["sub-01_MR1_QC"].uri, deadline=soon())} == {"FORM", "REPORT"}
    assert {r.label for r in archive.resources(scans["2"].uri, deadline=soon())} >= {"DICOM"}
    for record in (*scans.values(), *assessors.values()):
        item = json.loads(archive.item(record.uri, deadline=soon()))
        assert item["items"]
    interview = session_id(archive, "DEMO", "sub-04_interview")
    for part in (archive.scans, archive.assessors, archive.reconstructions):
        assert part(interview, deadline=soon()) == ()


def test_all_files_of_a_session_are_those_of_its_resources(archive: Archive) -> None:
    for project in ("SHARED", "ODD"):
        for experiment in archive.experiments(project, deadline=soon()):
            together = archive.session_files(experiment.id, deadline=soon())
            resources = archive.session_resources(experiment.id, deadline=soon())
            assert set(together) <= {r.id for r in resources}
            for resource in resources:
                alone = archive.files(resource, deadline=soon())
                assert {(f.path, f.size, f.digest) for f in alone} == {
                    (f.path, f.size, f.digest) for f in together.get(resource.id, ())
                }


def test_archives_hold_a_resources_files(archive: Archive) -> None:
    experiment = session_id(archive, "DEMO", "sub-01_MR1")
    for resource in archive.session_resources(experiment, deadline=soon()):
        members = zipfile.ZipFile(io.BytesIO(read(archive.open_zip(resource.uri, deadline=soon())))).namelist()
        paths = {f.path for f in archive.files(resource, deadline=soon())}
        assert {name.partition("/resources/")[2].partition("/files/")[2] for name in members} == paths


def test_a_listing_is_one_request(site: tuple[DemoServer, Archive]) -> None:
    server, archive = site
    experiment = session_id(archive, "DEMO", "sub-01_MR1")
    for call in (
        lambda: archive.projects(deadline=soon()),
        lambda: archive.subjects("DEMO", deadline=soon()),
        lambda: archive.experiments("DEMO", deadline=soon()),
        lambda: archive.scans(experiment, deadline=soon()),
        lambda: archive.assessors(experiment, deadline=soon()),
        lambda: archive.session_resources(experiment, deadline=soon()),
        lambda: archive.session_files(experiment, deadline=soon()),
    ):
        server.reset_log()
        call()
        assert len(server.requests) == 1


def test_a_server_without_resource_columns() -> None:
    with served(ServerOptions(resource_columns=False)) as (_, archive):
        assert all(s.resources is None for s in archive.subjects("DEMO", deadline=soon()))
        assert all(e.resources is None for e in archive.experiments("DEMO", deadline=soon()))


def test_a_poisoned_resource() -> None:
    with served() as (server, archive):
        experiment = session_id(archive, "DEMO", "sub-01_MR1")
        resources = archive.session_resources(experiment, deadline=soon())
        wanted = {r.id: archive.files(r, deadline=soon()) for r in resources}
        for resource, _ in server.archive.files():
            if str(resource.number) == resources[0].id:
                resource.poisoned = True
        server.archive.touch()
        with pytest.raises(ServerFault):
            archive.session_files(experiment, deadline=soon())
        for resource in resources:
            found = archive.files(resource, deadline=soon())
            assert {(f.path, f.size) for f in found} == {(f.path, f.size) for f in wanted[resource.id]}


def test_a_reader_and_a_guest_see_less() -> None:
    with served(user="reader") as (_, archive):
        assert "ODD" in {p.id for p in archive.projects(deadline=soon())}
        with pytest.raises((AccessDenied, NotFound)):
            archive.subjects("GUARDED", deadline=soon())
    with served(ServerOptions(require_login=False), user=None) as (_, archive):
        assert {p.id for p in archive.projects(deadline=soon())} == {"OPEN"}
        with pytest.raises(NotFound):
            archive.experiments("DEMO", deadline=soon())
    with served(user=None) as (_, archive), pytest.raises(LoginFailed):
        archive.projects(deadline=soon())


def test_one_session_which_ends_with_the_archive() -> None:
    with DemoServer(synthetic_archive(), users=USERS) as server:
        archive = Archive(Client(server.url, Someone("admin", Hidden("admin"))))
        archive.projects(deadline=soon())
        server.logins.expire_all()
        archive.projects(deadline=soon())
        assert server.logins.logins == 2
        archive.close()
        assert not server.logins.active()


def test_a_replaced_file_is_a_changed_one() -> None:
    with served() as (server, archive):
        experiment = session_id(archive, "DEMO", "sub-01_MR1")
        file = next(
            f
            for fs in archive.session_files(experiment, deadline=soon()).values()
            for f in fs
            if f.size and f.size > 100
        )
        resource = next(r for r, f in server.archive.files() if str(r.number) == file.resource_id)
        server.archive.replace_file(resource, file.path, b"new")
        assert file.size is not None
        with pytest.raises(ContentChanged):
            archive.open_stream(file, 0, file.size, deadline=soon())


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Rule("gzip", path="/files/"), ServerFault),
        (Rule("length", path="/files/"), (ContentChanged, ServerFault, Unreachable)),
        (Rule("other_range", path="/files/"), ServerFault),
        (Rule("cut", path="/files/", at=50), Unreachable),
        (Rule("reset", path="/files/", at=50), Unreachable),
        (Rule("login_page", path="/files/", count=None), ServerFault),
    ],
    ids=lambda value: getattr(value, "action", ""),
)
def test_faults_of_a_body(rule: Rule, error: type[Exception] | tuple[type[Exception], ...]) -> None:
    with served() as (server, archive):
        file = a_file(archive)
        server.faults.add(rule)
        with pytest.raises(error):
            read(archive.open_stream(file, 1, 101, deadline=soon()))
        server.faults.clear()
        assert len(read(archive.open_stream(file, 1, 101, deadline=soon()))) == 100


@pytest.mark.parametrize("action", ["unauthorized", "expire", "login_page", "login_redirect", "close"])
@pytest.mark.parametrize("path", ["/files/", "/files$", "/scans$"])
def test_faults_that_pass(action: str, path: str) -> None:
    with served() as (server, archive):
        file = a_file(archive)
        assert file.size is not None
        server.faults.add(Rule(action, path=path, count=1))
        assert len(read(archive.open_stream(file, 0, file.size, deadline=soon()))) == file.size
        assert archive.session_files(session_id(archive, "DEMO", "sub-01_MR1"), deadline=soon())
        assert archive.scans(session_id(archive, "DEMO", "sub-01_MR1"), deadline=soon())


@pytest.mark.parametrize("action", ["foreign", "malformed"])
def test_faults_of_a_listing(action: str) -> None:
    with served() as (server, archive):
        experiment = session_id(archive, "DEMO", "sub-01_MR1")
        server.faults.add(Rule(action, path="/files$", count=None))
        with pytest.raises(ServerFault):
            archive.session_files(experiment, deadline=soon())


def test_a_truncated_listing_is_asked_for_again() -> None:
    with served() as (server, archive):
        experiment = session_id(archive, "DEMO", "sub-01_MR1")
        server.faults.add(Rule("truncate", path="/files$", count=2))
        assert archive.session_files(experiment, deadline=soon())


def a_file(archive: Archive) -> FileRecord:
    experiment = session_id(archive, "DEMO", "sub-01_MR1")
    files = archive.session_files(experiment, deadline=soon())
    return next(f for fs in files.values() for f in fs if f.size and f.size > 1000 and f.path.endswith(".dcm"))
