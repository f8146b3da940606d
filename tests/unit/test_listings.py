"""The cache of listings: one load for all, a time to live from the end of the answer, absence included."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from xnatfs.cache.listings import Key, Listings, weigh
from xnatfs.deadlines import AFTERMATH, Deadline
from xnatfs.errors import NotFound, TimedOut, Unreachable
from xnatfs.stats import Stats


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def at_once(fn, /, *args):
    future: Future = Future()
    try:
        future.set_result(fn(*args))
    except BaseException as error:
        future.set_exception(error)
    return future


class Later:
    """Runs submitted work when told to."""

    def __init__(self):
        self.work = []

    def __call__(self, fn, /, *args):
        future: Future = Future()
        self.work.append((future, fn, args))
        return future

    def run(self):
        for future, fn, args in self.work:
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)
        self.work = []


@pytest.fixture
def clock():
    return Clock()


def cache(clock, submit=at_once, **options):
    return Listings(submit, clock=clock, stats=Stats(), **options)


def counting(values):
    calls = []

    def load(_deadline):
        calls.append(1)
        value = values[min(len(calls), len(values)) - 1]
        if isinstance(value, Exception):
            raise value
        return value

    return load, calls


KEY = Key("scans", "P", "E")
OTHER = Key("scans", "P", "F")


def test_an_answer_is_kept_for_its_time_to_live_counted_from_its_end(clock):
    listings = cache(clock, ttl=60)

    def slow(_deadline):
        clock.now += 100  # slower than the time to live
        return ("a",)

    deadline = Deadline(20, Clock())
    assert listings.get(KEY, slow, deadline).value == ("a",)
    load, calls = counting([("b",)])
    clock.now += 59
    assert listings.get(KEY, load, deadline).value == ("a",)
    clock.now += 2
    assert listings.get(KEY, load, deadline).value == ("b",)
    assert len(calls) == 1


def test_absence_is_kept_for_a_shorter_time(clock):
    listings = cache(clock, ttl=60, absent_ttl=5)
    load, calls = counting([NotFound("gone"), ("back",)])
    for _ in range(3):
        with pytest.raises(NotFound, match="gone"):
            _ = listings.get(KEY, load, Deadline(1)).value
    assert len(calls) == 1
    clock.now += 6
    assert listings.get(KEY, load, Deadline(1)).value == ("back",)


def test_a_failure_is_raised_and_never_kept(clock):
    listings = cache(clock)
    load, calls = counting([Unreachable("down"), ("up",)])
    with pytest.raises(Unreachable):
        listings.get(KEY, load, Deadline(1))
    assert listings.get(KEY, load, Deadline(1)).value == ("up",)
    assert len(calls) == 2


def test_a_thousand_askers_cause_one_load(clock):
    begun, release = threading.Event(), threading.Event()
    calls = []

    def load(_deadline):
        calls.append(1)
        begun.set()
        assert release.wait(30)
        return ("x",)

    with ThreadPoolExecutor(2) as workers, ThreadPoolExecutor(50) as askers:
        listings = cache(clock, workers.submit)
        answers = [askers.submit(listings.get, KEY, load, Deadline(60)) for _ in range(1000)]
        assert begun.wait(30)
        release.set()
        assert {answer.result(30).value for answer in answers} == {("x",)}
    assert len(calls) == 1


def test_a_caller_waits_no_longer_than_his_deadline_and_the_answer_serves_the_next(clock):
    later = Later()
    listings = cache(clock, later)
    load, calls = counting([("late",)])
    with pytest.raises(TimedOut, match="scans"):
        listings.get(KEY, load, Deadline(0, clock))
    later.run()
    assert listings.get(KEY, load, Deadline(0, clock)).value == ("late",)
    assert len(calls) == 1


def test_who_comes_right_after_somebody_waited_in_vain_hears_the_same_at_once(clock):
    later = Later()
    listings = cache(clock, later)
    load, calls = counting([("late",)])
    with pytest.raises(TimedOut):
        listings.get(KEY, load, Deadline(0, clock))
    with pytest.raises(TimedOut, match="until now"):
        listings.get(KEY, load, Deadline(3600, clock))
    pending = listings.request(OTHER, lambda _: ("other",))
    clock.now += AFTERMATH
    again = listings.request(KEY, load)
    later.run()
    assert again.wait(Deadline(3600, clock)).value == ("late",)
    assert pending.wait(Deadline(3600, clock)).value == ("other",)
    assert len(calls) == 1


def test_somebody_in_a_hurry_does_not_turn_others_away(clock):
    later = Later()
    listings = cache(clock, later)
    load, _ = counting([("soon",)])
    deadline = Deadline(20, clock)
    clock.now += 20  # spent on something else
    with pytest.raises(TimedOut):
        listings.get(KEY, load, deadline)
    pending = listings.request(KEY, load)
    later.run()
    assert pending.wait(Deadline(3600, clock)).value == ("soon",)


def test_a_load_that_times_out_itself_turns_others_away_for_a_moment(clock):
    listings = cache(clock)

    def silent(_deadline):
        raise TimedOut("silent")

    for match in ("silent", "until now"):
        with pytest.raises(TimedOut, match=match):
            listings.get(KEY, silent, Deadline(20, clock))
    listings.forget(lambda _key: True)
    assert listings.get(KEY, lambda _: ("refreshed",), Deadline(20, clock)).value == ("refreshed",)


def test_what_was_asked_before_a_refresh_does_not_serve_anybody_after_it(clock):
    later = Later()
    listings = cache(clock, later)
    old, _ = counting([("old",)])
    new, _ = counting([("new",)])
    before = listings.request(KEY, old)
    listings.forget(lambda key: key.project == "P")
    after = listings.request(KEY, new)
    later.run()
    assert before.wait(Deadline(1)).value == ("old",)
    assert after.wait(Deadline(1)).value == ("new",)
    assert listings.peek(KEY).value == ("new",)


def test_memory_is_bounded_by_rows_and_big_answers_still_answer(clock):
    listings = cache(clock, max_rows=10)
    for number in range(5):
        listings.get(Key("files", uri=str(number)), counting([tuple(range(3))])[0], Deadline(1))
    assert listings.rows() <= 10
    assert len(listings.get(Key("files"), counting([tuple(range(100))])[0], Deadline(1)).value) == 100
    assert listings.rows() <= 10


def test_what_is_derived_from_a_listing_is_computed_once(clock):
    listing = cache(clock).get(KEY, counting([(1, 2)])[0], Deadline(1))
    assert listing.derive(sum) == listing.derive(sum) == 3


def test_rows_are_what_is_weighed():
    assert weigh((1, 2, 3)) == 4
    assert weigh({"a": (1, 2), "b": (3,)}) == 4
    assert weigh(b"document") == 1


def test_closing_fails_those_who_wait(clock):
    later = Later()
    listings = cache(clock, later)
    pending = listings.request(KEY, counting([("x",)])[0])
    listings.close()
    with pytest.raises(Unreachable, match="ending"):
        pending.wait(Deadline(5))
    later.run()


def test_what_was_asked_for_before_a_refresh_is_not_kept_after_it():
    listings = Listings(at_once, clock=Clock(), stats=Stats())
    key, since = Key("files", "P"), listings.forgotten
    listings.put(key, (1, 2), since=since)
    assert listings.peek(key).value == (1, 2)
    listings.forget(lambda _: True)
    listings.put(key, (1, 2), since=since)
    assert listings.peek(key) is None


def test_an_answer_that_came_with_another_one_expires_with_it():
    clock = Clock()
    listings = Listings(at_once, clock=clock, stats=Stats(), ttl=60)
    listings.put(Key("scans", "P"), (1,), expires=clock.now + 5)
    clock.now += 6
    assert listings.peek(Key("scans", "P")) is None
