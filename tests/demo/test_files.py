"""File listings, downloads, ranges, bundles, names (contract 4, 5 and 7.4)."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from urllib.parse import quote

import pytest

from xnatfs.demo.odd import ODD_NAMES

E1 = "/data/experiments/XNAT_E00001"
KEYS = {"Name", "Size", "URI", "collection", "file_tags", "file_format", "file_content", "cat_ID", "digest"}


def test_A20_file_listing(raw):
    reply = raw.get(f"{E1}/scans/2/resources/DICOM/files?format=json")
    result = reply.json["ResultSet"]
    assert list(result) == ["Columns", "Result", "title"]
    assert result["Columns"] == [{"key": "URI", "serverRoot": ""}]
    assert result["title"] == "Files"
    assert len(result["Result"]) == 32
    for row in result["Result"]:
        assert set(row) == KEYS
        assert all(isinstance(cell, str) for cell in row.values())
    assert row["collection"] == row["file_format"] == "DICOM"
    assert row["file_content"] == "RAW"
    assert row["URI"].startswith(f"{E1}/scans/2/resources/{row['cat_ID']}/files/")


def test_A21_names_are_base_names_and_uris_raw_text(raw):
    rows = raw.rows("/data/projects/ODD/subjects/odd%20subject%20%231/experiments/odd%20subject%20%231/files?all=true")
    names = [row for row in rows if row["collection"] == "NAMES"]
    assert [row["URI"].split("/files/", 1)[1] for row in names] == list(ODD_NAMES)
    assert [row["Name"] for row in names] == [name.rsplit("/", 1)[-1] for name in ODD_NAMES]


def test_A22_all_levels_or_the_session_only(raw):
    rows = raw.rows(f"{E1}/files?all=true")
    places = {row["URI"].split("/files/")[0].removeprefix(f"{E1}/").rsplit("/resources/", 1)[0] for row in rows}
    assert places == {
        f"resources/{next(r['cat_ID'] for r in rows if r['collection'] == 'NOTES')}",
        "scans/1",
        "scans/2",
        "scans/3",
        "scans/4-MR2",
        "assessors/XNAT_E00009",
        "assessors/XNAT_E00009/out",
        "assessors/XNAT_E00010/out",
        "reconstructions/average/out",
    }
    assert {row["collection"] for row in raw.rows(f"{E1}/files")} == {"NOTES"}
    assert {r["collection"] for r in raw.rows(f"{E1}/resources/DICOM,NOTES/files?all=true")} == {"DICOM", "NOTES"}


def test_A22_project_and_subject_files(raw):
    for path in ("/data/projects/DEMO/subjects/sub-01/files", "/data/subjects/XNAT_S00001/files"):
        (row,) = raw.rows(path)
        assert row["URI"].startswith("/data/projects/DEMO/subjects/XNAT_S00001/resources/")
    assert {row["Name"] for row in raw.rows("/data/projects/DEMO/files")} == {
        "README.txt",
        "consent.txt",
        "participants.tsv",
    }


def test_A23_scan_selectors(raw):
    assert len(raw.rows(f"{E1}/scans/ALL/files")) > 80
    assert {r["URI"].split("/")[5] for r in raw.rows(f"{E1}/scans/1,4-MR2/resources/DICOM/files")} == {"1", "4-MR2"}
    assert {r["collection"] for r in raw.rows(f"{E1}/scans/FLAIR/files")} == {"DICOM", "SNAPSHOTS"}
    assert raw.rows(f"{E1}/scans/ALL/resources/ALL/files") == []
    base = "/data/experiments/XNAT_E00003/scans"
    (row, *_) = raw.rows("/data/projects/DEMO/subjects/sub-01/experiments/sub-01_MR1/scans/ALL/resources/NIFTI/files")
    assert "/scans/2/" in row["URI"], "several resources matched"
    assert "/scans/1/" in raw.rows(f"{base}/ALL/resources/DICOM/files")[0]["URI"]


def test_one_matching_resource_has_comma_joined_scans(start, small):
    raw = start(small)
    small.add_scan(small.find("E"), "2")
    (row, _) = raw.rows("/data/experiments/XNAT_E00001/scans/ALL/resources/DICOM/files")
    assert "/scans/1,2/resources/" in row["URI"]


def test_A24_by_label_and_by_number(raw):
    listed = raw.rows(f"{E1}/scans/3/resources/DICOM/files")[0]
    number = listed["cat_ID"]
    full = f"/data/projects/DEMO/subjects/sub-01/experiments/sub-01_MR1/scans/3/resources/{number}/files"
    assert raw.rows(full)[0]["URI"].startswith(
        f"/data/projects/DEMO/subjects/XNAT_S00001/experiments/XNAT_E00001/scans/3/resources/{number}/files/"
    )
    bodies = {
        raw.get(f"{base}/{listed['Name']}").body
        for base in (f"{E1}/scans/3/resources/DICOM/files", f"{E1}/scans/3/resources/{number}/files", full)
    }
    assert len(bodies) == 1
    assert raw("HEAD", listed["URI"]).headers["content-length"] == listed["Size"]
    foreign = raw.rows(f"/data/experiments/XNAT_E00003/resources/{number}/files")
    assert foreign[0]["URI"].startswith("/data/experiments/XNAT_E00003/resources/"), "the container is not checked"


def test_A25_one_file(raw):
    reply = raw.get("/data/projects/DEMO/resources/PROTOCOL/files/forms/consent.txt")
    assert reply.body == b"I agree that this is synthetic.\n"
    shown = {k: reply.headers.get(k) for k in ("content-type", "content-length", "content-disposition", "etag")}
    assert shown == {
        "content-type": "text/plain",
        "content-length": "32",
        "content-disposition": 'attachment; filename="consent.txt";',
        "etag": None,
    }
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["cache-control"] == "must-revalidate"
    assert reply.headers["last-modified"].endswith("GMT")
    head = raw("HEAD", "/data/projects/DEMO/resources/PROTOCOL/files/forms/consent.txt")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "32"
    assert head.headers["last-modified"] == reply.headers["last-modified"]


def test_A27_every_listed_file_of_a_session_is_what_the_listing_says(raw):
    for row in raw.rows(f"{E1}/files?all=true"):
        body = raw.get(row["URI"]).body
        assert (str(len(body)), hashlib.md5(body).hexdigest()) == (row["Size"], row["digest"]), row["URI"]


@pytest.mark.parametrize(
    ("asked", "shown", "start_", "stop"),
    [
        ("bytes=0-99", "bytes 0-99/1024", 0, 100),
        ("bytes=100-", "bytes 100-1023/1024", 100, 1024),
        ("bytes=-16", "bytes 1008-1023/1024", 1008, 1024),
        ("bytes=0-", "bytes 0-1023/1024", 0, 1024),
        ("bytes=1023-1023", "bytes 1023-1023/1024", 1023, 1024),
        ("bytes=1024-", "bytes 1024-1023/1024", 1024, 1024),
    ],
)
def test_A26_ranges(start, small, dicom, asked, shown, start_, stop):
    reply = start(small).get(f"{dicom}/a.dcm", Range=asked, If_Range="Mon, 01 Jan 2001 00:00:00 GMT")
    assert reply.status == 206
    assert reply.headers["content-range"] == shown
    assert reply.headers["content-length"] == str(stop - start_)
    assert reply.body == (bytes(range(256)) * 4)[start_:stop]


def test_C60_range_oddities(start, small, dicom):
    raw = start(small)
    many = raw.get(f"{dicom}/a.dcm", Range="bytes=0-9,20-29")
    assert many.status == 501
    assert "sec10.5.2" in many.text
    assert many.headers["connection"] == "close"
    resource = next(r for r in small.resources.values() if r.label == "NOTES")
    small.add_file(resource, "empty.dat", b"")
    assert raw.get("/data/experiments/XNAT_E00001/resources/NOTES/files/empty.dat", Range="bytes=0-").status == 200
    for path in (f"{dicom}?format=zip", dicom):
        assert raw.get(path, Range="bytes=5-").status == 500
        assert raw.get(path, Range="bytes=-5").status == 500
        assert raw.get(path, Range="bytes=0-5").status == 200


def test_C60_a_range_past_the_end_promises_too_much_and_falls_silent(start, small, dicom):
    raw = start(small)
    with pytest.raises(TimeoutError):
        _short_timeout(raw, f"{dicom}/a.dcm", "bytes=1000-2000")
    record = raw.server.requests[-1]
    assert (record.status, record.bytes_sent) == (206, 24)


def _short_timeout(raw, path, wanted):
    import http.client

    connection = http.client.HTTPConnection(raw.server.host, raw.server.port, timeout=0.5)
    try:
        cookie = raw.get("/data/JSESSION").text
        connection.request("GET", path, headers={"Range": wanted, "Cookie": f"JSESSIONID={cookie}"})
        answer = connection.getresponse()
        assert answer.getheader("Content-Length") == "1001"
        assert answer.getheader("Content-Range") == "bytes 1000-2000/1024"
        answer.read()
    finally:
        connection.close()


def test_ranges_of_a_kinder_server(start, small, dicom):
    raw = start(small, clamp_ranges=True)
    assert len(raw.get(f"{dicom}/a.dcm", Range="bytes=1000-2000").body) == 24
    assert raw.get(f"{dicom}/a.dcm", Range="bytes=2000-").status == 416
    deaf = start(small, ranges=False).get(f"{dicom}/a.dcm", Range="bytes=0-9")
    assert (deaf.status, len(deaf.body)) == (200, 1024)


def zip_of(reply) -> dict[str, bytes]:
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/zip"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in reply.headers
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_A28_zip(raw):
    reply = raw.get(f"{E1}/scans/2/resources/DICOM/files?format=zip")
    assert reply.headers["content-disposition"] == 'attachment; filename="sub-01_MR1.zip";'
    members = zip_of(reply)
    listed = {row["Name"]: row for row in raw.rows(f"{E1}/scans/2/resources/DICOM/files")}
    prefix = "sub-01_MR1/scans/2-T1_MPRAGE/resources/DICOM/files/"
    assert set(members) == {prefix + name for name in listed}
    for name, body in members.items():
        assert hashlib.md5(body).hexdigest() == listed[name.removeprefix(prefix)]["digest"]
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.flag_bits == 0x800, "UTF-8, and sizes in the local header"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("scans/1/files?format=zip", "E/scans/1-T1_w/resources/DICOM/files/sub/b.dcm"),
        ("scans/1/files?format=zip&structure=simplified", "E/scans/1/DICOM/sub/b.dcm"),
        ("files?all=true&format=zip", "E/scans/1/resources/DICOM/files/sub/b.dcm"),
        ("files?all=true&format=zip&structure=legacy", "E/SCANS/1/DICOM/sub/b.dcm"),
        ("files?all=true&format=zip&structure=improved", "scans/1_T1 w/DICOM/sub/b.dcm"),
        ("files?format=zip", "E/resources/NOTES/files/n.txt"),
        ("files?format=zip&structure=simplified", "E/NOTES/n.txt"),
    ],
)
def test_A28_zip_layouts(start, small, query, name):
    assert name in zip_of(start(small).get(f"/data/experiments/XNAT_E00001/{query}"))


def test_A28_zip_of_nothing_is_404(raw):
    reply = raw.get("/data/projects/EMPTY/files?format=zip")
    assert reply.status == 404
    assert reply.headers["content-disposition"] == 'attachment; filename="EMPTY.zip";'


def test_other_bundles(start, small, dicom):
    raw = start(small)
    with zipfile.ZipFile(io.BytesIO(raw.get(f"{dicom}?format=zip&compression=8").body)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    plain = raw.get(f"{dicom}?format=tar").body
    packed = raw.get(f"{dicom}?format=tar.gz").body
    assert gzip.decompress(packed) == plain
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert archive.extractfile("E/scans/1-T1_w/resources/DICOM/files/sub/b.dcm").read() == b"b" * 300


def test_odd_names_survive_in_a_zip(raw):
    path = "/data/experiments/" + raw.server.archive.resource_called("NAMES").parent.session.id
    members = zip_of(raw.get(f"{path}/scans/1/resources/NAMES/files?format=zip"))
    assert {name.split("/files/", 1)[1] for name in members} == set(ODD_NAMES)
    for name, body in members.items():
        assert body.decode() == name.split("/files/", 1)[1] + "\n"


REFUSED = {"percent%.txt", "escaped%20name.txt", "escaped%23hash.txt", "semi;colon.txt", "back\\slash.txt"}
UNREACHABLE = {"archive.zip/inside.txt"}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_C56_odd_names_encoded_once(raw, name):
    resource = raw.server.archive.resource_called("NAMES")
    base = f"/data/experiments/{resource.parent.session.id}/scans/1/resources/{resource.number}/files"
    reply = raw.get(f"{base}/{quote(name)}")
    if name in REFUSED:
        assert reply.status in (400, 500), "the firewall's"
    elif name in UNREACHABLE:
        assert reply.status == 404
    else:
        assert (reply.status, reply.body.decode()) == (200, f"{name}\n")
    index = ODD_NAMES.index(name)
    assert raw.get(f"{base}?index={index}").body.decode() == f"{name}\n"


def test_C57_escapes_that_are_part_of_a_stored_name_are_sent_unchanged(raw):
    resource = raw.server.archive.resource_called("NAMES")
    base = f"/data/experiments/{resource.parent.session.id}/scans/1/resources/{resource.number}/files"
    assert raw.get(f"{base}/escaped%23hash.txt").text == "escaped%23hash.txt\n"
    assert raw.get(f"{base}/plus+plus.txt").text == "plus+plus.txt\n"
    assert raw.get(f"{base}/plus%2Bplus.txt").text == "plus+plus.txt\n"
    assert raw.get(f"{base}/sp%20ace/in%20fol+der/file%20name.txt").status == 200, "a plus becomes a space as well"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/data/projects/a%2Fb", 400),
        ("/data/projects/a%5Cb", 400),
        ("/data/projects/a%zz", 400),
        ("/data/projects/a%25b", 500),
        ("/data/projects/a;b", 500),
        ("/data/projects/a%3Bb", 500),
        ("/data//projects", 500),
        ("/data/projects/../projects", 500),
        ("/data/projects/a%2Eb", 500),
        ("/data/projects/a%0Ab", 500),
    ],
)
def test_C56_firewall(raw, path, status):
    assert raw.get(path).status == status


def test_firewall_off(start):
    raw = start(firewall=False)
    resource = raw.server.archive.resource_called("NAMES")
    base = f"/data/experiments/{resource.parent.session.id}/scans/1/resources/{resource.number}/files"
    assert raw.get(f"{base}/percent%25.txt").text == "percent%.txt\n"


def test_B38_filters_index_and_not_found(raw):
    base = f"{E1}/scans/2/files"
    assert {r["Name"] for r in raw.rows(f"{base}?file_content=THUMBNAIL")} == {"snapshot_t.png"}
    assert {r["collection"] for r in raw.rows(f"{base}?file_format=PNG&file_format=JSON")} == {"SNAPSHOTS", "NIFTI"}
    assert raw.get(f"{base}?file_content=THUMBNAIL&index=0").body.startswith(b"\x89PNG")
    assert raw.get(f"{base}?index=9999").status == 404
    assert raw.get(f"{base}?index=9999&accept-not-found=true").status == 204


def test_folders(start, small, dicom):
    raw = start(small)
    assert [row["Name"] for row in raw.rows(f"{dicom}/sub/")] == ["b.dcm"]
    missing = raw.get(f"{dicom}/sub")
    assert missing.status == 404
    assert "Unable to find catalog entry for given uri." in missing.text
    assert missing.text.startswith("<!doctype html>")


def test_C62_unknown_resources(start, small):
    raw = start(small)
    base = "/data/experiments/XNAT_E00001/scans/1/resources"
    assert raw.rows(f"{base}/NOPE/files") == []
    assert raw.get(f"{base}/99999/files").status == 404
    page = raw.get(f"{base}/NOPE/files/a.dcm")
    assert page.status == 404
    assert page.text.startswith("<html>\n<head>\n   <title>Status page</title>")


def test_C63_fall_through_is_off_unless_asked_for(start):
    unknown = "/data/projects/DEMO/subjects/sub-01/experiments/{}/files"
    for name in ("NOPE", "sub-01_MR1/scans/777"):
        assert start().get(unknown.format(name)).status == 404
        (row,) = start(fall_through=True).rows(unknown.format(name))
        assert row["Name"] == "consent.txt"
    assert start().get("/data/experiments/NOPE/files").status == 500
    assert start().get("/data/experiments/XNAT_E00001/scans/777/files").status == 500
    assert start().get("/data/experiments/XNAT_E00007/scans/ALL/files").status == 500
    assert start().rows("/data/experiments/XNAT_E00007/files?all=true") == []


def test_B46_catalog(raw):
    reply = raw.get("/data/projects/DEMO/resources/PROTOCOL?format=json")
    assert reply.headers["content-type"] == "text/xml"
    assert reply.text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<cat:Catalog ')
    assert 'URI="forms/consent.txt"' in reply.text
    assert 'createdTime="2024-06-18T' in reply.text
    assert f'digest="{hashlib.md5(b"I agree that this is synthetic." + bytes([10])).hexdigest()}"' in reply.text
    dicom = raw.get(f"{E1}/scans/2/resources/DICOM").text
    assert dicom.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<cat:DCMCatalog ')
    assert raw.get(f"{E1}/scans/2/resources/DICOM", Accept="application/json").status == 406
    assert raw.get(f"{E1}/scans/2/resources/NOPE").status == 404
    assert raw.get(f"{E1}/scans/2/resources/DICOM/nosuch").status == 400


def test_two_resource_called_one_label(raw):
    resource = raw.server.archive.resource_called("TWICE")
    base = f"/data/experiments/{resource.parent.session.id}/scans/2/resources"
    assert {row["Name"] for row in raw.rows(f"{base}/TWICE/files")} == {"first.txt", "second.txt", "both.txt"}
    assert raw.get(f"{base}/TWICE").status == 404
    assert {row["Name"] for row in raw.rows(f"{base}/NULL/files")} == {"no label.txt"}


def test_gaps_of_a_listing(raw):
    resource = raw.server.archive.resource_called("BARE")
    base = f"/data/experiments/{resource.parent.session.id}/scans/2/resources/{resource.number}/files"
    rows = {row["Name"]: (row["Size"] != "", row["digest"] != "") for row in raw.rows(base)}
    assert rows == {
        "no-digest.txt": (True, False),
        "no-size.txt": (False, True),
        "neither.txt": (False, False),
        "gone.txt": (False, False),
        "zero-bytes.dat": (True, True),
    }
    gone = raw.get(f"{base}/gone.txt")
    assert gone.status == 404
    assert "Unable to find file." in gone.text
    assert raw("HEAD", f"{base}/no-size.txt").headers["content-length"] == "12"


def test_B47_several_sessions_at_once(raw):
    rows = raw.rows("/data/experiments/XNAT_E00001,NOPE,XNAT_E00002/files?all=true")
    assert {row["URI"].split("/")[3] for row in rows} == {"XNAT_E00001", "XNAT_E00002"}


def test_B50_if_modified_since(start, small, dicom):
    raw = start(small)
    changed = raw.get(f"{dicom}/a.dcm").headers["last-modified"]
    same = raw.get(f"{dicom}/a.dcm", If_Modified_Since=changed)
    assert (same.status, same.body) == (304, b"")
    assert raw.get(f"{dicom}/a.dcm", If_Modified_Since="Mon, 01 Jan 2001 00:00:00 GMT").status == 200
    assert raw.get(f"{dicom}/a.dcm", If_Unmodified_Since="Mon, 01 Jan 2001 00:00:00 GMT").status == 412
    assert raw.get(dicom, If_Modified_Since=changed).status == 200


def test_C54_negotiation(raw):
    file = "/data/projects/DEMO/resources/PROTOCOL/files/README.txt"
    assert raw.get(file, Accept="application/octet-stream").status == 406
    assert raw.get(file, Accept="application/json").status == 200
    assert raw.get("/data/projects?format=csv", Accept="text/csv").status == 406
    assert "not acceptable" in raw.get(file, Accept="application/octet-stream").text


def test_C67_context_path(start, small, dicom):
    raw = start(small, context_path="/xnat/")
    assert raw.server.url.endswith("/xnat")
    result = raw.get(dicom).json["ResultSet"]
    assert result["Columns"][0]["serverRoot"] == "/xnat"
    assert result["Result"][0]["URI"].startswith("/data/")
    assert raw.get("/data/projects").cookies["JSESSIONID"].endswith("Path=/xnat; HttpOnly")
    assert raw.get("/", user=None).headers["location"] == "/xnat/app/template/Login.vm"


def test_poisoned_catalog(start, small, dicom):
    raw = start(small)
    next(r for r in small.resources.values() if r.label == "DICOM").poisoned = True
    small.touch()
    for path in (dicom, "/data/experiments/XNAT_E00001/files?all=true"):
        assert raw.get(path).status == 500
    assert raw.get(dicom.removesuffix("/files")).status == 200
    assert raw.get("/data/experiments/XNAT_E00001/resources?all=true").status == 200
    assert raw.rows("/data/experiments/XNAT_E00001/files")


def test_switches_of_the_listing(start, small, dicom):
    assert {row["digest"] for row in start(small, digests=False).rows(dicom)} == {""}
    assert {row["Size"] for row in start(small, sizes=False).rows(dicom)} == {""}
    assert start(small, all_files=False).get("/data/experiments/XNAT_E00001/files?all=true").status == 500
