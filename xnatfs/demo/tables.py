"""Tables as XNAT writes them: columns, filters, sorting, and the JSON and CSV envelopes. No I/O, no archive.

Every cell is text; NULL is the empty string (contract 0.4).
"""

from __future__ import annotations

import fnmatch
import html
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from xnatfs.demo.ask import JSON, Answer, Ask, Refusal

Getter = Callable[[Any], str]
"""Reads one cell from a source (whatever object a listing's rows are made of)."""

RESERVED = frozenset(
    (
        "format",
        "columns",
        "xsiType",
        "sortBy",
        "sortOrder",
        "limit",
        "offset",
        "fields",
        "all",
        "locator",
        "file_format",
        "file_content",
        "index",
        "structure",
        "compression",
        "recursive",
        "includeRootPath",
        "accept-not-found",
        "allDataOverride",
        "restrict",
        "recent",
        "method",
        "req_format",
        "concealHiddenFields",
        "file_stats",
        "cache_file_stats",
        "req_id",
        "requested_screen",
        "CSRF",
        "includeHistory",
    )
)
"""Query parameters that are never filters."""


@dataclass
class Table:
    """Headers and rows. ``meta`` are the keys after the rows, ``columns_meta`` the ones before."""

    headers: list[str]
    rows: Sequence[tuple[str, ...]]
    meta: dict[str, str] = field(default_factory=dict)
    columns_meta: list[dict[str, str]] | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that a listing knows.

    ``shortcuts`` are case-sensitive names, ``paths`` the XPaths in lower case; ``defaults`` is what is shown when
    nothing was asked for, ``always`` what is shown in any case (``URI``, primary keys).
    """

    shortcuts: dict[str, Getter]
    defaults: tuple[str, ...]
    always: tuple[str, ...] = ("URI",)
    paths: dict[str, Getter] = field(default_factory=dict)
    hidden: dict[str, Getter] = field(default_factory=dict)
    """What ``always`` and ``defaults`` may name and ``columns=`` may not."""

    def chosen(self, ask: Ask) -> list[tuple[str, Getter]]:
        """Header and getter of each column asked for; unknown ones are dropped without a word (contract 3.2)."""
        wanted: list[str] = []
        for value in ask.all("columns") or ("DEFAULT",):
            for name in value.split(","):
                wanted.extend(self.defaults if name.strip() == "DEFAULT" else (name.strip(),))
        shown: dict[str, Getter] = {}
        for name in wanted:
            known = self._find(name)
            if known is not None:
                shown.setdefault(*known)
        for name in self.always:
            shown.setdefault(name, self.hidden.get(name) or self.shortcuts[name])
        return list(shown.items())

    def _find(self, name: str) -> tuple[str, Getter] | None:
        if name in self.shortcuts:
            return name, self.shortcuts[name]
        if name in self.defaults and name in self.hidden:
            return name, self.hidden[name]
        if "/" in name and name.lower() in self.paths:
            return name.lower(), self.paths[name.lower()]
        return None

    def filters(self, ask: Ask) -> list[tuple[Getter, str]]:
        """Any known column as a query parameter narrows the rows."""
        found = []
        for key, value in ask.query:
            if key in RESERVED:
                continue
            known = self._find(key)
            if known is not None:
                found.append((known[1], value))
        return found


def matches(cell: str, wanted: str) -> bool:
    """XNAT's filter values: ``*`` and ``%`` are wildcards, a comma list means any of them."""
    for option in wanted.split(","):
        pattern = option.replace("%", "*")
        if cell == option or ("*" in pattern and fnmatch.fnmatchcase(cell, pattern.replace("[", "[[]"))):
            return True
    return False


def build(columns: Columns, sources: Iterable[Any], ask: Ask, meta: dict[str, str] | None = None) -> Table:
    """The table of a listing: filters applied, one row a source."""
    if ask.true("fields"):
        names = sorted(columns.shortcuts)
        return Table(["key", "xpath"], [(name, name) for name in names], {"totalRecords": str(len(names))})
    chosen, filters = columns.chosen(ask), columns.filters(ask)
    getters = [getter for _, getter in chosen]
    rows = [
        tuple(getter(source) for getter in getters)
        for source in sources
        if all(matches(getter(source), value) for getter, value in filters)
    ]
    return Table([name for name, _ in chosen], rows, {"totalRecords": str(len(rows)), **(meta or {})})


