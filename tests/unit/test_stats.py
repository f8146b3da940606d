"""Counters, what an operation caused, and whose doing a request of another thread is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from xnatfs.causes import Watch
from xnatfs.stats import Cause, Served, Stats, caused_by, current_cause


def test_what_others_keep_by_themselves_is_in_the_snapshot():
    stats, served = Stats(), Served()
    stats.include(served.counts)
    stats.add("requests.total", 2)
    served.getattr, served.looked = 10, 3
    served.read, served.waited, served.bytes = 5, 1, 4096
    snapshot = stats.snapshot()
    assert snapshot["requests.total"] == 2
    assert (snapshot["operations.getattr"], snapshot["operations.read"]) == (10, 5)
    assert (snapshot["attributes.hits"], snapshot["attributes.misses"]) == (7, 3)
    assert (snapshot["data.hits"], snapshot["data.misses"], snapshot["bytes.read"]) == (4, 1, 4096)
    assert "operations.opendir" not in snapshot
    assert list(snapshot) == sorted(snapshot)


def test_what_is_counted_for_an_operation_is_counted_once_more_for_it_and_for_no_other():
    stats, first, second = Stats(), Cause(), Cause()
    with caused_by(first):
        stats.add("requests.total")
        with caused_by(second):
            stats.add("requests.total")
        stats.add("bytes.received", 7)
    stats.add("requests.total")
    assert first.counts == {"requests.total": 1, "bytes.received": 7}
    assert second.counts == {"requests.total": 1}
    assert stats.snapshot()["requests.total"] == 3


class Site:
    """An archive whose requests are counted, and transfers whose readers have them made by another thread."""

    ranges = True

    def __init__(self, stats):
        self.stats = stats

    def open_stream(self, file, start, stop, *, deadline):
        self.stats.add("requests.total")
        return file.path

    def open_zip(self, uri, *, deadline):
        self.stats.add("requests.total")
        return uri


class Transfers:
    def __init__(self, source, worker):
        self.source, self.worker = source, worker

    def reader(self, entry, file, siblings=None, *, walking=False):
        return SimpleNamespace(ensure=lambda ask: self.worker.submit(ask, self.source, file).result(), close=list)


@pytest.fixture
def made():
    stats, watch = Stats(), Watch(active=True)
    with ThreadPoolExecutor(1) as worker:
        pool = watch.pool(Transfers(watch.source(Site(stats)), worker))
        yield pool, watch, worker


def file(path="a.bin", base="/scans/1/resources/2/files/"):
    return SimpleNamespace(base=base, path=path)


def stream(source, wanted):
    return source.open_stream(wanted, 0, 1, deadline=None)


def archive(source, wanted):
    return source.open_zip(wanted.base.removesuffix("/files/"), deadline=None)


@pytest.mark.parametrize("ask", [stream, archive])
def test_a_download_is_the_doing_of_who_waits_for_it(made, ask):
    pool, _, _ = made
    cause = Cause()
    with caused_by(cause):
        pool.reader(None, file(), walking=True).ensure(ask)
    assert cause.counts["requests.total"] == 1


def test_who_waits_for_another_file_has_no_part_in_it(made):
    pool, _, _ = made
    cause = Cause()
    with caused_by(cause):
        pool.reader(None, file("other.bin")).ensure(lambda source, _: stream(source, file()))
        pool.reader(None, file(base="/elsewhere/files/")).ensure(lambda source, _: archive(source, file()))
    assert not cause.counts


def test_what_nobody_waits_for_is_nobodys_doing(made):
    pool, _, _ = made
    assert pool.reader(None, file()).ensure(stream) == "a.bin"
    assert pool.source.ranges


def test_work_handed_to_a_thread_is_the_doing_of_who_hands_it_in(made):
    _, watch, worker = made
    seen, done = [], threading.Event()
    cause = Cause()
    submit = watch.submit(worker.submit)
    with caused_by(cause):
        submit(lambda: seen.append(current_cause()))
    submit(lambda: (seen.append(current_cause()), done.set()))
    assert done.wait(20)
    assert seen == [cause, None]


def test_without_an_access_log_nothing_is_wrapped():
    watch, thing = Watch(active=False), Site(None)
    assert watch.source(thing) is watch.pool(thing) is watch.submit(thing) is thing
