"""Bodies of files: what is checked before the first byte, and what happens when the last one does not come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rawserver import (
    CERTIFICATE,
    CLOSE,
    LOGIN_PAGE,
    RESET,
    FakeXnat,
    HandClock,
    RawServer,
    Request,
    Script,
    Someone,
    chunked,
    reply,
)

from xnatfs.deadlines import Deadline
from xnatfs.errors import (
    AccessDenied,
    BadHandle,
    ContentChanged,
    InvalidRequest,
    NotFound,
    ServerFault,
    TimedOut,
    Unreachable,
    XnatfsError,
)
from xnatfs.xnat.archive import Archive
from xnatfs.xnat.client import Client
from xnatfs.xnat.download import Download
from xnatfs.xnat.records import FileRecord

DATA = bytes(range(256)) * 4
SIZE = len(DATA)
BASE = "/experiments/E/scans/1/resources/12/files/"
FILE = FileRecord(BASE, "sub/a.dcm", SIZE)
OCTETS = "application/octet-stream"


def good(request: Request, data: bytes = DATA, **headers: str) -> list[bytes]:
    """What XNAT does: a range where one is asked, not clamped."""
    asked = request.headers.get("range")
    if asked is None:
        return reply(body=data, kind=OCTETS, headers=headers)
    first, last = (int(x) for x in asked.removeprefix("bytes=").split("-"))
    return reply(
        206,
        data[first : last + 1],
        kind=OCTETS,
        headers={"Content-Range": f"bytes {first}-{last}/{len(data)}", **headers},
    )


@contextmanager
def archive(script: Script, **options: Any) -> Iterator[tuple[RawServer, Archive]]:
    clock = HandClock()
    with RawServer(FakeXnat(script), tls=options.pop("tls", False)) as server:
        client = Client(server.url, Someone(), clock=clock, sleep=clock.sleep, read_timeout=5.0, **options)
        try:
            yield server, Archive(client)
        finally:
            client.close()


def read(download: Download, piece: int = 100) -> bytes:
    buffer, out = memoryview(bytearray(piece)), bytearray()
    try:
        while count := download.readinto(buffer):
            out += buffer[:count]
        return bytes(out)
    finally:
        download.close()


def opened(archive: Archive, start: int = 0, stop: int = SIZE, file: FileRecord = FILE) -> Download:
    return archive.open_stream(file, start, stop, deadline=Deadline(20))


def test_the_whole_file_comes_without_a_range() -> None:
    with archive(lambda r: good(r, **{"Last-Modified": "Tue, 18 Jun 2024 20:57:30 GMT"})) as (server, site):
        download = opened(site)
        assert (download.start, download.length, download.last_modified) == (0, SIZE, 1718744250.0)
        assert read(download) == DATA
        assert "range" not in server.requests[-1].headers
        assert server.requests[-1].target == "/data/experiments/E/scans/1/resources/12/files/sub/a.dcm"
        assert site.ranges is None
        assert read(opened(site)) == DATA
        assert len(server._threads) == 2  # the connection was given back


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_part_equals_the_slice(data: st.DataObject) -> None:
    with archive(good) as (_, site):
        for _ in range(5):
            start = data.draw(st.integers(0, SIZE - 1))
            stop = data.draw(st.integers(start + 1, SIZE))
            download = opened(site, start, stop)
            assert download.start == start
            assert read(download, data.draw(st.integers(1, 2000))) == DATA[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (-1, 4), (0, SIZE + 1), (7, 6), (SIZE, SIZE)])
def test_a_range_that_must_not_be_asked_is_not(start: int, stop: int) -> None:
    with archive(good) as (server, site):
        with pytest.raises(InvalidRequest):
            opened(site, start, stop)
        assert server.requests == []


def test_over_tls_the_bytes_are_the_same() -> None:
    with archive(good, tls=True, verify=CERTIFICATE) as (_, site):
        assert read(opened(site), 70) == DATA
        assert read(opened(site, 5, 900)) == DATA[5:900]


def test_a_server_that_ignores_ranges_is_remembered() -> None:
    with archive(lambda r: reply(body=DATA, kind=OCTETS)) as (server, site):
        download = opened(site, 10, 20)
        assert (download.start, download.length) == (0, SIZE)
        assert read(download) == DATA
        assert site.ranges is False
        assert opened(site, 10, 20).start == 0
        assert "range" not in server.requests[-1].headers


def part(content_range: str, body: bytes = DATA[10:20], status: int = 206, **options: Any) -> list[bytes]:
    return reply(status, body, kind=OCTETS, headers={"Content-Range": content_range}, **options)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (part(f"bytes 10-20/{SIZE}", DATA[10:21]), ServerFault),
        (part(f"bytes 0-9/{SIZE}", DATA[:10]), ServerFault),
        (part(f"bytes 10-19/{SIZE}", DATA[10:15]), ServerFault),
        (part("", DATA[10:20]), ServerFault),
        (part("bytes 10-19/*"), ServerFault),
        (part(f"bytes 10-19/{SIZE + 1}"), ContentChanged),
        (part(f"bytes 10-19/{SIZE}", length=-100), ServerFault),
        (reply(416, "", kind="text/html"), ServerFault),
        (reply(200, DATA[:-1], kind=OCTETS), ContentChanged),
        (reply(200, DATA, kind=OCTETS, headers={"Content-Encoding": "gzip"}), ServerFault),
        (reply(204, "", kind=OCTETS), ServerFault),
        (reply(403, "", kind="text/html"), AccessDenied),
        (reply(404, "", kind="text/html"), NotFound),
        (reply(500, "", kind="text/html"), ServerFault),
        (reply(302, "", headers={"Location": "http://elsewhere/x"}), Unreachable),
        (reply(200, "<html>maintenance</html>", kind="text/html"), ServerFault),
    ],
)
def test_an_answer_that_does_not_fit_is_never_content(answer: Any, error: type[XnatfsError]) -> None:
    with archive(lambda _: answer) as (_, site):
        with pytest.raises(error) as caught:
            opened(site, 10, 20)
        assert type(caught.value) is error
        assert "\n" not in str(caught.value)


def test_a_part_that_was_not_asked_for() -> None:
    with archive(lambda _: part(f"bytes 0-{SIZE - 1}/{SIZE}", DATA)) as (_, site), pytest.raises(ServerFault):
        opened(site)


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("chunks", [False, True])
def test_a_body_that_ends_early_is_an_error(end: Any, chunks: bool) -> None:
    def script(_: Request) -> list[Any]:
        if chunks:
            return [*chunked([DATA[:300]], kind=OCTETS, end=False)[:-1], end]
        return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE, DATA[:300], end]

    with archive(script) as (_, site):
        download = opened(site)
        with pytest.raises(Unreachable):
            read(download)


def test_a_chunked_body_must_have_the_listings_size() -> None:
    answers = [[DATA], [DATA[:-1]], [DATA, b"x"]]
    with archive(lambda _: chunked(answers.pop(0), kind=OCTETS)) as (_, site):
        download = opened(site)
        assert download.length == SIZE
        assert read(download, 5000) == DATA
        with pytest.raises(Unreachable, match="ended early"):
            read(opened(site))
        with pytest.raises(ContentChanged):
            read(opened(site))


def test_a_stall_is_a_timeout() -> None:
    quiet = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
    with RawServer(FakeXnat(lambda _: [head, DATA[:10], quiet])) as server:
        client = Client(server.url, Someone(), read_timeout=0.05)
        download = Archive(client).open_stream(FILE, 0, SIZE, deadline=Deadline(20))
        with pytest.raises(TimedOut):
            read(download)
        quiet.set()
        client.close()


def test_the_deadline_is_for_the_beginning_only() -> None:
    go_on = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
    clock = HandClock()
    with RawServer(FakeXnat(lambda _: [head, DATA[:10], go_on, DATA[10:]])) as server:
        client = Client(server.url, Someone(), clock=clock)
        download = Archive(client).open_stream(FILE, 0, SIZE, deadline=Deadline(20, clock))
        clock.now += 1000
        go_on.set()
        assert read(download) == DATA
        client.close()


@pytest.mark.parametrize("tls", [False, True])
def test_close_from_another_thread_ends_a_blocked_read(tls: bool) -> None:
    quiet, reading = threading.Event(), threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
    caught: list[BaseException] = []
    script = lambda _: [head, DATA[:10], quiet]  # noqa: E731
    with archive(script, tls=tls, verify=CERTIFICATE) as (_, site):
        download = opened(site)

        def reader() -> None:
            buffer = memoryview(bytearray(10))
            try:
                download.readinto(buffer)
                reading.set()
                download.readinto(buffer)
            except XnatfsError as error:
                caught.append(error)

        thread = threading.Thread(target=reader)
        thread.start()
        assert reading.wait(10)
        download.close()
        thread.join(4)  # less than the read time-out
        assert not thread.is_alive()
        assert isinstance(caught[0], (Unreachable, BadHandle))
        with pytest.raises(BadHandle):
            download.readinto(memoryview(bytearray(1)))
        download.close()
        quiet.set()


def test_an_expired_session_in_the_place_of_a_file_is_renewed() -> None:
    pages = [
        reply(200, LOGIN_PAGE, kind="text/html"),
        reply(302, "", headers={"Location": "http://127.0.0.1/app/template/Login.vm"}),
        reply(401, "", kind="text/html"),
    ]
    site_ = FakeXnat(good)

    def script(request: Request) -> Any:
        if request.path.startswith("/data/experiments") and request.session not in site_.valid:
            return pages.pop(0)
        return site_(request)

    clock = HandClock()
    with RawServer(script) as server:
        site = Archive(Client(server.url, Someone(), clock=clock, sleep=clock.sleep))
        for logins in (1, 2, 3, 4):
            assert read(opened(site)) == DATA
            assert site_.logins == logins
            site_.valid.clear()
            clock.now += 100
        site._client.close()


def test_an_html_file_is_content_and_a_login_page_of_its_name_is_not() -> None:
    file = FileRecord(BASE, "report.html", 20)
    body = b"<html>a report</html>"[:20]
    attached = {"Content-Disposition": 'attachment; filename="report.html";', "Last-Modified": "x"}
    with archive(lambda _: reply(200, body, kind="text/html", headers=attached)) as (_, site):
        assert read(opened(site, 0, 20, file)) == body
    with archive(lambda _: reply(200, LOGIN_PAGE[:20], kind="text/html")) as (_, site), pytest.raises(ServerFault):
        opened(site, 0, 20, file)


def test_an_archive_of_unknown_length_is_read_to_its_end() -> None:
    with archive(lambda _: chunked([b"PK", b"rest"], kind="application/zip")) as (server, site):
        download = site.open_zip("/experiments/E/scans/1/resources/12", deadline=Deadline(20))
        assert download.length is None
        assert read(download) == b"PKrest"
        assert server.requests[-1].target == "/data/experiments/E/scans/1/resources/12/files?format=zip"
        assert "range" not in server.requests[-1].headers


def test_closing_an_archive_that_was_read_to_its_end_cuts_nobody_elses_answer() -> None:
    """Its connection is free by then, and may be that of the next request."""
    with archive(lambda _: chunked([b"PK", b"rest"], kind="application/zip")) as (_, site):
        first = site.open_zip("/experiments/E/resources/12", deadline=Deadline(20))
        while first.readinto(memoryview(bytearray(100))):
            pass
        second = site.open_zip("/experiments/E/resources/12", deadline=Deadline(20))
        first.close()
        assert read(second) == b"PKrest"


def test_an_archive_that_is_cut_is_an_error() -> None:
    script = lambda _: chunked([b"PK"], kind="application/zip", end=False)  # noqa: E731
    with archive(script) as (_, site), pytest.raises(Unreachable):
        read(site.open_zip("/experiments/E/resources/12", deadline=Deadline(20)))


def test_an_archive_of_an_assessor_is_found_in_either_form() -> None:
    def script(request: Request) -> Any:
        found = "/out/" not in request.path
        return chunked([b"PK"], kind="application/zip") if found else reply(404, "", kind="text/html")

    with archive(script) as (_, site):
        download = site.open_zip("/experiments/E/assessors/A/out/resources/3", deadline=Deadline(20))
        assert read(download) == b"PK"
        with pytest.raises(NotFound):
            site.open_zip("/experiments/E/scans/1/out/resources/3", deadline=Deadline(20))


def test_the_size_comes_from_a_head() -> None:
    with archive(lambda r: reply(200, "", kind=OCTETS, length=77) if r.method == "HEAD" else [CLOSE]) as (_, site):
        assert site.size(FILE, deadline=Deadline(20)) == 77
    with archive(lambda r: reply(404, "", kind="text/html")) as (_, site), pytest.raises(NotFound):
        site.size(FILE, deadline=Deadline(20))
