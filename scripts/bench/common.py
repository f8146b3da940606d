"""What the benchmarks share: interleaved runs, tables, a server in a process of its own, nginx before it, mounts.

Every comparison runs its variants in turn (A B C, then C B A, ...), so that whatever else the machine does meets all
of them. Ratios are taken within a round and then the median of them; the spread is the least and the greatest round.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20
USER, PASSWORD = "admin", "admin"
SESSION = Path("P/S/E")
"""Where the studies made here have their scans: project, subject, session."""

# --- comparisons -------------------------------------------------------------------------------------------------

Run = Callable[[], Mapping[str, float]]
"""One run of one variant: measures by name; the first is what the comparison is about."""


@dataclass
class Comparison:
    """The samples of some variants, and what was demanded of them."""

    title: str
    base: str
    """The variant that the others are put in relation to."""
    demand: str = ""
    note: str = ""
    samples: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def measure(self, variants: Mapping[str, Run], runs: int) -> Comparison:
        """Run all variants in turn, ``runs`` times."""
        names = list(variants)
        for number in range(runs):
            for name in names if number % 2 == 0 else reversed(names):
                self.samples.setdefault(name, []).append(dict(variants[name]()))
                first = next(iter(self.samples[name][-1].items()))
                say(f"  {self.title} | round {number + 1}/{runs} | {name}: {first[1]:.3f} {first[0]}")
        self.samples = {name: self.samples[name] for name in names}
        return self

    @property
    def measures(self) -> list[str]:
        return list(dict.fromkeys(key for rows in self.samples.values() for row in rows for key in row))

    def values(self, variant: str, measure: str) -> list[float]:
        return [row[measure] for row in self.samples[variant] if measure in row]

    def ratios(self, variant: str) -> list[float]:
        """What is measured, in relation to the base variant in the same round."""
        measure = self.measures[0]
        pairs = zip(self.values(variant, measure), self.values(self.base, measure), strict=False)
        return [mine / other for mine, other in pairs if other]

    def table(self) -> tuple[list[str], list[list[str]]]:
        first, *others = self.measures
        head = ["variant", f"{first}, median", "min - max", f"ratio to {self.base}", "min - max", *others]
        body = []
        for name in self.samples:
            values, ratios = self.values(name, first), self.ratios(name)
            line = [name, number(statistics.median(values)), f"{number(min(values))} - {number(max(values))}"]
            if ratios:
                line += [number(statistics.median(ratios)), f"{number(min(ratios))} - {number(max(ratios))}"]
            else:
                line += ["", ""]
            for measure in others:
                found = self.values(name, measure)
                line.append(number(statistics.median(found)) if found else "")
            body.append(line)
        return head, body


def number(value: float) -> str:
    """Three significant digits, and whole numbers whole."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def say(text: str) -> None:
    """Progress, for whoever waits; never part of the result."""
    print(text, file=sys.stderr, flush=True)


def show(comparison: Comparison) -> None:
    """A table: drawn on a terminal, else as markdown."""
    head, body = comparison.table()
    notes = [text for text in (f"Demanded: {comparison.demand}." if comparison.demand else "", comparison.note) if text]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=comparison.title, caption="\n".join(notes))
        for column, name in enumerate(head):
            table.add_column(name, justify="right" if column else "left")
        for line in body:
            table.add_row(*line)
        Console().print(table)
        return
    print(f"\n### {comparison.title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" + "---:|" * (len(head) - 1))
    for line in body:
        print("| " + " | ".join(line) + " |")
    for note in notes:
        print(f"\n{note}")
    sys.stdout.flush()


