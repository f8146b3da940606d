"""Downloads of single files: what is asked for, what is shared, what ends when, and what goes wrong."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.fakes import PATIENCE, Clock, FakeDownload, FakeEntry, FakeFile, FakeSource, content, md5, until

from xnatfs.cache.blocks import BLOCK
from xnatfs.deadlines import AFTERMATH, Deadline
from xnatfs.errors import (
    AccessDenied,
    BadHandle,
    CacheFault,
    ContentChanged,
    ContentDamaged,
    LoginFailed,
    NotFound,
    ServerFault,
    TimedOut,
    Unreachable,
    XnatfsError,
)
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Pool, Reader, Tuning
from xnatfs.transfer.readahead import FIRST

KIB = 1024
MIB = 1024 * KIB
FILE = FakeFile("a.nii")
QUICK = Tuning(backoff=0.0)


class Setup:
    """One file, a source, a pool with a clock ticked by hand, and threads that read."""

    def __init__(
        self,
        size: int = 8 * MIB,
        *,
        tuning: Tuning = QUICK,
        workers: int = 8,
        rng: random.Random | None = None,
        **source: Any,
    ) -> None:
        self.data = content(size)
        self.source = FakeSource({FILE.path: self.data}, **source)
        self.clock = Clock()
        self.stats = Stats()
        self.pool = Pool(
            self.source,
            workers=workers,
            clock=self.clock,
            stats=self.stats,
            tuning=tuning,
            rng=rng or random.Random(1),
        )
        self.clock.listeners.append(self.pool.wake)
        self.entry = FakeEntry(size, md5(self.data))
        self._threads = ThreadPoolExecutor(16)

    def reader(self, **changes: Any) -> Reader:
        return self.pool.reader(self.entry, FILE, **changes)

    def deadline(self, seconds: float = 60.0) -> Deadline:
        return Deadline(seconds, self.clock)

    def read(self, reader: Reader, offset: int, size: int, seconds: float = 60.0) -> bytes:
        reader.ensure(offset, size, self.deadline(seconds))
        data = self.entry.read(offset, min(size, len(self.data) - offset))
        assert data == self.data[offset : offset + size]
        return data

    def read_all(self, reader: Reader, step: int = 128 * KIB, start: int = 0) -> None:
        for offset in range(start, len(self.data), step):
            self.read(reader, offset, step)

    def later(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._threads.submit(call, *args)

    def count(self, name: str) -> int:
        return self.stats.snapshot().get(f"transfer.{name}", 0)

    def states(self) -> list[str]:
        return [running.state for running in self.pool.status()]

    def close(self) -> None:
        self.source.opening.set()
        self.pool.close()
        self._threads.shutdown()


@pytest.fixture
def setup() -> Iterator[Callable[..., Setup]]:
    made: list[Setup] = []

    def make(*args: Any, **kwargs: Any) -> Setup:
        made.append(Setup(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("xnatfs-transfer")]
        assert all(download.closed for download in one.source.downloads)


Make = Callable[..., Setup]


# -- what is asked for -----------------------------------------------------------------------------------------------


def test_a_header_costs_one_bounded_request(setup: Make) -> None:
    s = setup()
    reader = s.reader()
    s.read(reader, 0, 4 * KIB)
    until(lambda: not s.pool.status())
    assert s.source.asked == [(FILE.path, 0, FIRST)]
    assert s.source.moved == FIRST
    assert s.count("cancelled") == 0
    reader.close()


def test_a_small_file_is_one_request(setup: Make) -> None:
    s = setup(200 * KIB)
    s.read(s.reader(), 150 * KIB, 4 * KIB)
    until(lambda: s.entry.complete)
    assert s.source.asked == [(FILE.path, 0, 200 * KIB)]


def test_a_sequential_read_is_a_bounded_request_and_one_to_the_end(setup: Make) -> None:
    s = setup()
    s.read_all(s.reader())
    assert s.source.asked == [(FILE.path, 0, FIRST), (FILE.path, FIRST, 8 * MIB)]
    assert s.source.moved == 8 * MIB
    assert s.entry.complete


def test_an_empty_file_and_the_end_of_a_file_ask_for_nothing(setup: Make) -> None:
    s = setup(0)
    s.reader().ensure(0, 4096, s.deadline())
    t = setup(100)
    reader = t.reader()
    reader.ensure(100, 4096, t.deadline())
    reader.ensure(5000, 1, t.deadline())
    assert s.source.asked == t.source.asked == []


def test_a_request_is_clamped_to_the_size(setup: Make) -> None:
    s = setup(1 * MIB + 13)
    s.read(s.reader(), 1 * MIB - 10, 1 * MIB)
    assert all(stop <= 1 * MIB + 13 for _, _, stop in s.source.asked)


def test_random_reads_are_small_requests(setup: Make) -> None:
    s = setup(64 * MIB)
    reader = s.reader()
    for number in range(10):
        s.read(reader, (number * 7 % 10) * 6 * MIB + 12345, 4 * KIB)
    until(lambda: not s.pool.status())
    assert s.source.moved <= 2 * FIRST + 10 * BLOCK


def test_a_stream_runs_ahead_by_no_more_than_its_window(setup: Make) -> None:
    s = setup(64 * MIB)
    reader = s.reader()
    for offset in range(0, 2 * MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    assert 2 * MIB <= s.source.moved <= 4 * MIB + FIRST
    downloads = len(s.source.downloads)
    for offset in range(2 * MIB, 6 * MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    assert len(s.source.downloads) == downloads  # the same connection went on


def test_blocks_that_are_there_already_are_not_fetched_to_the_end(setup: Make) -> None:
    s = setup(32 * MIB)
    s.entry.write(MIB // BLOCK, s.data[MIB : 31 * MIB])
    s.read_all(s.reader())
    assert s.source.moved <= 32 * MIB - 20 * MIB
    assert s.entry.complete


# -- many readers, one download --------------------------------------------------------------------------------------


def test_readers_without_range_share_one_download(setup: Make) -> None:
    s = setup(honours=False, ranges=False, granted=0)
    offsets = [random.Random(5).randrange(8 * MIB - 4096) for _ in range(8)]
    reads = [s.later(s.read, s.reader(), offset, 4096) for offset in offsets]
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.source.downloads[0].grant(None)
    for read in reads:
        read.result(PATIENCE)
    assert s.source.asked == [(FILE.path, 0, 8 * MIB)]


def test_readers_who_find_out_that_range_is_ignored_share_one_download(setup: Make) -> None:
    s = setup(honours=False, ranges=None, granted=0)
    s.source.opening.clear()
    offsets = [7 * MIB, 3 * MIB, 5 * MIB, 100, 6 * MIB, MIB, 2 * MIB, 4 * MIB]
    reads = [s.later(s.read, s.reader(), offset, 4096) for offset in offsets]
    s.source.until(lambda: len(s.source.asked) == 1)
    s.source.opening.set()
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.source.downloads[0].grant(None)
    for read in reads:
        read.result(PATIENCE)
    assert len(s.source.asked) == 1
    assert s.source.downloads[0].moved >= 7 * MIB  # from the start: everything it brought is kept
    assert s.entry.has(0, 7 * MIB)


def test_a_server_that_ignores_range_for_one_file_only(setup: Make) -> None:
    """ranges is True, and yet the whole file comes: eight bodies are asked for, one is read."""
    s = setup(honours=False, ranges=True, granted=0)
    s.source.opening.clear()
    reads = [s.later(s.read, s.reader(), offset * MIB, 4096) for offset in range(8)]
    s.source.until(lambda: len(s.source.asked) >= 2)
    s.source.ranges = True
    s.source.prepare = lambda download: setattr(s.source, "ranges", True)
    s.source.opening.set()

    def let_on() -> bool:
        for download in s.source.downloads:
            if not download.closed:
                download.grant(None)
        return all(read.done() for read in reads)

    until(let_on)
    for read in reads:
        read.result()
    assert sum(download.moved > MIB for download in s.source.downloads) == 1


def test_without_range_a_far_reader_lets_the_stream_run(setup: Make) -> None:
    s = setup(honours=False, ranges=False)
    s.read(s.reader(), 7 * MIB, 100)
    s.read(s.reader(), 0, 100)
    assert len(s.source.asked) == 1


def test_a_reader_joins_a_stream_that_will_soon_pass(setup: Make) -> None:
    s = setup(granted=0)
    first = s.reader()
    one = s.later(s.read, first, 0, 4096)
    s.source.until(lambda: len(s.source.downloads) == 1)
    two = s.later(s.read, s.reader(), 100 * KIB, 4096)
    until(lambda: s.count("joins") == 1)
    s.source.downloads[0].grant(None)
    one.result(PATIENCE)
    two.result(PATIENCE)
    assert len(s.source.asked) == 1


def test_a_reader_far_ahead_gets_a_request_of_its_own(setup: Make) -> None:
    s = setup(64 * MIB, granted=0)
    slow = s.later(s.read, s.reader(), 0, 4096)
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.source.granted = None
    s.read(s.reader(), 40 * MIB, 4096)
    assert [start for _, start, _ in s.source.asked] == [0, 40 * MIB]
    s.source.downloads[0].grant(None)
    slow.result(PATIENCE)


def test_a_reader_of_what_a_stream_has_passed_gets_a_request_of_its_own(setup: Make) -> None:
    s = setup(64 * MIB, granted=0)
    slow = s.later(s.read, s.reader(), 40 * MIB, 4096)
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.source.granted = None
    s.read(s.reader(), 39 * MIB, 4096)
    assert [start for _, start, _ in s.source.asked] == [40 * MIB, 39 * MIB]
    s.source.downloads[0].grant(None)
    slow.result(PATIENCE)


def test_open_close_open_is_one_download(setup: Make) -> None:
    s = setup(granted=4 * BLOCK)
    for _ in range(4):
        reader = s.reader()
        s.read(reader, 0, 4096)
        reader.close()
        s.clock.advance(1)
    reader = s.reader()
    s.read(reader, 200 * KIB, 4096)
    assert len(s.source.asked) == 1


def test_a_reader_within_the_grace_period_goes_on_with_the_connection(setup: Make) -> None:
    s = setup(64 * MIB)
    reader = s.reader()
    for offset in range(0, MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    asked = len(s.source.asked)
    reader.close()
    s.clock.advance(4)
    reader = s.reader()
    for offset in range(MIB, 3 * MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    assert len(s.source.asked) == asked


# -- ends ------------------------------------------------------------------------------------------------------------


def test_after_the_last_close_and_the_grace_period_the_download_is_cut(setup: Make) -> None:
    s = setup(64 * MIB, granted=MIB)
    reader = s.reader()
    for offset in range(0, 512 * KIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: any(download.waiting for download in s.source.downloads) or "waits for its readers" in s.states())
    reader.close()
    s.clock.advance(4.9)
    assert not s.source.downloads[-1].closed
    s.clock.advance(0.2)
    s.source.until(lambda: s.source.downloads[-1].closed, "closed after the grace period")
    until(lambda: s.entry.users == 1, "given back")
    assert s.count("cancelled") == 1


def test_another_reader_keeps_it(setup: Make) -> None:
    s = setup(64 * MIB, granted=BLOCK)
    one, two = s.reader(), s.reader()
    s.read(one, 0, 4096)
    s.read(two, 0, 4096)
    waiting = s.later(s.read, two, 100 * KIB, 4096)
    until(lambda: sum(running.readers for running in s.pool.status()) == 1)
    one.close()
    s.clock.advance(30)
    assert not s.source.downloads[0].closed
    s.source.downloads[0].grant(None)
    waiting.result(PATIENCE)


def test_a_small_remainder_is_finished(setup: Make) -> None:
    s = setup(FIRST, granted=3 * BLOCK)
    reader = s.reader()
    s.read(reader, 0, 4096)
    reader.close()
    s.clock.advance(60)
    s.source.downloads[0].grant(None)
    until(lambda: s.entry.complete)
    until(lambda: s.entry.users == 1)
    assert s.count("cancelled") == 0


def test_an_idle_stream_gives_its_connection_up_and_is_resumed_by_range(setup: Make) -> None:
    s = setup(64 * MIB)
    reader = s.reader()
    for offset in range(0, MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    s.clock.advance(11)
    s.source.until(lambda: s.source.downloads[-1].closed)
    s.read_all(reader, step=MIB, start=MIB)
    assert s.source.moved == 64 * MIB  # nothing twice


def test_a_stream_is_idle_from_when_it_was_last_read_on(setup: Make) -> None:
    s = setup(64 * MIB)
    reader = s.reader()
    for offset in range(0, MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    s.clock.advance(6)
    for offset in range(MIB, 2 * MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    s.clock.advance(6)  # the time of the first rest is up, not that of the second
    s.read(reader, 2 * MIB, 128 * KIB)
    until(lambda: s.states() == ["waits for its readers"])
    assert not s.source.downloads[-1].closed
    asked = len(s.source.asked)
    s.clock.advance(11)
    s.source.until(lambda: s.source.downloads[-1].closed)
    assert len(s.source.asked) == asked


def test_connections_that_could_not_be_resumed_are_not_given_up_for_others(setup: Make) -> None:
    s = setup(64 * MIB, workers=1, honours=False, ranges=False)
    for number in range(4):
        path = f"f{number}"
        s.source.files[path] = s.data
        s.pool.reader(FakeEntry(len(s.data), key=path), FakeFile(path)).ensure(0, 4096, s.deadline())
    until(lambda: s.states() == ["waits for its readers"] * 4)
    assert not any(download.closed for download in s.source.downloads)
    assert s.count("cancelled") == 0


def test_a_reader_whose_time_is_up_leaves_nothing_behind(setup: Make) -> None:
    s = setup()
    s.source.granted = 64 * KIB
    reader = s.reader()
    reading = s.later(s.read, reader, 0, 128 * KIB, 5.0)
    s.source.until(lambda: bool(s.source.downloads) and s.source.downloads[0].waiting)
    s.clock.advance(3)
    s.source.until(lambda: s.source.downloads[0].waiting)
    s.clock.advance(3)
    with pytest.raises(TimedOut):
        reading.result(PATIENCE)
    assert not any(feed.waiters for feed in s.pool._context.feeds.values())
    reader.close()
    s.clock.advance(6)
    until(lambda: not s.pool._context.feeds)
    assert s.entry.users == 1
    assert all(download.closed for download in s.source.downloads)


def test_an_idle_stream_without_range_goes_on(setup: Make) -> None:
    s = setup(64 * MIB, honours=False, ranges=False)
    reader = s.reader()
    s.read(reader, 0, 4096)
    until(lambda: s.states() == ["waits for its readers"])
    s.clock.advance(11)
    until(lambda: s.entry.complete)
    assert len(s.source.asked) == 1


def test_resting_connections_are_bounded(setup: Make) -> None:
    s = setup(64 * MIB, workers=2)
    readers = []
    for number in range(12):
        path = f"f{number}"
        s.source.files[path] = s.data
        entry = FakeEntry(len(s.data), key=path)
        reader = s.pool.reader(entry, FakeFile(path))
        for offset in range(0, MIB, 128 * KIB):
            reader.ensure(offset, 128 * KIB, s.deadline())
        readers.append(reader)
    until(lambda: sum(not download.closed for download in s.source.downloads) <= 4)
    assert s.count("cancelled") >= 8


def test_reading_a_closed_reader_is_an_error(setup: Make) -> None:
    s = setup()
    reader = s.reader()
    reader.close()
    reader.close()
    with pytest.raises(BadHandle):
        s.read(reader, 0, 1)
    assert s.entry.users == 1


def test_closing_the_pool_fails_those_who_wait(setup: Make) -> None:
    s = setup(granted=0)
    reading = s.later(s.read, s.reader(), 0, 4096)
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.pool.close()
    with pytest.raises(Unreachable, match="unmounted"):
        reading.result(PATIENCE)
    assert s.source.downloads[0].closed
    with pytest.raises(Unreachable):
        s.read(s.reader(), 0, 4096)


# -- deadlines, and workers that hang --------------------------------------------------------------------------------


def test_a_silent_server_ends_in_a_time_out_and_the_connection_is_given_up(setup: Make) -> None:
    s = setup(granted=0)
    reader = s.reader()
    reading = s.later(s.read, reader, 0, 4096, 60.0)
    s.source.until(lambda: any(download.waiting for download in s.source.downloads))
    s.clock.advance(61)
    with pytest.raises(TimedOut, match=r"a\.nii"):
        reading.result(PATIENCE)
    s.source.until(lambda: s.source.downloads[0].closed)
    asked = len(s.source.asked)
    for another in (reader, s.reader()):  # the kernel's second try, and whom it let read only now
        with pytest.raises(TimedOut, match="until now"):
            s.read(another, 0, 4096)
    assert len(s.source.asked) == asked
    s.source.granted = None
    s.read(reader, 10 * BLOCK, 4096)  # what nobody has waited for is asked for
    s.clock.advance(AFTERMATH)
    s.read(reader, 0, 4096)  # the next read tries again


def test_whoever_waited_for_bytes_that_come_slowly_turns_nobody_away(setup: Make) -> None:
    s = setup(granted=0)
    reading = s.later(s.read, s.reader(), 0, 2 * BLOCK, 60.0)
    s.source.until(lambda: any(download.waiting for download in s.source.downloads))
    s.clock.advance(1)
    s.source.downloads[0].grant(BLOCK)
    until(lambda: s.entry.present == {0})
    s.clock.advance(61)
    with pytest.raises(TimedOut):
        reading.result(PATIENCE)
    s.source.downloads[0].grant(None)
    s.read(s.reader(), 0, 2 * BLOCK)


def test_a_silent_answer_is_not_waited_for_beyond_the_deadline(setup: Make) -> None:
    s = setup()
    s.source.opening.clear()
    reading = s.later(s.read, s.reader(), 0, 4096, 60.0)
    s.source.until(lambda: len(s.source.asked) == 1)
    s.clock.advance(61)
    with pytest.raises(TimedOut):
        reading.result(PATIENCE)
    s.source.opening.set()
    s.source.until(lambda: bool(s.source.downloads) and s.source.downloads[0].closed)


def test_a_slow_stream_that_others_wait_for_is_not_given_up(setup: Make) -> None:
    s = setup(granted=0)
    short = s.later(s.read, s.reader(), 0, 4096, 10.0)
    s.source.until(lambda: len(s.source.downloads) == 1)
    long = s.later(s.read, s.reader(), 0, 4096, 100.0)
    until(lambda: s.count("joins") == 1)
    s.clock.advance(11)
    with pytest.raises(TimedOut):
        short.result(PATIENCE)
    s.source.downloads[0].grant(None)
    long.result(PATIENCE)
    assert len(s.source.asked) == 1


def test_stalled_downloads_do_not_hold_up_another(setup: Make) -> None:
    s = setup(workers=2, granted=0)
    stalled = []
    for number in range(4):
        path = f"f{number}"
        s.source.files[path] = s.data
        reader = s.pool.reader(FakeEntry(len(s.data), key=path), FakeFile(path))
        stalled.append(s.later(reader.ensure, 0, 4096, s.deadline()))
    s.source.until(lambda: sum(download.waiting for download in s.source.downloads) == 2)
    reading = s.later(s.read, s.reader(), 0, 4096)

    def served() -> bool:
        s.clock.advance(2.5)
        for download in s.source.downloads:
            if download.path == FILE.path:
                download.grant(None)
        return reading.done()

    until(served)
    reading.result()
    s.source.until(lambda: len(s.source.downloads) >= 3)
    for download in s.source.downloads:
        download.grant(None)
    s.source.granted = None
    for one in stalled:
        one.result(PATIENCE)


def test_no_more_requests_at_a_time_than_workers(setup: Make) -> None:
    s = setup(workers=3, granted=0)
    reads = []
    for number in range(10):
        path = f"f{number}"
        s.source.files[path] = s.data
        reader = s.pool.reader(FakeEntry(len(s.data), key=path), FakeFile(path))
        reads.append(s.later(reader.ensure, 0, 4096, s.deadline()))
    s.source.until(lambda: len(s.source.downloads) == 3)
    until(lambda: s.states().count("waits for a thread") == 7)
    assert len(s.source.asked) == 3
    s.source.granted = None
    for download in list(s.source.downloads):
        download.grant(None)
    for read in reads:
        read.result(PATIENCE)


def test_long_streams_take_turns(setup: Make) -> None:
    """One worker, and a read that runs far ahead: a reader of another file is served before that ends."""
    s = setup(64 * MIB, workers=1)
    entry = FakeEntry(64 * MIB, key="b")
    s.source.files["b"] = s.data
    other = s.pool.reader(entry, FakeFile("b"))
    reader = s.reader()
    for offset in range(0, 2 * MIB, 128 * KIB):
        s.read(reader, offset, 128 * KIB)
    other.ensure(0, 4096, s.deadline())
    s.read_all(reader, step=MIB, start=2 * MIB)
    assert s.entry.complete


# -- what goes wrong -------------------------------------------------------------------------------------------------


def cuts(*places: int, error: type[Exception] = Unreachable) -> Callable[[FakeDownload], None]:
    """The n-th download breaks at the n-th place."""
    left = list(places)

    def prepare(download: FakeDownload) -> None:
        if left:
            download.cut = left.pop(0)
            download.error = error

    return prepare


@pytest.mark.parametrize("error", [Unreachable, TimedOut])
def test_a_broken_stream_is_resumed_from_the_last_good_block(setup: Make, error: type[Exception]) -> None:
    s = setup()
    s.source.prepare = cuts(FIRST, 3 * MIB + 100, 10, error=error)
    s.read_all(s.reader())
    starts = [start for _, start, _ in s.source.asked]
    resumed = FIRST + 3 * MIB
    assert starts == [0, FIRST, resumed, resumed]
    assert s.source.moved == 8 * MIB + 100 + 10  # what did not fill a block came again, nothing else


def test_a_block_that_came_makes_good_for_all_attempts_without_one(setup: Make) -> None:
    s = setup()
    s.source.prepare = cuts(10, 10, MIB + 100, 10, 10)
    s.read_all(s.reader())
    assert len(s.source.asked) >= 6


def test_without_range_it_starts_again_and_keeps_what_is_there(setup: Make) -> None:
    s = setup(honours=False, ranges=False)
    s.source.prepare = cuts(3 * MIB + 100)
    s.read(s.reader(), 7 * MIB, 4096)
    assert [start for _, start, _ in s.source.asked] == [0, 0]


def test_a_server_that_always_breaks_is_given_up_after_two_attempts_more(setup: Make) -> None:
    s = setup()
    s.source.prepare = lambda download: setattr(download, "cut", 10)
    reader = s.reader()
    with pytest.raises(Unreachable, match="cut at 10"):
        s.read(reader, 0, 4096)
    assert len(s.source.asked) == 3
    s.source.prepare = lambda download: None
    s.read(reader, 0, 4096)


def test_a_server_that_breaks_after_each_block_is_given_up_after_a_while(setup: Make) -> None:
    s = setup()
    s.source.prepare = lambda download: setattr(download, "cut", BLOCK)
    with pytest.raises(Unreachable, match=f"cut at {BLOCK}"):
        s.read(s.reader(), 0, 4 * MIB)
    assert len(s.source.asked) == QUICK.breaks + 1


def test_attempts_are_spread_by_full_jitter(setup: Make) -> None:
    s = setup(tuning=replace(QUICK, backoff=2.0))
    s.source.prepare = cuts(10)
    reading = s.later(s.read, s.reader(), 0, 4096)
    until(lambda: s.states() == ["waits before it tries again"])
    assert len(s.source.asked) == 1
    s.clock.advance(2.0)
    reading.result(PATIENCE)
    assert len(s.source.asked) == 2


def test_the_room_for_jitter_doubles_up_to_five_seconds(setup: Make) -> None:
    drawn: list[tuple[float, float]] = []

    class Chance(random.Random):
        def uniform(self, a: float, b: float) -> float:
            drawn.append((a, b))
            return 0.0

    s = setup(tuning=replace(QUICK, backoff=0.4, retries=6), rng=Chance())
    s.source.prepare = cuts(*[10] * 6)
    s.read(s.reader(), 0, 4096)
    assert drawn == [(0.0, pytest.approx(limit)) for limit in (0.4, 0.8, 1.6, 3.2, 5.0, 5.0)]


def test_a_body_that_ends_early_is_no_end_of_file(setup: Make) -> None:
    s = setup(tells_length=False, honours=False, ranges=False)
    s.source.files[FILE.path] = s.data[: 5 * MIB + 7]
    with pytest.raises(Unreachable, match="ended early"):
        s.read(s.reader(), 6 * MIB, 4096)
    assert s.entry.has(0, 5 * MIB)
    assert not s.entry.has(5 * MIB, 1)


def test_a_body_that_goes_on_is_another_version(setup: Make) -> None:
    s = setup(FIRST, tells_length=False)
    s.source.files[FILE.path] = s.data + b"more"
    original = s.source.open_stream

    def whole(file: FakeFile, start: int, stop: int, *, deadline: Deadline) -> FakeDownload:
        return original(file, 0, len(s.data) + 4, deadline=deadline)

    s.source.open_stream = whole  # type: ignore[method-assign]
    with contextlib.suppress(ContentChanged):  # whether it comes in time for this reader or not
        s.reader().ensure(0, 4096, s.deadline())
    until(lambda: s.entry.resets == 1)
    assert not s.entry.complete


@pytest.mark.parametrize("size", [8 * MIB - 1, 8 * MIB + 1, 5])
def test_another_length_is_another_version(setup: Make, size: int) -> None:
    s = setup(honours=False, ranges=False)
    s.source.files[FILE.path] = content(size)
    with pytest.raises(ContentChanged, match=f"{size} bytes"):
        s.read(s.reader(), 0, 4096)
    assert not s.entry.present


def test_another_range_than_asked_for_is_refused(setup: Make) -> None:
    s = setup()

    def shift(download: FakeDownload) -> None:
        download.start += BLOCK

    s.source.prepare = shift
    with pytest.raises(ServerFault):
        s.read(s.reader(), 0, 4096)
    assert not s.entry.present
    assert s.source.downloads[0].closed


@pytest.mark.parametrize("error", [NotFound, AccessDenied, LoginFailed, ContentChanged, ServerFault, Unreachable])
def test_an_error_of_the_request_goes_to_its_readers_at_once(setup: Make, error: type[XnatfsError]) -> None:
    s = setup()

    def refuse(download: FakeDownload) -> None:
        raise error("no")

    s.source.prepare = refuse
    reader = s.reader()
    with pytest.raises(error, match="no"):
        s.read(reader, 0, 4096)
    assert len(s.source.asked) == 1
    s.source.prepare = lambda download: None
    s.read(reader, 0, 4096)


def test_each_reader_gets_an_error_of_its_own(setup: Make) -> None:
    s = setup()
    s.source.opening.clear()
    reads = [s.later(s.read, s.reader(), 0, 4096) for _ in range(4)]
    until(lambda: s.count("joins") == 3)
    s.source.prepare = lambda download: (_ for _ in ()).throw(NotFound("gone"))
    s.source.opening.set()
    errors = [read.exception(PATIENCE) for read in reads]
    assert {type(error) for error in errors} == {NotFound}
    assert len({id(error) for error in errors}) == 4


def test_an_error_goes_to_those_who_wait_for_these_bytes_only(setup: Make) -> None:
    s = setup(64 * MIB, granted=0)
    good = s.later(s.read, s.reader(), 0, 4096)
    s.source.until(lambda: len(s.source.downloads) == 1)
    s.source.prepare = lambda download: (_ for _ in ()).throw(AccessDenied("no"))
    with pytest.raises(AccessDenied):
        s.read(s.reader(), 40 * MIB, 4096)
    s.source.downloads[0].grant(None)
    good.result(PATIENCE)


def test_an_error_nobody_foresaw_is_an_error_and_the_worker_lives(setup: Make, caplog: Any) -> None:
    s = setup(workers=1)
    s.source.prepare = lambda download: (_ for _ in ()).throw(KeyError("what"))
    with pytest.raises(XnatfsError, match="KeyError"):
        s.read(s.reader(), 0, 4096)
    assert "nobody foresaw" in caplog.text
    s.source.prepare = lambda download: None
    s.read(s.reader(), 0, 4096)


def test_damaged_content_is_fetched_once_more(setup: Make) -> None:
    s = setup(FIRST)
    good = s.data
    s.source.files[FILE.path] = content(FIRST, 7)
    s.source.prepare = lambda download: s.source.files.update({FILE.path: good})
    reader = s.reader()
    s.read(reader, FIRST - 100, 100)
    assert len(s.source.asked) == 2


def test_content_that_stays_damaged_is_an_error_for_every_reader(setup: Make) -> None:
    s = setup(FIRST)
    s.source.files[FILE.path] = content(FIRST, 7)
    reader = s.reader()
    with pytest.raises(ContentDamaged):
        reader.ensure(0, FIRST, s.deadline())
    assert len(s.source.asked) == 2
    with pytest.raises(ContentDamaged):
        reader.ensure(0, FIRST, s.deadline())
    assert len(s.source.asked) == 3  # not twice again
    assert not s.entry.present


def test_a_change_between_two_requests_is_seen_by_its_date(setup: Make) -> None:
    s = setup(64 * MIB)
    dates = iter([100.0, 200.0, 200.0])
    s.source.prepare = lambda download: setattr(download, "last_modified", next(dates))
    reader = s.reader()
    s.read(reader, 0, 4096)
    with pytest.raises(ContentChanged, match="open it again"):
        s.read(reader, 40 * MIB, 4096)
    until(lambda: s.entry.resets == 1)
    assert not s.entry.present
    with pytest.raises(ContentChanged):
        reader.ensure(0, 4096, s.deadline())  # the old handle gets nothing of the new version
    s.read(s.reader(), 0, 4096)  # a new one does


def test_an_entry_that_keeps_nothing_is_an_error(setup: Make) -> None:
    s = setup()
    s.entry.write = lambda block, data: None  # type: ignore[method-assign,assignment]
    with pytest.raises(CacheFault):
        s.reader().ensure(0, 4096, s.deadline())


def test_an_entry_that_fails_is_an_error(setup: Make) -> None:
    s = setup()

    def fail(block: int, data: bytes | memoryview) -> None:
        raise CacheFault("no space left")

    s.entry.write = fail  # type: ignore[method-assign]
    with pytest.raises(CacheFault, match="no space"):
        s.reader().ensure(0, 4096, s.deadline())
    assert len(s.source.asked) == 1


def test_threads_start_with_the_first_download(setup: Make) -> None:
    s = setup()
    s.reader().close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xnatfs-transfer")]
    s.read(s.reader(), 0, 10)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("xnatfs-transfer") and thread.daemon]


def test_many_readers_of_big_files_take_little_memory(setup: Make) -> None:
    """50 readers: no more than a buffer per worker is held, and every one is served."""
    s = setup(4 * MIB, workers=4)
    sizes = []
    original = FakeDownload.readinto
    busy = threading.Semaphore(4)

    def counted(self: FakeDownload, buffer: memoryview) -> int:
        assert busy.acquire(blocking=False), "more requests move bytes than there are workers"
        try:
            sizes.append(len(buffer))
            return original(self, buffer)
        finally:
            busy.release()

    reads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDownload, "readinto", counted)
        for number in range(50):
            path = f"f{number}"
            s.source.files[path] = s.data
            entry = FakeEntry(len(s.data), key=path)
            reader = s.pool.reader(entry, FakeFile(path))

            def all_of_it(reader: Reader = reader) -> None:
                for offset in range(0, len(s.data), 128 * KIB):
                    reader.ensure(offset, 128 * KIB, s.deadline())

            reads.append(s.later(all_of_it))
        for read in reads:
            read.result(PATIENCE)
    assert max(sizes) <= MIB
