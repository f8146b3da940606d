"""The access log: one JSON line for each operation that reaches the mount. It holds paths, so it is for the user alone.

What the kernel answers from its own memory reaches nobody and is in no log. The file may be moved away at any time;
the next line goes to a new one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

from xnatfs.errors import SettingsError
from xnatfs.stats import Cause

log = logging.getLogger(__name__)


class AccessLog:
    """Writes lines to ``path``; see `tell` for what they say. Any thread may call it.

    Raises `SettingsError` when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # guards what follows
        self._file = -1
        self._place: tuple[int, int] | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._follow()
        except OSError as error:
            raise SettingsError(f"access log {path}: {error.strerror}; --access-log names another") from None

    def tell(
        self,
        operation: str,
        path: str | None,
        began: float,
        errno_name: str | None,
        count: int | None,
        cause: Cause,
        pid: int,
        uid: int,
    ) -> None:
        """One operation that has just ended, as ``{"time", "operation", "path", ...}``.

        ``time`` is that of its end in UTC; ``requests`` and ``received`` (bytes) are what the server was asked for and
        sent on its behalf before it ended. The kernel names no caller (``pid`` 0) where nobody waits, as for release.
        """
        seconds = time.perf_counter() - began
        line = json.dumps(
            {
                "time": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                "operation": operation,
                "path": path,
                "seconds": round(seconds, 6),
                "errno": errno_name,
                "bytes": count,
                "requests": cause.counts["requests.total"],
                "received": cause.counts["bytes.received"],
                "pid": pid or None,
                "uid": uid if pid else None,
                "command": command_of(pid),
            }
        )
        self._write(line.encode("ascii") + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            with self._lock:
                self._follow()
                os.write(self._file, line)
        except OSError as error:
            log.warning("the access log cannot be written: %s", error.strerror)

    def _follow(self) -> None:
        """Open the file that the path leads to now, unless that is the one that is open."""
        try:
            info = os.stat(self._path)  # noqa: PTH116 - as quick as it gets, for each line
            if self._place == (info.st_dev, info.st_ino):
                return
        except FileNotFoundError:
            pass
        self.close()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        info = os.fstat(self._file)
        self._place = info.st_dev, info.st_ino

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._place = -1, None


def command_of(pid: int) -> str | None:
    """What a process, or a thread, calls itself; None when that cannot be seen."""
    if not pid:
        return None
    try:
        file = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)  # a tenth of the time of Path.read_text
    except OSError:
        return None
    try:
        return os.read(file, 64).decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return None
    finally:
        os.close(file)
