"""Puts answers on the wire, as fast as asked for and as wrong as ordered."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web

from xnatfs.demo import pages
from xnatfs.demo.ask import Answer, Slice, Stream
from xnatfs.demo.content import CHUNK
from xnatfs.demo.faults import Faults, Rule

_SENDFILE = 4 * 1024 * 1024
"""Bytes given to the kernel at a time."""
_LATE = 0.05
"""Seconds. Timers and disks are late by less; who is later had nothing to send."""
_CLOSING = (400, 500, 501)
"""After these statuses Tomcat closes the connection."""


@dataclass
class RequestRecord:
    """One request as it came and what became of it. It stands in the log from the moment it arrives."""

    method: str
    path: str
    """Raw, with the context path."""
    query: str
    """Raw."""
    user: str | None = None
    status: int = 0
    """0 until there is an answer."""
    bytes_sent: int = 0
    """Of the body, handed to the socket so far."""
    range: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the request, lower-case keys."""


class Response(web.StreamResponse):
    """A response whose Content-Length is only a header, so that it may be wrong."""

    _length_check = False


class Bandwidth:
    """One wire that all bodies share: ``rate`` bytes a second in total (0: no limit)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free = 0.0
        self.piece = CHUNK if not rate else max(2048, min(CHUNK, int(rate / 50)))

    async def take(self, size: int) -> None:
        if not self.rate:
            return
        now = asyncio.get_running_loop().time()
        if now - self._free > _LATE:  # the wire was idle: that time is gone, a piece a little late is made up for
            self._free = now
        self._free += size / self.rate
        if self._free > now:
            await asyncio.sleep(self._free - now)


class Wire:
    """Sends the answers of one server."""

    def __init__(self, faults: Faults, bandwidth: Bandwidth) -> None:
        self.faults = faults
        self.bandwidth = bandwidth

    async def send(
        self, request: web.BaseRequest, answer: Answer, rules: list[Rule], record: RequestRecord
    ) -> web.StreamResponse:
        response, length = _head(request, answer, rules)
        record.status = answer.status
        strike = next((rule for rule in rules if rule.action in ("stall", "cut", "reset")), None)
        if strike is not None and strike.action == "reset" and strike.offset(length) == 0:
            await hang_up(request, reset=True)
            return response
        drip = next((rule for rule in rules if rule.action == "drip"), None)
        await response.prepare(request)
        if request.method == "HEAD" or answer.status in (204, 304):
            return response
        body = answer.body
        if isinstance(body, Slice) and body.content.path and not (strike or drip or self.bandwidth.rate):
            await self._sendfile(request, body, record)
        else:
            await self._pieces(request, response, answer, strike, drip, record)
        if isinstance(body, Slice) and body.promised != body.stop - body.start:
            # More was promised than there is: a Restlet says no more and keeps the connection (contract 5.2).
            await self.faults.stalled()
            response.force_close()
        return response

    async def _sendfile(self, request: web.BaseRequest, body: Slice, record: RequestRecord) -> None:
        path, transport = body.content.path, request.transport
        assert path is not None
        if transport is None or body.stop <= body.start:
            return
        loop, offset = asyncio.get_running_loop(), body.start
        with path.open("rb") as file:
            while offset < body.stop:
                size = min(_SENDFILE, body.stop - offset)
                record.bytes_sent += size  # counted first: who has read the body finds it in the log
                await loop.sendfile(transport, file, offset, size)
                offset += size

    async def _pieces(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: Answer,
        strike: Rule | None,
        drip: Rule | None,
        record: RequestRecord,
    ) -> None:
        length = None if isinstance(answer.body, Stream) else body_length(answer)
        limit = strike.offset(length) if strike is not None else None
        async for piece in _pieces_of(answer.body, drip.size if drip is not None else self.bandwidth.piece):
            left = piece
            if limit is not None and strike is not None and record.bytes_sent + len(piece) > limit:
                early = piece[: limit - record.bytes_sent]
                await self._write(response, early, record)
                if strike.action != "stall":
                    await hang_up(request, reset=strike.action == "reset")
                    return
                await self.faults.stalled()
                left, limit = piece[len(early) :], None
            await self._write(response, left, record)
            if drip is not None and await self.faults.released_within(drip.seconds):
                drip = None
        if limit is not None and strike is not None:
            # The body was shorter than that: the fault strikes at its end.
            if strike.action == "stall":
                await self.faults.stalled()
            else:
                await hang_up(request, reset=strike.action == "reset")

    async def _write(self, response: web.StreamResponse, piece: bytes, record: RequestRecord) -> None:
        if piece:
            await self.bandwidth.take(len(piece))
            record.bytes_sent += len(piece)  # first: who has read the body finds it in the log
            await response.write(piece)


def body_length(answer: Answer) -> int:
    body = answer.body
    if isinstance(body, Slice):
        return body.promised
    return len(body) if isinstance(body, bytes) else 0


def _head(request: web.BaseRequest, answer: Answer, rules: list[Rule]) -> tuple[Response, int | None]:
    response = Response(status=answer.status, reason=pages.REASONS.get(answer.status, "Status"))
    for name, value in answer.headers:
        response.headers.add(name, value)
    response.headers.setdefault("Server", "Apache-Coyote/1.1")
    if answer.type:
        response.headers["Content-Type"] = answer.type
    chunked = (answer.chunked or isinstance(answer.body, Stream)) and answer.status not in (204, 304)
    length = None if chunked else body_length(answer)
    wrong = next((rule for rule in rules if rule.action == "length"), None)
    if wrong is not None and not isinstance(answer.body, Stream):
        length = body_length(answer) + wrong.size
        chunked = False
    if chunked:
        if request.version.minor == 0:
            response.force_close()
        elif request.method != "HEAD":
            response.enable_chunked_encoding()
    elif answer.status not in (204, 304):
        response.headers["Content-Length"] = str(length)
    if answer.status in _CLOSING:
        response.force_close()
    return response, length


async def _pieces_of(body: bytes | Slice | Stream, size: int) -> AsyncIterator[bytes]:
    """The body in pieces of at most ``size`` bytes; slow sources are read in a thread."""
    if isinstance(body, bytes):
        for start in range(0, len(body), size):
            yield body[start : start + size]
        return
    if isinstance(body, Stream):
        while piece := await asyncio.to_thread(next, body.pieces, b""):
            for start in range(0, len(piece), size):
                yield piece[start : start + size]
        return
    content, offset = body.content, body.start
    while offset < body.stop:
        wanted = min(size, body.stop - offset)
        if content.ready and content.path is None:
            piece = content.read(offset, wanted)
        else:
            piece = await asyncio.to_thread(content.read, offset, wanted)
        if not piece:
            return
        yield piece
        offset += len(piece)


async def hang_up(request: web.BaseRequest, *, reset: bool = False) -> None:
    """End the connection after what was written has left: in order, or with a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(0.001)
    linger = struct.pack("ii", 1, 0)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
