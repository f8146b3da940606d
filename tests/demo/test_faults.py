"""Faults to order, each seen by a plain client."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import threading
import time
import zipfile

import pytest

from xnatfs.demo import DemoServer, Rule, ServerOptions
from xnatfs.demo.serving import serve

URL = "/data/experiments/XNAT_E00001/files?all=true"


@pytest.fixture
def raw(start, small):
    return start(small)


def until(condition, seconds=5.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came to that"
        time.sleep(0.005)


def test_counting(raw):
    rule = raw.server.faults.add(
        Rule("status", path="/files", count=2, skip=1, status=503, headers={"Retry-After": "7"})
    )
    replies = [raw.get(URL) for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 503, 503, 200, 200]
    assert replies[1].headers["retry-after"] == "7"
    assert raw.server.faults.hits(rule) == 2
    assert raw.get("/data/projects").status == 200


def test_a_share_of_the_requests(raw):
    rule = raw.server.faults.add(Rule("status", path="/projects", chance=0.3, count=None, status=503))
    statuses = [raw.get("/data/projects").status for _ in range(100)]
    assert 10 < statuses.count(503) == raw.server.faults.hits(rule) < 60


def test_matching(raw):
    raw.server.faults.add(Rule("status", method="HEAD", query="all=", count=None, status=500))
    assert raw.get(URL).status == 200
    assert raw("HEAD", URL).status == 500
    raw.server.faults.clear()
    assert raw("HEAD", URL).status == 200


@pytest.mark.parametrize("rule", [Rule("close"), Rule("reset"), Rule("status", status=500, body="")])
def test_nothing_comes(raw, rule):
    raw.server.faults.add(rule)
    if rule.action == "status":
        assert raw.get(URL).status == 500
    else:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            raw.get(URL)
    assert raw.get(URL).status == 200


@pytest.mark.parametrize("action", ["cut", "reset"])
@pytest.mark.parametrize("path", ["a.dcm", "?format=zip"])
def test_a_body_that_ends_early(raw, dicom, action, path):
    raw.server.faults.add(Rule(action, path="/files", at=100))
    path = f"{dicom}{path}" if path.startswith("?") else f"{dicom}/{path}"
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as caught:
        raw.get(path)
    if isinstance(caught.value, http.client.IncompleteRead):
        assert len(caught.value.partial) in (0, 100)
    assert raw.server.requests[-1].bytes_sent == 100
    assert raw.get(path).status == 200


def test_by_share_of_the_body(raw, dicom):
    raw.server.faults.add(Rule("cut", fraction=0.5))
    with pytest.raises(http.client.IncompleteRead) as caught:
        raw.get(f"{dicom}/a.dcm")
    assert len(caught.value.partial) == 512


def test_a_stall_lasts_until_released(raw, dicom):
    raw.server.faults.add(Rule("stall", at=10))
    got = []
    reader = threading.Thread(target=lambda: got.append(raw.get(f"{dicom}/a.dcm").body))
    reader.start()
    until(lambda: raw.server.faults.waiting == 1)
    assert raw.server.requests[-1].bytes_sent == 10
    assert raw.get(URL).status == 200, "the others are served"
    raw.server.faults.release()
    reader.join(10)
    assert got == [bytes(range(256)) * 4]


@pytest.mark.parametrize("action", ["stall", "no_answer"])
def test_who_hangs_up_frees_the_stall(raw, dicom, action):
    raw.server.faults.add(Rule(action, path="a.dcm", at=10))
    connection = socket.create_connection((raw.server.host, raw.server.port))
    cookie = raw.get("/data/JSESSION").text
    connection.sendall(f"GET {dicom}/a.dcm HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID={cookie}\r\n\r\n".encode())
    until(lambda: raw.server.faults.waiting == 1)
    connection.close()
    until(lambda: raw.server.faults.waiting == 0)


def test_stopping_while_something_is_stalled(small, dicom):
    server = DemoServer(small, options=ServerOptions(require_login=False)).start()
    server.archive.projects["P"].access = "public"
    server.faults.add(Rule("no_answer", count=None))
    connection = socket.create_connection((server.host, server.port))
    connection.sendall(b"GET /data/projects HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: server.faults.waiting == 1)
    server.stop()
    server.stop()
    assert connection.recv(10) == b""
    connection.close()


def test_late_and_in_drips(raw, dicom):
    raw.server.faults.add(Rule("delay", seconds=0.001))
    raw.server.faults.add(Rule("drip", size=100, seconds=0.001))
    assert raw.get(f"{dicom}/a.dcm").body == bytes(range(256)) * 4


def test_a_drip_ends_with_the_faults(raw, dicom):
    raw.server.faults.add(Rule("drip", path="a.dcm", size=100, seconds=3600))
    cookie = raw.get("/data/JSESSION").text
    with socket.create_connection((raw.server.host, raw.server.port), timeout=30) as connection:
        connection.sendall(f"GET {dicom}/a.dcm HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID={cookie}\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received or received.endswith(b"\r\n\r\n"):
            received += connection.recv(4096)
        raw.server.faults.clear()
        while not received.endswith(bytes(range(256)) * 4):
            received += connection.recv(4096)


def test_login_faults(raw):
    for rule in (Rule("login_page"), Rule("login_redirect"), Rule("unauthorized")):
        raw.server.faults.add(rule)
    # The first rule wins while several fire.
    page = raw.get(URL)
    assert (page.status, page.headers["content-type"]) == (200, "text/html;charset=ISO-8859-1")
    assert "BEGIN xnat-templates/screens/Login.vm" in page.text
    raw.server.faults.clear()
    raw.server.faults.add(Rule("login_redirect"))
    assert raw.get(URL).headers["location"] == "/app/template/Login.vm"
    raw.server.faults.add(Rule("unauthorized"))
    assert raw.get(URL).status == 401
    cookie = {"Cookie": f"JSESSIONID={raw.get('/data/JSESSION').text}", "user": None}
    assert raw.get(URL, **cookie).status == 200
    raw.server.faults.add(Rule("expire"))
    assert raw.get(URL, **cookie).status == 401


def test_lengths_and_encodings(raw, dicom):
    file = f"{dicom}/a.dcm"
    raw.server.faults.add(Rule("length", size=-24))
    assert raw.get(file).headers["content-length"] == "1000"
    raw.server.faults.add(Rule("gzip"))
    packed = raw.get(file)
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == bytes(range(256)) * 4
    assert raw.get(file).headers.get("content-encoding") is None


def test_ranges_gone_wrong(raw, dicom):
    file = f"{dicom}/a.dcm"
    raw.server.faults.add(Rule("ignore_range"))
    assert raw.get(file, Range="bytes=0-9").status == 200
    raw.server.faults.add(Rule("other_range", size=5))
    shifted = raw.get(file, Range="bytes=0-9")
    assert (shifted.headers["content-range"], shifted.body) == ("bytes 5-14/1024", bytes(range(5, 15)))


def test_other_bytes(raw, dicom):
    raw.server.faults.add(Rule("change", path="a.dcm"))
    first, second = (raw.get(f"{dicom}/a.dcm") for _ in range(2))
    assert len(first.body) == len(second.body)
    assert first.body != second.body
    assert first.headers["content-length"] == "1024"


def test_listings_gone_wrong(raw, dicom):
    honest = raw.rows(URL)
    raw.server.faults.add(Rule("digest"))
    assert [row["digest"] for row in raw.rows(URL)] == [row["digest"][::-1] for row in honest]
    raw.server.faults.add(Rule("empty_size"))
    assert {row["Size"] for row in raw.rows(URL)} == {""}
    raw.server.faults.add(Rule("foreign"))
    assert all(row["URI"].startswith("/data/experiments/XNAT_E99999/") for row in raw.rows(URL))
    for action in ("malformed", "truncate"):
        raw.server.faults.add(Rule(action))
        reply = raw.get(URL)
        assert reply.status == 200
        with pytest.raises(json.JSONDecodeError):
            reply.json  # noqa: B018 - parses
    assert raw.rows(URL) == honest


def test_zip_with_a_damaged_member(raw, dicom):
    raw.server.faults.add(Rule("damage_member", at=1))
    damaged, honest = (raw.get(f"{dicom}?format=zip").body for _ in range(2))
    assert len(damaged) == len(honest)
    with zipfile.ZipFile(io.BytesIO(damaged)) as archive:
        assert archive.testzip().endswith("sub/b.dcm")
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        assert archive.testzip() is None


def test_rules_from_a_file(raw, tmp_path):
    path = tmp_path / "faults.json"
    path.write_text(json.dumps([{"action": "status", "path": "/files", "status": 429}]))
    raw.server.faults.load(path)
    assert [raw.get(URL).status for _ in range(2)] == [429, 200]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "no JSON: "),
        ("[" * 100_000, "no JSON: "),
        ("\xff", "no JSON: "),
        ('{"action": "cut"}', "a list of rules is expected"),
        ('[{"action": "cut"}, "cut"]', "rule 2: an object is expected, not 'cut'"),
        ("[{}]", "rule 1: it has no action"),
        ('[{"action": "explode"}]', "rule 1: no fault is called 'explode'; there are: "),
        ('[{"action": "cut", "color": "red"}]', "rule 1: unknown color; there are: "),
        ('[{"action": "cut", "at": "1"}]', 'rule 1: at is a number from 0 on, not "1"'),
        ('[{"action": "cut", "at": -1}]', "rule 1: at is a number from 0 on, not -1"),
        ('[{"action": "cut", "count": true}]', "rule 1: count is a number from 0 on, or null for always, not true"),
        ('[{"action": "delay", "seconds": NaN}]', "rule 1: seconds is a number of seconds, not NaN"),
        ('[{"action": "status", "status": 99}]', "rule 1: status is an HTTP status, not 99"),
        ('[{"action": "status", "headers": {"a": "b\\r\\nc"}}]', "rule 1: headers is an object of texts, not "),
        ('[{"action": "cut", "path": "("}]', "rule 1: missing ), unterminated subpattern"),
        ('[{"action": "cut", "chance": 2}]', "rule 1: chance is a number from 0 to 1, not 2"),
    ],
)
def test_a_bad_file_is_refused_whole_and_in_one_line(raw, tmp_path, text, said):
    path = tmp_path / "faults.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError) as caught:
        raw.server.faults.load(path)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert [raw.get(URL).status for _ in range(3)] == [200, 200, 200]


def test_a_rule_is_not_used_up_by_what_it_cannot_touch(raw, dicom):
    rules = {action: raw.server.faults.add(Rule(action)) for action in ("foreign", "digest", "change", "overrun")}
    rules |= {action: raw.server.faults.add(Rule(action)) for action in ("ignore_range", "damage_member", "malformed")}
    hits = lambda: {action for action, rule in rules.items() if raw.server.faults.hits(rule)}  # noqa: E731
    raw.get("/data/JSESSION")
    assert hits() == set()
    raw.get("/data/projects?format=json")
    assert hits() == {"malformed"}
    raw.get(f"{dicom}/a.dcm")
    assert hits() == {"malformed", "change"}
    raw.get(f"{dicom}/a.dcm", Range="bytes=0-9")
    assert hits() == {"malformed", "change", "ignore_range"}
    raw.get(f"{dicom}?format=zip")
    raw.get(URL)
    assert hits() == set(rules) - {"overrun"}


def test_a_range_that_runs_past_the_end_and_falls_silent(raw, dicom):
    """Contract 5.2: more is promised than there is, and nothing tells."""
    raw.server.faults.add(Rule("overrun", size=100))
    connection = http.client.HTTPConnection(raw.server.host, raw.server.port, timeout=0.5)
    cookie = raw.get("/data/JSESSION").text
    connection.request("GET", f"{dicom}/a.dcm", headers={"Range": "bytes=1000-", "Cookie": f"JSESSIONID={cookie}"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 1000-1123/1024")
    assert answer.headers["Content-Length"] == "124"
    assert answer.read(24) == (bytes(range(256)) * 4)[1000:]
    with pytest.raises(TimeoutError):
        answer.read(1)
    connection.close()


def test_slow_server_options_still_answer_right(start, small, dicom):
    raw = start(small, latency=0.002, service_time=0.002, parallel=1, bandwidth=1_000_000)
    assert raw.get(f"{dicom}/a.dcm").body == bytes(range(256)) * 4
    assert len(raw.rows(URL)) == 3


def test_the_log(raw, dicom):
    raw.server.reset_log()
    raw.get(f"{dicom}/a.dcm?x=1", Range="bytes=0-9")
    (record,) = raw.server.requests
    assert (record.method, record.path, record.query, record.user) == ("GET", f"{dicom}/a.dcm", "x=1", "admin")
    assert (record.status, record.bytes_sent, record.range) == (206, 10, "bytes=0-9")
    assert raw.server.count("/files", "GET") == 1


def test_serve_until_told_to_stop(tmp_path):
    stop, seen = threading.Event(), []

    def ready(server):
        seen.append(server.url)
        stop.set()

    (tmp_path / "faults.json").write_text("[]")
    serve(data=tmp_path, faults=tmp_path / "faults.json", ready=ready, stop=stop)
    assert seen[0].startswith("http://127.0.0.1:")


def test_a_taken_port(raw):
    with pytest.raises(OSError):
        DemoServer(raw.server.archive, port=raw.server.port).start()
