"""A status as text for Prometheus: what stands in ``.xnat/metrics``. Pure.

The text format 0.0.4, by hand: a library for it would bring registries, servers and locks for thirty lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Sample = tuple[Mapping[str, str], float | None]


def exposition(status: Mapping[str, Any]) -> str:
    """The metrics of a status document, complete or not: what is missing there is missing here."""
    return "".join(_families(status))


def _families(status: Mapping[str, Any]) -> Iterator[str]:
    def get(*path: str) -> Any:
        place: Any = status
        for step in path:
            place = place.get(step, {}) if isinstance(place, Mapping) else {}
        return None if place == {} else place

    def labelled(label: str, *path: str) -> list[Sample]:
        return [({label: str(name)}, count) for name, count in (get(*path) or {}).items()]

    who = {name: str(get(name) or "") for name in ("version", "server")}
    state = get("connection", "state")
    up = None if state is None else state != "away"
    transfers = get("transfers") or []
    layers = get("hits") or {}
    requests = {name: count for name, count in (get("requests") or {}).items() if name in _METHODS}
    events = {name: count for name, count in (get("requests") or {}).items() if name not in (*_METHODS, "total")}
    for name, kind, text, samples in (
        ("info", "gauge", "The mount.", [(who, 1)]),
        ("server_up", "gauge", "1 unless the server is taken to be away.", _one(up)),
        ("uptime_seconds", "gauge", "Time since the mount began.", _one(get("uptime"))),
        ("session_age_seconds", "gauge", "Age of the session on the server.", _one(get("connection", "session_age"))),
        ("requests_total", "counter", "Requests to the server.", _each("method", requests)),
        ("request_events_total", "counter", "Logins, retries and outages.", _each("event", events)),
        ("received_bytes_total", "counter", "Bytes from the server.", _one(get("bytes", "received"))),
        ("read_bytes_total", "counter", "Bytes handed to the kernel.", _one(get("bytes", "read"))),
        ("operations_total", "counter", "Operations that the kernel asked for.", labelled("operation", "operations")),
        ("errors_total", "counter", "Operations that ended with an error.", labelled("errno", "errors")),
        ("hits_total", "counter", "Answered from memory or disk.", _each("layer", _pick(layers, "hits"))),
        ("misses_total", "counter", "Not answered from there.", _each("layer", _pick(layers, "misses"))),
        ("cache_bytes", "gauge", "What the cache of files occupies.", _one(get("cache", "bytes"))),
        ("cache_limit_bytes", "gauge", "What it may occupy.", _one(get("cache", "limit"))),
        ("cache_files", "gauge", "Files in it.", _one(get("cache", "files"))),
        ("transfers", "gauge", "Downloads under way.", _one(len(transfers) if "transfers" in status else None)),
        ("resident_memory_bytes", "gauge", "Memory of the process.", _one(get("process", "memory"))),
        ("threads", "gauge", "Threads of the process.", _one(get("process", "threads"))),
        ("open_descriptors", "gauge", "Descriptors of the process.", _one(get("process", "descriptors"))),
    ):
        yield from _family(f"xnatfs_{name}", kind, text, samples)


_METHODS = ("get", "head", "post", "put", "delete")


def _one(value: float | None) -> list[Sample]:
    return [({}, value)]


def _each(label: str, counts: Mapping[str, float]) -> list[Sample]:
    return [({label: name}, count) for name, count in counts.items()]


def _pick(layers: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, float]:
    return {layer: counts[what] for layer, counts in layers.items()}


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    lines = [f"{name}{_labels(labels)} {value + 0!r}\n" for labels, value in samples if value is not None]
    if lines:
        yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        yield from lines


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
