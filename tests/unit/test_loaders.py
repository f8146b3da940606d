"""Threads that load listings: polite to a server that answers, held up by nothing that hangs, gone with the program."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from support.faces import until

from xnatfs.cache.loaders import Loaders


class Server:
    """Notes how many loads are under way; each ends when it is let go."""

    def __init__(self):
        self.go_on = threading.Event()
        self.begun = []
        self.ended = []
        self._lock = threading.Lock()

    def load(self, name):
        with self._lock:
            self.begun.append(name)
        assert self.go_on.wait(30)
        with self._lock:
            self.ended.append(name)

    def at_once(self, name):
        with self._lock:
            self.ended.append(name)


def test_a_server_that_answers_is_asked_for_so_many_at_a_time_in_the_order_of_asking():
    server, loaders = Server(), Loaders(2, 10, hangs=60.0)
    for name in range(6):
        loaders.submit(server.load, name)
    until(lambda: len(server.begun) == 2)
    assert not threading.Event().wait(0.05)
    assert sorted(server.begun) == [0, 1]
    assert len(loaders._threads) <= 3
    server.go_on.set()
    until(lambda: len(server.ended) == 6)
    assert sorted(server.begun) == list(range(6))
    loaders.close()


def test_loads_that_hang_hold_up_no_other():
    server, loaders = Server(), Loaders(2, 10, hangs=0.05)
    for name in range(8):
        loaders.submit(server.load, name)
    loaders.submit(server.at_once, "quick")
    until(lambda: server.ended == ["quick"])
    assert len(server.begun) == 8
    server.go_on.set()
    loaders.close()


def test_there_is_a_bound_for_those_that_hang_too():
    server, loaders = Server(), Loaders(2, 5, hangs=0.01)
    for name in range(9):
        loaders.submit(server.load, name)
    until(lambda: len(server.begun) == 5)
    assert not threading.Event().wait(0.05)
    assert len(server.begun) == len(loaders._threads) == 5
    server.go_on.set()
    until(lambda: len(server.ended) == 9)
    until(lambda: len(loaders._threads) == 2)
    loaders.close()


def test_one_that_fails_takes_no_thread_with_it(caplog):
    server, loaders = Server(), Loaders(1, 1)
    loaders.submit(lambda: 1 / 0)
    loaders.submit(server.at_once, "after")
    until(lambda: server.ended == ["after"])
    assert "nobody foresaw" in caplog.text
    loaders.close()


def test_what_is_queued_at_the_end_is_not_begun_and_nothing_is_taken_any_more():
    server, loaders = Server(), Loaders(1, 1)
    loaders.submit(server.load, "first")
    loaders.submit(server.load, "second")
    until(lambda: server.begun == ["first"])
    loaders.close()
    server.go_on.set()
    until(lambda: not loaders._threads)
    assert server.begun == ["first"]
    with pytest.raises(RuntimeError):
        loaders.submit(server.load, "third")


def test_a_program_does_not_wait_for_a_load_that_hangs():
    code = (
        "import threading\n"
        "from xnatfs.cache.loaders import Loaders\n"
        "loaders, begun = Loaders(), threading.Event()\n"
        "loaders.submit(lambda: (begun.set(), threading.Event().wait(60)))\n"
        "begun.wait(30)\n"
        "loaders.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
