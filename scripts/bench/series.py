#!/usr/bin/env python3
"""A series of many small files through the mount, beside other clients and beside one zip by curl.

All of them ask the same demo server, with the same latency added to every answer and the same time of service for
every file and archive. The exception is rclone, which cannot list an XNAT: it gets the same files from nginx, with an
index and with the same latency (no time of service). fsspec.fuse is not among them: fsspec's http file system knows no
directories and cannot be mounted. Needs root, FUSE, curl, unzip, nginx with its echo module, rclone, and from PyPI
pyxnat, xnat, dcm2niix, pydicom.

    scripts/bench/series.py [--quick] [--runs N] [--json FILE] [PART ...]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import (
    PASSWORD,
    REPOSITORY,
    SESSION,
    USER,
    Comparison,
    Run,
    Server,
    check,
    cookie,
    curl,
    digest,
    make_series,
    mounted,
    nginx,
    parse,
    parser,
    peer_mount,
    report,
    run,
    scratch,
    timed,
)

SERIES = SESSION / "1" / "DICOM"
URL = "/data/projects/P/subjects/S/experiments/E/scans/1/resources/DICOM/files?format=zip"
LATENCY = 0.065


def counted(server: Server, seconds: float, **more: float) -> dict[str, float]:
    return {"s": seconds, **{name.replace("_", " "): value for name, value in more.items()}, **server.log()}


class Copies:
    """A series on a server, and the ways to copy all of it into an empty directory. Each starts with nothing."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.truth = digest(folder / "study" / SERIES)
        self.session = cookie(server.url)
        self._zip(folder / "warm-up")  # the server has its checksums
        shutil.rmtree(folder / "warm-up")

    def _zip(self, out: Path) -> Path:
        """By curl and unzip; gives where the files are."""
        out.mkdir()
        curl(self.server.url, URL, "-o", out / "all.zip", session=self.session)
        run("unzip", "-q", out / "all.zip", "-d", out)
        (out / "all.zip").unlink()
        return next(path for path in out.rglob("files") if path.is_dir())

    def _checked(self, out: Path, what: str) -> None:
        check(digest(out) == self.truth, what)

    def by_zip(self) -> dict[str, float]:
        out = self.folder / "out"
        self.server.reset()
        began = time.perf_counter()
        found = self._zip(out)
        seconds = time.perf_counter() - began
        self._checked(found, "curl and unzip")
        shutil.rmtree(out)
        return counted(self.server, seconds)

    def by_mount(self, *options: str, listed: bool = False) -> dict[str, float]:
        out = self.folder / "out"
        with mounted(self.server.url, self.folder, *options) as mount:
            if listed:
                run("ls", "-l", mount.root / SERIES)
            self.server.reset()
            before = mount.cpu
            seconds = timed(lambda: run("cp", "-r", mount.root / SERIES, out))
            found = counted(self.server, seconds, daemon_CPU_s=mount.cpu - before)
        self._checked(out, "cp -r from the mount")
        shutil.rmtree(out)
        return found

    def by_mount_listed(self) -> dict[str, float]:
        return self.by_mount(listed=True)

    def by_mount_singly(self) -> dict[str, float]:
        return self.by_mount("--no-series", listed=True)

    def by_client(self, name: str) -> dict[str, float]:
        """A Python client in a process of its own, which measures itself from when it is connected."""
        self.server.reset()
        out = self.folder / "out"
        out.mkdir()
        command = [sys.executable, __file__, "--client", name, self.server.url, str(out)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        self._checked(out, name)
        shutil.rmtree(out)
        log = self.server.log()
        return {"s": float(said.split()[-1]), **log}

    def by_peer_mount(self, command: list[str], point_at: int, name: str) -> dict[str, float]:
        out = self.folder / "out"
        with peer_mount(self.folder, command, point_at) as point:
            seconds = timed(lambda: run("cp", "-r", point / SERIES, out))
        self._checked(out, name)
        shutil.rmtree(out)
        return {"s": seconds}

    def by_rclone(self, url: str) -> dict[str, float]:
        options = ["--http-url", url, "--read-only", "--config", "/dev/null"]
        return self.by_peer_mount(["rclone", "mount", ":http:", *options], 3, "rclone")


# --- other clients, in processes of their own ---------------------------------------------------------------------


def client_pyxnat(url: str, out: Path, *, labels: bool = False) -> float:
    """File by file: as its documentation does it, with the label of each, or by the names of one listing."""
    import pyxnat

    with pyxnat.Interface(server=url, user=USER, password=PASSWORD) as interface:
        interface.select.projects().get()
        began = time.perf_counter()
        resource = interface.select("/project/P/subject/S/experiment/E/scan/1/resource/DICOM")
        if labels:
            for file in resource.files():
                file.get(str(out / file.label()))
        else:
            for name in resource.files().get():
                resource.file(name).get(str(out / name))
        return time.perf_counter() - began


def client_pyxnat_labels(url: str, out: Path) -> float:
    return client_pyxnat(url, out, labels=True)


def client_xnatpy(url: str, out: Path) -> float:
    import xnat

    with xnat.connect(url, user=USER, password=PASSWORD) as session:
        began = time.perf_counter()
        experiment = session.projects["P"].subjects["S"].experiments["E"]
        for file in experiment.scans["1"].resources["DICOM"].files.values():
            file.download(str(out / file.path), verbose=False)
        return time.perf_counter() - began


CLIENTS: dict[str, Callable[[str, Path], float]] = {
    "pyxnat": client_pyxnat,
    "pyxnat-labels": client_pyxnat_labels,
    "xnatpy": client_xnatpy,
}


# --- parts --------------------------------------------------------------------------------------------------------


def make_study(folder: Path, arguments: argparse.Namespace) -> int:
    files = 40 if arguments.quick else 200
    if not (folder / "study").exists():
        make_series(folder / "study" / SERIES, files)
    return files


def copies(arguments: argparse.Namespace, folder: Path) -> None:
    files = make_study(folder, arguments)
    study = {"kind": "directory", "path": folder / "study"}
    servers: tuple[tuple[str, dict[str, float]], ...] = (
        ("no latency", {}),
        ("10 ms latency", {"latency": 0.010}),
        ("65 ms latency", {"latency": LATENCY}),
        ("13 ms of service, 2 at a time", {"service_time": 0.013, "parallel": 2}),
    )
    for words, options in servers:
        with Server(study, **options) as server:
            ways = Copies(folder, server)
            variants: dict[str, Run] = {
                "curl zip + unzip": ways.by_zip,
                "mount, cp -r, listed": ways.by_mount_listed,
                "mount, cp -r, nothing known": ways.by_mount,
                "mount, cp -r, --no-series": ways.by_mount_singly,
            }
            demand = "at most 1.3 x the time, at most 4 data requests" if options.get("latency") == LATENCY else ""
            result = Comparison(
                f"Cold cp -r of {files} files, {words}",
                "curl zip + unzip",
                demand,
                "Listed: ls -l was done before, which is what curl's user did to know the URL. MB: of contents sent.",
            )
            report(result.measure(variants, arguments.runs), arguments)


def clients(arguments: argparse.Namespace, folder: Path) -> None:
    files = make_study(folder, arguments)
    with (
        Server({"kind": "directory", "path": folder / "study"}, latency=LATENCY) as server,
        nginx(folder / "nginx", folder / "study", latency=LATENCY) as plain,
    ):
        ways = Copies(folder, server)
        variants: dict[str, Run] = {
            "mount, cp -r, nothing known": ways.by_mount,
            "mount, cp -r, listed": ways.by_mount_listed,
            "pyxnat, file by file with label()": lambda: ways.by_client("pyxnat-labels"),
            "pyxnat, file by file": lambda: ways.by_client("pyxnat"),
            "xnatpy, file by file": lambda: ways.by_client("xnatpy"),
            "rclone mount, cp -r": lambda: ways.by_rclone(plain),
        }
        result = Comparison(
            f"Cold copy of {files} files, 65 ms latency, beside other clients",
            "mount, cp -r, nothing known",
            "pyxnat at least 50 x, xnatpy at least 20 x, rclone mount at least 5 x the time of the mount",
            "Each from when it is connected or mounted. rclone reads the same files from nginx.",
        )
        report(result.measure(variants, arguments.runs), arguments)


def make_slices(folder: Path, slices: int) -> None:
    """A made-up MR series with as many slices of 256 x 256."""
    from xnatfs.demo.phantom import Scanner, Series, mr

    series = Series(
        "MR", 1, "T1", 7, "sub-01", 1, columns=256, rows=256, slices=slices, spacing=(1.0, 1.0), thickness=1.0,
        parameters=mr(),
    )  # fmt: skip
    scanner = Scanner(series)
    target = folder / "study" / SERIES
    target.mkdir(parents=True)
    for place in range(slices):
        (target / f"{place:05d}.dcm").write_bytes(scanner.dicom(place))


def conversion(arguments: argparse.Namespace, folder: Path) -> None:
    import dcm2niix

    slices = 40 if arguments.quick else 200
    make_slices(folder, slices)
    out, truth = folder / "nii", folder / "nii-truth"

    def convert(source: Path, target: Path) -> None:
        target.mkdir()
        run(dcm2niix.bin, "-o", target, "-f", "%s", source)

    convert(folder / "study" / SERIES, truth)
    expected = digest(truth)
    with Server({"kind": "directory", "path": folder / "study"}, latency=LATENCY) as server:
        ways = Copies(folder, server)

        def finished(seconds: float, what: str, **more: float) -> dict[str, float]:
            check(digest(out) == expected, what)
            shutil.rmtree(out)
            return counted(server, seconds, **more)

        def by_zip() -> dict[str, float]:
            server.reset()
            began = time.perf_counter()
            found = ways._zip(folder / "unzipped")
            convert(found, out)
            seconds = time.perf_counter() - began
            shutil.rmtree(folder / "unzipped")
            return finished(seconds, "dcm2niix of the zip")

        def by_mount(*, listed: bool = False) -> dict[str, float]:
            with mounted(server.url, folder) as mount:
                if listed:
                    run("ls", "-l", mount.root / SERIES)
                server.reset()
                before = mount.cpu
                seconds = timed(lambda: convert(mount.root / SERIES, out))
                return finished(seconds, "dcm2niix of the mount", daemon_CPU_s=mount.cpu - before)

        def local() -> dict[str, float]:
            server.reset()
            seconds = timed(lambda: convert(folder / "study" / SERIES, out))
            return finished(seconds, "dcm2niix of local files")

        variants: dict[str, Run] = {
            "curl zip + unzip + dcm2niix": by_zip,
            "mount, listed": lambda: by_mount(listed=True),
            "mount, nothing known": by_mount,
            "dcm2niix of local files": local,
        }
        result = Comparison(
            f"Cold dcm2niix of {slices} slices of 132 kB, 65 ms latency",
            "curl zip + unzip + dcm2niix",
            "at most 1.2 x the time",
        )
        report(result.measure(variants, arguments.runs), arguments)


def fetch_real(folder: Path) -> Path:
    """The real session that scripts/real_data.py downloads."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import real_data

    folder.mkdir(parents=True, exist_ok=True)
    return real_data.fetch(folder.resolve())


def headers(arguments: argparse.Namespace, folder: Path) -> None:
    study = fetch_real(arguments.real or folder / "real")
    session = Path("REAL") / "Case001" / "Case001_MR1"
    files = sorted(path for path in (study / session).glob("*/DICOM/*") if path.is_file())
    wanted = files[:: 8 if arguments.quick else 1]
    names = [str(path.relative_to(study)) for path in wanted]
    truth = _headers(study, names)
    megabytes = sum(path.stat().st_size for path in wanted) / 1e6
    for words, options in (
        ("no latency", {}),
        ("65 ms latency", {"latency": LATENCY}),
        ("13 ms of service, 2 at a time", {"service_time": 0.013}),
    ):
        with Server({"kind": "directory", "path": study}, **options) as server:
            with mounted(server.url, folder) as mount:  # the server has hashed all files once
                run("ls", "-R", mount.root / session)

            def by_mount(*flags: str, server: Server = server) -> dict[str, float]:
                with mounted(server.url, folder, *flags) as mount:
                    run("ls", "-R", mount.root / session)
                    server.reset()
                    began = time.perf_counter()
                    found = _headers(mount.root, names)
                    seconds = time.perf_counter() - began
                    check(found == truth, "headers")
                    return counted(server, seconds)

            def by_ranges(server: Server = server) -> dict[str, float]:
                """8 KiB of each over one connection: what a program made for this alone would do."""
                server.reset()
                return counted(server, _ranges(server.url, names, truth))

            variants: dict[str, Run] = {
                "8 KiB ranges by http.client": by_ranges,
                "mount": by_mount,
                "mount, --no-series": lambda: by_mount("--no-series"),
            }
            result = Comparison(
                f"Headers of {len(names)} DICOM files by pydicom, cold, {words}",
                "8 KiB ranges by http.client",
                "at most 3 MB by single fetches, or one archive, whichever is faster",
                f"{megabytes:.1f} MB of files in {len({path.parent for path in wanted})} series.",
            )
            report(result.measure(variants, arguments.runs), arguments)


def _headers(root: Path, names: list[str]) -> list[str]:
    import pydicom

    return [str(pydicom.dcmread(root / name, stop_before_pixels=True).SOPInstanceUID) for name in names]


def _ranges(url: str, names: list[str], truth: list[str]) -> float:
    import http.client
    import io
    from urllib.parse import quote

    import pydicom

    session = cookie(url)
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    found = []
    began = time.perf_counter()
    for name in names:
        project, subject, experiment, scan, resource, file = name.split("/", 5)
        path = f"/data/projects/{project}/subjects/{subject}/experiments/{experiment}/scans/{scan}/resources/{resource}"
        fields = {"Range": "bytes=0-8191", "Cookie": session}
        connection.request("GET", f"{path}/files/{quote(file)}", headers=fields)
        head = connection.getresponse().read()
        found.append(str(pydicom.dcmread(io.BytesIO(head), stop_before_pixels=True).SOPInstanceUID))
    seconds = time.perf_counter() - began
    connection.close()
    check(found == truth, "ranges")
    return seconds


PARTS = {
    "copies": (copies, "cp -r of 200 files against curl and unzip, at several latencies"),
    "clients": (clients, "the same at 65 ms against pyxnat, xnatpy and rclone mount"),
    "conversion": (conversion, "dcm2niix of a mounted series"),
    "headers": (headers, "pydicom's headers of 324 real DICOM files"),
}


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        print(CLIENTS[sys.argv[2]](sys.argv[3], Path(sys.argv[4])))
        return
    made = parser(__doc__ or "", {name: text for name, (_, text) in PARTS.items()})
    made.add_argument("--real", type=Path, metavar="DIR", help="where the real session is kept (default: fetched anew)")
    arguments = parse(made, PARTS)
    for part in arguments.parts:
        with scratch(arguments) as folder:
            PARTS[part][0](arguments, folder)


if __name__ == "__main__":
    main()
