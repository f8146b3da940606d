"""Where log records go, how often the same one may, and what is taken out of them first.

Knows nothing of the rest. Two rules bind whoever logs: labels of subjects and sessions appear at DEBUG only, and no
secret is ever passed to a logger. The redaction here is the second line of defence, for the text of foreign exceptions.
"""

from __future__ import annotations

import base64
import logging
import logging.handlers
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TextIO

ROOT = "xnatfs"
LEVELS = ("error", "warning", "info", "debug")
FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
BRIEF = "xnatfs: %(levelname)s: %(message)s"
REDACTED = "[hidden]"
OLD_LOG = 10 * 2**20
"""Bytes: a log file that is larger when a mount starts becomes ``NAME.1``, so that it does not grow for ever."""

_ALWAYS = re.compile(
    r"(?P<before>JSESSIONID['\"]?\s*[=:]\s*['\"]?|Authorization['\"]?\s*:\s*['\"]?(?:Basic|Bearer)\s+)[^\s;,'\"&]+"
    r"|(?P<login>://[^\s/:@]+:)[^\s/@]+(?=@)"
    r"|\b[0-9A-F]{32}\b"  # a bare session id; digests are written in lower case
)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Redactor:
    """Replaces what may not be seen: registered secrets in every form they travel in, and session ids."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secret: str, user: str = "") -> None:
        """From now on hide ``secret``: as it is, in URLs, in repr, and in the Basic header of ``user``."""
        if not secret:
            return
        forms = {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), repr(secret)[1:-1]}
        forms |= {
            base64.b64encode(f"{user}:{secret}".encode(charset, "replace")).decode() for charset in ("utf-8", "latin-1")
        }
        self._forms |= forms
        self._pattern = re.compile("|".join(_bounded(form) for form in sorted(self._forms, key=len, reverse=True)))

    def clean(self, text: str) -> str:
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        return _ALWAYS.sub(lambda match: (match["before"] or match["login"] or "") + REDACTED, text)


def _bounded(form: str) -> str:
    """Very short secrets are replaced as whole words only; else a one-letter password would blank the log."""
    return re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"


class RedactingFormatter(logging.Formatter):
    """Cleans the finished text, so that tracebacks and chained exceptions are covered too.

    Control characters, which a server may have sent, are written out: a log is read on terminals.
    """

    def __init__(self, redactor: Redactor, fmt: str = FORMAT) -> None:
        super().__init__(fmt)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        text = self._redactor.clean(super().format(record))
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class RateLimit(logging.Filter):
    """Lets the same message pass ``burst`` times in ``seconds``; the next one after that says how many were left out.

    "The same" is logger, level and the message before its arguments are put in. DEBUG is never limited.
    """

    def __init__(self, burst: int = 20, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._seconds, self._clock = burst, seconds, clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the handler under its own lock."""
        if record.levelno <= logging.DEBUG:
            return True
        key, now = (record.name, record.levelno, str(record.msg)), self._clock()
        start, count = self._seen.get(key, (now, 0))
        left_out = 0
        if now - start >= self._seconds:
            left_out, start, count = max(0, count - self._burst), now, 0
        if len(self._seen) > 1000:  # messages made with f-strings must not grow this for ever
            self._seen.clear()
        self._seen[key] = (start, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were left out)", ()
        return count < self._burst


class PrivateFileHandler(logging.handlers.WatchedFileHandler):
    """A log file of mode 0600 that is opened anew when something (logrotate) moves it away.

    What cannot be written, because the disk is full or the directory is gone, is left out.
    """

    def _open(self) -> IO[str]:  # type: ignore[override]
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def open_log(path: Path) -> PrivateFileHandler:
    """A handler for the log file ``path``; makes its directory (0700). Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > OLD_LOG:
        path.replace(path.with_name(path.name + ".1"))
    return PrivateFileHandler(path)


def setup(level: str, handler: logging.Handler, redactor: Redactor, fmt: str = FORMAT) -> None:
    """Send the records of the whole process to ``handler``: ours from ``level`` on, other libraries' warnings.

    At level debug the other libraries say what they do as well, but never what they send: urllib3 logs request
    lines, not headers. Called again, it replaces what it had set up.
    """
    handler.setFormatter(RedactingFormatter(redactor, fmt))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "xnatfs", False)]:
        root.removeHandler(old)
        old.close()
    handler.xnatfs = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Log from ``level`` (one of `LEVELS`) on; also later, while others log."""
    logging.getLogger().setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())


def level() -> str:
    """From which level on is logged now."""
    return logging.getLevelName(logging.getLogger(ROOT).getEffectiveLevel()).lower()


def remarks(stream: TextIO | None = None) -> logging.Handler:
    """A handler for a command that ends with what went wrong: only warnings, as lines of the command.

    An error is not logged here, because it ends the command and is said there, once.
    """
    handler = to_terminal(stream)
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
    return handler


def to_terminal(stream: TextIO | None = None) -> logging.Handler:
    """A handler for stderr."""
    return logging.StreamHandler(stream if stream is not None else sys.stderr)
