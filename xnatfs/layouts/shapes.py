"""What stands where in each layout: one table of shapes for each, down to where the plain tree takes over. Pure.

::

    archive   PROJECT/arc001/EXPERIMENT/SCANS/SCAN/RESOURCE/...                   XNAT's archive on its disk
                            /          /RESOURCES/RESOURCE/...
                            /          /ASSESSORS/ASSESSOR/RESOURCE/...
                     /resources/RESOURCE/...
                     /subjects/SUBJECT/RESOURCE/...
    jupyter   projects/PROJECT/experiments/EXPERIMENT/SCANS/...                   as XNAT mounts it into notebooks
                              /resources, /subjects                               as above
    zip       PROJECT/SUBJECT/EXPERIMENT/scans/ID-TYPE/resources/RESOURCE/files/...   members of its zips

Sources: xnatpy 0.8 (``mixin.py``: ``expected_data_dir``), XNAT's JupyterHub plugin 1.3 (``DefaultUserOptionsService``),
XNAT's ``RestFileUtils`` (members of a zip).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xnatfs.tree.nodes import Level

Label = Callable[[Any], str]
"""What a record is called; the ID stands in where that is empty."""


def own_label(record: Any) -> str:
    """Its label; projects, scans and reconstructions have none beside the ID."""
    return getattr(record, "label", record.id)  # type: ignore[no-any-return]


def scan_in_zip(scan: Any) -> str:
    """``3-T1w_MPRAGE``: XNAT replaces each character of the type that is no ASCII letter, digit or ``_``."""
    return f"{scan.id}-" + re.sub(r"\W", "_", scan.type, flags=re.ASCII)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An entry that stands in every directory of a shape."""

    name: str
    to: Shape | None = None
    """None: from there on it is the plain tree."""
    below: str = ""
    """Where, below the plain directory of the one that it stands in."""
    if_listed: bool = False
    """Listed only where the plain directory lists ``below``; found by name always."""


@dataclass(frozen=True, slots=True)
class Members:
    """Entries that come from a listing of the plain tree: those of one level."""

    level: Level
    to: Shape | None = None
    label: Label = own_label
    below: str = ""
    """Whose listing, below the plain directory."""
    across: bool = False
    """What lies in the subjects of that listing, all together."""
    formats: bool = False
    """``DICOM`` leads to the one resource of that format, as xnatpy expects of resources outside of scans."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of directory that the plain tree does not have as it is."""

    name: str
    """Unique in its layout; part of inode numbers."""
    fixed: tuple[Fixed, ...] = ()
    members: Members | None = None
    links: tuple[tuple[str, str], ...] = ()
    """Unlisted links to fixed entries."""
    group: bool = False
    """It only holds things together: it has no attributes of its own."""


# -- as on the disk of the server ------------------------------------------------------------------------------------

_SCANS = Shape("SCANS", members=Members(Level.SCAN), group=True)
_RESOURCES = Shape("RESOURCES", members=Members(Level.RESOURCE, formats=True), group=True)
_SESSION = Shape(
    "SESSION",
    (
        Fixed("SCANS", _SCANS),
        Fixed("RESOURCES", _RESOURCES, Level.RESOURCES.value),
        Fixed("ASSESSORS", None, Level.ASSESSORS.value),
        Fixed("PROCESSED", None, Level.RECONSTRUCTIONS.value, if_listed=True),
    ),
)
_EXPERIMENTS = Shape("EXPERIMENTS", members=Members(Level.EXPERIMENT, _SESSION, across=True), group=True)
_SUBJECT = Shape("SUBJECT", members=Members(Level.RESOURCE, below=Level.RESOURCES.value, formats=True))
_SUBJECTS = Shape("SUBJECTS", members=Members(Level.SUBJECT, _SUBJECT), group=True)
_BESIDE = (Fixed("resources", _RESOURCES, Level.RESOURCES.value), Fixed("subjects", _SUBJECTS))

_ARCHIVE = Shape("ARCHIVE", members=Members(Level.PROJECT, Shape("PROJECT", (Fixed("arc001", _EXPERIMENTS), *_BESIDE))))

_LAUNCHED = Shape("PROJECT", (Fixed("experiments", _EXPERIMENTS), *_BESIDE), links=(("subject-resources", "subjects"),))
_JUPYTER = Shape(
    "JUPYTER",
    (Fixed("projects", Shape("PROJECTS", members=Members(Level.PROJECT, _LAUNCHED), group=True)),),
)

# -- as in zips ------------------------------------------------------------------------------------------------------

_FILES = Shape("FILES", (Fixed("files"),))


def _resources(below: str = "") -> Fixed:
    shape = Shape(f"RESOURCES {below}", members=Members(Level.RESOURCE, _FILES, below=below), group=True)
    return Fixed("resources", shape)


_PART = Shape(
    "PART",
    (
        Fixed("out", Shape("OUT", (_resources(),), group=True)),
        Fixed("in", Shape("IN", (_resources(),), group=True), Level.INPUTS.value, if_listed=True),
    ),
)
_OWN = _resources(Level.RESOURCES.value)
_SCAN = Shape("SCAN", (_resources(),))
_ZIPPED_SCANS = Shape("SCANS", members=Members(Level.SCAN, _SCAN, scan_in_zip), group=True)
_ZIPPED_ASSESSORS = Shape("ASSESSORS", members=Members(Level.ASSESSOR, _PART), group=True)
_ZIPPED_RECONSTRUCTIONS = Shape("RECONSTRUCTIONS", members=Members(Level.RECONSTRUCTION, _PART), group=True)
_ZIPPED = Shape(
    "SESSION",
    (
        Fixed("scans", _ZIPPED_SCANS),
        _OWN,
        Fixed(
            "assessors", Shape("ASSESSORS", members=Members(Level.ASSESSOR, _PART), group=True), Level.ASSESSORS.value
        ),
        Fixed(
            "reconstructions",
            Shape("RECONSTRUCTIONS", members=Members(Level.RECONSTRUCTION, _PART), group=True),
            Level.RECONSTRUCTIONS.value,
            if_listed=True,
        ),
    ),
)
_ZIP_SUBJECT = Shape("SUBJECT", (_OWN,), Members(Level.EXPERIMENT, _ZIPPED))
_ZIP_PROJECT = Shape("PROJECT", (_OWN,), Members(Level.SUBJECT, _ZIP_SUBJECT))
_ZIP = Shape("ZIP", members=Members(Level.PROJECT, _ZIP_PROJECT))

LAYOUTS: dict[str, Shape] = {"archive": _ARCHIVE, "jupyter": _JUPYTER, "zip": _ZIP}
"""The root of each layout that is not plain."""
