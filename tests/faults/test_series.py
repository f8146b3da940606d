"""A whole resource as one archive: what it fills, what it may never do, and what happens when it breaks."""

from __future__ import annotations

import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import (
    PATIENCE,
    Clock,
    FakeDownload,
    FakeEntry,
    FakeFile,
    FakeResource,
    FakeSource,
    content,
    until,
    zip_of,
)

from xnatfs.cache.blocks import BLOCK
from xnatfs.deadlines import Deadline
from xnatfs.errors import AccessDenied, CacheFault, ContentDamaged, Unreachable
from xnatfs.stats import Stats
from xnatfs.transfer import policy
from xnatfs.transfer import series as series_module
from xnatfs.transfer.members import Index, Matcher
from xnatfs.transfer.pool import Pool, Reader, Tuning
from xnatfs.transfer.series import HOLD

KIB = 1024
MIB = 1024 * KIB
PREFIX = "S1/scans/1-T1_MPRAGE/resources/DICOM/files/"


def series(count: int = 20, size: int = 2000, step: int = 731, seed: int = 0) -> dict[str, bytes]:
    return {f"{number:04}.dcm": content(size + number * step, seed + number) for number in range(count)}


class Setup:
    """Resources, their source, and a pool."""

    def __init__(self, *resources: FakeResource, clock: Clock | None = None, workers: int = 8, **tuning: Any) -> None:
        self.resources = resources or (FakeResource(series()),)
        self.source = FakeSource(
            {path: data for resource in self.resources for path, data in resource.files.items()},
            {resource.resource_uri: resource.zip(PREFIX) for resource in self.resources},
        )
        self.clock = clock or Clock()
        self.stats = Stats()
        self.pool = Pool(
            self.source,
            workers=workers,
            clock=self.clock,
            stats=self.stats,
            tuning=Tuning(backoff=0.0, **tuning),
            rng=random.Random(1),
        )
        self.clock.listeners.append(self.pool.wake)
        self.threads = ThreadPoolExecutor(16)
        self.readers: list[Reader] = []

    @property
    def resource(self) -> FakeResource:
        return self.resources[0]

    def open(self, path: str, resource: FakeResource | None = None, **how: Any) -> Reader:
        resource = resource or self.resource
        reader = self.pool.reader(resource.entries[path], FakeFile(path), resource, **how)
        self.readers.append(reader)
        return reader

    def cat(self, path: str, resource: FakeResource | None = None, seconds: float = 60.0) -> None:
        """Open, read all, close."""
        resource = resource or self.resource
        reader = self.open(path, resource)
        data = resource.files[path]
        try:
            for offset in range(0, len(data), 128 * KIB):
                reader.ensure(offset, 128 * KIB, Deadline(seconds, self.clock))
                size = min(128 * KIB, len(data) - offset)
                assert resource.entries[path].read(offset, size) == data[offset : offset + size]
        finally:
            reader.close()

    def cat_later(self, path: str, resource: FakeResource | None = None) -> Future[None]:
        return self.threads.submit(self.cat, path, resource)

    def copy(self, resource: FakeResource | None = None, paths: list[str] | None = None) -> None:
        """``cp -r``."""
        resource = resource or self.resource
        for path in paths or list(resource.files):
            self.cat(path, resource)

    def count(self, name: str) -> int:
        return self.stats.snapshot().get(f"transfer.{name}", 0)

    def archive_state(self) -> list[str]:
        return [running.state for running in self.pool.status() if running.kind == "archive"]

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self.pool.close()
        self.threads.shutdown()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("xnatfs-transfer")]
        assert all(download.closed for download in self.source.downloads)
        for resource in self.resources:
            assert {entry.users for entry in resource.entries.values()} == {1}


Make = Callable[..., Setup]


