"""A server that means harm, or is badly broken: contained, with a clear error, and nothing outside is touched."""

from __future__ import annotations

import errno
import gzip
import io
import os
import resource
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zipfile
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest
from support.faces import direct, mounted
from support.rawserver import FakeXnat, RawServer, Someone, chunked, reply, table

from xnatfs.deadlines import Deadline
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.demo.odd import hostile_archive
from xnatfs.errors import ContentChanged, NotFound, ServerFault, Unreachable, XnatfsError
from xnatfs.vfs import Timing
from xnatfs.xnat import archive as archive_module
from xnatfs.xnat import client as client_module
from xnatfs.xnat import tables
from xnatfs.xnat.archive import Archive as RestArchive
from xnatfs.xnat.client import Client
from xnatfs.xnat.download import Expected
from xnatfs.xnat.records import FileRecord, Resource
from xnatfs.xnat.tables import MalformedError, TableReader


def _walk(top):
    """Paths of everything below a directory, each looked at once; how it ended for each."""
    seen = {}
    left = [top]
    while left and len(seen) < 3000:
        folder = left.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as problem:
            seen[folder] = errno.errorcode[problem.errno]
            continue
        for entry in entries:
            assert "/" not in entry.name
            assert entry.name not in ("", ".", "..")
            assert len(os.fsencode(entry.name)) <= 255
            if len(os.fsencode(entry.path)) > 3800:
                continue
            seen[entry.path] = "ok"
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
    return seen


def _content(path):
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        return errno.errorcode[problem.errno]


@pytest.mark.mount
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_an_archive_of_names_that_escape_is_shown_and_read_without_leaving_the_mount(tmp_path, loop):
    with DemoServer(hostile_archive()) as server:
        with mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop) as face:
            top = face.path("/HOSTILE")
            seen = _walk(top)
            assert len(seen) > 20
            files = [path for path in seen if Path(path).is_file()]
            assert files
            assert {_content(path) for path in files} <= {b"x", b"a.txt\n", "EIO", "ENOENT", "ESTALE"}
            assert os.listdir(face.path("")) == ["HOSTILE"]
            assert "Traceback" not in face.text()
        made = [path for path in tmp_path.rglob("*") if "evil" in path.name or "absolute" in path.name]
        assert made == []
    assert not os.path.exists("/absolute.txt")


@pytest.mark.mount
def test_ten_thousand_folders_in_each_other_hold_up_nobody(tmp_path):
    archive = Archive()
    session = archive.add_session(archive.add_subject(archive.add_project("P"), "S"), "E")
    scan = archive.add_scan(session, "1")
    deep = archive.add_resource(scan, "DEEP")
    archive.add_file(deep, "/".join(["d"] * 10_000) + "/end.txt", b"x")
    archive.add_file(deep, "near.txt", b"near")
    archive.add_file(archive.add_resource(scan, "R"), "a.txt", b"a")
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        assert face.read("/P/S/E/1/R/a.txt") == b"a"
        assert face.read("/P/S/E/1/DEEP/near.txt") == b"near"
        folder = "/P/S/E/1/DEEP"
        for _ in range(100):
            folder += "/d"
            assert face.listdir(folder) == ["d"]
        status = Path(f"/proc/{face.process.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak < 500_000  # KiB


def _server(body, kind="application/json"):
    def script(request):
        return body(request) if callable(body) else reply(200, body, kind=kind)

    return RawServer(FakeXnat(script))


def _rows_of(body, **options):
    with _server(body) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None, **options)
        try:
            return client.get_rows("/data/projects", deadline=Deadline(30))
        finally:
            client.close()


