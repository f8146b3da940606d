"""How far a copy is: a bar with rate and time left on a terminal, else a line now and then. All of it on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from xnatfs import units

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts, and shows nothing. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._files = self._bytes = 0
        self._done = self._reached = self._moved = 0
        self._began = clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def planned(self, files: int, size: int) -> None:
        """So much has been found so far."""

    def begin(self, files: int, size: int) -> None:
        """All is found, moving begins."""
        with self._lock:
            self._files, self._bytes, self._began = files, size, self._clock()

    def moved(self, amount: int) -> None:
        """See `xnatfs.getting.Progress`."""
        with self._lock:
            self._reached += amount
            self._moved += amount
        self._show()

    def done(self, size: int, *, fetched: bool) -> None:
        """See `xnatfs.getting.Progress`."""
        with self._lock:
            self._done += 1
            self._reached += 0 if fetched else size
        self._show()

    @property
    def seconds(self) -> float:
        """Since moving began."""
        return self._clock() - self._began

    def _show(self) -> None:
        return


class Lines(Progress):
    """A line now and then."""

    def __init__(self, told: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._told = told
        self._next = self._began + EVERY

    def _show(self) -> None:
        with self._lock:
            if self._clock() < self._next:
                return
            self._next = self._clock() + EVERY
            text = self._line()
        self._told(text)

    def _line(self) -> str:
        rate = self._moved / max(self.seconds, 1e-3)
        left = f", {units.duration((self._bytes - self._reached) / rate)} left" if rate >= 1 else ""
        return (
            f"{self._done} of {self._files} files, {units.size(self._reached)} of {units.size(self._bytes)}, "
            f"{units.size(rate)}/s{left}"
        )


class Bar(Progress):
    """A bar."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._shown = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._shown.add_task("listing", total=None)

    def __enter__(self) -> Progress:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def planned(self, files: int, size: int) -> None:
        self._shown.update(self._task, description=f"listing: {files} files, {units.size(size)}")

    def begin(self, files: int, size: int) -> None:
        super().begin(files, size)
        self._shown.reset(self._task, total=size)
        self._show()

    def _show(self) -> None:
        self._shown.update(self._task, completed=self._reached, description=f"{self._done} of {self._files} files")


def shown(*, quiet: bool, told: Callable[[str], None]) -> Progress:
    """What suits whoever looks; ``told`` gets the lines."""
    if quiet:
        return Progress()
    return Bar() if sys.stderr.isatty() else Lines(told)
