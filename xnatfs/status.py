"""What a running mount knows of itself: the document behind ``.xnat/status.json``.

The keys are a promise: they stay, others may come; ``docs/monitoring.md`` describes each. Nothing here asks the server
or waits for anybody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnatfs import __version__, logs

if TYPE_CHECKING:
    from xnatfs.cache.store import Store
    from xnatfs.settings import Settings
    from xnatfs.stats import Stats
    from xnatfs.transfer.pool import Pool
    from xnatfs.xnat.client import Client

FORMAT = 1
"""Of the document; raised when a key changes its meaning."""
_LAYERS = ("attributes", "listings", "data")
_GROUPS = ("requests", "operations", "errors")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a status is made from."""

    settings: Settings
    user: str
    stats: Stats
    client: Client
    store: Store
    pool: Pool
    started: float
    """Seconds since the epoch."""
    mountpoint: str | None


def document(parts: Parts, now: float | None = None) -> dict[str, Any]:
    """The status as JSON can hold it. Sizes in bytes, times in seconds; no secret."""
    counters = parts.stats.snapshot()
    connection, usage = parts.client.connection, parts.store.usage()
    away = connection.away is not None
    return {
        "format": FORMAT,
        "version": __version__,
        "server": parts.settings.server.value,
        "user": parts.user,
        "mountpoint": parts.mountpoint,
        "pid": os.getpid(),
        "since": datetime.fromtimestamp(parts.started, timezone.utc).isoformat(timespec="seconds"),
        "uptime": round((time.time() if now is None else now) - parts.started, 3),
        "connection": {
            "state": "away" if away else "refused" if connection.reason else "ok",
            "away": _rounded(connection.away),
            "reason": connection.reason or None,
            "session_age": _rounded(connection.session_age),
        },
        **{group: _group(counters, group) for group in _GROUPS},
        "bytes": {"received": counters.get("bytes.received", 0), "read": counters.get("bytes.read", 0)},
        "hits": {layer: _rate(counters, layer) for layer in _LAYERS},
        "cache": {
            "directory": str(parts.store.root),
            "bytes": usage.bytes,
            "files": usage.entries,
            "limit": usage.max_bytes,
            "degraded": parts.store.degraded,
        },
        "transfers": [asdict(running) for running in parts.pool.status()],
        "process": process_facts(),
        "log_level": logs.level(),
        "options": {name: value for name, value, _ in parts.settings.shown() if name not in ("server", "user")},
        "counters": counters,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _group(counters: Mapping[str, int], group: str) -> dict[str, int]:
    return {name.partition(".")[2]: count for name, count in counters.items() if name.startswith(f"{group}.")}


def _rate(counters: Mapping[str, int], layer: str) -> dict[str, Any]:
    """``rate`` is None where nobody has asked yet. Of listings, a miss is a load."""
    hits = counters.get(f"{layer}.hits", 0)
    misses = counters.get(f"{layer}.misses", counters.get(f"{layer}.loads", 0))
    return {"hits": hits, "misses": misses, "rate": round(hits / (hits + misses), 4) if hits + misses else None}


def process_facts(pid: int | str = "self") -> dict[str, int]:
    """``memory`` (bytes of it in RAM), ``threads``, ``descriptors`` (open ones); those that /proc shows."""
    facts = {}
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        facts["memory"] = pages * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):
        facts["threads"] = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    with suppress(OSError):
        facts["descriptors"] = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return facts
