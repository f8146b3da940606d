"""XNAT's JSON tables, read row by row while they arrive.

A listing of 100,000 files is 26 MB. One ``json.loads`` of it would hold the interpreter for a third of a second, with
every other reader of the mount waiting, and the document and its records would be in memory together. Here it is
parsed in pieces of at most a chunk, as fast as in one go, and each row is handed on at once.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

Row = dict[str, Any]
"""One row as parsed; cells are texts on every server seen, but nothing here relies on it."""

MAX_VALUE = 1024 * 1024
"""No row and no meta value of a table is larger, in characters; a larger one is no table of XNAT's."""

MOST_ROWS = 5_000_000
"""More than twice as many as the largest listing that this is made for."""
MOST_META = 100
"""Meta values that are kept; those of XNAT are two or three."""

_BLANKS = " \t\r\n"
_decoder = json.JSONDecoder()


class MalformedError(ValueError):
    """The text is no JSON table."""


class IncompleteError(MalformedError):
    """The text is the beginning of a JSON table and ends too early."""


class MisroutedError(MalformedError):
    """A JSON document of another kind, such as an item: the server took another route (differences A11)."""


class TableReader:
    """``{"ResultSet": {"Result": [rows], meta}}`` from chunks of UTF-8.

    Iterate for the rows; afterwards ``meta`` holds the other keys of the result set. Raises `MalformedError` and its
    kinds.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._cuttable = True
        """Whether several rows may be cut out of the buffer in one piece, as far as has been tried."""
        self._count = 0
        self.meta: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Row]:
        """The rows in the order of the document; what is no object is given as it is."""
        return chain.from_iterable(self._batches())

    def _batches(self) -> Iterator[list[Row]]:
        self._expect("{")
        found = False
        for key in self._keys():
            if key != "ResultSet":
                if key == "items":
                    raise MisroutedError("an item document instead of a table")
                self._value()
                continue
            self._expect("{")
            for name in self._keys():
                if name == "Result":
                    found = True
                    yield from self._rows()
                else:
                    value = self._value()
                    if len(self.meta) < MOST_META:
                        self.meta[name] = value
        if not found:
            raise MisroutedError("a JSON document without ResultSet")
        if self._peek() != "":
            raise MalformedError("text after the end of the table")

    # --- grammar ---------------------------------------------------------------------------------------------------

    def _keys(self) -> Iterator[str]:
        """The keys of the object just entered, up to and including its closing brace; the caller takes each value."""
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise MalformedError("a key that is no text")
            self._expect(":")
            yield key
            if self._separator("}"):
                return

    def _rows(self) -> Iterator[list[Row]]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            batch = self._batch()
            rows = [self._value()] if batch is None else batch
            self._count += len(rows)
            if self._count > MOST_ROWS:
                raise MalformedError(f"more than {MOST_ROWS} rows")
            yield rows
            if batch is None and self._separator("]"):
                return

    def _batch(self) -> list[Row] | None:
        """All rows in the buffer but the last, parsed in one go; None when there is no such thing.

        Rows are cut at the last ``},{"``. Where that stands inside a text the piece does not parse, because it ends
        in the middle of a text; then the slow way takes over for one row.
        """
        if not self._cuttable:  # looked for once in each buffer, or tiny rows would cost the square of their number
            return None
        cut = self._text.rfind('},{"', self._at)
        try:
            rows: list[Row] | None = _decoder.decode(f"[{self._text[self._at : cut + 1]}]") if cut >= 0 else None
        except (ValueError, RecursionError):
            rows = None
        if rows is None:
            self._cuttable = False
            return None
        self._at = cut + 2
        return rows

    def _separator(self, closing: str) -> bool:
        """Step over the comma before another member (False), or the bracket that closes (True)."""
        character = self._peek()
        if character not in (",", closing):
            raise (
                IncompleteError("ends in the middle")
                if character == ""
                else MalformedError(f"unexpected {character!r}")
            )
        self._at += 1
        return character == closing

    def _expect(self, wanted: str) -> None:
        character = self._peek()
        if character != wanted:
            if character == "":
                raise IncompleteError("ends too early")
            raise MalformedError(f"{character!r} where {wanted!r} belongs")
        self._at += 1

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise MalformedError("nested too deeply") from error
            except ValueError as error:
                if len(self._text) - self._at > MAX_VALUE:
                    raise MalformedError("a value that does not parse, or of more than 1 MiB") from error
                if not self._more():
                    raise IncompleteError("ends in the middle of a value, or has a malformed one") from error
                continue
            # a number at the end of the buffer may go on in the next chunk
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._more():
                continue
            self._at = end
            return value

    # --- text ------------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        """The next character that is no blank, "" at the end of the document."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANKS:
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Take one more chunk; False at the end."""
        if self._ended:
            return False
        chunk = next(self._chunks, None)
        try:
            text = self._decode.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            raise MalformedError("not UTF-8") from error
        self._ended = chunk is None
        self._text = self._text[self._at :] + text
        self._at = 0
        self._cuttable = True
        return not self._ended
