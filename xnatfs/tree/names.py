"""Labels and file names: one reversible pair of functions, and how a whole directory gets its names.

A label is shown byte for byte when POSIX can carry it. Only these are escaped, percent style: ``/``, NUL, lone
surrogates (JSON can hold them, UTF-8 cannot), the names ``.``, ``..`` and the empty one - and, so that nothing is
ambiguous, every ``%`` of a label that already looks like such an escape. ``50%``, ``a%20b`` and ``pct%25.txt`` are
therefore shown as they are.

>>> shown("T1 MPRAGE"), shown("a/b"), shown(".."), shown("a%2Fb"), shown("pct%25.txt")
('T1 MPRAGE', 'a%2Fb', '%2E%2E', 'a%252Fb', 'pct%25.txt')
>>> label_of("a%2Fb"), label_of("a%252Fb")
('a/b', 'a%2Fb')
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence

NAME_MAX = 255
"""Bytes that a directory entry can carry (POSIX NAME_MAX on Linux)."""

_EMPTY = "%EMPTY"
_LOOKS_ESCAPED = re.compile(r"%(?:25)*(?:2F|00|ED)|\A(?:%(?:25)*2E){1,2}\Z|\A%(?:25)*EMPTY\Z")
_MUST_ESCAPE = re.compile("[/\0\ud800-\udfff]")
_ESCAPED = re.compile(r"%(?:(25|2F|00|2E)|ED%([AB][0-9A-F])%([89AB][0-9A-F]))")
_PLAIN = {"25": "%", "2F": "/", "00": "\0", "2E": "."}


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _unescape(match: re.Match[str]) -> str:
    if match[1]:
        return _PLAIN[match[1]]
    return bytes([0xED, int(match[2], 16), int(match[3], 16)]).decode("utf-8", "surrogatepass")


def shown(label: str) -> str:
    """The file name of a label. Longer than NAME_MAX bytes when the label is: `fitted` cuts those."""
    if not label:
        return _EMPTY
    if label.isascii() and "%" not in label and "/" not in label and "\0" not in label and label[0] != ".":
        return label  # nearly every name of nearly every archive, and directories have 100,000 of them
    if label in (".", ".."):
        return label.replace(".", "%2E")
    if _MUST_ESCAPE.search(label) or _LOOKS_ESCAPED.search(label):
        return _MUST_ESCAPE.sub(_escape, label.replace("%", "%25"))
    return label


def label_of(name: str) -> str:
    """The label behind a name that `shown` gave: ``label_of(shown(x)) == x`` for every text."""
    if name == _EMPTY:
        return ""
    if not _LOOKS_ESCAPED.search(name):
        return name
    return _ESCAPED.sub(_unescape, name)


def too_long(name: str) -> bool:
    return len(name) * 4 > NAME_MAX and len(name.encode("utf-8")) > NAME_MAX


def fitted(name: str, suffix: str = "") -> str:
    """``name + suffix`` in at most NAME_MAX bytes.

    A name that is too long loses its middle for ``~`` and eight hex digits of its hash and keeps a short extension,
    so that tools still see ``.nii.gz``. This cannot be undone from the name alone; the directory knows the label.
    """
    whole = name + suffix
    if len(whole) * 4 <= NAME_MAX or len(whole.encode("utf-8")) <= NAME_MAX:
        return whole
    mark = "~" + hashlib.blake2b(name.encode("utf-8"), digest_size=4).hexdigest()
    extension = re.search(r"(?:\.[A-Za-z0-9]{1,8}){1,2}\Z", name)
    tail = mark + (extension.group() if extension else "") + suffix
    room = NAME_MAX - len(tail.encode("utf-8"))
    return name.encode("utf-8")[:room].decode("utf-8", "ignore") + tail


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which ``9`` comes before ``10`` and ``3-MR2`` after ``3``."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def assign(entries: Sequence[tuple[str, str]], reserved: Collection[str] = ()) -> list[str]:
    """File names for a whole directory: one per ``(label, id)``, in the order given, all different.

    Who has a label to himself gets it. A label that is missing or reserved gives way to the ID. Of several entries
    with one name the lowest ID keeps it and the others get ``~ID`` behind it. The result does not depend on the order
    of the entries.
    """
    wanted = []
    for label, ident in entries:
        name = shown(label) if label else ""
        by_label = bool(name) and name not in reserved
        wanted.append((fitted(name) if by_label else fitted(shown(ident)), by_label))
    order = sorted(
        range(len(entries)), key=lambda i: (not wanted[i][1], wanted[i][0], natural(entries[i][1]), entries[i])
    )
    taken: set[str] = set(reserved)
    names = [""] * len(entries)
    again = []
    for i in order:
        name = wanted[i][0]
        if name in taken:
            again.append(i)
        else:
            taken.add(name)
            names[i] = name
    for i in again:
        suffix = "~" + shown(entries[i][1])
        name = fitted(wanted[i][0], suffix)
        while name in taken:
            suffix += "~"
            name = fitted(wanted[i][0], suffix)
        taken.add(name)
        names[i] = name
    return names
