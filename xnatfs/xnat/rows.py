"""Rows of XNAT's listings as records. Pure.

A row that cannot be used is skipped with one warning that says what is wrong with it; labels and IDs are named at debug
level only. A row of files that belongs elsewhere is an error: dropping it would make an answer look complete.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import TypeVar

from xnatfs.errors import ServerFault
from xnatfs.xnat.filelist import NO_DIGEST, FileListBuilder, Traits
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)
from xnatfs.xnat.tables import Row
from xnatfs.xnat.urls import segment, split_file_uri
from xnatfs.xnat.values import number

log = logging.getLogger(__name__)
R = TypeVar("R")

DEMOGRAPHICS = (
    "group", "src", "pi_firstname", "pi_lastname", "dob", "yob", "age", "gender", "handedness", "ses", "education",
    "educationDesc", "race", "ethnicity", "weight", "height", "gestational_age", "post_menstrual_age", "birth_weight",
)  # fmt: skip
"""XNAT's shortcut names of subject columns (contract 3.3)."""

RUN = 1000
"""Rows of files that are taken together at most."""

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_MD5 = re.compile(r"[0-9a-f]{32}")


class BadRowError(ValueError):
    """A row without what makes it one."""


def cell(row: Row, *names: str) -> str:
    """A cell's text by the first of its names that the row has: sites differ in case (``ID``/``id``, field facts 3)."""
    for name in names:
        value = row.get(name)
        if value is not None:
            return value if isinstance(value, str) else str(value)
    return ""


def needed(row: Row, *names: str) -> str:
    """As `cell`, for what a record cannot be without.

    Raises:
        BadRowError: it is not there, or empty.
    """
    text = cell(row, *names)
    if not text:
        raise BadRowError(f"no {names[0]}")
    return text


