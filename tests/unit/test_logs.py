"""What reaches a log: no secret in any form, not the same line for ever, and a file that rotation may move away."""

from __future__ import annotations

import base64
import io
import logging
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from xnatfs import logs
from xnatfs.logs import RateLimit, RedactingFormatter, Redactor

PASSWORD = "s3cr3t/Pä ss%"


@pytest.fixture
def redactor():
    redactor = Redactor()
    redactor.hide(PASSWORD, "me")
    return redactor


@pytest.fixture(autouse=True)
def root_logger_as_before():
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    levels = root.level, ours.level
    yield
    for handler in [handler for handler in root.handlers if getattr(handler, "xnatfs", False)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    "text",
    [
        f"login of me with {PASSWORD}",
        f"{{'password': {PASSWORD!r}}}",
        "https://host/?password=s3cr3t%2FP%C3%A4%20ss%25",
        "password=s3cr3t%2FP%C3%A4+ss%25",
        "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode(),
        "Basic " + base64.b64encode(f"me:{PASSWORD}".encode("latin-1")).decode(),
    ],
)
def test_a_registered_secret_is_hidden_in_every_form(redactor, text):
    clean = redactor.clean(text)
    assert logs.REDACTED in clean
    assert "s3cr3t" not in clean
    assert base64.b64encode(b"me:s3c").decode()[:6] not in clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Cookie: JSESSIONID=0123abcdXYZ; a=b", "Cookie: JSESSIONID=[hidden]; a=b"),
        ("{'JSESSIONID': '0123abcdXYZ'}", "{'JSESSIONID': '[hidden]'}"),
        ("Authorization: Basic bWU6aGVsbG8=", "Authorization: Basic [hidden]"),
        ("{'Authorization': 'Basic bWU6aGVsbG8='}", "{'Authorization': 'Basic [hidden]'}"),
        ("proxy http://me:pw@proxy:3128 failed", "proxy http://me:[hidden]@proxy:3128 failed"),
        ("session 0123456789ABCDEF0123456789ABCDEF", "session [hidden]"),
    ],
)
def test_sessions_and_logins_are_hidden_unregistered(text, clean):
    assert Redactor().clean(text) == clean


@pytest.mark.parametrize(
    "text", ["GET http://host:8080/data/projects/P at 10:30", "md5 0123456789abcdef0123456789abcdef", "XNAT_E00001: me"]
)
def test_the_rest_stays(redactor, text):
    assert redactor.clean(text) == text


def test_a_short_secret_is_hidden_as_a_word_only():
    redactor = Redactor()
    redactor.hide("a")
    assert redactor.clean("a cat: 'a'") == "[hidden] cat: '[hidden]'"


def test_an_empty_secret_hides_nothing():
    redactor = Redactor()
    redactor.hide("")
    assert redactor.clean("abc") == "abc"


def _record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("xnatfs.test", level, __file__, 1, message, arguments, None)


def test_tracebacks_are_cleaned_too(redactor):
    stream = io.StringIO()
    logs.setup("debug", logs.to_terminal(stream), redactor)
    try:
        try:
            raise ValueError(PASSWORD)
        except ValueError as error:
            raise RuntimeError(f"while {PASSWORD}") from error
    except RuntimeError:
        logging.getLogger("xnatfs.x").exception("failed for %s", PASSWORD)
    assert "RuntimeError" in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


def test_the_same_message_is_limited_and_the_rest_counted():
    now = [0.0]
    limit = RateLimit(burst=2, seconds=60, clock=lambda: now[0])
    assert [limit.filter(_record("read %s failed", n)) for n in range(5)] == [True, True, False, False, False]
    assert limit.filter(_record("another"))
    now[0] = 60.0
    record = _record("read %s failed", 9)
    assert limit.filter(record)
    assert record.getMessage() == "read 9 failed (3 more like this were left out)"
    assert limit.filter(_record("read %s failed", 10))
    assert not limit.filter(_record("read %s failed", 11))


def test_debug_is_never_limited_and_memory_is_bounded():
    limit = RateLimit(burst=1, clock=lambda: 0.0)
    assert all(limit.filter(_record("x", level=logging.DEBUG)) for _ in range(50))
    for number in range(5000):
        limit.filter(_record(f"made with f {number}"))
    assert len(limit._seen) <= 1001


def test_levels_apply_to_our_loggers_and_others_only_warn(redactor):
    stream = io.StringIO()
    logs.setup("info", logs.to_terminal(stream), redactor)
    logging.getLogger("xnatfs.a").info("ours")
    logging.getLogger("xnatfs.a").debug("too quiet")
    logging.getLogger("urllib3").info("theirs")
    logging.getLogger("urllib3").warning("their warning")
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == ["ours", "their warning"]


def test_a_log_file_is_private_and_follows_rotation(tmp_path, redactor):
    path = tmp_path / "deep" / "er" / "mount.log"
    handler = logs.open_log(path)
    logs.setup("info", handler, redactor)
    logging.getLogger("xnatfs").warning("one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(path.with_suffix(".old"))
    logging.getLogger("xnatfs").warning("two")
    assert "one" in path.with_suffix(".old").read_text()
    assert path.read_text().endswith("xnatfs: two\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_large_old_log_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "OLD_LOG", 3)
    path = tmp_path / "mount.log"
    path.write_text("long enough")
    logs.open_log(path).close()
    assert (tmp_path / "mount.log.1").read_text() == "long enough"
    assert path.read_text() == ""


def test_the_formatter_is_what_cleans(redactor):
    text = RedactingFormatter(redactor, "%(message)s").format(_record("%s", PASSWORD))
    assert text == logs.REDACTED


def test_control_characters_are_written_out():
    text = RedactingFormatter(Redactor(), "%(message)s").format(_record("label %s", "\x1b[2Jabc\r\x9b"))
    assert text == r"label \x1b[2Jabc\x0d\x9b"


def test_what_cannot_be_logged_costs_no_call_and_is_left_out(tmp_path, capfd):
    path = tmp_path / "log" / "m.log"
    handler = logs.open_log(path)
    path.unlink()
    path.parent.rmdir()
    handler.handle(logging.makeLogRecord({"msg": "nowhere to go"}))
    path.parent.mkdir()
    handler.handle(logging.makeLogRecord({"msg": "here again"}))
    handler.close()
    assert path.read_text() == "here again\n"
    full = logs.open_log(Path("/dev/full"))
    full.handle(logging.makeLogRecord({"msg": "no room"}))
    with suppress(OSError):  # closing writes what is left
        full.close()
    assert capfd.readouterr().err == ""
