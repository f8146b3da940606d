"""What every face of the file system shows of the demo archive, compared with the archive's own model."""

from __future__ import annotations

import csv
import io
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timezone

import pytest
from support import truth

from xnatfs.demo import synthetic_archive

PROJECTS = sorted(synthetic_archive().projects)


def walk(face, top):
    """Every file below, by path; and no name listed twice."""
    found = []
    waiting = [top]
    while waiting:
        here = waiting.pop()
        names = face.listdir(here)
        assert len(set(names)) == len(names), here
        for name in names:
            path = f"{here.rstrip('/')}/{name}"
            if face.stat(path).kind == "dir":
                waiting.append(path)
            else:
                found.append(path)
    return sorted(found)


def test_the_root_lists_the_projects(face, demo):
    assert face.listdir("/") == sorted(demo.archive.projects)


@pytest.mark.parametrize("project", PROJECTS)
def test_every_file_is_where_the_readme_says_and_nothing_else_is(face, demo, project):
    assert walk(face, f"/{project}") == sorted(truth.tree(demo.archive, project))


@pytest.mark.parametrize("project", PROJECTS)
def test_every_size_is_the_archives_and_inodes_are_unique(face, demo, project):
    inodes = set()
    for path, stored in truth.tree(demo.archive, project).items():
        found = face.stat(path)
        assert found.kind == "file"
        assert found.size == (0 if stored.missing else stored.content.size), path
        inodes.add(found.ino)
    assert len(inodes) == len(truth.tree(demo.archive, project))


@pytest.mark.parametrize("project", PROJECTS)
def test_every_byte_is_the_archives(face, demo, project):
    for path, stored in truth.tree(demo.archive, project).items():
        if stored.missing:
            with pytest.raises(Exception, match=r"(?i)no such|no bytes"):
                face.read(path)
        else:
            assert truth.md5(face.read(path)) == truth.md5(truth.content(stored)), path


def _largest(demo):
    files = {p: s for project in demo.archive.projects for p, s in truth.tree(demo.archive, project).items()}
    path = max(files, key=lambda path: 0 if files[path].missing else files[path].content.size)
    return path, truth.content(files[path])


def test_any_range_of_a_file_is_a_slice_of_it(face, demo):
    path, whole = _largest(demo)
    chance = random.Random(7)
    for _ in range(200):
        offset = chance.randrange(len(whole) + 1000)
        size = chance.choice([1, 100, 4096, 65536, 131072, 300_000])
        assert face.read(path, offset, size) == whole[offset : offset + size]


def test_many_readers_at_once_read_the_same(face, demo):
    path, whole = _largest(demo)
    with ThreadPoolExecutor(16) as readers:
        assert all(data == whole for data in readers.map(lambda _: face.read(path), range(32)))


def test_ids_are_links_to_labels(face, demo):
    subject = next(s for s in demo.archive.subjects.values() if s.project.id == PROJECTS[0] or True)
    top = f"/{subject.project.id}"
    assert face.stat(f"{top}/{subject.id}").kind == "link"
    assert face.listdir(f"{top}/{face.readlink(f'{top}/{subject.id}')}") == face.listdir(f"{top}/{subject.id}")


def test_a_name_longer_than_any_can_be_is_said_to_be_so(face):
    for path in ("/" + "x" * 256, "/DEMO/" + "x" * 300, "/DEMO/" + "x" * 300):  # twice: absence is remembered
        with pytest.raises(Exception, match=r"(?i)name too long|longer than 255"):
            face.stat(path)


def test_a_missing_name_is_missing(face):
    for path in ("/NOSUCH", f"/{PROJECTS[0]}/nobody", "/.Trash", f"/{PROJECTS[0]}/autorun.inf"):
        with pytest.raises(Exception, match=r"(?i)no such|nobody|NOSUCH|Trash|autorun"):
            face.stat(path)


def test_scan_attributes_are_those_of_xnat(face, demo):
    session = next(e for e in demo.archive.experiments.values() if len(e.scans) > 1)
    top = f"/{session.project.id}/{session.subject.label}/{session.label}"
    for scan in session.scans.values():
        found = face.xattrs(f"{top}/{scan.id}")
        assert found["user.xnat.id"] == scan.id.encode()
        assert found.get("user.xnat.type", b"").decode() == scan.fields.get("type", "")
        assert found.get("user.xnat.series_description", b"").decode() == scan.fields.get("series_description", "")


def test_files_carry_their_digest(face, demo):
    path, whole = _largest(demo)
    assert face.xattrs(path)["user.xnat.digest"].decode() == truth.md5(whole)


def test_the_metadata_directory_is_unlisted_and_holds_tables_and_documents(face, demo):
    session = next(e for e in demo.archive.experiments.values() if len(e.scans) > 1)
    top = f"/{session.project.id}/{session.subject.label}/{session.label}"
    assert ".xnat" not in face.listdir(top)
    assert face.listdir(f"{top}/.xnat") == ["by-type", "children.csv", "children.json", "item.json"]
    rows = list(csv.DictReader(io.StringIO(face.read(f"{top}/.xnat/children.csv").decode(), newline="")))
    assert sorted(row["id"] for row in rows) == sorted(session.scans)
    assert json.loads(face.read(f"{top}/.xnat/children.json"))
    assert json.loads(face.read(f"{top}/.xnat/item.json"))["items"]
    assert isinstance(json.loads(face.read("/.xnat/status.json")), dict)


def test_inode_numbers_are_unique_among_everything_that_a_mount_shows(face):
    """Directories, files and what stands in .xnat, of all projects."""
    seen, waiting = {}, ["/"]
    while waiting:
        here = waiting.pop()
        below = here.rstrip("/")
        for path in [f"{below}/{name}" for name in face.listdir(here)] + [f"{below}/.xnat"]:
            try:
                found = face.stat(path)
            except Exception:  # no .xnat in .xnat, and none in a folder of a resource
                assert path.endswith("/.xnat")
                continue
            assert seen.setdefault(found.ino, path) == path
            if found.kind == "dir":
                waiting.append(path)
    assert len(seen) > 1000


def test_times_are_the_archives_and_stay(face, demo):
    path, _ = _largest(demo)
    first = face.stat(path).mtime_ns
    project, _, label = path.split("/")[1:4]
    (session,) = (
        e for e in demo.archive.experiments_of(demo.archive.projects[project]) if e.label_in(project) == label
    )
    assert first // 10**9 == int(session.inserted.replace(tzinfo=timezone.utc).timestamp())
    face.read(path)
    assert face.stat(path).mtime_ns == first
