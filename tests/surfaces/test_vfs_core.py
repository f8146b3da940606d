"""The core without a server: what a look costs, what is linked, hidden and refreshed, which errors come through."""

from __future__ import annotations

import json

import pytest
from support.archive import MemoryArchive, MemoryStore, NoTransfers

from xnatfs.errors import InvalidRequest, IsADirectory, NameTooLong, NoAttribute, NotADirectory, NotFound, Unreachable
from xnatfs.stats import Stats
from xnatfs.tree.nodes import Kind, LinkNode
from xnatfs.vfs import Space, Timing, Vfs


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def archive():
    return MemoryArchive()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(archive, tmp_path):
    return MemoryStore(archive, tmp_path)


@pytest.fixture
def make(archive, store, clock, tmp_path):
    """The file system over the archive in memory; ``options`` are those of `Vfs`."""

    def made(**options):
        return Vfs(
            archive,
            store,
            NoTransfers(),
            submit=lambda fn, *args: fn(*args),
            stats=Stats(),
            clock=clock,
            **options,
        )

    return made


@pytest.fixture
def vfs(make):
    return make(timing=Timing(ttl=60), status=lambda: {"user": "ada"})


def names(vfs, path):
    return sorted(vfs.directory(path).names())


def test_the_root_is_one_request_and_lists_projects(vfs, archive):
    assert names(vfs, "/") == ["EMPTY", "P"]
    assert archive.calls == {"projects": 1}


def test_a_project_is_two_requests_and_its_subjects_none(vfs, archive):
    assert names(vfs, "/P") == ["other-subject", "resources", "sub-01", "sub-02"]
    assert names(vfs, "/P/sub-01") == ["MR1", "MR1~E2", "resources"]
    assert names(vfs, "/P/other-subject") == ["resources", "shared"]
    assert names(vfs, "/P/sub-01/resources") == ["INFO"]
    assert archive.calls == {"projects": 1, "subjects": 1, "experiments": 1}


def test_an_empty_project_is_an_empty_directory(vfs):
    assert names(vfs, "/EMPTY") == ["resources"]


def test_a_subject_whose_resources_the_server_did_not_list_is_asked(vfs, archive):
    assert names(vfs, "/P/sub-02/resources") == ["PROTOCOL"]
    assert archive.calls["resources"] == 1


def test_a_session_with_all_its_files_is_three_requests(vfs, archive):
    before = names(vfs, "/P/sub-01") and sum(archive.calls.values())
    assert names(vfs, "/P/sub-01/MR1") == ["1", "2", "assessors", "resources"]
    for path, expected in {
        "1": ["DICOM", "NIFTI"],
        "2": ["EMPTY"],
        "2/EMPTY": [],
        "1/DICOM": ["a.bin", "sub"],
        "1/NIFTI/sub": ["b.bin"],
        "resources": ["DOCS"],
        "resources/DOCS": ["a.bin", "sub"],
    }.items():
        assert names(vfs, f"/P/sub-01/MR1/{path}") == expected, path
    assert sum(archive.calls.values()) - before == 3


def test_a_scan_that_is_looked_up_needs_no_list_of_scans_and_looks_as_in_one(vfs, archive, clock):
    direct = vfs.lookup("/P/sub-01/MR1/1"), vfs.attributes(vfs.lookup("/P/sub-01/MR1/1"))
    assert names(vfs, "/P/sub-01/MR1/1/DICOM") == ["a.bin", "sub"]
    assert archive.calls["scans"] == 0
    assert vfs.getxattr("/P/sub-01/MR1/1", "user.xnat.type") == b"T1"
    names(vfs, "/P/sub-01/MR1")
    listed = vfs.lookup("/P/sub-01/MR1/1")
    assert direct[1] == vfs.attributes(listed)
    assert (direct[0].name, direct[0].address, direct[0].stamp) == (listed.name, listed.address, listed.stamp)


def test_what_is_no_scan_with_resources_is_looked_for_in_the_list_of_scans(vfs, archive):
    with pytest.raises(NotFound):
        vfs.lookup("/P/sub-01/MR1/nothing")
    assert archive.calls["scans"] == 1
    assert not [name for name in ("resources", "assessors", ".xnat") if not vfs.lookup(f"/P/sub-01/MR1/{name}")]


