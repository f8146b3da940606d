"""Listings in memory: a time to live counted from the end of the answer, one request for all who want the same thing.

The loader runs on a worker thread, and whoever wants its answer waits with a deadline of his own: a server that never
answers holds no caller longer than that, and an answer that comes late serves the next one. "There is no such thing"
is kept as well, for a shorter time; every other error is raised to those who waited and forgotten.

Lock: one, a leaf; never held while loading or waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sized
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cachetools

from xnatfs.deadlines import AFTERMATH, Clock, Deadline
from xnatfs.errors import NotFound, TimedOut, Unreachable
from xnatfs.stats import Stats

T = TypeVar("T")
R = TypeVar("R")


class Key(NamedTuple):
    """What a listing is of. The scope says what a refresh of a project or an experiment has to forget."""

    kind: str
    project: str = ""
    experiment: str = ""
    uri: str = ""


class Listing(Generic[T]):
    """One answer and until when it holds."""

    __slots__ = ("_derived", "_value", "error", "expires", "weight")

    def __init__(self, value: T | None, error: NotFound | None, expires: float, weight: int) -> None:
        self._value = value
        self.error = error
        self.expires = expires
        self.weight = weight
        self._derived: dict[Hashable, Any] = {}

    @property
    def value(self) -> T:
        """The answer. Raises the kept `NotFound`."""
        if self.error is not None:
            raise NotFound(*self.error.args)
        return self._value  # type: ignore[return-value]

    def derive(self, make: Callable[[T], R]) -> R:
        """``make(value)``, computed once per listing; two threads may both compute it, and get equal results."""
        if make not in self._derived:
            self._derived[make] = make(self.value)
        result: R = self._derived[make]
        return result


class Submit(Protocol):
    """``Executor.submit``: run something on a worker thread. What it returns is not looked at."""

    def __call__(self, fn: Callable[..., None], /, *args: Any) -> object: ...


Load = Callable[[Deadline], T]
"""What fetches a listing within a deadline."""


def weigh(value: object) -> int:
    """Rows of an answer; what the limit counts."""
    if isinstance(value, Mapping):
        return 1 + sum(len(part) if isinstance(part, Sized) else 1 for part in value.values())
    return 1 + (len(value) if isinstance(value, Sized) and not isinstance(value, (str, bytes)) else 0)


class _Flight:
    """A load under way."""

    __slots__ = ("began", "future", "key")

    def __init__(self, key: Key, began: float) -> None:
        self.key = key
        self.began = began
        self.future: Future[Listing[Any]] = Future()


class Pending(Generic[T]):
    """A listing that is there already or on its way; asking for several before waiting fetches them side by side."""

    def __init__(
        self,
        key: Key,
        listing: Listing[T] | None,
        future: Future[Listing[T]] | None,
        in_vain: Callable[[Deadline], None] = lambda _deadline: None,
    ) -> None:
        self._key = key
        self._listing = listing
        self._future = future
        self._in_vain = in_vain

    def wait(self, deadline: Deadline) -> Listing[T]:
        """The listing. Raises `TimedOut`, or whatever the loader raised."""
        if self._listing is None:
            assert self._future is not None
            try:
                self._listing = self._future.result(timeout=deadline.remaining())
            except FutureTimeout:
                if self._future.done():  # the loader's own TimeoutError
                    raise
                self._in_vain(deadline)
                raise TimedOut(f"{_what(self._key)}: no answer within {deadline.seconds:g} s") from None
        return self._listing


def _what(key: Key) -> str:
    return f"listing {key.kind} {key.uri or key.experiment or key.project}"


class Listings:
    """See the module. ``max_rows`` bounds the memory: the least recently used answers go first, whole."""

    def __init__(
        self,
        submit: Submit,
        *,
        clock: Clock,
        stats: Stats,
        ttl: float = 60.0,
        absent_ttl: float = 5.0,
        load_seconds: float = 120.0,
        max_rows: int = 2_500_000,
    ) -> None:
        self._submit = submit
        self._clock = clock
        self._stats = stats
        self.ttl = ttl
        self._absent_ttl = min(absent_ttl, ttl)
        self._load_seconds = load_seconds
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._running: dict[Key, _Flight] = {}
        self._late: dict[Key, float] = {}
        """When somebody has waited in vain for a listing, a moment ago."""
        self.forgotten = 0
        """How many times `forget` was called."""
        self._kept: cachetools.TLRUCache[Key, Listing[Any]] = cachetools.TLRUCache(
            max_rows,
            ttu=lambda _key, listing, _now: listing.expires,
            timer=clock,
            getsizeof=lambda listing: listing.weight,
        )

    def peek(self, key: Key) -> Listing[Any] | None:
        """What is there and still holds; never loads."""
        with self._lock:
            return self._kept.get(key)

    def request(self, key: Key, load: Load[T]) -> Pending[T]:
        """Start loading unless it is there or under way."""
        with self._lock:
            listing = self._kept.get(key)
            if listing is not None:
                self._stats.add("listings.hits")
                return Pending(key, listing, None)
            now = self._clock()
            if now < self._late.get(key, float("-inf")) + AFTERMATH:
                late: Future[Listing[T]] = Future()
                late.set_exception(TimedOut(f"{_what(key)}: no answer to somebody who has waited for it until now"))
                return Pending(key, None, late)
            flight = self._running.get(key)
            if flight is not None:
                return self._pending(flight)
            flight = self._running[key] = _Flight(key, now)
        self._stats.add("listings.loads")
        try:
            self._submit(self._fly, flight, load)
        except BaseException as error:  # no worker takes it, as after close: those who wait must hear of it
            self._land(flight, None)
            flight.future.set_exception(error)
        return self._pending(flight)

    def _pending(self, flight: _Flight) -> Pending[Any]:
        def in_vain(deadline: Deadline) -> None:
            if self._clock() - flight.began >= deadline.seconds:  # it has had all the time of a call
                self._note_late(flight)

        return Pending(flight.key, None, flight.future, in_vain)

    def _note_late(self, flight: _Flight) -> None:
        with self._lock:
            now = self._clock()
            if self._running.get(flight.key) is flight:
                self._late = {key: when for key, when in self._late.items() if now < when + AFTERMATH}
                self._late[flight.key] = now

    def get(self, key: Key, load: Load[T], deadline: Deadline) -> Listing[T]:
        """The listing, loaded if need be. Raises `TimedOut`, or whatever the loader raised."""
        return self.request(key, load).wait(deadline)

    def put(self, key: Key, value: Any, *, since: int | None = None, expires: float | None = None) -> None:
        """Keep an answer that came with another one.

        Args:
            since: `forgotten` when that one was asked for; nothing is kept if something was forgotten meanwhile.
            expires: when that one expires, unless it has come just now.
        """
        until = self._clock() + self.ttl if expires is None else expires
        listing: Listing[Any] = Listing(value, None, until, weigh(value))
        with self._lock:
            if since is None or since == self.forgotten:
                self._keep(key, listing)

    def forget(self, which: Callable[[Key], bool]) -> None:
        """Drop answers; loads under way will serve those who wait for them and nobody later."""
        with self._lock:
            self.forgotten += 1
            self._late.clear()
            for key in [key for key in self._kept if which(key)]:
                del self._kept[key]
            for key in [key for key in self._running if which(key)]:
                del self._running[key]

    def close(self) -> None:
        """Fail those who wait; what is still loading will be of no use to anybody."""
        with self._lock:
            flights = list(self._running.values())
            self._running.clear()
            self._kept.clear()
        for flight in flights:
            with suppress(InvalidStateError):
                flight.future.set_exception(Unreachable("the mount is ending"))

    def rows(self) -> int:
        """Rows held now."""
        with self._lock:
            return int(self._kept.currsize)

    def _keep(self, key: Key, listing: Listing[Any]) -> None:
        if listing.weight <= self._max_rows:
            self._kept[key] = listing

    def _fly(self, flight: _Flight, load: Load[Any]) -> None:
        try:
            listing = self._load(load)
        except BaseException as error:
            if isinstance(error, TimedOut):
                self._note_late(flight)
            self._land(flight, None)
            with suppress(InvalidStateError):  # closed meanwhile
                flight.future.set_exception(error)
        else:
            self._land(flight, listing)
            with suppress(InvalidStateError):
                flight.future.set_result(listing)

    def _load(self, load: Load[Any]) -> Listing[Any]:
        try:
            value = load(Deadline(self._load_seconds, self._clock))
        except NotFound as error:
            return Listing(None, error, self._clock() + self._absent_ttl, 1)
        return Listing(value, None, self._clock() + self.ttl, weigh(value))

    def _land(self, flight: _Flight, listing: Listing[Any] | None) -> None:
        with self._lock:
            if self._running.get(flight.key) is flight:
                del self._running[flight.key]
                if listing is not None:
                    self._keep(flight.key, listing)
