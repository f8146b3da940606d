"""Layouts over the core without a server: what stands where, both ways, what it costs, which errors come through."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archive import MemoryArchive, MemoryStore, NoTransfers

from xnatfs import layouts
from xnatfs.errors import (
    InvalidRequest,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotFound,
    ServerFault,
    Unreachable,
)
from xnatfs.layouts.shapes import LAYOUTS, scan_in_zip
from xnatfs.options import BY_NAME
from xnatfs.stats import Stats
from xnatfs.tree.nodes import DirNode, LinkNode
from xnatfs.vfs import Timing, Vfs
from xnatfs.xnat.records import Assessor, Experiment, FileRecord, Project, Resource, Scan, Subject


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@contextmanager
def core(archive, clock, **options):
    with tempfile.TemporaryDirectory() as folder:
        yield Vfs(
            archive,
            MemoryStore(archive, Path(folder)),
            NoTransfers(),
            submit=lambda fn, *args: fn(*args),
            stats=Stats(),
            clock=clock,
            timing=Timing(ttl=60),
            **options,
        )


@pytest.fixture
def archive():
    return MemoryArchive()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain(archive, clock):
    with core(archive, clock) as found:
        yield found


@pytest.fixture
def make(plain, clock):
    return lambda name: layouts.View(plain, LAYOUTS[name], clock=clock)


SESSION = {
    "archive": "/P/arc001/MR1",
    "jupyter": "/projects/P/experiments/MR1",
    "zip": "/P/sub-01/MR1",
}
SCAN = {
    "archive": "/P/arc001/MR1/SCANS/1",
    "jupyter": "/projects/P/experiments/MR1/SCANS/1",
    "zip": "/P/sub-01/MR1/scans/1-T1",
}
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def names(face, path):
    return sorted(face.directory(path).names())


def files(face, path=""):
    """Every file that is listed below a path."""
    for name in face.directory(path or "/").names():
        below = f"{path}/{name}"
        if isinstance(face.lookup(below), DirNode):
            yield from files(face, below)
        else:
            yield below


def content(face, path):
    opened = face.open(path)
    try:
        return opened.read(0, opened.size)
    finally:
        opened.close()


def test_the_setting_knows_every_layout():
    for name in (layouts.PLAIN, *LAYOUTS):
        assert BY_NAME["layout"].parse(name) == name


def test_plain_is_the_tree_itself(plain):
    assert layouts.over(plain, "plain") is plain


# -- what stands where -----------------------------------------------------------------------------------------------


def test_as_the_archive_lies_on_the_disk(make):
    view = make("archive")
    assert names(view, "/P") == ["arc001", "resources", "subjects"]
    assert names(view, "/P/arc001") == ["MR1", "MR1~E2", "shared"]
    assert names(view, "/P/arc001/MR1") == ["ASSESSORS", "RESOURCES", "SCANS"]
    assert names(view, "/P/arc001/MR1/SCANS") == ["1", "2"]
    assert names(view, "/P/arc001/MR1/SCANS/1") == ["DICOM", "NIFTI"]
    assert names(view, "/P/arc001/MR1/RESOURCES") == ["DOCS"]
    assert names(view, "/P/arc001/MR1/ASSESSORS/qc") == ["REPORT", "in"]
    assert names(view, "/P/subjects") == ["other-subject", "sub-01", "sub-02"]
    assert names(view, "/P/subjects/sub-01") == ["INFO"]
    assert names(view, "/P/resources") == ["PROTOCOL"]
    assert content(view, "/P/arc001/MR1/SCANS/1/DICOM/sub/b.bin") == b"10 sub/b.bin\n" * 9


def test_as_notebook_servers_mount_it(make):
    view = make("jupyter")
    assert names(view, "/") == ["projects"]
    assert names(view, "/projects") == ["EMPTY", "P"]
    assert names(view, "/projects/P") == ["experiments", "resources", "subjects"]
    assert names(view, "/projects/P/experiments/MR1/SCANS/1/DICOM") == ["a.bin", "sub"]
    assert view.readlink("/projects/P/subject-resources") == "subjects"
    assert names(view, "/projects/P/subject-resources/sub-01") == ["INFO"]


def test_as_in_zips(make):
    view = make("zip")
    assert names(view, "/P/sub-01") == ["MR1", "MR1~E2", "resources"]
    assert names(view, "/P/sub-01/MR1") == ["assessors", "resources", "scans"]
    assert names(view, "/P/sub-01/MR1/scans") == ["1-T1", "2-"]
    assert names(view, "/P/sub-01/MR1/scans/1-T1/resources/DICOM/files") == ["a.bin", "sub"]
    assert names(view, "/P/sub-01/MR1/resources/DOCS/files") == ["a.bin", "sub"]
    assert names(view, "/P/sub-01/MR1/assessors/qc/out/resources") == ["REPORT"]
    assert names(view, "/P/sub-01/MR1/assessors/qc/in/resources/SOURCE/files") == ["a.bin", "sub"]
    assert names(view, "/P/resources/PROTOCOL/files") == ["a.bin", "sub"]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("T1w MPRAGE", "3-T1w_MPRAGE"), ("", "3-"), ("a/b(c)", "3-a_b_c_"), ("Größe_1", "3-Gr__e_1")],
)
def test_a_scan_in_a_zip_is_called_by_its_type_in_ascii_words(kind, shown):
    assert scan_in_zip(Scan("3", "", type=kind)) == shown


def test_reconstructions_are_found_by_name_and_listed_where_there_are_some(make, archive):
    assert names(make("archive"), "/P/arc001/MR1/PROCESSED") == ["R1"]
    assert names(make("zip"), "/P/sub-01/MR1/reconstructions/R1/out/resources") == []
    made = archive.session_resources
    more = Resource("16", "MEAN", "/experiments/E1/reconstructions/R1/out/resources/16", "reconstructions", "R1", 1)
    archive.session_resources = lambda ident, *, deadline: (*made(ident, deadline=deadline), more)
    for name, entry in (("archive", "PROCESSED"), ("jupyter", "PROCESSED"), ("zip", "reconstructions")):
        view = make(name)
        view._plain.refresh("/")
        assert entry in names(view, SESSION[name])


@every_layout
def test_scans_may_have_other_names_in_the_plain_tree(archive, clock, name):
    with core(archive, clock, scan_names="type") as plain:
        view = layouts.View(plain, LAYOUTS[name], clock=clock)
        assert names(view, SCAN[name])
        assert view.lookup(SCAN[name]).name == SCAN[name].rpartition("/")[2]
        assert [p for p in files(view) if p.startswith(SCAN[name])]


def test_dicom_leads_to_the_resource_of_that_format_where_xnatpy_looks_for_it(make, archive):
    archive.resources = lambda uri, *, deadline: (
        Resource("60", "RAW", f"{uri}/resources/60", format="DICOM"),
        Resource("61", "NOTES", f"{uri}/resources/61"),
    )
    view = make("archive")
    assert names(view, "/P/resources") == ["NOTES", "RAW"]
    assert view.readlink("/P/resources/DICOM") == "RAW"
    assert names(view, "/P/resources/DICOM") == ["a.bin", "sub"]


# -- both ways -------------------------------------------------------------------------------------------------------


@every_layout
def test_every_file_has_one_place_and_the_way_leads_back(make, plain, name):
    view = make(name)
    places = {path: view.plain_path(path) for path in files(view)}
    assert sorted(places.values()) == sorted(files(plain))
    assert {view.shown(path) for path in places.values()} == set(places)
    for path, there in places.items():
        assert view.getattr(path) == plain.getattr(there)
        assert content(view, path) == content(plain, there)
        assert view.getxattr(path, "user.xnat.path") == there.encode()


@every_layout
def test_sessions_lead_back_too_and_what_is_no_place_does_not(make, name):
    view = make(name)
    assert view.shown("/P/sub-01/MR1") == SESSION[name]
    assert view.plain_path(SESSION[name]) == "/P/sub-01/MR1"
    assert view.shown("/P/sub-01/MR1/1") == SCAN[name]
    with pytest.raises(NotFound):
        view.shown("/P/nobody")
    with pytest.raises(NotFound):
        view.plain_path(f"{SESSION[name]}-not")


LABELS = st.one_of(
    st.sampled_from(
        ["", ".", "..", ".xnat", "resources", "SCANS", "scans", "files", "DICOM", "in", "out", "arc001", "subjects"]
    ),
    st.text(max_size=6),
    st.text("ab/%2F", min_size=1, max_size=5),
    st.just("n" * 300),
)


class AnyArchive(MemoryArchive):
    """Project P with any labels at all."""

    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def projects(self, *, deadline):
        return (Project("P", "/projects/P"), Project("projects", "/projects/projects"))

    def subjects(self, project_id, *, deadline):
        found = enumerate(self.labels["subjects"] if project_id == "P" else [])
        return tuple(Subject(f"S{i}", label, f"/projects/P/subjects/S{i}", resources=()) for i, label in found)

    def experiments(self, project_id, *, deadline):
        found = enumerate(self.labels["sessions"] if project_id == "P" else [])
        return tuple(Experiment(f"E{i}", label, f"/experiments/E{i}", f"S{i % 2}", f"s{i % 2}") for i, label in found)

    def scans(self, experiment_id, *, deadline):
        kinds = self.labels["types"]
        found = enumerate(dict.fromkeys(self.labels["scans"]))
        return tuple(Scan(ident or "0", f"/x/{i}", type=kinds[i % len(kinds)]) for i, ident in found)

    def assessors(self, experiment_id, *, deadline):
        return (Assessor("A1", self.labels["subjects"][0], "/experiments/E/assessors/A1"),)

    def session_resources(self, experiment_id, *, deadline):
        owners = [("scans", scan.id) for scan in self.scans(experiment_id, deadline=deadline)]
        owners += [("resources", ""), ("assessors", "A1")]
        return tuple(
            Resource(f"{n}{i}", label, f"/experiments/{experiment_id}/{n}/resources/{n}{i}", kind, owner, 1)
            for n, (kind, owner) in enumerate(owners)
            for i, label in enumerate(self.labels["resources"])
        )

    def session_files(self, experiment_id, *, deadline):
        found = self.session_resources(experiment_id, deadline=deadline)
        return {one.id: (FileRecord(f"{one.uri}/files/", "a.bin", 3, "", one.id),) for one in found}

    def input_resources(self, experiment_id, part, *, deadline):
        return ()

    def reconstructions(self, experiment_id, *, deadline):
        return ()

    def resources(self, container_uri, *, deadline):
        return ()


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            key: st.lists(LABELS, min_size=1, max_size=3)
            for key in ("subjects", "sessions", "scans", "types", "resources")
        }
    )
)
def test_whatever_the_labels_are_every_file_has_one_place(labels):
    clock = Clock()
    with core(AnyArchive(labels), clock) as plain:
        wanted = sorted(files(plain))
        for shape in LAYOUTS.values():
            view = layouts.View(plain, shape, clock=clock)
            places = {path: view.plain_path(path) for path in files(view)}
            assert sorted(places.values()) == wanted
            assert all(view.shown(there) == path for path, there in places.items())
            assert all(len(part.encode()) <= 255 for path in places for part in path.split("/"))


# -- names that are not listed ---------------------------------------------------------------------------------------


@every_layout
def test_ids_are_links_to_labels(make, name):
    view = make(name)
    above, label = SESSION[name].rsplit("/", 1)
    assert view.readlink(f"{above}/E1") == label
    assert "E1" not in names(view, above)
    assert names(view, f"{above}/E1") == names(view, SESSION[name])
    assert view.lookup(f"{above}/E1", follow=True) == view.lookup(SESSION[name])
    assert view.getxattr(f"{above}/E1", "user.xnat.id") == b"E1"


def test_the_number_of_a_scan_leads_to_its_name_in_the_zip(make):
    assert make("zip").readlink("/P/sub-01/MR1/scans/1") == "1-T1"


@every_layout
def test_links_by_type_lead_to_scans_as_the_layout_has_them(make, name):
    view = make(name)
    there = f"{SESSION[name]}/.xnat/by-type/T1"
    target = SCAN[name].removeprefix(SESSION[name])
    assert view.readlink(f"{there}/1") == f"../../..{target}"
    assert view.getattr(f"{there}/1").size == len(f"../../..{target}")
    node = view.directory(there).get("1")
    assert isinstance(node, LinkNode)
    assert node.target == f"../../..{target}"
    assert names(view, f"{there}/1") == ["DICOM", "NIFTI"]
    with pytest.raises(InvalidRequest):
        view.readlink(SESSION[name])


@every_layout
def test_metadata_and_refresh_are_in_every_directory(make, archive, name):
    view = make(name)
    assert "status.json" in names(view, "/.xnat")
    assert not archive.calls
    path = SCAN[name]
    before = archive.calls.copy()
    while path:
        path = path.rpartition("/")[0]
        assert ".xnat" not in names(view, path or "/")
        assert "children.csv" in names(view, f"{path}/.xnat")
        assert content(view, f"{path}/.xnat/refresh-all") == b"refreshed\n"
        names(view, SESSION[name])
        assert archive.calls["session_resources"] > before["session_resources"]
        before = archive.calls.copy()


@every_layout
def test_attributes_are_those_of_what_a_directory_stands_for(make, name):
    view = make(name)
    assert view.getxattr(SESSION[name], "user.xnat.id") == b"E1"
    assert view.getxattr(SCAN[name], "user.xnat.type") == b"T1"
    group = SCAN[name].rpartition("/")[0]
    assert view.listxattr(group) == ["user.xnat.path"]
    with pytest.raises(NoAttribute):
        view.getxattr(group, "user.xnat.id")


@every_layout
def test_inode_numbers_are_unique_and_the_same_again(make, name):
    def numbers(view, path=""):
        directory = view.directory(path or "/")
        for entry, kind, ino in directory.entries():
            below = f"{path}/{entry}"
            assert view.getattr(below).ino == ino
            yield below, ino
            if kind.value == "directory":
                yield from numbers(view, below)

    found = dict(numbers(make(name)))
    assert len(set(found.values())) == len(found)
    assert dict(numbers(make(name))) == found


# -- errors ----------------------------------------------------------------------------------------------------------


@every_layout
def test_an_error_is_that_of_the_plain_tree_and_never_an_empty_directory(make, archive, name):
    above = SESSION[name].rpartition("/")[0]
    for call, path in (("projects", above), ("experiments", above), ("session_resources", SESSION[name])):
        view = make(name)
        view._plain.refresh("/")
        archive.fail = {call: Unreachable("away")}
        with pytest.raises(Unreachable):
            names(view, path if call != "session_resources" else SCAN[name].rpartition("/")[0])
        archive.fail = {call: ServerFault("broken")}
        with pytest.raises(ServerFault):
            view.lookup(SCAN[name])
        archive.fail = {}
        assert names(view, path)


@every_layout
def test_what_is_not_there_is_missing(make, name):
    view = make(name)
    for path in ("/nothing", f"{SESSION[name]}/nothing", f"{SCAN[name]}/nothing", f"{SESSION[name]}x/y"):
        with pytest.raises(NotFound):
            view.lookup(path)
        with pytest.raises(NotFound):
            view.open(path)
    with pytest.raises(NameTooLong):
        view.lookup(f"{SESSION[name]}/{'n' * 256}")
    with pytest.raises(IsADirectory):
        view.open(SESSION[name])
    file = next(path for path in files(view) if path.startswith(SCAN[name]))
    with pytest.raises(NotADirectory):
        view.directory(file)


@every_layout
def test_what_an_old_listing_lacks_is_not_called_absent(make, archive, clock, name, monkeypatch):
    view = make(name)
    monkeypatch.setattr(view._plain._browser, "_since", lambda *_: "2024-01-01")
    above = SESSION[name].rpartition("/")[0]
    assert names(view, above)
    with pytest.raises(Unreachable):
        view.lookup(f"{above}/unknown")


# -- what it costs ---------------------------------------------------------------------------------------------------


@every_layout
def test_going_to_a_resource_costs_what_it_costs_in_the_plain_tree(archive, clock, name):
    def cost(face, path):
        before = archive.calls.copy()
        names(face, path)
        return archive.calls - before

    below = "/DICOM" if name != "zip" else "/resources/DICOM/files"
    for there, path in (
        ("/", "/"),
        ("/P/sub-01", SESSION[name].rpartition("/")[0]),
        ("/P/sub-01/MR1", SESSION[name]),
        ("/P/sub-01/MR1/1", SCAN[name]),
        ("/P/sub-01/MR1/1/DICOM", SCAN[name] + below),
    ):
        with core(archive, clock) as fresh, core(archive, clock) as other:
            view = layouts.View(other, LAYOUTS[name], clock=clock)
            wanted = cost(fresh, there)
            if name == "zip" and there.startswith("/P/sub-01/MR1/"):
                wanted["scans"] = 1  # the type is part of the name
            assert cost(view, path) == (wanted if path != "/" or name != "jupyter" else {})


@every_layout
def test_a_second_look_costs_nothing_until_the_listings_expire(make, archive, clock, name):
    view = make(name)
    first = list(files(view))
    before = archive.calls.copy()
    directory = view.directory(SESSION[name])
    assert list(files(view)) == first
    assert view.directory(SESSION[name]) is directory
    assert archive.calls == before
    clock.now += 61
    assert list(files(view)) == first
    assert archive.calls["session_resources"] > before["session_resources"]


@every_layout
def test_a_refresh_is_seen_at_once(make, plain, archive, name):
    view = make(name)
    above = SESSION[name].rpartition("/")[0]
    shown = view.directory(above)
    made = archive.experiments
    new = Experiment("E9", "NEW", "/experiments/E9", "S1")
    archive.experiments = lambda project, *, deadline: (*made(project, deadline=deadline), new)
    assert "NEW" not in names(view, above)
    plain.refresh("/P")
    assert shown.expires < 0
    assert "NEW" in names(view, above)
    assert view.lookup(f"{above}/NEW").name == "NEW"


@every_layout
def test_names_that_desktops_probe_for_cost_no_request(make, archive, name):
    view = make(name)
    names(view, "/")
    names(view, SESSION[name].rpartition("/")[0])
    before = archive.calls.copy()
    for probe in (".Trash", "autorun.inf", ".hidden"):
        with pytest.raises(NotFound):
            view.directory(SCAN[name].rpartition("/")[0], wanted=probe).get(probe) or view.lookup("/nothing")
    assert archive.calls == before


@every_layout
def test_looking_for_one_name_gives_a_directory_that_knows_it(make, name):
    view = make(name)
    group, scan = SCAN[name].rsplit("/", 1)
    session, group_name = group.rsplit("/", 1)
    assert view.directory(session, wanted=group_name).get(group_name) == view.lookup(group)
    assert view.directory(group, wanted=scan).get(scan) == view.lookup(SCAN[name])
    assert view.directory(group, wanted="nothing").get("nothing") is None
