"""Archives for tests, smaller or odder than the demo's."""

from __future__ import annotations

import random

from xnatfs.demo import Archive


def one_session(scans=10, resources=("DICOM", "NIFTI"), files=200, size=2048, *, folders=False) -> Archive:
    """Project P, subject S, session E: every scan with every resource with so many files of about that size."""
    archive = Archive()
    chance = random.Random(1)
    session = archive.add_session(archive.add_subject(archive.add_project("P"), "S"), "E")
    for scan_number in range(1, scans + 1):
        scan = archive.add_scan(session, str(scan_number), type="T1", series_description="t1")
        for label in resources:
            resource = archive.add_resource(scan, label)
            for number in range(files):
                path = f"{label.lower()}_{number:04d}.bin"
                if folders and number % 2:
                    path = f"part {number % 3}/{path}"
                archive.add_file(resource, path, chance.randbytes(size))
    return archive


def one_file(size: int, name: str = "big.bin", seed: int = 5) -> tuple[Archive, bytes]:
    """Project P, subject S, session E, scan 1, resource R with a single file; and its bytes."""
    archive = Archive()
    data = random.Random(seed).randbytes(size)
    session = archive.add_session(archive.add_subject(archive.add_project("P"), "S"), "E")
    resource = archive.add_resource(archive.add_scan(session, "1", type="T1"), "R")
    archive.add_file(resource, name, data)
    return archive, data


ONE_FILE = "/P/S/E/1/R/big.bin"
SESSION = "/P/S/E"
