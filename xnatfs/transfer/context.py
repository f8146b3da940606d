"""What the parts of one pool share: its lock, its workers, its source, and its measures."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xnatfs.deadlines import Clock
from xnatfs.errors import XnatfsError
from xnatfs.stats import Stats
from xnatfs.transfer.protocols import Source
from xnatfs.transfer.readahead import FIRST, MAXIMUM
from xnatfs.transfer.storing import Storing
from xnatfs.transfer.workers import Workers

if TYPE_CHECKING:
    from xnatfs.transfer.feed import Feed
    from xnatfs.transfer.stream import Stream


@dataclass(frozen=True, slots=True)
class Tuning:
    """Measures of a pool. Bytes and seconds."""

    first: int = FIRST
    """A first read fetches so much."""
    ahead: int = MAXIMUM
    """A stream runs ahead of its readers by at most so much."""
    join: int = 4 * 1024 * 1024
    """A reader so far ahead of a running stream waits for it; more when the stream does it in half a second."""
    remainder: int = 256 * 1024
    """A stream that nobody reads any more may finish when no more than this is left."""
    grace: float = 5.0
    """From the last close of a file to the end of its streams."""
    idle: float = 10.0
    """A stream that nobody reads on keeps its connection so long."""
    opening: float = 60.0
    """For an answer to begin, when no reader with a deadline waits for it."""
    retries: int = 2
    """Attempts more, when a stream breaks without having brought a block; a broken stream that had is resumed."""
    breaks: int = 8
    """Times that a stream that had brought something is resumed for one reader."""
    backoff: float = 0.2
    """Full jitter up to this, doubled with each attempt."""
    archives: int = 2
    """Archives at a time."""
    forget: float = 600.0
    """A resource whose archives failed is left alone so long."""


@dataclass(eq=False, slots=True)
class Context:
    """Everything here but what is said to be guarded is set once. ``lock`` is the pool's only lock."""

    source: Source
    workers: Workers
    lock: threading.Lock
    clock: Clock
    stats: Stats
    tuning: Tuning
    random: random.Random
    storing: Storing
    feeds: dict[int, Feed] = field(default_factory=dict)
    """By the identity of the entry, which each feed keeps alive. Lock."""
    parked: OrderedDict[Stream, None] = field(default_factory=OrderedDict)
    """Open connections on which nothing moves, the oldest first. Lock."""
    max_parked: int = 16
    latency: float = 0.1
    """Typical seconds from a request to its first block; written by any stream, exactness does not matter."""
    closed: bool = False
    """Lock."""

    def measured(self, seconds: float) -> None:
        """Note how long a first block took."""
        self.latency += 0.3 * (seconds - self.latency)

    def jitter(self, attempt: int) -> float:
        """Seconds to wait before attempt number ``attempt`` (from 1): full jitter, at most 5 s."""
        return self.random.uniform(0.0, min(5.0, self.tuning.backoff * 2.0 ** (attempt - 1)))


def again(error: BaseException) -> XnatfsError:
    """The same error as an object of its own: each of those who wait raises its own, with its own traceback."""
    if isinstance(error, XnatfsError):
        try:
            return type(error)(*error.args)
        except TypeError:
            return XnatfsError(str(error))
    return XnatfsError(f"{type(error).__name__} in a transfer: {error}")


Abort = Callable[[], None]
"""What has to be called once the lock is free: closes a connection."""
