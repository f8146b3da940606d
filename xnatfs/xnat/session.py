"""The wire: connections, pacing, and the one place where foreign exceptions become ours.

Only this module knows ``requests``. It sends one request and gives back the open answer; what an answer means, when to
log in and when to try again is the business of `xnatfs.xnat.client`.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import Cookie, DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.request import Request as CookieRequest

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from xnatfs.deadlines import Deadline
from xnatfs.errors import ServerFault, SettingsError, TimedOut, Unreachable, XnatfsError
from xnatfs.stats import Stats
from xnatfs.xnat.breaker import AtRestError, Breaker
from xnatfs.xnat.tables import IncompleteError, MalformedError, MisroutedError
from xnatfs.xnat.urls import Server
from xnatfs.xnat.values import http_date, number
from xnatfs.xnat.wire import CHUNK, PacedResponse, Wire, current

PATIENCE = 1.0
"""Seconds for a connection or an answer from which on having got none says something about the server."""
PROBE_SECONDS = 3.0
"""What a look whether the server is back may take."""
LONGEST_COOKIE, MOST_COOKIES = 4096, 20
"""Characters, and names: of cookies beyond these a server gets nothing back, for each request would grow with them."""
_SESSION_COOKIES = ("JSESSIONID", "SESSION_EXPIRATION_TIME")


class _Connection(HTTPConnection):
    response_class = PacedResponse


class _TlsConnection(HTTPSConnection):
    response_class = PacedResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """The adapter of requests over connections whose answers are paced."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


class _CookiePolicy(DefaultCookiePolicy):
    """Keeps a load balancer's cookies, within bounds; the session's own cookie is the login's business, unless a guest
    has one.
    """

    def __init__(self, keep_session: bool) -> None:
        super().__init__()
        self._keep_session = keep_session
        self._names: set[str] = set()

    def set_ok(self, cookie: Cookie, request: CookieRequest) -> bool:
        if cookie.name in _SESSION_COOKIES and not (self._keep_session and cookie.name == "JSESSIONID"):
            return False
        if len(cookie.name) + len(cookie.value or "") > LONGEST_COOKIE:
            return False
        if cookie.name not in self._names and len(self._names) >= MOST_COOKIES:
            return False
        if not super().set_ok(cookie, request):
            return False
        self._names.add(cookie.name)
        return True


class _Session(requests.Session):
    """A session that does not even look where a redirect leads: requests would read all of its body to find out."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        return None


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An ``auth`` that does nothing: without one, requests would look into netrc by itself."""
    return request


@contextmanager
def translated(what: str, host: str, hint: str = "") -> Iterator[None]:
    """Every exception of the network, of TLS, HTTP and JSON becomes one of ours, with a one-line message."""
    try:
        yield
    except XnatfsError:
        raise
    except Exception as error:
        raise _ours(error, f"{what} at {host}", hint) from error


def _ours(error: Exception, where: str, hint: str) -> XnatfsError:
    chain = list(_chain(error))
    inner = chain[-1]
    # the error itself, not its chain: a connection may break while a reader of JSON sees that it needs more
    if isinstance(error, MisroutedError):
        return ServerFault(f"{where}: the server sent {error}: not the kind of answer that was asked for")
    if isinstance(error, (MalformedError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return ServerFault(f"{where}: the server sent malformed JSON ({_line(error)})")
    for e in chain:
        if isinstance(e, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{where}: the server's certificate is not trusted ({e.verify_message}); "
                "give its CA file by the setting verify, or use --insecure to accept any"
            )
    if any(isinstance(e, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)) for e in chain):
        return Unreachable(f"{where}: the proxy fails ({_line(inner)}); check the setting proxy and HTTPS_PROXY")
    if any(isinstance(e, (ssl.SSLError, urllib3.exceptions.SSLError)) for e in chain):
        return Unreachable(f"{where}: no TLS connection ({_line(inner)}); does this port speak https?")
    if any(isinstance(e, (urllib3.exceptions.NameResolutionError, socket.gaierror)) for e in chain):
        return Unreachable(f"{where}: the host name is not known; check the address")
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        return Unreachable(f"{where}: connection refused; check the address and whether the server is up")
    # a NewConnectionError counts as a ConnectTimeoutError in urllib3, so it is one only if a time-out is the reason
    if any(type(e) is urllib3.exceptions.ConnectTimeoutError for e in chain):
        return Unreachable(f"{where}: no connection in time; is the host right, and the network up?")
    if any(isinstance(e, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)) for e in chain):
        return TimedOut(f"{where}: the server does not answer, or stopped in the middle")
    if any(isinstance(e, ConnectionAbortedError) and str(e) == "aborted" for e in chain):
        return Unreachable(f"{where}: closed while the answer was coming")
    if any(isinstance(e, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)) for e in chain):
        return Unreachable(f"{where}: the answer ended early")
    if isinstance(inner, http.client.HTTPException) and not isinstance(inner, http.client.RemoteDisconnected):
        return Unreachable(f"{where}: no HTTP answer ({type(inner).__name__}){hint}")
    return Unreachable(f"{where}: the connection failed ({_line(inner)}){hint}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was made from, outermost first: urllib3 keeps them in ``reason`` and ``args``."""
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        yield next_one
        candidates = [getattr(next_one, "reason", None), *next_one.args[:2], next_one.__cause__, next_one.__context__]
        known = (c for c in candidates if isinstance(c, BaseException) and not isinstance(c, json.JSONDecodeError))
        next_one = next((c for c in known if id(c) not in seen), None)


def hopeless(error: XnatfsError) -> bool:
    """Whether trying again cannot help: a certificate that is not trusted stays so, and a breaker stays open."""
    return any(isinstance(e, (ssl.SSLCertVerificationError, AtRestError)) for e in _chain(error))


def never_sent(error: XnatfsError) -> bool:
    """Whether an exchange failed before anything of ours went out."""
    kinds = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, AtRestError, ssl.SSLError)
    return any(isinstance(e, kinds) for e in _chain(error))


