"""The JSON document of an experiment, as far as it says of what the experiment consists (contract 6.1). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from xnatfs.xnat.records import Assessor, Parts, Scan
from xnatfs.xnat.urls import segment

Item = dict[str, Any]


def parse_parts(text: bytes, experiment_id: str) -> Parts | None:
    """The scans and assessors in a document; None unless it is certain that these are all.

    A document has its assessors whether or not they have resources, other than any listing of a session (seen on
    1.6.4). Their date of insertion is not in it.
    """
    try:
        session = next(_current(json.loads(text)["items"]))
        if session["data_fields"]["ID"] != experiment_id:
            return None
        path = f"/experiments/{segment(experiment_id)}"
        assessors = list(_children(session, "assessors/assessor"))
        return Parts(
            tuple(_scan(item, path) for item in _children(session, "scans/scan")),
            tuple(_assessor(item, path) for item in assessors),
            not any(True for assessor in assessors for _ in _children(assessor, "in/file")),
        )
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        return None


def _current(items: list[Item]) -> Iterator[Item]:
    return (item for item in items if not item["meta"].get("isHistory"))


def _children(item: Item, field: str) -> Iterator[Item]:
    for child in item["children"]:
        if child["field"] == field:
            yield from _current(child["items"])


def _text(item: Item, name: str) -> str:
    """A field as a listing would have it: there everything is text."""
    value = item["data_fields"].get(name)
    return "" if value is None else str(value)


def _scan(item: Item, session: str) -> Scan:
    ident = str(item["data_fields"]["ID"])
    return Scan(
        id=ident,
        uri=f"{session}/scans/{segment(ident)}",
        type=_text(item, "type"),
        series_description=_text(item, "series_description"),
        quality=_text(item, "quality"),
        note=_text(item, "note"),
        xsi_type=item["meta"]["xsi:type"],
        frames=_text(item, "frames"),
    )


def _assessor(item: Item, session: str) -> Assessor:
    ident = str(item["data_fields"]["ID"])
    return Assessor(
        id=ident,
        label=_text(item, "label") or ident,
        uri=f"{session}/assessors/{segment(ident)}",
        xsi_type=item["meta"]["xsi:type"],
        date=_text(item, "date"),
        project=_text(item, "project"),
        partial=True,
    )
