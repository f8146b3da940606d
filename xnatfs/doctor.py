"""Checks of everything that a mount needs, each with what was found and what to do. Changes nothing.

What is asked of the server: who it is, then one login, once; a refused password is not sent again. The account's rights
are not looked into.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xnatfs import __version__, fuse_mount, mounted
from xnatfs.cache.disk import TAG
from xnatfs.credentials import Credentials
from xnatfs.deadlines import Deadline
from xnatfs.errors import (
    CacheFault,
    FuseMissing,
    LoginFailed,
    MountpointError,
    SettingsError,
    XnatfsError,
)
from xnatfs.settings import Settings
from xnatfs.units import size
from xnatfs.xnat.client import Client

SKEW = 120.0
"""Seconds by which two clocks may differ; beyond that, certificates and times of files begin to look wrong."""
SMALL = 2**30
"""Bytes; with less free space a cache is of little use."""
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    what: str
    state: str
    """``ok``, ``warn`` (a mount works, but) or ``fail`` (it does not)."""
    found: str
    remedy: str = ""
    kind: type[XnatfsError] = XnatfsError
    """What a mount would fail with."""

    def document(self) -> dict[str, str]:
        """As JSON shows it."""
        return {"check": self.what, "state": self.state, "found": self.found, "remedy": self.remedy}


Checks = Iterator[Check]


def of_error(what: str, error: XnatfsError) -> Check:
    """A failure in its own words, which name the remedy where there is one."""
    found, _, remedy = str(error).partition("; ")
    if not remedy:
        found, _, remedy = str(error).partition(" Remedy: ")
    return Check(what, FAIL, found, remedy, type(error))


# -- this machine ----------------------------------------------------------------------------------------------------


def fuse(
    load: Callable[[], None], device: Path = Path("/dev/fuse"), conf: Path = Path("/etc/fuse.conf"), root: bool = True
) -> Checks:
    """What mounting needs. ``load`` loads libfuse or raises `FuseMissing`; ``root``: who asks may mount by himself."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = f"{fuse_mount.INSTALL}; modprobe fuse; in a container --device {device}"
        yield Check("fuse device", FAIL, f"{device} is missing", remedy, FuseMissing)
    except OSError as error:
        remedy = f"chmod 666 {device} as root; in a container --device {device} --cap-add SYS_ADMIN"
        yield Check("fuse device", FAIL, f"{device}: {error.strerror}", remedy, FuseMissing)
    else:
        yield Check("fuse device", OK, f"{device} can be opened")
    try:
        load()
    except FuseMissing as error:
        yield of_error("libfuse", error)
    else:
        yield Check("libfuse", OK, "libfuse 2.9 can be loaded")
    yield _fusermount(fuse_mount.fusermount(), root)
    allowed = conf.exists() and re.search(r"(?m)^\s*user_allow_other\b", conf.read_text(errors="replace"))
    state = "may" if allowed or root else "may not"
    remedy = "" if allowed or root else f"if others shall see your mounts: the line user_allow_other in {conf}"
    yield Check("allow_other", OK, f"you {state} use -o allow_other", remedy)


def _fusermount(path: str | None, root: bool) -> Check:
    needed = WARN if root else FAIL
    if path is None:
        return Check("fusermount", needed, "there is no fusermount3", fuse_mount.INSTALL, FuseMissing)
    info = Path(path).stat()
    if not (info.st_mode & stat.S_ISUID and info.st_uid == 0):
        return Check("fusermount", needed, f"{path} does not run as root", f"chmod u+s {path} as root", FuseMissing)
    return Check("fusermount", OK, f"{path} is there and runs as root")


def files(paths: dict[str, Path]) -> Checks:
    """Files that may hold a password, by what they are: readable by their owner only."""
    for what, path in paths.items():
        try:
            info = path.stat()
        except OSError:
            continue
        text = path.read_text(errors="replace") if os.access(path, os.R_OK) else ""
        if info.st_mode & 0o077 and "password" in text:
            yield Check(
                what, FAIL, f"{path} holds a password and is open to others", f"chmod 600 {path}", SettingsError
            )
        else:
            yield Check(
                what, OK, f"{path} is for you only" if not info.st_mode & 0o077 else f"{path} holds no password"
            )


