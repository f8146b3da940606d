"""Single items as documents (contract 6)."""

from __future__ import annotations

RESTLET_404 = (
    "<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n"
    "<h3>The server has not found anything matching the request URI</h3><p>You can get technical details "
    '<a href="http://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html#sec10.4.5">here</a>.<br>\n'
    'Please continue your visit at our <a href="/">home page</a>.\n</p>\n</body>\n</html>\n'
)


def children(item, field):
    return next((child["items"] for child in item["children"] if child["field"] == field), [])


def item_of(raw, path):
    (item,) = raw.get(f"/data/{path}?format=json").json["items"]
    assert item["meta"]["isHistory"] is False
    assert set(item) == {"meta", "data_fields", "children"}
    return item


def test_A29_session(raw):
    item = item_of(raw, "experiments/XNAT_E00001")
    assert item["meta"]["xsi:type"] == "xnat:mrSessionData"
    assert item["data_fields"]["subject_ID"] == "XNAT_S00001"
    scans = children(item, "scans/scan")
    assert [scan["data_fields"]["ID"] for scan in scans] == ["1", "2", "3", "4-MR2"]
    assert scans[1]["data_fields"]["frames"] == 32, "native types here, text in tables"
    (dicom, *_) = children(scans[1], "file")
    assert dicom["data_fields"]["label"] == "DICOM"
    assert isinstance(dicom["data_fields"]["file_count"], int)
    assert [share["data_fields"] for share in children(item, "sharing/share")] == [
        {"project": "SHARED", "label": "case-A_visit1"}
    ]
    assert {a["data_fields"]["label"] for a in children(item, "assessors/assessor")} == {
        "sub-01_MR1_QC",
        "sub-01_MR1_auto",
    }


def test_B52_demographics_and_custom_variables(raw):
    item = item_of(raw, "projects/DEMO/subjects/sub-01")
    (person,) = children(item, "demographics")
    assert person["meta"]["xsi:type"] == "xnat:demographicData"
    assert person["data_fields"] == {"yob": 1980, "gender": "female", "handedness": "right", "education": 16}
    assert {"name": "cohort", "field": "A"} in [v["data_fields"] for v in children(item, "fields/field")]


def test_assessor_and_reconstruction_documents(raw):
    item = item_of(raw, "experiments/XNAT_E00001/assessors/XNAT_E00010")
    assert [r["data_fields"]["label"] for r in children(item, "in/file")] == ["SOURCE"]
    assert [r["data_fields"]["label"] for r in children(item, "out/file")] == ["STATS"]
    item = item_of(raw, "experiments/XNAT_E00001/reconstructions/average")
    assert item["data_fields"]["baseScanType"] == "T1 MPRAGE"


def test_C54_C55_negotiation(raw):
    for path in ("projects/DEMO", "projects/DEMO/subjects/sub-01", "experiments/XNAT_E00001"):
        assert raw.get(f"/data/{path}?format=json", Accept="application/json").status == 406
        page = raw.get(f"/data/{path}")
        assert (page.status, page.headers["content-type"]) == (200, "text/html")
        document = raw.get(f"/data/{path}?format=xml")
        assert document.text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<xnat:')


def test_A34_restlet_page_byte_for_byte(raw):
    reply = raw.get("/data/projects/NOSUCH?format=json")
    assert reply.status == 404
    assert reply.text == RESTLET_404
    assert reply.headers["content-type"] == "text/html;charset=ISO-8859-1"
    assert "<h3>Unable to identify subject</h3>" in raw.get("/data/projects/DEMO/subjects/NOPE/files").text


def test_sharing_listing(raw):
    rows = raw.rows("/data/experiments/XNAT_E00001/projects?format=json")
    assert {row["ID"]: row["label"] for row in rows} == {"DEMO": "sub-01_MR1", "SHARED": "case-A_visit1"}
