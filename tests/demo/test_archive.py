"""Contents, changes under way, bulk builders, the user's own files."""

from __future__ import annotations

import hashlib
import zlib

import pytest

from xnatfs.demo import (
    Archive,
    bulk_archive,
    bulk_project,
    bulk_resource,
    directory_archive,
    export,
    hostile_archive,
    synthetic_archive,
)
from xnatfs.demo.content import Bytes, Lazy, OnDisk, Pattern


@pytest.fixture
def contents(tmp_path):
    data = bytes(range(256)) * 3000
    path = tmp_path / "file"
    path.write_bytes(data)
    return data, [Bytes(data), Lazy(lambda: data), Lazy(lambda: data, lambda: len(data)), OnDisk(path)]


def test_contents_agree(contents):
    data, kinds = contents
    for content in kinds:
        assert content.size == len(data)
        assert content.read(1000, 50) == data[1000:1050]
        assert content.read(len(data) - 5, 50) == data[-5:]
        assert b"".join(content.chunks()) == data
        assert b"".join(content.chunks(70, 300_000)) == data[70:300_070]
        assert content.md5 == hashlib.md5(data).hexdigest()
        assert content.crc32 == zlib.crc32(data)


def test_patterns_are_one_sequence_whatever_the_reads():
    content = Pattern(3_000_000, seed=7)
    whole = content.read(0, content.size)
    assert len(whole) == content.size
    assert b"".join(content.chunks()) == whole
    for offset in (0, 1, 1_048_582, 1_048_583, 2_999_999):
        assert content.read(offset, 5) == whole[offset : offset + 5]
    assert Pattern(100, 1).md5 != Pattern(100, 2).md5
    assert content.read(content.size, 5) == b""


def test_a_file_on_disk_is_what_it_is_now(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    content = OnDisk(path)
    before = content.md5
    path.write_bytes(b"new and longer")
    assert content.md5 != before
    assert content.size == 14


def test_changes_show_at_once(start, small, dicom):
    raw = start(small)
    resource = small.resource_called("DICOM")
    rows = {row["Name"]: row for row in raw.rows(dicom)}
    changed = raw.get(f"{dicom}/a.dcm").headers["last-modified"]
    small.replace_file(resource, "a.dcm", b"other")
    after = {row["Name"]: row for row in raw.rows(dicom)}
    assert (after["a.dcm"]["Size"], after["b.dcm"]) == ("5", rows["b.dcm"])
    assert raw.get(f"{dicom}/a.dcm").headers["last-modified"] > changed
    small.delete_file(resource, "a.dcm")
    assert raw.get(f"{dicom}/a.dcm").status == 404
    small.rename(small.find("E"), "F")
    other = small.add_project("Q")
    small.share(small.find("S"), other, "T")
    assert [row["label"] for row in raw.rows("/data/projects/P/experiments")] == ["F"]
    assert [row["label"] for row in raw.rows("/data/projects/Q/subjects")] == ["T"]
    small.unshare(small.find("S"), other)
    small.delete(small.find("S"))
    assert raw.rows("/data/projects/P/experiments") == []
    assert not list(small.files())
    with pytest.raises(LookupError):
        small.find("S")


def test_bulk(start):
    archive = bulk_archive(scans=3, resources=2, files=5, size=lambda n: 100 + n)
    raw = start(archive)
    rows = raw.rows("/data/experiments/XNAT_E00001/files?all=true")
    assert len(rows) == 30
    assert sorted(int(row["Size"]) for row in rows) == sorted([100, 101, 102, 103, 104] * 6)
    assert hashlib.md5(raw.get(rows[7]["URI"]).body).hexdigest() == rows[7]["digest"]
    project = bulk_project(archive, sessions=4, project="MANY")
    assert len(archive.subjects_of(project)) == len(archive.experiments_of(project)) == 4


def test_100_000_files(start):
    archive = Archive()
    session = archive.add_session(archive.add_subject(archive.add_project("P"), "S"), "E")
    bulk_resource(archive, session, files=100_000, size=64)
    raw = start(archive)
    first = raw.get(f"/data/experiments/{session.id}/files?all=true").body
    assert first.count(b'"Name"') == 100_000
    assert raw.get(f"/data/experiments/{session.id}/files?all=true").body == first


def tree_of(archive, *, but=()):
    def place(resource):
        words, item = [resource.label, resource.direction == "in"], resource.parent
        while item is not None:
            words.append(getattr(item, "label", None) or item.id)
            item = item.parent_item()
        return tuple(reversed(words))

    return {(*place(r), f.path): f.content.md5 for r, f in archive.files() if place(r)[0] not in but and not f.missing}


def test_own_files_in_the_shape_of_the_mount(tmp_path):
    demo = synthetic_archive(odd=False)
    export(demo, tmp_path)
    own = directory_archive(tmp_path)
    assert tree_of(own) == tree_of(demo)
    session = own.find("sub-01_PET1")
    assert session.xsi_type == "xnat:petSessionData"
    assert session.fields["date"] == "2024-01-03"
    assert session.scans["1"].fields["series_description"] == "fdg_static"


def test_own_files_without_any_shape(tmp_path, start):
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "beach" / "b.jpg").write_bytes(b"bb")
    raw = start(directory_archive(folder))
    rows = raw.rows("/data/projects/holiday/files")
    assert {row["URI"].split("/files/")[1] for row in rows} == {"a.jpg", "beach/b.jpg"}
    assert {row["collection"] for row in rows} == {"FILES"}


