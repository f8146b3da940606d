"""Faults to order: rules that make chosen requests go wrong in chosen ways, a counted number of times.

| action | effect | parameters |
|---|---|---|
| delay | the answer comes late | seconds |
| no_answer | nothing is ever sent | |
| close | the connection is closed before any header | |
| stall | the body stops at byte ``at`` until `Faults.release` or the client goes | at, fraction |
| cut | the connection is closed at byte ``at`` of the body | at, fraction |
| reset | the same, with a TCP reset; before any header when ``at`` is 0 | at, fraction |
| drip | ``size`` bytes of the body every ``seconds``, until `Faults.release` | size, seconds |
| status | another status with a page or text of its own | status, headers, body, type |
| login_page, login_redirect | 200 with the login screen; 302 to it | |
| unauthorized | 401 although the login is right | |
| expire | all sessions end before this request is looked at | |
| length | Content-Length is off by ``size`` | size |
| gzip | body and header say gzip though nobody asked | |
| ignore_range | 200 with the whole body for a Range | |
| other_range | a range ``size`` bytes further on than asked, correctly labelled | size |
| overrun | a range that ends ``size`` bytes past the file: said so, promised, then silence (contract 5.2) | size |
| change | other bytes of the same length | |
| damage_member | one byte of zip member number ``at`` is wrong, its CRC is not | at |
| digest, empty_size | every digest of a listing is wrong; every Size is empty | |
| foreign | the URIs of a files listing name another session | |
| malformed, truncate | a listing that is no JSON; one that breaks off though its length is right | |

Rules count requests that match and that the action can touch: a fault of listings lets a file pass and is not used up
by it. The order of rules decides when several fire. A rule with a ``chance`` below 1 matches that share of them only,
drawn at random (the same ones in each run that asks in the same order).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xnatfs.demo import pages
from xnatfs.demo.ask import Answer, Slice, Stream
from xnatfs.demo.content import Content


class Request(Protocol):
    """What is known before there is an answer; `Ask` is one."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    def get(self, name: str, default: str = "") -> str: ...


Touches = Callable[[Any], bool]


def _any(_: object) -> bool:
    return True


def _none(_: object) -> bool:
    return False


def _of_content(answer: Answer) -> bool:
    return isinstance(answer.body, Slice) and answer.body.content.size > 0


def _of_range(answer: Answer) -> bool:
    return answer.status == 206 and _of_content(answer)


def _of_known_length(answer: Answer) -> bool:
    return not isinstance(answer.body, Stream)


def _of_json(answer: Answer) -> bool:
    return answer.status == 200 and "json" in answer.type and isinstance(answer.body, bytes)


def _holds(pattern: bytes) -> Touches:
    return lambda answer: _of_json(answer) and re.search(pattern, answer.body) is not None


_DIGEST, _SIZE, _URI = rb'"digest":"([0-9a-f]{32})"', rb'"Size":"[0-9]*"', rb'"URI":"/data/experiments/[^/"]+/'
REQUESTS: Mapping[str, Callable[[Request], bool]] = {
    **dict.fromkeys(("delay", "no_answer", "close", "status", "login_page", "login_redirect", "unauthorized"), _any),
    **dict.fromkeys(("expire", "stall", "cut", "reset", "drip"), _any),
    "ignore_range": lambda request: "range" in request.headers,
    "damage_member": lambda request: request.get("format") == "zip",
}
"""Actions that are decided on when the request is there: which requests they can touch."""
ANSWERS: Mapping[str, Callable[[Answer], bool]] = {
    "length": _of_known_length,
    "gzip": _any,
    "other_range": _of_range,
    "overrun": _of_range,
    "change": _of_content,
    "digest": _holds(_DIGEST),
    "empty_size": _holds(_SIZE),
    "foreign": _holds(_URI),
    "malformed": _of_json,
    "truncate": _of_json,
}
"""Actions that spoil the real answer: which answers they can touch."""
ACTIONS = frozenset((*REQUESTS, *ANSWERS))