BOMBS = {
    "nested lists": "[" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "nested in a row": '{"ResultSet":{"Result":[{"ID":' + "[" * 200_000,
    "nested in meta": '{"ResultSet":{"x":' + '{"a":' * 100_000,
    "one endless text": '{"ResultSet":{"Result":[{"ID":"' + "x" * 3_000_000,
    "one huge number": '{"ResultSet":{"Result":[{"ID":' + "9" * 100_000 + "}]}}",
    "not UTF-8": b'{"ResultSet":{"Result":[{"ID":"\xff\xfe"}]}}',
    "a null byte": b"\0" * 1000,
    "nothing": "",
    "a list": "[]",
    "a number": "12",
    "NaN": "NaN",
    "rows that are no objects": '{"ResultSet":{"Result":"text"}}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_json_bomb_is_a_server_fault(name):
    with pytest.raises(ServerFault):
        _rows_of(BOMBS[name])


@pytest.mark.parametrize("rows", [[1], ["x"], [None], [[]], [{"ID": None}], [{"ID": {}}], [{"ID": []}], [{}]])
def test_rows_that_are_none_are_left_out_or_a_server_fault(rows):
    def script(_request):
        return reply(200, table(rows))

    with _server(script) as server:
        archive = RestArchive(Client(server.url, Someone(), sleep=lambda _: None))
        with_none = []
        for ask in (archive.projects, lambda deadline: archive.subjects("P", deadline=deadline)):
            try:
                with_none += ask(deadline=Deadline(10))
            except ServerFault:
                continue
        assert all(isinstance(found.id, str) and found.id for found in with_none)
        archive.close()


def test_a_listing_without_end_is_cut_at_the_limit():
    stop = threading.Event()

    def endless(_request):
        yield from chunked([b'{"ResultSet":{"Result":['], end=False)[:2]
        row = b'{"ID":"' + b"x" * 1000 + b'"},'
        piece = row * 60
        while not stop.is_set():
            yield b"%x\r\n%s\r\n" % (len(piece), piece)

    with pytest.raises(ServerFault, match="larger than"):
        _rows_of(endless, max_listing=5_000_000)
    stop.set()


class Enough(Exception):
    """More was taken than there should be."""


def _tiny_rows(row, size, most):
    """A table that begins like one and goes on with as many rows as are taken, at most ``most`` bytes of them."""
    yield b'{"ResultSet":{"Result":['
    piece = row * (size // len(row))
    for _ in range(most // size):
        yield piece
    raise Enough


@pytest.mark.parametrize("row", [b"{},", b'{"ID":"x"},'])
def test_a_table_of_tiny_rows_without_end_is_given_up_by_their_number(monkeypatch, row):
    monkeypatch.setattr(tables, "MOST_ROWS", 200_000)
    reader = TableReader(_tiny_rows(row, 60_000, 5_000_000))
    with pytest.raises(MalformedError, match="more than 200000 rows"):
        deque(reader, maxlen=0)


def test_tiny_rows_cost_no_more_than_their_number():
    """Looking at the whole buffer for each of them takes minutes."""
    reader = TableReader(iter([b'{"ResultSet":{"Result":[' + b"{}," * 400_000 + b"{}]}}"]))
    assert sum(1 for _ in reader) == 400_001


def test_only_listings_of_files_may_be_as_large_as_they_can_be(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_TABLE", 10_000)
    body = table([{"ID": "x" * 100}] * 200, title="Files")
    with _server(body) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None)
        with pytest.raises(ServerFault, match="larger than 10000"):
            client.get_rows("/data/projects", deadline=Deadline(10))
        assert len(client.table("/data/x/files", list, deadline=Deadline(10), of_files=True) or ()) == 200
        client.close()


def test_meta_values_without_end_are_not_kept():
    reader = TableReader(iter([b'{"ResultSet":{"Result":[],', *(b'"m%d":"x",' % n for n in range(1000)), b'"z":1}}']))
    assert list(reader) == []
    assert len(reader.meta) == tables.MOST_META


def test_a_document_that_swells_when_it_is_indented_is_a_server_fault(monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_ITEM", 2_000_000)
    body = "[" * 900 + ",".join("0" * 30_000) + "]" * 900
    tracemalloc.start()
    try:
        with _server(body) as server:
            archive = RestArchive(Client(server.url, Someone(), sleep=lambda _: None))
            with pytest.raises(ServerFault, match="larger than"):
                archive.item("/experiments/E", deadline=Deadline(30))
            archive.close()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_page_without_end_in_the_place_of_a_session_is_not_read_to_its_end():
    def endless(_request):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"x" * 60_000
        for _ in range(200):
            yield b"%x\r\n%s\r\n" % (len(piece), piece)

    with RawServer(endless) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None)
        with pytest.raises(XnatfsError):
            client.login(Deadline(10))
        client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"HTTP/9.9 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\nContent-Type: application/json\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["headers", "long header", "blanks", "status", "negative", "huge length", "chunk", "ssh", "tls"],
)
def test_what_is_no_http_is_an_error_and_nothing_else(head):
    from support.rawserver import CLOSE

    with _server(lambda _request: [head, CLOSE]) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None, read_timeout=2.0)
        with pytest.raises(XnatfsError):
            client.get_rows("/data/projects", deadline=Deadline(10))
        client.close()


HUGE = "9" * 5000
"""Longer than Python makes an integer of."""


@pytest.mark.parametrize("status", [200, 206, 403, 503])
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Length", HUGE),
        ("Content-Length", "+5"),
        ("Content-Length", "5, 5"),
        ("Content-Length", "5\r\nContent-Length: 6"),
        ("Content-Range", "bytes 0-0/*"),
        ("Content-Range", f"bytes {HUGE}-{HUGE}/{HUGE}"),
        ("Content-Range", f"bytes 2-4/{HUGE}"),
        ("Retry-After", HUGE),
        ("Retry-After", "Fri, 31 Dec 99999999999 23:59:59 GMT"),
        ("Last-Modified", "Fri, 31 Dec 2000 23:59:59 +99999999999999"),
        ("Set-Cookie", f"SESSION_EXPIRATION_TIME=1,{HUGE}"),
        ("Set-Cookie", f"a=b; Max-Age={HUGE}"),
        ("Location", "http://[::1/"),
    ],
)
def test_headers_that_are_none_end_in_an_error_of_ours_or_none(status, header, value):
    """And the connection is neither kept nor left open."""

    def script(_request):
        return reply(status, b"cde", kind="application/octet-stream", headers={header: value})

    with _server(script) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None)
        for expected in (Expected("a.bin", 2, 5, 10), Expected("a.bin", 0, 3, 3)):
            try:
                download = client.download("/data/x", expected, deadline=Deadline(10))
            except XnatfsError:
                continue
            with suppress(XnatfsError):
                _drain(download, bytearray(100))
            download.close()
        with suppress(XnatfsError):
            client.head("/data/x", deadline=Deadline(10), name="a.bin")
        client.close()


