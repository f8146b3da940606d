"""The errno table and the guard, without a mount."""

from __future__ import annotations

import ast
import errno
import logging
import threading
from pathlib import Path

import pytest

from xnatfs import errors, fuse_fast, fuse_ops
from xnatfs.errors import NotFound, XnatfsError
from xnatfs.fuse_abi import OPERATIONS, StatPacker, fuse
from xnatfs.fuse_kernel import SETTLED, Look, PageCache, Pages
from xnatfs.fuse_threads import Threads
from xnatfs.tree.nodes import Attributes, Kind

OUR_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, XnatfsError)]


@pytest.mark.parametrize("kind", OUR_ERRORS)
def test_every_error_of_ours_is_in_the_table(kind):
    if not issubclass(kind, errors.SetupError):  # those never reach a file operation
        assert kind in fuse_ops.ERRNO
    assert fuse_ops.answer("test", kind("x")) > 0


def test_a_subclass_counts_as_its_base():
    class Odd(NotFound):
        pass

    assert fuse_ops.answer("test", Odd("x")) == errno.ENOENT


def test_the_errno_of_an_exception_is_not_believed(caplog):
    assert fuse_ops.answer("test", FileNotFoundError(errno.ENOENT, "x")) == errno.EIO
    assert "unexpected FileNotFoundError" in caplog.text


def test_an_exception_that_cannot_even_be_logged_is_an_error():
    class HorribleError(Exception):
        def __str__(self):
            raise SystemExit

    handler = logging.Handler()
    handler.emit = lambda record: record.getMessage() and record.exc_info[1].__str__()
    logging.getLogger("xnatfs").addHandler(handler)
    try:
        assert fuse_ops.answer("test", HorribleError()) == errno.EIO
    finally:
        logging.getLogger("xnatfs").removeHandler(handler)


def test_readdir_never_says_enoent():
    """glibc would show an empty directory."""
    assert fuse_ops.answer("readdir", NotFound("x")) == errno.ESTALE


