"""Nobody waits for a server longer than agreed: deadlines, the circuit breaker, outages, stalled files."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from support.faces import mounted, until
from support.rawserver import FakeXnat, HandClock, Hidden, RawServer, Someone, chunked, reply, table
from support.studies import ONE_FILE, one_file, one_session

from xnatfs.cache.loaders import LIMIT
from xnatfs.deadlines import Deadline
from xnatfs.demo import Archive, DemoServer, Rule
from xnatfs.errors import TimedOut, Unreachable
from xnatfs.stats import Stats
from xnatfs.xnat.breaker import FAILURES, LONGEST_PAUSE, AtRestError, Breaker
from xnatfs.xnat.client import Client

# --- the breaker alone, with a clock moved by hand ----------------------------------------------------------------


class Bench:
    """A breaker whose probing is run by hand, on a clock moved by hand."""

    def __init__(self, answers=()):
        self.clock = HandClock()
        self.pauses = []
        self.runs = []
        self.answers = list(answers)
        self.breaker = Breaker(
            self.probe,
            Stats(),
            clock=self.clock,
            random=lambda: 1.0,
            spawn=self.runs.append,
            wait=self.wait,
        )

    def probe(self):
        return self.answers.pop(0)

    def wait(self, seconds):
        self.pauses.append(seconds)
        self.clock.now += seconds
        return False

    def fail(self, times=1):
        for _ in range(times):
            self.breaker.failed(self.breaker.enter(), "no way there")


def test_after_three_failures_in_a_row_nobody_tries_any_more():
    bench = Bench()
    bench.fail(FAILURES - 1)
    bench.breaker.enter()
    bench.fail()
    bench.clock.now += 7
    with pytest.raises(AtRestError, match=r"no way there \(for 7 s"):
        bench.breaker.enter()
    assert len(bench.runs) == 1


def test_an_answer_in_between_starts_the_count_anew():
    bench = Bench()
    bench.fail(FAILURES - 1)
    bench.breaker.answered()
    bench.fail(FAILURES - 1)
    assert not bench.breaker.open


def test_a_failure_of_an_attempt_older_than_the_last_answer_does_not_count():
    bench = Bench()
    entered = [bench.breaker.enter() for _ in range(5)]
    bench.breaker.answered()
    for one in entered:
        bench.breaker.failed(one, "late")
    assert not bench.breaker.open


def test_probes_come_with_growing_pauses_until_one_is_answered():
    bench = Bench([False] * 9 + [True])
    bench.fail(FAILURES)
    bench.runs[0]()
    assert not bench.breaker.open
    assert bench.pauses == sorted(bench.pauses)
    assert len(bench.pauses) == 10
    assert bench.pauses[0] <= 0.5
    assert bench.pauses[-1] == LONGEST_PAUSE
    bench.breaker.enter()


def test_an_answer_to_anybody_ends_the_rest_and_the_probing():
    bench = Bench()
    bench.fail(FAILURES)
    bench.breaker.answered()
    bench.runs[0]()
    assert bench.pauses == []


def test_a_server_that_takes_a_request_and_says_nothing_is_away_if_a_probe_gets_no_answer_either():
    bench = Bench([False, False, True])
    bench.breaker.silent(bench.breaker.enter(), "does not answer")
    bench.breaker.silent(bench.breaker.enter(), "does not answer")
    assert not bench.breaker.open
    (wonder,) = bench.runs
    opened = []
    bench.breaker._wait, wait = (lambda seconds: opened.append(bench.breaker.open) or wait(seconds)), bench.wait
    wonder()
    assert opened == [True, True]
    assert not bench.breaker.open
    assert bench.breaker._stats.snapshot()["requests.outages"] == 1


def test_a_server_that_leaves_one_request_without_an_answer_is_there_if_it_answers_another():
    bench = Bench([True])
    bench.breaker.silent(bench.breaker.enter(), "does not answer")
    bench.runs[0]()
    bench.breaker.enter()
    late = bench.breaker.enter()
    bench.breaker.answered()
    bench.breaker.silent(late, "does not answer")
    assert len(bench.runs) == 1


def test_who_comes_while_a_silent_server_is_probed_waits_for_what_comes_of_it():
    bench = Bench([False])
    bench.breaker._wait = lambda _: True
    bench.breaker.silent(bench.breaker.enter(), "does not answer")
    found = []

    def enter():
        with pytest.raises(AtRestError, match="does not answer"):
            bench.breaker.enter(60.0)
        found.append(1)

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not found
    bench.runs[0]()
    waiting.join(30)
    assert found
    assert bench.breaker.open


def test_after_the_end_no_probing_begins():
    bench = Bench()
    bench.breaker.stop()
    bench.fail(FAILURES)
    bench.breaker.silent(0, "does not answer")
    assert bench.runs == []


# --- the client ----------------------------------------------------------------------------------------------------


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def _client(url, **options):
    return Client(url, None, sleep=lambda _: None, **options)


def test_a_server_that_is_away_is_asked_three_times_and_then_no_more():
    client = _client(f"http://127.0.0.1:{_free_port()}")
    client._transport.breaker._spawn = lambda _run: None
    with pytest.raises(Unreachable, match="refused"):
        client.get_rows("/data/projects", deadline=Deadline(20))
    sent = client.stats.snapshot()["requests.total"]
    assert sent == FAILURES
    for _ in range(100):
        with pytest.raises(Unreachable, match=r"refused.*looked for in the background"):
            client.get_rows("/data/projects", deadline=Deadline(20))
    assert client.stats.snapshot()["requests.total"] == sent


def test_a_server_that_is_back_is_found_without_anybody_asking():
    port = _free_port()
    client = _client(f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable):
        client.get_rows("/data/projects", deadline=Deadline(20))
    assert client._transport.breaker.open
    with DemoServer(Archive(), port=port) as server:
        until(lambda: not client._transport.breaker.open, 10.0)
        assert not any("authorization" in request.headers for request in server.requests)
    client.close()


@pytest.mark.parametrize("fault", ["close", "reset", "cut"])
def test_a_server_that_breaks_off_is_there(fault):
    archive, _ = one_file(1000)
    with DemoServer(archive) as server:
        client = Client(server.url, Someone("admin", Hidden("admin")), sleep=lambda _: None)
        server.faults.add(Rule(fault, path="/data/projects", count=None))
        for _ in range(3):
            with pytest.raises(Unreachable):
                client.get_rows("/data/projects", deadline=Deadline(20))
        assert not client._transport.breaker.open


def test_a_listing_that_drips_is_given_up_after_one_time_out():
    pieces = [b" "] * 40

    def script(_request):
        yield chunked([], end=False)[0]
        for piece in pieces:
            yield lambda: threading.Event().wait(0.05)
            yield b"%x\r\n%s\r\n" % (len(piece), piece)

    with RawServer(FakeXnat(script, open_site=True)) as server:
        client = Client(server.url, None, read_timeout=0.4, sleep=lambda _: None)
        with pytest.raises(TimedOut):
            client.get_rows("/data/projects", deadline=Deadline(1.0))
        client.close()


def test_an_answer_that_comes_slowly_but_steadily_is_read():
    def script(_request):
        body = table([{"ID": "x" * 3000}]).encode()
        yield chunked([], end=False)[0]
        for start in range(0, len(body), 200):
            yield lambda: threading.Event().wait(0.02)
            piece = body[start : start + 200]
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    with RawServer(FakeXnat(script, open_site=True)) as server:
        client = Client(server.url, Someone(), read_timeout=0.1)
        assert client.get_rows("/data/projects", deadline=Deadline(20)) == [{"ID": "x" * 3000}]
        client.close()


@contextmanager
def _bytes_in_turn(pieces):
    """A port where every connection gets ``pieces``, one after the other, and then nothing; gives its number."""
    over = threading.Event()

    def serve(connection):
        with connection, suppress(OSError):
            connection.recv(4096)
            for piece in pieces:
                if over.wait(0.02):
                    return
                connection.sendall(piece)
            over.wait(30)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


TLS_DRIP = [b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", *[b"a"] * 2000]
"""The beginning of a handshake message of 16 KiB, a byte at a time."""


@pytest.mark.parametrize("pieces", [[], TLS_DRIP], ids=["silent", "drips"])
def test_a_handshake_that_does_not_end_is_given_up_at_the_deadline(pieces):
    with _bytes_in_turn(pieces) as port:
        client = Client(f"https://127.0.0.1:{port}", Someone(), sleep=lambda _: None)
        began = time.monotonic()
        with pytest.raises((TimedOut, Unreachable)):
            client.login(Deadline(0.5))
        assert time.monotonic() - began < 10
        client.close()


@pytest.mark.parametrize(
    "pieces", [[], [b"HTTP/1.1 200 OK\r\n", *[b"X", b":", b"y", b"\r\n"] * 2000]], ids=["silent", "drips"]
)
def test_a_proxy_that_does_not_connect_is_given_up_at_the_deadline(pieces):
    with _bytes_in_turn(pieces) as port:
        client = Client("https://xnat.invalid", Someone(), proxy=f"http://127.0.0.1:{port}", sleep=lambda _: None)
        began = time.monotonic()
        with pytest.raises((TimedOut, Unreachable)):
            client.login(Deadline(0.5))
        assert time.monotonic() - began < 10
        client.close()


def _for_ever(*pieces):
    yield from pieces[:-1]
    while True:
        yield pieces[-1] * 100


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (*chunked([table([]).encode()], end=False)[:2], b"0\r\n", b"X-Trailer: of many\r\n"),
        (*chunked([], end=False)[:1], b"5;", b"extension"),
        (*chunked([], end=False)[:1], b"0" * 1000),
    ],
    ids=["100 Continue", "trailers", "chunk extension", "chunk size"],
)
def test_an_answer_that_goes_on_for_ever_without_an_end_is_given_up_at_the_deadline(pieces):
    with RawServer(FakeXnat(lambda _request: _for_ever(*pieces), open_site=True)) as server:
        client = Client(server.url, None, sleep=lambda _: None)
        began = time.monotonic()
        with pytest.raises((TimedOut, Unreachable)):
            client.get_rows("/data/projects", deadline=Deadline(0.5))
        assert time.monotonic() - began < 10
        client.close()


def test_a_server_that_wants_a_long_pause_is_believed():
    with RawServer(FakeXnat(lambda _: reply(503, "", headers={"Retry-After": "60"}))) as server:
        clock = HandClock()
        client = Client(server.url, Someone(), clock=clock, sleep=clock.sleep)
        with pytest.raises(Exception, match="busy"):
            client.get_rows("/data/projects", deadline=Deadline(120, clock))
        assert clock.slept == []
        client.close()


# --- through a mount -----------------------------------------------------------------------------------------------


def _code(call, *arguments):
    try:
        call(*arguments)
    except OSError as problem:
        return errno.errorcode[problem.errno]
    return "ok"


@pytest.mark.mount
def test_what_needs_no_network_does_not_wait_for_it(tmp_path):
    """statfs, desktop probes, close, cached reads, fresh listings and status.json, while every request hangs."""
    archive, data = one_file(300_000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        held = os.open(face.path(ONE_FILE), os.O_RDONLY)
        assert face.read(ONE_FILE) == data
        listed = face.listdir("/P/S/E/1/R")
        server.faults.add(Rule("no_answer", count=None))
        server.reset_log()
        assert os.statvfs(face.path("/P")).f_blocks > 0
        for name in (".Trash", ".Trash-1000", "autorun.inf", ".DS_Store", ".hidden", "._P"):
            assert _code(os.stat, face.path(f"/{name}")) == "ENOENT"
        assert face.listdir("/P/S/E/1/R") == listed
        assert face.read(ONE_FILE) == data
        assert '"counters"' in (face.root / ".xnat" / "status.json").read_text()
        assert _code(os.stat, face.path("/P/S/E/1/R/nothing-so-called")) == "ENOENT"
        os.close(held)
        assert server.requests == []


def _sessions_of_their_own(count):
    """Projects of one session each, so that no walk brings the listings of one with those of another."""
    archive = Archive()
    ids = []
    for number in range(count):
        session = archive.add_session(archive.add_subject(archive.add_project(f"P{number:02d}"), "S"), "E")
        archive.add_file(archive.add_resource(archive.add_scan(session, "1", type="T1"), "R"), "a.bin", b"a")
        ids.append(session.id)
    return archive, ids


@pytest.mark.mount
def test_listings_that_never_come_hold_up_no_other(tmp_path):
    """More of them than are asked for at a time; what is listed meanwhile comes, and who waits goes on waiting."""
    stalled = 12  # each needs two listings
    archive, ids = _sessions_of_their_own(stalled + 2)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        silent = "|".join(ids[:stalled])
        server.faults.add(Rule("no_answer", path=f"/experiments/({silent})(/|$)", count=None))
        stuck = [
            threading.Thread(target=_code, args=(face.listdir, f"/P{number:02d}/S/E")) for number in range(stalled)
        ]
        for thread in stuck:
            thread.start()
        until(lambda: server.faults.waiting >= LIMIT)
        for number in (stalled, stalled + 1):
            assert face.listdir(f"/P{number:02d}/S/E") == ["1", "assessors", "resources"]
            assert face.read(f"/P{number:02d}/S/E/1/R/a.bin") == b"a"
        assert all(thread.is_alive() for thread in stuck)
        server.faults.clear()
        for thread in stuck:
            thread.join(60)


@pytest.mark.mount
def test_a_mount_ends_without_waiting_for_a_listing_that_never_comes(tmp_path):
    archive, _ = one_file(1000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        server.faults.add(Rule("no_answer", path="/experiments", count=None))
        stuck = threading.Thread(target=_code, args=(face.listdir, "/P/S/E"))
        stuck.start()
        until(lambda: server.faults.waiting)
        face.process.terminate()
        face.process.wait(12)  # the server would be waited for for 40 s
        stuck.join(30)


@pytest.mark.mount
def test_the_kernels_queue_for_a_name_does_not_add_up_time_outs(tmp_path):
    """It lets one at a time look a name up, and those behind would each wait for a time-out of their own."""
    archive, _ = one_file(1000)
    with (
        DemoServer(archive) as server,
        mounted(server.url, tmp_path / "mnt", tmp_path, "--metadata-timeout", "2") as face,
        ThreadPoolExecutor(20) as pool,
    ):
        server.faults.add(Rule("no_answer", path="/experiments/", count=None))
        began = time.monotonic()
        stats = [pool.submit(_code, os.stat, face.path(f"/P/S/E/1/R/{number}")) for number in range(20)]
        assert {one.result() for one in stats} <= {"ETIMEDOUT", "EHOSTUNREACH"}
        assert time.monotonic() - began < 20  # 40 one after the other


@pytest.mark.mount
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_the_steps_of_a_call_share_its_deadline(tmp_path, loop):
    """A size that no listing has is asked for behind the listing: each of the two is in time, together they are not."""
    archive, _ = one_file(1000)
    options = ["--metadata-timeout", "2"]
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, *options, loop=loop) as face:
        face.listdir("/P/S/E/1")
        server.faults.add(Rule("empty_size", count=None))
        server.faults.add(Rule("delay", path="/files", seconds=1.2, count=None))
        assert _code(face.stat, ONE_FILE) == "ETIMEDOUT"
        until(lambda: _code(face.stat, ONE_FILE) == "ok")


@pytest.mark.mount
def test_the_kernels_queue_for_a_page_does_not_add_up_time_outs(tmp_path):
    """It reads a page once more if that failed in advance, and again for each who wants it."""
    archive, _ = one_file(1_000_000)
    with (
        DemoServer(archive) as server,
        mounted(server.url, tmp_path / "mnt", tmp_path, "--read-timeout", "2") as face,
        ThreadPoolExecutor(10) as pool,
    ):
        face.stat(ONE_FILE)
        server.faults.add(Rule("stall", path="/files/", count=None))
        began = time.monotonic()
        reads = [pool.submit(_code, face.read, ONE_FILE, 0, 1000) for _ in range(10)]
        assert {one.result() for one in reads} == {"ETIMEDOUT"}
        assert time.monotonic() - began < 15  # 22 one after the other


@pytest.mark.mount
def test_a_stalled_file_holds_up_nobody_else(tmp_path):
    """Ten files that never arrive, more than there are downloads at a time; all else goes on while they hang."""
    archive = one_session(scans=4, resources=("R",), files=30, size=3000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, "--no-series") as face:
        server.faults.add(Rule("stall", path=r"/scans/1/.*r_000\d\.bin", count=None))
        stuck = [
            threading.Thread(target=_code, args=(face.read, f"/P/S/E/1/R/r_{number:04d}.bin")) for number in range(10)
        ]
        for thread in stuck:
            thread.start()
        until(lambda: server.faults.waiting >= 8)
        for scan in (1, 2, 3):
            assert len(face.listdir(f"/P/S/E/{scan}/R")) == 30
            for number in range(10, 30):
                face.stat(f"/P/S/E/{scan}/R/r_{number:04d}.bin")
                assert len(face.read(f"/P/S/E/{scan}/R/r_{number:04d}.bin")) == 3000
        assert server.faults.waiting >= 8
        assert all(thread.is_alive() for thread in stuck)
        server.faults.clear()
        for thread in stuck:
            thread.join(60)
        assert face.read("/P/S/E/1/R/r_0000.bin") == face.read("/P/S/E/1/R/r_0000.bin", 0, 3000)