@pytest.fixture
def setup() -> Iterator[Make]:
    made: list[Setup] = []

    def make(*args: Any, **kwargs: Any) -> Setup:
        made.append(Setup(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


# -- what it is for --------------------------------------------------------------------------------------------------


def test_a_copy_of_a_series_is_two_requests(setup: Make) -> None:
    s = setup(FakeResource(series(200, 2000, 1490)))
    s.copy()
    assert len(s.source.singles) == 1
    assert len(s.source.archives) == 1
    assert all(entry.complete for entry in s.resource.entries.values())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_of_the_files_and_of_the_members(setup: Make, seed: int) -> None:
    s = setup(FakeResource(series(60)))
    shuffled = list(s.resource.files)
    random.Random(seed).shuffle(shuffled)
    s.source.zips[s.resource.resource_uri] = s.resource.zip(PREFIX, order=shuffled)
    paths = list(s.resource.files)
    random.Random(seed + 100).shuffle(paths)
    s.copy(paths=paths)
    assert len(s.source.asked) == 2


def test_eight_readers_at_once_cause_no_burst_of_single_requests(setup: Make) -> None:
    s = setup(FakeResource(series(100)))
    s.source.zip_granted = 0
    s.cat("0000.dcm")
    reads = [s.cat_later(f"{number:04}.dcm") for number in range(10, 26)]
    s.source.until(lambda: bool(s.source.archives))
    assert len(s.source.singles) == 1
    s.source.archives[0].grant(None)
    for read in reads:
        read.result(PATIENCE)
    assert len(s.source.asked) == 2


def test_readers_are_served_file_by_file_while_it_arrives(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)))
    s.source.zip_granted = 350_000
    s.cat("0000.dcm")
    s.cat("0001.dcm")
    s.cat("0002.dcm")
    assert s.resource.entries["0002.dcm"].complete
    assert not s.resource.entries["0004.dcm"].complete
    s.source.archives[0].grant(None)
    s.copy()
    assert len(s.source.asked) == 2


def with_a_large_one() -> dict[str, bytes]:
    return {**series(10, MIB), "large.dcm": content(12 * MIB + 5, 77), "z.dcm": content(100, 78)}


def test_large_members_are_served_before_they_end(setup: Make) -> None:
    s = setup(FakeResource(with_a_large_one()))
    s.source.zip_granted = 20 * MIB
    s.copy(paths=["0000.dcm", "0001.dcm"])
    reader = s.open("large.dcm")
    reader.ensure(0, 128 * KIB, Deadline(60, s.clock))
    assert not s.resource.entries["large.dcm"].complete
    s.source.archives[0].grant(None)
    s.copy()
    assert {download.path for download in s.source.singles} == {"0000.dcm"}
    assert len(s.source.archives) == 1


@pytest.mark.parametrize("digests", [True, False])
def test_damage_in_a_large_member_is_found_at_its_end(setup: Make, digests: bool) -> None:
    s = setup(FakeResource(with_a_large_one(), digests=digests))
    archive = bytearray(s.source.zips[s.resource.resource_uri])
    archive[21 * MIB] ^= 1
    s.source.zips[s.resource.resource_uri] = bytes(archive)
    s.copy(paths=["0000.dcm", "0001.dcm"])
    until(lambda: not s.archive_state())
    assert not s.resource.entries["large.dcm"].present
    s.copy()
    assert s.resource.entries["large.dcm"].data == s.resource.files["large.dcm"]


def test_deflated_members_are_read_as_well(setup: Make) -> None:
    s = setup()
    s.source.zips[s.resource.resource_uri] = zip_of(
        ((PREFIX + path, data) for path, data in s.resource.files.items()), zipfile.ZIP_DEFLATED
    )
    s.copy()
    assert len(s.source.asked) == 2


def test_single_requests_go_on_where_an_archive_does_not_pay(setup: Make) -> None:
    s = setup(FakeResource({f"{number}.nii": content(9 * MIB, number) for number in range(4)}))
    s.copy()
    assert not s.source.archives


# -- beside it -------------------------------------------------------------------------------------------------------


