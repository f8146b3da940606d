"""Sizes, rates and times for a person."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in powers of 1024: ``17 B``, ``1.5 MiB``, ``120 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """The two largest units: ``45 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    left = int(seconds)
    parts: list[str] = []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, left = divmod(left, length)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


def share(rate: float | None) -> str:
    """A part of one: ``97 %``; ``-`` where there is none."""
    return "-" if rate is None else f"{rate:.0%}".replace("%", " %")
