#!/usr/bin/env python3
"""A real MR session through the mount: downloaded by pip, served by the demo server, mounted, converted, compared.

The source distribution of xnatpy on PyPI carries 324 DICOM files in 10 series. This script downloads it (nothing of
it is kept in this repository), lays it out as PROJECT/SUBJECT/EXPERIMENT/SCAN/RESOURCE, serves that with
``xnatfs demo --serve --data``, mounts it, and then
- compares every file with its source, by cp -r and by MD5 through the mount,
- converts every series with dcm2niix from the mount and from the plain copy, and compares the results byte for byte,
- reads the header of every file with pydicom and says how many bytes that moved.

    .venv/bin/python scripts/real_data.py            # needs the packages of xnatfs[test], and FUSE

Ends with exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import dcm2niix
import pydicom

from xnatfs.demo import DemoServer, directory_archive

PACKAGE = "xnat==0.8.1"
SOURCE = "xnat/tests/resources/Case001/scans/"


def fetch(folder: Path) -> Path:
    """The session as a tree that ``--data`` takes; only downloaded when it is not there yet."""
    study = folder / "study"
    if study.is_dir():
        return study
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "xnat", "-d", str(folder)]
    subprocess.run([*command, PACKAGE], check=True)
    with tarfile.open(next(folder.glob("xnat-*.tar.gz"))) as packed:
        members = [m for m in packed.getmembers() if SOURCE in m.name and m.isfile()]
        packed.extractall(folder / "unpacked", members=members, filter="data")
    session = study / "REAL" / "Case001" / "Case001_MR1"
    session.mkdir(parents=True)
    for series in next((folder / "unpacked").glob(f"*/{SOURCE}")).iterdir():
        shutil.move(series, session / series.name.partition("_")[0])
    return study


@contextmanager
def mounted(url: str, folder: Path):
    point = folder / "mnt"
    point.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "xnatfs"]
    config = folder / "login.json"
    config.touch(0o600)
    config.write_text(json.dumps({"server": url, "user": "admin", "password": "admin"}))
    options = ["--config", str(config), "--cache-dir", str(folder / "cache")]
    subprocess.run([*command, "mount", url, str(point), *options], check=True)
    try:
        yield point
    finally:
        subprocess.run([*command, "umount", str(point)], check=True)


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def convert(series: Path, out: Path) -> float:
    out.mkdir(parents=True)
    began = time.perf_counter()
    subprocess.run([dcm2niix.bin, "-o", out, "-f", "%s", series], check=True, capture_output=True)
    return time.perf_counter() - began


def same(one: Path, other: Path) -> bool:
    """Byte-equal results, whatever they are called.

    Where two volumes want one name, as in series 9, dcm2niix gives the letters in the order in which the file system
    lists the folder: two plain copies, on ext4 and on tmpfs, differ in that already.
    """

    def contents(folder: Path) -> list[tuple[str, str]]:
        return sorted((path.suffix, hashlib.md5(path.read_bytes()).hexdigest()) for path in folder.iterdir())

    return contents(one) == contents(other)


def report(what: str, right: bool, detail: str = "") -> bool:
    print(f"{'ok  ' if right else 'FAIL'}  {what}{'  ' + detail if detail else ''}", flush=True)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the download, used again the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xnatfs-real-") as scratch:
        folder = Path(scratch)
        store = arguments.keep or folder
        store.mkdir(parents=True, exist_ok=True)
        study = fetch(store.resolve())
        with DemoServer(directory_archive(study)) as server:
            return 0 if compare(server, study, folder) else 1


def compare(server: DemoServer, study: Path, folder: Path) -> bool:
    good = True
    plain = study / "REAL" / "Case001" / "Case001_MR1"
    truth = files_of(plain)
    with mounted(server.url, folder) as point:
        session = point / "REAL" / "Case001" / "Case001_MR1"
        before = len(server.requests)
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files_of(session).values()]
        moved = sum(r.bytes_sent for r in server.requests[before:])
        good &= report("headers", len(headers) == len(truth), f"{len(headers)} files, {moved / 1e6:.1f} MB moved")
        subprocess.run(["cp", "-r", session, folder / "copy"], check=True)
        copied = files_of(folder / "copy")
        equal = copied.keys() == truth.keys() and all(filecmp.cmp(copied[n], truth[n], shallow=False) for n in truth)
        good &= report("cp -r", equal, f"{len(copied)} files")
        sums = all(
            hashlib.md5(path.read_bytes()).digest() == hashlib.md5(truth[name].read_bytes()).digest()
            for name, path in files_of(session).items()
        )
        good &= report("md5", sums)
        for series in sorted(plain.iterdir(), key=lambda path: int(path.name)):
            seconds = [
                convert(top / series.name / "DICOM", folder / place / series.name)
                for place, top in (("nii-mount", session), ("nii-plain", plain))
            ]
            right = same(folder / "nii-mount" / series.name, folder / "nii-plain" / series.name)
            good &= report(f"dcm2niix of series {series.name}", right, f"{seconds[0]:.2f} s, plain {seconds[1]:.2f} s")
    data = [r for r in server.requests if "/files" in r.path and "all=true" not in r.query]
    print(f"      {len(server.requests)} requests in all, {len(data)} of them for file contents")
    return good


if __name__ == "__main__":
    raise SystemExit(main())
