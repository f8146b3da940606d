"""Mounting as the system sees it: options, the table of mounts, dead mounts, unmounting. Knows no libfuse.

`os.path.ismount` says no to a mount whose daemon died, and ``makedirs(exist_ok=True)`` fails on it. So this module
reads ``/proc/self/mountinfo``, and asks a mount with ``statvfs``, which the kernel never answers from a cache.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xnatfs.errors import FuseMissing, MountpointError, SettingsError
from xnatfs.options import split_options

SUBTYPE = "xnatfs"
INSTALL = "apt-get install fuse3 libfuse2 (libfuse2t64 on newer systems)"
KERNEL_SHARE = 0.25
"""Part of the time to live for which the kernel keeps names and attributes. Listings are kept for the rest of it, so
that nothing is seen that is older."""
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED}


# --- options ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MountOptions:
    """How the mount is made. Times in seconds; ``uid`` and ``gid`` None mean those of the process."""

    ttl: float = 60.0
    """How long metadata is good, what the kernel keeps of it included; see `KERNEL_SHARE`."""
    negative_ttl: float = 5.0
    """How long the kernel remembers that a name does not exist."""
    allow_other: bool = False
    allow_root: bool = False
    default_permissions: bool = True
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    nonempty: bool = False
    auto_unmount: bool = False
    fsname: str = SUBTYPE
    """What ``df`` and ``findmnt`` show as the source: the server, never with credentials."""
    subtype: str = SUBTYPE
    """The type is ``fuse.`` and this."""
    max_background: int = 200
    """Reads that may wait in the kernel at once; its default of 12 lets twelve slow reads stop all others."""
    read_ahead: int = 512
    """KiB the kernel reads ahead, set where permitted (root)."""
    threads: int = 3
    """Threads to start with; more come while these wait for the server."""
    max_threads: int = 256

    def kernel_options(self) -> dict[str, str | bool]:
        """What fusepy passes on as ``-o`` options; False drops one."""
        keep = self.ttl * KERNEL_SHARE
        options: dict[str, str | bool] = {
            "ro": True,
            "use_ino": True,
            "attr_timeout": f"{keep:g}",
            "entry_timeout": f"{keep:g}",
            "negative_timeout": f"{min(self.negative_ttl, keep):g}",
            "max_background": str(self.max_background),
            "congestion_threshold": str(self.max_background * 3 // 4),
            "fsname": re.sub(r"([\\,])", r"\\\1", self.fsname),
            "subtype": re.sub(r"([\\,])", r"\\\1", self.subtype),
        }
        for flag in _FLAGS:
            options[flag] = bool(getattr(self, flag))
        for word, flag in _OPPOSITES.items():
            options[word] = not getattr(self, flag)  # libfuse says nosuid and nodev by itself
        return options


_FLAGS = (
    "allow_other",
    "allow_root",
    "default_permissions",
    "nosuid",
    "nodev",
    "noexec",
    "nonempty",
    "auto_unmount",
)
_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_FOR_OTHERS = frozenset(
    (
        *("ro", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"),
        *("sync", "async", "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "lazytime", "nolazytime", "silent", "loud", "uhelper", "helper", "comment"),
    )
)
"""True of every mount of ours, or meant for mount(8) and systemd: accepted and not passed on."""


def parse_options(texts: Iterable[str] | str, base: MountOptions | None = None) -> MountOptions:
    """What ``-o`` says, on top of ``base``. Takes one text or several.

    Accepts what people bring from mount(8), fstab and other FUSE file systems. Raises `SettingsError` naming an
    option that is unknown, has a value that makes no sense, or cannot be had (``rw``).
    """
    given = split_options([texts] if isinstance(texts, str) else texts)
    return mount_options(given, base or MountOptions())


def mount_options(given: Mapping[str, str | None], base: MountOptions) -> MountOptions:
    """`parse_options` for what `split_options` returned, so that a caller can take its own options out before."""
    changes: dict[str, object] = {}
    for name, value in given.items():
        if name == "rw":
            raise SettingsError("-o rw: an XNAT mount is read-only; leave the option out")
        if name in _FLAGS or name in _OPPOSITES:
            if value is not None:
                raise SettingsError(f"-o {name}={value}: {name} takes no value")
            changes[_OPPOSITES.get(name, name)] = name in _FLAGS
        elif name in _VALUES:
            field, parse = _VALUES[name]
            try:
                changes[field] = parse(value or "")
            except (ValueError, KeyError):
                raise SettingsError(f"-o {name}={value or ''}: no valid value for {name}") from None
        elif not known(name):
            raise SettingsError(_unknown(name))
    return replace(base, **changes)  # type: ignore[arg-type]  # the fields are checked above


def known(name: str) -> bool:
    """May the option stand after ``-o``? Whatever its value; the settings of the command line are none of these."""
    table = name in _FLAGS or name in _OPPOSITES or name in _VALUES or name in _FOR_OTHERS
    return table or name.startswith(("x-", "X-"))


def _unknown(name: str) -> str:
    if name in ("pass", "password"):
        return f"-o {name}: others can read mount options; put the password into a file for config=FILE (mode 0600)"
    return f"-o {name}: unknown mount option"


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds


def _umask(text: str) -> int:
    umask = int(text, 8)
    if not 0 <= umask <= 0o777:
        raise ValueError(text)
    return umask


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


_VALUES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "uid": ("uid", lambda text: int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid),
    "gid": ("gid", lambda text: int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid),
    "umask": ("umask", _umask),
    "ttl": ("ttl", _seconds),
    "negative_ttl": ("negative_ttl", _seconds),
    "negative_timeout": ("negative_ttl", _seconds),
    "max_background": ("max_background", _natural),
    "read_ahead": ("read_ahead", _natural),
    "threads": ("threads", _natural),
    "max_threads": ("max_threads", _natural),
    "fsname": ("fsname", _text),
    "subtype": ("subtype", _text),
}


def check_rights(options: MountOptions, *, fuse_conf: Path = Path("/etc/fuse.conf")) -> None:
    """Raise `FuseMissing` or `SettingsError`, with the remedy, for what the kernel or fusermount would refuse."""
    if not Path("/dev/fuse").exists():
        raise FuseMissing(f"/dev/fuse is missing: FUSE is not set up here. Remedy: {INSTALL}, or modprobe fuse")
    if os.geteuid() == 0:
        return
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):  # fusermount opens it as who calls it
        raise FuseMissing("/dev/fuse may not be opened by this user. Remedy, as root: chmod 666 /dev/fuse")
    if fusermount() is None:
        raise FuseMissing(f"fusermount is missing, without which only root can mount. Remedy: {INSTALL}")
    if options.allow_other or options.allow_root:
        allowed = fuse_conf.exists() and re.search(r"(?m)^\s*user_allow_other\b", fuse_conf.read_text())
        if not allowed:
            name = "allow_other" if options.allow_other else "allow_root"
            raise SettingsError(f"-o {name}: only root may, unless {fuse_conf} has a line user_allow_other")


# --- the table of mounts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MountEntry:
    """One line of mountinfo. ``device`` is MAJOR:MINOR."""

    mountpoint: str
    source: str
    fstype: str
    options: tuple[str, ...]
    device: str

    @property
    def ours(self) -> bool:
        return self.fstype == f"fuse.{SUBTYPE}"


def parse_mountinfo(text: str) -> list[MountEntry]:
    """proc(5): ``36 35 98:0 /root /mountpoint options [optional fields] - fstype source super-options``."""
    entries = []
    for line in text.split("\n"):
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6 and len(tail) >= 2:
            options = (*fields[5].split(","), *(tail[2].split(",") if len(tail) > 2 else ()))
            entries.append(MountEntry(_unescape(fields[4]), _unescape(tail[1]), _unescape(tail[0]), options, fields[2]))
    return entries


def _unescape(field: str) -> str:
    """The kernel writes blank, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounts() -> list[MountEntry]:
    """What is mounted, as this process sees it, oldest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def real(path: str | os.PathLike[str]) -> str:
    """The path as mountinfo has it. Does not touch the last component, which may be a dead mount."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the last component
    return str(plain.parent.resolve() / plain.name)


