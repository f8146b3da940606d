"""What mount(8) runs: ``mount.xnatfs SOURCE DIR [-sfnv] [-N namespace] [-t type] [-o options]``.

Turns that into ``xnatfs mount`` and its exit status into one of mount(8). Source of the calling conventions: mount(8),
"External helpers", and what util-linux 2.38 and fuse3 3.14 were seen to pass. mount.fuse(8) calls the command itself
in the same way, ``xnatfs SOURCE DIR -o options``; `is_call` tells that from a command's name.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence

from xnatfs import cli, console
from xnatfs.fuse_mount import known
from xnatfs.options import join_option, settings_in, split_options

NO_SERVER = "none"
"""As the source in fstab: the config file names the server."""

EXIT_STATUS = {0: 0, 2: 1, 5: 2, 7: 2, 130: 8}
"""Of xnatfs -> of mount(8): 1 usage or permissions, 2 system, 8 interrupted; everything else is 32, mount failure."""

USAGE = "usage: mount.xnatfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]"


def is_call(arguments: Sequence[str]) -> bool:
    """Does this look like mount.fuse(8) calling, whose first word is a server?"""
    return bool(arguments) and "://" in arguments[0] and not arguments[0].startswith("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Mount as mount(8) asks for it; its exit status. An error is one line on stderr."""
    try:
        words = translated(sys.argv[1:] if arguments is None else arguments)
    except (ValueError, getopt.GetoptError) as error:
        console.complain(f"{error}; {USAGE}")
        return EXIT_STATUS[2]
    return EXIT_STATUS.get(cli.main(words), 32)


def translated(arguments: Sequence[str]) -> list[str]:
    """The words for the ``xnatfs`` command. Raises ValueError or `getopt.GetoptError` for a call of another kind.

    ``rw`` goes: mount(8) adds it wherever nobody said ``ro``. ``-n`` and ``-t`` say nothing new. ``-s`` means to pass
    over options that are unknown, ``-f`` to do everything but mount, ``-v`` to tell about it.
    """
    given, places = getopt.gnu_getopt(list(arguments), "sfnvo:t:N:")
    if len(places) != 2:
        raise ValueError("not a source and a directory")
    flags = {name for name, _ in given}
    if "-N" in flags:
        raise ValueError("-N: cannot mount into another namespace; call this in there, by nsenter(1)")
    options = split_options(value for name, value in given if name == "-o")
    options.pop("rw", None)
    words = [join_option(name, value) for name, value in options.items() if "-s" not in flags or _is_known(name)]
    source, point = places
    return [
        "mount",
        *([] if "-v" in flags else ["--quiet"]),
        *(["--dry-run"] if "-f" in flags else []),
        *(["-o", ",".join(words)] if words else []),
        "--",
        *([] if source == NO_SERVER else [source]),
        point,
    ]


def _is_known(name: str) -> bool:
    return known(name) or not settings_in([f"{name}=true"])[1]


if __name__ == "__main__":
    sys.exit(main())
