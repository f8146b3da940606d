"""Names in the mount: reversible, unique, as near to the label as POSIX allows."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.tree import names

# Any text, lone surrogates included, and texts rich in what the escaping must not confuse.
LABELS = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(
        st.sampled_from(["%", "2F", "25", "00", "2E", "ED", "A0", "80", "/", ".", "\0", "EMPTY", "a", "ü", "\ud800"]),
        max_size=8,
    ).map("".join),
)


def test_the_examples_in_the_docstring_hold():
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize(
    "label",
    [
        "T1 MPRAGE",
        "#1",
        "50%",
        "a%20b.txt",
        "pct%25.txt",
        "a+b",
        "q?",
        "x&y",
        "semi;colon",
        "c:d",
        "back\\slash",
        "it's",
        '"q"',
        "日本",
        ".hidden",
        "new\nline",
        "n" * 200,
    ],
)
def test_a_label_that_posix_can_carry_is_shown_byte_for_byte(label):
    assert names.shown(label) == label


@given(LABELS)
def test_every_label_comes_back_from_its_name(label):
    assert names.label_of(names.shown(label)) == label


@given(LABELS, LABELS)
def test_no_two_labels_share_a_name(one, other):
    assert (names.shown(one) == names.shown(other)) == (one == other)


@given(LABELS)
def test_every_name_is_a_legal_file_name(label):
    name = names.fitted(names.shown(label))
    raw = name.encode("utf-8")
    assert raw
    assert len(raw) <= names.NAME_MAX
    assert b"/" not in raw
    assert b"\0" not in raw
    assert name not in (".", "..")


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=400))
def test_a_long_name_fits_and_short_ones_are_left_alone(label):
    fitted = names.fitted(label)
    assert len(fitted.encode()) <= names.NAME_MAX
    if len(label.encode()) <= names.NAME_MAX:
        assert fitted == label


def test_a_long_name_keeps_its_extension():
    assert names.fitted("x" * 300 + ".nii.gz").endswith(".nii.gz")
    assert names.fitted("x" * 300 + ".nii.gz") != names.fitted("x" * 301 + ".nii.gz")


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "a~1", "resources", "2", "b/c", "ü" * 200]), st.integers(1, 30).map(str)),
        max_size=12,
        unique=True,
    ),
    st.randoms(),
)
def test_a_directory_gives_every_entry_a_name_of_its_own_whatever_the_order(entries, random):
    given_names = names.assign(entries, {"resources"})
    assert len(set(given_names)) == len(entries)
    assert "resources" not in given_names
    assert all(len(name.encode()) <= names.NAME_MAX for name in given_names)
    shuffled = list(entries)
    random.shuffle(shuffled)
    by_entry = dict(zip(shuffled, names.assign(shuffled, {"resources"}), strict=True))
    assert [by_entry[entry] for entry in entries] == given_names


def test_of_two_entries_with_one_label_the_lower_number_keeps_it():
    assert names.assign([("DICOM", "12"), ("DICOM", "9"), ("", "77")]) == ["DICOM~12", "DICOM", "77"]


def test_an_exact_label_wins_over_an_id_and_over_a_suffix():
    assert names.assign([("", "5"), ("5", "9")]) == ["5~5", "5"]
    assert names.assign([("a", "1"), ("a", "2"), ("a~2", "3")]) == ["a", "a~2~", "a~2"]


def test_a_reserved_label_is_shown_by_its_id():
    assert names.assign([("resources", "XNAT_E1")], {"resources"}) == ["XNAT_E1"]


def test_natural_order_counts():
    assert sorted(["10", "9", "3-MR2", "3", "OT1", "1"], key=names.natural) == ["1", "3", "3-MR2", "9", "10", "OT1"]
