"""Numbers and dates as servers write them, in listings and in headers. Pure; whatever the text is, no exception."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

LARGEST = 1 << 63
"""No size, no count and no number of seconds is as large."""


def number(text: str) -> int | None:
    """A decimal number, None for anything else (``""`` where XNAT has not computed it)."""
    text = text.strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 40:
        return None
    return value if (value := int(text)) < LARGEST else None


def http_date(text: str) -> float | None:
    """The date of a header in seconds since the epoch; None for what is none, which real sites do send."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
