"""What ``xnatfs cache`` does, but for what it prints: the cache directory looked at and cared for without a mount."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xnatfs import app, units
from xnatfs.cache.disk import Disk
from xnatfs.cache.store import Limits, Store
from xnatfs.errors import CacheFault, SettingsError
from xnatfs.settings import Settings, save_setting

if TYPE_CHECKING:
    from xnatfs.cache.store import VerifyReport

_ANY = "any"
"""A namespace for looking at all of them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A cache. Sizes in bytes."""

    directory: str
    bytes: int
    files: int
    limit: int
    min_free: int
    age: float
    """Seconds after which what is not used goes."""
    pinned: int
    pins: int
    """Pinned paths, of all servers and users."""


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The store of the cache directory, for all servers and users. Raises CacheFault when there is none to use."""
    directory = settings.cache_dir.value
    if not directory.is_dir():
        raise CacheFault(f"there is no cache in {directory} yet")
    limits = Limits(settings.cache_size.value, app.min_free(settings), settings.cache_age.value)
    store = Store(directory, limits, namespace=_ANY, sweep_every=None)
    try:
        if store.degraded:
            raise CacheFault(store.degraded)
        yield store
    finally:
        store.close()
        with suppress(OSError):
            Disk(directory, _ANY).home.rmdir()


def show(settings: Settings) -> Shown:
    with opened(settings) as store:
        usage, keys = store.usage(), store.pins.keys()
        return Shown(
            str(store.root),
            usage.bytes,
            usage.entries,
            usage.max_bytes,
            store.limits.min_free_bytes,
            store.limits.max_age_seconds or 0,
            sum(keys.values()),
            store.pins.count(),
        )


def verify(settings: Settings) -> VerifyReport:
    """Read all of it; what is damaged goes, and is fetched again when somebody reads it."""
    with opened(settings) as store:
        return store.verify()


def clear(settings: Settings, *, everything: bool) -> int:
    """Remove what is not in use and, unless ``everything``, not pinned. Returns bytes freed."""
    with opened(settings) as store:
        if everything:
            try:
                store.pins.forget_all()
            except OSError as error:
                raise CacheFault(f"{store.root}: {error.strerror or error}") from error
        return store.clear(pinned=everything)


def limit(settings: Settings, size: int, saved: Path) -> int:
    """From now on the cache may hold so much, by the saved config; what exceeds it goes at once. Bytes that it holds.

    Raises `SettingsError` when more than that is pinned.
    """
    if settings.cache_dir.value.is_dir():
        with opened(settings) as store:
            held = sum(store.pins.keys().values())
            if held > size:
                raise SettingsError(
                    f"{units.size(held)} are pinned, which is more than {units.size(size)}; unpin first"
                )
            store.set_limits(Limits(size, store.limits.min_free_bytes, store.limits.max_age_seconds))
            save_setting(saved, "cache_size", size)
            return store.usage().bytes
    save_setting(saved, "cache_size", size)
    return 0
