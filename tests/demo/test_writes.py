"""Uploads, new containers, deletes (contract 8)."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

MULTIPART = {"Content_Type": "multipart/form-data; boundary=xyz"}


def form(name: str, data: bytes) -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--xyz--\r\n"


@pytest.fixture
def raw(start, small):
    return start(small)


NEW = "/data/projects/P/subjects/S/experiments/E/scans/1/resources/NEW/files"


def modified(raw) -> tuple[str, str]:
    (subject,) = raw.rows("/data/projects/P/subjects?columns=ID,last_modified")
    (session,) = raw.rows("/data/projects/P/experiments?columns=ID,last_modified")
    return subject["last_modified"], session["last_modified"]


def test_A30_A27_three_ways_to_upload(raw):
    ways = [
        raw("POST", f"{NEW}/x/one.txt?inbody=true", body=b"one"),
        raw("PUT", f"{NEW}/x/two.txt", body=b"two", Content_Type="application/octet-stream"),
        raw("PUT", f"{NEW}/x/three.txt", body=form("ignored", b"three"), **MULTIPART),
        raw("PUT", NEW, body=form("fo ur#.txt", b"four"), **MULTIPART),
    ]
    assert [(reply.status, reply.body) for reply in ways] == [(200, b"")] * 4
    rows = {row["URI"].split("/files/")[1]: row for row in raw.rows(NEW)}
    assert set(rows) == {"x/one.txt", "x/two.txt", "x/three.txt", "fo ur#.txt"}
    assert rows["x/two.txt"]["digest"] == hashlib.md5(b"two").hexdigest()
    assert rows["x/three.txt"]["Size"] == "5"


def test_A31_duplicates(raw, dicom):
    reply = raw("PUT", f"{dicom}/a.dcm?inbody=true", body=b"new")
    assert (reply.status, reply.json, reply.headers["content-type"]) == (200, {"duplicates": ["a.dcm"]}, "text/html")
    assert len(raw.get(f"{dicom}/a.dcm").body) == 1024
    assert raw("PUT", f"{dicom}/a.dcm?inbody=true&overwrite=true", body=b"new").body == b""
    assert raw.get(f"{dicom}/a.dcm").body == b"new"


def test_A32_containers(raw):
    base = "/data/projects/P/subjects/T"
    assert [(r.status, r.text) for r in (raw("PUT", base), raw("PUT", base))] == [
        (201, "XNAT_S00002"),
        (200, "XNAT_S00002"),
    ]
    assert raw("PUT", f"{base}/experiments/T1").status == 417
    made = raw("PUT", f"{base}/experiments/T1?xsiType=xnat:petSessionData&date=2024-05-06&note=a%26b")
    assert (made.status, made.text) == (201, "XNAT_E00002")
    (row,) = raw.rows("/data/experiments/XNAT_E00002/scans?format=json") or [{}]
    assert row == {}
    assert raw("PUT", f"{base}/experiments/T1/scans/7?xsiType=xnat:petScanData&type=FDG").text == ""
    assert raw("PUT", f"{base}/experiments/T1/scans/7?xsiType=xnat:mrScanData").status == 409
    assert raw("PUT", f"{base}/experiments/T1/scans/7/resources/R?format=X").status == 200
    assert raw("PUT", f"{base}/experiments/T1/scans/7/resources/R").status == 409
    assert raw("PUT", f"{base}/experiments/T1/assessors/QC?xsiType=xnat:qcManualAssessorData").status == 201
    assert raw("PUT", f"{base}/experiments/T1/reconstructions/R1?type=avg").status == 200
    assert raw.rows("/data/projects/P/experiments?columns=ID,note&label=T1")[0]["note"] == "a&amp;b"


def test_A33_delete(raw, dicom):
    for path in (
        f"{dicom}/a.dcm",
        "/data/experiments/XNAT_E00001/scans/1",
        "/data/experiments/XNAT_E00001",
        "/data/projects/P/subjects/S",
    ):
        assert raw("DELETE", path).status == 200, path
        assert raw("DELETE", path).status == 404, path


def test_A33_delete_of_a_resource_twice(raw, dicom):
    path = dicom.removesuffix("/files")
    assert [raw("DELETE", path).status for _ in range(2)] == [200, 200]


def test_B36_last_modified_moves(raw, dicom):
    before = modified(raw)
    raw("PUT", f"{NEW}/n.txt?inbody=true", body=b"12345")
    added = modified(raw)
    assert all(new > old for new, old in zip(added, before, strict=True))
    raw("PUT", f"{NEW}/n.txt?inbody=true&overwrite=true", body=b"54321")
    assert modified(raw) == added, "equal size: nothing moves"
    raw("DELETE", f"{NEW}/n.txt")
    assert all(new > old for new, old in zip(modified(raw), added, strict=True))


def test_B39_extract(raw):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("d/a b.txt", "x")
        archive.writestr("c.txt", "y")
    raw("PUT", f"{NEW}/up.zip?extract=true", body=packed.getvalue(), Content_Type="application/zip")
    assert {row["URI"].split("/files/")[1] for row in raw.rows(NEW)} == {"d/a b.txt", "c.txt"}


def test_B40_delete_is_by_prefix(raw):
    for name in ("a", "a.txt", "ab/x", "b"):
        raw("PUT", f"{NEW}/{name}?inbody=true", body=b"x")
    assert raw("DELETE", f"{NEW}/a").status == 200
    assert [row["Name"] for row in raw.rows(NEW)] == ["b"]
    assert raw("DELETE", f"{NEW}/zzz").status == 404


def test_B41_rename_and_share(raw):
    assert raw("PUT", "/data/projects/P/subjects/S/experiments/E?label=F").status == 200
    assert [row["label"] for row in raw.rows("/data/projects/P/experiments")] == ["F"]
    assert raw("PUT", "/data/projects/Q").status == 200
    assert raw("PUT", "/data/projects/P/subjects/S/projects/Q?label=other").status == 200
    assert [row["label"] for row in raw.rows("/data/projects/Q/subjects")] == ["other"]
    assert raw("PUT", "/data/projects/P/subjects/S/projects/Q").status == 409
    assert raw("DELETE", "/data/projects/Q/subjects/other").status == 200
    assert raw.rows("/data/projects/Q/subjects") == []
    assert len(raw.rows("/data/projects/P/subjects")) == 1


def test_C57_names_are_stored_by_the_decode_rule(raw):
    for sent in ("a%23b.txt", "a%20%23b.txt", "c+d.txt"):
        raw("PUT", f"{NEW}/{sent}?inbody=true", body=b"x")
    assert [row["Name"] for row in raw.rows(NEW)] == ["a%23b.txt", "a #b.txt", "c+d.txt"]


def test_C58_no_right_to_edit_is_a_silent_200(raw):
    reply = raw("PUT", f"{NEW}/n.txt?inbody=true", body=b"x", user="reader")
    assert (reply.status, reply.body) == (200, b"")
    assert raw.rows(NEW) == []
    assert raw("PUT", "/data/projects/P/subjects/U", user="reader").status == 403
    assert raw("PUT", f"{NEW}/n.txt?inbody=true", body=b"x", user="member").status == 200
    assert len(raw.rows(NEW)) == 1


def test_C59_empty_bodies(raw):
    octets = {"Content_Type": "application/octet-stream"}
    reply = raw("PUT", f"{NEW}/e.txt?inbody=true", body=b"", **octets)
    assert reply.status == 500
    assert "<h3>In-body File posts must include the file directly as the body of the message.</h3>" in reply.text
    assert raw("PUT", f"{NEW}/e.txt", body=form("e.txt", b""), **MULTIPART).status == 200
    assert raw.rows(NEW)[0]["Size"] == "0"


def test_C61_refusals(raw, dicom):
    assert raw("PUT", "/data/projects/bad.id").status == 417
    assert raw("DELETE", f"{dicom}/a.dcm", user="member").status == 403
    assert raw("DELETE", "/data/projects/P/subjects/S", user="member").status == 403
    assert raw("POST", f"{dicom}/a.dcm?method=DELETE").status == 200, "tunnelled"
    assert raw("PATCH", "/data/projects/P").status == 405