def test_own_files_higher_up_than_a_resource(tmp_path):
    for path in ("P/p.txt", "P/S/s.txt", "P/S/E/e.txt", "P/S/E/1/scan.txt", "P/S/E/1/DICOM/x/y.dcm", "top.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    archive = directory_archive(tmp_path)
    found = {(type(r.parent).__name__, r.label, f.path) for r, f in archive.files()}
    assert found == {
        ("Project", "FILES", "top.txt"),
        ("Project", "FILES", "p.txt"),
        ("Subject", "FILES", "s.txt"),
        ("Experiment", "FILES", "e.txt"),
        ("Scan", "FILES", "scan.txt"),
        ("Scan", "DICOM", "x/y.dcm"),
    }


def test_own_files_are_served_from_disk(tmp_path, start):
    file = tmp_path / "P/S/E/1/DICOM/big.dcm"
    file.parent.mkdir(parents=True)
    data = Pattern(700_000, 3).read(0, 700_000)
    file.write_bytes(data)
    raw = start(directory_archive(tmp_path, digest_limit=1000))
    (row,) = raw.rows("/data/experiments/XNAT_E00001/files?all=true")
    assert (row["Size"], row["digest"]) == ("700000", ""), "too big to be hashed for a listing"
    assert raw.get(row["URI"]).body == data
    assert raw.get(row["URI"], Range="bytes=699990-699999").body == data[-10:]
    file.write_bytes(b"shorter")
    assert raw.get(row["URI"]).body == b"shorter"
    assert raw.rows("/data/experiments/XNAT_E00001/files?all=true")[0]["Size"] == "7"
    file.unlink()
    assert raw.get(row["URI"]).status == 404


def test_offload_to_a_server_in_front(tmp_path, start):
    file = tmp_path / "P/S/E/1/DICOM/a b.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    raw = start(directory_archive(tmp_path), offload_root=tmp_path)
    reply = raw.get("/data/experiments/XNAT_E00001/scans/1/resources/DICOM/files/a%20b.dcm")
    assert reply.headers["x-accel-redirect"] == "/offload/P/S/E/1/DICOM/a%20b.dcm"
    assert reply.body == b""
    assert reply.headers["content-type"] == "application/octet-stream"


def test_no_directory(tmp_path):
    with pytest.raises(NotADirectoryError):
        directory_archive(tmp_path / "nothing")


def test_a_hostile_archive_is_served_as_it_is(start):
    from xnatfs.demo.odd import HOSTILE_PATHS

    raw = start(hostile_archive())
    rows = raw.rows("/data/experiments/XNAT_E00001/scans/1/resources/PATHS/files")
    assert [row["URI"].split("/files/", 1)[1] for row in rows] == list(HOSTILE_PATHS)
    assert len(raw.rows("/data/projects/HOSTILE/subjects")) == 11
    assert raw.get("/data/experiments/XNAT_E00001/files?all=true&format=zip").status == 200


def test_http_1_0_as_a_proxy_speaks_it(start, small, dicom):
    import socket

    raw = start(small)
    cookie = raw.get("/data/JSESSION").text
    for path in (dicom, f"{dicom}?format=zip"):
        with socket.create_connection((raw.server.host, raw.server.port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nCookie: JSESSIONID={cookie}\r\n\r\n".encode())
            whole = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = whole.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == raw.get(path).body


def test_a_missing_extra_is_named():
    import subprocess
    import sys

    script = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'pydicom' else real(name, *more)\n"
        "try:\n    import xnatfs.demo\nexcept ImportError as error:\n    print(error.name)\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "pydicom\n"
    )
