"""Ways to make a mount forget its listings, beside the one in `Vfs.refresh` that they all end in.

A file to write to will not do: the kernel refuses every opening for writing, and every setting of an attribute, on a
mount with the flag ``ro`` before xnatfs hears of it. Reading it does not meet that, so ``.xnat/refresh`` is read.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xnatfs.errors import MountpointError
from xnatfs.metadata import REFRESHED
from xnatfs.tree.layout import META
from xnatfs.vfs import Vfs

log = logging.getLogger(__name__)


@contextmanager
def on_hangup(vfs: Vfs) -> Iterator[None]:
    """SIGHUP forgets all listings, unless it may mean that the terminal is gone: then it ends the mount as ever."""
    if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
        yield
        return

    def refresh() -> None:
        log.info("SIGHUP: forgetting all listings")
        vfs.refresh()

    def on_signal(_number: int, _frame: object) -> None:
        # it must neither wait for a lock nor write to a stream, which the next signal would find in the middle of that
        threading.Thread(target=refresh, name="refresh", daemon=True).start()

    before = signal.signal(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def refresh(path: str, *, recursive: bool) -> None:
    """Make a mount forget what it knows of a directory, or of the nearest one above a path that it does not know yet.

    Raises `MountpointError`: no mount of xnatfs is there.
    """
    place = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - links stay as given
    control = "refresh-all" if recursive else "refresh"
    for directory in (place, *place.parents):
        try:
            if (directory / META / control).read_bytes() == REFRESHED:
                return
        except (FileNotFoundError, NotADirectoryError):
            if not directory.is_dir():
                continue  # a file, or something that is not known yet
        except OSError as error:
            raise MountpointError(f"{directory}: cannot be refreshed: {error.strerror}") from None
        break
    raise MountpointError(f"{path}: is not below a mount of xnatfs")
