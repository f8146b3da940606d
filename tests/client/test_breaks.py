"""What breaks off in the middle is asked for again; what only looked like a refusal is not remembered as one."""

from __future__ import annotations

import pytest
from support.rawserver import CLOSE, FakeXnat, RawServer, Someone, chunked, reply, table

from xnatfs.deadlines import Deadline
from xnatfs.errors import LoginFailed, ServerFault, Unreachable
from xnatfs.xnat.client import Client

ROWS = [{"ID": f"XNAT_E{number:05d}", "label": 'quoted " and ü'} for number in range(5)]
BODY = table(ROWS).encode()


def _client(server):
    return Client(server.url, Someone(), sleep=lambda _: None)


@pytest.mark.parametrize("form", ["chunked", "of stated length", "until the end of the connection"])
def test_a_listing_cut_at_any_byte_is_asked_for_again(form):
    """Also where the cut falls into a value, so that a reader of JSON is in the middle of something."""
    cuts = iter(range(0, len(BODY), 3))
    broken = []

    def script(request):
        if request.number in broken or (cut := next(cuts, None)) is None:
            return reply(200, BODY)
        broken.extend(range(request.number + 1, request.number + 2))
        if form == "chunked":
            return chunked([BODY[:cut]] if cut else [], end=False)
        if form == "of stated length":
            return [*reply(200, BODY[:cut], length=len(BODY)), CLOSE]
        return [*reply(200, BODY[:cut], headers={"Content-Length": "", "Connection": "close"}), CLOSE]

    with RawServer(FakeXnat(script)) as server:
        client = _client(server)
        for _ in range(0, len(BODY), 3):
            assert client.get_rows("/data/projects", deadline=Deadline(20)) == ROWS
        client.close()
    assert len(broken) >= len(BODY) // 3


def test_a_listing_that_is_always_cut_is_an_error():
    with RawServer(FakeXnat(lambda _: chunked([BODY[:100]], end=False))) as server:
        client = _client(server)
        with pytest.raises((Unreachable, ServerFault), match=r"early|middle|connection"):
            client.get_rows("/data/projects", deadline=Deadline(20))
        client.close()


def test_a_session_that_is_lost_right_after_the_login_does_not_end_the_mount():
    """The password was right: to log in again can lock nobody out, and not to would be for ever."""
    site = FakeXnat(lambda _: reply(200, BODY))
    lost = [True]

    def script(request):
        if request.path == "/data/auth" and lost and lost.pop():
            site.valid.clear()
        return site(request)

    with RawServer(script) as server:
        client = _client(server)
        with pytest.raises(LoginFailed, match="accepted"):
            client.get_rows("/data/projects", deadline=Deadline(20))
        assert client.get_rows("/data/projects", deadline=Deadline(20)) == ROWS
        assert site.logins == 2
        client.close()


def test_a_refused_password_is_sent_once_whatever_is_asked_afterwards():
    site = FakeXnat(lambda _: reply(200, BODY), password="another")
    with RawServer(site) as server:
        client = _client(server)
        for _ in range(20):
            with pytest.raises(LoginFailed, match="refused"):
                client.get_rows("/data/projects", deadline=Deadline(20))
        assert site.logins == 1
        client.close()
