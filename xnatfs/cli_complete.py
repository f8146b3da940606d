"""Shell completion: click's, with scripts that go on after a directory, and with paths of the archive.

Whatever goes wrong while a path is completed, the shell is offered nothing and shown nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import platformdirs
from click.shell_completion import BashComplete, CompletionItem, ShellComplete, ZshComplete, add_completion_class

from xnatfs.errors import LoginFailed

VARIABLE = "_XNATFS_COMPLETE"

SECONDS = 2.0
"""Who presses a key waits no longer."""

HOUR = 3600.0


class Bash(BashComplete):
    """Paths are quoted and shown as those of files; no blank after a directory."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == */* ]] && compopt -o filenames
                [[ $value == */ ]] && compopt -o nospace ;;
        esac
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        """Without a look at the bash of this moment, which may not be the one that reads it."""
        return ShellComplete.source(self)


class Zsh(ZshComplete):
    """No blank after a directory."""

    source_template = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a plain places described response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type key descr in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ $key == */ ]]; then places+=("$key")
                elif [[ $descr == _ ]]; then plain+=("$key")
                else described+=("$key:$descr")
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#places )) && compadd -U -V unsorted -S '' -a places
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


add_completion_class(Bash, "bash")
add_completion_class(Zsh, "zsh")


def script(shell: str, root: click.Command) -> str:
    """What a shell has to read so that it completes ``xnatfs``."""
    kind = click.shell_completion.get_completion_class(shell)
    assert kind is not None, shell
    return kind(root, {}, "xnatfs", VARIABLE).source().rstrip("\n")


def archive_path(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``shell_complete`` of an argument that is a path of the archive. Directories end with a slash."""
    directory, slash, beginning = incomplete.rpartition("/")
    found: list[str] = []

    def look() -> None:
        # Nobody reads a log or a traceback here, and a completion that fails is none.
        try:
            found.extend(_entries(context.params, directory))
        except (Exception, SystemExit):
            found.clear()

    logging.disable(logging.CRITICAL)
    looking = threading.Thread(target=look, name="completion", daemon=True)
    looking.start()
    looking.join(SECONDS)
    return [CompletionItem(f"{directory}{slash}{name}") for name in sorted(found) if name.startswith(beginning)]


def directory(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``shell_complete`` of a directory of this machine; not `click.Path`, which may touch a mount that hangs."""
    return [CompletionItem(incomplete, type="dir")]


def _entries(options: dict[str, Any], directory: str) -> Iterable[str]:
    """Names in a directory of the archive, those of directories with a slash: of a mount of it, or of the server."""
    from xnatfs import app, credentials, daemon, fuse_mount, settings

    flags = {name: options.get(name) for name in ("server", "user", "guest", "verify")}
    config = options.get("config")
    if options.get("insecure"):
        flags["verify"] = False
    wanted = settings.load(flags, os.environ, config=config, saved=settings.saved_config())
    server = wanted.need_server()
    for entry in fuse_mount.mounts():
        facts = daemon.recorded_facts(Path(entry.mountpoint)) if entry.ours else None
        if facts is not None and facts.get("server") == server and facts.get("layout", "plain") == "plain":
            with os.scandir(f"{entry.mountpoint}{app.absolute(directory)}") as listed:
                return [f"{one.name}/" if one.is_dir() else one.name for one in listed]
    login = credentials.complete(wanted.choice(), None)
    refusals = platformdirs.user_state_path("xnatfs") / f"completion-refused-{app.namespace(server, login)}"
    if _is_recent(refusals):
        return []
    short = settings.Sourced(SECONDS)
    try:
        with app.App(replace(wanted, metadata_timeout=short, read_timeout=short), login) as archive:
            return [f"{row.name}/" if row.kind == "directory" else row.name for row in archive.rows(directory)]
    except LoginFailed:
        if login is not None:  # each try with a wrong password may help to lock the account
            refusals.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            refusals.touch()
        return []


def _is_recent(refusals: Path) -> bool:
    """Was this login refused within the hour, and the saved config not changed since?"""
    from xnatfs import settings

    if not refusals.exists():
        return False
    refused, saved = refusals.stat().st_mtime, settings.saved_config()
    return time.time() < refused + HOUR and not (saved.exists() and saved.stat().st_mtime > refused)
