"""Numbers and dates as servers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.xnat.values import http_date, number


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), (" 5 ", 5), ("", None), ("+5", None), ("-5", None), ("5_0", None), ("0x5", None), ("5, 5", None)],
)
def test_a_number_is_decimal_digits(text: str, value: int | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["9" * 30, "9" * 5000, "²", "٣", str(1 << 63)])
def test_what_is_too_large_or_no_digit_of_ours_is_none(text: str) -> None:
    assert number(text) is None


@given(st.text() | st.from_regex(r"\d*"))
def test_nothing_breaks_a_number(text: str) -> None:
    number(text)


def test_a_date() -> None:
    assert http_date("Sun, 22 Nov 2026 10:00:09 GMT") == 1795341609.0


@given(st.text() | st.from_regex(r"Fri, \d{0,12} Dec \d{0,12} \d\d:\d\d:\d\d ([-+]\d{0,40}|GMT)", fullmatch=True))
def test_nothing_breaks_a_date(text: str) -> None:
    http_date(text)
