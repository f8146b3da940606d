"""A body of bytes that is on its way, checked before the first byte is handed on.

What must fit: the status, the range (exactly the one asked for: XNAT does not clamp ranges, contract 5.2), the length
against the listing, no encoding, and no page in the place of a file.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Protocol

from xnatfs.errors import BadHandle, ContentChanged, ServerFault, Unreachable
from xnatfs.xnat.session import CHUNK, Answer
from xnatfs.xnat.values import number

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Expected:
    """What is asked for: bytes ``[start, stop)`` of a file called ``name``; ``stop`` None for all of it."""

    name: str
    start: int = 0
    stop: int | None = None
    size: int | None = None
    """Of the whole file, from the listing."""
    archive: bool = False
    """An archive made on the fly: unknown size, never a range."""

    @property
    def range(self) -> tuple[int, int] | None:
        """The range to ask for, None for the whole file."""
        if self.archive or self.stop is None or (self.start == 0 and (self.size is None or self.stop >= self.size)):
            return None
        return self.start, self.stop


class Download(Protocol):
    """Bytes of a file (or of an archive) in order."""

    @property
    def start(self) -> int:
        """Offset of the first byte in the file: 0 if the server ignored the range."""

    @property
    def length(self) -> int | None:
        """Bytes in this body; None for an archive of unknown length."""

    @property
    def last_modified(self) -> float | None:
        """Seconds since the epoch, from the server."""

    def readinto(self, buffer: memoryview) -> int:
        """Some bytes, as soon as there are any; 0 at the end, which is never earlier than `length`.

        Raises:
            Unreachable: cut or reset, also when closed by another thread.
            TimedOut: nothing came for the read time-out.
            ContentChanged: more bytes than the listing has.
        """

    def close(self) -> None:
        """Stop, from any thread; a blocked `readinto` returns at once."""


class HttpDownload:
    """A `Download` straight from an answer.

    ``_reading`` is held while bytes are received; `close` takes it only after it has aborted the exchange.
    """

    def __init__(self, answer: Answer, start: int, length: int | None, name: str) -> None:
        self.start = start
        self.length = length
        self.last_modified = answer.date("Last-Modified")
        self.disposition = answer.headers.get("Content-Disposition", "")
        self._answer = answer
        self._name = name
        self._where = f"{answer.what} at {answer.host}"
        self._left = length
        self._reading = threading.Lock()
        self._closed = False

    def readinto(self, buffer: memoryview) -> int:
        with self._reading:
            if self._closed:
                raise BadHandle(f"{self._name}: the download is closed")
            if self._left == 0:
                return 0
            want = len(buffer) if self._left is None else min(len(buffer), self._left)
            count = self._answer.readinto(buffer[:want])
            if not count:
                if self._left is not None:
                    raise Unreachable(f"{self._where}: ended early, {self._left} of {self.length} bytes missing")
                self._left = 0  # nothing for `close` to abort: the connection may be somebody else's by now
                return 0
            if self._left is not None:
                self._left -= count
                if self._left == 0:
                    self._finish()
            return count

    def _finish(self) -> None:
        """All bytes are here. A body without a stated length must end now, which also frees the connection."""
        if "Content-Length" not in self._answer.headers and self._answer.read(1):
            raise ContentChanged(f"{self._where}: longer than the listing's {self.length} bytes")

    def close(self) -> None:
        self._closed = True
        if self._left != 0:
            self._answer.wire.abort()
        with self._reading:
            self._answer.close()


def begin(answer: Answer, expected: Expected, asked: tuple[int, int] | None) -> HttpDownload:
    """Check the head of an answer with status 200 or 206 against what was asked for.

    Raises:
        ContentChanged: the file is not as long as the listing says.
        ServerFault: anything else that does not fit.
    """
    where = f"{answer.what} at {answer.host}"
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ServerFault(f"{where}: the server sent the encoding {encoding!r:.40}, which was not asked for")
    stated = answer.headers.get("Content-Length")
    length = answer.number("Content-Length")
    if stated is not None and length is None:
        raise ServerFault(f"{where}: Content-Length is {stated!r:.40}")
    if answer.status == 206:
        _check_range(answer, where, expected, asked, length)
        assert asked is not None
        return HttpDownload(answer, asked[0], asked[1] - asked[0], expected.name)
    if expected.size is not None and length is not None and length != expected.size:
        raise ContentChanged(f"{where}: {length} bytes where the listing has {expected.size}")
    return HttpDownload(answer, 0, expected.size if length is None else length, expected.name)


def _check_range(
    answer: Answer, where: str, expected: Expected, asked: tuple[int, int] | None, length: int | None
) -> None:
    text = answer.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if asked is None or found is None:
        raise ServerFault(f"{where}: a part ({text!r:.60}) that was not asked for")
    first, last, total = (number(group) for group in found.groups())
    if first is None or last is None or total is None:
        raise ServerFault(f"{where}: a part ({text!r:.60}) of a file that cannot be so large")
    if expected.size is not None and total != expected.size:
        raise ContentChanged(f"{where}: {total} bytes where the listing has {expected.size}")
    if (first, last + 1) != asked or (length is not None and length != asked[1] - asked[0]):
        raise ServerFault(f"{where}: asked for bytes {asked[0]}-{asked[1] - 1}, got {text!r:.60} with length {length}")


def page_instead_of_file(answer: Answer, expected: Expected) -> bool:
    """Whether an answer of type text/html is a page and not the file.

    A file called so comes as an attachment with a date, a login page has neither (contract 5.1, field facts 42a).
    """
    if not expected.name.lower().endswith((".htm", ".html")):
        return True
    return "Content-Disposition" not in answer.headers and "Last-Modified" not in answer.headers


__all__ = ["CHUNK", "Download", "Expected", "HttpDownload", "begin", "page_instead_of_file"]
