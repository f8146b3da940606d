"""systemd units, one for each mount, for the user's manager or the system's.

Type=notify: what needs the mount starts when it answers. A wrong password or setting does not become better by trying
again, and would lock the account, so those exit statuses do not restart it; a server that is away is tried for every
minute, for good. No sandboxing options: they would put the service into a mount namespace of its own, where nobody sees
its mount.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from xnatfs.errors import SettingsError

MARK = "Made by 'xnatfs systemd install'"

CONFIG = "xnatfs.json"
"""Name of the credential that holds a config file."""

UNIT = """\
# {mark}; 'xnatfs systemd remove' removes it.
[Unit]
Description=XNAT archive on {point}
Documentation=man:xnatfs(1)
{after}StartLimitIntervalSec=0

[Service]
Type=notify
WorkingDirectory=/
{who}ExecStart={start}
ExecReload={reload}
ExecStop=-{stop}
Restart=on-failure
RestartSec=60
RestartPreventExitStatus=2 3 5 6
TimeoutStartSec=120
TimeoutStopSec=45

[Install]
WantedBy={wanted_by}
"""

NETWORK = "Wants=network-online.target\nAfter=network-online.target\n"


@dataclass(frozen=True, slots=True)
class Unit:
    """A service that mounts on ``point`` with these words of ``xnatfs mount``."""

    point: Path
    words: Sequence[str]
    system: bool
    config: Path | None = None
    """A config file with the login. The system's manager reads it as root and hands it on as a credential."""
    user: str | None = None
    """Who runs it; for the system's manager only."""

    def text(self) -> str:
        """The unit file. Raises `SettingsError` for a text that no unit file can hold."""
        who = [f"User={self.user}"] if self.user else []
        words = ["mount", "--foreground", *self.words]
        if self.config is not None and self.system:
            who.append(f"LoadCredential={CONFIG}:{_escaped(str(self.config))}")
        elif self.config is not None:
            words.append(f"--config={self.config}")
        start = _command(*words)
        if self.config is not None and self.system:
            start += f' "--config=${{CREDENTIALS_DIRECTORY}}/{CONFIG}"'
        return UNIT.format(
            mark=MARK,
            point=_escaped(str(self.point)),
            after=NETWORK if self.system else "",
            who="".join(f"{line}\n" for line in who),
            start=f"{start} -- {quoted(str(self.point))}",
            reload=_command("refresh", "--recursive", str(self.point)),
            stop=_command("umount", str(self.point)),
            wanted_by="multi-user.target" if self.system else "default.target",
        )


def _command(*words: str) -> str:
    return " ".join(quoted(word) for word in (sys.executable, "-m", "xnatfs", *words))


def _escaped(text: str) -> str:
    """A value in which ``%`` means itself (systemd.unit(5), "Specifiers")."""
    if not text.isprintable():
        raise SettingsError(f"{text!r} cannot stand in a unit file")
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """A word of a command line (systemd.service(5), "Command lines")."""
    text = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return text if re.fullmatch(r"[\w@%+=:,./$-]+", text) else f'"{text}"'


def unit_name(point: Path) -> str:
    """``xnatfs-home-me-xnat.service`` for ``/home/me/xnat``."""
    return "xnatfs-" + (re.sub(r"[^\w.:-]", "_", "-".join(point.parts[1:]), flags=re.ASCII) or "root") + ".service"


def directory(*, system: bool) -> Path:
    """Where an administrator's or a user's units are (systemd.unit(5), "Unit file load path")."""
    return Path("/etc/systemd/system") if system else platformdirs.user_config_path("systemd") / "user"


def write(unit: Unit, where: Path) -> Path:
    """Write the unit; its path. Raises `SettingsError`: another unit is in the way, or it cannot be written."""
    path, text = where / unit_name(unit.point), unit.text()
    if path.exists() and not _for(path, unit.point):
        raise SettingsError(f"{path} is there already, and not for {unit.point}; rename or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return path


def remove(point: Path, where: Path) -> Path:
    """Remove the unit of ``point``; its path. Raises `SettingsError` when there is none of ours."""
    path = where / unit_name(point)
    if not _for(path, point):
        raise SettingsError(f"{path}: no unit of 'xnatfs systemd install' for {point}")
    try:
        path.unlink()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return path


def _for(path: Path, point: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return MARK in text and f"\nDescription=XNAT archive on {_escaped(str(point))}\n" in text
