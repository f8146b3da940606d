"""The list of settings, and how the text of each becomes its value.

`OPTIONS` is the only such list: options of the command line, environment names, keys of config files and help texts
are made from it. Parsers take text or what JSON can hold, and raise ValueError saying what it has to be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnatfs.credentials import Secret

# -- reading texts ---------------------------------------------------------------------------------------------------

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: object) -> int:
    """Bytes from ``10G``, ``500M``, ``1.5T``, ``4096`` or a number; units are powers of 1024. Raises ValueError."""
    given = str(text).strip().upper().removesuffix("B").removesuffix("I")
    unit = given[-1:] if given[-1:].isalpha() else ""
    size = int(float(given.removesuffix(unit)) * _SIZES.get(unit, 0))
    if size <= 0:
        raise ValueError("not a size such as 10G or 500M")
    return size


def parse_seconds(text: object) -> float:
    """Seconds from ``90``, ``1.5``, ``10m``, ``2h``, ``30d``; never negative. Raises ValueError."""
    given = str(text).strip().lower()
    unit = given[-1:] if given[-1:].isalpha() else ""
    seconds = float(given.removesuffix(unit)) * _TIMES.get(unit, -1)
    if not 0 <= seconds < 1e12:
        raise ValueError("not a time such as 60, 10m or 2h")
    return seconds


def parse_timeout(text: object) -> float:
    """Like `parse_seconds`, but more than none at all."""
    seconds = parse_seconds(text)
    if seconds <= 0:
        raise ValueError("has to be more than 0")
    return seconds


def parse_flag(text: object) -> bool:
    """A bool, or one of 1/0, true/false, yes/no, on/off."""
    if isinstance(text, bool):
        return text
    answer = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = answer.get(str(text).strip().lower())
    if found is None:
        raise ValueError("not true or false")
    return found


def parse_verify(text: object) -> bool | Path:
    """True, False or the path of a file with CA certificates (pyxnat's and requests' ``verify``)."""
    with suppress(ValueError):
        return parse_flag(text)
    path = parse_path(text)
    if not path.exists():
        raise ValueError("no such file of CA certificates")
    return path


def parse_path(text: object) -> Path:
    """An absolute path; ``~`` is the home directory. Absolute, because a daemon's working directory is ``/``."""
    if not isinstance(text, (str, os.PathLike)) or not os.fspath(text):
        raise ValueError("not a path")
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow links


def parse_proxy(text: object) -> Secret:
    """The URL of a proxy, which may hold a login and is therefore a `Secret`; ``host:port`` means http."""
    given = str(text).strip()
    if not given:
        raise ValueError("not a proxy such as http://host:3128")
    return Secret(given if "://" in given else f"http://{given}")


def parse_count(text: object) -> int:
    count = int(str(text))
    if not 1 <= count <= 64:
        raise ValueError("has to be from 1 to 64")
    return count


def parse_texts(text: object) -> tuple[str, ...]:
    """One text or a list of them, such as the arguments of several ``-o``."""
    return tuple(str(part) for part in (text if isinstance(text, (list, tuple)) else [text]) if str(part))


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(text: object) -> str:
        given = str(text).strip().lower()
        if given not in choices:
            raise ValueError(f"has to be one of {', '.join(choices)}")
        return given

    return parse


