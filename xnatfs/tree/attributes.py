"""What is known of a node beyond its name: one flat table per kind of record.

The same table makes the extended attributes (``user.xnat.type``), the rows of ``children.csv`` and ``xnatfs stat``,
so that a fact has one name everywhere. Names are XNAT's own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from xnatfs.tree.nodes import DirNode, FileNode, LinkNode, Node, TextNode
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Project,
    Reconstruction,
    Record,
    Resource,
    Scan,
    Subject,
)

PREFIX = "user.xnat."


def _time(seconds: float) -> str:
    """ISO 8601 without zone: XNAT gives the server's local time and does not say which zone that is."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None).isoformat(sep=" ")


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _project(record: Project) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.id,
        "name": record.name,
        "secondary_id": record.secondary_id,
        "description": record.description,
        "pi": record.pi,
        "uri": record.uri,
        "xsi_type": "xnat:projectData",
    }


def _subject(record: Subject) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.label,
        "project": record.project,
        "uri": record.uri,
        "xsi_type": "xnat:subjectData",
        "insert_date": _time(record.inserted),
        "last_modified": _time(record.modified),
        **dict(record.fields),
    }


def _experiment(record: Experiment) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.label,
        "project": record.project,
        "uri": record.uri,
        "xsi_type": record.xsi_type,
        "date": record.date,
        "subject_id": record.subject_id,
        "subject_label": record.subject_label,
        "insert_date": _time(record.inserted),
        "last_modified": _time(record.modified),
    }


def _scan(record: Scan) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.id,
        "type": record.type,
        "series_description": record.series_description,
        "quality": record.quality,
        "note": record.note,
        "frames": record.frames,
        "uri": record.uri,
        "xsi_type": record.xsi_type,
    }


def _assessor(record: Assessor) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.label,
        "project": record.project,
        "uri": record.uri,
        "xsi_type": record.xsi_type,
        "date": record.date,
        "insert_date": _time(record.inserted),
    }


def _reconstruction(record: Reconstruction) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.id,
        "type": record.type,
        "base_scan_type": record.base_scan_type,
        "uri": record.uri,
        "xsi_type": "xnat:reconstructedImageData",
    }


def _resource(record: Resource) -> dict[str, str]:
    return {
        "id": record.id,
        "label": record.label,
        "format": record.format,
        "content": record.content,
        "tags": record.tags,
        "file_count": _count(record.file_count),
        "file_size": _count(record.file_size),
        "uri": record.uri,
        "xsi_type": record.xsi_type,
    }


def _file(record: FileRecord) -> dict[str, str]:
    return {
        "label": record.path.rpartition("/")[2],
        "path": record.path,
        "size": _count(record.size),
        "digest": record.digest,
        "format": record.format,
        "content": record.content,
        "tags": record.tags,
        "resource_id": record.resource_id,
        "uri": record.base + record.path,
    }


_DESCRIBE: dict[type[Any], Callable[[Any], dict[str, str]]] = {
    Project: _project,
    Subject: _subject,
    Experiment: _experiment,
    Scan: _scan,
    Assessor: _assessor,
    Reconstruction: _reconstruction,
    Resource: _resource,
    FileRecord: _file,
}


def describe(record: Record) -> dict[str, str]:
    """Everything known of a record, empty values included, so that the columns of a table do not depend on its rows."""
    return _DESCRIBE[type(record)](record)


def xattrs(node: Node) -> dict[str, bytes]:
    """Extended attributes of a node by full name; only those that have a value."""
    if isinstance(node, (TextNode, LinkNode)) or node.record is None:
        return {}
    return {PREFIX + key: value.encode("utf-8", "replace") for key, value in describe(node.record).items() if value}


def rows(nodes: Iterable[Node]) -> list[dict[str, str]]:
    """One row per child that stands for something in the archive, with its name in the mount first."""
    return [
        {"entry": node.name, **describe(node.record)}
        for node in nodes
        if isinstance(node, (DirNode, FileNode)) and node.record is not None
    ]


def as_csv(table: Sequence[dict[str, str]]) -> bytes:
    """RFC 4180 with a header line; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in table for key in row)) or ["entry"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode("utf-8", "replace")


def as_json(value: object) -> bytes:
    """Indented JSON with a final newline."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