@dataclass(frozen=True)
class Rule:
    """One fault. It fires ``count`` times (None: always) after ``skip`` matching requests went well."""

    action: str
    method: str = ""
    """Regular expression for the whole method; empty = any."""
    path: str = ""
    """Regular expression searched in the raw path; empty = any."""
    query: str = ""
    """Regular expression searched in the raw query string; empty = any."""
    count: int | None = 1
    skip: int = 0
    chance: float = 1.0
    """The share of the requests, drawn at random, that it looks at at all."""
    at: int = 0
    fraction: float | None = None
    """Instead of ``at``: a share of the body, 0.0 to 1.0 (bodies of known length only)."""
    seconds: float = 0.0
    size: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict, hash=False)
    body: str = ""
    type: str = "text/html"

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault is called {self.action!r}; there are: {', '.join(sorted(ACTIONS))}")

    @classmethod
    def of(cls, entry: Any) -> Rule:
        """What a file says. Raises ValueError: a field that is unknown, missing or of the wrong kind."""
        if not isinstance(entry, dict):
            raise ValueError(f"an object is expected, not {entry!r:.40}")
        if "action" not in entry:
            raise ValueError("it has no action")
        for name, value in entry.items():
            if name not in _KINDS:
                raise ValueError(f"unknown {name}; there are: {', '.join(sorted(_KINDS))}")
            wanted, what, right = _KINDS[name]
            if not isinstance(value, wanted) or isinstance(value, bool) or not right(value):
                raise ValueError(f"{name} is {what}, not {json.dumps(value):.40}")
        rule = cls(**entry)
        for pattern in (rule.method, rule.path, rule.query):
            re.compile(pattern)
        return rule

    def matches(self, method: str, path: str, query: str) -> bool:
        return (
            (not self.method or re.fullmatch(self.method, method) is not None)
            and re.search(self.path, path) is not None
            and re.search(self.query, query) is not None
        )

    def offset(self, length: int | None) -> int:
        """The byte of the body where it strikes."""
        if self.fraction is not None and length is not None:
            return int(length * self.fraction)
        return self.at


_NUMBER = (int, float)
_KINDS: Mapping[str, tuple[Any, str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("action", "method", "path", "query", "body", "type"), (str, "a text", _any)),
    **dict.fromkeys(("skip", "at"), (int, "a number from 0 on", lambda value: value >= 0)),
    "count": ((int, type(None)), "a number from 0 on, or null for always", lambda value: value is None or value >= 0),
    "chance": (_NUMBER, "a number from 0 to 1", lambda value: 0 <= value <= 1),
    "fraction": ((*_NUMBER, type(None)), "a number from 0 to 1", lambda value: value is None or 0 <= value <= 1),
    "seconds": (_NUMBER, "a number of seconds", lambda value: 0 <= value < 1e9),
    "size": (int, "a number of bytes", _any),
    "status": (int, "an HTTP status", lambda value: 200 <= value <= 599),
    "headers": (
        dict,
        "an object of texts",
        lambda value: all(isinstance(text, str) and text.isprintable() for text in (*value, *value.values())),
    ),
}
"""Field of `Rule` -> type, what it is in words, and whether a value of that type is one. A file is written by hand."""


class Faults:
    """The rules of one server. Thread-safe; `release` may be called from anywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: dict[int, int] = {}
        self._random = random.Random(1)  # noqa: S311 - what goes wrong in tests, no secret
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate: asyncio.Event | None = None
        self.waiting = 0
        """How many answers are stalled right now."""

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def load(self, path: Path) -> None:
        """Rules from a JSON file: a list of objects with the fields of `Rule`.

        Raises ValueError, whose text says in one line what is wrong and in which rule, and OSError.
        """
        try:
            entries: Any = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from None
        if not isinstance(entries, list):
            raise ValueError("a list of rules is expected")
        rules = []
        for number, entry in enumerate(entries, 1):
            try:
                rules.append(Rule.of(entry))
            except (ValueError, re.error) as error:
                raise ValueError(f"rule {number}: {error}") from None
        for rule in rules:  # all of a file or nothing
            self.add(rule)

    def remove(self, rule: Rule) -> None:
        with self._lock:
            self._rules = [r for r in self._rules if r is not rule]
            self._seen.pop(id(rule), None)

    def clear(self) -> None:
        """No more rules, and everything that is stalled or drips goes on."""
        with self._lock:
            self._rules.clear()
            self._seen.clear()
        self.release()

    def hits(self, rule: Rule) -> int:
        """How often the rule has fired."""
        with self._lock:
            fired = max(0, self._seen.get(id(rule), 0) - rule.skip)
        return fired if rule.count is None else min(fired, rule.count)

    def take(self, method: str, path: str, query: str, request: Request) -> list[Rule]:
        """The rules that fire for this request, but for those that spoil its answer."""
        return self._fired(method, path, query, REQUESTS, request)

    def take_for(self, method: str, path: str, query: str, answer: Answer) -> list[Rule]:
        """The rules that spoil this answer."""
        return self._fired(method, path, query, ANSWERS, answer)

    def _fired(self, method: str, path: str, query: str, touches: Mapping[str, Touches], what: object) -> list[Rule]:
        fired = []
        with self._lock:
            for rule in self._rules:
                if not rule.matches(method, path, query) or not touches.get(rule.action, _none)(what):
                    continue
                if rule.chance < 1.0 and self._random.random() >= rule.chance:
                    continue
                seen = self._seen.get(id(rule), 0)
                self._seen[id(rule)] = seen + 1
                if seen >= rule.skip and (rule.count is None or seen < rule.skip + rule.count):
                    fired.append(rule)
        return fired

    # stalls -----------------------------------------------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._gate = loop, asyncio.Event()

    async def stalled(self) -> None:
        """Wait for `release`; cancelled when the client goes."""
        assert self._gate is not None
        self.waiting += 1
        try:
            await self._gate.wait()
        finally:
            self.waiting -= 1

    async def released_within(self, seconds: float) -> bool:
        """Wait so long, or until `release`: was it that?"""
        assert self._gate is not None
        try:
            await asyncio.wait_for(self._gate.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Let everything that is stalled or drips go on."""

        def open_gate() -> None:
            assert self._gate is not None
            self._gate.set()
            self._gate = asyncio.Event()

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(open_gate)


