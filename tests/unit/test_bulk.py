"""When a walk is seen, what the next batch holds, and answers about many sessions that must not be believed."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.errors import ServerFault
from xnatfs.tree import names
from xnatfs.walks import MOST_IDS, MOST_TEXT, Detector, choose
from xnatfs.xnat import bulk
from xnatfs.xnat.filelist import NO_DIGEST, FileList, FileListBuilder
from xnatfs.xnat.records import FileRecord


def test_the_third_session_within_the_time_to_live_makes_a_walk():
    seen = Detector(ttl=60)
    assert [seen.entered("x", "P", session, 0) for session in "aabc"] == [False, False, False, True]
    assert not seen.entered("files", "P", "d", 0)
    assert not seen.entered("x", "Q", "d", 0)


def test_a_look_at_a_session_now_and_then_is_no_walk():
    seen = Detector(ttl=60)
    assert not any(seen.entered("x", "P", str(number), number * 40.0) for number in range(20))


def test_after_a_refresh_it_begins_anew():
    seen = Detector(ttl=60)
    assert [seen.entered("x", "P", session, 0) for session in "abc"][-1]
    seen.forget()
    assert not seen.entered("x", "P", "d", 0)


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=300),
    st.integers(0, 50),
    st.integers(1, 200),
    st.integers(0, 1000),
)
def test_a_batch_keeps_every_limit_and_the_order(sizes, start, sessions, rows):
    order = [f"XNAT_E{number:05d}" for number in range(len(sizes))]
    known = dict(zip(order, sizes, strict=True))
    batch = choose(order, start, known.get, sessions, rows)
    assert batch == sorted(batch)
    assert all(known[ident] is not None and order.index(ident) >= start for ident in batch)
    assert bool(batch) == any(size is not None for size in sizes[start:])
    if len(batch) > 1:
        assert len(batch) <= min(sessions, MOST_IDS)
        assert sum(known[ident] for ident in batch) <= rows
        assert len(",".join(batch)) <= MOST_TEXT


def outline_row(session, scan="", resource="", project="P", count="3"):
    return {
        "ID": session,
        "project": project,
        "xnat:imagescandata/id": scan,
        "xnat:imagescandata/type": "T1",
        "xnat:imagescandata/file/label": "DICOM",
        "xnat:imagescandata/file/xnat_abstractresource_id": resource,
        "xnat:imagescandata/file/file_count": count,
    }


def test_sessions_scans_and_resources_come_out_of_one_join():
    rows = [outline_row("E1", "2", "12"), outline_row("E2"), outline_row("E1", "1", "10"), outline_row("E1", "1", "11")]
    found = bulk._outlines(rows, "P")
    assert [scan.id for scan in found["E1"].scans] == ["2", "1"]
    assert found["E1"].places == {"12": "2", "10": "1", "11": "1"}
    assert found["E2"].scans == ()
    assert all(scan.partial for scan in found["E1"].scans)


@pytest.mark.parametrize(
    "row",
    [
        {key: value for key, value in outline_row("E1").items() if not key.endswith("resource_id")},
        {key: value for key, value in outline_row("E1").items() if key != "project"},
        outline_row("E1", project="OTHER"),
        outline_row(""),
        "no row",
    ],
)
def test_an_outline_with_anything_else_in_it_counts_as_none(row):
    assert bulk._outlines([outline_row("E0", "1", "9"), row], "P") is None


def resource_row(number, category="scans", owner="1"):
    return {"xnat_abstractresource_id": number, "label": "DICOM", "category": category, "cat_id": owner}


PLACES = {"10": ("E1", "1"), "20": ("E2", "1"), "30": ("E2", "")}


def test_resources_find_their_sessions_by_number():
    rows = [resource_row("20"), resource_row("10"), resource_row("30", "resources", "")]
    rows.append(resource_row("40", "assessors", "A1"))
    found = bulk._resources(rows, ["E1", "E2"], PLACES, {"A1": "E1"})
    assert {session: [r.id for r in listed] for session, listed in found.items()} == {
        "E1": ["10", "40"],
        "E2": ["20", "30"],
    }
    assert found["E1"][0].uri == "/experiments/E1/scans/1/resources/10"


def test_a_session_whose_resources_are_not_all_there_is_left_out():
    found = bulk._resources([resource_row("10"), resource_row("20")], ["E1", "E2"], PLACES, {})
    assert list(found) == ["E1"]


@pytest.mark.parametrize(
    "row",
    [
        resource_row("99"),
        resource_row("10", owner="2"),
        resource_row("30", "scans", "1"),
        resource_row("41", "assessors", "A9"),
        resource_row("50", "reconstructions", "R1"),
    ],
)
def test_a_resource_that_may_be_of_any_session_spoils_the_answer(row):
    with pytest.raises(ServerFault):
        bulk._resources([row], ["E1", "E2"], PLACES, {"A1": "E1"})


RECORDS = st.builds(
    FileRecord,
    st.just("/base/files/"),
    st.text(max_size=5),
    st.one_of(st.none(), st.integers(0, 2**63 - 1)),
    st.one_of(st.just(""), st.binary(min_size=16, max_size=16).map(bytes.hex)),
    st.just("7"),
    st.sampled_from(["", "DICOM"]),
    st.sampled_from(["", "RAW"]),
    st.just(""),
)


@given(st.lists(RECORDS, max_size=8))
def test_a_packed_listing_gives_back_every_record(records):
    builder = FileListBuilder("/base/files/", "7")
    for record in records:
        digest = bytes.fromhex(record.digest) if record.digest else NO_DIGEST
        size = -1 if record.size is None else record.size
        builder.add(record.path, size, digest, (record.format, record.content, record.tags))
    packed = builder.done()
    assert list(packed) == records
    assert [packed[place] for place in range(len(packed))] == records
    assert packed == tuple(records)
    assert list(packed.paths()) == [record.path for record in records]


def test_an_empty_packed_listing():
    empty = FileList("/base/", "7", [], array("q"), b"", [("", "", "")], None)
    assert not empty
    assert list(empty) == []
    assert list(empty.paths()) == []


@given(st.lists(st.text(alphabet="ab.%/ü\0-", max_size=4), min_size=1, max_size=4, unique=True), st.integers(0, 300))
def test_plain_names_are_those_that_are_shown_as_they_are(paths, length):
    paths = [*paths, "x" * length]
    builder = FileListBuilder("/base/files/", "7")
    for path in paths:
        builder.add(path, 1, NO_DIGEST, ("", "", ""))
    if builder.done().plain:
        assert names.assign([(path, "file") for path in paths]) == paths
        assert all("/" not in path for path in paths)


def test_the_usual_names_of_dicom_files_are_plain():
    builder = FileListBuilder("/base/files/", "7")
    for number in range(3):
        builder.add(f"1.2.840.113654.2.45.2.108105.{'1' * 40}-{number}-abc123.dcm", 1, NO_DIGEST, ("", "", ""))
    assert builder.done().plain
