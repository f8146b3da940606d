"""The user's own files as an archive: a directory in the shape of the mount.

::

    DIR/PROJECT/SUBJECT/EXPERIMENT/SCAN/RESOURCE/any/folders/file
    DIR/PROJECT/resources/RESOURCE/...               likewise below SUBJECT and EXPERIMENT
    DIR/PROJECT/SUBJECT/EXPERIMENT/assessors/ASSESSOR/RESOURCE/...        inputs below in/RESOURCE
    DIR/PROJECT/SUBJECT/EXPERIMENT/reconstructions/RECON/RESOURCE/...

Files that lie higher up than a resource belong to a resource FILES of the level where they lie. A directory that has
none of this shape (a plain folder of files) becomes one project, called like it, with everything in its resource FILES.

The tree is read once; sizes, times and digests of files are always those on disk. Digests are computed when a listing
first needs them, and only for files up to a limit: a real XNAT has files without digest as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xnatfs.demo.archive import Archive
from xnatfs.demo.content import OnDisk
from xnatfs.demo.model import Experiment, Item, Scan

DIGEST_LIMIT = 64 * 1024 * 1024
"""Bytes; larger files have no digest, since hashing them would hold up a listing."""

_SESSIONS = {"MR": "xnat:mrSessionData", "PT": "xnat:petSessionData", "CT": "xnat:ctSessionData"}
_SCANS = {"MR": "xnat:mrScanData", "PT": "xnat:petScanData", "CT": "xnat:ctScanData"}


def directory_archive(path: Path, *, digest_limit: int = DIGEST_LIMIT) -> Archive:
    """An archive of the files below ``path``; NotADirectoryError if that is none."""
    if not path.is_dir():
        raise NotADirectoryError(str(path))
    archive = Archive()
    archive.cacheable = False
    found = list(_files(path))
    builder = _Builder(archive, digest_limit)
    shaped = any(_has_shape(words) for words, _ in found)
    for words, file in found:
        builder.add(words if shaped else ("", *words), file, path.resolve().name or "DATA")
    builder.describe()
    return archive


def _has_shape(words: tuple[str, ...]) -> bool:
    if len(words) >= 6:
        return True
    return any(word in ("resources", "assessors", "reconstructions") for word in words[1:4]) and len(words) >= 4


def _files(top: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Path words and path of every regular file below, in a stable order."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file():
                yield file.relative_to(top).parts, file


@dataclass
class _Builder:
    archive: Archive
    digest_limit: int
    items: dict[tuple[str, ...], Item] = field(default_factory=dict)
    resources: dict[tuple[str, ...], Any] = field(default_factory=dict)
    first: dict[int, Path] = field(default_factory=dict)
    """A file of each scan, to look into."""

    def add(self, words: tuple[str, ...], file: Path, top: str) -> None:
        """File one file under the item and resource that its path names."""
        place, direction, label, inside = _split(words)
        item = self._item(place, top)
        key = (*place, "|", direction, label)
        resource = self.resources.get(key)
        if resource is None:
            resource = self.archive.add_resource(item, label, direction=direction, format=label)
            self.resources[key] = resource
        if isinstance(item, Scan):
            self.first.setdefault(id(item), file)
        content = OnDisk(file)
        form = "DICOM" if label == "DICOM" else file.suffix[1:].upper()
        stored = self.archive.add_file(resource, inside, content, format=form, modified=content.modified)
        stored.has_digest = content.size <= self.digest_limit

    def _item(self, place: tuple[str, ...], top: str) -> Item:
        known = self.items.get(place)
        if known is None:
            known = self.items[place] = self._make(place, top)
        return known

    def _make(self, place: tuple[str, ...], top: str) -> Item:
        archive, name = self.archive, place[-1]
        if len(place) == 1:
            return archive.add_project(name or top, members={})
        parent: Any = self._item(place[:-1] if len(place) < 5 else place[:3], top)
        if len(place) == 2:
            return archive.add_subject(parent, name)
        if len(place) == 3:
            return archive.add_session(parent, name)
        if len(place) == 4:
            return archive.add_scan(parent, name, quality="usable")
        if place[3] == "assessors":
            return archive.add_assessor(parent, name)
        return archive.add_reconstruction(parent, name)

    def describe(self) -> None:
        """Types and descriptions from one DICOM header of each scan, where there is one."""
        for session in tuple(self.archive.experiments.values()):
            for scan in tuple(session.scans.values()):
                if id(scan) in self.first:
                    _describe(session, scan, self.first[id(scan)])


def _split(words: tuple[str, ...]) -> tuple[tuple[str, ...], str, str, str]:
    """Item, direction, resource label and path inside the resource, of one file's path words."""
    for level in (1, 2, 3):
        if len(words) > level + 2 and words[level] == "resources":
            return words[:level], "", words[level + 1], "/".join(words[level + 2 :])
    if len(words) > 6 and words[3] in ("assessors", "reconstructions"):
        if words[5] == "in" and len(words) > 7:
            return words[:5], "in", words[6], "/".join(words[7:])
        return words[:5], "out", words[5], "/".join(words[6:])
    if len(words) >= 6:
        return words[:4], "", words[4], "/".join(words[5:])
    if words[0] == "":
        return words[:1], "", "FILES", "/".join(words[1:])
    depth = max(1, min(len(words) - 1, 4))
    if len(words) == 1:
        return ("",), "", "FILES", words[0]
    return words[:depth], "", "FILES", "/".join(words[depth:])


def _describe(session: Experiment, scan: Scan, file: Path) -> None:
    import pydicom

    try:
        header = pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=["Modality", "SeriesDescription", "StudyDate"]
        )
    except (pydicom.errors.InvalidDicomError, OSError, ValueError):
        return
    modality = str(header.get("Modality", ""))
    description = str(header.get("SeriesDescription", ""))
    scan.xsi_type = _SCANS.get(modality, "xnat:otherDicomScanData")
    scan.fields.update(type=description, series_description=description, modality=modality)
    session.xsi_type = _SESSIONS.get(modality, "xnat:otherDicomSessionData")
    session.fields.setdefault("modality", modality)
    date = str(header.get("StudyDate", ""))
    if len(date) == 8:
        session.fields.setdefault("date", f"{date[:4]}-{date[4:6]}-{date[6:]}")