def _no_connection(error: BaseException, waited: float) -> bool:
    """Whether an attempt failed because there is nobody to talk to; being in a hurry does not count."""
    for e in _chain(error):
        if type(e) is urllib3.exceptions.ConnectTimeoutError:
            return waited >= PATIENCE
        if isinstance(e, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProxyError)):
            return True
    return False


def _line(error: BaseException) -> str:
    """Why, in a few words. Only an OSError's text is trusted to be short and free of addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:120] if isinstance(error, (MalformedError, OSError)) and text else type(error).__name__


class Answer:
    """An answer whose body is still to be read. Close it, whatever happens."""

    def __init__(self, response: requests.Response, wire: Wire, what: str, host: str, stats: Stats) -> None:
        self._raw = response.raw
        self._response = response
        self._stats = stats
        self.wire = wire
        self.what = what
        self.host = host
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.location = response.headers.get("Location", "")

    @property
    def new_session(self) -> str:
        """The JSESSIONID that this answer sets, empty if none. Not joined lines: one of them holds a comma."""
        for line in self._raw.headers.getlist("Set-Cookie"):
            if line.startswith("JSESSIONID="):
                return str(line[len("JSESSIONID=") :]).split(";", 1)[0].strip('" ')
        return ""

    @property
    def idle_limit(self) -> float | None:
        """Seconds that the session may be idle, from SESSION_EXPIRATION_TIME ("<now ms>,<limit ms>", contract 1.3)."""
        for line in self._raw.headers.getlist("Set-Cookie"):
            if line.startswith("SESSION_EXPIRATION_TIME="):
                limit = number(str(line).split("=", 1)[1].split(";", 1)[0].strip('" ').rpartition(",")[2])
                return None if limit is None else limit / 1000
        return None

    @property
    def is_html(self) -> bool:
        return self.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))

    def number(self, header: str) -> int | None:
        return number(self.headers.get(header, ""))

    def date(self, header: str) -> float | None:
        """Seconds since the epoch; None for absent and for what is no HTTP date."""
        return http_date(self.headers.get(header, ""))

    def read(self, size: int = CHUNK) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; b"" at the end. Raises our errors only."""
        with translated(self.what, self.host):
            data: bytes = self._raw.read1(size, decode_content=False) or b""
        self._stats.add("bytes.received", len(data))
        return data

    def readinto(self, buffer: memoryview) -> int:
        """As `read`, into ``buffer``: without a copy where the length of the body is stated."""
        response = self.wire.direct
        if response is None:
            data = self.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        with translated(self.what, self.host):
            count = response.receive(buffer)
            if response.length == 0 or (response.chunked and not count):
                self._raw.read(decode_content=False)  # nothing is left: this gives the connection back
        self._stats.add("bytes.received", count)
        return count

    def chunks(self, limit: int) -> Iterator[bytes]:
        """The body piece by piece, at most ``limit`` bytes."""
        total = 0
        while data := self.read():
            total += len(data)
            if total > limit:
                raise ServerFault(f"{self.what} at {self.host}: the answer is larger than {limit} bytes")
            if self.wire.deadline is not None:
                self.wire.deadline.check(self.what)
            yield data

    def body(self, limit: int) -> bytes:
        return b"".join(self.chunks(limit))

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it.

        The page that comes with an error is read for that; anything else left unread is not.
        """
        with suppress(XnatfsError):
            if self.status not in (200, 206) and (self.number("Content-Length") or CHUNK) < CHUNK:
                while self.read():
                    continue
        with suppress(XnatfsError), translated(self.what, self.host):
            self._response.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Transport:
    """Sends requests to one site over a pool of connections. Threads and sockets only begin with the first request."""

    def __init__(
        self,
        server: Server,
        *,
        verify: bool | str,
        proxy: str | None,
        connect_timeout: float,
        read_timeout: float,
        connections: int,
        user_agent: str,
        guest: bool,
        stats: Stats,
    ) -> None:
        if isinstance(verify, str) and not Path(verify).exists():
            raise SettingsError(f"verify: there is no CA file {verify}")
        self.server = server
        self.read_timeout = read_timeout
        self._verify = verify
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        if server.local and not proxy:  # HTTP_PROXY is for what is elsewhere, and would be shown the password
            self._proxies["no_proxy"] = server.hostname
        self._connect_timeout = connect_timeout
        self._connections = connections
        self._agent = user_agent
        self._guest = guest
        self._stats = stats
        self._lock = threading.Lock()
        self._session: requests.Session | None = None
        self.breaker = Breaker(self._probe, stats)

    def use_guest(self, guest: bool) -> None:
        """Whether the site's session cookie is kept by itself; forgets all cookies."""
        self._guest = guest
        with self._lock:
            if self._session is not None:
                self._session.cookies = self._new_jar()

    def _new_jar(self) -> requests.cookies.RequestsCookieJar:
        return requests.cookies.RequestsCookieJar(policy=_CookiePolicy(self._guest))

    def _open(self) -> requests.Session:
        with self._lock:
            if self._session is None:
                if self._verify is False:
                    # whoever asked for it says so once, instead of this library at each request
                    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
                session = _Session()
                session.headers.clear()
                session.headers.update({"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"})
                session.auth = _no_netrc
                session.cookies = self._new_jar()
                adapter = _Adapter(pool_maxsize=self._connections, pool_block=False, max_retries=0)
                session.mount("https://", adapter)
                session.mount("http://", adapter)
                self._session = session
            return self._session

    def send(
        self,
        method: str,
        target: str,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        session_id: str = "",
        probing: bool = False,
    ) -> Answer:
        """One request, no retries, no redirects. ``target`` is an encoded path below the site's root, with its query.

        Raises:
            Unreachable, TimedOut, ServerFault: nothing else, whatever goes wrong on the way.
        """
        what = f"{method} {self.server.context}{target.partition('?')[0]}"
        entered = -1 if probing else self.breaker.enter(deadline.remaining())
        deadline.check(f"{what} at {self.server.host}")
        url = f"{self.server.url}{target}"
        wire = Wire(self.read_timeout, deadline)
        self._stats.add("requests.total")
        self._stats.add(f"requests.{method.lower()}")
        with translated(what, self.server.host, _http_hint(self.server)):
            session = self._open()
            cookies = {"JSESSIONID": session_id} if session_id else None
            plain = requests.Request(method, self.server.url, headers=headers, cookies=cookies)
            request = session.prepare_request(plain)
            request.url = url  # as it is: requests would resolve dots and unquote in paths that mean what they say
            settings = session.merge_environment_settings(url, self._proxies, True, self._verify, None)
            wait = max(0.001, min(self._connect_timeout, deadline.remaining()))
            piece = max(0.001, wire.limit())
            current.wire = wire
            try:
                response = session.send(request, timeout=(wait, piece), allow_redirects=False, **settings)
            except Exception as error:
                ours = _ours(error, self.server.host, "")
                if _no_connection(error, wait):
                    self.breaker.failed(entered, str(ours))
                elif isinstance(ours, TimedOut) and piece >= PATIENCE:
                    self.breaker.silent(entered, str(ours))
                raise
            finally:
                current.wire = None
        self.breaker.answered()
        return Answer(response, wire, what, self.server.host, self._stats)

    def _probe(self) -> bool:
        """Does the server answer anything at all? Sends no credentials."""
        try:
            self.send("HEAD", "/", deadline=Deadline(PROBE_SECONDS), probing=True).close()
        except XnatfsError:
            return False
        return True

    def close(self) -> None:
        self.breaker.stop()
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()


def _http_hint(server: Server) -> str:
    return "; does this port speak https? then give the address with https://" if server.scheme == "http" else ""


__all__ = ["CHUNK", "Answer", "IncompleteError", "Transport", "Wire", "hopeless", "never_sent", "translated"]