def page(table: Table, ask: Ask) -> Table:
    """``limit`` and ``offset``; a paged answer has no totalRecords (contract 3.5)."""
    if not (ask.has("limit") or ask.has("offset")):
        return table
    limit, offset = ask.get("limit", "100"), ask.get("offset", "0")
    try:
        start = int(offset)
        stop = None if limit == "*" else start + int(limit)
    except ValueError:
        raise Refusal(400) from None
    table.rows = table.rows[start:stop]
    table.meta.pop("totalRecords", None)
    return table


def arranged(table: Table, ask: Ask, shuffle: int | None) -> Table:
    """Rows in the order asked for by ``sortBy``; else as they are, or shuffled by a seed (no order is promised)."""
    rows = list(table.rows)
    if shuffle is not None:
        random.Random(f"{shuffle}{ask.path}").shuffle(rows)  # noqa: S311 - an order, no secret
    keys = [table.headers.index(name) for name in ask.get("sortBy").split(",") if name in table.headers]
    if keys:
        rows.sort(key=lambda row: [_natural(row[key]) for key in keys], reverse=ask.get("sortOrder").upper() == "DESC")
    table.rows = rows
    return table


def _natural(cell: str) -> tuple[int, float, str]:
    try:
        return (0, float(cell), "")
    except ValueError:
        return (1, 0.0, cell)


def render(table: Table, ask: Ask) -> Answer:
    """JSON unless ``format`` says otherwise."""
    wanted = ask.get("format").lower()
    if wanted in ("csv", "text/csv"):
        return Answer(to_csv(table), type="text/csv", chunked=True)
    if wanted in ("html", "text/html"):
        return Answer(to_html(table), type="text/html", chunked=True)
    if wanted in ("xml", "text/xml"):
        return Answer(to_xml(table), type="text/xml", chunked=True)
    return Answer(to_json(table), type=JSON, chunked=True)


def to_json(table: Table) -> bytes:
    """The envelope, spelled with the blanks a real one has."""
    quote = json.encoder.encode_basestring
    keys = [quote(name) + ":" for name in table.headers]
    rows = ",".join(
        "{" + ",".join([key + quote(cell) for key, cell in zip(keys, row, strict=True)]) + "}" for row in table.rows
    )
    before = ""
    if table.columns_meta is not None:
        before = '"Columns":' + json.dumps(table.columns_meta, separators=(",", ":")) + ","
    after = ",".join(f"{quote(key)}: {quote(value)}" for key, value in table.meta.items())
    return f'{{"ResultSet":{{{before}"Result":[{rows}]{", " if after else ""}{after}}}}}'.encode(
        "utf-8", "surrogateescape"
    )


def to_csv(table: Table) -> bytes:
    lines = [",".join(_csv_cell(name) for name in table.headers)]
    lines.extend(",".join(_csv_cell(cell) for cell in row) for row in table.rows)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _csv_cell(cell: str) -> str:
    cell = cell.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell else cell


def to_html(table: Table) -> bytes:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join(line(row, "td") for row in table.rows)
    return f"<html><body><table>\n{line(table.headers, 'th')}\n{rows}\n</table></body></html>\n".encode()


def to_xml(table: Table) -> bytes:
    def line(cells: Sequence[str]) -> str:
        return "<row>" + "".join(f"<cell>{html.escape(cell)}</cell>" for cell in cells) + "</row>"

    columns = "".join(f"<column>{html.escape(name)}</column>" for name in table.headers)
    rows = "\n".join(line(row) for row in table.rows)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ResultSet><results>'
        f"<columns>{columns}</columns>\n<rows>{rows}</rows></results></ResultSet>\n"
    ).encode()


def timestamp(moment: datetime) -> str:
    """``java.sql.Timestamp.toString``: as many fraction digits as are needed, at least one."""
    fraction = f"{moment.microsecond:06d}".rstrip("0") or "0"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{fraction}"
