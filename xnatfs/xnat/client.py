"""Requests to one XNAT site: logged in, retried, within a deadline, and with errors in words of the domain."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import NamedTuple, TypeVar

from xnatfs import __version__
from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import LoginFailed, ServerFault, XnatfsError
from xnatfs.stats import Stats
from xnatfs.xnat import urls
from xnatfs.xnat.again import BUSY, BusyError, Retry, check_status
from xnatfs.xnat.download import Download, Expected, begin, page_instead_of_file
from xnatfs.xnat.greeting import Greeting, greeting
from xnatfs.xnat.login import Credentials, Login, Session, is_login_page
from xnatfs.xnat.session import CHUNK, Answer, Transport, translated
from xnatfs.xnat.tables import Row, TableReader

log = logging.getLogger(__name__)
T = TypeVar("T")


class Connection(NamedTuple):
    """How it stands with the server, as far as is known without asking. Seconds."""

    away: float | None
    """For how long it has not been reachable; None while it is, or may be."""
    reason: str
    """Why it is away, or why the login was refused; else empty."""
    session_age: float | None
    """None without a session of ours."""


ABSENT = frozenset({404})
"""The thing asked for is not there."""
POISONED = frozenset({500})
"""One bad entry spoils a listing (differences A9)."""
NO_ROUTE = frozenset({404, 405, 500})
"""This server has no such listing, or not for this thing."""
REFUSED = frozenset({400, 404, 500})
"""What a server makes of a path that it does not like."""
BAD_QUERY = frozenset({400, 500})
"""What a server may make of a column that it does not like."""
NONE: frozenset[int] = frozenset()

MAX_TABLE = 256 * 1024**2
"""Bytes; a hundred thousand subjects with all their columns take half of that, and ten times as much as records."""

_LOGIN_MARK = b"templates/screens/Login.vm"
_PAGE = "a page instead of data"


class Client:
    """One site and one login, shared by all threads. Opens no socket and starts no thread before the first request."""

    def __init__(
        self,
        server: str | urls.Server,
        credentials: Credentials | None,
        *,
        verify: bool | str = True,
        proxy: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 20.0,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] | None = None,
        stats: Stats | None = None,
        connections: int = 16,
        user_agent: str = f"xnatfs/{__version__}",
        max_listing: int = 2 * 1024**3,
    ) -> None:
        """
        Raises:
            SettingsError: the address, the CA file or the user name cannot be used.
        """
        self.server = urls.parse_server(server) if isinstance(server, str) else server
        self.stats = stats if stats is not None else Stats()
        self.max_listing = max_listing
        self.ranges: bool | None = None
        """Whether the server honours Range; None until it has been seen."""
        self._retry = Retry(sleep, random or Random().random, self.stats)  # noqa: S311  # jitter, no secret
        self._transport = Transport(
            self.server,
            verify=verify,
            proxy=proxy,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            connections=connections,
            user_agent=user_agent,
            guest=credentials is None,
            stats=self.stats,
        )
        self._login = Login(credentials, self._send_for_login, self.server.netloc, clock, self.stats)

    def __repr__(self) -> str:
        return f"Client({self.server.url!r})"

    # --- who we are --------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """The account's name as the server reports it, ``guest`` for nobody; empty before the first login."""
        return "guest" if self._login.guest else self._login.identity

    @property
    def connection(self) -> Connection:
        """Never asks, never waits."""
        away = self._transport.breaker.away
        seconds, reason = away if away is not None else (None, self._login.refused)
        return Connection(seconds, reason, self._login.age)

    def greeting(self, deadline: Deadline) -> Greeting:
        """What the server tells everybody; see `xnatfs.xnat.greeting`."""
        return greeting(self._transport, deadline)

    def login(self, deadline: Deadline) -> str:
        """Make sure that there is a session, and give the account's name, ``guest`` for nobody.

        Raises:
            LoginFailed: user or password refused, or the site wants a login and there is none.
            Unreachable, TimedOut, ServerFault: no XNAT answers there.
        """
        return self._login.whoami(deadline) if self._login.guest else self._ensure(deadline)

    def _ensure(self, deadline: Deadline) -> str:
        self._login.session(deadline)
        return self._login.identity

    def whoami(self, deadline: Deadline) -> str:
        """The user that the server takes us for, asked now."""
        return self._login.whoami(deadline)

    def relogin(self, credentials: Credentials | None) -> None:
        """Use these credentials from now on; also the way back after a refused password."""
        self._login.replace(credentials)
        self._transport.use_guest(credentials is None)

    def logout(self, deadline: Deadline) -> None:
        """End the session on the server; never an error, for the way out must not hang on it."""
        session_id = self._login.forget()
        if not session_id:
            return
        try:
            self._transport.send("DELETE", "/data/JSESSION", deadline=deadline, session_id=session_id).close()
        except XnatfsError as error:
            log.info("logout: %s", error)

    def close(self) -> None:
        """Close the connections. Log out first if the session should not idle away on the server."""
        self._transport.close()

    # --- documents ---------------------------------------------------------------------------------------------------

    def table(
        self,
        path: str,
        collect: Callable[[Iterator[Row]], T],
        *,
        params: Mapping[str, str] | None = None,
        deadline: Deadline,
        none_on: frozenset[int] = NONE,
        expect_title: str | None = None,
        of_files: bool = False,
    ) -> T | None:
        """The rows of a JSON table, handed to ``collect`` while they arrive.

        ``path`` is an encoded path (``/data/projects``). ``collect`` is called afresh for each attempt; the result is
        its result, or None for a status in ``none_on``. Only a table ``of_files``, which are kept packed, may be larger
        than `MAX_TABLE`.

        Raises:
            NotFound, AccessDenied, LoginFailed, TimedOut, Unreachable, ServerFault
        """
        target = path + urls.query({**(params or {}), "format": "json"})

        def read(answer: Answer) -> T:
            with translated(answer.what, answer.host):
                reader = TableReader(answer.chunks(self.max_listing if of_files else min(MAX_TABLE, self.max_listing)))
                result = collect(iter(reader))
                title = reader.meta.get("title")
                if expect_title is not None and title is not None and title != expect_title:
                    raise ServerFault(f"{answer.what} at {answer.host}: the server sent another listing, {title!r:.80}")
                return result

        return self._get(target, read, deadline=deadline, none_on=none_on, html_is_login=True)

    def get_rows(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        deadline: Deadline,
        expect_title: str | None = None,
    ) -> list[Row]:
        """The rows of a small table, all at once."""
        rows = self.table(path, list, params=params, deadline=deadline, expect_title=expect_title)
        return rows if rows is not None else []

    def document(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        deadline: Deadline,
        limit: int = 64 * 1024 * 1024,
        none_on: frozenset[int] = NONE,
    ) -> bytes | None:
        """A body of at most ``limit`` bytes that is no HTML page."""
        return self._get(
            path + urls.query(params),
            lambda answer: answer.body(limit),
            deadline=deadline,
            none_on=none_on,
            html_is_login=True,
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def head(self, path: str, *, params: Mapping[str, str] | None = None, deadline: Deadline, name: str) -> int | None:
        """The size of a file in bytes, None where the server does not say or refuses the path (400, 404, 500)."""

        def read(answer: Answer) -> int | None:
            return answer.number("Content-Length")

        return self._get(
            path + urls.query(params), read, deadline=deadline, none_on=REFUSED, method="HEAD", expected=Expected(name)
        )

    def download(
        self,
        path: str,
        expected: Expected,
        *,
        params: Mapping[str, str] | None = None,
        deadline: Deadline,
        none_on: frozenset[int] = NONE,
    ) -> Download | None:
        """Begin to read a file (or the part of it that ``expected`` names); None for a status in ``none_on``.

        The deadline is for the beginning; each later piece may take the read time-out.

        Raises:
            ContentChanged: the file does not have the size of the listing any more.
            NotFound, AccessDenied, LoginFailed, TimedOut, Unreachable, ServerFault
        """
        asked = expected.range if self.ranges is not False else None
        headers = {"Range": f"bytes={asked[0]}-{asked[1] - 1}"} if asked else {}
        target = path + urls.query(params)
        answer = self._answer("GET", target, headers, deadline, none_on, expected=expected)
        if answer is None:
            return None
        try:
            download = begin(answer, expected, asked)
        except BaseException:
            answer.close()
            raise
        if asked:
            self.ranges = answer.status == 206
        answer.wire.deadline = None
        return download

    # --- one request -------------------------------------------------------------------------------------------------

    def _get(
        self,
        target: str,
        read: Callable[[Answer], T],
        *,
        deadline: Deadline,
        none_on: frozenset[int],
        method: str = "GET",
        html_is_login: bool = False,
        expected: Expected | None = None,
    ) -> T | None:
        """A whole exchange, body included, tried again while that makes sense."""

        def attempt() -> T | None:
            answer = self._once(method, target, {}, deadline, html_is_login, expected)
            with answer:
                if answer.status in none_on:
                    return None
                check_status(answer)
                return read(answer)

        return self._retry(attempt, f"{method} {target.partition('?')[0]}", deadline)

    def _answer(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        none_on: frozenset[int],
        expected: Expected | None,
    ) -> Answer | None:
        """As `_get`, but the open answer, for a body that is read later."""

        def attempt() -> Answer | None:
            answer = self._once(method, target, headers, deadline, False, expected)
            try:
                if answer.status in none_on:
                    answer.close()
                    return None
                check_status(answer)
            except BaseException:
                answer.close()
                raise
            return answer

        return self._retry(attempt, f"{method} {target.partition('?')[0]}", deadline)

    def _once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        html_is_login: bool,
        expected: Expected | None,
    ) -> Answer:
        """One answer from a session that is known to be ours: if it has expired, log in and ask once more."""
        session = self._login.session(deadline)
        for last in (False, True):
            answer = self._transport.send(method, target, deadline=deadline, headers=headers, session_id=session.id)
            try:
                lost = self._lost(answer, session, deadline, html_is_login, expected)
                if not lost:
                    if answer.status not in (401, 403):
                        self._login.note(answer)
                    return answer
                if last or self._login.guest:
                    raise self._no_session(answer, lost)
            except BaseException:
                answer.close()
                raise
            answer.close()
            log.info("%s: %s; asking again", self.server.netloc, lost)
            # whether a page means an expired session is settled by now: if it did, there is a new one
            session = self._login.session(deadline) if lost is _PAGE else self._login.renew(session, deadline)
        raise AssertionError("unreachable")

    def _lost(
        self, answer: Answer, session: Session, deadline: Deadline, html_is_login: bool, expected: Expected | None
    ) -> str:
        """Why this answer shows that the session is not ours (any more); empty if it does not."""
        if answer.status == 401:
            return "status 401"
        if 300 <= answer.status < 400 and is_login_page(answer.location):
            return "a redirect to the login page"
        if page := self._page(answer, html_is_login, expected):
            self._login.doubt()
        if self._login.guest:
            return page
        if answer.new_session and answer.new_session.partition(".")[0] != session.id.partition(".")[0]:
            self._login.doubt()  # it does not know our session any more; an open site goes on as guest, silently
        elif not page and answer.status != 404:
            return ""
        if self._login.confirm(session, deadline):
            return page
        return page or "a silent change to guest"

    def _page(self, answer: Answer, html_is_login: bool, expected: Expected | None) -> str:
        if answer.status not in (200, 206) or not answer.is_html:
            return ""
        if html_is_login or (expected is not None and page_instead_of_file(answer, expected)):
            return _PAGE
        return ""

    def _no_session(self, answer: Answer, sign: str) -> XnatfsError:
        where = f"{answer.what} at {answer.host}"
        if sign is _PAGE and not (self._login.guest and _LOGIN_MARK in answer.read(CHUNK)):
            return ServerFault(f"{where}: the server shows an HTML page instead of data")
        if self._login.guest:
            return LoginFailed(f"{where}: the site wants a login; give a user name and password")
        return LoginFailed(f"{where}: the server wants a login again right after one ({sign})")

    def _send_for_login(self, target: str, *, deadline: Deadline, headers: dict[str, str], session_id: str) -> Answer:
        """For the login itself: never repeated once the server may have seen the password."""

        def attempt() -> Answer:
            answer = self._transport.send("GET", target, deadline=deadline, headers=headers, session_id=session_id)
            if answer.status in BUSY:
                answer.close()
                raise BusyError(answer)
            return answer

        secret = "Authorization" in headers
        return self._retry(attempt, f"GET {target}", deadline, only_busy=secret)