def find(path: str | os.PathLike[str]) -> MountEntry | None:
    """The topmost mount on exactly this directory. A symbolic link to a mountpoint is followed."""
    listed = {entry.mountpoint: entry for entry in mounts()}
    return listed.get(real(path)) or listed.get(os.path.realpath(path))


def is_mounted(path: str | os.PathLike[str]) -> bool:
    return find(path) is not None


def is_dead(path: str | os.PathLike[str]) -> bool:
    """A mount whose daemon is gone: every access answers "Transport endpoint is not connected"."""
    try:
        os.statvfs(path)
    except OSError as problem:
        return problem.errno in _DEAD
    return False


def check_mountpoint(path: str | os.PathLike[str], *, nonempty: bool = False) -> str:
    """The absolute path to mount on. Clears a dead mount that is in the way. Raises `MountpointError`."""
    if is_dead(path):
        unmount(path, lazy=True)
    entry = find(path)
    if entry is not None and entry.ours:
        raise MountpointError(f"{path}: {entry.source} is mounted there already; xnatfs umount {path} ends it")
    try:
        names = list(Path(path).iterdir())
    except FileNotFoundError:
        raise MountpointError(f"{path}: no such directory; mkdir -p {path} makes it") from None
    except NotADirectoryError:
        raise MountpointError(f"{path}: not a directory") from None
    except OSError as problem:
        raise MountpointError(f"{path}: cannot be read ({problem.strerror})") from None
    if names and not nonempty:
        raise MountpointError(f"{path}: not empty; take an empty directory, or -o nonempty to cover what is in it")
    return os.path.realpath(path)


