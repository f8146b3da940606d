from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnatfs.errors import ServerFault
from xnatfs.xnat import rows
from xnatfs.xnat.catalog import CatalogError, parse_catalog

FILES = "/data/experiments/E/scans/1/resources/12/files/"


def a_file(path: str, **changes: str) -> dict[str, str]:
    return {
        "Name": path.rpartition("/")[2], "Size": "5", "URI": FILES + path, "collection": "DICOM", "file_tags": "",
        "file_format": "DICOM", "file_content": "RAW", "cat_ID": "12", "digest": "0" * 32, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1970-01-01 00:00:01.5", 1.5),
        ("1970-01-01 00:00:01.123456789", 1.123456789),
        ("1970-01-01T00:01:00", 60.0),
        ("2024-06-18 15:57:30.0", 1718726250.0),
        ("", 0.0),
        ("2024-13-01 00:00:00.0", 0.0),
        ("Tue Jun 18 15:58:01 CDT 2024", 0.0),
    ],
)
def test_timestamps_are_read_as_utc(text: str, value: float) -> None:
    assert rows.seconds(text) == pytest.approx(value)


@given(st.text())
def test_nothing_breaks_a_timestamp(text: str) -> None:
    rows.seconds(text)


def test_keys_come_in_both_cases() -> None:
    assert rows.project({"id": "P", "pi": "Ada"}).pi == "Ada"
    assert rows.project({"ID": "P", "pi_firstname": "Ada", "pi_lastname": "L"}).pi == "Ada L"


def test_subject_rows_fold_by_resource() -> None:
    key = "xnat:subjectdata/resources/resource/"
    listed = [
        {"ID": "S1", "label": "a", "gender": "F", "yob": "", key + "xnat_abstractresource_id": "7", key + "label": "X"},
        {"ID": "S2", "label": "b", key + "xnat_abstractresource_id": "", key + "label": ""},
        {"ID": "S1", "label": "a", "gender": "F", key + "xnat_abstractresource_id": "8", key + "file_count": "3"},
    ]
    one, two = rows.subjects(listed, "P")
    assert one.fields == (("gender", "F"),)
    assert [(r.id, r.label, r.file_count) for r in one.resources or ()] == [("7", "X", None), ("8", "", 3)]
    assert (one.resources or ())[0].uri == "/projects/P/subjects/S1/resources/7"
    assert two.resources == ()


def test_dropped_columns_mean_unknown_not_none() -> None:
    (subject,) = rows.subjects([{"ID": "S1", "label": "a"}], "P")
    (experiment,) = rows.experiments([{"ID": "E1", "label": "", "subject_ID": "S1"}])
    assert subject.resources is None
    assert experiment.resources is None
    assert experiment.label == "E1"


def test_a_bad_row_is_skipped_with_one_warning_without_labels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = rows.subjects([{"label": "Jane Doe"}, 7, {"ID": "S", "label": "x"}], "P")
    assert [s.id for s in found] == ["S"]
    (record,) = caplog.records
    assert "2 row(s)" in record.getMessage()
    assert "Jane" not in caplog.text


def test_files_share_their_texts() -> None:
    found = rows.files([a_file("a/1"), a_file("a/2", digest="", Size="")], lambda *_: True)
    one, two = found["12"]
    assert (one.base, one.path, one.size, one.digest) == (FILES[5:], "a/1", 5, "0" * 32)
    assert two.size is None
    assert two.digest == ""
    assert one.base is two.base
    assert one.resource_id is two.resource_id
    assert one.tags is two.tags


usual = {
    "URI": st.sampled_from([FILES + "a", FILES + "b/c", FILES, "/data/x"]),
    "Size": st.sampled_from(["5", "", "-1", "+1", " 1", "01", "1_0", "\u00b2", "\u0665", "9" * 30, None, 7]),
    "digest": st.sampled_from(["0" * 32, "A" * 32, "g" * 32, "0" * 30 + "  ", "", None]),
    "file_format": st.sampled_from(["", "DICOM"]),
    "file_content": st.sampled_from(["", "RAW", None]),
    "file_tags": st.just(""),
}


@settings(max_examples=300)
@given(st.lists(st.fixed_dictionaries(usual) | st.fixed_dictionaries({}, optional=usual) | st.none() | st.integers()))
def test_the_fast_way_and_the_slow_way_agree(listed: list[Any]) -> None:
    together = rows.files(listed, lambda *_: True).get("12", ())
    alone = [record for row in listed for record in rows.files([row], lambda *_: True).get("12", ())]
    assert sorted(together, key=repr) == sorted(alone, key=repr)


def test_a_row_of_another_container_is_an_error() -> None:
    def belongs(base: str, _: str) -> bool:
        return base.startswith("/experiments/E/")

    with pytest.raises(ServerFault):
        rows.files([a_file("a"), a_file("b", URI="/data/experiments/OTHER/resources/1/files/b")], belongs)


def test_dots_in_a_path_stay_as_they_are() -> None:
    found = rows.files([a_file("../../evil.txt")], lambda *_: True)
    assert found["12"][0].path == "../../evil.txt"


def test_where_session_resources_hang() -> None:
    place = rows.session_place("E")
    assert place("scans", "3/a") == "/experiments/E/scans/3[SLASH]a/resources"
    assert place("assessors", "A") == "/experiments/E/assessors/A/out/resources"
    assert place("reconstructions", "R") == "/experiments/E/reconstructions/R/out/resources"
    assert place("resources", "E") == place("resources", "") == "/experiments/E/resources"


CATALOG = b"""<?xml version="1.0" encoding="UTF-8"?>
<cat:Catalog ID="DOCS" xmlns:cat="http://nrg.wustl.edu/catalog">
<cat:metaFields><cat:metaField name="SIZE">99</cat:metaField></cat:metaFields>
<cat:entries>
 <cat:entry ID="sub/a b.txt" URI="sub/a b.txt" digest="5D41402ABC4B2A76B9719D911017C592" format="TXT" content="NOTES">
  <cat:metaFields><cat:metaField name="AUDIT">1</cat:metaField>
   <cat:metaField name="SIZE">5</cat:metaField></cat:metaFields>
 </cat:entry>
 <cat:entry URI="x"/>
 <cat:entry URI="https://elsewhere/x"/>
</cat:entries>
</cat:Catalog>"""


def test_a_catalog_gives_file_records() -> None:
    one, two = parse_catalog(CATALOG, "/x/files/", "7")
    assert (one.path, one.size, one.digest, one.format, one.content) == (
        "sub/a b.txt", 5, "5d41402abc4b2a76b9719d911017c592", "TXT", "NOTES",
    )  # fmt: skip
    assert (two.path, two.size, two.digest, two.resource_id) == ("x", None, "", "7")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html><body>x</body></html>",
        CATALOG[:-5],
        b'<!DOCTYPE x [<!ENTITY a "b">]><cat:Catalog xmlns:cat="x">&a;</cat:Catalog>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Catalog/>',
    ],
)
def test_what_is_no_safe_catalog_is_refused(document: bytes) -> None:
    with pytest.raises(CatalogError):
        parse_catalog(document, "/x/files/", "7")
