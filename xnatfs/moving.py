"""What ``xnatfs get``, ``warm``, ``pin`` and ``unpin`` do, but for what they print."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from xnatfs import units
from xnatfs.cache.pins import Pin, Pins, occupied
from xnatfs.destination import Destination
from xnatfs.errors import CacheFault, NotFound, SettingsError
from xnatfs.getting import Fetch, Item, Outcome, Plan, Target, canonical, plan
from xnatfs.getting import Progress as Moving
from xnatfs.settings import Settings, Sourced
from xnatfs.targets import ToCache, ToDirectory
from xnatfs.transfer.pool import Tuning

if TYPE_CHECKING:
    from xnatfs.app import App

FRESH = 86400.0
"""Seconds for which listings hold here: one run shows one state of the archive."""


class Progress(Moving, Protocol):
    """Who is told how far it is: `xnatfs.progress.Progress`."""

    def planned(self, files: int, size: int) -> None: ...
    def begin(self, files: int, size: int) -> None: ...


def suited(settings: Settings, jobs: int | None) -> Settings:
    """Settings for a run: listings hold until its end, ``jobs`` downloads at a time."""
    changed = replace(settings, ttl=Sourced(FRESH))
    return changed if jobs is None else replace(changed, parallel=Sourced(jobs, "option --jobs"))


def tuning(settings: Settings) -> Tuning:
    """As many archives at a time as downloads: all of each is wanted."""
    return Tuning(archives=settings.parallel.value)


def gather(app: App, paths: Sequence[str], progress: Progress) -> Plan:
    """List what is below some paths, each file once. Raises `NotFound`, `InvalidRequest`."""
    wanted: list[str] = []
    for path in sorted({canonical(app.vfs, path) for path in paths}):
        if not any(path == other or path.startswith(f"{other.rstrip('/')}/") for other in wanted):
            wanted.append(path)
    return plan(app.vfs, wanted, lambda found: progress.planned(found.files, found.bytes))


def _run(app: App, found: Plan, target: Target, progress: Progress) -> Outcome:
    settings = app.settings
    progress.begin(found.files, found.bytes)
    fetch = Fetch(
        app.vfs,
        app.pool,
        target,
        progress,
        jobs=settings.parallel.value,
        seconds=settings.read_timeout.value,
        archives=settings.series.value,
    )
    return fetch.run(found)


# -- get -------------------------------------------------------------------------------------------------------------


class Copy:
    """A copy of some paths to a directory. What is in the cache is taken from there; nothing is put into it.

    The layout is that of the mount, from the project on; with ``bare`` each path stands directly in the directory.
    Raises `SettingsError` for a directory that is none, or has no room, and for two paths that would be one.
    """

    def __init__(self, app: App, paths: Sequence[str], to: Path, progress: Progress, *, bare: bool, cache: bool):
        if to.exists() and not to.is_dir():
            raise SettingsError(f"{to} is not a directory")
        self._app = app
        self._progress = progress
        self.plan = gather(app, paths, progress)
        self._roots = [canonical(app.vfs, path) for path in paths] if bare else []
        names = [root.rpartition("/")[2] for root in self._roots]
        if len(set(names)) < len(names):
            raise SettingsError("two of the paths have one name; without --bare each has a place of its own")
        self._destination = Destination(to)
        self._cache = ToCache(app.store, app.namespace) if cache else None

    def below(self, path: str) -> str:
        """Where a file goes, relative to the directory."""
        for root in self._roots:
            if path == root or path.startswith(f"{root}/"):
                return path[len(root.rpartition("/")[0]) + 1 :]
        return path[1:]

    def missing(self) -> tuple[int, int]:
        """Files and bytes that are not there yet; every file there is compared."""
        files = size = 0
        for item in items(self._app, self.plan):
            if not self._destination.holds(self.below(item.path), item.size, item.node.record.digest):
                files, size = files + 1, size + item.size
        return files, size

    def run(self) -> Outcome:
        needed = sum(item.size for item in items(self._app, self.plan) if self._lacks(item))
        free = self._destination.free()
        if needed > free:
            raise SettingsError(
                f"{self._destination.root} has {units.size(free)} free, and {units.size(needed)} are missing there"
            )
        return _run(self._app, self.plan, ToDirectory(self._destination, self.below, self._cache), self._progress)

    def _lacks(self, item: Item) -> bool:
        return self._destination.size(self.below(item.path)) != item.size


def items(app: App, found: Plan) -> Iterator[Item]:
    """The files of a plan that have a size; the server is asked only for those that are listed without one."""
    for batch in found.batches:
        for path, node in batch.nodes():
            yield Item(path, node, app.vfs.attributes(node).size)


# -- warm and pin ----------------------------------------------------------------------------------------------------


def warm(app: App, paths: Sequence[str], progress: Progress) -> Outcome:
    """Fill the cache with what is below some paths, and keep the listings that lead there.

    Raises CacheFault when it does not fit beside what is pinned.
    """
    with app.archive.noting():
        _lead(app, paths)
        found = gather(app, paths, progress)
        _refuse_if_too_large(app, ", ".join(paths), _keys(app, found), app.store.pins)
    return _run(app, found, ToCache(app.store, app.namespace), progress)


def pin(app: App, paths: Sequence[str], progress: Progress) -> Outcome:
    """Fetch what is below some paths into the cache, to stay there. Raises CacheFault when it does not fit.

    Pinned first and fetched then, so that it is not evicted again meanwhile; what could not be fetched is fetched by
    pinning it again.
    """
    pins, together = app.store.pins, Plan()
    with app.archive.noting() as listings:
        made = []
        for path in _lead(app, paths):
            found = gather(app, [path], progress)
            keys = _keys(app, found)
            made.append((path, keys, found))
            together.extend(found)
    for path, keys, found in made:
        _refuse_if_too_large(app, path, keys, pins, path)
        try:
            pins.add(Pin(path, keys, tuple(sorted(listings)), found.files, found.bytes, time.time()))
        except OSError as error:
            raise CacheFault(f"{path} cannot be pinned: {app.store.root}: {error.strerror or error}") from error
    return _run(app, together, ToCache(app.store, app.namespace), progress)


def unpin(pins: Pins, path: str) -> None:
    """Raises `NotFound` for what is not pinned."""
    if not pins.remove(path):
        others = ", ".join(pin.path for pin in pins.all())
        raise NotFound(f"{path} is not pinned{f'; pinned are: {others}' if others else ', and nothing else is'}")


def _lead(app: App, paths: Sequence[str]) -> list[str]:
    """List every directory above some paths, so that they can be found without the server; the paths, canonical."""
    found = list(dict.fromkeys(canonical(app.vfs, path) for path in paths))
    for above in {str(parent) for path in found for parent in PurePosixPath(path).parents}:
        app.vfs.directory(above)
    return found


def _keys(app: App, found: Plan) -> dict[str, int]:
    cache = ToCache(app.store, app.namespace)
    return {cache.key(item): occupied(item.size) for item in items(app, found) if item.size}


def _refuse_if_too_large(app: App, what: str, keys: dict[str, int], pins: Pins, path: str = "") -> None:
    """``path``: of a pin that would be replaced."""
    limit, needed, mine = app.store.limits.max_bytes, pins.needed(keys, path), sum(keys.values())
    if needed > limit:
        rest = f" beside the {units.size(needed - mine)} that are pinned" if needed > mine else ""
        raise CacheFault(
            f"{what}: {units.size(mine)} do not fit into a cache of {units.size(limit)}{rest}; "
            "--cache-size, or 'xnatfs cache limit', raises that"
        )


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin, and how much of it is there."""

    pin: Pin
    files: int
    """Entries that are in the cache."""


def pinned(cache_dir: Path, namespace: str) -> list[Pinned]:
    """What is pinned of one server and user. Nothing is sent."""
    pins = Pins(cache_dir, namespace)
    return [Pinned(pin, sum(pins.entry(key).exists() for key in pin.keys)) for pin in pins.all()]
