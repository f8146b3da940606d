"""The archive as calls that return records and open streams.

Which request answers which question, and what to do where servers differ: a form that a server does not know is asked
for once, then remembered. Every call takes the deadline of the operation that it serves.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from xnatfs.deadlines import Deadline
from xnatfs.errors import InvalidRequest, NotFound, ServerFault
from xnatfs.xnat import rows, urls
from xnatfs.xnat.bulk import Bulk
from xnatfs.xnat.catalog import MAX_CATALOG, CatalogError, parse_catalog
from xnatfs.xnat.client import ABSENT, BAD_QUERY, NO_ROUTE, NONE, POISONED, REFUSED, Client
from xnatfs.xnat.document import parse_parts
from xnatfs.xnat.download import Download, Expected
from xnatfs.xnat.oddnames import OddNames
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Parts,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)
from xnatfs.xnat.tables import Row

log = logging.getLogger(__name__)
T = TypeVar("T")

SLOW = 1.0
"""Seconds; see `Archive.parts`."""
MAX_ITEM = 64 * 1024 * 1024
"""Characters of an item's document as it is shown."""
NO_DOCUMENT = frozenset({400, 404, 406, 500})
"""Answers after which the listings are asked, which say what it means."""

_RESOURCE_FIELDS = ("label", "xnat_abstractresource_id", "file_count", "file_size")


def _columns(*names: str, resources_of: str = "") -> str:
    wide = (f"{resources_of}/resources/resource/{field}" for field in _RESOURCE_FIELDS) if resources_of else ()
    return ",".join((*names, *wide))


_SUBJECT = ("ID", "label", "project", "insert_date", "last_modified")
_SUBJECT_COLUMNS = (
    _columns(*_SUBJECT, *rows.DEMOGRAPHICS, resources_of="xnat:subjectData"),
    _columns(*_SUBJECT, *rows.DEMOGRAPHICS),
    _columns(*_SUBJECT),
)
# no column of a subtype: one would hide all experiments of other types (contract 3.2, root narrowing)
_EXPERIMENT = (
    "ID", "label", "xsiType", "project", "date", "insert_date", "last_modified", "subject_ID", "subject_label",
)  # fmt: skip
_EXPERIMENT_COLUMNS = (_columns(*_EXPERIMENT, resources_of="xnat:experimentData"), _columns(*_EXPERIMENT))
_SCAN_COLUMNS = (_columns("ID", "type", "quality", "xsiType", "note", "series_description", "frames"), "")


