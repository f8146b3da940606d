"""What the document of an experiment says of its parts, on a real server's answer, and when it is not believed."""

from __future__ import annotations

import json

import pytest

from xnatfs.xnat.document import parse_parts
from xnatfs.xnat.records import Assessor, Parts, Scan


def item(kind, children=(), **fields):
    return {
        "meta": {"isHistory": False, "xsi:type": kind},
        "data_fields": fields,
        "children": [{"field": field, "items": items} for field, items in children],
    }


def session(*children, ident="E1", kind="xnat:mrSessionData"):
    return {"items": [item(kind, children, ID=ident)]}


def parsed(document, ident="E1"):
    return parse_parts(json.dumps(document).encode(), ident)


def test_scans_and_assessors_are_read_as_a_listing_has_them():
    scan = item("xnat:mrScanData", [("file", [item("xnat:resourceCatalog", label="DICOM")])],
                ID="2", type="T1 MPRAGE", quality="usable", series_description="t1", frames=176)  # fmt: skip
    with_output = item("xnat:qcAssessmentData", [("out/file", [item("xnat:resourceCatalog")])],
                       ID="A1", label="noqc", project="P")  # fmt: skip
    without = item("xnat:qcAssessmentData", ID="A2", label="", date="2024-01-20", project="P")
    found = parsed(session(("scans/scan", [scan]), ("assessors/assessor", [with_output, without])))
    assert found == Parts(
        (Scan("2", "/experiments/E1/scans/2", "T1 MPRAGE", "t1", "usable", "", "xnat:mrScanData", "176"),),
        (
            Assessor("A1", "noqc", "/experiments/E1/assessors/A1", "xnat:qcAssessmentData", project="P", partial=True),
            Assessor("A2", "A2", "/experiments/E1/assessors/A2", "xnat:qcAssessmentData", "2024-01-20", 0.0, "P", True),
        ),
        no_inputs=True,
    )


def test_inputs_of_an_assessor_are_left_to_their_listing():
    assessor = item("xnat:qcAssessmentData", [("in/file", [item("xnat:resourceCatalog", label="SOURCE")])], ID="A1")
    assert not parsed(session(("assessors/assessor", [assessor]))).no_inputs


def test_what_has_no_parts_has_none():
    assert parsed(session()) == parsed(session(kind="x:subjectVariables")) == Parts((), (), no_inputs=True)


def test_the_past_is_left_out():
    old = item("xnat:mrScanData", ID="1")
    old["meta"]["isHistory"] = True
    before = session(("scans/scan", [old]))["items"][0]
    before["meta"]["isHistory"] = True
    assert parsed({"items": [before, *session(("scans/scan", [old]))["items"]]}) == Parts((), (), no_inputs=True)


@pytest.mark.parametrize(
    "document",
    [
        session(ident="E2"),
        session(("scans/scan", [item("xnat:mrScanData", type="T1")])),
        session(("scans/scan", [{"data_fields": {"ID": "1"}}])),
        {"items": []},
        {"items": {}},
        {"ResultSet": {"Result": []}},
        [],
        None,
        {"items": [{"meta": {}, "data_fields": {"ID": "E1"}}]},
    ],
    ids=str,
)
def test_what_leaves_a_doubt_is_not_believed(document):
    assert parsed(document) is None


@pytest.mark.parametrize("text", [b"", b"<html>", b"[" * 100_000, b'{"items": [{'])
def test_what_is_no_document_is_not_believed(text):
    assert parse_parts(text, "E1") is None
