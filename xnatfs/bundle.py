"""``xnatfs debug``: what somebody who helps needs to know of a mount and its machine, as one archive.

No secrets: what is in here is redacted at its source, and once more here. No labels of subjects, unless asked for: the
log without its lines at level debug, transfers without their names, no access log.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from xnatfs import __version__, fuse_mount, mounted
from xnatfs.errors import MountpointError, SettingsError
from xnatfs.logs import Redactor

TAIL = 512 * 1024
"""Bytes of a log, from its end."""
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) ")
_PROC = ("status", "limits", "io", "mountinfo", "stat")


def parts(mountpoint: Path | None, settings: Mapping[str, Any], checks: object, *, labels: bool) -> dict[str, str]:
    """Name -> text of everything in the bundle. ``settings`` and ``checks`` as JSON can hold them.

    What cannot be had is said in its place; a mount that does not answer is the very reason to ask.
    """
    found = {"versions.json": _json(versions()), "settings.json": _json(settings), "doctor.json": _json(checks)}
    found["mounts.txt"] = "".join(f"{entry}\n" for entry in fuse_mount.mounts() if entry.ours)
    if mountpoint is None:
        return found
    found |= _of_mount(mountpoint, labels)
    facts = next((one for one in mounted.mounts() if one.mountpoint == str(mountpoint)), None)
    if facts is not None and facts.pid is not None:
        found |= {f"proc/{name}": text for name, text in _proc(facts.pid)}
    if facts is not None and facts.log:
        found["log.txt"] = log_tail(Path(facts.log), labels=labels)
    return found


def _of_mount(mountpoint: Path, labels: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        status = mounted.of(mountpoint)
        found["metrics.txt"] = mounted.read(mountpoint, "metrics").decode("utf-8", "replace").rstrip() + "\n"
    except MountpointError as error:
        return {**found, "status.txt": f"{error}\n"}
    access = status["options"].get("access_log")
    if not labels:
        for transfer in status["transfers"]:
            transfer["name"] = "(left out)"
    elif access:
        found["access.jsonl"] = log_tail(Path(access), labels=True)
    found["status.json"] = _json(status)
    return found


def log_tail(path: Path, *, labels: bool) -> str:
    """The end of a log; without ``labels``, less its records at level debug, which are all that may hold some."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read(TAIL).decode("utf-8", "replace").splitlines(keepends=True)
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    return "".join(lines if labels else without_debug(lines))


def without_debug(lines: list[str]) -> Iterator[str]:
    """Records above level debug, whole; what comes before the first one belongs to nothing that is known."""
    wanted = False
    for line in lines:
        record = _RECORD.match(line)
        if record is not None:
            wanted = record["level"] != "DEBUG"
        if wanted:
            yield line


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"xnatfs": __version__, "python": sys.version, "platform": platform.platform()}
    for requirement in metadata.requires("xnatfs") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            with suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    with suppress(OSError):
        found["fuse module"] = Path("/sys/module/fuse/version").read_text().strip()
    return found


def _proc(pid: int) -> Iterator[tuple[str, str]]:
    for name in _PROC:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
            yield name, "".join(line for line in text.splitlines(True) if name != "mountinfo" or "xnatfs" in line)
    threads = []
    with suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            with suppress(OSError):
                state = re.search(r"(?m)^State:\s*(.*)$", (task / "status").read_text())
                threads.append(f"{task.name} {(task / 'comm').read_text().strip()} {state[1] if state else '?'}\n")
    yield "threads", "".join(threads)
    with suppress(OSError):
        yield "descriptors", f"{sum(1 for _ in Path(f'/proc/{pid}/fd').iterdir())}\n"


def write(path: Path, texts: Mapping[str, str], redactor: Redactor) -> None:
    """Pack the parts into a new ``.tar.gz`` for its owner only. Raises `SettingsError`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; -o names another file") from None
    with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in sorted(texts.items()):
            data = redactor.clean(text).encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"xnatfs-debug/{name}")
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            archive.addfile(member, io.BytesIO(data))


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
