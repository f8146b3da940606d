"""The mounts of this machine as other processes see them: which there are, and what one says of itself.

A running mount is asked by reading its ``.xnat/status.json``; there is no other channel. Nothing here may hang on a
mount whose process is stopped.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from xnatfs import daemon, fuse_mount
from xnatfs.errors import MountpointError
from xnatfs.status import FORMAT

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds for a mount to say how it is; it needs milliseconds."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; TimeoutError when it takes longer, for a call on a dead disk never ends."""
    outcome: list[Callable[[], T]] = []

    def run() -> None:
        try:
            result = work()
        except BaseException as problem:
            error = problem

            def again() -> T:
                raise error

            outcome.append(again)
        else:
            outcome.append(lambda: result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    return outcome[0]()


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of xnatfs on this machine, as seen without asking it. Facts are empty where they are not known."""

    mountpoint: str
    server: str
    state: str
    """``live``; ``dead``: its process is gone; ``unknown``: of another user, or it does not answer."""
    user: str = ""
    pid: int | None = None
    since: str = ""
    log: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def mounts(patience: float = PATIENCE) -> Iterator[Mount]:
    """All of them, of all users that may be seen. Of those of others, whether they live is asked of the kernel."""
    for entry in fuse_mount.mounts():
        if not entry.ours:
            continue
        facts = daemon.recorded_facts(Path(entry.mountpoint))
        if facts is None:
            left = daemon.left_facts(Path(entry.mountpoint))  # where its log is, which says why it died
            state = _state(entry.mountpoint, patience)
            yield Mount(
                entry.mountpoint, entry.source, state, log=str(left.get("log") or "") if state == "dead" else ""
            )
            continue
        pid = facts.get("pid")
        yield Mount(
            entry.mountpoint,
            str(facts.get("server") or entry.source),
            "live",
            str(facts.get("user") or ""),
            pid if isinstance(pid, int) else None,
            str(facts.get("since") or ""),
            str(facts.get("log") or ""),
        )


def _state(mountpoint: str, patience: float) -> str:
    try:
        return "dead" if within(patience, lambda: fuse_mount.is_dead(mountpoint)) else "unknown"
    except TimeoutError:
        return "unknown"


def find(path: str | None) -> Path:
    """The mountpoint above a path; without one, that of the only mount there is.

    Raises `MountpointError`: there is none, or there are several to choose from.
    """
    points = [entry.mountpoint for entry in fuse_mount.mounts() if entry.ours]
    if path is None:
        if len(points) != 1:
            raise MountpointError(f"which mount? there are: {', '.join(points)}" if points else "nothing is mounted")
        return Path(points[0])
    given = Path(path).expanduser()
    for absolute in (os.path.abspath, os.path.realpath):  # links second: following one may touch a mount that hangs
        place = Path(absolute(given))
        for above in (place, *place.parents):
            if str(above) in points:
                return above
    raise MountpointError(f"{path}: is not below a mount of xnatfs")


def read(mountpoint: Path, name: str = "status.json", patience: float = PATIENCE) -> bytes:
    """What a running mount says of itself. Raises `MountpointError` when it does not."""
    try:
        return within(patience, lambda: (mountpoint / ".xnat" / name).read_bytes())
    except TimeoutError:
        raise MountpointError(
            f"{mountpoint}: does not answer within {patience:g} s; is its process stopped? "
            f"xnatfs umount --lazy {mountpoint} gives it up"
        ) from None
    except OSError as error:
        remedy = f"; xnatfs umount {mountpoint} clears it" if fuse_mount.is_dead(mountpoint) else ""
        raise MountpointError(f"{mountpoint}: says nothing of itself: {error.strerror}{remedy}") from None


def of(mountpoint: Path) -> dict[str, Any]:
    """The status of a running mount. Raises `MountpointError`."""
    try:
        status = json.loads(read(mountpoint))
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("format") != FORMAT:
        raise MountpointError(f"{mountpoint}: was mounted by another version of xnatfs; mount it again")
    return status
