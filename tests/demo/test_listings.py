"""Listings: envelopes, columns, filters, levels (contract 3)."""

from __future__ import annotations

import csv
import io

import pytest

DEFAULTS = {
    "/data/projects": "ID secondary_ID name description pi_firstname pi_lastname URI",
    "/data/projects/DEMO/subjects": "ID project label insert_date insert_user URI",
    "/data/projects/DEMO/experiments": "ID project date xsiType label insert_date xnat:subjectassessordata/id URI",
    "/data/projects/DEMO/subjects/sub-01/experiments": "ID project date xsiType label insert_date "
    "xnat:subjectassessordata/id URI",
    "/data/experiments": "ID project date xsiType label insert_date URI",
    "/data/experiments/XNAT_E00001/scans": "xnat_imagescandata_id ID type quality xsiType note series_description URI",
    "/data/experiments/XNAT_E00001/assessors": "ID project label date xsiType insert_date session_ID session_label "
    "xnat:imageassessordata/id URI",
    "/data/experiments/XNAT_E00001/reconstructions": "xnat_reconstructedimagedata_id ID type baseScanType URI",
}
RESOURCE_KEYS = {
    *("xnat_abstractresource_id", "label", "element_name", "category", "cat_id", "cat_desc"),
    *("file_count", "file_size", "tags", "content", "format"),
}


