"""`xnatfs install-helpers`: what lets mount(8), man(1) and the shells know xnatfs, put in place and taken away.

Every file that is written holds `MARK`; a file without it belongs to somebody else and is neither overwritten nor
removed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from xnatfs.errors import SettingsError

MARK = "Installed by 'xnatfs install-helpers'"
HELPERS = ("sbin/mount.xnatfs", "sbin/mount.fuse.xnatfs")
"""mount(8) looks in /sbin for the helper of the type, and for the longer name before mount.fuse."""

HELPER = """\
#!/bin/sh
# {mark}; 'xnatfs install-helpers --remove' removes it. See mount.xnatfs(8).
[ -x {python} ] || {{ echo "xnatfs: the Python that this was installed with is gone: "{python} >&2; exit 2; }}
exec {python} -I -m xnatfs.mount_helper "$@"
"""
"""``-I``, because root may call it from any directory, whose modules must not be imported."""


def helper_script(python: str = sys.executable) -> str:
    """The helper for xnatfs as it is installed for this interpreter."""
    return HELPER.format(mark=MARK, python=shlex.quote(python))


def install(top: Path, texts: Mapping[str, str]) -> Iterator[Path]:
    """Write helpers (0755) and ``texts`` (0644, by path) below ``top``; yields each path when it is written.

    Raises `SettingsError`: a file of somebody else is in the way, no right to write, or a copy of xnatfs that root
    cannot import.
    """
    _check_interpreter()
    wanted = {**dict.fromkeys(HELPERS, helper_script()), **{name: _marked(name, text) for name, text in texts.items()}}
    for name in wanted:
        if (top / name).exists() and not _ours(top / name):
            raise SettingsError(f"{top / name} is there already and not of 'xnatfs install-helpers'; remove it first")
    for name, text in wanted.items():
        path = top / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # not through a link, nor into a script that is running
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if name in HELPERS else 0o644)
        except OSError as error:
            raise _refused(path, error) from None
        yield path


def remove(top: Path, names: Iterable[str]) -> Iterator[Path]:
    """Remove what `install` wrote; yields each path removed. Raises `SettingsError` without the right to."""
    for name in (*HELPERS, *names):
        path = top / name
        if not _ours(path):
            continue
        try:
            path.unlink()
        except OSError as error:
            raise _refused(path, error) from None
        yield path


def _marked(name: str, text: str) -> str:
    comment = '.\\"' if name.endswith((".1", ".8")) else "#"
    return f"{text}{comment} {MARK}\n"


def _ours(path: Path) -> bool:
    try:
        return MARK in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _refused(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"{path}: {error.strerror}; run it as root (sudo {sys.argv[0]} install-helpers), or give --dest"
    )


def _check_interpreter() -> None:
    command = [sys.executable, "-I", "-c", "import xnatfs.mount_helper"]
    if subprocess.run(command, capture_output=True, cwd="/", check=False).returncode:  # noqa: S603 - ourselves
        raise SettingsError(
            "this xnatfs can be imported by this user only (pip install --user, or PYTHONPATH); "
            "install it into a venv or with pipx, and call install-helpers from there"
        )