def test_a_directory_for_one_name_is_not_believed_to_be_the_whole(vfs, clock):
    narrow = vfs.directory("/P/sub-01/MR1", wanted="1")
    assert narrow.get("1").ino == vfs.lookup("/P/sub-01/MR1/1").ino
    assert narrow.expires < clock()
    assert names(vfs, "/P/sub-01/MR1") == ["1", "2", "assessors", "resources"]


def test_assessors_show_their_own_resources_and_their_inputs(vfs, archive):
    assert names(vfs, "/P/sub-01/MR1/assessors") == ["qc"]
    assert names(vfs, "/P/sub-01/MR1/assessors/qc") == ["REPORT", "in"]
    assert names(vfs, "/P/sub-01/MR1/assessors/qc/in") == ["SOURCE"]
    assert names(vfs, "/P/sub-01/MR1/assessors/qc/in/SOURCE") == ["a.bin", "sub"]


def test_reconstructions_are_unlisted_where_nothing_is_known_of_any_but_found(vfs):
    assert "reconstructions" not in names(vfs, "/P/sub-01/MR1")
    assert names(vfs, "/P/sub-01/MR1/reconstructions") == ["R1"]


def test_a_second_look_within_the_time_to_live_costs_nothing_and_one_after_it_does(vfs, archive, clock):
    for _ in range(2):
        names(vfs, "/P/sub-01/MR1/1/DICOM")
        total = sum(archive.calls.values())
    assert total == 5
    clock.now += 61
    names(vfs, "/P/sub-01/MR1/1/DICOM")
    assert sum(archive.calls.values()) == 10


def test_refresh_forgets_what_is_below_and_nothing_else(vfs, archive):
    for path in ("/P/sub-01/MR1", "/P/sub-01/MR1/1/DICOM"):
        names(vfs, path)
    names(vfs, "/EMPTY")
    before = archive.calls.copy()
    vfs.refresh("/P/sub-01/MR1")
    for path in ("/P/sub-01/MR1", "/P/sub-01/MR1/1/DICOM"):
        names(vfs, path)
    names(vfs, "/EMPTY")
    after = archive.calls - before
    assert after["scans"] == after["session_files"] == 1
    assert after["projects"] == 0
    assert archive.calls["subjects"] == 3  # P twice, EMPTY once


def test_refresh_reaches_snapshots_that_somebody_holds(vfs, clock):
    held = vfs.directory("/P")
    vfs.refresh("/")
    assert held.expires < clock()


def test_a_spoilt_all_in_one_answer_falls_back_to_one_resource_at_a_time(vfs, archive):
    from xnatfs.errors import ServerFault

    archive.fail["session_files"] = ServerFault("500")
    assert names(vfs, "/P/sub-01/MR1/1/DICOM") == ["a.bin", "sub"]
    assert names(vfs, "/P/sub-01/MR1/1/NIFTI") == ["a.bin", "sub"]
    assert archive.calls["session_files"] == 1
    assert archive.calls["files"] == 2


def test_a_huge_session_is_listed_whole_only_from_its_second_resource_on(vfs, archive, monkeypatch):
    monkeypatch.setattr("xnatfs.browse.DEEP_FILES", 1)
    names(vfs, "/P/sub-01/MR1/1/DICOM")
    assert (archive.calls["files"], archive.calls["session_files"]) == (1, 0)
    names(vfs, "/P/sub-01/MR1/1/NIFTI")
    assert (archive.calls["files"], archive.calls["session_files"]) == (1, 1)


def test_an_id_is_a_link_to_the_label_and_paths_may_go_through_it(vfs):
    node = vfs.lookup("/P/S1")
    assert isinstance(node, LinkNode)
    assert vfs.readlink("/P/S1") == "sub-01"
    assert vfs.getattr("/P/S1").kind is Kind.LINK
    assert vfs.lookup("/P/S1/E2/1/DICOM").name == "DICOM"
    assert names(vfs, "/P/S1") == names(vfs, "/P/sub-01")


def test_wrong_kinds_and_names_have_errors_of_their_own(vfs):
    with pytest.raises(NotFound):
        vfs.lookup("/P/nobody")
    with pytest.raises(NotADirectory):
        vfs.lookup("/P/sub-01/MR1/1/DICOM/a.bin/x")
    with pytest.raises(NotADirectory):
        vfs.directory("/P/sub-01/MR1/1/DICOM/a.bin")
    with pytest.raises(IsADirectory):
        vfs.open("/P")
    with pytest.raises(InvalidRequest):
        vfs.readlink("/P/sub-01")
    with pytest.raises(NameTooLong):
        vfs.lookup("/P/" + "x" * 256)


