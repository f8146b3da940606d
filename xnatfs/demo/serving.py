"""Run a stand-in until told to stop: what a command line needs. Prints nothing itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from xnatfs.demo.archive import Archive
from xnatfs.demo.directory import directory_archive
from xnatfs.demo.server import DemoServer, ServerOptions
from xnatfs.demo.synthetic import synthetic_archive

USERS = {"admin": "admin", "reader": "reader"}
"""Accounts of a demo server: a site administrator, and someone who may look at some projects."""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data: Path | None = None,
    users: Mapping[str, str] | None = None,
    context_path: str = "",
    options: ServerOptions | None = None,
    faults: Path | None = None,
    ready: Callable[[DemoServer], None],
    stop: threading.Event | None = None,
) -> None:
    """Serve the synthetic archive, or the files below ``data``, until ``stop`` is set or Ctrl-C.

    ``ready`` is called once connections are accepted; ``faults`` is a JSON file of rules (ValueError, OSError).
    Raises OSError if the port is taken, NotADirectoryError if ``data`` is no directory.
    """
    archive = directory_archive(data) if data is not None else synthetic_archive()
    server = DemoServer(archive, host=host, port=port, users=users or USERS, context_path=context_path, options=options)
    if faults is not None:
        server.faults.load(faults)
    stop = stop or threading.Event()
    with server:
        ready(server)
        if data is None:
            # The images are made when first wanted; a head start makes the first walk through the archive quick.
            threading.Thread(target=_warm, args=(archive, stop), name="demo-images", daemon=True).start()
        try:
            # In slices, so that a signal handler of the main thread gets its turn on every platform.
            while not stop.wait(0.5):
                pass
        except KeyboardInterrupt:
            return


def _warm(archive: Archive, stop: threading.Event) -> None:
    for _, stored in archive.files():
        if stop.is_set():
            return
        _ = stored.digest
