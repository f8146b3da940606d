"""Names that a server refuses by path, and listings that it cannot make."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest
from support.rawserver import FakeXnat, RawServer, Request, Someone, chunked, reply, table

from xnatfs.deadlines import Deadline
from xnatfs.errors import ContentChanged, InvalidRequest, NotFound, ServerFault, Unreachable
from xnatfs.xnat.archive import Archive
from xnatfs.xnat.client import Client
from xnatfs.xnat.records import FileRecord, Resource

RESOURCE = "/experiments/E/scans/1/resources/12"
BASE = f"{RESOURCE}/files/"
HTML = {"kind": "text/html"}


def content(path: str) -> bytes:
    return f"this is {path}".encode()


def record(path: str) -> FileRecord:
    return FileRecord(BASE, path, len(content(path)))


class Site:
    """Files with given names; refuses what ``refuses`` says; serves by number and as an archive where it may."""

    def __init__(self, *paths: str, refuses: Callable[[str], int], by_number: bool = True) -> None:
        self.paths = list(paths)
        self.refuses = refuses
        self.by_number = by_number

    def __call__(self, request: Request) -> Any:
        if request.path.startswith(f"/data{BASE}"):
            sent = request.path.removeprefix(f"/data{BASE}")
            status = self.refuses(sent)
            if status:
                return reply(status, "<html>", **HTML)
            for wanted in (sent, unquote(sent)):
                if wanted in self.paths:
                    return self.file(wanted)
            return reply(404, "<html>", **HTML)
        if "index=" in request.query:
            number = int(request.query.partition("index=")[2])
            return self.file(self.paths[number]) if self.by_number else reply(404, "<html>", **HTML)
        if "format=zip" in request.query:
            return chunked([self.archive()], kind="application/zip")
        rows = [{"URI": f"/data{BASE}{p}", "Name": p, "Size": str(len(content(p))), "cat_ID": "12"} for p in self.paths]
        return reply(body=table(rows, title="Files"))

    def file(self, path: str) -> list[bytes]:
        name = path.rpartition("/")[2].encode().decode("latin-1")
        headers = {"Content-Disposition": f'attachment; filename="{name}";'}
        return reply(body=content(path), kind="application/octet-stream", headers=headers)

    def archive(self) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for path in self.paths:
                archive.writestr(f"SESS/scans/1-T1/resources/NAMES/files/{path}", content(path))
        return out.getvalue()


def firewall(sent: str) -> int:
    return 500 if any(bad in sent for bad in ("%25", "%3B", "%5C")) else 0


def read(site: Archive, file: FileRecord) -> bytes:
    assert file.size is not None
    download = site.open_stream(file, 0, file.size, deadline=Deadline(20))
    buffer, out = memoryview(bytearray(7)), b""
    try:
        while count := download.readinto(buffer):
            out += bytes(buffer[:count])
        return out
    finally:
        download.close()


NAMES = ("100%.txt", "a;b.txt", "sub/back\\slash.txt", "x.zip/inside", "ü%.txt", "plain.txt", "a%23b.txt", "a%2 b")


@pytest.mark.parametrize("by_number", [True, False])
@pytest.mark.parametrize("name", [*NAMES, "../../evil.txt", "a//b", "tab\tname"])
def test_every_name_is_read_behind_a_firewall(name: str, by_number: bool) -> None:
    def refuses(sent: str) -> int:
        return 404 if "x.zip/" in sent else firewall(sent)

    paths = ("first.txt", *NAMES, "../../evil.txt", "a//b", "tab\tname", "last.txt")
    with RawServer(FakeXnat(Site(*paths, refuses=refuses, by_number=by_number))) as server:
        client = Client(server.url, Someone())
        assert read(Archive(client), record(name)) == content(name)
        client.close()


@pytest.mark.parametrize("name", NAMES)
def test_an_old_server_serves_them_by_path(name: str) -> None:
    with RawServer(FakeXnat(Site(*NAMES, refuses=lambda _: 0))) as server:
        client = Client(server.url, Someone())
        assert read(Archive(client), record(name)) == content(name)
        assert [r.path for r in server.requests][2:] == [server.requests[-1].path]
        client.close()


def test_a_refusal_is_remembered() -> None:
    with RawServer(FakeXnat(Site("1%.txt", "2%.txt", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        archive = Archive(client)
        read(archive, record("1%.txt"))
        read(archive, record("2%.txt"))
        assert sum("%25" in r.path for r in server.requests) == 1
        client.close()


def test_escapes_are_sent_unchanged_where_encoded_ones_are_refused() -> None:
    with RawServer(FakeXnat(Site("a%23b.txt", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        assert read(Archive(client), record("a%23b.txt")) == content("a%23b.txt")
        assert server.requests[-1].path == f"/data{BASE}a%23b.txt"
        client.close()


def test_by_number_another_file_is_never_taken() -> None:
    """The listing changed between two requests: the number now means a file of the same size."""

    class Moving(Site):
        def file(self, path: str) -> list[bytes]:
            return super().file({"1%.txt": "2%.txt", "2%.txt": "1%.txt"}.get(path, path))

    with RawServer(FakeXnat(Moving("1%.txt", "2%.txt", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        assert read(Archive(client), record("1%.txt")) == content("1%.txt")
        assert server.requests[-1].query == "format=zip"
        client.close()


def test_an_odd_name_that_is_gone() -> None:
    with RawServer(FakeXnat(Site("x", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        with pytest.raises(NotFound):
            read(Archive(client), record("gone%.txt"))
        client.close()


@pytest.mark.parametrize(("at", "error"), [(45, (ServerFault, NotFound)), (76, ServerFault)], ids=["name", "data"])
def test_a_damaged_archive_is_the_servers_fault(at: int, error: Any) -> None:
    class Damaged(Site):
        def archive(self) -> bytes:
            whole = super().archive()
            return whole[:at] + b"\xff" * 5 + whole[at + 5 :]

    with RawServer(FakeXnat(Damaged("1%.txt", refuses=firewall, by_number=False))) as server:
        client = Client(server.url, Someone())
        with pytest.raises(error):
            read(Archive(client), record("1%.txt"))
        client.close()


@pytest.mark.parametrize(("size", "error"), [(5, ContentChanged), (500, Unreachable)])
def test_a_member_of_another_size_is_an_error(size: int, error: type[Exception]) -> None:
    with RawServer(FakeXnat(Site("1%.txt", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        with pytest.raises(error):
            read(Archive(client), FileRecord(BASE, "1%.txt", size))
        client.close()


def test_sizes_of_odd_names() -> None:
    with RawServer(FakeXnat(Site("1%.txt", refuses=firewall))) as server:
        client = Client(server.url, Someone())
        file = FileRecord(BASE, "1%.txt", None)
        assert Archive(client).size(file, deadline=Deadline(20)) == len(content("1%.txt"))
        client.close()


# --- listings that differ ------------------------------------------------------------------------------------------

CATALOG = (
    b'<cat:Catalog xmlns:cat="http://nrg.wustl.edu/catalog"><cat:entries>'
    b'<cat:entry URI="a\\b" digest=""/></cat:entries></cat:Catalog>'
)
NOT_FOUND = reply(404, "<html>", **HTML)
BROKEN = reply(500, "<html>", **HTML)


def ask(script: Callable[[Request], Any], question: Callable[[Archive], Any]) -> tuple[Any, list[str]]:
    with RawServer(FakeXnat(script)) as server:
        client = Client(server.url, Someone())
        try:
            result = question(Archive(client))
        finally:
            client.close()
        return result, [request.target for request in server.requests[2:]]


def test_a_poisoned_listing_falls_back_to_the_catalog() -> None:
    def script(request: Request) -> Any:
        return BROKEN if request.path.endswith("/files") else reply(body=CATALOG, kind="text/xml")

    files, asked = ask(script, lambda a: a.files(Resource("12", "X", RESOURCE), deadline=Deadline(20)))
    assert [(f.base, f.path, f.size) for f in files] == [(BASE, "a\\b", None)]
    assert len(asked) == 2


def test_a_poisoned_listing_without_a_catalog_is_an_error() -> None:
    page = reply(body="<nothing/>", kind="text/xml")
    with pytest.raises(ServerFault, match="catalog"):
        ask(
            lambda r: BROKEN if r.path.endswith("/files") else page,
            lambda a: a.files(Resource("12", "X", RESOURCE), deadline=Deadline(20)),
        )
    with pytest.raises(ServerFault):
        ask(lambda _: BROKEN, lambda a: a.files(Resource("12", "X", RESOURCE), deadline=Deadline(20)))
    with pytest.raises(ServerFault):
        ask(lambda _: BROKEN, lambda a: a.session_files("E", deadline=Deadline(20)))


@pytest.mark.parametrize("missing", [NOT_FOUND, reply(body=table([], title="Files"))])
def test_an_assessors_resource_is_found_in_either_form(missing: Any) -> None:
    plain = "/experiments/E/assessors/A/resources/12"

    def script(request: Request) -> Any:
        if "/out/" in request.path:
            return missing
        return reply(body=table([{"URI": f"/data{plain}/files/x", "Size": "1", "cat_ID": "12"}], title="Files"))

    resource = Resource("12", "X", "/experiments/E/assessors/A/out/resources/12", file_count=1)
    files, _ = ask(script, lambda a: a.files(resource, deadline=Deadline(20)))
    assert [f.base for f in files] == [f"{plain}/files/"]


def test_a_resource_that_is_gone_and_one_that_is_empty() -> None:
    resource = Resource("12", "X", RESOURCE)
    with pytest.raises(NotFound):
        ask(lambda _: NOT_FOUND, lambda a: a.files(resource, deadline=Deadline(20)))
    files, asked = ask(lambda _: reply(body=table([])), lambda a: a.files(resource, deadline=Deadline(20)))
    assert files == ()
    assert len(asked) == 1


def test_rows_of_another_session_are_an_error() -> None:
    row = {"URI": "/data/experiments/OTHER/resources/12/files/x", "Size": "1", "cat_ID": "12"}
    script = lambda _: reply(body=table([row], title="Files"))  # noqa: E731
    with pytest.raises(ServerFault, match="another container"):
        ask(script, lambda a: a.session_files("E", deadline=Deadline(20)))
    with pytest.raises(ServerFault, match="another container"):
        ask(script, lambda a: a.files(Resource("12", "X", RESOURCE), deadline=Deadline(20)))


def test_another_listing_is_an_error() -> None:
    script = lambda _: reply(body=table([], title="Matching experiments"))  # noqa: E731
    with pytest.raises(ServerFault, match="another listing"):
        ask(script, lambda a: a.session_files("E", deadline=Deadline(20)))


def test_columns_that_a_server_refuses_are_given_up_once() -> None:
    def script(request: Request) -> Any:
        return BROKEN if "resources" in request.query else reply(body=table([{"ID": "S", "label": "s"}]))

    def question(archive: Archive) -> Any:
        archive.subjects("P", deadline=Deadline(20))
        return archive.subjects("Q", deadline=Deadline(20))

    (subject,), asked = ask(script, question)
    assert subject.resources is None
    assert ["resources" in target for target in asked] == [True, False, False]


def test_a_refusal_of_everything_is_not_remembered() -> None:
    broken = [True]

    def script(request: Request) -> Any:
        return BROKEN if broken[0] else reply(body=table([]))

    def question(archive: Archive) -> Any:
        with pytest.raises(ServerFault):
            archive.subjects("P", deadline=Deadline(20))
        broken[0] = False
        return archive.subjects("P", deadline=Deadline(20))

    found, asked = ask(script, question)
    assert found == ()
    assert "resources" in asked[-1]


@pytest.mark.parametrize("part", ["scans", "assessors", "reconstructions"])
def test_an_experiment_that_is_no_session_has_none(part: str) -> None:
    def interview(request: Request) -> Any:
        if request.path == "/data/experiments/E":
            return reply(body='{"items":[{"meta":{"xsi:type":"xnat:subjectVariablesData"}}]}')
        return BROKEN

    def question(archive: Archive) -> Any:
        return getattr(archive, part)("E", deadline=Deadline(20))

    assert ask(interview, question)[0] == ()
    assert ask(lambda _: NOT_FOUND, question)[0] == ()
    with pytest.raises(ServerFault):
        ask(lambda _: BROKEN, question)

    def session(request: Request) -> Any:
        if request.path == "/data/experiments/E":
            return reply(body='{"items":[{"meta":{"xsi:type":"xnat:mrSessionData"}}]}')
        return BROKEN

    with pytest.raises(ServerFault):
        ask(session, question)


def test_inputs_that_a_server_does_not_list() -> None:
    for answer in (NOT_FOUND, BROKEN, reply(405, "", **HTML)):
        assert ask(lambda _, a=answer: a, lambda a: a.input_resources("E", "assessors", deadline=Deadline(20)))[0] == ()
    with pytest.raises(InvalidRequest):
        ask(lambda _: NOT_FOUND, lambda a: a.input_resources("E", "scans", deadline=Deadline(20)))


def test_an_item_must_be_json() -> None:
    text, asked = ask(
        lambda _: reply(body='{"items":[{"ü":1}]}'), lambda a: a.item("/projects/P", deadline=Deadline(20))
    )
    assert text == '{\n  "items": [\n    {\n      "ü": 1\n    }\n  ]\n}\n'.encode()
    assert asked == ["/data/projects/P?format=json"]
    with pytest.raises(ServerFault):
        ask(lambda _: reply(body=CATALOG, kind="text/xml"), lambda a: a.item(RESOURCE, deadline=Deadline(20)))