# -- the list of settings --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its name in `Settings` and in config files, how a text becomes its value, and its help."""

    name: str
    flag: str
    parse: Callable[[object], Any]
    default: Any
    group: str
    help: str
    metavar: str | None = None
    shown_default: str = ""
    """The default in words, for the help."""
    fixed: Any = None
    """For a flag without argument: the value that it stands for."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"XNATFS_{self.name.upper()}"


CONNECTION, CACHE, MOUNT, LOGGING = "Connection", "Cache", "Mount", "Logging"
"""Headings of the help."""

DAY = 86400.0
_LEVELS = ("error", "warning", "info", "debug")
_LEVEL = one_of(*_LEVELS)
_LOOP = one_of("fast", "plain")
_SCAN_NAMES = one_of("id", "type")
_KEPT = one_of("warmed", "all", "no")
_LAYOUT = one_of("plain", "archive", "jupyter", "zip")

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("guest", "--guest", parse_flag, False, CONNECTION, "Connect without a login, where the site allows it.",
           fixed=True),
    Option("verify", "--ca", parse_verify, True, CONNECTION, "File of CA certificates to check the server's with.",
           "FILE", "those of the system"),
    Option("proxy", "--proxy", parse_proxy, None, CONNECTION, "HTTP proxy. One with a password: in the config file.",
           "URL", "HTTP_PROXY, HTTPS_PROXY, NO_PROXY"),
    Option("metadata_timeout", "--metadata-timeout", parse_timeout, 20.0, CONNECTION,
           "Longest time that a listing may take.", "SECONDS", "20"),
    Option("read_timeout", "--read-timeout", parse_timeout, 60.0, CONNECTION,
           "Longest time that reading file data may wait.", "SECONDS", "60"),
    Option("parallel", "--parallel", parse_count, 8, CONNECTION, "Downloads at a time.", "N", "8"),
    Option("cache_dir", "--cache-dir", parse_path, None, CACHE, "Directory of the file cache.", "D", "~/.cache/xnatfs"),
    Option("cache_size", "--cache-size", parse_size, 10 * 2**30, CACHE, "Most that the file cache may hold.",
           "SIZE", "10G"),
    Option("cache_age", "--cache-age", parse_timeout, 30 * DAY, CACHE, "Files unused for so long leave the cache.",
           "TIME", "30d"),
    Option("min_free", "--min-free", parse_size, None, CACHE, "Space that the cache leaves free on its disk.",
           "SIZE", "1G, or 5 % of a smaller disk"),
    Option("ttl", "--ttl", parse_seconds, 60.0, CACHE, "How long a listing counts as fresh.", "SECONDS", "60"),
    Option("offline", "--offline", parse_flag, False, CACHE, "Ask no server: show what is kept, read what is cached.",
           fixed=True),
    Option("keep_listings", "--keep-listings", _KEPT, "warmed", CACHE,
           "Listings kept on disk for when the server is away: those of warm and pin, all, or no.", "warmed|all|no",
           "warmed"),
    Option("series", "--no-series", parse_flag, True, CACHE, "Never fetch a whole series as one archive.",
           fixed=False),
    Option("scan_names", "--scan-names", _SCAN_NAMES, "id", CACHE, "Show a scan as 3 or as 3-T1w; both are found.",
           "id|type", "id"),
    Option("layout", "--layout", _LAYOUT, "plain", MOUNT,
           "Arrange it as XNAT's archive on disk, its notebooks or its zips.", "plain|archive|jupyter|zip", "plain"),
    Option("fuse_options", "-o", parse_texts, (), MOUNT, "Mount options of FUSE, such as allow_other.", "OPT,OPT"),
    Option("loop", "--loop", _LOOP, "fast", MOUNT, "FUSE loop: ours, or fusepy's own.", "fast|plain", "fast"),
    Option("log_file", "--log-file", parse_path, None, LOGGING, "Log file of a mount in the background.",
           "FILE", "in ~/.local/state/xnatfs/log"),
    Option("log_level", "--log-level", _LEVEL, "info", LOGGING, "How much to log.", "|".join(_LEVELS), "info"),
    Option("access_log", "--access-log", parse_path, None, LOGGING,
           "Write a JSON line for each file operation to FILE, paths and labels included.", "FILE"),
)
# fmt: on
BY_NAME = {option.name: option for option in OPTIONS}


# -- settings among the words of -o ----------------------------------------------------------------------------------

MOUNT_WORDS = {
    {"loop": "fuse_loop", "series": "no_series"}.get(option.name, option.name): option
    for option in OPTIONS
    if option.name != "fuse_options"
}
"""The settings by what they are called after ``-o``: mount(8) would take ``loop`` for a block device's."""
_WORDS = {
    **{option.name: option for option in MOUNT_WORDS.values()},
    **{option.flag.strip("-").replace("-", "_"): option for option in MOUNT_WORDS.values()},
    **MOUNT_WORDS,
}
_OTHERS = {"config": "config", "username": "user"}
"""Not ``user``: to mount(8) that word says who may mount."""


def split_options(texts: Iterable[str]) -> dict[str, str | None]:
    """``["allow_other,uid=1000", "ro"]`` as a dict, later ones winning; a comma in a value is written ``\\,``."""
    given: dict[str, str | None] = {}
    for text in texts:
        for part in re.split(r"(?<!\\),", text):
            name, equals, value = part.strip().partition("=")
            if name:
                given[name] = value.replace("\\,", ",") if equals else None
    return given


def join_option(name: str, value: str | None) -> str:
    """The opposite of `split_options` for one option."""
    return name if value is None else f"{name}=" + value.replace(",", "\\,")


def settings_in(texts: Iterable[str]) -> tuple[dict[str, object], tuple[str, ...]]:
    """The settings among ``-o`` words by the names of the command's parameters, and the words that are none.

    ``ttl=5``, ``cache-size=1G``, ``guest``, ``no_series``, ``series=false``, ``config=FILE``, ``username=U``;
    ``-`` and ``_`` are the same. A flag becomes whether it is given, everything else stays text. Raises ValueError
    naming a setting without a value, or a flag with a value that is neither true nor false.
    """
    settings: dict[str, object] = {}
    rest: list[str] = []
    for name, value in split_options(texts).items():
        word = name.replace("-", "_")
        option = _WORDS.get(word)
        if option is not None and option.fixed is not None:
            wanted = _flag(name, value) is not word.startswith("no_")  # no_series=false: with series
            settings[option.name] = wanted is option.fixed
        elif word == "insecure":
            settings[word] = _flag(name, value)
        elif option is not None or word in _OTHERS:
            if not value:
                raise ValueError(f"{name} needs a value")
            settings[option.name if option is not None else _OTHERS[word]] = value
        else:
            rest.append(join_option(name, value))
    return settings, tuple(rest)


def _flag(name: str, value: str | None) -> bool:
    try:
        return value is None or parse_flag(value)
    except ValueError as error:
        raise ValueError(f"{name}={value}: {error}") from None