def seconds(text: str) -> float:
    """A timestamp such as ``2024-06-18 15:57:30.123`` (1 to 9 fraction digits) as seconds since the epoch, read as UTC.

    0 for what is none: XNAT leaves cells empty, and gives no zone (contract 0.4).
    """
    found = _TIME.match(text)
    if found is None:
        return 0.0
    try:
        moment = datetime(*(int(part) for part in found.groups()[:6]), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
    except ValueError:
        return 0.0
    return moment.timestamp() + (float(f"0.{found[7]}") if found[7] else 0.0)


def parse(rows: Iterable[Row], kind: str, record: Callable[[Row], R]) -> Iterator[R]:
    """One record a row; rows without the essentials are skipped with one warning for all of them."""
    bad, first = 0, ""
    for row in rows:
        try:
            if not isinstance(row, dict):
                raise BadRowError("not an object")
            yield record(row)
        except BadRowError as error:
            bad += 1
            first = first or str(error)
            log.debug("skipped a row of %s: %s: %.300r", kind, error, row)
    if bad:
        log.warning("%d row(s) in a listing of %s could not be used: %s", bad, kind, first)


# --- containers ------------------------------------------------------------------------------------------------------


def project(row: Row) -> Project:
    project_id = needed(row, "ID", "id")
    pi = " ".join(filter(None, (cell(row, "pi_firstname"), cell(row, "pi_lastname")))) or cell(row, "pi")
    return Project(
        id=project_id,
        uri=f"/projects/{segment(project_id)}",
        name=cell(row, "name"),
        secondary_id=cell(row, "secondary_ID", "secondary_id"),
        description=cell(row, "description"),
        pi=pi,
    )


def subjects(rows: Iterable[Row], project_id: str) -> tuple[Subject, ...]:
    """Rows of subject x resource folded: one subject each, in the order of their first rows."""

    def one(row: Row, resources: tuple[Resource, ...] | None) -> Subject:
        subject_id = needed(row, "ID", "id")
        return Subject(
            id=subject_id,
            label=cell(row, "label") or subject_id,
            uri=f"/projects/{segment(project_id)}/subjects/{segment(subject_id)}",
            project=cell(row, "project"),
            inserted=seconds(cell(row, "insert_date")),
            modified=seconds(cell(row, "last_modified")),
            fields=tuple((name, cell(row, name)) for name in DEMOGRAPHICS if cell(row, name)),
            resources=resources,
        )

    return _folded(rows, "subjects", "xnat:subjectdata/resources/resource", one, lambda s: s.uri)


def experiments(rows: Iterable[Row]) -> tuple[Experiment, ...]:
    """Rows of experiment x resource folded: one experiment each, in the order of their first rows."""

    def one(row: Row, resources: tuple[Resource, ...] | None) -> Experiment:
        experiment_id = needed(row, "ID", "id")
        return Experiment(
            id=experiment_id,
            label=cell(row, "label") or experiment_id,
            uri=f"/experiments/{segment(experiment_id)}",
            subject_id=cell(row, "subject_ID", "subject_id"),
            subject_label=cell(row, "subject_label"),
            project=cell(row, "project"),
            xsi_type=cell(row, "xsiType", "xsitype"),
            date=cell(row, "date"),
            inserted=seconds(cell(row, "insert_date")),
            modified=seconds(cell(row, "last_modified")),
            resources=resources,
        )

    return _folded(rows, "experiments", "xnat:experimentdata/resources/resource", one, lambda e: e.uri)


def _folded(
    rows: Iterable[Row],
    kind: str,
    prefix: str,
    record: Callable[[Row, tuple[Resource, ...] | None], R],
    uri: Callable[[R], str],
) -> tuple[R, ...]:
    """Group rows by ID. Without the resource columns (a server drops what it does not know) resources are unknown."""
    key = f"{prefix}/xnat_abstractresource_id"
    firsts: dict[str, Row] = {}
    found: dict[str, dict[str, Row]] = {}

    def take(row: Row) -> str:
        item_id = needed(row, "ID", "id")
        firsts.setdefault(item_id, row)
        resource_id = cell(row, key)
        if resource_id:
            found.setdefault(item_id, {})[resource_id] = row
        return item_id

    for _ in parse(rows, kind, take):
        pass
    records: list[R] = []
    for item_id, row in firsts.items():
        resources: tuple[Resource, ...] | None = None
        if key in row:
            container = uri(record(row, None))
            resources = tuple(
                _column_resource(resource, container, prefix) for resource in found.get(item_id, {}).values()
            )
        records.append(record(row, resources))
    return tuple(records)


def _column_resource(row: Row, container: str, prefix: str) -> Resource:
    resource_id = cell(row, f"{prefix}/xnat_abstractresource_id")
    return Resource(
        id=resource_id,
        label=cell(row, f"{prefix}/label"),
        uri=f"{container}/resources/{resource_id}",
        category="resources",
        file_count=number(cell(row, f"{prefix}/file_count")),
        file_size=number(cell(row, f"{prefix}/file_size")),
        format=cell(row, f"{prefix}/format"),
        content=cell(row, f"{prefix}/content"),
    )


def scan(row: Row, experiment_id: str) -> Scan:
    scan_id = needed(row, "ID", "id")
    return Scan(
        id=scan_id,
        uri=f"/experiments/{segment(experiment_id)}/scans/{segment(scan_id)}",
        type=cell(row, "type"),
        series_description=cell(row, "series_description"),
        quality=cell(row, "quality"),
        note=cell(row, "note"),
        xsi_type=cell(row, "xsiType", "xsitype"),
        frames=cell(row, "frames"),
    )


def assessor(row: Row, experiment_id: str) -> Assessor:
    assessor_id = needed(row, "ID", "id")
    return Assessor(
        id=assessor_id,
        label=cell(row, "label") or assessor_id,
        uri=f"/experiments/{segment(experiment_id)}/assessors/{segment(assessor_id)}",
        xsi_type=cell(row, "xsiType", "xsitype"),
        date=cell(row, "date"),
        inserted=seconds(cell(row, "insert_date")),
        project=cell(row, "project"),
    )


def reconstruction(row: Row, experiment_id: str) -> Reconstruction:
    reconstruction_id = needed(row, "ID", "id")
    return Reconstruction(
        id=reconstruction_id,
        uri=f"/experiments/{segment(experiment_id)}/reconstructions/{segment(reconstruction_id)}",
        type=cell(row, "type"),
        base_scan_type=cell(row, "baseScanType", "basescantype"),
    )


# --- resources and files ---------------------------------------------------------------------------------------------


def resource(row: Row, place: Callable[[str, str], str]) -> Resource:
    """``place(category, cat_id)`` is the raw URI under which the resource's number goes."""
    resource_id = needed(row, "xnat_abstractresource_id", "xnat_abstractResource_id")
    if number(resource_id) is None:
        raise BadRowError("xnat_abstractresource_id is no number")
    category, owner = cell(row, "category"), cell(row, "cat_id")
    return Resource(
        id=resource_id,
        label=cell(row, "label"),
        uri=f"{place(category, owner)}/{resource_id}",
        category=category,
        owner_id=owner,
        file_count=number(cell(row, "file_count")),
        file_size=number(cell(row, "file_size")),
        format=cell(row, "format"),
        content=cell(row, "content"),
        tags=cell(row, "tags"),
        xsi_type=cell(row, "element_name"),
    )


def session_place(experiment_id: str) -> Callable[[str, str], str]:
    """Where the resources of a session-wide listing hang.

    The listing does not tell an assessor's own resources from those of its output (contract 3.6). Both are placed under
    ``out``, where most are and where 1.6.4 has all of them; the archive tries the other form when there is nothing.
    """
    session = f"/experiments/{segment(experiment_id)}"

    def place(category: str, owner: str) -> str:
        if category == "scans" and owner:
            return f"{session}/scans/{segment(owner)}/resources"
        if category in ("assessors", "reconstructions") and owner:
            return f"{session}/{category}/{segment(owner)}/out/resources"
        return f"{session}/resources"

    return place


def files(rows: Iterable[Row], belongs: Callable[[str, str], bool]) -> dict[str, Sequence[FileRecord]]:
    """File records by the number of their resource, packed: there may be millions of rows.

    Args:
        belongs: of the raw base (``/experiments/E/.../resources/1/files/``) and the resource's number.

    Raises:
        ServerFault: a row of another container.
    """
    prefixes: dict[str, FileListBuilder] = {}
    builders: dict[tuple[str, str], FileListBuilder] = {}
    usual: set[Traits] = set()

    def place(uri: str) -> tuple[FileListBuilder, str]:
        parts = split_file_uri(uri)
        if parts is None:
            raise BadRowError("URI of an unknown form")
        base, resource_id, path = parts
        if not belongs(base, resource_id):
            log.debug("foreign URI %.300r", uri)
            raise ServerFault("the listing of files holds rows of another container than was asked for")
        builder = builders.get((resource_id, base))
        if builder is None:
            builder = builders[resource_id, base] = FileListBuilder(base, resource_id)
        return prefixes.setdefault(uri[: len(uri) - len(path)], builder), path

    def one(row: Row) -> None:
        builder, path = place(needed(row, "URI", "uri"))
        if not path:
            raise BadRowError("URI without a path")
        digest = cell(row, "digest").strip().lower()
        size = number(cell(row, "Size", "size"))
        traits = cell(row, "file_format"), cell(row, "file_content"), cell(row, "file_tags")
        usual.add(traits)
        packed = bytes.fromhex(digest) if _MD5.fullmatch(digest) else NO_DIGEST
        builder.add(path, -1 if size is None else size, packed, traits)

    def unusual() -> Iterator[Row]:
        """Takes the rows that are as always, many of one resource at a time; gives those that are not."""
        run: list[Row] = []
        paths: list[str] = []
        sizes: list[str] = []
        digests: list[str] = []
        prefix, cut, of_run = "", 0, None

        def taken() -> list[Row]:
            """The rows of the run, if it could not be taken; nothing if it was."""
            try:
                if of_run is not None and run:
                    prefixes[prefix].extend(paths, sizes, digests, of_run)
                return []
            except (ValueError, TypeError):
                return run

        for row in rows:
            try:
                uri, digest, size = row["URI"], row.get("digest", ""), row["Size"]
                traits = row["file_format"], row["file_content"], row["file_tags"]
                if traits != of_run or not uri.startswith(prefix) or len(run) >= RUN:
                    yield from taken()
                    run, paths, sizes, digests, of_run = [], [], [], [], None
                    cut = uri.index("/files/") + 7
                    prefix = uri[:cut]
                    if prefix not in prefixes or traits not in usual:
                        yield row
                        continue
                    of_run = traits
                if len(uri) == cut or len(digest) not in (0, 32):
                    yield row
                    continue
                sizes.append(size)
                paths.append(uri[cut:])
                digests.append(digest)
                run.append(row)
            except (KeyError, ValueError, TypeError, AttributeError):
                yield row
        yield from taken()

    for _ in parse(unusual(), "files", one):
        pass
    listed: dict[str, Sequence[FileRecord]] = {}
    for (resource_id, _), builder in builders.items():
        if len(builder):
            before = listed.get(resource_id)  # the same resource under two addresses: seen of assessors' on old servers
            listed[resource_id] = builder.done() if before is None else (*before, *builder.done())
    return listed
