"""Whose doing a request is, though another thread makes it: for the access log.

Listings are loaded on worker threads and downloads on others. A load counts for whoever had it started; a download
for whoever, at the moment of the request, has waited longest for that file, or for a file of that resource. What is
fetched ahead of everybody counts for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from xnatfs.stats import Cause, caused_by, current_cause

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
S = TypeVar("S", bound=Callable[..., object])


class Watch:
    """What parts of a mount are wrapped in so that requests are put down to operations; nothing unless ``active``."""

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._waiting = Waiting()

    def source(self, archive: T) -> T:
        """The archive as the transfers shall see it."""
        return cast("T", Source(archive, self._waiting)) if self._active else archive

    def pool(self, pool: T) -> T:
        """The transfers as the file system shall see them."""
        return cast("T", Pool(pool, self._waiting)) if self._active else pool

    def submit(self, submit: S) -> S:
        """``submit`` of an executor, whose work counts for the operation that hands it in."""
        if not self._active:
            return submit

        def for_cause(cause: Cause, work: Callable[..., Any], *arguments: Any) -> None:
            with caused_by(cause):
                work(*arguments)

        def submit_for_cause(work: Callable[..., Any], *arguments: Any) -> object:
            cause = current_cause()
            return submit(work, *arguments) if cause is None else submit(for_cause, cause, work, *arguments)

        return cast("S", submit_for_cause)


class Waiting:
    """Who waits for which file. A file is known by its resource (``base``) and its path there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a leaf
        self._all: dict[object, tuple[str, str, Cause]] = {}  # in the order of their coming

    @contextmanager
    def for_file(self, file: Any) -> Iterator[None]:
        """This thread's operation waits for ``file`` meanwhile."""
        cause, place = current_cause(), object()
        if cause is None:
            yield
            return
        with self._lock:
            self._all[place] = (file.base, file.path, cause)
        try:
            yield
        finally:
            with self._lock:
                del self._all[place]

    def first(self, base: str, path: str | None = None) -> Cause | None:
        """Who has waited longest for a file, or for any file of a resource."""
        with self._lock:
            for its_base, its_path, cause in self._all.values():
                if its_base == base and path in (None, its_path):
                    return cause
        return None


class _Around:
    """Something with a few of its methods replaced."""

    def __init__(self, inner: Any, waiting: Waiting) -> None:
        self._inner = inner
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Source(_Around):
    def open_stream(self, file: Any, *arguments: Any, **options: Any) -> Any:
        with caused_by(self._waiting.first(file.base, file.path)):
            return self._inner.open_stream(file, *arguments, **options)

    def open_zip(self, resource_uri: str, **options: Any) -> Any:
        with caused_by(self._waiting.first(f"{resource_uri}/files/")):
            return self._inner.open_zip(resource_uri, **options)


class Pool(_Around):
    def reader(self, entry: Any, file: Any, *arguments: Any, **options: Any) -> Any:
        return _Reader(self._inner.reader(entry, file, *arguments, **options), self._waiting, file)


class _Reader(_Around):
    def __init__(self, inner: Any, waiting: Waiting, file: Any) -> None:
        super().__init__(inner, waiting)
        self._file = file

    def ensure(self, *arguments: Any, **options: Any) -> Any:
        with self._waiting.for_file(self._file):
            return self._inner.ensure(*arguments, **options)
