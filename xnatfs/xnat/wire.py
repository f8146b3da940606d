"""How long to wait for an answer's next bytes, and how to stop waiting from another thread.

A time-out of ``requests`` is one per received piece, so that a server which drips a byte now and then is waited for
for ever. Here each piece is waited for no longer than the deadline of the whole operation still allows, beginning with
the first byte of the status line, and another thread can abort the waiting at any moment. Bytes that come, but slower
than `SLOWEST`, count as none; only time spent waiting for the server counts, so that a slow reader does no harm.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from typing import Any

from xnatfs.deadlines import Clock, Deadline

CHUNK = 64 * 1024
SLOWEST = 1024
"""Bytes per second; an answer that comes more slowly than this for a whole time-out is given up."""


class Wire:
    """One exchange as seen from its socket: how long to wait for the next bytes, and how to stop waiting."""

    def __init__(self, piece: float, deadline: Deadline | None, clock: Clock = time.monotonic) -> None:
        self._lock = threading.Lock()
        self.clock = clock
        self._waited = 0.0
        self._received = 0
        self._socket: Any = None
        self._response: PacedResponse | None = None
        self.piece = piece
        self.deadline = deadline
        self.aborted = False

    def limit(self) -> float:
        """Seconds that the next bytes may take."""
        if self.aborted:
            raise ConnectionAbortedError("aborted")
        if self.deadline is None:
            return self.piece
        remaining = self.deadline.remaining()
        if remaining <= 0.0:
            raise TimeoutError("deadline")
        return min(self.piece, remaining)

    def came(self, count: int, seconds: float) -> None:
        """Note that ``count`` bytes came after ``seconds`` of waiting. Raises TimeoutError when that is too slow."""
        self._waited += seconds
        self._received += count
        if self._waited < self.piece:
            return
        if count and self._received < SLOWEST * self._waited:
            raise TimeoutError("slow")
        self._waited = self._received = 0

    @property
    def direct(self) -> PacedResponse | None:
        """The response, if its body can be received without a copy: of stated length, or in chunks."""
        response = self._response
        if response is None or response.fp is None:
            return None
        return response if response.chunked or response.length is not None else None

    def attach(self, sock: Any, response: PacedResponse) -> None:
        with self._lock:
            self._socket = sock
            self._response = response
            aborted = self.aborted
        if aborted:
            self.abort()

    def abort(self) -> None:
        """End the exchange from any thread; a blocked receive returns at once."""
        with self._lock:
            self.aborted = True
            sock = self._socket
        if sock is None:
            return
        try:
            if isinstance(sock, socket.socket):
                # not SSLSocket.shutdown, which would make a concurrent read return ciphertext as if it were content
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            else:
                sock.close()
        except OSError:  # already gone
            return


current = threading.local()  # the wire of the request that this thread is sending


class _PacedReader(io.RawIOBase):
    """What arrives on a socket, each piece waited for as long as its `Wire` allows."""

    def __init__(self, sock: Any, wire: Wire) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._wire.limit())
        began = self._wire.clock()
        count: int | None = self._raw.readinto(buffer)
        self._wire.came(count or 0, self._wire.clock() - began)
        if count == 0 and self._wire.aborted:
            raise ConnectionAbortedError("aborted")
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class PacedResponse(http.client.HTTPResponse):
    """A response whose every piece is waited for as its request's `Wire` says."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        wire: Wire | None = getattr(current, "wire", None)
        if wire is not None:
            wire.attach(sock, self)
            self.fp.close()
            self.fp = io.BufferedReader(_PacedReader(sock, wire), CHUNK)

    def receive(self, buffer: memoryview) -> int:
        """Some bytes of the body straight into ``buffer``, 0 at its end. Only for a response that is `Wire.direct`.

        Of a body in chunks, as much as is asked for, up to `CHUNK`: Tomcat's chunks have 8 KiB, and handing up each by
        itself would cost more than receiving it.
        """
        if self.chunked:
            return self.readinto(buffer[:CHUNK])
        assert self.length is not None
        count: int = self.fp.readinto1(buffer[: self.length])
        self.length -= count
        return count