# answers --------------------------------------------------------------------------------------------------------------


def instead(rule: Rule, context: str) -> Answer | None:
    """An answer that takes the place of the real one; None when the real one is wanted."""
    if rule.action == "status":
        body = rule.body.encode() or (pages.tomcat(rule.status) if rule.type == "text/html" else b"")
        return Answer(body, rule.status, rule.type, list(rule.headers.items()))
    if rule.action == "login_page":
        return Answer(pages.login(context), 200, "text/html;charset=ISO-8859-1")
    if rule.action == "login_redirect":
        return Answer(status=302, headers=[("Location", f"{context}/app/template/Login.vm")])
    if rule.action == "unauthorized":
        return Answer(pages.tomcat(401), 401, pages.TOMCAT_TYPE, [("WWW-Authenticate", 'Basic realm="XNAT"')])
    return None


class _Changed(Content):
    """Other bytes of the same length."""

    def __init__(self, original: Content) -> None:
        super().__init__()
        self._original = original

    @property
    def size(self) -> int:
        return self._original.size

    def read(self, offset: int, length: int) -> bytes:
        return self._original.read(offset, length).translate(_FLIP)


_FLIP = bytes(255 - value for value in range(256))


def spoiled(answer: Answer, rule: Rule) -> Answer:
    """The real answer, spoilt as a rule says that `Faults.take_for` gave for it."""
    body = answer.body
    if isinstance(body, Slice):
        _spoil_content(answer, body, rule)
    elif isinstance(body, bytes) and rule.action != "gzip":
        answer.body = _listing(body, rule)
        if rule.action == "truncate":
            answer.chunked = False
    if rule.action == "gzip":
        answer.body = gzip.compress(_all(body), mtime=0)
        answer.set("Content-Encoding", "gzip")
        answer.chunked = False
    return answer


def _spoil_content(answer: Answer, body: Slice, rule: Rule) -> None:
    size = body.content.size
    if rule.action == "change":
        answer.body = Slice(_Changed(body.content), body.start, body.stop, body.promised)
    elif rule.action == "other_range":
        start, stop = min(body.start + rule.size, size), min(body.stop + rule.size, size)
        answer.body = Slice(body.content, start, stop, stop - start)
        answer.set("Content-Range", f"bytes {start}-{stop - 1}/{size}")
    elif rule.action == "overrun":
        answer.body = Slice(body.content, body.start, size, size + rule.size - body.start)
        answer.set("Content-Range", f"bytes {body.start}-{size + rule.size - 1}/{size}")


def _all(body: bytes | Slice | Stream) -> bytes:
    if isinstance(body, bytes):
        return body
    pieces = body.pieces if isinstance(body, Stream) else body.content.chunks(body.start, body.stop - body.start)
    return b"".join(pieces)


def _listing(body: bytes, rule: Rule) -> bytes:
    if rule.action == "malformed":
        return body.replace(b'":', b'" ', 3) if b'":' in body else b"{" + body
    if rule.action == "truncate":
        return body[: rule.offset(len(body)) or len(body) // 2]
    if rule.action == "digest":
        return re.sub(_DIGEST, lambda found: b'"digest":"' + found[1][::-1] + b'"', body)
    if rule.action == "empty_size":
        return re.sub(_SIZE, b'"Size":""', body)
    if rule.action == "foreign":
        return re.sub(_URI, b'"URI":"/data/experiments/XNAT_E99999/', body)
    return body


class MemberDamage:
    """Flips one byte of zip member number ``at``; given to the zip writer."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.done = False

    def __call__(self, number: int, piece: bytes) -> bytes:
        if self.done or number != self.at or not piece:
            return piece
        self.done = True
        middle = len(piece) // 2
        return piece[:middle] + bytes((piece[middle] ^ 0xFF,)) + piece[middle + 1 :]
