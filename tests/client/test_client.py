"""One site, one login: what the client makes of answers, of their absence, and of sessions that end."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from support.rawserver import (
    CERTIFICATE,
    CLOSE,
    LOGIN_PAGE,
    RESET,
    FakeXnat,
    HandClock,
    Hidden,
    RawServer,
    Request,
    Script,
    Someone,
    chunked,
    reply,
    table,
)

from xnatfs.deadlines import Deadline
from xnatfs.errors import (
    AccessDenied,
    LoginFailed,
    NotFound,
    ServerFault,
    SettingsError,
    TimedOut,
    Unreachable,
    XnatfsError,
)
from xnatfs.xnat import login
from xnatfs.xnat.client import Client

GOOD = reply(body=table([{"ID": "P"}]))


@contextmanager
def site(
    script: Script, credentials: Any = "someone", **options: Any
) -> Iterator[tuple[RawServer, Client, HandClock, Deadline]]:
    clock = HandClock()
    with RawServer(script) as server:
        login = Someone() if credentials == "someone" else credentials
        client = Client(
            server.url + options.pop("context", ""),
            login,
            clock=clock,
            sleep=clock.sleep,
            random=options.pop("random", lambda: 1.0),
            read_timeout=options.pop("read_timeout", 5.0),
            **options,
        )
        try:
            yield server, client, clock, Deadline(20, clock)
        finally:
            client.close()


def in_turn(*answers: Any) -> Script:
    """One answer a request; the last one for ever."""
    waiting = list(answers)

    def script(request: Request) -> Any:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return script


def projects(client: Client, deadline: Deadline) -> list[Any]:
    return client.get_rows("/data/projects", deadline=deadline)


# --- login ---------------------------------------------------------------------------------------------------------


def test_one_login_serves_all_threads() -> None:
    with site(FakeXnat(lambda _: GOOD)) as (server, client, _, deadline):
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda _: projects(client, deadline), range(100)))
        assert results == [[{"ID": "P"}]] * 100
        assert server.count("/data/JSESSION") == 1
        assert client.identity == "ann"


def test_a_hundred_parallel_401s_make_one_login() -> None:
    site_ = FakeXnat(lambda _: GOOD)
    barrier = threading.Barrier(50)
    waiting = threading.Event()

    def expiring(request: Request) -> Any:
        if request.session == f"{1:032X}" and request.path == "/data/projects" and waiting.is_set():
            barrier.wait(20)
            return reply(401, "no", kind="text/html")
        return site_(request)

    with site(expiring, connections=64) as (_, client, _, deadline):
        client.login(deadline)
        waiting.set()
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(lambda _: len(projects(client, deadline)), range(50))) == [1] * 50
        assert site_.logins == 2


@pytest.mark.parametrize(
    "sign",
    [
        reply(200, LOGIN_PAGE, kind="text/html"),
        reply(302, "", headers={"Location": "/app/template/Login.vm"}),
        reply(404, "<html>", kind="text/html"),
        reply(200, table([]), headers={"Set-Cookie": "JSESSIONID=" + "F" * 32 + "; Path=/; HttpOnly"}),
    ],
    ids=["page", "redirect", "404", "silent guest"],
)
def test_fifty_parallel_signs_of_an_expired_session_make_one_login(sign: Any) -> None:
    site_ = FakeXnat(lambda _: GOOD)
    barrier = threading.Barrier(50)
    expired = threading.Event()

    def expiring(request: Request) -> Any:
        if request.session == f"{1:032X}" and request.path == "/data/projects" and expired.is_set():
            barrier.wait(20)
            return sign
        return site_(request)

    with site(expiring, connections=64) as (server, client, clock, deadline):
        client.login(deadline)
        expired.set()
        site_.valid.clear()
        clock.now += 100
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(lambda _: len(projects(client, Deadline(20, clock))), range(50))) == [1] * 50
        assert site_.logins == 2
        assert sum("authorization" in request.headers for request in server.requests) == 2


def test_who_waits_for_a_login_waits_no_longer_than_its_deadline() -> None:
    go_on, begun = threading.Event(), threading.Event()
    site_ = FakeXnat(lambda _: GOOD)

    def slow(request: Request) -> Any:
        if request.path == "/data/JSESSION":
            begun.set()
            return [go_on, *site_(request)]
        return site_(request)

    with site(slow) as (_, client, _, deadline), ThreadPoolExecutor(1) as pool:
        leader = pool.submit(client.login, deadline)
        assert begun.wait(10)
        short = Deadline(0.01)
        with pytest.raises(TimedOut, match="login"):
            client.login(short)
        go_on.set()
        assert leader.result(10) == "ann"


def test_credentials_given_during_a_login_win() -> None:
    go_on, begun = threading.Event(), threading.Event()
    site_ = FakeXnat(lambda _: GOOD, password="new")

    def slow(request: Request) -> Any:
        if request.path == "/data/JSESSION" and not begun.is_set():
            begun.set()
            return [go_on, *site_(request)]
        return site_(request)

    with site(slow) as (_, client, _, deadline), ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.login, deadline)
        assert begun.wait(10)
        client.relogin(Someone(password=Hidden("new")))
        go_on.set()
        assert isinstance(first.exception(10), LoginFailed)  # the old password was wrong, and that is not held against
        assert client.login(deadline) == "ann"


def test_the_way_out_is_never_an_error() -> None:
    with site(FakeXnat(lambda _: GOOD)) as (server, client, clock, deadline):
        client.login(deadline)
        clock.now += 100
        client.logout(deadline)  # its deadline has passed: nothing is sent, nothing is raised
        client.logout(deadline)
        assert server.requests[-1].path == "/data/auth"


def test_a_proxy_is_used_and_its_absence_said() -> None:
    with RawServer(lambda _: GOOD) as proxy:
        client = Client("http://xnat.invalid/x", None, proxy=proxy.url)
        assert projects(client, Deadline(20)) == [{"ID": "P"}]
        assert proxy.requests[0].target.startswith("http://xnat.invalid/x/data/projects")
        client.close()
    client = Client("http://xnat.invalid/x", None, proxy=proxy.url, sleep=lambda _: None)
    with pytest.raises(Unreachable, match="proxy"):
        projects(client, Deadline(20))


def test_a_busy_login_is_tried_again() -> None:
    site_ = FakeXnat(lambda _: GOOD)
    busy = [reply(503, "")]

    def script(request: Request) -> Any:
        return busy.pop() if busy else site_(request)

    with site(script) as (_, client, clock, deadline):
        assert client.login(deadline) == "ann"
        assert clock.slept == [0.2]
        assert client.whoami(deadline) == "ann"


def test_a_wrong_password_is_sent_once_for_ever() -> None:
    site_ = FakeXnat(lambda _: GOOD, password="other")
    with site(site_) as (server, client, _, deadline):
        for _ in range(3):
            with pytest.raises(LoginFailed) as caught:
                projects(client, deadline)
        assert "refused" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert len(server.requests) == 1
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(projects, client, deadline) for _ in range(8)]:
                assert isinstance(future.exception(), LoginFailed)
        assert len(server.requests) == 1
        client.relogin(Someone(password=Hidden("other")))
        assert projects(client, deadline) == [{"ID": "P"}]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply(200, LOGIN_PAGE, kind="text/html"), LoginFailed, "password expired"),
        (reply(200, "<html>maintenance</html>", kind="text/html"), ServerFault, "a page"),
        (reply(403, "Your password has expired", kind="text/html"), LoginFailed, "expired"),
        (reply(404, "", kind="text/html"), ServerFault, "no XNAT"),
        (reply(500, "", kind="text/html"), ServerFault, "500"),
        (reply(302, "", headers={"Location": "https://127.0.0.1/data/JSESSION"}), Unreachable, "https://127.0.0.1"),
        (reply(302, "", headers={"Location": "http://elsewhere/"}), Unreachable, "elsewhere"),
        (reply(302, "", headers={"Location": "/app/template/Login.vm"}), Unreachable, "redirects"),
    ],
)
def test_what_a_login_may_meet(answer: Any, error: type[XnatfsError], words: str) -> None:
    with site(lambda _: answer) as (server, client, _, deadline):
        with pytest.raises(error, match=words) as caught:
            client.login(deadline)
        assert "\n" not in str(caught.value)
        assert [r.path for r in server.requests] == ["/data/JSESSION"]


def test_a_login_page_in_the_place_of_a_session_does_not_end_the_mount() -> None:
    """It says nothing of the password; who asks again and again does not send it each time."""
    site_ = FakeXnat(lambda _: GOOD)
    pages = [reply(200, LOGIN_PAGE, kind="text/html")]

    def script(request: Request) -> Any:
        return pages.pop() if request.path == "/data/JSESSION" and pages else site_(request)

    with site(script) as (server, client, clock, _):
        for _ in range(20):
            with pytest.raises(LoginFailed, match="page"):
                projects(client, Deadline(20, clock))
        assert server.count("/data/JSESSION") == 1
        clock.now += login.PAGE_PAUSE + 1
        assert projects(client, Deadline(20, clock)) == [{"ID": "P"}]
        assert server.count("/data/JSESSION") == 2
        assert client.connection.reason == ""


@pytest.mark.parametrize(
    "answer",
    [[CLOSE], [RESET], reply(500, "", kind="text/html"), reply(200, "<html>down", kind="text/html")],
    ids=["close", "reset", "500", "page"],
)
def test_a_password_of_which_nothing_is_said_is_not_sent_by_each_operation(answer: Any) -> None:
    """It may be wrong all the same, and counted by whoever cuts it off; the pauses are short, for it may be right."""
    site_ = FakeXnat(lambda _: GOOD)
    silent = threading.Event()
    silent.set()

    def script(request: Request) -> Any:
        return answer if request.path == "/data/JSESSION" and silent.is_set() else site_(request)

    with site(script) as (server, client, clock, _):
        ends = clock.now + 60
        while clock.now < ends:
            with pytest.raises(XnatfsError):
                projects(client, Deadline(20, clock))
            clock.now += 0.1
        assert login.UNHEARD <= server.count("/data/JSESSION") <= login.UNHEARD + 60 / login.LONGEST_UNHEARD + 4
        silent.clear()
        clock.now += login.LONGEST_UNHEARD
        assert projects(client, Deadline(20, clock)) == [{"ID": "P"}]


def test_who_could_not_connect_has_sent_no_password_and_need_not_wait() -> None:
    clock = HandClock()
    with RawServer(lambda _: GOOD) as gone:
        port = gone.port
    client = Client(f"http://127.0.0.1:{port}", Someone(), clock=clock, sleep=clock.sleep)
    client._transport.breaker._spawn = lambda _run: None
    for _ in range(20):
        with pytest.raises(Unreachable):
            projects(client, Deadline(20, clock))
    assert client._login._unheard == 0
    client.close()


def test_a_session_that_belongs_to_nobody_is_no_login() -> None:
    def script(request: Request) -> Any:
        if request.path == "/data/JSESSION":
            return reply(body="0" * 32, kind="text/plain")
        return reply(body="User 'guest' is logged in", kind="text/plain")

    with site(script) as (_, client, _, deadline), pytest.raises(LoginFailed, match="proxy"):
        client.login(deadline)


def test_the_password_goes_out_in_utf8_and_only_to_the_login(caplog: pytest.LogCaptureFixture) -> None:
    site_ = FakeXnat(lambda _: GOOD, password="pässwörd")
    with (
        caplog.at_level(logging.DEBUG),
        site(site_, Someone(password=Hidden("pässwörd"))) as (server, client, _, deadline),
    ):
        projects(client, deadline)
        client.logout(deadline)
        assert [r.path for r in server.requests if "authorization" in r.headers] == ["/data/JSESSION"]
        assert server.requests[-1].method == "DELETE"
        assert not site_.valid
    assert "pässwörd" not in caplog.text
    assert f"{1:032X}" not in caplog.text
    assert "ann" not in repr(client)


def test_a_guest_does_not_log_in() -> None:
    site_ = FakeXnat(lambda _: GOOD, open_site=True)
    with site(site_, None) as (server, client, _, deadline):
        assert client.login(deadline) == "guest"
        assert projects(client, deadline) == [{"ID": "P"}]
        client.logout(deadline)
        assert site_.logins == 0
        assert not any("authorization" in r.headers for r in server.requests)


def test_a_guest_on_a_closed_site_is_told_to_log_in() -> None:
    with site(FakeXnat(lambda _: GOOD), None) as (_, client, _, deadline):
        with pytest.raises(LoginFailed, match="wants a login"):
            client.login(deadline)
        with pytest.raises(LoginFailed, match="wants a login"):
            projects(client, deadline)


def test_netrc_is_not_consulted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login eve password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with site(FakeXnat(lambda _: GOOD, open_site=True), None) as (server, client, _, deadline):
        projects(client, deadline)
        assert not any("authorization" in r.headers for r in server.requests)


@pytest.mark.parametrize("user", ["", "a:b"])
def test_a_user_name_that_a_login_cannot_carry_is_refused(user: str) -> None:
    with pytest.raises(SettingsError):
        Client("http://127.0.0.1", Someone(user=user))


def test_a_ca_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match="nosuch"):
        Client("https://127.0.0.1", None, verify="/nosuch.pem")


# --- sessions that end ---------------------------------------------------------------------------------------------


def expire(site_: FakeXnat) -> None:
    site_.valid.clear()


@pytest.mark.parametrize(
    "sign",
    [
        reply(200, LOGIN_PAGE, kind="text/html"),
        reply(302, "", headers={"Location": "/app/template/Login.vm"}),
        reply(404, "<html>", kind="text/html"),
        reply(200, table([]), headers={"Set-Cookie": "JSESSIONID=" + "F" * 32 + "; Path=/; HttpOnly"}),
    ],
    ids=["page", "redirect", "404", "silent guest"],
)
def test_an_expired_session_is_renewed_without_an_error(sign: Any) -> None:
    site_ = FakeXnat(lambda _: GOOD)

    def script(request: Request) -> Any:
        if request.path == "/data/projects" and request.session not in site_.valid:
            return sign
        return site_(request)

    with site(script) as (_, client, clock, _):
        client.login(Deadline(20, clock))
        clock.now += 100
        expire(site_)
        assert projects(client, Deadline(20, clock)) == [{"ID": "P"}]
        assert site_.logins == 2


def test_a_fresh_404_is_believed_at_once_and_an_old_one_after_a_question() -> None:
    with site(FakeXnat(lambda _: reply(404, "<html>", kind="text/html"))) as (server, client, clock, _):
        client.login(Deadline(20, clock))
        before = len(server.requests)
        for extra in (1, 1):
            with pytest.raises(NotFound):
                projects(client, Deadline(20, clock))
            before += extra
            assert len(server.requests) == before
        clock.now += 61
        for extra in (2, 1):
            with pytest.raises(NotFound):
                projects(client, Deadline(20, clock))
            before += extra
            assert len(server.requests) == before


def test_after_a_long_idle_time_the_identity_is_checked_first() -> None:
    site_ = FakeXnat(lambda _: GOOD, open_site=True)
    with site(site_) as (server, client, clock, _):
        projects(client, Deadline(20, clock))
        expire(site_)
        clock.now += 901
        projects(client, Deadline(20, clock))
        assert site_.logins == 2
        assert server.requests[-1].session == f"{2:032X}"


def test_the_server_states_its_idle_limit() -> None:
    cookie = {"Set-Cookie": 'SESSION_EXPIRATION_TIME="1795334006709,120000"; Version=1; Path=/'}
    site_ = FakeXnat(lambda _: reply(body=table([]), headers=cookie), open_site=True)
    with site(site_) as (_, client, clock, _):
        projects(client, Deadline(20, clock))
        expire(site_)
        clock.now += 121
        projects(client, Deadline(20, clock))
        assert site_.logins == 2


def test_a_session_refused_right_after_a_login_ends_in_one_error() -> None:
    site_ = FakeXnat(lambda _: reply(401, "no", kind="text/html"))
    with site(site_) as (server, client, _, deadline):
        with pytest.raises(LoginFailed, match="right after"):
            projects(client, deadline)
        assert site_.logins == 2
        assert server.count("/data/projects") == 2


def test_a_page_that_is_no_login_page_costs_no_login() -> None:
    site_ = FakeXnat(lambda _: reply(200, "<html>down for maintenance</html>", kind="text/html"))
    with site(site_) as (_, client, _, deadline):
        with pytest.raises(ServerFault, match="HTML page"):
            projects(client, deadline)
        assert site_.logins == 1


def test_a_load_balancers_cookie_is_kept_and_a_foreign_session_is_not() -> None:
    cookie = {"Set-Cookie": "route=node7; Path=/"}
    with site(FakeXnat(lambda _: reply(body=table([]), headers=cookie))) as (server, client, _, deadline):
        projects(client, deadline)
        projects(client, deadline)
        assert "route=node7" in server.requests[-1].headers["cookie"]
        assert server.requests[-1].session == f"{1:032X}"


# --- retries and deadlines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        [CLOSE],
        [RESET],
        [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{", CLOSE],
        chunked([b'{"ResultSet":{"Result":['], end=False),
        reply(200, table([{"ID": "x"}])[:-9]),
        reply(503, "busy", kind="text/html"),
        reply(429, ""),
        reply(502, "<html>", kind="text/html"),
        reply(504, "<html>", kind="text/html"),
    ],
    ids=["close", "reset", "short", "short chunked", "cut json", "503", "429", "502", "504"],
)
def test_a_passing_fault_is_not_seen(fault: Any) -> None:
    with site(FakeXnat(in_turn(fault, fault, GOOD))) as (_, client, clock, deadline):
        assert projects(client, deadline) == [{"ID": "P"}]
        assert clock.slept == [0.2, 0.4]
        assert client.stats.snapshot()["requests.retries"] == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ([CLOSE], Unreachable),
        (reply(503, "busy", kind="text/html"), ServerFault),
        (reply(200, table([{"ID": "x"}])[:-9]), ServerFault),
    ],
)
def test_a_lasting_fault_ends_after_four_attempts(fault: Any, error: type[XnatfsError]) -> None:
    with site(FakeXnat(lambda _: fault)) as (server, client, clock, deadline):
        with pytest.raises(error):
            projects(client, deadline)
        assert server.count("/data/projects") == 4
        assert clock.slept == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, ServerFault), (403, AccessDenied), (404, NotFound), (406, ServerFault), (500, ServerFault)],
)
def test_other_statuses_are_final(status: int, error: type[XnatfsError]) -> None:
    with site(FakeXnat(lambda _: reply(status, "<html>", kind="text/html"))) as (server, client, clock, deadline):
        with pytest.raises(error) as caught:
            projects(client, deadline)
        assert type(caught.value) is error
        assert "GET /data/projects at 127.0.0.1" in str(caught.value)
        assert server.count("/data/projects") == 1
        assert clock.slept == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "malformed"),
        ('{"items":[]}', "not the kind"),
        ('{"ResultSet":{"Result":[{]}}' + " " * 2_000_000, "malformed"),
    ],
)
def test_malformed_json_is_the_servers_fault(body: str, words: str) -> None:
    with site(FakeXnat(lambda _: reply(body=body))) as (_, client, _, deadline):
        with pytest.raises(ServerFault, match=words) as caught:
            projects(client, deadline)
        assert type(caught.value) is ServerFault


def test_retry_after_is_honoured() -> None:
    faults = (
        reply(503, "", headers={"Retry-After": "7"}),
        reply(
            503,
            "",
            headers={"Retry-After": "Sun, 22 Nov 2026 10:00:09 GMT", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"},
        ),
    )
    with site(FakeXnat(in_turn(*faults, GOOD))) as (_, client, clock, deadline):
        projects(client, deadline)
        assert clock.slept == [7.0, 9.0]


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with site(FakeXnat(lambda _: reply(503, "", headers={"Retry-After": "3600"}))) as (_, client, clock, deadline):
        with pytest.raises(ServerFault, match="busy"):
            projects(client, deadline)
        assert clock.slept == []


def test_the_pause_is_random() -> None:
    with site(FakeXnat(in_turn([CLOSE], GOOD)), random=lambda: 0.25) as (_, client, clock, deadline):
        projects(client, deadline)
        assert clock.slept == [0.05]


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_drip_ends_at_the_deadline(where: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"

    def script(request: Request) -> Any:
        def drip() -> Iterator[Any]:
            if where == "body":
                yield head
            for _ in range(300):  # many more than are needed: the client may be late
                yield lambda: setattr(clock, "now", clock.now + 1)
                yield b"H" if where == "head" else b" "
                yield lambda: step.acquire(timeout=0.01)  # let the client take its piece

        return drip()

    step = threading.Semaphore(0)
    with site(FakeXnat(script)) as (_, client, clock, _):
        client.login(Deadline(20, clock))
        with pytest.raises(TimedOut):
            projects(client, Deadline(20, clock))


def test_silence_ends_at_the_read_timeout() -> None:
    quiet = threading.Event()
    with site(FakeXnat(lambda _: [quiet, CLOSE]), read_timeout=0.05) as (server, client, _, deadline):
        with pytest.raises(TimedOut):
            projects(client, deadline)
        assert server.count("/data/projects") == 2
        quiet.set()


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    with site(FakeXnat(lambda _: GOOD)) as (server, client, clock, deadline):
        clock.now += 30
        with pytest.raises(TimedOut):
            projects(client, deadline)
        assert server.requests == []


def test_a_listing_without_end_is_cut() -> None:
    def script(request: Request) -> Any:
        def endless() -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
            yield b'{"ResultSet":{"Result":['
            while True:
                yield b'{"ID":"x"},' * 1000

        return endless()

    with site(FakeXnat(script), max_listing=300_000) as (server, client, _, deadline):
        with pytest.raises(ServerFault, match="larger than"):
            projects(client, deadline)
        assert server.count("/data/projects") == 1


def test_nothing_listens() -> None:
    with RawServer(lambda _: GOOD) as server:
        url = server.url
    client = Client(url, None, sleep=lambda _: None)
    with pytest.raises(Unreachable, match="refused"):
        projects(client, Deadline(20))


def test_an_unknown_host() -> None:
    client = Client("http://nosuch.invalid", None, sleep=lambda _: None)
    with pytest.raises(Unreachable, match="host name"):
        projects(client, Deadline(20))


def test_no_http() -> None:
    script = lambda _: [b"SSH-2.0-OpenSSH_9.2\r\n", CLOSE]  # noqa: E731
    with site(script, None) as (_, client, _, deadline), pytest.raises(Unreachable):
        projects(client, deadline)


def test_https_on_an_http_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer_once)
        thread.start()
        client = Client(f"https://127.0.0.1:{listening.getsockname()[1]}", None, random=lambda: 1e9)
        with pytest.raises(Unreachable, match="https"):
            projects(client, Deadline(20))
        thread.join()


@pytest.mark.parametrize(
    ("location", "words"),
    [("https://127.0.0.1/x", "wants https"), ("http://elsewhere/x", "elsewhere"), ("/other", "redirects")],
)
def test_redirects_are_not_followed(location: str, words: str) -> None:
    with site(FakeXnat(lambda _: reply(302, "", headers={"Location": location}))) as (server, client, _, deadline):
        with pytest.raises(Unreachable, match=words):
            projects(client, deadline)
        assert server.count("/data/projects") == 1


def test_what_is_sent() -> None:
    with site(FakeXnat(lambda _: GOOD), context="/xnat/") as (server, client, _, deadline):
        with pytest.raises(LoginFailed):  # the stub has no site below /xnat
            client.login(deadline)
        headers = server.requests[0].headers
        assert server.requests[0].target == "/xnat/data/JSESSION"
        assert headers["accept"] == "*/*"
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("xnatfs/")
        assert "mozilla" not in headers["user-agent"].lower()


def test_connections_are_kept() -> None:
    with site(FakeXnat(in_turn(GOOD, reply(404, "<html>" * 50, kind="text/html"), GOOD))) as (
        server,
        client,
        _,
        deadline,
    ):
        projects(client, deadline)
        with pytest.raises(NotFound):
            projects(client, deadline)
        projects(client, deadline)
        assert len(server._threads) == 2


def test_an_untrusted_certificate_is_said_once_and_not_tried_again() -> None:
    with RawServer(FakeXnat(lambda _: GOOD), tls=True) as server:
        client = Client(server.url, Someone(), sleep=lambda _: pytest.fail("tried again"))
        with pytest.raises(Unreachable, match=r"certificate is not trusted .*verify.*--insecure"):
            client.login(Deadline(20))
        assert server.requests == []


def test_tls_with_its_own_ca_or_none() -> None:
    for verify in (CERTIFICATE, False):
        with RawServer(FakeXnat(lambda _: GOOD), tls=True) as server:
            client = Client(server.url, Someone(), verify=verify)
            assert client.login(Deadline(20)) == "ann"
            client.close()


def test_a_warning_free_insecure_client() -> None:
    client = Client("https://127.0.0.1:1", None, verify=False, sleep=lambda _: None)
    with pytest.raises(Unreachable):
        projects(client, Deadline(20))
