"""Listings on disk: what comes back is what was kept, or nothing; bounded, private, pinned ones stay."""

from __future__ import annotations

import os
import stat
from array import array

import pytest

from xnatfs.cache.kept import KeptListings, name_of
from xnatfs.xnat.filelist import NO_DIGEST, FileList
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)

RESOURCE = Resource("7", "DICOM", "/experiments/E/scans/1/resources/7", "scans", "1", 3, None)
FILES = FileList(
    "/experiments/E/scans/1/resources/7/files/",
    "7",
    ["a.dcm", "söt/\udc80.dcm", "lost"],
    array("q", [1, 2**40, -1]),
    bytes(range(16)) + NO_DIGEST + b"\xff" * 16,
    [("DICOM", "RAW", ""), ("", "", "x,y")],
    array("L", [0, 1, 0]),
)
ANSWERS = [
    (),
    (Project("P", "/projects/P", name="Ünï"), Project("Q", "/projects/Q")),
    (Subject("S", "s", "/s", inserted=1.5, fields=(("gender", "F"),), resources=(RESOURCE,)), Subject("T", "t", "/t")),
    (Experiment("E", "e", "/e", "S", resources=None), Experiment("F", "f", "/f", "S", resources=())),
    (Scan("1", "/x", partial=True),),
    (Assessor("A", "a", "/a"),),
    (Reconstruction("R", "/r"),),
    {"7": FILES, "8": (FileRecord("/b/", "c", None),)},
    FILES,
    b"\x00\xff{}",
    12345678901,
]


@pytest.fixture
def kept(tmp_path):
    return KeptListings(tmp_path, "abc", clock=lambda: 1e9)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_comes_back_as_it_was_with_its_time(kept, answer):
    kept.put("x", answer)
    found = kept.get("x")
    assert found.at == 1e9
    assert found.value == answer
    assert type(found.value) is type(answer)


def test_names_tell_questions_apart_and_tell_nothing():
    questions = [("files", "a"), ("files", "b"), ("item", "a"), ("files",), ("f", "iles"), ("files", "\udc80")]
    names = {name_of(*question) for question in questions}
    assert len(names) == len(questions)
    assert not any("files" in name for name in names)


def test_any_damage_makes_it_an_answer_that_is_not_there(kept, tmp_path):
    kept.put("x", ANSWERS[1])
    path = tmp_path / "v1/abc/listings/x"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.get("x") is None, at
        path.write_bytes(whole[:at])
        assert kept.get("x") is None, at
    path.write_bytes(whole)
    assert kept.get("x").value == ANSWERS[1]


def test_it_is_for_the_user_alone_and_leaves_no_temporary_file(kept, tmp_path):
    os.umask(os.umask(0))
    kept.put("x", ANSWERS[1])
    folder = tmp_path / "v1/abc/listings"
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_beyond_the_bound_the_oldest_go_but_not_what_a_pin_needs(tmp_path):
    kept = KeptListings(tmp_path, "abc", pinned=lambda: {"0"}, most=4000)
    for number in range(60):
        kept.put(str(number), (os.urandom(100).hex(),))
        path = tmp_path / f"v1/abc/listings/{number}"
        os.utime(path, ns=(number, number))
    there = {path.name for path in (tmp_path / "v1/abc/listings").iterdir()}
    assert sum(path.stat().st_size for path in (tmp_path / "v1/abc/listings").iterdir()) <= 4000
    assert {"0", "59"} <= there
    assert "1" not in there


def test_a_disk_that_cannot_be_written_costs_the_answer_only(tmp_path, caplog):
    (tmp_path / "v1").write_text("in the way")
    kept = KeptListings(tmp_path, "abc")
    kept.put("x", ())
    assert kept.get("x") is None
    assert "could not be kept" in caplog.text