# --- unmounting ------------------------------------------------------------------------------------------------


def fusermount() -> str | None:
    return shutil.which("fusermount3") or shutil.which("fusermount")


def unmount(path: str | os.PathLike[str], lazy: bool = False) -> None:
    """Unmount. A dead mount is always cleared. ``lazy``: leave the tree at once, end when the last user has left it.

    Raises `MountpointError`: not mounted, busy (and by whom, as far as that can be seen), refused.
    """
    dead = is_dead(path)
    entry = find(path)
    if entry is None:
        raise MountpointError(f"{path}: not mounted")
    said = ""
    for command in _unmount_commands(entry.mountpoint, lazy or dead):
        done = subprocess.run(  # noqa: S603  # a list of words, no shell
            command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
        if done.returncode == 0:
            return
        said = done.stderr.strip() or said
    if find(path) is None:
        return
    if "busy" in said:
        users = ", ".join(holders(entry.mountpoint)) or "a program that cannot be seen from here"
        raise MountpointError(
            f"{path}: busy, in use by {users}; leave the directory or close the files, then try again"
        )
    raise MountpointError(f"{path}: cannot be unmounted: {said.splitlines()[-1] if said else 'no reason given'}")


def _unmount_commands(mountpoint: str, lazy: bool) -> Iterator[list[str]]:
    helper, umount = fusermount(), shutil.which("umount")
    by_root = [umount, *(["-l"] if lazy else []), mountpoint] if umount else None
    by_user = [helper, "-u", *(["-z"] if lazy else []), mountpoint] if helper else None
    for command in (by_root, by_user) if os.geteuid() == 0 else (by_user, by_root):
        if command:
            yield command


def holders(mountpoint: str, limit: int = 5) -> list[str]:
    """Programs with their working directory or an open file below, as ``name (pid)``; those one may see."""
    found: list[str] = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if any(link == mountpoint or link.startswith(mountpoint + "/") for link in _links(process)):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"{name} ({process.name})")
            if len(found) == limit:
                break
    return found


def _links(process: Path) -> Iterator[str]:
    """Where a process is and what it has open. Reads links of /proc only, so that a hung mount is not touched."""
    try:
        names = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        names = [process / "cwd"]
    for name in names:
        try:
            yield str(name.readlink())
        except OSError:
            continue
