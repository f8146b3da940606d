"""What a PATH on the command line means: a place of the archive, or one below a mount, as the shell sees it.

A path that lies below a mount of xnatfs means that place of that mount's archive, wherever the shell stands; any other
is a path of the archive itself. So ``STUDY/sub-001``, ``/mnt/xnat/STUDY/sub-001`` and, in ``/mnt/xnat/STUDY``,
``sub-001`` are the same. A mount is asked only where its layout is another one: which place that is, it alone knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnatfs import daemon, fuse_mount, mounted
from xnatfs.errors import MountpointError, NotFound, SettingsError
from xnatfs.layouts import PLAIN
from xnatfs.layouts.view import PATH


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one archive, and which one if they were given below a mount."""

    paths: tuple[str, ...]
    """``/PROJECT/...``"""
    mount: str = ""
    server: str = ""
    user: str = ""
    """Empty for a guest, and where it is not known."""
    cache_dir: str = ""


def resolve(given: Iterable[str]) -> Places:
    """Raises `SettingsError` for paths of several mounts, or of a mount and of the archive.

    Below a mount of another layout also `NotFound`, and `MountpointError` when the mount does not answer.
    """
    points = {entry.mountpoint: entry.source for entry in fuse_mount.mounts() if entry.ours}
    mounts, paths = set(), []
    for path in given:
        mount, below = _split(path, points)
        mounts.add(mount)
        paths.append("/" + "/".join(part for part in below.split("/") if part not in ("", ".")))
    if len(mounts) > 1:
        raise SettingsError("the paths are not of one archive; give those of each by themselves")
    mount = mounts.pop() if mounts else ""
    if not mount:
        return Places(tuple(paths))
    facts: dict[str, Any] = daemon.recorded_facts(Path(mount)) or {}
    if facts.get("layout", PLAIN) != PLAIN:
        paths = [_asked(f"{mount}{path}") for path in paths]
    user = str(facts.get("user") or "")
    return Places(
        tuple(paths),
        mount,
        str(facts.get("server") or points[mount]),
        "" if user == "guest" else user,
        str(facts.get("cache_dir") or ""),
    )


def _asked(place: str) -> str:
    """The path in the archive of a place in a mount with a layout of its own."""
    try:
        path = mounted.within(mounted.PATIENCE, lambda: os.getxattr(place, PATH))
    except TimeoutError:
        raise MountpointError(f"{place}: no answer within {mounted.PATIENCE:g} s") from None
    except FileNotFoundError:
        raise NotFound(f"{place}: no such file or directory") from None
    except OSError as error:
        raise MountpointError(f"{place}: {error.strerror}") from None
    return path.decode("utf-8", "surrogateescape")


def _split(path: str, points: Iterable[str]) -> tuple[str, str]:
    """The mountpoint above a path, empty when there is none, and what follows it."""
    absolute = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - nothing is to be followed inside a mount
    for point in points:
        if absolute == point or absolute.startswith(f"{point}/"):
            return point, absolute[len(point) :]
    above = Path(absolute)
    while points and above != above.parent:  # by way of a link to the mountpoint
        if above.is_symlink() and (followed := os.path.realpath(above)) in points:
            return followed, absolute[len(str(above)) :]
        above = above.parent
    return "", path