def test_a_redirect_is_not_read_to_its_end_to_find_out_where_it_leads():
    """Nor is its body decoded, which may swell."""
    bomb = gzip.compress(bytes(20_000_000))
    headers = {"Location": "/elsewhere", "Content-Encoding": "gzip"}
    tracemalloc.start()
    try:
        with _server(lambda _request: reply(302, bomb, headers=headers, length=len(bomb) + 70_000)) as server:
            client = Client(server.url, Someone(), sleep=lambda _: None)
            with pytest.raises(Unreachable, match="redirects"):
                client.get_rows("/data/projects", deadline=Deadline(10))
            client.close()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_cookies_without_number_or_end_are_neither_kept_nor_sent_back():
    def script(request):
        short, long = f"s{request.number}=v; Path=/", f"l{request.number}={HUGE}; Path=/"
        return reply(200, table([]), headers={"Set-Cookie": short, "X-Next": f"none\r\nSet-Cookie: {long}"})

    with _server(script) as server:
        client = Client(server.url, Someone(), sleep=lambda _: None)
        for _ in range(30):
            client.get_rows("/data/projects", deadline=Deadline(10))
        client.close()
        assert 100 < max(len(request.headers.get("cookie", "")) for request in server.requests) < 250


def _zip(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def test_members_of_a_zip_that_escape_fill_no_file_and_write_nowhere(tmp_path):
    """The archive of a series brings only files that the listing has, and what does not fit is fetched singly."""
    real = Archive()
    session = real.add_session(real.add_subject(real.add_project("P"), "S"), "E")
    series = real.add_resource(real.add_scan(session, "1"), "R")
    for number in range(8):
        real.add_file(series, f"{number}.dcm", f"right {number}\n".encode() * 500)
    evil = _zip(
        [("../../../evil.txt", b"evil"), ("/etc/evil", b"evil"), ("a/../../evil", b"evil")]
        + [(f"x/scans/1/resources/1/files/{number}.dcm", b"wrong" * 1000) for number in range(8)]
    )
    with DemoServer(real) as server, direct(server.url, tmp_path / "cache", timing=Timing(read=20)) as face:
        text = evil.decode("latin-1")
        rule = Rule("status", query="format=zip", status=200, body=text, type="application/zip", count=None)
        server.faults.add(rule)
        for number in range(8):
            assert face.read(f"/P/S/E/1/R/{number}.dcm") == f"right {number}\n".encode() * 500
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_zip_that_swells_is_not_unpacked(tmp_path):
    """A member that is larger than the listing says is given up, in memory and on disk."""
    real = Archive()
    session = real.add_session(real.add_subject(real.add_project("P"), "S"), "E")
    series = real.add_resource(real.add_scan(session, "1"), "R")
    for number in range(8):
        real.add_file(series, f"{number}.dcm", f"right {number}\n".encode() * 500)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.dcm", bytes(60_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with RawServer(lambda _request: reply(200, packed.getvalue(), kind="application/zip")), DemoServer(real) as server:
        body = packed.getvalue()
        from xnatfs.demo import ask

        original = server.service.handle

        def handle(request):
            if request.get("format") == "zip":
                return ask.Answer(body, 200, "application/zip")
            return original(request)

        server.service.handle = handle
        with direct(server.url, tmp_path / "cache", timing=Timing(read=20)) as face:
            for number in range(8):
                assert face.read(f"/P/S/E/1/R/{number}.dcm") == f"right {number}\n".encode() * 500
        used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").rglob("*") if path.is_file())
        assert used < 5_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_catalog_with_entities_is_not_expanded():
    """XML of the kind that grows without end, or names local files."""
    code = textwrap.dedent("""
        from xnatfs.xnat.catalog import CatalogError, parse_catalog
        bomb = "<!DOCTYPE c [<!ENTITY a 'aaaaaaaaaa'>"
        for number in range(10):
            bomb += f"<!ENTITY {chr(98 + number)} '" + f"&{chr(97 + number)};" * 10 + "'>"
        bomb += "]><c>&k;</c>"
        local = "<!DOCTYPE c [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><c>&a;</c>"
        for text in (bomb, local):
            try:
                found = parse_catalog(text.encode(), "/x/files/", "1")
            except CatalogError:
                continue
            assert found == (), found
        print("contained")
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "contained\n", done.stderr


def _found(ask):
    try:
        return ask()
    except (ServerFault, NotFound):
        return None


def test_files_of_another_session_are_never_taken():
    """A listing whose URIs lead elsewhere must not make one session's path show another's bytes."""
    row = {
        "Name": "a.bin",
        "Size": "5",
        "URI": "/data/experiments/XNAT_E00666/scans/1/resources/10/files/a.bin",
        "cat_ID": "10",
        "digest": "",
    }
    with _server(lambda _request: reply(200, table([row], title="Files"))) as server:
        archive = RestArchive(Client(server.url, Someone(), sleep=lambda _: None))
        resource_here = Resource("10", "R", "/experiments/XNAT_E00001/scans/1/resources/10", "scans", "1", 1)
        assert _found(lambda: archive.session_files("XNAT_E00001", deadline=Deadline(10))) in ({}, None)
        assert _found(lambda: archive.files(resource_here, deadline=Deadline(10))) in ((), None)
        archive.close()


def test_a_digest_or_name_that_looks_like_a_path_never_names_a_file_of_the_cache(tmp_path):
    from support.cachedir import open_store

    from xnatfs.cache.identity import Identity

    store = open_store(tmp_path / "cache")
    for text in ("../../evil", "/etc/evil", "a\0b", "x" * 5000, "..", "%2e%2e%2fevil"):
        entry = store.open(Identity(uri=text, size=4, digest=text, stamp=text))
        entry.write(0, b"evil")
        entry.release()
    store.close()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def _drain(download, buffer):
    while download.readinto(memoryview(buffer)):
        continue


def test_a_file_that_is_longer_than_listed_is_no_longer_than_listed(tmp_path):
    record = FileRecord("/experiments/E/scans/1/resources/10/files/", "a.bin", 5, "", "10")

    def script(_request):
        return chunked([b"12345", b"678" * 1000], kind="application/octet-stream")

    with _server(script) as server:
        archive = RestArchive(Client(server.url, Someone(), sleep=lambda _: None))
        download = archive.open_stream(record, 0, 5, deadline=Deadline(10))
        buffer = bytearray(100)
        with pytest.raises(ContentChanged):
            _drain(download, buffer)
        download.close()
        archive.close()
