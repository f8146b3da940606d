"""What an archive says about many sessions in one answer. Each form is checked so that a wrong answer counts as none.

The forms are old, but none is promised: a server that drops the columns, or answers with something else, is asked one
session at a time by `xnatfs.xnat.archive.Archive`, which has to give the same records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xnatfs.deadlines import Deadline
from xnatfs.errors import ServerFault
from xnatfs.xnat import rows, urls, values
from xnatfs.xnat.client import BAD_QUERY, Client
from xnatfs.xnat.filelist import FileList
from xnatfs.xnat.records import FileRecord, Resource, Scan
from xnatfs.xnat.tables import Row

log = logging.getLogger(__name__)
T = TypeVar("T")

_SCAN = "xnat:imagescandata"
_RESOURCE = f"{_SCAN}/file/xnat_abstractresource_id"
_OUTLINE = ",".join(
    ("ID", "project", f"{_SCAN}/id", f"{_SCAN}/type", f"{_SCAN}/file/label", _RESOURCE, f"{_SCAN}/file/file_count")
)

MOST_IDS = 100
"""IDs in one request; a real server answered a list of more than 220 with all experiments of the site."""
MOST_TEXT = 2000
"""Characters that those IDs may take."""


@dataclass(frozen=True, slots=True)
class Outline:
    """The scans of a session, and how many files each of their resources has (None: the server does not say)."""

    scans: tuple[Scan, ...]
    counts: Mapping[str, int | None]
    """By resource number."""
    places: Mapping[str, str]
    """Resource number -> scan ID."""


Places = Mapping[str, tuple[str, str]]
"""Resource number -> session ID and scan ID, which is empty for a resource of the session itself."""


class Bulk:
    """See the module. Safe for all threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.works = True
        """False once the server has shown that it does not know the forms."""

    def outlines(self, project_id: str, *, deadline: Deadline) -> dict[str, Outline] | None:
        """Every imaging session that the project owns, with its scans; None where a server has no such form.

        Rows are session x scan x resource, with empty cells where there is none (contract 3.7).
        """
        params = {"project": project_id, "xsiType": "xnat:imageSessionData", "columns": _OUTLINE}
        found = self._ask("/data/experiments", params, lambda table: _outlines(table, project_id), deadline)
        if found is None:
            self.works = False
        return found

    def assessed(self, project_id: str, *, deadline: Deadline) -> dict[str, str] | None:
        """Session ID by assessor ID, of all assessors that the project owns; None where a server has no such form."""
        params = {"project": project_id, "xsiType": "xnat:imageAssessorData", "columns": "ID,session_ID"}

        def collect(table: Iterator[Row]) -> dict[str, str] | None:
            pairs = [(rows.cell(row, "ID", "id"), rows.cell(row, "session_ID", "session_id")) for row in table]
            return dict(pairs) if all(ident and session for ident, session in pairs) else None

        found = self._ask("/data/experiments", params, collect, deadline)
        if found is None:
            self.works = False
        return found

    def resources(
        self, ids: Sequence[str], places: Places, assessors: Mapping[str, str], *, deadline: Deadline
    ) -> dict[str, tuple[Resource, ...]]:
        """The resources of several sessions at all levels, as `Archive.session_resources` has them; one request.

        The rows do not name their session (contract 3.7): ``places`` and ``assessors`` must tell it for every one. A
        session whose known resources are not all in the answer is left out.

        Raises:
            ServerFault: a row that may be of any of them, such as a reconstruction's.
        """
        path = f"/data/experiments/{_list(ids)}/resources"

        def collect(table: Iterator[Row]) -> dict[str, tuple[Resource, ...]]:
            return _resources(table, ids, places, assessors)

        found = self._client.table(path, collect, params={"all": "true"}, deadline=deadline, expect_title="Resources")
        assert found is not None
        return found

    def files(self, ids: Sequence[str], *, deadline: Deadline) -> dict[str, dict[str, Sequence[FileRecord]]]:
        """The files of several sessions, as `Archive.session_files` has them, by session; one request.

        Sessions without any file, and those that the server passed over, are not in the answer (contract 3.7).

        Raises:
            ServerFault: one bad entry spoils the whole listing, or it holds files of other sessions.
        """
        wanted = {urls.segment(ident): ident for ident in ids}

        def belongs(base: str, _: str) -> bool:
            return urls.experiment_in(base) in wanted

        path = f"/data/experiments/{_list(ids)}/files"
        found = self._client.table(
            path,
            lambda table: rows.files(table, belongs),
            params={"all": "true"},
            deadline=deadline,
            expect_title="Files",
            of_files=True,
        )
        sessions: dict[str, dict[str, Sequence[FileRecord]]] = {}
        for number, listed in (found or {}).items():
            for base, part in _by_base(listed):
                session = sessions.setdefault(wanted[urls.experiment_in(base) or ""], {})
                session[number] = (*session[number], *part) if number in session else part
        return sessions

    def _ask(
        self, path: str, params: dict[str, str], collect: Callable[[Iterator[Row]], T | None], deadline: Deadline
    ) -> T | None:
        return self._client.table(path, collect, params=params, deadline=deadline, none_on=BAD_QUERY)


