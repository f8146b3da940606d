"""Other arrangements of the same archive: as XNAT's disk, its notebooks and its zips have it."""

from __future__ import annotations

from xnatfs.layouts.shapes import LAYOUTS
from xnatfs.layouts.view import View
from xnatfs.vfs import Vfs

PLAIN = "plain"


def over(plain: Vfs, layout: str) -> Vfs | View:
    """What to mount: the plain tree itself, or a view of it. ``layout`` is `PLAIN` or one of `LAYOUTS`."""
    return plain if layout == PLAIN else View(plain, LAYOUTS[layout])
