"""Changing the log level of a running mount: a word in a file beside its record, and SIGUSR1 to say that it is there.

The mount removes the file once it has obeyed. Both file and signal belong to the user who mounted, so that nobody else
who may look into the mount can have labels written to its log.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xnatfs import daemon, logs
from xnatfs.errors import MountpointError

log = logging.getLogger(__name__)

FACT = "loglevel"
"""In the record of a mount: it listens."""
PATIENCE = 5.0
"""Seconds for the mount to obey; it needs milliseconds."""


def _wish(mountpoint: Path) -> Path:
    return daemon.record_path(mountpoint).with_suffix(".level")


@contextmanager
def on_signal(mountpoint: Path) -> Iterator[None]:
    """SIGUSR1 sets the log level that stands in the file. To be entered before the mount is recorded."""

    def obey(_number: int, _frame: object) -> None:
        path = _wish(mountpoint)
        with suppress(OSError):
            level = path.read_text().strip()
            if level in logs.LEVELS:
                logs.set_level(level)
                log.log(logging.getLevelName(level.upper()), "log level %s from now on", level)
            path.unlink(missing_ok=True)

    before = signal.signal(signal.SIGUSR1, obey)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def change(mountpoint: Path, level: str) -> None:
    """Make a mount log from ``level`` on; comes back when it does. Raises `MountpointError`."""
    facts = daemon.recorded_facts(mountpoint)
    if facts is not None and not facts.get(FACT):
        raise MountpointError(f"{mountpoint}: was mounted by an older xnatfs, which cannot change its log level")
    if facts is None:
        raise MountpointError(f"{mountpoint}: no process of yours is recorded as serving it")
    path = _wish(mountpoint)
    part = path.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(level)
        part.replace(path)
        daemon.send_signal(mountpoint, signal.SIGUSR1)
        end = time.monotonic() + PATIENCE
        while path.exists():
            if time.monotonic() > end:
                raise MountpointError(f"{mountpoint}: its process does not answer; is it stopped?")
            time.sleep(0.01)
    except OSError as error:
        raise MountpointError(f"{path}: {error.strerror}") from None
    finally:
        for left in (part, path):
            left.unlink(missing_ok=True)
