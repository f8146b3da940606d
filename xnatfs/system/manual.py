r"""The man pages xnatfs(1) and mount.xnatfs(8), made from the commands and from the list of settings.

`scripts/man` writes them to docs/man/, from where a wheel takes them; `xnatfs install-helpers` makes them anew. No
library: click-man makes one page for each subcommand and knows nothing of mount options. Markup: man(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import click

import xnatfs
from xnatfs.cli_options import GroupedOption
from xnatfs.options import MOUNT_WORDS, OPTIONS, Option

MOUNT_OPTIONS: Mapping[str, str] = {
    "ro": "Read-only, as every mount of an XNAT is. mount(8) says rw where nobody says ro; that is passed over.",
    "noexec, exec": "Forbid or allow to run programs from the mount. Allowed unless fstab says user.",
    "nosuid, suid, nodev, dev": "Files have neither set-user-ID bits nor are they devices; forbidden by default.",
    "uid=USER, gid=GROUP": "Who files seem to belong to, by number or name; those who mount it by default.",
    "umask=OCTAL": "Permissions that files (0444) and directories (0555) are to lack.",
    "allow_other": "Let all users in; what they may is what the mode says. Needs root, or user_allow_other in "
    "/etc/fuse.conf. They see what the login may see.",
    "allow_root": "Let root in as well.",
    "default_permissions": "Let the kernel check the mode. It always does.",
    "auto_unmount": "Unmount when the process dies in whatever way.",
    "nonempty": "Cover a directory that is not empty.",
    "fsname=TEXT, subtype=NAME": "Source and type that df and findmnt show: by default the server and fuse.xnatfs.",
    "negative_ttl=SECONDS": "How long the kernel remembers that a name is not there (5); also negative_timeout.",
    "max_background=N, read_ahead=KIB": "Reads waiting in the kernel at most (200), and how far it reads ahead (512).",
    "threads=N, max_threads=N": "Threads that serve the mount at first (3) and at most (256).",
    "config=FILE": "JSON file with server, login and settings, as 'xnatfs config save' and pyxnat write it.",
    "username=NAME": "User at the XNAT. Not user: to mount(8) that word says that every user may mount.",
    "insecure": "Do not check the server's certificate.",
}
"""Mount options besides the settings, and what they do."""

FILES = (
    ("~/.config/xnatfs/config.json", "The saved config, which every command reads."),
    ("~/.cache/xnatfs", "Cached files."),
    ("~/.local/state/xnatfs/log", "Logs of mounts in the background, one for each mountpoint."),
    ("/etc/fuse.conf", "Whether users who are not root may say allow_other."),
)


def pages(root: click.Command) -> dict[str, str]:
    """The text of each page by its place in a tree of manuals, such as ``man1/xnatfs.1``."""
    return {"man1/xnatfs.1": _text(_command_page(root)), "man8/mount.xnatfs.8": _text(_mount_page())}


def _text(lines: Iterator[str]) -> str:
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Plain text as man(7) wants it: backslash, hyphens that stay hyphens, no control line by accident."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", plain, flags=re.MULTILINE)


def _head(name: str, section: int, about: str) -> Iterator[str]:
    yield f'.TH {escaped(name).upper()} {section} "" "xnatfs {xnatfs.__version__}"'
    yield ".SH NAME"
    yield f"{escaped(name)} \\- {escaped(about)}"


def _term(head: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{escaped(head)}\\fR"
    yield escaped(text)


def _command_page(root: click.Command) -> Iterator[str]:
    yield from _head("xnatfs", 1, "an XNAT imaging archive as a directory tree")
    yield from (".SH SYNOPSIS", "\\fBxnatfs\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...")
    yield ".SH DESCRIPTION"
    yield from _prose(root.help or "")
    yield ".SH COMMANDS"
    settings = {option.name for option in OPTIONS}
    common: dict[str, click.Option] = {}
    for name, command in _commands(root, ""):
        arguments = [_metavar(one) for one in command.params if isinstance(one, click.Argument)]
        yield f".SS {escaped(' '.join(['xnatfs', name, *arguments]))}"
        yield from _prose(command.help or "")
        own = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        grouped = {one.opts[0]: one for one in own if isinstance(one, GroupedOption)}
        for option in own:
            if option.opts[0] not in grouped:
                yield from _term(", ".join(_spellings(option)), option.help or "")
        if grouped:
            yield from (".PP", escaped(f"See OPTIONS: {', '.join(grouped)}."))
        common |= {word: one for word, one in grouped.items() if one.name not in settings and word not in common}
    yield ".SH OPTIONS"
    for option in common.values():
        yield from _term(", ".join(_spellings(option)), option.help or "")
    yield from (".PP", "Each of the following can also be set in the environment, and by its name in a config file.")
    for setting in OPTIONS:
        yield from _term(f"{setting.flag} {setting.metavar or ''}".rstrip(), _about(setting))
        yield f"Environment: {escaped(setting.variable)}. Config file: {escaped(setting.name)}."
    yield from _files_and_more("mount.xnatfs(8), fusermount3(1), mount(8)")


def _mount_page() -> Iterator[str]:
    yield from _head("mount.xnatfs", 8, "mount an XNAT imaging archive")
    yield ".SH SYNOPSIS"
    for kind in ("xnatfs", "fuse.xnatfs"):
        yield f"\\fBmount \\-t {kind}\\fR \\fISERVER\\fR \\fIDIR\\fR [\\fB\\-sfnv\\fR] [\\fB\\-o\\fR \\fIOPTIONS\\fR]"
        yield ".br"
    yield ".SH DESCRIPTION"
    yield escaped(
        "Called by mount(8), after 'xnatfs install-helpers' has put it in place. SERVER is an address such as "
        "https://host/xnat, or none when the config file names it. The login comes from config=FILE, from the saved "
        "config of who mounts, or from ~/.netrc; on a terminal the password is asked for. The mount is read-only. "
        "umount(8) ends it, and the session on the server with it."
    )
    yield ".SH OPTIONS"
    yield from _term("-s", "Pass over unknown mount options.")
    yield from _term("-f", "Check everything that can be checked here, and do not mount.")
    yield from _term("-v", "Say what is mounted, and where its log is.")
    yield from _term("-n, -t TYPE", "Accepted, without effect.")
    yield ".SH MOUNT OPTIONS"
    yield escaped("Words of fstab(5) that are meant for mount(8) or systemd (noauto, user, nofail, _netdev, x-...) are")
    yield escaped("accepted. In the names of settings - and _ are the same.")
    for head, text in MOUNT_OPTIONS.items():
        yield from _term(head, text)
    for word, setting in MOUNT_WORDS.items():
        yield from _term(word + (f"={setting.metavar}" if setting.metavar else ""), _about(setting))
    yield ".SH EXIT STATUS"
    for status, text in (
        ("0", "It is mounted."),
        ("1", "An option, a config file, or a permission is wrong."),
        ("2", "FUSE is missing, or the cache directory cannot be used."),
        ("8", "Interrupted."),
        ("32", "Login, server or mountpoint: it could not be mounted."),
    ):
        yield from _term(status, text)
    yield ".SH EXAMPLES"
    yield "A line of /etc/fstab that lets every user mount, and one that mounts at the first look:"
    yield from (".nf", "")
    yield escaped("https://host/xnat /mnt/xnat xnatfs noauto,user,exec,_netdev 0 0")
    yield escaped("https://host/xnat /srv/xnat xnatfs noauto,_netdev,x-systemd.automount,config=/etc/xnatfs.json 0 0")
    yield ".fi"
    yield from _files_and_more("xnatfs(1), mount(8), fstab(5), systemd.automount(5), mount.fuse3(8)")


def _files_and_more(others: str) -> Iterator[str]:
    yield ".SH FILES"
    for path, text in FILES:
        yield from _term(path, text)
    yield ".SH SEE ALSO"
    yield escaped(others)
    yield ".PP"
    yield escaped("'xnatfs docs' lists the documents that come with it; 'xnatfs docs troubleshooting' is about errors.")


def _commands(command: click.Command, prefix: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{prefix}{name} ")
    elif not command.hidden:
        yield prefix.rstrip(), command


def _metavar(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _spellings(option: click.Option) -> list[str]:
    value = "" if option.is_flag else f" {option.metavar or (option.name or '').upper()}"
    return [f"{word}{value}" for word in (*option.opts, *option.secondary_opts)]


def _about(setting: Option) -> str:
    return f"{setting.help} [default: {setting.shown_default}]" if setting.shown_default else setting.help


def _prose(text: str) -> Iterator[str]:
    r"""The paragraphs of a help text; one that begins with click's ``\b`` keeps its lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", re.sub(r"(?m)^[ \t]+", "", text).strip())):
        lines = paragraph.strip("\n").split("\n")
        kept = lines[0] == "\b"
        if number:
            yield ".PP"
        if kept:
            yield from (".nf", *(escaped(line) for line in lines[1:]), ".fi")
        else:
            yield escaped(" ".join(lines))
