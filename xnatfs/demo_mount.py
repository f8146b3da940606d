"""``xnatfs demo``: the demo archive as a process beside a mount, started before it, ended with it, whatever ends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from xnatfs import mounting
from xnatfs.credentials import Credentials, Secret, scrub
from xnatfs.daemon import ending_on_signals
from xnatfs.errors import SettingsError
from xnatfs.settings import load

DEFAULT_POINT = Path("~/xnat-demo")
"""Where it is mounted when nothing else is said: a directory of its own, which goes again at the end."""

USER, PASSWORD = "admin", "admin"
"""The login of the demo archive."""

END_SECONDS = 5.0


class DemoArchive:
    """A stand-in XNAT on a free port of this machine, and a directory for its cache and mountpoint.

    It runs until `close`, or until the last process that has this object is gone: it watches a pipe whose other end
    is here, and that survives a fork.
    """

    def __init__(self, point: Path, arguments: Sequence[str]) -> None:
        """Start it. Raises `SettingsError` when it does not come up, with what it said."""
        self.point = point
        self._made_point = not point.exists()
        self.cache = Path(tempfile.mkdtemp(prefix="xnatfs-demo-"))
        said = self.cache / "server.log"
        with open(said, "wb") as log:
            self._process = self._start(arguments, log.fileno())
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        self.url = next((word for word in first.split() if word.startswith("http://")), "")
        if not self.url:
            problem = said.read_text(errors="replace").strip().removeprefix("xnatfs: ")
            self.close()
            raise SettingsError(problem or "the demo archive did not start")
        point.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _start(arguments: Sequence[str], errors: int) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own program, a list of words
            [sys.executable, "-m", "xnatfs", "demo", "--serve", "--until-eof", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the mount, which still needs it to log out
            env=scrub(),
            text=True,
        )

    def close(self) -> None:
        """End the archive and remove what was made for it. From the process that made it, or from its child."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)  # in a forked child: it is no child of ours, and this returns at once
        shutil.rmtree(self.cache, ignore_errors=True)
        if self._made_point:
            with suppress(OSError):
                self.point.rmdir()


def point_of(given: str | None) -> Path:
    """Where the demo archive is mounted, as an absolute path."""
    return Path(os.path.abspath((Path(given) if given else DEFAULT_POINT).expanduser()))  # noqa: PTH100


def plan(point: Path, arguments: Sequence[str], flags: dict[str, object]) -> tuple[mounting.Plan, Credentials]:
    """Start the demo archive and plan its mount; the archive ends with the mount. Raises like `mounting.plan`."""
    demo = DemoArchive(point, arguments)
    try:
        settings = load({"cache_dir": demo.cache / "files", **flags, "server": demo.url}, {})
        found = mounting.plan(settings, str(point), None)
    except BaseException:
        demo.close()
        raise
    return replace(found, at_end=demo.close), Credentials(USER, Secret(PASSWORD), "demo")


def serve(
    port: int, data: str | None, latency: float, faults: str | None, told: Callable[[str], None], *, until_eof: bool
) -> None:
    """Run the stand-in XNAT until it is interrupted, or until stdin ends. ``latency`` in seconds.

    Raises `SettingsError`: the extra is not installed, the port is taken, ``faults`` or ``data`` cannot be read.
    """
    try:
        from xnatfs import demo
    except ImportError as error:
        raise SettingsError(f"the demo needs {error.name}; install it: pip install 'xnatfs[demo]'") from None
    stop = threading.Event()
    if until_eof:
        threading.Thread(target=_set_at_eof, args=(stop,), daemon=True).start()
    try:
        with ending_on_signals(), suppress(KeyboardInterrupt):
            demo.serve(
                port=port,
                data=Path(data) if data else None,
                users={USER: PASSWORD},
                options=demo.ServerOptions(latency=latency),
                faults=Path(faults) if faults else None,
                ready=lambda server: told(
                    f"A stand-in XNAT runs at {server.url} (user {USER}, password {PASSWORD}); Ctrl-C ends it."
                ),
                stop=stop,
            )
    except ValueError as error:
        raise SettingsError(f"--faults {faults}: {error}") from None
    except OSError as error:
        if faults is not None and error.filename == faults:
            what = f"--faults {faults}"
        else:
            what = f"--data {data}" if isinstance(error, NotADirectoryError) else f"--port {port}"
        raise SettingsError(f"{what}: {error.strerror or error}") from None


def _set_at_eof(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()
