"""The cache of files on disk: opens entries, keeps the limits, and gets by when the disk does not play along.

A store serves one server and user (its ``namespace``), in a directory that other namespaces and other processes of
the same user share. Opening one costs the same whatever is in it; nothing is scanned (see `eviction`).

**Who gets what.** One process has one `Entry` per identity, shared by all who open it. Between processes a complete
file is shared; one that is still being filled belongs to the process that fills it, and any other that wants it gets
a *private* entry: an unlinked file, or memory, that ends with its last release. Two processes never write one file.

**When the disk fails** (cannot be made, read only, full, removed under a running mount, no file locks), entries are
private too, in the system's temporary directory or in memory; `degraded` says why, one warning is logged, and the
next open tries the cache again. `CacheFault` is raised only when bytes can be kept nowhere at all.

Locks, in this order::

    _gates    one of 64 by key: opening and the last release of an entry, with their I/O on the local disk
    _booking  opening the books, once
    evictor   one thread at a time removes entries
    _lock     the tables below; never held across I/O
    entry     see `entry`; an entry calls the store while holding its `_append`, never while holding its `_lock`
    ledger    a leaf
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xnatfs.cache import index as indexes
from xnatfs.cache.audit import VerifyReport, audit
from xnatfs.cache.disk import Disk, flock, leads_to, remove_held, still_there, unlock
from xnatfs.cache.entry import Entry
from xnatfs.cache.eviction import Evictor, Limits
from xnatfs.cache.files import Files, Place, Stamp
from xnatfs.cache.hashing import Buffers, usable_digest
from xnatfs.cache.identity import Identity, key_of
from xnatfs.cache.idle import Idle
from xnatfs.cache.ledger import Counts, Ledger
from xnatfs.cache.opening import open_file
from xnatfs.cache.pins import Pins
from xnatfs.cache.private import PrivateFiles
from xnatfs.errors import CacheFault
from xnatfs.stats import Stats

__all__ = ["Identity", "Limits", "Store", "Usage", "VerifyReport", "key_of"]

log = logging.getLogger(__name__)

_PAGE = 4096
_GATES = 64
_REMEMBERED = 4096
_ROOM = 16 << 20
"""Bytes evicted when the disk turns out to be full, so that this does not happen with every block."""
_WARN_AGAIN = 600.0


@dataclass(frozen=True, slots=True)
class Usage:
    bytes: int
    """What the cache directory occupies on disk (an estimate until the first sweep of a cache without books)."""
    entries: int
    max_bytes: int


class Store:
    """The cache of one server and user below ``root``.

    Raises CacheFault for a directory that we must not use: of another user, or with other things in it. One that
    cannot be made or written is no error: see `degraded`. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits,
        *,
        namespace: str,
        clock: Callable[[], float] = time.time,
        stats: Stats | None = None,
        sweep_every: float | None = 600.0,
        temp: Path | None = None,
    ) -> None:
        self.limits = limits
        self.buffers = Buffers()
        self.degraded: str | None = None
        """Why files are not kept on disk just now; None when they are."""
        self._namespace = namespace
        self._clock = clock
        self._stats = stats or Stats()
        self._disk = Disk(root, namespace)
        self._ledger = Ledger(self._disk.base / "usage")
        self.pins = Pins(root, namespace)
        self._evictor = Evictor(self._disk, self._ledger, clock, self._stats, self.pins.keys)
        self._private = PrivateFiles(temp)
        self._gates = [threading.Lock() for _ in range(_GATES)]
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._idle = Idle()
        self._known: OrderedDict[str, tuple[Stamp, bytes]] = OrderedDict()
        self._private_bytes = 0  # of private entries that lie in the cache directory
        self._warned: dict[str, float] = {}
        self._helper: ThreadPoolExecutor | None = None
        self._sweeper: threading.Thread | None = None
        self._sweep_every = sweep_every
        self._stop = threading.Event()
        self._booked = False
        self._booking = threading.Lock()
        try:
            self._disk.prepare()
            self._booked = self._ledger.read() is not None
        except OSError as error:
            self._degrade(f"cache directory {root}: {error.strerror or error}")

    @property
    def root(self) -> Path:
        return self._disk.root

    # -- opening and releasing -------------------------------------------------------------------------------------

    def open(self, identity: Identity) -> Entry:
        """The entry of these bytes, to be given back by `Entry.release`.

        While it is open it is not evicted. Raises CacheFault when there is no place at all for it.
        """
        key = key_of(self._namespace, identity)
        with self._gate(key):
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    entry.users += 1
            if entry is not None:
                if not entry.recheck():
                    self._stats.add("cache.changed_files")
                return entry
            entry = self._wake(key) or self._make(key, identity)
            with self._lock:
                self._entries[key] = entry
                self._start_sweeper()
        return entry

    def _wake(self, key: str) -> Entry | None:
        """The entry if it is idle, and its file as it was left."""
        entry = self._idle.take(key)
        if entry is None:
            return None
        with contextlib.suppress(OSError):
            if flock(entry.fileno, exclusive=False) and still_there(entry.fileno):
                if entry.recheck():
                    entry.users = 1
                    return entry
                self._stats.add("cache.changed_files")  # its index as well, perhaps: to be read anew
        self._end(entry)
        return None

    def retain(self, entry: Entry) -> None:
        """For `Entry.retain`."""
        with self._lock:
            entry.users += 1

    def release(self, entry: Entry) -> None:
        """For `Entry.release`."""
        with self._gate(entry.key):
            with self._lock:
                entry.users -= 1
                if entry.users:
                    return
                del self._entries[entry.key]
            self._close(entry)

    def _rest(self, entry: Entry) -> bool:
        """Keep an entry open that nobody uses; False when it is not worth it."""
        if self._stop.is_set() or not self._idle.fits(entry) or not entry.recheck():
            return False
        try:
            self._touch(entry.fileno)
            unlock(entry.fileno)
        except OSError:
            return False
        entry.files.exclusive = False
        for gone in self._idle.put(entry):
            self._end(gone)
        return True

    def _end(self, entry: Entry) -> None:
        """Close an entry that was idle."""
        self._remember(entry)
        entry.close()

    def _evict(self, amount: int) -> int:
        """Make room; returns the bytes freed."""
        freed = self._evictor.free(amount)
        self._end_idle()  # the space of one that was evicted is free when it is closed
        return freed

    def _end_idle(self) -> None:
        for entry in self._idle.drain():
            self._end(entry)

    def _gate(self, key: str) -> threading.Lock:
        return self._gates[int(key[:2], 16) % _GATES]

    def _make(self, key: str, identity: Identity) -> Entry:
        size, digest = identity.size, usable_digest(identity.digest)
        head = indexes.header(key, size, digest)
        found: tuple[Files, indexes.Index] | None = None
        shared: Path | None = None
        if 0 < size <= self.limits.max_bytes:
            try:
                found = self._open_files(key, head, size)
                self.degraded = None
                shared = self._disk.base
            except (OSError, CacheFault) as error:
                self._degrade(f"cache directory {self.root}: {getattr(error, 'strerror', None) or error}")
        if found is None:
            fd, place = self._private.make(size, shared)
            found = Files(fd, False, True, place), indexes.empty(head, size)
            self._stats.add("cache.private_entries")
        entry = Entry(key, digest, *found, self)
        with self._lock:
            known = self._known.get(key)
        if known and not entry.private:
            entry.trust(*known)
        return entry

    def _open_files(self, key: str, head: bytes, size: int) -> tuple[Files, indexes.Index] | None:
        """The file of an entry in the cache, locked; None when another process has it for itself."""
        path = self._disk.path(key)
        try:
            self._open_books()
            found = open_file(self._disk, path, head, size, self._reserve_index)
        except FileNotFoundError:  # the directory was removed under us: make it again, once
            self._disk.prepare()
            found = open_file(self._disk, path, head, size, self._reserve_index)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._end_idle()  # who are idle have the descriptors that are lacking
            found = open_file(self._disk, path, head, size, self._reserve_index)
        if found is not None:
            self._touch(found[0].fd)
        return found

    def _reserve_index(self, fd: int, size: int) -> bool:
        there = os.fstat(fd)
        if not self._make_room(fd, _pages(indexes.room(size)), book=True, made=not there.st_size):
            return False
        if there.st_size:  # something that was counted, and turned out to be nothing
            self._ledger.book(removed=there.st_blocks * 512)
        return True

    def _open_books(self) -> None:
        if self._booked:
            return
        with self._booking:  # before the first entry is made, else it would be in the estimate and be booked as well
            if not self._booked and self._ledger.read() is None:
                self._ledger.begin(self._evictor.estimate())
            self._booked = True

    def _touch(self, fd: int) -> None:
        os.utime(fd, ns=(int(self._clock() * 1e9), os.fstat(fd).st_mtime_ns))

    def _close(self, entry: Entry) -> None:
        if self._rest(entry):
            return
        if entry.private:
            self._private.gone(entry.size, entry.files.place)
            self._give_back(entry)
        else:
            self._remember(entry)
            with contextlib.suppress(OSError):
                path = self._disk.path(entry.key)
                if entry.is_empty() and entry.files.exclusive and leads_to(path, entry.fileno):
                    self._ledger.book(removed=remove_held(path), gone=1)
                else:
                    self._touch(entry.fileno)
        entry.close()

    def _give_back(self, entry: Entry) -> None:
        with self._lock:
            self._private_bytes -= entry.charged
            entry.charged = 0

    def _remember(self, entry: Entry) -> None:
        """What was verified stays verified for this process, as long as the file stays as it is."""
        known = entry.known()
        with self._lock:
            self._known.pop(entry.key, None)
            if known and len(known[1]) <= 1 << 20:
                self._known[entry.key] = known
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)

    # -- what entries ask (see `entry.Host`) -----------------------------------------------------------------------

    def reserve(self, entry: Entry, amount: int) -> bool:
        amount = _pages(amount)
        if entry.files.place != "store":
            return self._private.room(entry.fileno, amount, entry.files.place)
        if not self._make_room(entry.fileno, amount, book=not entry.private):
            self._degrade("the cache is full, and all that is in it is in use")
            return False
        if entry.private:
            with self._lock:
                entry.charged += amount
                self._private_bytes += amount
        return True

    def _make_room(self, fd: int, amount: int, *, book: bool, made: bool = False) -> bool:
        limits = self.limits
        while amount <= limits.max_bytes:
            disk = os.fstatvfs(fd)
            lacking = limits.min_free_bytes + amount - disk.f_bavail * disk.f_frsize if limits.min_free_bytes else 0
            if lacking <= 0:
                with self._lock:
                    limit = limits.max_bytes - self._private_bytes
                try:
                    taken = self._ledger.take(amount, limit, book=book, made=made)
                    if taken is None:  # damaged, or another directory was put there: a look at it, and once more
                        self._booked = False
                        self._open_books()
                        continue
                except OSError:
                    return True  # no books (the directory has gone): the disk itself will say when it is full
                lacking = taken
                if not lacking:
                    return True
            if not self._evict(lacking):
                return False
        return False

    def recover(self, entry: Entry, error: OSError, amount: int, *, again: bool) -> bool:
        # Most likely the disk or a quota is full. Whatever it is: once, room is made, and then it is given up.
        if not again and entry.files.place == "store" and self._evict(max(amount, _ROOM)) > 0:
            return True
        self._degrade(f"cache directory {self.root}: {error.strerror or error}")
        return False

    def private_file(self, size: int) -> tuple[int, Place]:
        self._stats.add("cache.private_entries")
        return self._private.make(size)

    def make_writable(self, entry: Entry) -> bool:
        try:
            mine = flock(entry.fileno, exclusive=True)
            if not mine:
                flock(entry.fileno, exclusive=False)  # Linux takes the old lock away when it cannot be changed
            mine = mine and leads_to(self._disk.path(entry.key), entry.fileno)
        except OSError:
            return False
        entry.files.exclusive = mine
        return mine

    def abandon(self, entry: Entry) -> None:
        if entry.private:
            self._give_back(entry)
            return
        path = self._disk.path(entry.key)
        with contextlib.suppress(OSError):
            if flock(entry.fileno, exclusive=True) and leads_to(path, entry.fileno):
                self._ledger.book(removed=remove_held(path), gone=1)

    def damaged(self, entry: Entry, blocks: int) -> None:
        self._stats.add("cache.damaged_blocks", blocks)
        self._warn(f"damaged {entry.key}", f"cache entry {entry.key[:12]}: {blocks} damaged blocks, fetched again")

    def later(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            if self._helper is None:
                self._helper = ThreadPoolExecutor(1, thread_name_prefix="xnatfs-hash")
            self._helper.submit(work)

    # -- looking after it ------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """What is in the cache. Cheap: from the books, which all processes keep together."""
        counts = Counts()
        with contextlib.suppress(OSError):
            self._open_books()
            counts = self._ledger.read() or counts
        return Usage(counts.bytes, counts.entries, self.limits.max_bytes)

    def space(self) -> tuple[int, int]:
        """Bytes in all and bytes free, of the file system that the cache is on (of the root's, if there is none)."""
        for path in (self._disk.base, Path(os.sep)):
            with contextlib.suppress(OSError):
                disk = os.statvfs(path)
                return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        return 0, 0

    def set_limits(self, limits: Limits) -> None:
        """Change the limits, and evict at once what exceeds the new size."""
        self.limits = limits
        excess = self.usage().bytes - limits.max_bytes
        if excess > 0:
            self._evict(excess)

    def sweep(self) -> None:
        """What the background sweep does, now: age limit, leftovers of crashes, books, limits."""
        with contextlib.suppress(OSError):
            self._evictor.sweep(self.limits, lambda _: False)

    def clear(self, *, pinned: bool = False) -> int:
        """Remove all entries, of all servers and users in this directory, that are not open. Returns bytes freed.

        Those that are pinned stay unless ``pinned``.
        """
        freed = 0
        self._end_idle()
        with contextlib.suppress(OSError):
            for path in self._evictor.entries():
                if not pinned and path.name in self.pins.keys():  # noqa: SIM118 - no dict
                    continue
                size = self._disk.remove(path)
                if size is not None:
                    self._ledger.book(removed=size, gone=1)
                    freed += size
        return freed

    def verify(self) -> VerifyReport:
        """Check every entry of the directory that no process is writing, block by block; remove the damaged ones.

        Reads the whole cache. Raises CacheFault when the directory cannot be read.
        """
        try:
            gone = lambda size: self._ledger.book(removed=size, gone=1)  # noqa: E731
            return audit(self._disk, self._evictor.entries(), self.buffers, gone)
        except OSError as error:
            raise CacheFault(f"cache directory {self.root}: {error.strerror or error}") from error

    def close(self) -> None:
        """Stop the threads. Entries that are still open stay readable until they are released."""
        self._stop.set()
        self._end_idle()
        with self._lock:
            helper, self._helper = self._helper, None
            sweeper = self._sweeper
        if helper is not None:
            helper.shutdown(cancel_futures=True)
        if sweeper is not None:
            sweeper.join()
        self._ledger.close()

    def _start_sweeper(self) -> None:
        # Not in the constructor: a thread of before the fork into the background would be gone after it
        every = self._sweep_every
        if self._sweeper is None and every is not None:
            self._sweeper = threading.Thread(
                target=lambda: self._evictor.sweep_now_and_then(lambda: self.limits, every, self._stop.wait),
                name="xnatfs-sweep",
                daemon=True,
            )
            self._sweeper.start()

    def _degrade(self, reason: str) -> None:
        self.degraded = reason
        self._warn(reason, f"{reason}; files are kept only while they are open")

    def _warn(self, what: str, message: str) -> None:
        now = self._clock()
        with self._lock:
            self._warned = {text: when for text, when in self._warned.items() if 0 <= now - when < _WARN_AGAIN}
            due = what not in self._warned
            self._warned.setdefault(what, now)
        if due:
            log.warning("%s", message)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
