"""Who asks: passwords, sessions, alias tokens, guests (contract 1)."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FAILED = "Login attempt failed. Please try again."


@dataclass
class Session:
    user: str | None
    """None: an anonymous session, which proves nothing."""
    used: float


@dataclass
class Identity:
    """Outcome of looking at a request's credentials."""

    user: str | None = None
    session: str = ""
    """The JSESSIONID in force; empty if none."""
    fresh: bool = False
    """The session is new and the answer must set its cookie."""
    refused: str = ""
    """Why credentials that were sent are not accepted."""
    expired: bool = False
    """A cookie was sent that is worth nothing (any more)."""


@dataclass
class Token:
    alias: str
    secret: str
    user: str


@dataclass
class Logins:
    """All accounts and sessions of a server. Thread-safe."""

    users: dict[str, str]
    """Password of each user."""
    timeout: float = 900.0
    """Idle seconds until a session ends."""
    max_sessions: int = 1000
    """Per user; the next login is refused, no old session is dropped."""
    max_failed: int = 20
    """Wrong passwords in a row until an account is locked."""
    clock: Callable[[], float] = time.monotonic
    sessions: dict[str, Session] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    logins: int = 0
    """Successful password or token logins so far."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Look at cookie and Basic header; a right Basic login opens a session."""
        with self._lock:
            cookie = _cookie(headers.get("cookie", ""))
            session = self._alive(cookie)
            basic = _basic(headers.get("authorization", ""))
            if basic is None:
                if session is None:
                    return Identity(expired=bool(cookie))
                return Identity(session.user, cookie)
            name, password = basic
            if session is not None and session.user == self._account(name):
                return Identity(session.user, cookie)
            return self._login(name, password)

    def login(self, name: str, password: str) -> Identity:
        with self._lock:
            return self._login(name, password)

    def _login(self, name: str, password: str) -> Identity:
        user = self._check(name, password)
        if user is None:
            return Identity(refused=FAILED)
        held = [s for key in tuple(self.sessions) if (s := self._alive(key, touch=False)) and s.user == user]
        if len(held) >= self.max_sessions:
            return Identity(refused="Maximum sessions of " + str(self.max_sessions) + " for this principal exceeded")
        self.logins += 1
        return Identity(user, self._open(user), fresh=True)

    def anonymous(self) -> Identity:
        with self._lock:
            return Identity(None, self._open(None), fresh=True)

    def end(self, session: str) -> None:
        with self._lock:
            self.sessions.pop(session, None)

    def expire_all(self) -> None:
        """As if everyone had been idle for too long."""
        with self._lock:
            self.sessions.clear()

    def active(self, user: str | None = None) -> int:
        """How many sessions are alive, of one user or of all accounts."""
        with self._lock:
            alive = [s for key in tuple(self.sessions) if (s := self._alive(key, touch=False)) is not None]
            return sum(1 for s in alive if s.user is not None and user in (None, s.user))

    # alias tokens -----------------------------------------------------------------------------------------------------

    def issue(self, user: str) -> Token:
        with self._lock:
            token = Token(str(uuid.uuid4()), secrets.token_urlsafe(48)[:64], user)
            self.tokens[token.alias] = token
            return token

    def validate(self, alias: str, secret: str) -> str | None:
        token = self.tokens.get(alias)
        return token.user if token is not None and token.secret == secret else None

    def invalidate(self, alias: str) -> bool:
        return self.tokens.pop(alias, None) is not None

    # inside, lock held ------------------------------------------------------------------------------------------------

    def _check(self, name: str, password: str) -> str | None:
        user = self._account(name)
        token = self.tokens.get(name)
        right = token is not None and token.secret == password
        if token is None and user in self.users:
            right = self.users[user] == password and self.failed.get(user, 0) < self.max_failed
        if not right or user is None:
            self.failed[name] = self.failed.get(name, 0) + 1
            return None
        self.failed.pop(user, None)
        return user

    def _account(self, name: str) -> str | None:
        token = self.tokens.get(name)
        if token is not None:
            return token.user
        return name if name in self.users else name.rpartition("/")[2]

    def _open(self, user: str | None) -> str:
        key = secrets.token_hex(16).upper()
        self.sessions[key] = Session(user, self.clock())
        return key

    def _alive(self, key: str, *, touch: bool = True) -> Session | None:
        session = self.sessions.get(key)
        if session is None:
            return None
        now = self.clock()
        if now - session.used > self.timeout:
            del self.sessions[key]
            return None
        if touch:
            session.used = now
        return session


def _cookie(header: str) -> str:
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == "JSESSIONID":
            return value.strip('"')
    return ""


def _basic(header: str) -> tuple[str, str] | None:
    kind, _, code = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(code, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ("", "")
    return (name, password) if colon else ("", "")