@pytest.mark.parametrize("path", sorted(DEFAULTS))
def test_A10_A12_envelope_and_default_columns(raw, path):
    reply = raw.get(path + "?format=json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["vary"] == "Accept-Charset, Accept-Encoding, Accept-Language, Accept"
    result = reply.json["ResultSet"]
    assert set(result) <= {"Result", "totalRecords", "title"}
    assert result["totalRecords"] == str(len(result["Result"]))
    assert result["Result"]
    for row in result["Result"]:
        assert set(row) == set(DEFAULTS[path].split())
        assert all(isinstance(cell, str) for cell in row.values())


def test_A10_null_is_empty_and_an_empty_listing_is_one(raw):
    assert raw.get("/data/projects/EMPTY/subjects?format=json").text == (
        '{"ResultSet":{"Result":[], "totalRecords": "0"}}'
    )
    assert raw.rows("/data/projects/DEMO/subjects?columns=ID,ses")[0]["ses"] == ""


@pytest.mark.parametrize("path", sorted(DEFAULTS))
def test_A11_csv_has_the_same_cells(raw, path):
    reply = raw.get(path + "?format=csv")
    assert reply.headers["content-type"] == "text/csv"
    assert list(csv.DictReader(io.StringIO(reply.text))) == raw.rows(path + "?format=json")


def test_A13_columns(raw):
    rows = raw.rows("/data/projects/DEMO/subjects?columns=label,xsiType,nonsense,gender")
    assert set(rows[0]) == {"label", "gender", "ID", "URI"}
    assert {row["label"]: row["gender"] for row in rows}["sub-02"] == "male"
    everything = raw.rows("/data/projects/DEMO/subjects?columns=DEFAULT,last_modified")
    assert set(everything[0]) == {*DEFAULTS["/data/projects/DEMO/subjects"].split(), "last_modified"}


def test_A13_scans_without_ID_stumble(raw):
    assert raw.get("/data/experiments/XNAT_E00001/scans?columns=type").status == 500
    assert raw.get("/data/experiments/XNAT_E00007/scans?columns=type").rows == []


def test_A14_types_and_xpaths(raw):
    rows = raw.rows("/data/experiments?xsiType=xnat:mrSessionData&project=DEMO&columns=ID,label")
    assert {row["label"] for row in rows} == {"sub-01_MR1", "sub-01_MR2", "sub-02_MR1", "sub-03_MR1", "sub-03_MR2"}
    row = raw.rows("/data/experiments?xsiType=xnat:mrSessionData&columns=ID,xnat:mrSessionData/fieldStrength")[0]
    assert row["xnat:mrsessiondata/fieldstrength"] == "3.0"


def test_root_narrowing(raw):
    path = "/data/projects/DEMO/experiments?columns=ID,label"
    assert len(raw.rows(path)) == 8
    assert len(raw.rows(path + ",modality")) == 7
    assert {row["xnat:mrsessiondata/id"] for row in raw.rows(path + ",fieldStrength")} >= {"XNAT_E00001"}
    whole = {row["ID"] for row in raw.rows("/data/experiments?columns=ID,label")}
    assert "XNAT_E00009" in whole
    assert "XNAT_E00009" not in {row["ID"] for row in raw.rows("/data/experiments?columns=ID,subject_ID")}


def test_A15_labels_below_a_project_and_ids_elsewhere(raw):
    for subject in ("sub-01", "XNAT_S00001"):
        for session in ("sub-01_MR1", "XNAT_E00001"):
            assert raw.rows(f"/data/projects/DEMO/subjects/{subject}/experiments/{session}/scans")
    assert raw.get("/data/experiments/sub-01_MR1?format=json").status == 404
    assert raw.get("/data/subjects/sub-01?format=json").status == 404
    assert raw.get("/data/projects/demo/subjects").status == 404


def test_A16_shared_things_have_the_label_of_the_project(raw):
    subjects = {r["ID"]: r for r in raw.rows("/data/projects/SHARED/subjects")}
    assert subjects["XNAT_S00001"]["label"] == "case-A"
    assert subjects["XNAT_S00001"]["project"] == "DEMO"
    assert subjects["XNAT_S00001"]["URI"] == "/data/subjects/XNAT_S00001"
    sessions = raw.rows("/data/projects/SHARED/experiments?columns=ID,label,subject_ID,subject_label")
    first = next(row for row in sessions if row["ID"] == "XNAT_E00001")
    assert (first["label"], first["subject_label"]) == ("case-A_visit1", "case-A")
    assert {row["label"] for row in sessions} == {"case-A_visit1", "sub-02_MR1"}
    assert raw.rows("/data/projects/SHARED/subjects/case-A/experiments/case-A_visit1/scans")
    assert raw.get("/data/projects/SHARED/subjects/sub-01").status == 404


def test_A17_no_assessors_among_experiments(raw):
    for path in ("/data/projects/DEMO/experiments", "/data/projects/DEMO/subjects/sub-01/experiments"):
        assert not {row["xsiType"] for row in raw.rows(path)} & {"xnat:qcManualAssessorData", "xnat:qcAssessmentData"}
    assert {"xnat:subjectVariablesData"} <= {row["xsiType"] for row in raw.rows("/data/projects/DEMO/experiments")}


def test_A18_scans(raw):
    rows = {row["ID"]: row for row in raw.rows("/data/experiments/XNAT_E00001/scans")}
    assert list(rows) == ["1", "2", "3", "4-MR2"]
    assert rows["4-MR2"]["URI"] == "/data/experiments/XNAT_E00001/scans/4-MR2"
    assert rows["2"]["type"] == "T1 MPRAGE"
    assert raw.get("/data/experiments/NOPE/scans").status == 500
    assert raw.get("/data/projects/DEMO/subjects/sub-01/experiments/NOPE/scans").status == 404


@pytest.mark.parametrize(
    ("path", "category", "cat_id", "cat_desc"),
    [
        ("/data/projects/DEMO", "resources", "", " "),
        ("/data/projects/DEMO/subjects/sub-01", "resources", "", " "),
        ("/data/experiments/XNAT_E00001", "resources", "XNAT_E00001", " "),
        ("/data/experiments/XNAT_E00001/scans/2", "scans", "2", "T1 MPRAGE"),
        ("/data/experiments/XNAT_E00001/reconstructions/average", "reconstructions", "average", "T1 average"),
        ("/data/experiments/XNAT_E00001/assessors/XNAT_E00009", "assessors", "XNAT_E00009", "Manual QC"),
    ],
)
def test_A19_resources(raw, path, category, cat_id, cat_desc):
    reply = raw.get(path + "/resources?format=json")
    assert reply.json["ResultSet"]["title"] == "Resources"
    for row in reply.rows:
        assert set(row) == RESOURCE_KEYS
        assert (row["category"], row["cat_id"], row["cat_desc"]) == (category, cat_id, cat_desc)
        assert row["element_name"] == "xnat:resourceCatalog"
    assert reply.rows


def test_A19_resources_of_the_whole_session(raw):
    rows = raw.rows("/data/experiments/XNAT_E00001/resources?all=true")
    assert {(r["category"], r["cat_id"], r["label"]) for r in rows} >= {
        ("resources", "", "NOTES"),
        ("scans", "2", "DICOM"),
        ("assessors", "XNAT_E00009", "FORM"),
        ("assessors", "XNAT_E00009", "REPORT"),
        ("reconstructions", "average", "NIFTI"),
    }
    assert "SOURCE" not in {row["label"] for row in rows}, "inputs are no part of it"
    dicom = next(row for row in rows if row["cat_id"] == "2" and row["label"] == "DICOM")
    assert (dicom["file_count"], dicom["format"], dicom["content"]) == ("32", "DICOM", "RAW")


def test_inputs_are_listed_where_they_are_asked_for(raw):
    base = "/data/experiments/XNAT_E00001"
    assert [r["label"] for r in raw.rows(f"{base}/assessors/ALL/in/resources")] == ["SOURCE"]
    assert [r["label"] for r in raw.rows(f"{base}/assessors/ALL/out/resources")] == ["REPORT", "STATS"]
    assert [r["label"] for r in raw.rows(f"{base}/assessors/ALL/resources")] == ["FORM"]
    assert [r["label"] for r in raw.rows(f"{base}/reconstructions/ALL/in/resources")] == ["INPUTS"]


def test_A23_scan_selectors(raw):
    base = "/data/experiments/XNAT_E00001/scans"
    assert {r["cat_id"] for r in raw.rows(f"{base}/ALL/resources")} == {"1", "2", "3", "4-MR2"}
    assert {r["cat_id"] for r in raw.rows(f"{base}/*/resources")} == {"1", "2", "3", "4-MR2"}
    assert {r["cat_id"] for r in raw.rows(f"{base}/1,3/resources")} == {"1", "3"}
    assert {r["cat_id"] for r in raw.rows(f"{base}/T1%20MPRAGE/resources")} == {"2"}
    assert raw.get("/data/experiments/XNAT_E00007/scans/ALL/resources").status == 404


def test_B37_paging_and_sorting(raw):
    path = "/data/projects/DEMO/subjects?columns=ID,label"
    reply = raw.get(path + "&limit=2&offset=1")
    assert [row["label"] for row in reply.rows] == ["sub-02", "sub-03"]
    assert "totalRecords" not in reply.json["ResultSet"]
    assert len(raw.rows(path + "&limit=*")) == 4
    labels = [row["label"] for row in raw.rows(path + "&sortBy=label&sortOrder=DESC")]
    assert labels == ["sub-04", "sub-03", "sub-02", "sub-01"]


def test_filters(raw):
    assert [r["label"] for r in raw.rows("/data/projects/DEMO/subjects?label=sub-02,sub-03")] == ["sub-02", "sub-03"]
    assert len(raw.rows("/data/projects/DEMO/experiments?label=*_MR1")) == 3
    assert raw.rows("/data/experiments?project=NOSUCH") == []
    assert {r["ID"] for r in raw.rows("/data/experiments?project=SHARED")} == set(), "the owner only"


def test_B48_scan_query_with_outer_join(raw):
    rows = raw.rows(
        "/data/experiments?project=DEMO&xsiType=xnat:imageSessionData&columns=ID,label,subject_label,project,"
        "xnat:imagesessiondata/subject_id,xnat:imagescandata/id,xnat:imagescandata/type,xnat:imagescandata/frames,"
        "xnat:imagescandata/file/label,xnat:imagescandata/file/file_count,xnat:imagescandata/file/file_size,"
        "xnat:imagescandata/file/xnat_abstractresource_id"
    )
    first = next(row for row in rows if row["ID"] == "XNAT_E00001" and row["xnat:imagescandata/id"] == "2")
    assert first["session_ID"] == "XNAT_E00001"
    assert first["xsiType"] == "xnat:mrSessionData"
    assert first["xnat:imagesessiondata/subject_id"] == "XNAT_S00001"
    assert first["xnat:imagescandata/file/file_count"] == "32"
    assert first["xnat:imagescandata/file/xnat_abstractresource_id"].isdigit()
    empty = [row for row in rows if row["label"] == "sub-03_MR2"]
    assert len(empty) == 1
    assert empty[0]["xnat:imagescandata/id"] == empty[0]["xnat:imagescandata/file/label"] == ""


RESOURCE_COLUMNS = {
    "/data/projects": "xnat:projectData/resources/resource/",
    "/data/projects/DEMO/subjects": "xnat:subjectData/resources/resource/",
    "/data/projects/DEMO/experiments": "xnat:experimentData/resources/resource/",
}


@pytest.mark.parametrize("path", sorted(RESOURCE_COLUMNS))
def test_resources_as_columns(raw, path):
    prefix = RESOURCE_COLUMNS[path]
    names = ("label", "xnat_abstractresource_id", "file_count", "file_size")
    rows = raw.rows(path + "?columns=ID," + ",".join(prefix + name for name in names))
    keys = {(prefix + name).lower() for name in names}
    assert keys <= set(rows[0])
    with_one = [row for row in rows if row[prefix.lower() + "label"]]
    assert with_one
    assert all(row[prefix.lower() + "xnat_abstractresource_id"].isdigit() for row in with_one)
    without = [row for row in rows if not row[prefix.lower() + "label"]]
    assert without
    assert all(row[key] == "" for row in without for key in keys)


def test_resources_as_columns_on_an_old_server(start):
    raw = start(resource_columns=False)
    for path, prefix in RESOURCE_COLUMNS.items():
        rows = raw.rows(f"{path}?columns=ID,{prefix}label")
        assert not [key for key in rows[0] if "resource" in key]


def test_B49_assessors_of_a_project(raw):
    rows = raw.rows(
        "/data/experiments?xsiType=xnat:imageAssessorData&project=DEMO&columns=ID,label,session_ID,session_label"
    )
    assert {row["label"] for row in rows} == {"sub-01_MR1_QC", "sub-01_MR1_auto"}
    assert {row["session_label"] for row in rows} == {"sub-01_MR1"}
    assert {row["session_ID"] for row in rows} == {"XNAT_E00001"}


def test_C66_order_is_not_promised(start):
    raw, other = start(shuffle=1), start()
    path = "/data/projects/ODD/subjects"
    assert raw.rows(path) != other.rows(path)
    assert sorted(r["ID"] for r in raw.rows(path)) == sorted(r["ID"] for r in other.rows(path))
    assert raw.rows(path) == raw.rows(path)


def test_routes_that_do_not_exist_answer_with_the_item(raw):
    for path in ("/projects/DEMO/experiments/sub-01_MR1/scans", "/experiments/XNAT_E00001/nosuch"):
        assert raw.get(f"/data{path}?format=json").json["items"][0]["data_fields"]["ID"] == "XNAT_E00001"
    assert raw.get("/data/experiments/XNAT_E00001/scans/2/nosuch?format=json").json["items"]
    assert raw.get("/data/nosuch").status == 404


def test_search_elements_and_schemas(raw):
    assert raw.rows("/data/search/elements?format=json")[0].keys() >= {"ELEMENT_NAME", "SINGULAR", "SECURED", "COUNT"}
    assert raw.rows("/data/search/elements/xnat:mrSessionData?format=json")
    assert raw.get("/data/search/elements/xnat:nonsense").status == 400
    assert raw.get("/xapi/schemas").json == ["xdat", "xnat"]
    assert "<xs:schema" in raw.get("/xapi/schemas/xnat").text
