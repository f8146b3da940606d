"""What a person sees on a terminal, and what a program reads from a pipe. Nothing else prints.

On a terminal: colours, columns, tables; names that would move the cursor are shown with ``?``. Into a pipe: plain
text, names byte for byte as the mount shows them, fields separated by tabs.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.markdown import Markdown
from rich.prompt import Confirm, Prompt
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

STYLES = {"directory": "bold blue", "link": "cyan", "file": ""}


def replace_missing_streams() -> None:
    """Where a process was started without stdin, stdout or stderr, put one that leads nowhere.

    Else the next file that is opened, a log or /dev/fuse, would get that number, and be closed or written to by what
    takes it for the stream. Call it before anything else is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, hence this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, soft_wrap=True)


def printable(name: str) -> str:
    """A name for a terminal: characters that control it, or that are no characters, become ``?``."""
    return "".join(
        "?" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character for character in name
    )


def on_terminal() -> bool:
    return sys.stdout.isatty()


def can_ask() -> bool:
    """Is there a person at the other end? Both sides count: the question goes to stderr."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, hidden: bool) -> str:
    """Put a question on the terminal; ``hidden`` answers are not echoed."""
    if hidden:
        # Not rich's prompt: that asks first and turns the echo off afterwards, too late for who types fast.
        return getpass.getpass(f"{printable(question)}: ")
    return Prompt.ask(Text(printable(question)), default="", show_default=False, console=_console(sys.stderr))


def confirm(question: str) -> bool:
    return Confirm.ask(Text(printable(question)), default=False, console=_console(sys.stderr))


def say(text: str) -> None:
    """Lines on stdout."""
    line("\n".join(printable(part) for part in text.split("\n")) if on_terminal() else text)


def line(text: str) -> None:
    """``text`` and a newline on stdout, byte for byte: a name may hold what is no UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text) if _clean(text) else text.encode("utf-8", "surrogatepass"))
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def data(piece: bytes) -> None:
    """Bytes on stdout, all of them: a pipe may take fewer at a time."""
    sys.stdout.buffer.write(piece)


def _clean(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def complain(text: str, kind: str = "error") -> None:
    """One line on stderr: ``xnatfs: ...``. What a server said cannot add lines or move the cursor."""
    one_line = printable(" ".join(text.split())) or "unknown error"
    _console(sys.stderr).print(Text.assemble(("xnatfs: ", "bold red" if kind == "error" else "bold yellow"), one_line))


def traceback(error: BaseException) -> None:
    """The traceback on stderr, without the values of variables: they may be secrets."""
    _console(sys.stderr).print_exception(show_locals=False) if error.__traceback__ else None


def as_json(value: Any) -> None:
    line(json.dumps(value, indent=2, ensure_ascii=True))


def names(entries: Sequence[tuple[str, str]]) -> None:
    """``(name, kind)``: in columns on a terminal, else one name a line."""
    if on_terminal():
        _console(sys.stdout).print(
            Columns(
                [Text(printable(name), STYLES.get(kind, "")) for name, kind in entries],
                column_first=True,
                padding=(0, 2),
            )
        )
        return
    for name, _ in entries:
        line(name)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), styles: Iterable[str] = ()
) -> None:
    """Rows under ``head``; aligned on a terminal, else without head and separated by tabs."""
    if not on_terminal():
        for row in rows:
            line("\t".join(row))
        return
    shown = Table(box=None, pad_edge=False, header_style="dim", show_header=any(head))
    for title in head:
        shown.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row, style in zip(rows, styles or _nothing(), strict=False):
        shown.add_row(
            *(Text(printable(cell), style if column == len(row) - 1 else "") for column, cell in enumerate(row))
        )
    _console(sys.stdout).print(shown)


def verdict(state: str, style: str, what: str, found: str, remedy: str) -> None:
    """The outcome of one check, with what to do below it; into a pipe: four fields."""
    if not on_terminal():
        line("\t".join(" ".join(field.split()) for field in (state, what, found, remedy)))
        return
    shown = Text.assemble((f"{state:5}", style), f"{what:13}", printable(found))
    if remedy:
        shown.append(f"\n{'':18}-> {printable(remedy)}", "bold")
    _console(sys.stdout).print(shown)


def _nothing() -> Iterator[str]:
    while True:
        yield ""


def document(markdown: str) -> None:
    """A document: rendered on a terminal, with a pager; else as it is."""
    if not on_terminal():
        line(markdown.rstrip("\n"))
        return
    console = Console()
    with console.pager(styles=True):
        console.print(Markdown(markdown))


def waiting(text: str) -> AbstractContextManager[object]:
    """A spinner on stderr while something takes its time; nothing where nobody looks."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status(Text(printable(text)))


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """``| head`` is no error: when the reader of stdout has gone, end without a word."""
    try:
        yield
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end; that must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