def test_a_file_that_the_archive_will_not_reach_soon_is_fetched_singly(setup: Make) -> None:
    s = setup(FakeResource(series(100, 100_000, 0)))
    s.source.zip_granted = 0
    s.cat("0000.dcm")
    reading = s.cat_later("0099.dcm")
    s.source.until(lambda: bool(s.source.archives) and s.source.archives[0].waiting)
    s.clock.advance(0.5)
    assert len(s.source.singles) == 1  # no hurry
    s.clock.advance(1.0)
    reading.result(PATIENCE)
    assert [path for path, _, _ in s.source.asked][2:] == ["0099.dcm"]
    s.source.archives[0].grant(None)
    s.copy()
    assert len(s.source.asked) == 3


@pytest.mark.parametrize("path", ["0060.dcm", "0061.dcm", "0070.dcm"])
def test_files_behind_the_place_where_an_archive_stalls_are_fetched_singly_after_a_few_seconds(
    setup: Make, path: str
) -> None:
    """However fast it was before: it is in the middle of 0060, so by its rate the next one is a moment away."""
    s = setup(FakeResource(series(100, 100_000, 0)))
    s.source.zip_granted = 60 * 100_200 + 50_000
    s.copy(paths=[f"{number:04}.dcm" for number in range(60)])
    s.source.until(lambda: s.source.archives[0].waiting)
    asked = len(s.source.asked)
    reading = s.cat_later(path)
    until(lambda: bool(s.resource.entries[path].users > 1))
    s.clock.advance(0.1)
    assert len(s.source.asked) == asked  # no hurry
    for _ in range(4):
        s.clock.advance(1.0)
    reading.result(PATIENCE)
    assert [name for name, _, _ in s.source.asked][asked:] == [path]


def test_a_file_that_the_archive_has_passed_is_fetched_singly(setup: Make) -> None:
    s = setup()
    order = [path for path in s.resource.files if path != "0005.dcm"]
    s.source.zips[s.resource.resource_uri] = s.resource.zip(PREFIX, order=order)
    s.copy()
    assert [path for path, _, _ in s.source.asked] == ["0000.dcm", s.resource.resource_uri, "0005.dcm"]


# -- how far it may go -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allowance in small: 2 MiB and three times what was opened."""
    monkeypatch.setattr(policy, "FREE", 2 * MIB)


@pytest.mark.usefixtures("small_policy")
def test_it_stops_when_it_has_brought_its_allowance_and_goes_on_as_files_are_opened(setup: Make) -> None:
    s = setup(FakeResource(series(200, 100_000, 0)))
    s.copy(paths=["0000.dcm", "0001.dcm", "0002.dcm"])
    until(lambda: s.archive_state() == ["waits for its readers"])
    opened = 3 * 100_000
    assert s.source.archives[0].moved <= 2 * MIB + 3 * opened + 64 * KIB
    s.copy()
    assert len(s.source.archives) == 1
    assert len(s.source.asked) <= 5
    assert all(entry.complete for entry in s.resource.entries.values())


@pytest.mark.usefixtures("small_policy")
def test_while_it_rests_far_files_are_fetched_singly(setup: Make) -> None:
    s = setup(FakeResource(series(200, 100_000, 0)))
    s.copy(paths=["0000.dcm", "0001.dcm", "0002.dcm"])
    until(lambda: s.archive_state() == ["waits for its readers"])
    s.cat("0199.dcm")
    assert s.source.asked[-1][0] == "0199.dcm"


def test_it_is_cut_when_nobody_goes_on(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)))
    s.source.zip_granted = 300_000
    s.copy(paths=["0000.dcm", "0001.dcm"])
    s.clock.advance(4.9)
    assert not s.source.archives[0].closed
    s.clock.advance(0.2)
    s.source.until(lambda: s.source.archives[0].closed)
    until(lambda: not s.archive_state())
    assert s.count("cancelled") == 1
    assert s.resource.entries["0001.dcm"].complete
    s.source.zip_granted = None
    s.copy()


