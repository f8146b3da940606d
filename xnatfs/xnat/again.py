"""Trying again: what is worth it, when, and how often.

GET and HEAD only, after a broken connection, a time-out with time left, a document that ends early, and the statuses
with which servers and proxies say "not now" (429, 502, 503, 504). Nothing else: XNAT's 500 is deterministic (a poisoned
catalog, a path its firewall refuses, contract 3.7 and 7.4), and 4xx stay what they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from xnatfs.deadlines import Deadline
from xnatfs.errors import AccessDenied, NotFound, ServerFault, TimedOut, Unreachable, XnatfsError
from xnatfs.stats import Stats
from xnatfs.xnat.login import redirected
from xnatfs.xnat.session import Answer, IncompleteError, hopeless

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
SILENT_ATTEMPTS = 2
"""Of those that a server leaves without an answer: each costs a whole time-out, and holds a thread so long."""
BUSY = frozenset({429, 502, 503, 504})
BASE_DELAY, MAX_DELAY = 0.2, 5.0
PATIENCE = 10.0
"""Seconds; a server that asks for a longer pause is believed, and whoever waits is told at once."""


class Retry:
    """Up to `ATTEMPTS` attempts: exponential pauses with full jitter, Retry-After honoured, all within the deadline."""

    def __init__(self, sleep: Callable[[float], None], random: Callable[[], float], stats: Stats) -> None:
        self._sleep = sleep
        self._random = random
        self._stats = stats

    def __call__(self, attempt: Callable[[], T], what: str, deadline: Deadline, *, only_busy: bool = False) -> T:
        """The result of ``attempt``, or its last error.

        Args:
            only_busy: only what the server turned away itself is tried again, nothing that it may have acted on.
        """
        error: XnatfsError
        for number in range(ATTEMPTS):
            asked = 0.0
            try:
                return attempt()
            except BusyError as busy:
                error, asked = busy.error, busy.retry_after or 0.0
            except FinalError as final:
                raise final.error from None
            except (Unreachable, TimedOut, ServerFault) as failed:
                if only_busy or not _worth_it(failed):
                    raise
                error = failed
            if isinstance(error, TimedOut) and number >= SILENT_ATTEMPTS - 1:
                raise error
            pause = max(self._random() * min(MAX_DELAY, BASE_DELAY * 2**number), asked)
            if number == ATTEMPTS - 1 or pause >= deadline.remaining() or pause > PATIENCE:
                raise error
            self._stats.add("requests.retries")
            log.debug("%s: again in %.2f s: %s", what, pause, error)
            self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _worth_it(error: XnatfsError) -> bool:
    if isinstance(error, ServerFault):
        return isinstance(error.__cause__, IncompleteError)
    return not hopeless(error)


class FinalError(Exception):
    """An error of a kind that is tried again, in a case where that cannot help."""

    def __init__(self, error: XnatfsError) -> None:
        super().__init__(str(error))
        self.error = error


class BusyError(Exception):
    """The server says: not now."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.retry_after = _retry_after(answer)
        self.error = ServerFault(
            f"{answer.what} at {answer.host}: the server is busy or restarting (status {answer.status}), try later"
        )


def _retry_after(answer: Answer) -> float | None:
    """Seconds that the server asks to wait: a number, or a date against the server's own Date."""
    seconds, until = answer.number("Retry-After"), answer.date("Retry-After")
    if seconds is None and until is not None:
        return max(0.0, until - (answer.date("Date") or time.time()))
    return seconds


def check_status(answer: Answer) -> None:
    """Raise what the status means, unless it is 200 or 206."""
    where = f"{answer.what} at {answer.host}"
    status = answer.status
    if status in (200, 206):
        return
    if status in BUSY:
        raise BusyError(answer)
    if status == 404:
        raise NotFound(f"{where}: not found")
    if status == 403:
        raise AccessDenied(f"{where}: this account may not read it")
    if 300 <= status < 400:
        raise FinalError(Unreachable(redirected(answer, "https://" + answer.host)))
    raise ServerFault(f"{where}: the server answered with status {status}")