def report(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """Show it now, and keep it for ``--json``."""
    show(comparison)
    if arguments.json is not None:
        known = json.loads(arguments.json.read_text())["comparisons"] if arguments.json.exists() else []
        known = [one for one in known if one["title"] != comparison.title] + [asdict(comparison)]
        arguments.json.write_text(json.dumps({"machine": machine(), "comparisons": known}, indent=1))


def parser(doc: str, parts: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    lines = "\n".join(f"  {name:<14} {text}" for name, text in parts.items())
    made = argparse.ArgumentParser(
        description=f"{doc}\n\nparts:\n{lines}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("parts", nargs="*", metavar="PART", help="what to measure (default: all)")
    made.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each variant (default 5)")
    made.add_argument("--quick", action="store_true", help="small data, to see that it works; no figures to quote")
    made.add_argument("--json", type=Path, metavar="FILE", help="add all samples to this file")
    made.add_argument(
        "--scratch", type=Path, metavar="DIR", default=_scratch_default(), help="where data and caches go"
    )
    return made


def parse(made: argparse.ArgumentParser, parts: Mapping[str, Any]) -> argparse.Namespace:
    arguments = made.parse_args()
    unknown = [part for part in arguments.parts if part not in parts]
    if unknown:
        made.error(f"no part is called {unknown[0]}; there are {', '.join(parts)}")
    arguments.parts = arguments.parts or list(parts)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was mounted is unmounted
    return arguments


def _scratch_default() -> Path:
    """Memory where there is enough of it: a disk shared with others is what one would measure otherwise."""
    memory = Path("/dev/shm")
    with_room = memory.is_dir() and shutil.disk_usage(memory).free > 12 * 2**30
    return memory if with_room else Path(tempfile.gettempdir())


@contextmanager
def scratch(arguments: argparse.Namespace) -> Iterator[Path]:
    """A directory for this run, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="xnatfs-bench-", dir=arguments.scratch) as made:
        yield Path(made)


def machine() -> str:
    """One line on what this was measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


# --- processes ---------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """Bytes of resident memory at most (VmHWM)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))


def drop_caches() -> None:
    """The kernel forgets pages, names and attributes that it can read again. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run(*command: str | Path, **more: Any) -> None:
    """A command that has to succeed and say nothing."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **more)


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **more}


def end(process: subprocess.Popen[Any], how: int = signal.SIGTERM) -> None:
    """End a process that we started, at all costs."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the server --------------------------------------------------------------------------------------------------


class Server:
    """A demo server in a process of its own (see server.py), asked over a pipe what it was asked for."""

    def __init__(self, archive: Mapping[str, Any], **options: Any) -> None:
        script = Path(__file__).with_name("server.py")
        plan = json.dumps({"archive": archive, "options": options}, default=str)
        self.process = subprocess.Popen(
            [sys.executable, str(script), plan],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        self.url = str(self._answer()["url"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the demo server ended")
        return dict(json.loads(line))

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def reset(self) -> None:
        """Forget the requests so far."""
        self.ask(do="reset")

    def log(self) -> dict[str, float]:
        """Since then: requests for contents, all others, and bytes of contents."""
        return self.ask(do="log")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        end(self.process)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cookie(url: str) -> str:
    """A session on a server, as the value of a Cookie header."""
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(f"{url}/data/JSESSION", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request) as answer:
        return f"JSESSIONID={answer.read().decode()}"


def curl(server: str, path: str, *options: str | Path, session: str) -> None:
    """One request as curl makes it, with the cookie of a session; it has to succeed."""
    run("curl", "--silent", "--show-error", "--fail", "--cookie", session, *options, f"{server}{path}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


_NGINX = """
{modules}
{user}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    {upstream}
    server {{
        listen 127.0.0.1:{port} backlog=512;
        {locations}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, root: Path, behind: str = "", latency: float = 0.0) -> Iterator[str]:
    """nginx on a free port; gives its URL.

    With ``behind``, everything goes to that server, and what this answers with X-Accel-Redirect is sent from ``root``
    by sendfile. Without, ``root`` is served as plain files with an index, each request ``latency`` seconds late.
    """
    folder.mkdir()
    port, upstream, modules = free_port(), "", ""
    if behind:
        upstream = f"upstream demo {{ server {behind.removeprefix('http://')}; keepalive 32; }}"
        locations = (
            'location / { proxy_pass http://demo; proxy_http_version 1.1; proxy_set_header Connection "";'
            " proxy_set_header Host $http_host; proxy_buffering off; }"
            f" location /offload/ {{ internal; alias {root}/; }}"
        )
    elif latency:
        modules = "load_module modules/ngx_http_echo_module.so;"
        locations = (
            f"location / {{ echo_sleep {latency}; echo_exec /now$uri; }}"
            f" location /now/ {{ internal; alias {root}/; autoindex on; }}"
        )
    else:
        locations = f"location / {{ root {root}; autoindex on; }}"
    text = _NGINX.format(
        modules=modules,
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        upstream=upstream,
        port=port,
        locations=locations,
    )
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-p", "/usr/share/nginx", "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"nginx did not start: {folder / 'nginx.log'}") from None
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


# --- mounts ------------------------------------------------------------------------------------------------------


@dataclass
class Mounted:
    root: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def session(self) -> Path:
        return self.root / SESSION

    @property
    def cpu(self) -> float:
        return cpu_seconds(self.process.pid)

    @property
    def memory(self) -> int:
        return peak_memory(self.process.pid)


@contextmanager
def mounted(url: str, base: Path, *options: str) -> Iterator[Mounted]:
    """``xnatfs mount --foreground`` with a cache of its own, both gone afterwards; live when this gives it."""
    with tempfile.TemporaryDirectory(prefix="mount-", dir=base) as made:
        folder = Path(made)
        point, log = folder / "mnt", folder / "log"
        point.mkdir()
        command = [sys.executable, "-m", "xnatfs", "mount", url, str(point), "--foreground"]
        command += ["--cache-dir", str(folder / "cache"), *options]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                env=environment(folder, XNAT_USER=USER, XNAT_PASS=PASSWORD),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            _wait_for_line(process, log)
            yield Mounted(point, process, log)
        finally:
            end(process)
            if os.path.ismount(point):
                run("umount", "-l", point)


def _wait_for_line(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    until = time.monotonic() + 60
    line = b""
    while b"is mounted on" not in line:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        line = process.stdout.readline() if ready else b""
        if not line:
            raise SystemExit(f"the mount did not come up: {log.read_text(errors='replace')}")
    time.sleep(0.2)  # the read-ahead is raised just after


@contextmanager
def peer_mount(base: Path, command: list[str], point_at: int) -> Iterator[Path]:
    """Another program's mount: ``command`` with the mountpoint put in at that place."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=base) as made, ExitStack() as ends:
        point = Path(made) / "mnt"
        point.mkdir()
        log = ends.enter_context((Path(made) / "log").open("wb"))
        words = [*command[:point_at], str(point), *command[point_at:]]
        process = subprocess.Popen(words, env=environment(Path(made)), stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while not os.path.ismount(point):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{words[0]} did not mount: {(Path(made) / 'log').read_text(errors='replace')}")
                time.sleep(0.02)
            yield point
        finally:
            end(process)
            if os.path.ismount(point):
                run("umount", "-l", point)


# --- data --------------------------------------------------------------------------------------------------------


def make_file(path: Path, size: int, seed: int = 1) -> None:
    """Bytes of no pattern that a cache or a disk could profit from, the same in every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, 16 * MIB):
            file.write(chance.randbytes(min(16 * MIB, size - start)))


def make_series(folder: Path, files: int, least: int = 2048, most: int = 300 * 1024) -> None:
    """A resource of many files of deterministic sizes and contents."""
    sizes = random.Random(2)
    for place in range(files):
        make_file(folder / f"{place:05d}.dcm", sizes.randint(least, most), seed=1000 + place)


def digest(path: Path) -> str:
    """Of a file, or of all files below a directory with their names."""
    total = hashlib.md5(usedforsecurity=False)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            total.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as opened:
            while piece := opened.read(MIB):
                total.update(piece)
    return total.hexdigest()


def check(right: bool, what: str) -> None:
    """A fast wrong result is none: ends the benchmark."""
    if not right:
        raise SystemExit(f"wrong bytes: {what}")
