"""What a server tells everybody, without a login: its clock, and which XNAT it is."""

from __future__ import annotations

import json
from typing import NamedTuple

from xnatfs.deadlines import Deadline
from xnatfs.errors import XnatfsError
from xnatfs.xnat.session import Transport

_SMALL = 64 * 1024


class Greeting(NamedTuple):
    """See the module."""

    date: float | None
    """Its clock, in seconds since the epoch and to the second; None when it does not say."""
    version: str
    """Of XNAT (contract 2); empty when it does not say, as before 1.7."""


def greeting(transport: Transport, deadline: Deadline) -> Greeting:
    """Two requests without credentials.

    Raises:
        Unreachable, TimedOut: nobody answers there, or nobody who is trusted.
    """
    with transport.send("HEAD", "/", deadline=deadline) as answer:
        date = answer.date("Date")
    return Greeting(date, _version(transport, deadline))


def _version(transport: Transport, deadline: Deadline) -> str:
    try:
        with transport.send("GET", "/xapi/siteConfig/buildInfo", deadline=deadline) as answer:
            told = json.loads(answer.body(_SMALL)) if answer.status == 200 else None
    except (XnatfsError, ValueError):
        return ""
    return str(told.get("version", "")) if isinstance(told, dict) else ""