def test_names_that_desktops_probe_for_cost_no_request(vfs, archive):
    for name in (".Trash", ".Trash-1000", "autorun.inf", ".hidden", "._P"):
        with pytest.raises(NotFound):
            vfs.lookup(f"/{name}")
    assert not archive.calls


def test_unreachable_is_never_absence(vfs, archive):
    archive.fail["projects"] = Unreachable("no route")
    with pytest.raises(Unreachable):
        vfs.lookup("/P")
    with pytest.raises(Unreachable):
        vfs.directory("/")


def test_extended_attributes_cost_no_request_beyond_the_listing(vfs, archive):
    vfs.directory("/P/sub-01/MR1")
    before = archive.calls.copy()
    assert vfs.getxattr("/P/sub-01/MR1/1", "user.xnat.type") == b"T1"
    assert "user.xnat.id" in vfs.listxattr("/P/sub-01")
    assert vfs.listxattr("/P/sub-01/MR1/resources") == []
    with pytest.raises(NoAttribute):
        vfs.getxattr("/nowhere/at/all", "security.selinux")
    with pytest.raises(NoAttribute):
        vfs.getxattr("/P", "user.xnat.nothing")
    assert archive.calls == before


def test_a_file_is_read_exactly_and_its_handle_released(vfs, archive, store):
    expected = b"10 a.bin\n" * 9
    attributes = vfs.getattr("/P/sub-01/MR1/1/DICOM/a.bin")
    assert (attributes.kind, attributes.size) == (Kind.FILE, len(expected))
    assert attributes.mtime_ns // 10**9 == 1_100_000_000
    opened = vfs.open("/P/sub-01/MR1/1/DICOM/a.bin")
    assert opened.read(0, 1000) == expected
    assert opened.read(5, 7) == expected[5:12]
    assert opened.read(len(expected), 10) == b""
    opened.close()
    assert store.open_entries == 0


def test_where_a_file_was_opened_the_next_ones_need_not_be_looked_for(vfs, archive, store, clock):
    vfs.open("/P/sub-01/MR1/1/DICOM/a.bin").close()
    before = archive.calls.copy()
    vfs.open("/P/sub-01/MR1/1/DICOM/a.bin").close()
    with pytest.raises(NotFound):
        vfs.open("/P/sub-01/MR1/1/DICOM/absent")
    assert archive.calls == before
    clock.now += 61
    vfs.open("/P/sub-01/MR1/1/DICOM/a.bin").close()
    assert archive.calls["session_files"] > before["session_files"]
    vfs.refresh("/P/sub-01/MR1/1/DICOM")
    before = archive.calls.copy()
    vfs.open("/P/sub-01/MR1/1/DICOM/a.bin").close()
    assert archive.calls != before
    assert store.open_entries == 0


def test_a_listing_without_a_size_is_asked_once(vfs, archive):
    archive.contents["unsized"] = b"1234567"
    original = archive._files
    archive._files = lambda resource: tuple(
        type(f)(f.base, "unsized", None, "", f.resource_id) for f in original(resource)[:1]
    )
    for _ in range(3):
        assert vfs.getattr("/P/sub-01/MR1/1/DICOM/unsized").size == 7
    opened = vfs.open("/P/sub-01/MR1/1/DICOM/unsized")
    assert opened.size == 7
    opened.close()
    assert archive.calls["size"] == 1


def test_a_file_that_the_server_has_lost_is_visible_and_cannot_be_opened(vfs, archive):
    original = archive._files
    archive._files = lambda resource: tuple(type(f)(f.base, "gone", None) for f in original(resource)[:1])
    assert vfs.getattr("/P/sub-01/MR1/1/DICOM/gone").size == 0
    with pytest.raises(NotFound, match="no bytes"):
        vfs.open("/P/sub-01/MR1/1/DICOM/gone")


def test_metadata_files_have_their_true_size_before_they_are_opened(vfs):
    assert ".xnat" not in vfs.directory("/P/sub-01").names()
    for path in (
        "/.xnat/status.json",
        "/.xnat/metrics",
        "/P/.xnat/children.csv",
        "/P/sub-01/MR1/.xnat/item.json",
        "/P/sub-01/MR1/1/DICOM/.xnat/item.json",
    ):
        size = vfs.getattr(path).size
        opened = vfs.open(path)
        assert size == opened.size == len(opened.read(0, 1 << 20))
        opened.close()
    assert names(vfs, "/.xnat") == ["children.csv", "children.json", "metrics", "status.json"]


