"""``xnatfs top``: what a mount is doing, from two of its statuses and the time between them.

`frame` is pure; `watch` looks again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from xnatfs.console import printable
from xnatfs.units import duration, share, size

Status = Mapping[str, Any]
BUSIEST = 8
"""Operations shown."""
SHOWN = 12
"""Transfers shown; how many more there are is said."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown. Rates per second over the interval; ``hits`` by layer, over the interval where there were any."""

    status: Status
    requests: float
    received: float
    """Bytes per second from the server."""
    read: float
    """Bytes per second to the kernel."""
    operations: list[tuple[str, float, int]]
    """Name, per second, in all; the busiest first."""
    errors: list[tuple[str, float, int]]
    hits: dict[str, tuple[float | None, float | None]]
    """Layer -> rate over the interval, and since the mount began."""


def frame(before: Status, after: Status) -> Frame:
    """What happened between two statuses of one mount."""
    seconds: float = max(1e-3, after["uptime"] - before["uptime"])

    def count(status: Status, *path: str) -> float:
        place: Any = status
        for step in path:
            place = place.get(step, 0)
        return float(place)

    def rate(*path: str) -> float:
        return max(0.0, (count(after, *path) - count(before, *path)) / seconds)

    def busiest(group: str) -> list[tuple[str, float, int]]:
        rows = [(name, rate(group, name), total) for name, total in after[group].items()]
        return sorted(rows, key=lambda row: (-row[1], -row[2], row[0]))

    hits = {}
    for layer, now in after["hits"].items():
        gained = rate("hits", layer, "hits"), rate("hits", layer, "misses")
        hits[layer] = (gained[0] / sum(gained) if sum(gained) else None, now["rate"])
    return Frame(
        after,
        rate("requests", "total"),
        rate("bytes", "received"),
        rate("bytes", "read"),
        busiest("operations"),
        busiest("errors"),
        hits,
    )


def watch(ask: Callable[[], Status], interval: float, once: bool, pause: Callable[[float], None] = time.sleep) -> None:
    """Show frames until it is interrupted; with ``once`` a single one. Raises what ``ask`` raises."""
    console = Console(highlight=False)
    frames = _frames(ask, interval, pause)
    if once:
        console.print(picture(next(frames)))
        return
    with Live(console=console, screen=console.is_terminal, auto_refresh=False, transient=True) as live:
        for one in frames:
            live.update(picture(one), refresh=True)


def _frames(ask: Callable[[], Status], interval: float, pause: Callable[[float], None]) -> Iterator[Frame]:
    before = ask()
    while True:
        pause(interval)
        after = ask()
        yield frame(before, after)
        before = after


# -- how it looks ----------------------------------------------------------------------------------------------------


def picture(one: Frame) -> Group:
    return Group(_head(one), Text(), _middle(one), Text(), _transfers(one.status["transfers"]))


def _head(one: Frame) -> Group:
    status, connection, process = one.status, one.status["connection"], one.status["process"]
    name = Text.assemble(
        (printable(status["mountpoint"] or "-"), "bold"),
        f"  {printable(str(status['server']))} as {printable(status['user'])}, up {duration(status['uptime'])}",
    )
    state = {"ok": Text("server ok", "green")}.get(
        connection["state"], Text(f"server {connection['state']}", "bold red")
    )
    if connection["away"] is not None:
        state.append(f" for {duration(connection['away'])}")
    if connection["reason"]:
        state.append(f": {printable(connection['reason'])}")
    if connection["session_age"] is not None:
        state.append(f", session {duration(connection['session_age'])}", "default")
    state.append(
        f", {size(process.get('memory', 0))} memory, {process.get('threads', 0)} threads, "
        f"{process.get('descriptors', 0)} descriptors",
        "default",
    )
    cache = status["cache"]
    kept = Text(f"cache {size(cache['bytes'])} of {size(cache['limit'])}, {cache['files']} files")
    if cache["degraded"]:
        kept.append(f"; {printable(cache['degraded'])}", "bold yellow")
    rates = Text(
        f"{one.requests:.1f} requests/s, {size(one.received)}/s from the server, {size(one.read)}/s to programs"
    )
    return Group(name, state, kept, rates)


def _middle(one: Frame) -> Table:
    both = Table.grid(padding=(0, 4))
    both.add_row(
        _counted("operation", one.operations[:BUSIEST]),
        _hits(one.hits),
        *([_counted("error", one.errors[:BUSIEST])] if one.errors else []),
    )
    return both


def _table(*head: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for number, title in enumerate(head):
        table.add_column(title, justify="right" if number else "left")
    return table


def _counted(title: str, rows: list[tuple[str, float, int]]) -> Table:
    table = _table(title, "per s", "in all")
    for name, per_second, count in rows:
        table.add_row(name, f"{per_second:.1f}", str(count), style="" if per_second else "dim")
    return table


def _hits(hits: Mapping[str, tuple[float | None, float | None]]) -> Table:
    table = _table("answered here", "now", "in all")
    for layer, (now, ever) in hits.items():
        table.add_row(layer, share(now), share(ever))
    return table


def _transfers(transfers: list[Mapping[str, Any]]) -> Table | Text:
    if not transfers:
        return Text("no transfers", "dim")
    table = _table("transfer", "state", "moved", "", "rate", "readers")
    for one in transfers[:SHOWN]:
        whole = one.get("size")
        table.add_row(
            printable(one["name"]),
            one["state"],
            size(one["bytes"]) + (f" of {size(whole)}" if whole else ""),
            ProgressBar(whole, min(one["bytes"], whole), width=20) if whole else "",
            f"{size(one['rate'])}/s",
            str(one["readers"]),
        )
    if len(transfers) > SHOWN:
        table.add_row(f"and {len(transfers) - SHOWN} more")
    return table
