"""The shape of the mount, from records to nodes."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from xnatfs.tree import attributes, files, layout
from xnatfs.tree.directory import Directory
from xnatfs.tree.nodes import DirNode, FileNode, Kind, Level, LinkNode
from xnatfs.xnat.records import Experiment, FileRecord, Project, Resource, Scan, Subject

PROJECT = Project("P", "/projects/P")
SUBJECT = Subject(
    "XNAT_S1", "sub-01", "/projects/P/subjects/XNAT_S1", inserted=1000.5, modified=7.0, fields=(("gender", "F"),)
)
SESSION = Experiment(
    "XNAT_E1", "MR1", "/experiments/XNAT_E1", "XNAT_S1", inserted=2000.0, xsi_type="xnat:mrSessionData"
)


def open_dir(children, node=layout.ROOT):
    return Directory(node, children, expires=1.0)


def descend(directory, name):
    node = directory.get(name)
    assert isinstance(node, DirNode)
    return node


def subject_dir():
    project = descend(open_dir(layout.root([PROJECT])), "P")
    return descend(open_dir(layout.project(project, [SUBJECT]), project), "sub-01")


def session_dir():
    subject = subject_dir()
    return descend(open_dir(layout.subject(subject, [SESSION]), subject), "MR1")


def resource_dir(records):
    session = session_dir()
    scan = descend(
        open_dir(layout.experiment(session, [Scan("3", "/experiments/XNAT_E1/scans/3")], False), session), "3"
    )
    resource = Resource("123", "DICOM", "/experiments/XNAT_E1/scans/3/resources/123")
    node = descend(open_dir(layout.resources(scan, [resource]), scan), "DICOM")
    return node, (files.file_tree(records), records)


def files_of(here, resource):
    return files.files(here, *resource)


def file(path, digest="", size=3):
    return FileRecord("/experiments/XNAT_E1/scans/3/resources/123/files/", path, size, digest, "123")


def test_a_project_lists_labels_and_finds_ids_as_links():
    project = descend(open_dir(layout.root([PROJECT])), "P")
    listing = open_dir(layout.project(project, [SUBJECT]), project)
    assert listing.names() == ["sub-01", "resources"]
    link = listing.get("XNAT_S1")
    assert isinstance(link, LinkNode)
    assert link.target == "sub-01"
    assert listing.get("XNAT_S2") is None


def test_the_metadata_directory_is_found_but_never_listed():
    listing = open_dir(layout.root([PROJECT]))
    assert ".xnat" not in listing.names()
    assert listing.get(".xnat").address.level is Level.META


def test_a_session_lists_scans_in_natural_order_and_its_fixed_directories():
    session = session_dir()
    scans = [Scan(ident, f"/experiments/XNAT_E1/scans/{ident}") for ident in ("10", "OT1", "3-MR2", "3")]
    listing = open_dir(layout.experiment(session, scans, False), session)
    assert listing.names() == ["3", "3-MR2", "10", "OT1", "resources", "assessors"]
    assert isinstance(listing.get("reconstructions"), DirNode)


def test_a_scan_that_is_called_like_a_fixed_directory_does_not_hide_it():
    session = session_dir()
    listing = open_dir(
        layout.experiment(session, [Scan("assessors", "/experiments/XNAT_E1/scans/assessors")], False), session
    )
    assert listing.get("assessors").address.level is Level.ASSESSORS
    assert listing.names() == ["assessors~assessors", "resources", "assessors"]


def test_an_experiment_shared_without_its_subject_is_reachable():
    lonely = Experiment("XNAT_E9", "X", "/experiments/XNAT_E9", "XNAT_S9", "other")
    assert [s.label for s in layout.with_orphans(PROJECT, [SUBJECT], [SESSION, lonely])] == ["sub-01", "other"]


def test_times_come_from_the_archive_and_a_changed_digest_changes_them():
    node, tree = resource_dir([file("a.dcm", "0123456789abcdef0123456789abcdef")])
    _, changed = resource_dir([file("a.dcm", "1123456789abcdef0123456789abcdef")])
    before = open_dir(files_of(node, tree), node).get("a.dcm")
    after = open_dir(files_of(node, changed), node).get("a.dcm")
    assert before.mtime_ns // 10**9 == after.mtime_ns // 10**9 == 2000
    assert before.mtime_ns != after.mtime_ns
    assert before.ino == after.ino


def test_inode_numbers_do_not_depend_on_what_else_is_listed():
    node, few = resource_dir([file("a")])
    _, many = resource_dir([file("b"), file("a"), file("c/d")])
    assert open_dir(files_of(node, few), node).get("a").ino == open_dir(files_of(node, many), node).get("a").ino


def test_files_of_one_name_in_two_folders_and_a_file_that_is_a_folder_as_well():
    node, tree = resource_dir([file("a/x"), file("b/x"), file("a"), file("deep/er/x")])
    listing = open_dir(files_of(node, tree), node)
    assert sorted(listing.names()) == ["a", "a~file", "b", "deep"]
    assert [kind for name, kind, _ in listing.entries() if name == "a"] == [Kind.DIRECTORY]
    deep = descend(listing, "deep")
    assert open_dir(files_of(deep, tree), deep).names() == ["er"]


def test_paths_that_a_hostile_server_may_list_stay_inside_the_resource():
    hostile = ["../../evil", "./x", "a//b", "/etc/passwd", "dir/", "x\0y", "/".join("d" for _ in range(3000)) + "/f"]
    node, tree = resource_dir([file(path) for path in hostile])
    listing = open_dir(files_of(node, tree), node)
    assert sorted(listing.names()) == ["%2E", "%2E%2E", "a", "d", "dir", "x%00y"]


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "..", ".", "", "x/y", "%2F", "ü", "c" * 260]), min_size=1, max_size=4).map(
        "/".join
    ),
    max_size=12,
)


@given(PATHS)
def test_every_file_of_a_resource_is_reached_exactly_once(paths):
    records = [file(path) for path in paths]
    node, tree = resource_dir(records)
    found = []

    def visit(here):
        listing = open_dir(files_of(here, tree), here)
        assert len(set(listing.names())) == len(listing.names())
        for child in listing.nodes():
            if isinstance(child, FileNode):
                found.append(child.record.path)
            else:
                visit(child)

    visit(node)
    assert sorted(found) == sorted({path for path in paths if not path.startswith("/")})


def test_attributes_have_the_names_of_xnat_and_no_empty_values():
    session = session_dir()
    scan = Scan("3", "/experiments/XNAT_E1/scans/3", type="T1", series_description="t1 ü")
    listing = open_dir(layout.experiment(session, [scan], False), session)
    found = attributes.xattrs(listing.get("3"))
    assert found["user.xnat.type"] == b"T1"
    assert found["user.xnat.series_description"] == "t1 ü".encode()
    assert "user.xnat.note" not in found
    assert attributes.xattrs(listing.get("resources")) == {}


def test_children_as_csv_have_one_row_each_and_all_columns():
    project = descend(open_dir(layout.root([PROJECT])), "P")
    other = Subject("XNAT_S2", 'odd, "label"\n', "/projects/P/subjects/XNAT_S2", fields=(("yob", "1980"),))
    table = attributes.as_csv(attributes.rows(open_dir(layout.project(project, [SUBJECT, other]), project).nodes()))
    rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    assert [(row["entry"], row["gender"], row["yob"]) for row in rows] == [
        ('odd, "label"\n', "", "1980"),
        ("sub-01", "F", ""),
    ]


def test_probes_of_desktops_are_known():
    assert layout.is_probe(".Trash-1000")
    assert layout.is_probe("._x")
    assert layout.is_probe("autorun.inf")
    assert not layout.is_probe("sub-01")
