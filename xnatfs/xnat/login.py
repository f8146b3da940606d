"""One login for the whole mount: who we are, and how it stays that way.

Every Basic request without a cookie opens a session on the server, and an account may hold a limited number of them
(contract 1.1); so there is one JSESSIONID, shared by all threads and renewed by exactly one of them. A wrong password
is sent once: sites lock accounts after a few.

Locks: ``_lock`` is a leaf and never held across I/O. Who finds no session becomes the one that logs in; the others
wait for its outcome, each with its own deadline.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
from typing import NamedTuple, Protocol

from xnatfs.deadlines import Clock, Deadline
from xnatfs.errors import LoginFailed, ServerFault, SettingsError, TimedOut, Unreachable, XnatfsError
from xnatfs.stats import Stats
from xnatfs.xnat.session import Answer, never_sent

log = logging.getLogger(__name__)

GUEST = "guest"
TRUST = 60.0
"""Seconds for which an identity, once checked, is believed without asking again."""
PAGE_PAUSE = 30.0
"""Seconds for which a login that met a page is not tried again: a server that starts, or a proxy in front of it."""
UNHEARD, LONGEST_UNHEARD = 4, 8.0
"""Logins in a row that got no verdict on the password before there are pauses, and the longest of these in seconds: a
gateway that cuts off a wrong one must not make each file operation send it."""
DEFAULT_IDLE = 900.0
"""XNAT's default limit of an idle session in seconds (contract 1.3), until the server states its own."""

_TOKEN = re.compile(r"[0-9A-Fa-f]{32}(?:[.!-][\w.!-]+)?")
_WHO = re.compile(r"User '(.*?)' is logged in", re.DOTALL)
_SMALL = 64 * 1024


class Password(Protocol):
    def reveal(self) -> str: ...


class Credentials(Protocol):
    """A login; an alias token is one too (contract 1.2)."""

    @property
    def user(self) -> str: ...
    @property
    def password(self) -> Password: ...


class NobodyError(LoginFailed):
    """The server gave a session and does not know it a moment later: it has just restarted, or a proxy is wrong."""


class PageError(LoginFailed):
    """A login page in the place of a session: no verdict on the password, which is 401 or 403 (contract 1.4)."""


class Session(NamedTuple):
    """The session to send along; ``generation`` says which one was found wanting."""

    id: str
    generation: int

    def __repr__(self) -> str:
        return f"Session(generation={self.generation})"


class Send(Protocol):
    """One exchange without session handling; retries only while the server says that it is busy."""

    def __call__(self, target: str, *, deadline: Deadline, headers: dict[str, str], session_id: str) -> Answer: ...