def test_every_raw_callback_is_one_try_that_catches_everything():
    tree = ast.parse(Path(fuse_fast.__file__).read_text())
    methods = {
        node.name: node.body
        for kind in tree.body
        if isinstance(kind, ast.ClassDef) and kind.name == "Callbacks"
        for node in kind.body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(OPERATIONS) <= set(methods)
    for name in OPERATIONS:
        body = [
            node for node in methods[name] if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        ]
        assert len(body) == 1, name
        assert isinstance(body[0], ast.Try), name
        handlers = body[0].handlers
        assert [ast.unparse(handler.type) for handler in handlers] == ["BaseException"], name
        assert ast.unparse(handlers[0].body[0]).startswith("return -answer("), name


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("size", [0, 1, 512, 513, (1 << 40) + 7])
@pytest.mark.parametrize("mtime_ns", [0, 1_700_000_000_123_456_789, -1_500_000_000])
def test_both_loops_show_the_same_stat(kind, size, mtime_ns):
    look, attributes = Look(1000, 2000, 0o027), Attributes(kind, (1 << 63) - 1, size, mtime_ns)
    by_fusepy = fuse.c_stat()
    fuse.set_st_attrs(by_fusepy, look.fields(attributes), use_ns=True)
    assert StatPacker(look).pack(attributes) == bytes(by_fusepy)


def test_modes_links_and_blocks():
    look = Look(1, 2, 0o022)
    assert [oct(look.mode(kind)) for kind in (Kind.DIRECTORY, Kind.FILE, Kind.LINK)] == [
        "0o40555",
        "0o100444",
        "0o120777",
    ]
    assert oct(Look(1, 2, 0o077).mode(Kind.FILE)) == "0o100400"
    fields = look.fields(Attributes(Kind.FILE, 7, 513, 0))
    assert (fields["st_nlink"], fields["st_blocks"], fields["st_blksize"]) == (1, 2, 16384)
    assert look.fields(Attributes(Kind.DIRECTORY, 7, 0, 0))["st_nlink"] == 2


class TestPageCache:
    def test_pages_are_kept_for_the_same_version_only(self):
        cache = PageCache()
        assert cache.opened("/f", "1", 10) is Pages.DROP
        cache.closed("/f")
        assert cache.opened("/f", "1", 10) is Pages.KEEP
        cache.closed("/f")
        assert cache.opened("/f", "2", 10) is Pages.DROP

    @pytest.mark.parametrize("sign", ["used", "closed"])
    def test_until_the_kernel_has_dropped_the_pages_of_another_version_nobody_keeps_any(self, sign):
        cache = PageCache()
        assert [cache.opened("/f", "2", 10) for _ in range(3)] == [Pages.DROP] * 3
        getattr(cache, sign)("/f")
        assert cache.opened("/f", "2", 10) is Pages.KEEP

    def test_a_new_version_goes_past_the_pages_that_an_old_reader_uses(self):
        cache = PageCache()
        cache.opened("/f", "1", 10)
        assert cache.opened("/f", "2", 10) is Pages.BYPASS
        cache.closed("/f")
        assert cache.opened("/f", "2", 10) is Pages.DROP

    def test_the_size_that_an_old_reader_uses_stands_and_nobody_opens_another(self):
        cache = PageCache()
        cache.opened("/f", "1", 10)
        assert cache.tell("/f", 20) == 10
        assert cache.opened("/f", "2", 20) is Pages.IN_USE
        cache.closed("/f")
        assert cache.tell("/f", 20) == 20
        assert cache.opened("/f", "2", 20) is Pages.DROP

    def test_a_size_that_the_kernel_does_not_know_yet_must_be_looked_up_first(self):
        cache = PageCache()
        cache.tell("/f", 10)
        assert cache.opened("/f", "2", 20) is Pages.AGAIN
        cache.tell("/f", 20)
        assert cache.opened("/f", "2", 20) is Pages.DROP

    def test_who_has_not_been_told_a_new_size_himself_must_look_it_up_until_that_is_long_ago(self):
        now = 0.0
        cache = PageCache(clock=lambda: now)
        cache.tell("/f", 10, lambda: 1)
        cache.tell("/f", 20, lambda: 2)
        assert cache.settling("/f")
        assert cache.opened("/f", "2", 20, lambda: 2) is Pages.DROP
        assert cache.opened("/f", "2", 20, lambda: 1) is Pages.AGAIN
        cache.tell("/f", 20, lambda: 1)
        assert cache.opened("/f", "2", 20, lambda: 1) is Pages.DROP
        now = SETTLED
        assert cache.opened("/f", "2", 20, lambda: 3) is Pages.DROP
        assert not cache.settling("/f")

    def test_it_stays_small(self):
        cache = PageCache(limit=10)
        cache.opened("/in-use", "1", 1)
        cache.used("/in-use")
        for number in range(100):
            cache.tell(f"/{number}", 1)
            cache.opened(f"/{number}", "1", 1)
            cache.closed(f"/{number}")
        assert len(cache._told) == 10
        assert len(cache._cached) <= 11
        assert cache.opened("/in-use", "1", 1) is Pages.KEEP


class TestMemos:
    class Snapshot:
        expires = 1.0

    def test_a_memo_belongs_to_one_snapshot(self):
        memos, first, second = fuse_fast.Memos(), self.Snapshot(), self.Snapshot()
        assert memos.of(b"/d", first) is memos.of(b"/d", first)
        assert memos.of(b"/d", second) is not memos.of(b"/d", first)

    def test_directories_go_whole_and_the_oldest_first(self):
        memos, snapshot = fuse_fast.Memos(limit=10), self.Snapshot()
        kept = memos.of(b"/kept", snapshot)
        for number in range(1000):
            memos.of(f"/{number}".encode(), snapshot)
            memos.grew()
            assert memos.of(b"/kept", snapshot) is kept
        assert len(memos.young) + len(memos._old) <= 30


def test_threads_grow_while_those_there_wait():
    """However many begin to wait at the same time, some are left to serve."""
    serving, stop, together = threading.Semaphore(0), threading.Event(), threading.Barrier(40)

    def serve():
        serving.release()
        stop.wait()

    pool = Threads(serve, lambda: None, start=3, limit=100)
    pool.start()

    def wait():
        together.wait()
        with pool:
            together.wait()
            stop.wait()

    waiters = [threading.Thread(target=wait) for _ in range(39)]
    for waiter in waiters:
        waiter.start()
    together.wait()
    together.wait()
    assert len(pool) >= 39 + 2
    for _ in range(len(pool)):
        assert serving.acquire(timeout=30)
    stop.set()
    assert pool.stop(30, lambda: None)
    for waiter in waiters:
        waiter.join()


def test_threads_stop_at_their_limit():
    stop = threading.Event()
    pool = Threads(stop.wait, lambda: None, start=1, limit=3)
    pool.start()
    with pool, pool, pool, pool:
        assert len(pool) == 3
    stop.set()
    assert pool.stop(30, lambda: None)