def test_who_lists_a_directory_and_reads_its_first_file_whole_gets_the_archive_with_it(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)))
    reader = s.open("0000.dcm", walking=True)
    reader.ensure(0, 128 * KIB, Deadline(60.0, s.clock))
    s.source.until(lambda: bool(s.source.archives))
    reader.close()
    s.copy(paths=list(s.resource.files)[1:])
    assert len(s.source.archives) == 1
    assert len(s.source.singles) <= 1  # none where the archive was there before the file itself had been asked for


def test_who_lists_a_directory_and_reads_a_header_gets_no_archive(setup: Make) -> None:
    s = setup(FakeResource(series(20, 300_000, 0)))
    reader = s.open("0000.dcm", walking=True)
    reader.ensure(0, 32 * KIB, Deadline(60.0, s.clock))
    reader.ensure(32 * KIB, 128 * KIB, Deadline(60.0, s.clock))
    reader.close()
    assert s.source.archives == []


def test_an_archive_for_a_single_file_is_cut_after_a_second(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)))
    s.source.zip_granted = 0
    reader = s.open("0000.dcm", walking=True)
    reader.ensure(0, 128 * KIB, Deadline(60.0, s.clock))
    reader.close()
    s.source.until(lambda: bool(s.source.archives) and s.source.archives[0].waiting)
    s.clock.advance(0.9)
    assert not s.source.archives[0].closed
    s.clock.advance(0.2)
    s.source.until(lambda: s.source.archives[0].closed)


def test_an_archive_for_a_single_file_waits_for_a_second_one(setup: Make) -> None:
    s = setup(FakeResource(series(20, 600_000, 0)))
    reader = s.open("0000.dcm", walking=True)
    reader.ensure(0, 128 * KIB, Deadline(60.0, s.clock))
    until(lambda: s.archive_state() == ["waits for its readers"])
    assert 4 * MIB <= s.count("bytes") <= 5.5 * MIB
    s.copy(paths=list(s.resource.files)[1:])
    assert (len(s.source.singles), len(s.source.archives)) == (1, 1)
    assert all(entry.complete for entry in s.resource.entries.values())


def test_a_file_that_will_be_read_whole_is_one_request(setup: Make) -> None:
    s = setup(FakeResource(series(2, 700_000, 0)))
    s.open("0000.dcm", walking=True).ensure(0, 128 * KIB, Deadline(60.0, s.clock))
    s.open("0001.dcm").ensure(0, 128 * KIB, Deadline(60.0, s.clock))
    assert [stop - start for _, start, stop in s.source.asked if stop] == [700_000, 256 * KIB]


def test_somebody_who_waits_keeps_it(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)), grace=1.0)
    s.source.zip_granted = 150_000
    s.cat("0000.dcm")
    reading = s.cat_later("0002.dcm")
    s.source.until(lambda: bool(s.source.archives) and s.source.archives[0].waiting)
    for _ in range(3):
        s.clock.advance(0.24)
    assert not s.source.archives[0].closed
    s.source.archives[0].grant(None)
    reading.result(PATIENCE)


def test_only_one_at_a_time_for_a_resource_and_a_few_in_all(setup: Make) -> None:
    resources = [FakeResource(series(20, seed=number * 100), f"/resources/{number}") for number in range(4)]
    for resource in resources:
        resource.files = {f"{resource.key}/{path}": data for path, data in resource.files.items()}
        resource.entries = {path: FakeEntry(len(data)) for path, data in resource.files.items()}
        resource._digests = False
    s = setup(*resources, archives=2)
    s.source.zip_granted = 0
    for resource in resources:
        s.cat(next(iter(resource.files)), resource)
    reads = [s.cat_later(path, resource) for resource in resources[:2] for path in list(resource.files)[5:10]]
    s.source.until(lambda: len(s.source.archives) == 2)
    s.cat(list(resources[2].files)[3], resources[2])  # the third resource is read singly meanwhile
    assert len(s.source.archives) == 2
    for download in s.source.archives:
        download.grant(None)
    for read in reads:
        read.result(PATIENCE)
    assert len(s.source.archives) == 2


