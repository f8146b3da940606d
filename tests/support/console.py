"""What documents show of a terminal, typed into a real one.

A block of a document marked ``console`` holds commands, on lines that begin with ``$ `` (and ``> `` where they go on),
each followed by what it prints. ``...`` in what it prints stands for any text, also over several lines.
"""

from __future__ import annotations

import os
import pty
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.faces import readable

DONE = re.compile(rb"<done (\d+)>\r?\n$")
QUESTION = re.compile(rb"[Pp]assword[^\n]*: ?$")


@dataclass
class Shown:
    """A command and what a document says that it prints."""

    command: str
    printed: list[str] = field(default_factory=list)

    def agrees(self, printed: str) -> bool:
        """Is that what ``printed`` says? Runs of blanks count as one: `ls` sets tabs."""
        wanted = ".*?".join(re.escape(part) for part in _plain("\n".join(self.printed)).split("..."))
        return re.fullmatch(wanted, _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def shown(markdown: str) -> list[Shown]:
    """All commands of a document, in order."""
    found: list[Shown] = []
    for block in re.findall(r"^```console\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:]))
            elif line.startswith("> "):
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].printed.append(line)
    return found


class Terminal:
    """A bash on a terminal of its own, with a person at it who knows one password."""

    def __init__(self, environment: Mapping[str, str], folder: Path, password: str) -> None:
        """``folder`` is where it begins."""
        self.password = password
        self.answered = 0
        """How often a password was asked for, and given."""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(folder)
                os.execvpe("bash", ["bash", "--norc", "--noprofile"], {**environment, "TERM": "dumb"})
            finally:
                os._exit(127)
        self.run("PS1= PS2= PROMPT_COMMAND='echo \"<done $?>\"'; stty -echo cols 100")

    def run(self, command: str, seconds: float = 60.0) -> tuple[int, str]:
        """Type a command: its exit status and what it printed, questions included."""
        os.write(self._fd, command.encode() + b"\n")
        said, answered, until = b"", 0, time.monotonic() + seconds
        while not (done := DONE.search(said)):
            ready = readable(self._fd, until - time.monotonic())
            assert ready, f"{command}: no end after {said!r}"
            said += os.read(self._fd, 65536)
            if QUESTION.search(said, answered):
                os.write(self._fd, self.password.encode() + b"\n")
                answered = len(said)
                self.answered += 1
        return int(done[1]), said[: done.start()].decode().replace("\r\n", "\n")

    def close(self) -> None:
        with suppress(OSError):
            os.write(self._fd, b"exit\n")
        os.waitpid(self._pid, 0)
        os.close(self._fd)
