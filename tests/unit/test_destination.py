"""Files on their way into a directory: whole and verified under their name, or not there."""

from __future__ import annotations

import hashlib
import random

import pytest

from xnatfs.cache.blocks import BLOCK
from xnatfs.destination import WORTH_KEEPING, Destination
from xnatfs.errors import CacheFault, ContentDamaged

CONTENT = random.Random(3).randbytes(3 * BLOCK + 17)
DIGEST = hashlib.md5(CONTENT).hexdigest()
TIME = 1_234_567_890_123_456_789


@pytest.fixture
def to(tmp_path):
    return Destination(tmp_path / "out")


def part(to, path="P/S/a.dcm", content=CONTENT, digest=DIGEST):
    return to.part(path, len(content), digest, TIME)


def files(to):
    return sorted(str(path.relative_to(to.root)) for path in to.root.rglob("*") if path.is_file())


def test_a_file_stands_under_its_name_when_all_of_it_is_there_and_right(to):
    entry = part(to)
    entry.write(0, CONTENT[: 2 * BLOCK])
    assert not (to.root / "P/S/a.dcm").exists()
    entry.write(2, CONTENT[2 * BLOCK :])
    assert entry.complete
    entry.release()
    assert files(to) == ["P/S/a.dcm"]
    assert (to.root / "P/S/a.dcm").read_bytes() == CONTENT
    assert (to.root / "P/S/a.dcm").stat().st_mtime_ns == TIME
    assert to.holds("P/S/a.dcm", len(CONTENT), DIGEST)


def test_blocks_may_come_in_any_order_and_twice(to):
    entry = part(to)
    for number in (3, 1, 1, 0, 2):
        entry.write(number, CONTENT[number * BLOCK : (number + 1) * BLOCK])
    entry.release()
    assert (to.root / "P/S/a.dcm").read_bytes() == CONTENT


@pytest.mark.parametrize("pieces", [1, 2])
def test_wrong_bytes_never_stand_under_its_name(to, pieces):
    bad = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    entry = part(to)
    if pieces == 2:
        entry.write(0, bad[:BLOCK])
        bad = bad[BLOCK:]
    with pytest.raises(ContentDamaged):
        entry.write(pieces - 1, bad)
    assert not entry.complete
    assert entry.missing(0, 4) == [(0, 4)]
    entry.write(0, CONTENT)  # the second attempt
    entry.release()
    assert (to.root / "P/S/a.dcm").read_bytes() == CONTENT


def test_what_is_left_of_a_small_file_goes(to):
    entry = part(to)
    entry.write(0, CONTENT[:BLOCK])
    entry.release()
    assert files(to) == []


def test_a_large_file_goes_on_where_it_was_interrupted(to):
    content = random.Random(4).randbytes(WORTH_KEEPING + 5 * BLOCK)
    digest = hashlib.md5(content).hexdigest()
    entry = part(to, content=content, digest=digest)
    entry.write(0, content[: WORTH_KEEPING + BLOCK])
    entry.release()
    assert not (to.root / "P/S/a.dcm").exists()
    entry = part(to, content=content, digest=digest)
    first = WORTH_KEEPING // BLOCK + 1
    assert entry.missing(0, len(content) // BLOCK) == [(first, first + 4)]
    entry.write(first, content[first * BLOCK :])
    entry.release()
    assert (to.root / "P/S/a.dcm").read_bytes() == content
    assert files(to) == ["P/S/a.dcm"]


def test_what_was_left_of_another_version_is_found_out(to):
    content = random.Random(4).randbytes(WORTH_KEEPING + 5 * BLOCK)
    other = bytes([content[0] ^ 1]) + content[1:]
    digest = hashlib.md5(content).hexdigest()
    entry = part(to, content=content, digest=hashlib.md5(other).hexdigest())
    entry.write(0, other[:WORTH_KEEPING])
    entry.release()
    entry = part(to, content=content, digest=digest)
    with pytest.raises(ContentDamaged):
        entry.write(WORTH_KEEPING // BLOCK, content[WORTH_KEEPING:])
    entry.write(0, content)
    entry.release()
    assert (to.root / "P/S/a.dcm").read_bytes() == content


def test_without_a_digest_nothing_that_was_left_is_trusted(to):
    entry = part(to, digest="")
    entry.release()
    entry._part.write_bytes(CONTENT[: 2 * BLOCK])  # as a kill leaves it
    entry = part(to, digest="")
    assert entry.missing(0, 4) == [(0, 4)]
    entry.write(0, CONTENT)
    entry.release()
    assert to.holds("P/S/a.dcm", len(CONTENT), "")


def test_an_empty_file_is_there_at_once(to):
    part(to, content=b"", digest="").release()
    assert (to.root / "P/S/a.dcm").read_bytes() == b""


def test_two_at_a_time_do_not_write_one_file(to):
    entry = part(to)
    with pytest.raises(CacheFault, match="another xnatfs"):
        part(to)
    entry.write(0, CONTENT)
    entry.release()


@pytest.mark.parametrize("path", ["../a", "P/../../a", "/etc/a", "P//a", "", ".", "a\0b"])
def test_no_path_leads_out_of_the_directory(to, path):
    with pytest.raises(CacheFault):
        to.part(path, 1, "", TIME)


def test_no_link_leads_out_of_the_directory(to, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    to.root.mkdir()
    (to.root / "P").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheFault, match="leads out"):
        part(to)
    assert not list((tmp_path / "elsewhere").rglob("*.dcm"))
    (to.root / "Q").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    (to.root / "Q/a.dcm").symlink_to(secret)
    assert not to.holds("Q/a.dcm", 4, "")
    entry = part(to, "Q/a.dcm")
    entry.write(0, CONTENT)
    entry.release()
    assert secret.read_bytes() == b"mine"
    assert (to.root / "Q/a.dcm").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "digest"),
    [(CONTENT[:-1], DIGEST), (bytes([CONTENT[0] ^ 1]) + CONTENT[1:], DIGEST), (CONTENT + b"x", "")],
    ids=["short", "other bytes", "long"],
)
def test_a_file_that_is_there_counts_only_if_it_is_right(to, content, digest):
    to.root.mkdir()
    (to.root / "a").write_bytes(content)
    assert not to.holds("a", len(CONTENT), digest)


def test_a_directory_in_the_place_of_a_file_is_an_error_and_stays(to):
    (to.root / "P/S/a.dcm").mkdir(parents=True)
    entry = part(to)
    with pytest.raises(CacheFault, match="directory"):
        entry.write(0, CONTENT)
    entry.release()
    assert (to.root / "P/S/a.dcm").is_dir()
    assert files(to) == []
