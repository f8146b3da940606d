"""What file managers meet on a mount: folders of every kind, and what opening them costs at the server."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from xnatfs.demo import Archive, DemoServer, synthetic_archive
from xnatfs.demo.content import Bytes, Pattern

KIB, MIB = 1024, 1024 * 1024
SLICES, SLICE = 2000, 512 * KIB
"""Files of a long series, none of them with a suffix that says what it is, and the bytes of each."""
PICTURES, SIDE = 4, 2048
"""Pictures of noise, so that nothing can be packed, and pixels of each side: 12 MiB each."""

FOLDERS = {
    "root": "",
    "project": "DEMO",
    "session": "DEMO/sub-01/sub-01_MR1",
    "dicom": "DEMO/sub-01/sub-01_MR1/2/DICOM",
    "nifti": "DEMO/sub-01/sub-01_MR1/2/NIFTI",
    "snapshots": "DEMO/sub-01/sub-01_MR1/2/SNAPSHOTS",
    "long": "LONG/sub-09/sub-09_MR1/1/DICOM",
    "pictures": "LONG/sub-09/sub-09_MR1/1/PICTURES",
}
"""What is opened, in this order; path below the mount."""


def desktop_archive() -> Archive:
    """The demo study, and a project with what is hard on a file manager: a long series, and large pictures."""
    archive = synthetic_archive(odd=False)
    session = archive.add_session(archive.add_subject(archive.add_project("LONG"), "sub-09"), "sub-09_MR1")
    scan = archive.add_scan(session, "1", type="BOLD")
    series = archive.add_resource(scan, "DICOM", format="DICOM")
    archive.add_files(series, ((f"IM{n:05d}", Pattern(SLICE, n)) for n in range(SLICES)), format="DICOM")
    pictures = archive.add_resource(scan, "PICTURES", format="PNG")
    archive.add_files(pictures, ((f"slide{n}.png", _picture(n)) for n in range(PICTURES)), format="PNG")
    return archive


def _picture(seed: int) -> Bytes:
    target = io.BytesIO()
    image = Image.frombytes("RGB", (SIDE, SIDE), random.Random(seed).randbytes(SIDE * SIDE * 3))
    image.save(target, "PNG", compress_level=0)
    return Bytes(target.getvalue())


@dataclass(frozen=True)
class Cost:
    """What the server was asked for since its log was reset."""

    listings: int
    """Requests for anything but contents."""
    contents: int
    """Requests for contents: files, or archives of a resource."""
    received: int
    """Bytes of contents sent."""


def cost(server: DemoServer) -> Cost:
    """Of everything since `DemoServer.reset_log`."""
    asked = server.requests
    contents = [one for one in asked if "/files/" in one.path or "format=zip" in one.query]
    return Cost(len(asked) - len(contents), len(contents), sum(one.bytes_sent for one in contents))


PROBES = (".hidden", ".directory", ".xdg-volume-info", "autorun.inf", ".Trash", ".Trash-0", ".sh_thumbnails")


def opened_by_thunar(folder: str, sniffed: Iterable[str]) -> None:
    """The calls of Thunar 4.18 when it shows a folder, in its order, as strace has them.

    ``sniffed``: the files whose names do not say what they are, in the order in which it comes to them.
    """
    os.statvfs(folder)
    probe(folder)
    for _ in range(2):
        names = os.listdir(folder)
        os.access(folder, os.W_OK)
        for name in names:
            os.lstat(f"{folder}/{name}")
    for name in names:
        os.lstat(f"{folder}/{name}")
        for right in (os.R_OK, os.W_OK, os.X_OK):
            os.access(f"{folder}/{name}", right)
    for name in sniffed:
        _head(f"{folder}/{name}", os.O_NOATIME)


def opened_by_pcmanfm(folder: str, sniffed: Iterable[str]) -> None:
    """The same of PCManFM 1.3."""
    os.statvfs(folder)
    probe(folder)
    wanted = set(sniffed)
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        os.lstat(path)
        os.access(path, os.R_OK)
        if name in wanted:
            _head(path, 0)
            os.close(os.open(path, os.O_RDONLY | os.O_NOATIME))


def probe(folder: str) -> None:
    """Look for what desktops look for in every folder. AssertionError: it is there."""
    for name in PROBES:
        assert not os.path.lexists(f"{folder}/{name}"), name


def _head(path: str, flags: int) -> None:
    """What GLib does to guess a type: the first 4 KiB, and no more."""
    file = os.open(path, os.O_RDONLY | flags)
    try:
        os.read(file, 4096)
    finally:
        os.close(file)