def cache(settings: Settings) -> Checks:
    """The directory of the file cache: whose it is, whether it can be written, what space there is."""
    directory = settings.cache_dir.value
    place = next(path for path in (directory, *directory.parents) if path.exists())
    other = "--cache-dir names another"
    if not place.is_dir():
        yield Check("cache", FAIL, f"{place} is no directory", other, CacheFault)
        return
    if place == directory:
        if place.stat().st_uid != os.geteuid():
            yield Check("cache", FAIL, f"{directory} belongs to another user", other, CacheFault)
            return
        names = {path.name for path in place.iterdir()} - {"lost+found"}
        if names and TAG not in names:
            yield Check("cache", FAIL, f"{directory} holds other files ({min(names)!r})", other, CacheFault)
            return
    if not os.access(place, os.W_OK | os.X_OK):
        yield Check("cache", WARN, f"{place} cannot be written: files are kept only while they are open", other)
        return
    disk = os.statvfs(place)
    if disk.f_flag & os.ST_RDONLY:
        yield Check("cache", WARN, f"{place} is on a read-only disk: files are kept only while they are open", other)
        return
    free = disk.f_bavail * disk.f_frsize - (settings.min_free.value or 0)
    found = f"{directory}: {size(max(0, free))} free for it, at most {size(settings.cache_size.value)} used"
    if free < min(SMALL, settings.cache_size.value):
        yield Check("cache", WARN, found, f"free some space, or {other}")
    else:
        yield Check("cache", OK, found)


def stale() -> Checks:
    """Mounts whose process is gone."""
    found = list(mounted.mounts(patience=2.0))
    for mount in found:
        if mount.state != "live":
            dead = mount.state == "dead"
            said = f"{mount.mountpoint}: " + ("its process is gone" if dead else "not yours, or it does not answer")
            remedy = f"xnatfs umount {mount.mountpoint}" if dead else ""
            yield Check("mounts", WARN, said, remedy, MountpointError)
    live = sum(mount.state == "live" for mount in found)
    yield Check("mounts", OK, f"{live} of yours {'is' if live == 1 else 'are'} live")


def program() -> Check:
    return Check("program", OK, f"xnatfs {__version__}, Python {sys.version.split()[0]}")


# -- the server ------------------------------------------------------------------------------------------------------


def server(
    client: Client,
    settings: Settings,
    login: Callable[[], Credentials | None] | None,
    clock: Callable[[], float] = time.time,
) -> Checks:
    """Can it be reached, is it what it should be, do the clocks agree, does it take the login?

    ``client`` is a guest's. ``login`` finds user and password, and may ask a person; it is called only when there is
    somebody to send them to. None: the login is left out.
    """
    seconds = settings.metadata_timeout.value
    try:
        asked = clock()
        greeting = client.greeting(Deadline(seconds))
        answered = clock()
    except XnatfsError as error:
        yield of_error("server", error)
        return
    yield Check("server", OK, f"{client.server.url} answers")
    yield _tls(client.server.url, settings.verify.value is not False)
    yield _version(greeting.version)
    yield _clock(greeting.date, asked, answered)
    if login is None:
        return
    try:
        who = login()
        client.relogin(who)
        name = client.login(Deadline(seconds))
    except LoginFailed as error:
        remedy = "xnatfs config show says where user and password come from"
        yield Check("login", FAIL, str(error), remedy, LoginFailed)
        return
    except XnatfsError as error:
        yield of_error("login", error)
        return
    yield Check("login", OK, f"as {name}" + ("" if who else ", without a login of yours"))


def _tls(url: str, verified: bool) -> Check:
    if not url.startswith("https://"):
        return Check("tls", WARN, "the connection is not encrypted", "give the address with https:// if the server can")
    if not verified:
        return Check("tls", WARN, "the certificate is not checked", "--ca FILE names the one to trust")
    return Check("tls", OK, "encrypted, and the certificate is trusted")


def _version(version: str) -> Check:
    if not version:
        return Check("xnat", WARN, "the server does not say which XNAT it is", "is this the address of an XNAT?")
    if (found := re.match(r"(\d+)\.(\d+)", version)) and (int(found[1]), int(found[2])) < (1, 7):
        return Check("xnat", WARN, f"XNAT {version} is older than what xnatfs was tried with (1.7)")
    return Check("xnat", OK, f"XNAT {version}")


def _clock(date: float | None, asked: float, answered: float) -> Check:
    if date is None:
        return Check("clock", WARN, "the server does not say what time it is")
    ahead = max(0.0, date - answered) - max(0.0, asked - 1.0 - date)  # its header has whole seconds, cut off
    if abs(ahead) > SKEW:
        way = "ahead of" if ahead > 0 else "behind"
        remedy = "set the clock of this machine, or tell the server's people"
        return Check("clock", WARN, f"the server's clock is {abs(ahead):.0f} s {way} this one", remedy)
    return Check("clock", OK, "the server's clock agrees with this one")


# -- all of it -------------------------------------------------------------------------------------------------------


def worst(checks: list[Check]) -> Check | None:
    """The first that fails."""
    return next((check for check in checks if check.state == FAIL), None)


def no_server() -> Check:
    return Check("server", WARN, "none is named, so none was asked", "xnatfs doctor https://host")