def test_the_status_is_json_with_room_to_grow(vfs):
    opened = vfs.open("/.xnat/status.json")
    text = opened.read(0, opened.size)
    opened.close()
    assert len(text) % 4096 == 0
    assert json.loads(text) == {"user": "ada"}


def test_the_members_of_a_resource_are_what_an_archive_of_it_brings(vfs, archive, store, tmp_path):
    opened = vfs.open("/P/sub-01/MR1/1/DICOM/sub/b.bin")
    siblings = vfs._pool.siblings
    assert siblings.resource_uri == "/experiments/E1/scans/1/resources/10"
    assert [member.path for member in siblings.members()] == ["a.bin", "sub/b.bin"]
    entry = siblings.members()[0].open_entry()
    entry.release()
    opened.close()
    assert store.open_entries == 0


def test_space_is_that_of_the_cache_and_needs_no_network(vfs, archive):
    assert vfs.statfs() == Space(1 << 40, 1 << 30)
    assert not archive.calls


@pytest.fixture
def typed(make):
    return make(scan_names="type")


def test_scans_may_be_called_by_type_and_either_name_is_found(vfs, typed):
    assert names(typed, "/P/sub-01/MR1")[:2] == ["1-T1", "2"]
    assert typed.readlink("/P/sub-01/MR1/1") == "1-T1"
    assert names(typed, "/P/sub-01/MR1/1") == names(vfs, "/P/sub-01/MR1/1") == names(vfs, "/P/sub-01/MR1/1-T1")
    assert vfs.readlink("/P/sub-01/MR1/1-T1") == "1"
    assert names(vfs, "/P/sub-01/MR1")[:2] == ["1", "2"]
    with pytest.raises(NotFound):
        vfs.lookup("/P/sub-01/MR1/2-T1")


@pytest.mark.parametrize("face", ["vfs", "typed"])
def test_scans_are_found_by_type(face, request):
    vfs = request.getfixturevalue(face)
    there = "/P/sub-01/MR1/.xnat/by-type"
    assert names(vfs, there) == ["T1", "untyped"]
    (link,) = names(vfs, f"{there}/T1")
    assert vfs.readlink(f"{there}/T1/{link}") == f"../../../{link}"
    assert names(vfs, f"{there}/T1/{link}") == names(vfs, "/P/sub-01/MR1/1")
    assert vfs.lookup(f"{there}/T1/{link}/DICOM/a.bin").name == "a.bin"
    with pytest.raises(NotFound):
        vfs.directory(f"{there}/T9")


def test_a_refresh_of_one_directory_keeps_what_is_below(vfs, archive):
    names(vfs, "/P/sub-01/MR1/1/DICOM")
    before = archive.calls.copy()
    vfs.refresh("/P", recursive=False)
    names(vfs, "/P/sub-01/MR1/1/DICOM")
    assert dict(archive.calls - before) == {"subjects": 1, "experiments": 1}


def test_a_refresh_of_a_path_that_is_not_known_refreshes_what_is_above(vfs, archive):
    names(vfs, "/P")
    vfs.refresh("/P/new/thing")
    names(vfs, "/P")
    assert archive.calls["subjects"] == 2


def test_opening_the_control_file_refreshes_and_tells_the_faces(vfs, archive):
    told = []
    vfs.on_refresh(lambda: told.append(1))
    names(vfs, "/P")
    vfs.getattr("/P/.xnat/refresh")
    assert not told
    opened = vfs.open("/P/.xnat/refresh")
    assert opened.read(0, 100) == b"refreshed\n"
    opened.close()
    assert told == [1]
    names(vfs, "/P")
    assert archive.calls["subjects"] == 2


def test_what_was_assembled_while_it_was_refreshed_is_not_kept(vfs, archive, clock):
    original = archive.subjects

    def subjects(project, *, deadline):
        answer = original(project, deadline=deadline)
        if archive.calls["subjects"] == 1:
            vfs.refresh("/")
        return answer

    archive.subjects = subjects
    assert vfs.directory("/P").expires < clock()
    assert vfs.directory("/P").expires > clock()