class _Flight:
    """A login under way, or one whose outcome is known."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: XnatfsError | None = None


class Login:
    """Keeps the session of one account, or of nobody."""

    def __init__(self, credentials: Credentials | None, send: Send, host: str, clock: Clock, stats: Stats) -> None:
        self._send = send
        self._host = host
        self._clock = clock
        self._stats = stats
        self._lock = threading.Lock()
        self._flight: _Flight | None = None
        self._session = Session("", 0)
        self._identity = ""
        self._refused: str = ""
        self._refused_until = float("inf")
        self._unheard = 0
        self._not_before = float("-inf")
        self._last_error: XnatfsError | None = None
        self._began: float | None = None
        self._checked = float("-inf")
        self._used = float("-inf")
        self._idle = DEFAULT_IDLE
        self._credentials: Credentials | None = None
        self._epoch = 0
        self._set(credentials)

    def _set(self, credentials: Credentials | None) -> None:
        if credentials is not None and (":" in credentials.user or not credentials.user):
            raise SettingsError("the user name is empty or holds a colon, which a login cannot carry")
        self._credentials = credentials
        self._epoch += 1

    @property
    def guest(self) -> bool:
        return self._credentials is None

    @property
    def identity(self) -> str:
        """The account's name as the server reports it; empty before the first login."""
        return self._identity

    @property
    def age(self) -> float | None:
        """Seconds since the session of now began; None without one."""
        with self._lock:
            return self._clock() - self._began if self._session.id and self._began is not None else None

    @property
    def refused(self) -> str:
        """Why the login was refused; empty while it was not."""
        return self._refused

    def replace(self, credentials: Credentials | None) -> None:
        """Use other credentials, or the same ones anew after a refusal."""
        with self._lock:
            self._set(credentials)
            self._session = Session("", self._session.generation + 1)
            self._refused = self._identity = ""
            self._heard()
            self._checked = self._used = float("-inf")

    # --- what the client asks ----------------------------------------------------------------------------------------

    def session(self, deadline: Deadline) -> Session:
        """The session to use now; logs in when there is none. A guest has no session of ours.

        Raises:
            LoginFailed: refused, now or earlier; the password is not sent again.
        """
        if self.guest:
            return Session("", 0)
        with self._lock:
            current, idle = self._session, self._clock() - self._used > self._idle
        if not current.id:
            return self.renew(current, deadline)
        if idle:  # an open site serves a forgotten session as guest, with shorter listings instead of an error
            self.confirm(current, deadline)
            return self._session
        return current

    def renew(self, stale: Session, deadline: Deadline) -> Session:
        """A session newer than ``stale``: one thread logs in, everyone else waits for it."""
        with self._lock:
            if self._refused and self._clock() < self._refused_until:
                raise LoginFailed(self._refused)
            if self._last_error is not None and self._clock() < self._not_before:
                raise type(self._last_error)(str(self._last_error)) from self._last_error
            if self._session.generation != stale.generation and self._session.id:
                return self._session
            flight, leading = self._flight, False
            if flight is None:
                flight = self._flight = _Flight()
                leading = True
        if leading:
            self._lead(flight, deadline)
        elif not flight.done.wait(deadline.remaining()):
            raise TimedOut(f"login at {self._host}: no answer within {deadline.seconds:g} s")
        if flight.error is not None:
            raise type(flight.error)(str(flight.error)) from flight.error
        return self._session

    def confirm(self, session: Session, deadline: Deadline) -> bool:
        """Whether ``session`` still is who we are; if not, log in again. At most one question per `TRUST` seconds."""
        if self.guest:
            return True
        with self._lock:
            if self._session != session:
                return False
            if self._clock() - self._checked < TRUST and self._clock() - self._used <= self._idle:
                return True
        if self._who(session.id, deadline) == self._identity:
            self._believe()
            return True
        self.renew(session, deadline)
        return False

    def doubt(self) -> None:
        """The server has shown a sign of not knowing our session: believe nothing until checked."""
        with self._lock:
            self._checked = float("-inf")

    def note(self, answer: Answer) -> None:
        """Any answer renews the session's idle time."""
        limit = answer.idle_limit
        with self._lock:
            self._used = self._clock()
            if limit is not None and limit > 0:
                self._idle = limit

    def forget(self) -> str:
        """Give up the session; its id, so that it can be ended on the server."""
        with self._lock:
            session, self._session = self._session, Session("", self._session.generation + 1)
            return session.id

    def whoami(self, deadline: Deadline) -> str:
        """Ask the server who we are: ``guest`` for nobody.

        Raises:
            LoginFailed: the site wants a login.
        """
        who = self._who(self.session(deadline).id, deadline)
        if not who:
            raise LoginFailed(f"{self._host} wants a login: give a user name and password")
        return who

    # --- logging in --------------------------------------------------------------------------------------------------

    def _lead(self, flight: _Flight, deadline: Deadline) -> None:
        epoch = self._epoch
        try:
            session_id = self._log_in(deadline)
            with self._lock:
                if self._epoch != epoch:
                    raise Unreachable(f"login at {self._host}: other credentials were given meanwhile; try again")
                self._session = Session(session_id, self._session.generation + 1)
                self._began = self._clock()
                self._refused = ""
                self._heard()
        except XnatfsError as error:
            flight.error = error
            if isinstance(error, NobodyError) or not (isinstance(error, LoginFailed) or never_sent(error)):
                self._not_heard(error)
            if isinstance(error, LoginFailed):
                if not isinstance(error, NobodyError):  # the password was right: no account is locked by asking again
                    with self._lock:
                        self._refused = str(error) if self._epoch == epoch else ""
                        pause = PAGE_PAUSE if isinstance(error, PageError) else float("inf")
                        self._refused_until = self._clock() + pause
                log.error("%s", error)
        except BaseException:
            flight.error = Unreachable(f"login at {self._host}: interrupted")
            raise
        finally:
            with self._lock:
                self._flight = None
            flight.done.set()

    def _heard(self) -> None:
        """The password has been judged, or is another one. Lock held."""
        self._unheard, self._not_before, self._last_error = 0, float("-inf"), None

    def _not_heard(self, error: XnatfsError) -> None:
        """The password went out and nothing was said of it: not too often in a row."""
        with self._lock:
            self._unheard += 1
            if self._unheard >= UNHEARD:
                pause = min(LONGEST_UNHEARD, 2.0 ** (self._unheard - UNHEARD))
                self._not_before, self._last_error = self._clock() + pause, error

    def _log_in(self, deadline: Deadline) -> str:
        credentials = self._credentials
        assert credentials is not None
        self._stats.add("requests.logins")
        pair = f"{credentials.user}:{credentials.password.reveal()}".encode()
        basic = {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}
        with self._send("/data/JSESSION", deadline=deadline, headers=basic, session_id="") as answer:
            self._judge(answer, credentials.user)
            text = answer.body(_SMALL).decode("utf-8", "replace").strip()
        token = text.split(";", 1)[0].strip()
        if not _TOKEN.fullmatch(token):
            where = f"login at {self._host}: a page instead of a session for {credentials.user!r}"
            if "password" in text.lower():
                raise PageError(f"{where}; has the password expired? log in with a browser to see")
            raise ServerFault(f"{where}; is this an XNAT, and is it up?")
        who = self._who(token, deadline)
        if not who or (who == GUEST and credentials.user != GUEST):
            raise NobodyError(
                f"login at {self._host}: accepted, but nobody is logged in afterwards; "
                "does a proxy in front of the server drop the Authorization header?"
            )
        with self._lock:
            self._identity = who
        self._believe()
        log.info("logged in at %s", self._host)
        return token

    def _believe(self) -> None:
        with self._lock:
            self._checked = self._used = self._clock()

    def _judge(self, answer: Answer, user: str) -> None:
        """Turn the status of a login into an error, unless it is good."""
        where = f"login at {self._host}"
        if answer.status == 401:
            raise LoginFailed(
                f"{where}: user or password refused for {user!r} (wrong, locked, disabled, or too many sessions); "
                "it is not tried again"
            )
        if answer.status == 403:
            text = answer.body(_SMALL).decode("utf-8", "replace")
            expired = "assword has expired" in text
            why = "the password has expired: renew it with a browser" if expired else "the account may not log in"
            raise LoginFailed(f"{where}: {why} ({user!r})")
        if 300 <= answer.status < 400:
            raise Unreachable(redirected(answer, "https://" + self._host))
        if answer.status == 404:
            raise ServerFault(f"{where}: no XNAT at this address; is a path such as /xnat missing or too much?")
        if answer.status != 200:
            raise ServerFault(f"{where}: the server answered with status {answer.status}")

    def _who(self, session_id: str, deadline: Deadline) -> str:
        """The user that a session belongs to, empty for none."""
        with self._send("/data/auth", deadline=deadline, headers={}, session_id=session_id) as answer:
            if answer.status in (401, 403) or is_login_page(answer.location):
                return ""
            if 300 <= answer.status < 400:
                raise Unreachable(redirected(answer, "https://" + self._host))
            if answer.status == 404:
                raise ServerFault(f"{answer.what} at {self._host}: no XNAT at this address")
            if answer.status != 200:
                raise ServerFault(f"{answer.what} at {self._host}: the server answered with status {answer.status}")
            found = _WHO.search(answer.body(_SMALL).decode("utf-8", "replace"))
            self.note(answer)
        return found[1] if found else ""


def is_login_page(location: str) -> bool:
    """A redirect to here means: log in (contract 1.4)."""
    return "Login.vm" in location


def redirected(answer: Answer, secure: str) -> str:
    """What to say of a redirect, which is never followed: credentials go to the configured address only."""
    location = answer.location
    host = location.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if location.startswith("https://") and host.partition(":")[0] == answer.host.partition(":")[0]:
        return f"{answer.what}: the server wants https; give its address as {secure}"
    if host and host != answer.host:
        return f"{answer.what}: the server sends on to another host, {host}; if that is right, give its address"
    return f"{answer.what} at {answer.host}: the server redirects (status {answer.status}) instead of answering"