def _list(ids: Sequence[str]) -> str:
    return urls.encode_list([urls.segment(ident) for ident in ids])


def _by_base(listed: Sequence[FileRecord]) -> list[tuple[str, Sequence[FileRecord]]]:
    if isinstance(listed, FileList):
        return [(listed.base, listed)]
    parts: dict[str, list[FileRecord]] = {}
    for record in listed:
        parts.setdefault(record.base, []).append(record)
    return [(base, tuple(records)) for base, records in parts.items()]


def _outlines(table: Iterable[Row], project_id: str) -> dict[str, Outline] | None:
    scans: dict[str, dict[str, Scan]] = {}
    counts: dict[str, dict[str, int | None]] = {}
    places: dict[str, dict[str, str]] = {}
    for row in table:
        if not isinstance(row, dict) or _RESOURCE not in row or f"{_SCAN}/id" not in row or "project" not in row:
            return None  # the server drops columns that it does not know
        session, scan = rows.cell(row, "ID", "id"), rows.cell(row, f"{_SCAN}/id")
        if not session or rows.cell(row, "project") != project_id:
            return None
        known = scans.setdefault(session, {})
        found = counts.setdefault(session, {})
        if scan:
            if scan not in known:
                uri = f"/experiments/{urls.segment(session)}/scans/{urls.segment(scan)}"
                known[scan] = Scan(scan, uri, type=rows.cell(row, f"{_SCAN}/type"), partial=True)
            number = rows.cell(row, _RESOURCE)
            if number:
                places.setdefault(session, {})[number] = scan
                found[number] = values.number(rows.cell(row, f"{_SCAN}/file/file_count"))
    return {
        session: Outline(tuple(known.values()), counts[session], places.get(session, {}))
        for session, known in scans.items()
    }


def _resources(
    table: Iterable[Row], ids: Sequence[str], places: Places, assessors: Mapping[str, str]
) -> dict[str, tuple[Resource, ...]]:
    found: dict[str, list[Resource]] = {ident: [] for ident in ids}
    missing = {number: session for number, (session, _) in places.items() if session in found}
    makers = {ident: rows.session_place(ident) for ident in ids}

    def one(row: Row) -> None:
        category, owner = rows.cell(row, "category"), rows.cell(row, "cat_id")
        number = rows.needed(row, "xnat_abstractresource_id", "xnat_abstractResource_id")
        session = ""
        if category in ("resources", "scans"):
            session, scan = places.get(number, ("", ""))
            if scan != (owner if category == "scans" else ""):
                session = ""
        elif category == "assessors":
            session = assessors.get(owner, "")
        if session not in found:
            raise ServerFault(f"resource {number} in a listing of {len(ids)} sessions may be of any of them")
        missing.pop(number, None)
        found[session].append(rows.resource(row, makers[session]))

    for _ in rows.parse(table, "resources", one):
        pass
    incomplete = set(missing.values())
    return {ident: tuple(listed) for ident, listed in found.items() if ident not in incomplete}
