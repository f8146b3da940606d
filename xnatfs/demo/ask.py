"""One request as the archive sees it, and one answer before it is put on the wire.

The raw path matters: what a server does with ``%23`` or ``%20`` in a file name depends on how it was sent.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl, unquote

from xnatfs.demo import pages
from xnatfs.demo.content import Content

RESTLET = "Noelios-Restlet-Engine/1.1.10"
VARY = "Accept-Charset, Accept-Encoding, Accept-Language, Accept"

JSON = "application/json"
ITEM_VARIANTS = ("text/html", "text/xml", "application/xml")
TABLE_VARIANTS = (JSON, "text/html", "text/xml", "application/xml")
FILE_VARIANTS = (*TABLE_VARIANTS, "image/jpeg")
XML_VARIANTS = ("text/xml", "application/xml")
TEXT_VARIANTS = ("text/plain",)


@dataclass
class Part:
    """One part of a multipart body."""

    filename: str
    data: bytes


@dataclass
class Ask:
    """A request. ``path`` is the raw text without context path and query, ``headers`` has lower-case keys."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    user: str | None = None
    """Who asks; None = guest."""
    admin: bool = False
    body: bytes = b""
    parts: tuple[Part, ...] = ()
    context: str = ""
    damage: Callable[[int, bytes], bytes] | None = None
    """Spoils pieces of zip members by number (a fault); None = honest."""

    def get(self, name: str, default: str = "") -> str:
        """The last value of a query parameter."""
        for key, value in reversed(self.query):
            if key == name:
                return value
        return default

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.query if key == name)

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self.query)

    def true(self, name: str) -> bool:
        """XNAT's reading of a flag: there, and neither ``false`` nor ``0`` (contract 0.3)."""
        return self.has(name) and self.get(name).lower() not in ("false", "0")

    def require(self, variants: tuple[str, ...]) -> None:
        """406 unless ``Accept`` admits one of the variants; ``format=`` comes too late to help (contract 0.3)."""
        if not acceptable(self.headers.get("accept", "*/*"), variants):
            raise Refusal(406, pages.STANDARD_TEXT[406], tomcat=True)


def acceptable(accept: str, variants: tuple[str, ...]) -> bool:
    wanted = [part.split(";", 1)[0].strip().lower() for part in accept.split(",")]
    return any(
        want in ("", "*", "*/*", variant) or (want.endswith("/*") and variant.startswith(want[:-1]))
        for want in wanted
        for variant in variants
    )


def parse_query(raw: str) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(raw, keep_blank_values=True))


def segments(path: str) -> list[str]:
    """Decoded path segments; ``[SLASH]`` stands for a slash (contract 7.2). A trailing slash adds nothing."""
    return [unquote(part).replace("[SLASH]", "/") for part in path.split("/") if part]


class Refusal(Exception):
    """An answer that is no data: status, message, and whose page says it."""

    def __init__(self, status: int, message: str = "", *, tomcat: bool = False) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.tomcat = tomcat

    def answer(self) -> Answer:
        if self.tomcat:
            return Answer(pages.tomcat(self.status, self.message), self.status, pages.TOMCAT_TYPE)
        return Answer(pages.restlet(self.status, self.message), self.status, pages.RESTLET_TYPE)


@dataclass
class Slice:
    """A body out of a stored content: bytes ``start`` up to ``stop``, and how many were promised.

    ``promised`` differs from ``stop - start`` only for ranges past the end, which a Restlet does not clamp.
    """

    content: Content
    start: int
    stop: int
    promised: int


@dataclass
class Stream:
    """A body of unknown length, made while it is sent."""

    pieces: Iterator[bytes]


@dataclass
class Answer:
    body: bytes | Slice | Stream = b""
    status: int = 200
    type: str = ""
    """Content-Type; empty = none."""
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunked: bool = False
    """True: no Content-Length, as a Restlet sends what it produces while writing."""

    def header(self, name: str) -> str | None:
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def set(self, name: str, value: str | None) -> None:
        self.headers = [(k, v) for k, v in self.headers if k.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))


def http_date(moment: datetime) -> str:
    return email.utils.format_datetime(moment.replace(microsecond=0), usegmt=True)


def text(body: str, status: int = 200) -> Answer:
    return Answer(body.encode("latin-1", "replace"), status, "text/plain;charset=ISO-8859-1")


def json_answer(document: object) -> Answer:
    return Answer(json.dumps(document, ensure_ascii=False).encode(), 200, JSON)


_FORBIDDEN = re.compile(r";|%3b|%25|%2e|//|/\.{1,2}(?:/|$)|%0[0-9a-f]|%1[0-9a-f]|%7f", re.IGNORECASE)


def firewall(path: str) -> None:
    """What Tomcat and Spring refuse before XNAT sees it (contract 7.4).

    Encoded slashes and backslashes are refused by Tomcat itself with 400; the rest by Spring's firewall, as a 500.
    """
    lowered = path.lower()
    if "%2f" in lowered or "%5c" in lowered or "\\" in path or re.search(r"%(?![0-9a-f]{2})", lowered):
        raise Refusal(400, tomcat=True)
    if _FORBIDDEN.search(path):
        raise Refusal(500, tomcat=True)
