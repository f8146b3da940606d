"""When a resource is fetched as one archive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.transfer.policy import (
    AVERAGE,
    FACTOR,
    FREE,
    MIB,
    Walk,
    allowance,
    archive_pays,
    eager,
    goes_on,
    patience,
    worth_waiting,
)

SERIES = Walk(files=200, total=30 * MIB, largest=300 * 1024, wanted=2, seconds=0.1)


def test_the_second_file_of_a_small_series_within_seconds_starts_it() -> None:
    assert archive_pays(SERIES)
    assert not archive_pays(replace(SERIES, wanted=1))


def test_the_first_file_starts_it_for_who_listed_the_directory_and_reads_it_whole() -> None:
    first = replace(SERIES, wanted=1, eager=True)
    assert archive_pays(first)
    assert not archive_pays(replace(first, total=FREE + 1, files=2000))
    assert not archive_pays(replace(first, total=2 * MIB * 20, files=20))
    assert not archive_pays(replace(first, cached=2))


def test_reading_whole_shows_in_the_first_read() -> None:
    assert eager(0, 128 * 1024, 500 * MIB)
    assert eager(0, 128 * 1024, 2000)
    assert not eager(0, 32 * 1024, 500_000)
    assert not eager(4096, 128 * 1024, 500_000)


def test_what_one_file_began_is_cut_sooner() -> None:
    assert allowance(0, alone=True) == 4 * MIB
    assert (goes_on(1, 5.0), goes_on(2, 5.0), goes_on(1, 0.5)) == (1.0, 5.0, 0.5)


def test_a_person_who_opens_one_after_another_has_to_open_three() -> None:
    assert not archive_pays(replace(SERIES, seconds=10.0))
    assert archive_pays(replace(SERIES, seconds=10.0, wanted=3))


def test_a_large_series_has_to_be_opened_three_times() -> None:
    large = replace(SERIES, files=2000, total=1000 * MIB)
    assert not archive_pays(large)
    assert archive_pays(replace(large, wanted=3))


@pytest.mark.parametrize(
    "walk",
    [
        replace(SERIES, files=3, wanted=2),
        replace(SERIES, files=4, wanted=3),
        replace(SERIES, total=200 * (AVERAGE + 1), wanted=50, thorough=50),
        replace(SERIES, largest=65 * MIB, wanted=50),
        replace(SERIES, cached=3),
        replace(SERIES, failures=2, wanted=50),
    ],
    ids=["few files", "as good as read", "large files", "a huge file", "mostly cached", "failed twice"],
)
def test_it_does_not_pay(walk: Walk) -> None:
    assert not archive_pays(walk)


def test_one_failure_is_forgiven() -> None:
    assert archive_pays(replace(SERIES, failures=1))


def test_headers_of_larger_files_are_no_reason() -> None:
    frames = Walk(files=100, total=200 * MIB, largest=3 * MIB, wanted=20, thorough=0)
    assert not archive_pays(frames)
    assert archive_pays(replace(frames, wanted=3, thorough=2))


def test_the_allowance_is_a_constant_and_a_multiple_of_what_was_opened() -> None:
    assert allowance(0) == FREE
    assert allowance(100 * MIB) == FREE + FACTOR * 100 * MIB


@given(opened=st.integers(0, 1 << 50), more=st.integers(0, 1 << 50))
def test_what_nobody_opened_is_bounded(opened: int, more: int) -> None:
    """Bytes brought minus bytes opened: 64 MiB + 2 x opened."""
    assert allowance(opened) - opened <= FREE + (FACTOR - 1) * opened
    assert allowance(opened + more) >= allowance(opened)


@given(
    walk=st.builds(
        Walk,
        files=st.integers(0, 10**6),
        total=st.integers(0, 1 << 45),
        largest=st.integers(0, 1 << 40),
        wanted=st.integers(0, 10**6),
        cached=st.integers(0, 64),
        thorough=st.integers(0, 64),
        seconds=st.floats(0, 60),
        failures=st.integers(0, 3),
    )
)
def test_more_files_opened_never_speak_against_it(walk: Walk) -> None:
    if archive_pays(walk) and walk.files - walk.wanted > 2:
        assert archive_pays(replace(walk, wanted=walk.wanted + 1))
    if archive_pays(walk):
        assert walk.wanted >= 2
        assert walk.total <= AVERAGE * walk.files


def test_waiting_for_an_archive() -> None:
    assert patience(0.01) == 0.25
    assert patience(1.0) == 2.0
    assert worth_waiting(None, 0.0, 0.05)
    assert worth_waiting(None, 0.9, 0.05)
    assert not worth_waiting(None, 1.1, 0.05)
    assert worth_waiting(1000.0, 0.2, 0.05)  # no rush to a second request
    assert worth_waiting(1.5, 10.0, 0.05)  # it comes
    assert not worth_waiting(5.0, 0.3, 0.05)  # it is far
    assert not worth_waiting(float("inf"), 0.3, 0.05)  # it has passed
