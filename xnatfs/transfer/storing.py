"""Threads that put whole members of archives into their entries, beside the one that unpacks the next.

Hashing and writing let go of the interpreter, so two of them keep up with an archive that one thread unpacks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 2


class Storing:
    """From any thread. The threads start with the first work, hence after the process has gone to the background."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, "xnatfs-store")

    def submit(self, work: Callable[..., None], *arguments: object) -> Future[None]:
        return self._threads.submit(work, *arguments)

    def close(self, timeout: float) -> None:
        """Take no more work and wait for what there is, but not for ever, should the disk hang."""
        ending = threading.Thread(target=self._threads.shutdown, name="xnatfs-store-end", daemon=True)
        ending.start()
        ending.join(timeout)
