"""When a whole resource is fetched as one archive, and how long to wait for it. Pure: numbers in, a decision out.

An archive is started when a resource is being walked: the second file within seconds of the first when the
resource is small, else the third within half a minute, whatever the order; the first, when a program reads it whole
after it has listed the directory, and the resource is small. It never starts for large files.

Bound: however it started, an archive may bring at most `allowance` bytes, 64 MiB plus three times the size of the
files that were opened in that resource; there it stops until more are opened, and it is cut when nobody goes on. One
that began with a single file stops at 4 MiB until a second one is opened, and is cut after a second.
So of the bytes that it brings, those of files that nobody opened are at most 64 MiB + 2 x those of files opened.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024

FREE = 64 * MIB
"""Bytes that an archive may bring before it counts what was opened: below a second at 100 MB/s."""
FACTOR = 3
"""Bytes that it may bring for each byte of the files opened."""
FEWEST = 4
"""Files below which single requests are as good."""
AVERAGE = 8 * MIB
"""Files larger than this on average are worth a request each: at 50 MB/s the round trip is then below a third."""
LARGEST = 64 * MIB
"""One file larger than this would stand in the way of all that come after it in the archive."""
WHOLE = MIB
"""Files larger than this on average are only walked by those who read them whole, not by those who read headers."""
RECENT = 30.0
"""Seconds within which opens belong together."""
QUICK = 2.0
"""Seconds within which two opens are no person's clicks."""
ALONE = 4 * MIB
"""Bytes that an archive may bring for a single file: what it saves is the time until its first byte."""
EAGER = 128 * 1024
"""Bytes asked for at once by those who read a file whole."""
FAILURES = 2
"""Archives that may fail before the resource is left alone."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What is known of the reading of one resource."""

    files: int
    """Files that it has."""
    total: int
    """Bytes that it has."""
    largest: int
    """Bytes of its largest file."""
    wanted: int
    """Distinct files opened recently that were not in the cache."""
    cached: int = 0
    """Distinct files opened recently that were."""
    thorough: int = 0
    """Those of ``wanted`` of which a reader has asked for a quarter, as far as is seen: read-ahead hides the rest."""
    seconds: float = 0.0
    """From the last but one of ``wanted`` to the last."""
    failures: int = 0
    """Archives of it that failed, as far as remembered."""
    eager: bool = False
    """Who listed the directory has begun to read the whole of one of its files, as programs do that copy all of it."""


def archive_pays(walk: Walk) -> bool:
    """Fetch the whole resource as one archive now?"""
    if not _suits(walk):
        return False
    if walk.cached > walk.wanted:  # most of it is here: an archive would bring it again
        return False
    needed = 2 if walk.total <= FREE and walk.seconds <= QUICK else 3
    if walk.eager and walk.total <= min(FREE, WHOLE * walk.files):
        needed = 1
    if walk.wanted < needed or walk.files - walk.wanted < 2:
        return False
    return walk.total <= WHOLE * walk.files or walk.thorough >= needed - 1


def whole_pays(walk: Walk) -> bool:
    """The same where all of the resource is going to be read: ``wanted`` are its missing files, all ``thorough``."""
    return _suits(walk) and walk.wanted >= FEWEST and walk.wanted >= walk.cached


def _suits(walk: Walk) -> bool:
    """Is it a resource whose archive is worth more than as many requests?"""
    if walk.failures >= FAILURES or walk.files < FEWEST or walk.largest > LARGEST:
        return False
    return walk.total <= AVERAGE * walk.files


def goes_on(opened: int, grace: float) -> float:
    """Seconds without a reader after which an archive is cut, when ``opened`` files were opened."""
    return grace if opened > 1 else min(1.0, grace)


def eager(offset: int, size: int, file_size: int) -> bool:
    """Is this the first read of somebody who will read all of the file? Who wants a header asks for less.

    ``size`` is what the kernel asks for: cp, cat and md5sum make that 128 KiB, a buffered reader 16 or 32 KiB.
    """
    return offset == 0 and size >= min(file_size, EAGER)


def allowance(opened: int, *, alone: bool = False) -> int:
    """Bytes that an archive may bring when files of ``opened`` bytes in all were opened, or just one (``alone``)."""
    return ALONE if alone else FREE + FACTOR * opened


def patience(latency: float) -> float:
    """Seconds that a reader waits for an archive before it looks whether its file is near."""
    return max(0.25, 2 * latency)


def worth_waiting(seconds: float | None, waited: float, latency: float) -> bool:
    """Wait on for a file that the archive should reach in ``seconds`` (None: it has not begun to arrive)?"""
    if waited < patience(latency):
        return True
    if seconds is None:
        return waited < max(1.0, 4 * latency)
    return seconds <= max(2.0, 4 * latency)
