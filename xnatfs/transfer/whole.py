"""A resource that somebody is going to read all of: its archive at once, with no walk to be recognised first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xnatfs.transfer.context import Context

if TYPE_CHECKING:
    from xnatfs.transfer.series import Archive
    from xnatfs.transfer.walks import Series


class Whole:
    """An archive that is under way for a caller who waits for all of it. From any thread."""

    def __init__(self, context: Context, series: Series, archive: Archive) -> None:
        self._context = context
        self._series = series
        self._archive = archive

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; is it over, whatever came of it? An archive that nobody waits for is cut."""
        with self._context.lock:
            self._series.active = self._context.clock()
        return self._archive.over.wait(seconds)

    def cancel(self) -> None:
        """Cut it. What has arrived stays."""
        with self._context.lock:
            close = self._archive.abort()
        close()