def test_it_gives_its_thread_to_a_reader_of_another_file(setup: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeResource({"b/1.nii": content(100_000, 50)}, "/resources/other")
    s = setup(FakeResource(series(100, 100_000, 0)), other, workers=1)
    original = FakeDownload.readinto
    s.source.zip_granted = 250_000
    s.copy(paths=["0000.dcm", "0001.dcm"])
    reading = s.cat_later("b/1.nii", other)
    until(lambda: "waits for a thread" in [running.state for running in s.pool.status()])

    def slow(self: FakeDownload, buffer: memoryview) -> int:
        s.clock.now += 0.1
        return original(self, buffer)

    monkeypatch.setattr(FakeDownload, "readinto", slow)
    s.source.zip_granted = None
    s.source.archives[0].grant(3_000_000)
    reading.result(PATIENCE)
    assert not s.resource.entries["0050.dcm"].complete
    s.source.archives[0].grant(None)
    s.copy()


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_cut_archive_keeps_what_was_complete(setup: Make) -> None:
    s = setup(FakeResource(series(20, 100_000, 0)))
    s.source.prepare = lambda download: setattr(download, "cut", 550_000) if download.path in s.source.zips else None
    s.cat("0000.dcm")
    s.cat("0001.dcm")
    until(lambda: not s.archive_state())
    assert [entry.complete for entry in s.resource.entries.values()].count(True) == 5
    s.source.prepare = lambda download: None
    s.copy()
    assert len(s.source.archives) == 2  # tried once more, after two files more


def test_an_archive_without_some_of_the_files_is_not_fetched_again_for_them(setup: Make) -> None:
    s = setup(FakeResource(series(40)))
    paths = list(s.resource.files)
    s.source.zips[s.resource.resource_uri] = s.resource.zip(PREFIX, order=paths[:25])
    s.copy(paths=[paths[0], *paths[24:]])
    s.copy()
    assert len(s.source.archives) == 1
    assert len(s.source.singles) == 1 + 15


def test_an_archive_that_fails_twice_is_left_alone_for_a_while(setup: Make) -> None:
    s = setup(FakeResource(series(40, 100_000, 0)))
    s.source.prepare = lambda download: setattr(download, "cut", 100) if download.path in s.source.zips else None
    s.copy(paths=list(s.resource.files)[:20])
    assert len(s.source.archives) == 2
    assert len(s.source.singles) == 20
    s.clock.advance(601)
    s.source.prepare = lambda download: None
    s.copy()
    assert len(s.source.archives) == 3


def test_a_refused_archive_is_not_asked_for_twice(setup: Make) -> None:
    s = setup(FakeResource(series(20)))

    def refuse(download: FakeDownload) -> None:
        if download.path in s.source.zips:
            raise AccessDenied("no archives here")

    s.source.prepare = refuse
    s.copy()
    assert sum(path == s.resource.resource_uri for path, _, _ in s.source.asked) == 1
    assert len(s.source.singles) == 20


def test_an_html_page_for_an_archive_is_no_archive(setup: Make) -> None:
    s = setup()
    s.source.zips[s.resource.resource_uri] = b"<html>please log in</html>" * 100
    s.copy()
    assert len(s.source.singles) == 20


@pytest.mark.parametrize("hold", [HOLD, 1000])
def test_a_member_that_is_not_what_the_listing_says_is_fetched_singly(
    setup: Make, hold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones, which are compared in memory, and large ones, which are written as they come."""
    monkeypatch.setattr(series_module, "HOLD", hold)
    s = setup()
    bad = dict(s.resource.files)
    bad["0004.dcm"] = content(len(bad["0004.dcm"]), 999)  # the zip's own checksum is right
    bad["0007.dcm"] = bad["0007.dcm"] + b"x"
    bad["0009.dcm"] = bad["0009.dcm"][:-1]
    s.source.zips[s.resource.resource_uri] = zip_of((PREFIX + path, data) for path, data in bad.items())
    s.copy()
    assert len(s.source.archives) == 1
    assert sorted(path for path, _, _ in s.source.asked[2:]) == ["0004.dcm", "0007.dcm", "0009.dcm"]


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_damaged_member_is_never_served(setup: Make, digests: bool, size: int) -> None:
    s = setup(FakeResource(series(8, size, 7), digests=digests))
    damaged = bytearray(s.source.zips[s.resource.resource_uri])
    damaged[3 * size + size // 2 + 500] ^= 1  # in the fourth
    s.source.zips[s.resource.resource_uri] = bytes(damaged)
    s.copy()
    for path, data in s.resource.files.items():
        assert s.resource.entries[path].data == data


@pytest.mark.parametrize("size", [3 * BLOCK, 10 * MIB])
@pytest.mark.parametrize("digests", [True, False])
def test_an_archive_is_not_joined_with_parts_of_a_file_that_may_be_of_another_version(
    setup: Make, digests: bool, size: int
) -> None:
    """A single download says of which date it is, and is compared with the parts; of a member only the digest does."""
    files = series(6, 3 * BLOCK, 0) | {"0003.dcm": content(size, 3)}
    s = setup(FakeResource(files, digests=digests))
    s.resource.entries["0003.dcm"].write(0, files["0003.dcm"][:BLOCK])
    s.copy()
    asked = [path for path, _, _ in s.source.asked]
    assert len(s.source.archives) == 1
    assert ("0003.dcm" in asked) == (not digests or size > HOLD)
    assert s.resource.entries["0003.dcm"].complete


def test_who_waits_for_a_whole_archive_waits_no_longer_than_he_says(setup: Make) -> None:
    s = setup()
    s.source.zip_granted = 0
    whole = s.pool.whole(s.resource, len(s.resource.files))
    assert whole is not None
    assert not whole.wait(0.01)
    whole.cancel()
    assert whole.wait(PATIENCE)


def test_foreign_names_are_not_matched(setup: Make) -> None:
    s = setup()
    evil = b"evil" * 400
    members = [
        ("../../etc/passwd", evil),
        ("/etc/passwd", evil),
        (PREFIX + "../0003.dcm", evil),
        (PREFIX + "/0003.dcm", evil),
        ("S1/resources/DICOM/0003.dcm", s.resource.files["0003.dcm"]),
        (PREFIX + "sub/", b""),
        ("0003.dcm", evil),
    ]
    members += [(PREFIX + path, data) for path, data in s.resource.files.items() if path != "0003.dcm"]
    members += [("S2/scans/1-T1_MPRAGE/resources/DICOM/files/0003.dcm", s.resource.files["0003.dcm"])]
    members += [(PREFIX.replace("DICOM", "SECONDARY") + "0003.dcm", s.resource.files["0003.dcm"])]
    s.source.zips[s.resource.resource_uri] = zip_of(members)
    s.copy()
    assert [path for path, _, _ in s.source.asked[2:]] == ["0003.dcm"]


def test_the_second_of_two_members_of_one_name_counts_for_nothing(setup: Make) -> None:
    s = setup(FakeResource(series(), digests=False))
    members = [(PREFIX + path, data) for path, data in s.resource.files.items()]
    members.insert(8, (PREFIX + "0006.dcm", content(len(s.resource.files["0006.dcm"]), 99)))
    with pytest.warns(UserWarning, match="Duplicate"):
        s.source.zips[s.resource.resource_uri] = zip_of(members)
    s.copy()
    assert len(s.source.asked) == 2


def test_a_bomb_is_cut(setup: Make) -> None:
    s = setup()
    members = {PREFIX + path: data for path, data in s.resource.files.items()} | {PREFIX + "0001.dcm": bytes(99 * MIB)}
    bomb = zip_of(members.items(), zipfile.ZIP_DEFLATED)
    s.source.zips[s.resource.resource_uri] = bomb
    s.copy()
    assert len(s.source.singles) >= 10


def test_a_full_cache_fails_the_reader_and_not_the_others(setup: Make) -> None:
    s = setup()

    def full(block: int, data: bytes | memoryview) -> None:
        raise CacheFault("no space left")

    s.resource.entries["0005.dcm"].write = full  # type: ignore[method-assign]
    with pytest.raises(CacheFault):
        s.copy()
    s.copy(paths=[path for path in s.resource.files if path != "0005.dcm"])


def test_a_listing_that_is_gone_means_no_archive(setup: Make) -> None:
    s = setup()

    def gone() -> list[Any]:
        raise Unreachable("no listing")

    s.resource.members = gone  # type: ignore[method-assign]
    s.copy()
    assert not s.source.archives


def test_closing_the_pool_cuts_an_archive(setup: Make) -> None:
    s = setup()
    s.source.zip_granted = 100
    s.cat("0000.dcm")
    reading = s.cat_later("0001.dcm")
    s.source.until(lambda: bool(s.source.archives) and s.source.archives[0].waiting)
    s.pool.close()
    assert s.source.archives[0].closed
    with pytest.raises(Unreachable):
        reading.result(PATIENCE)


SMALL = FakeResource({f"d/{number}.dcm": content(300 + 40 * number, number) for number in range(12)})
SMALL_ZIP = SMALL.zip(PREFIX)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut=st.integers(0, len(SMALL_ZIP)), flip=st.integers(-1, len(SMALL_ZIP) - 1), seed=st.integers(0, 99))
def test_cut_anywhere_and_damaged_anywhere_every_byte_is_right(cut: int, flip: int, seed: int) -> None:
    resource = FakeResource(SMALL.files, digests=seed % 4 != 0)
    s = Setup(resource)
    damaged = bytearray(SMALL_ZIP)
    if flip >= 0:
        damaged[flip] ^= 1 << seed % 8
    s.source.zips[resource.resource_uri] = bytes(damaged)
    s.source.piece = 1 + seed * 7
    s.source.prepare = lambda download: setattr(download, "cut", cut) if download.path in s.source.zips else None
    paths = list(resource.files)
    random.Random(seed).shuffle(paths)
    try:
        s.copy(paths=paths)
        assert all(resource.entries[path].data == data for path, data in resource.files.items())
    finally:
        s.close()


# -- names -----------------------------------------------------------------------------------------------------------


def matcher(*paths: str) -> Matcher:
    return Matcher(Index(FakeResource(dict.fromkeys(paths, b"x")).members()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("S/scans/1-T1/resources/DICOM/files/a.dcm", "a.dcm"),
        ("S/resources/DOCS/files/sub/a.txt", "sub/a.txt"),
        ("S/scans/1/resources/123/files/ü #%20.txt", "ü #%20.txt"),
        ("S/assessors/A/out/resources/R/files/files/resources/R/files/a", "files/resources/R/files/a"),
        ("resources/scans/1/resources/R/files/a", "a"),
        ("P/S/E/scans/1/resources/R/files/a", "a"),
    ],
)
def test_a_member_is_the_file_of_that_very_path(name: str, path: str) -> None:
    found = matcher(path, "other").match(name.encode())
    assert found is not None
    assert found.path == path


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "/a",
        "files/a",
        "S/resources/R/a",
        "S/resources/R/files/../a",
        "S/resources/R/files//a",
        "S/resources/R/files/A",
        "S/resources/R/files/b/resources/R/files/a",
        "S/resources/R/X/files/a",
        "S\\resources\\R\\files\\a",
    ],
)
def test_other_names_are_nobodys(name: str) -> None:
    assert matcher("a").match(name.encode()) is None
    assert matcher("a").match(b"\xff\xfe") is None


def test_all_members_share_the_prefix_of_the_first(setup: Make) -> None:
    names = matcher("a", "b", "c")
    assert names.match(b"S/resources/R/files/a")
    assert not names.match(b"T/resources/R/files/b")
    assert not names.match(b"S/resources/R/files/a")  # once
    assert names.match(b"S/resources/R/files/b")


def test_damage_is_an_error_of_ours() -> None:
    assert issubclass(ContentDamaged, Exception)
