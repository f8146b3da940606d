"""A server made of sockets, for what a real one must not do: short bodies, wrong ranges, drips, silence.

A script is a function of the request that gives back what to do: `reply(...)`, or any iterable of bytes and actions
(`CLOSE`, `RESET`, a `threading.Event` to wait for).
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLOSE = object()
"""Close the connection now."""
RESET = object()
"""Reset the connection now."""

CERTIFICATE = str(Path(__file__).parent / "tls" / "loopback.pem")
"""A certificate for 127.0.0.1 that nobody trusts unless told to, with its key; good for nothing but these tests."""

Script = Callable[["Request"], Iterable[Any]]


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    number: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def session(self) -> str:
        for item in self.headers.get("cookie", "").split(";"):
            name, _, value = item.strip().partition("=")
            if name == "JSESSIONID":
                return value
        return ""


def reply(
    status: int = 200,
    body: bytes | str = b"",
    *,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> list[bytes]:
    """A whole answer; ``length`` lies about the body's."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Whatever"]
    fields = {"Content-Type": kind, "Content-Length": str(len(data) if length is None else length), **(headers or {})}
    lines += [f"{name}: {value}" for name, value in fields.items() if value != ""]
    return [("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data]


def chunked(pieces: Iterable[bytes], *, kind: str = "application/json", end: bool = True) -> list[bytes]:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), *([b"0\r\n\r\n"] if end else [CLOSE])]


def table(rows: list[dict[str, Any]], **meta: Any) -> str:
    return json.dumps({"ResultSet": {"Result": rows, **meta}})


LOGIN_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Login</title></head><body>"
    "<!-- BEGIN xnat-templates/screens/Login.vm --><form><input name=password></form></body></html>"
)


@dataclass
class RawServer:
    """Listens on a free port of the loopback; one thread a connection; keeps every request."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    tls: bool = False

    def __enter__(self) -> RawServer:
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not self.problems, self.problems

    def count(self, path: str) -> int:
        return sum(1 for request in self.requests if request.path == path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._open.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls:
                plain = connection
                connection = self._context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(connection)
            with connection, connection.makefile("rb") as lines:
                while request := self._read(lines):
                    for action in self.script(request):
                        if not self._act(connection, action):
                            return
        except OSError:
            pass
        except BaseException as error:
            self.problems.append(error)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _read(self, lines: Any) -> Request | None:
        first = lines.readline().decode("latin-1").split()
        if len(first) < 2:
            return None
        headers: dict[str, str] = {}
        while line := lines.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        with self._lock:
            request = Request(first[0], first[1], headers, len(self.requests))
            self.requests.append(request)
        return request

    @staticmethod
    def _act(connection: socket.socket, action: Any) -> bool:
        if isinstance(action, threading.Event):
            action.wait(30)
        elif action is CLOSE:
            return False
        elif action is RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return False
        elif callable(action):
            action()
        else:
            connection.sendall(action)
        return True


TOKEN = "0123456789ABCDEF0123456789ABCDEF"


@dataclass
class FakeXnat:
    """The login of an XNAT around a script for everything else. Sessions are numbered tokens."""

    script: Script
    user: str = "ann"
    password: str = "secret"
    logins: int = 0
    valid: set[str] = field(default_factory=set)
    open_site: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Iterable[Any]:
        import base64

        if request.path == "/data/JSESSION":
            if request.method == "DELETE":
                self.valid.discard(request.session)
                return reply(kind="text/plain")
            given = request.headers.get("authorization", "")
            wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            with self._lock:
                self.logins += 1
                if given != f"Basic {wanted}":
                    return reply(401, "<html>no</html>", kind="text/html")
                token = f"{self.logins:032X}"
                self.valid.add(token)
            return reply(body=token, kind="text/plain")
        known = request.session in self.valid
        if request.path == "/data/auth":
            if known or self.open_site:
                return reply(body=f"User '{self.user if known else 'guest'}' is logged in", kind="text/plain")
            return reply(401, "<html>no</html>", kind="text/html")
        if not known and not self.open_site:
            return reply(401, "<html>no</html>", kind="text/html")
        return self.script(request)


@dataclass(frozen=True)
class Hidden:
    text: str = field(repr=False)

    def reveal(self) -> str:
        return self.text


@dataclass(frozen=True)
class Someone:
    """Credentials as the client wants them."""

    user: str = "ann"
    password: Hidden = field(default_factory=lambda: Hidden("secret"))


@dataclass
class HandClock:
    """A clock that stands still until it is told to go on; sleeping moves it. Notes every sleep."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