class Archive:
    """An XNAT site's content. Safe for all threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._column_choice: dict[str, int] = {}
        self._documents = True
        self.bulk = Bulk(client)
        self._odd = OddNames(client, self.open_zip)

    @property
    def ranges(self) -> bool | None:
        """Whether the server honours Range; None until it has been seen."""
        return self._client.ranges

    def close(self, deadline: Deadline | None = None) -> None:
        """End the session on the server, waiting at most for ``deadline`` (5 s by default); close all connections."""
        self._client.logout(deadline if deadline is not None else Deadline(5.0))
        self._client.close()

    # --- containers --------------------------------------------------------------------------------------------------

    def projects(self, *, deadline: Deadline) -> tuple[Project, ...]:
        """All projects that the account may read."""
        return self._list("/projects", lambda found: tuple(rows.parse(found, "projects", rows.project)), deadline)

    def subjects(self, project_id: str, *, deadline: Deadline) -> tuple[Subject, ...]:
        """The subjects of a project, shared ones included under their label there; one request.

        Raises:
            NotFound: no such project. AccessDenied: visible, but not readable.
        """
        path = f"/projects/{urls.segment(project_id)}/subjects"
        return self._widest(
            "subjects", path, _SUBJECT_COLUMNS, lambda found: rows.subjects(found, project_id), deadline
        )

    def experiments(self, project_id: str, *, deadline: Deadline) -> tuple[Experiment, ...]:
        """The experiments of a project of all types but image assessors, shared ones included; one request."""
        path = f"/projects/{urls.segment(project_id)}/experiments"
        return self._widest("experiments", path, _EXPERIMENT_COLUMNS, rows.experiments, deadline)

    def parts(self, experiment_id: str, *, deadline: Deadline) -> Parts:
        """The scans of a session and, where its document tells, its assessors; one request.

        No listing has both, and the document costs a server more than two listings (180 ms and 40 ms on a 1.6.4). One
        that takes `SLOW` for it, or does not give it, is asked for the scans from then on.
        """
        path = urls.data(f"/experiments/{urls.segment(experiment_id)}")
        if self._documents:
            began = time.monotonic()
            text = self._client.document(path, params={"format": "json"}, deadline=deadline, none_on=NO_DOCUMENT)
            found = parse_parts(text, experiment_id) if text is not None else None
            if time.monotonic() - began > SLOW or (text is not None and found is None):
                log.info("session documents are slow or of no use here; asking for listings")
                self._documents = False
            if found is not None:
                return found
        return Parts(self.scans(experiment_id, deadline=deadline))

    def scans(self, experiment_id: str, *, deadline: Deadline) -> tuple[Scan, ...]:
        """The scans of a session; none for an experiment that is no imaging session."""

        def collect(found: Iterable[Row]) -> tuple[Scan, ...]:
            return tuple(rows.parse(found, "scans", lambda row: rows.scan(row, experiment_id)))

        def ask() -> tuple[Scan, ...] | None:
            path = f"/experiments/{urls.segment(experiment_id)}/scans"
            try:
                return self._widest("scans", path, _SCAN_COLUMNS, collect, deadline)
            except NotFound:
                return None

        return self._of_session(experiment_id, ask, deadline)

    def assessors(self, experiment_id: str, *, deadline: Deadline) -> tuple[Assessor, ...]:
        """The assessors of a session; none for an experiment that is no imaging session."""

        def collect(found: Iterable[Row]) -> tuple[Assessor, ...]:
            return tuple(rows.parse(found, "assessors", lambda row: rows.assessor(row, experiment_id)))

        return self._part(experiment_id, "assessors", collect, deadline)

    def reconstructions(self, experiment_id: str, *, deadline: Deadline) -> tuple[Reconstruction, ...]:
        """The reconstructions of a session; none for an experiment that is no imaging session."""

        def collect(found: Iterable[Row]) -> tuple[Reconstruction, ...]:
            return tuple(rows.parse(found, "reconstructions", lambda row: rows.reconstruction(row, experiment_id)))

        return self._part(experiment_id, "reconstructions", collect, deadline)

    def _part(
        self, experiment_id: str, part: str, collect: Callable[[Iterable[Row]], tuple[Any, ...]], deadline: Deadline
    ) -> tuple[Any, ...]:
        def ask() -> tuple[Any, ...] | None:
            path = urls.data(f"/experiments/{urls.segment(experiment_id)}/{part}")
            return self._client.table(path, collect, deadline=deadline, none_on=ABSENT)

        return self._of_session(experiment_id, ask, deadline)

    def _of_session(
        self, experiment_id: str, ask: Callable[[], tuple[Any, ...] | None], deadline: Deadline
    ) -> tuple[Any, ...]:
        """What ``ask`` finds; nothing for an experiment that is no imaging session.

        XNAT 1.8 answers 500 for such an experiment, as for a real fault (contract 3.5); the item tells which it is.
        """
        try:
            found = ask()
        except ServerFault:
            if self._is_session(experiment_id, deadline) is not False:
                raise
            found = None
        return () if found is None else found

    def _is_session(self, experiment_id: str, deadline: Deadline) -> bool | None:
        """Whether an experiment is an imaging session; None when the server does not say."""
        try:
            item = json.loads(self.item(f"/experiments/{urls.segment(experiment_id)}", deadline=deadline))
            kind = item["items"][0]["meta"]["xsi:type"]
        except (ServerFault, ValueError, LookupError, TypeError):
            return None
        return str(kind).endswith("SessionData")

    # --- resources ---------------------------------------------------------------------------------------------------

    def session_resources(self, experiment_id: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        """Every resource of an experiment at all its levels, with ``category`` and ``owner_id``; one request."""
        place = rows.session_place(experiment_id)
        path = f"/experiments/{urls.segment(experiment_id)}/resources"
        return self._list(path, lambda found: _resources(found, place), deadline, {"all": "true"})

    def input_resources(self, experiment_id: str, part: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        """The input resources of all ``assessors`` or ``reconstructions`` of a session.

        None where a server has no such form.
        """
        if part not in ("assessors", "reconstructions"):
            raise InvalidRequest(f"input_resources: {part!r} is neither assessors nor reconstructions")
        session = f"/experiments/{urls.segment(experiment_id)}/{part}"

        def place(_: str, owner: str) -> str:
            return f"{session}/{urls.segment(owner)}/in/resources"

        found = self._client.table(
            urls.data(f"{session}/ALL/in/resources"),
            lambda found: tuple(r for r in _resources(found, place) if r.owner_id),
            deadline=deadline,
            none_on=NO_ROUTE,
        )
        return () if found is None else found

    def resources(self, container_uri: str, *, deadline: Deadline) -> tuple[Resource, ...]:
        """The resources of one container, by the ``uri`` of its record.

        For an assessor these are its own and those of its output. A server that has one table for both (1.6.4) gives
        the same twice, which counts once.
        """
        if "/assessors/" not in container_uri and "/reconstructions/" not in container_uri:
            return self._resources_at(f"{container_uri}/resources", deadline)
        found: dict[str, Resource] = {}
        for form in ("/out/resources", "/resources"):
            try:
                for resource in self._resources_at(container_uri + form, deadline):
                    found.setdefault(resource.id, resource)
            except NotFound:  # a container without output; if it is not there at all, its listing says so
                continue
        return tuple(found.values())

    def _resources_at(self, uri: str, deadline: Deadline) -> tuple[Resource, ...]:
        return self._list(uri, lambda found: _resources(found, lambda *_: uri), deadline)

    # --- files -------------------------------------------------------------------------------------------------------

    def session_files(self, experiment_id: str, *, deadline: Deadline) -> dict[str, Sequence[FileRecord]]:
        """Every file of an experiment at all its levels, by resource number; one request.

        Raises:
            ServerFault: one bad entry spoils the whole listing (differences A9), or it holds files of something else.
        """
        own = urls.segment(experiment_id)

        def belongs(base: str, _: str) -> bool:
            return urls.experiment_in(base) == own

        path = f"/experiments/{own}/files"
        return self._list(path, lambda found: rows.files(found, belongs), deadline, {"all": "true"}, title="Files")

    def files(self, resource: Resource, *, deadline: Deadline) -> Sequence[FileRecord]:
        """The files of one resource; from its catalog where the listing is poisoned.

        Raises:
            NotFound: no such resource.
        """
        try:
            found = self._files_at(resource, resource.uri, deadline)
        except NotFound:
            found = None
        if not found and (found is None or resource.file_count):
            other = urls.alternative(resource.uri)
            try:
                again = None if other is None else self._files_at(resource, other, deadline)
            except NotFound:
                again = None
            found = again or found
        if found is None:
            raise NotFound(f"resource {resource.id}: not found")
        return found

    def _files_at(self, resource: Resource, uri: str, deadline: Deadline) -> Sequence[FileRecord]:
        session = urls.experiment_in(uri)

        def belongs(base: str, resource_id: str) -> bool:
            other = urls.experiment_in(base)
            through = {part for part in (other, *base.split("/")) if part}
            return resource_id == resource.id and (session is None or other == session or session in through)

        def collect(found: Iterable[Row]) -> Sequence[FileRecord]:
            return rows.files(found, belongs).get(resource.id, ())

        path = urls.data(f"{uri}/files")
        listed = self._client.table(
            path, collect, deadline=deadline, none_on=POISONED, expect_title="Files", of_files=True
        )
        return self._catalog(uri, resource.id, deadline) if listed is None else listed

    def _catalog(self, uri: str, resource_id: str, deadline: Deadline) -> Sequence[FileRecord]:
        log.info("resource %s: its listing is a server error; reading its catalog instead", resource_id)
        params = {"format": "xml"}
        document = self._client.document(urls.data(uri), params=params, deadline=deadline, limit=MAX_CATALOG)
        try:
            return parse_catalog(document or b"", f"{uri}/files/", resource_id)
        except CatalogError as error:
            raise ServerFault(f"resource {resource_id}: listing and catalog cannot be read: {error}") from error

    def item(self, uri: str, *, deadline: Deadline) -> bytes:
        """The item document of a record's ``uri`` as indented JSON.

        Raises:
            NotFound: no such item. ServerFault: no JSON (resources have no such document).
        """
        text = self._client.document(urls.data(uri), params={"format": "json"}, deadline=deadline)
        try:
            document = json.loads(text or b"")
        except (ValueError, RecursionError) as error:
            raise ServerFault(f"GET {urls.data(uri)}: no JSON document") from error
        pieces: list[str] = []
        size = 0
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(document):
            size += len(piece)
            if size > MAX_ITEM:  # what is deeply nested grows with each line's indentation
                raise ServerFault(f"GET {urls.data(uri)}: the document is larger than {MAX_ITEM} bytes when indented")
            pieces.append(piece)
        return "".join(pieces).encode("utf-8", "surrogatepass") + b"\n"

    # --- bytes -------------------------------------------------------------------------------------------------------

    def size(self, file: FileRecord, *, deadline: Deadline) -> int:
        """The size of a file in bytes, for one that the listing has no size of.

        Raises:
            NotFound: the server has no such file. ServerFault: it does not say.
        """
        name = file.path.rpartition("/")[2]
        for path in self._odd.paths(file):
            size = self._client.head(path, deadline=deadline, name=name)
            if size is not None:
                return size
        if not _is_odd(file):
            raise NotFound(f"{urls.encode(file.path)}: not found")
        with_open = self._open_odd(file, Expected(name), deadline)
        with_open.close()
        if with_open.length is None:
            raise ServerFault(f"{urls.encode(file.path)}: the server does not tell its size")
        return with_open.length

    def open_stream(self, file: FileRecord, start: int, stop: int, *, deadline: Deadline) -> Download:
        """Begin to read bytes ``[start, stop)`` of a file, 0 <= start < stop <= size.

        The stream begins at `Download.start`, which is 0 when the server ignores ranges.

        Raises:
            ContentChanged: the file's size is not the listing's any more.
            NotFound, AccessDenied, LoginFailed, TimedOut, Unreachable, ServerFault
        """
        if not 0 <= start < stop or (file.size is not None and stop > file.size):
            raise InvalidRequest(f"bytes {start}-{stop} of a file of {file.size}")
        expected = Expected(file.path.rpartition("/")[2], start, stop, file.size)
        if not _is_odd(file):
            path = urls.data(file.base) + urls.encode(file.path)
            download = self._client.download(path, expected, deadline=deadline)
            assert download is not None
            return download
        for path in self._odd.paths(file):
            found = self._client.download(path, expected, deadline=deadline, none_on=REFUSED)
            if found is not None:
                return found
        return self._open_odd(file, expected, deadline)

    def _open_odd(self, file: FileRecord, expected: Expected, deadline: Deadline) -> Download:
        by_number = self._odd.open_by_number(file, expected, deadline)
        download = by_number if by_number is not None else self._odd.open_in_archive(file, deadline)
        self._odd.refused(file)
        return download

    def open_zip(self, resource_uri: str, *, deadline: Deadline) -> Download:
        """Begin to read all files of a resource as one zip archive, made on the fly by the server.

        Raises:
            NotFound: no such resource, or it is empty.
        """
        expected = Expected("archive.zip", archive=True)
        for uri in (resource_uri, urls.alternative(resource_uri)):
            if uri is None:
                continue
            path, params = urls.data(f"{uri}/files"), {"format": "zip"}
            download = self._client.download(path, expected, params=params, deadline=deadline, none_on=ABSENT)
            if download is not None:
                return download
        raise NotFound(f"{urls.data(resource_uri)}: no files to send")

    # --- requests ----------------------------------------------------------------------------------------------------

    def _list(
        self,
        path: str,
        collect: Callable[[Iterator[Row]], T],
        deadline: Deadline,
        params: dict[str, str] | None = None,
        *,
        title: str | None = None,
    ) -> T:
        found = self._client.table(
            urls.data(path), collect, params=params, deadline=deadline, expect_title=title, of_files=title == "Files"
        )
        assert found is not None
        return found

    def _widest(
        self,
        kind: str,
        path: str,
        choices: tuple[str, ...],
        collect: Callable[[Iterator[Row]], T],
        deadline: Deadline,
    ) -> T:
        """A listing with as many columns as this server bears: a set that it refuses is not asked for again.

        A refusal is remembered only when narrower columns were answered, for it may mean the thing and not the columns.
        """
        with self._lock:
            first = self._column_choice.get(kind, 0)
        for choice in range(first, len(choices)):
            none_on = BAD_QUERY if choice < len(choices) - 1 else NONE
            params = {"columns": choices[choice]} if choices[choice] else None
            found = self._client.table(urls.data(path), collect, params=params, deadline=deadline, none_on=none_on)
            if found is not None:
                with self._lock:
                    self._column_choice[kind] = choice
                return found
        raise AssertionError("the last choice answers or raises")


def _resources(found: Iterable[Row], place: Callable[[str, str], str]) -> tuple[Resource, ...]:
    return tuple(rows.parse(found, "resources", lambda row: rows.resource(row, place)))


def _is_odd(file: FileRecord) -> bool:
    return urls.hopeless(file.path) or bool(urls.suspicion(file.path))
