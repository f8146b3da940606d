"""One cached file: its bytes, its index, and what this process knows of them.

Order of effects is the design. A block goes down like this, and a reader may have it only after the last step::

    data written  ->  checksum  ->  record appended to the index  ->  marked present in memory

So a process that dies between any two steps leaves a block that is simply not there. There is no fsync anywhere: what
a killed process has written is in the kernel and stays, and after a power loss, when pages may have reached the disk
in any order, a record whose data did not make it fails its checksum and counts for nothing. An fsync per file would
only make a lost download a little rarer, at the price of the disk's latency for each of a thousand small files.

Blocks that an earlier process wrote are checked against their checksums once, when they are first asked for. The last
block to arrive is *held back*, from readers and from the index, until size and digest of the whole are right: nobody
who reads to the end has read a damaged file without an error.

Locks, in this order; the store's own come before them::

    _append   writers of this entry, one at a time, for appending to the index (and for changing it as a whole)
    _lock     the sets of blocks; a leaf, never held across I/O. Looking at the sets needs no lock.

The entry never waits for blocks and knows nothing of who does.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from xnatfs.cache import index as indexes
from xnatfs.cache.blocks import BLOCK, Blocks, block_range, whole_blocks
from xnatfs.cache.files import Files, Host, Runs, Stamp, copy_blocks, put_blocks, stamp_of
from xnatfs.cache.hashing import PIECE, FollowingHash, digest_of
from xnatfs.cache.index import HEADER_SIZE, Index
from xnatfs.cache.labels import Labels
from xnatfs.errors import CacheFault, ContentDamaged

_HASH_STEP = 1024 * 1024
"""How far the front must have grown before the helper is asked to hash on."""
_PIECE_BLOCKS = PIECE // BLOCK
_DAMAGED = "the server's bytes do not match the digest in its own listing; they were not kept"


class Entry:
    """A cached file, open. Made by `Store.open`; `release` ends one use of it. All methods may be called by any thread.

    Read with ``os.pread(entry.fileno, ...)`` what `has` says is there, and never beyond `size`: the file goes on, with
    zeros up to the next multiple of 4096 and the index after that.
    """

    def __init__(self, key: str, digest: str, files: Files, index: Index, host: Host) -> None:
        self.key = key
        """40 hex digits: a hash of the identity; tells nothing of the file."""
        self.size = index.present.size
        self.fileno = files.fd
        """Descriptor of the cached file, for positional reads; valid until the last `release`."""
        self.complete = index.complete
        """All blocks are there, and size and digest of the whole were verified, by this process or an earlier one."""
        self.sound = self.size == 0
        """`complete`, and each block was verified in this process: any byte may be read without asking `has`."""
        self._labels = Labels(verified=index.complete)
        self.generation = 0
        """Grows with each `reset`."""
        self.files = files
        self.users = 1  # guarded by the store
        self.charged = 0  # bytes reserved for a private entry; guarded by the store
        self._host = host
        self._index = index
        self._present = index.present  # has a record, or was written by us
        self._ready = Blocks(self.size)  # present, and the checksum was seen to be right
        self._claimed = Blocks(self.size)  # somebody is writing it right now; outlives a reset, as that write does
        self._paid = index.present.copy()  # has its place in the file, and in the books; outlives a reset, as that does
        self._lock = threading.Lock()
        self._append = threading.Lock()
        self._moves = 0  # how often the data moved to another file (guarded by _append)
        self._doubts = 0  # how often somebody else was seen to have changed the file
        self._digest = digest
        self._hash = FollowingHash(files.fd, digest, host.buffers) if digest else None
        self._following = False
        self._stamp = stamp_of(self.fileno)

    def __repr__(self) -> str:
        state = "sound" if self.sound else "complete" if self.complete else f"{self._present.absent} absent"
        return f"<Entry {self.key[:12]} size={self.size} {state}>"

    @property
    def private(self) -> bool:
        """Kept for this process alone, and gone with the last release."""
        return not self.files.kept

    # -- looking ---------------------------------------------------------------------------------------------------

    def has(self, offset: int, size: int) -> bool:
        """May these bytes be read from `fileno`? Bytes beyond the end of the file are not asked for.

        The first time that blocks of an earlier process are asked for, they are read and verified here; a damaged one
        is dropped, and the answer is no. Raises nothing.
        """
        if self.sound:
            return True
        first, last = block_range(offset, min(size, self.size - offset))
        return self._ready.holds(first, last) or (self._present.holds(first, last) and self._verify(first, last))

    def ready(self, offset: int, size: int) -> bool:
        """As `has`, but without any I/O: False also when the bytes are there and have not been verified yet."""
        return self.sound or self._ready.has(offset, size)

    def missing(self, first: int, last: int) -> Runs:
        """The runs ``[a, b)`` among ``[first, last)`` of blocks that are absent, and that nobody is writing. No I/O."""
        return [run for a, b in self._present.missing(first, last) for run in self._claimed.missing(a, b)]

    # -- verifying -------------------------------------------------------------------------------------------------

    def _verify(self, first: int, last: int) -> bool:
        """Check what is present among the blocks and not yet known to be right; True when nothing was damaged."""
        good = True
        for a, b in self._ready.missing(first, last):
            for c, d in self._present.present(a, b):
                for start in range(c, d, _PIECE_BLOCKS):
                    good &= self._verify_piece(start, min(start + _PIECE_BLOCKS, d))
        return good

    def _verify_piece(self, first: int, last: int) -> bool:
        while (good := self._judge(first, last)) is None:
            pass
        return good

    def _judge(self, first: int, last: int) -> bool | None:
        """Are these blocks right? None: what was read may have been changed since, see `_untouched`."""
        generation, doubts = self.generation, self._doubts
        buffer = self._host.buffers.take()
        view = memoryview(buffer)
        try:
            got = os.preadv(self.fileno, [view[: (last - first) * BLOCK]], first * BLOCK)
            bad = indexes.bad_blocks(self._index, first, last, view[:got])
        except OSError:
            bad = list(range(first, last))
        finally:
            view.release()
            self._host.buffers.give(buffer)
        with self._lock:
            if generation != self.generation:
                return False
            if doubts != self._doubts:
                return None
            # Another thread may have come to the same verdict, and the block may even have been written anew.
            bad = [number for number in bad if number in self._present and number not in self._ready]
            for number in bad:
                self._present.drop(number, number + 1)
                self.complete = False
            for a, b in self._present.present(first, last):
                self._ready.mark(a, b)
            self._settle()
        if bad:
            self._host.damaged(self, len(bad))
        return not bad

    def _settle(self) -> None:
        self.sound = self.complete and self._ready.complete

    def recheck(self) -> bool:
        """Was the file left alone by everybody but us? If not, every block will be verified anew."""
        if self._claimed.absent != len(self._claimed):
            return True  # our own write is under way; telling it from another's is not possible
        return self._untouched()

    def _untouched(self) -> bool:
        stamp = stamp_of(self.fileno)
        with self._lock:
            if stamp == self._stamp:
                return True
            self._stamp = stamp
            self._doubts += 1
            self._ready.clear()
            self._settle()
        if self._hash:
            self._hash.restart()
        return False

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:
        """Keep whole blocks from number ``block`` on; only the file's last block may be shorter than `BLOCK`.

        Blocks that are present, or that another thread is writing, are skipped. When this brings the last missing
        block, size and digest of the whole are verified before anybody can read that block. A file in one piece is
        kept only while nobody writes a part of it, and if what is there is of the same bytes: then it is whole. With
        bytes that are not ``dated``, for nobody has asked `from_version`, none that have a date are joined.

        Raises ContentDamaged when they are wrong (the entry is then empty again), CacheFault when the bytes can be
        kept nowhere, ValueError for data that does not consist of whole blocks of this file.
        """
        view = memoryview(data).cast("B")
        last = whole_blocks(self.size, block, len(view))
        whole = len(view) == self.size
        if whole and self._digest and digest_of(view, self._digest) != self._digest:
            raise ContentDamaged(_DAMAGED)  # a small file in one piece: known before anything is written
        generation, runs = self._claim(block, last, alone=whole)
        if not runs or (whole and not self._digest and runs != [(0, last)]):
            self._change(self._claimed.drop, runs)  # without a digest, nobody knows whether it fits to what is there
            return
        try:
            vouched = whole and (runs == [(0, last)] or self._fits(view, generation))
            held = self._keep(view, block, runs, generation, vouched, dated)
            if held is not None:
                self._finish(held, generation)
        finally:
            self._change(self._claimed.drop, runs)
        self._follow_later()

    def _claim(self, first: int, last: int, *, alone: bool) -> tuple[int, Runs]:
        with self._lock:
            if alone and self._claimed.absent != len(self._claimed):
                return self.generation, []
            free = self.missing(first, last)
            for a, b in free:
                self._claimed.mark(a, b)
            return self.generation, free

    def _fits(self, view: memoryview, generation: int) -> bool:
        """Is what is present the same as in this whole, whose digest is right?"""
        there = indexes.checksums(self._index.salt, view, 0, self._present.present(0, len(self._present)))
        if any(self._index.crcs[number] != crc for number, crc in there):
            self.reset(generation)
            raise ContentDamaged("parts of another version than the listing's were there; nothing was kept")
        return True

    def _change(self, change: Callable[[int, int], None], runs: Runs) -> None:
        with self._lock:
            for a, b in runs:
                change(a, b)

    def _keep(self, view: memoryview, block: int, runs: Runs, now: int, vouched: bool, dated: bool) -> int | None:
        """Write, checksum, record, mark. Returns the number of the block that is held back, if one is."""
        retried, amount = False, 0
        while True:
            moves = self._moves
            try:
                self._may_write()
                moves = self._moves
                amount = self._paid.lacking(runs)
                if amount and not self._host.reserve(self, amount):
                    self._move_out(moves)
                    continue
                self._change(self._paid.mark, runs)
                put_blocks(self.fileno, view, block, runs)
                crcs = indexes.checksums(self._index.salt, view, block, runs)
                with self._append:
                    if now != self.generation:
                        return None  # these bytes belong to what was thrown away meanwhile
                    if moves == self._moves:
                        return self._record(crcs, vouched, dated)
            except OSError as error:
                if not self._host.recover(self, error, amount, again=retried):
                    self._move_out(moves)
                retried = True

    def _may_write(self) -> None:
        if not self.files.exclusive:
            with self._append:
                moves = self._moves
                if self.files.exclusive or self._host.make_writable(self):
                    return
            self._move_out(moves)

    def _record(self, crcs: list[tuple[int, int]], vouched: bool, dated: bool) -> int | None:
        """Append the records, then mark the blocks present (`_append` held); returns a block held back, if any."""
        held = None
        vouched = vouched and len(crcs) == self._present.absent
        if not vouched and len(crcs) == self._present.absent:
            held, crc = crcs.pop()
            self._index.crcs[held] = crc
        salt = self._index.salt
        records = b"".join([indexes.block_record(salt, number, crc) for number, crc in crcs])
        if not dated:
            self._index.date = indexes.UNDATED
            records = indexes.date_record(salt, indexes.UNDATED) + records
        if vouched:
            records += indexes.done_record(salt, len(self._present))
        self._log(records)
        self._mark(crcs, complete=vouched)
        return held

    def _log(self, records: bytes) -> None:
        if not records or not self.files.kept:
            return
        # At the known end and not by O_APPEND: what a failed write left there is overwritten by the next one
        if os.pwrite(self.fileno, records, self._index.end) != len(records):
            raise OSError("short write to the index")
        self._index.end += len(records)

    def _mark(self, crcs: list[tuple[int, int]], complete: bool) -> None:
        stamp = stamp_of(self.fileno)
        with self._lock:
            for number, crc in crcs:
                self._index.crcs[number] = crc
                self._present.mark(number, number + 1)
                self._ready.mark(number, number + 1)
            self._stamp = stamp
            self.complete = complete and self._present.complete
            if self.complete:
                self._labels.whole()
            self._settle()

    @property
    def label(self) -> str:
        """See `Labels.now`."""
        return self._labels.now

    def vouch(self, label: str) -> str | None:
        """Bytes are about to go out to somebody who has had some under ``label``: the label from now on.

        None where there was a `reset` since.
        """
        with self._lock:
            return self._labels.vouch(label)

    def disown(self) -> None:
        """The bytes here are of a version that is no more: a `reset` comes, and who opens it from now on has none."""
        with self._lock:
            self._labels.renew()

    # -- the whole -------------------------------------------------------------------------------------------------

    def _finish(self, held: int, generation: int) -> None:
        """All blocks are down: verify the whole, then let go of the block that was held back."""
        try:
            self._untouched()
            intact = self._verify(0, len(self._present))
            right = not intact or self._matches(generation)
        except OSError as error:
            self.reset(generation)
            raise CacheFault(f"the cache cannot be read back: {error.strerror or error}") from error
        if not right:
            if self.reset(generation):
                raise ContentDamaged(_DAMAGED)
            return
        salt, crc = self._index.salt, self._index.crcs[held]
        records = indexes.block_record(salt, held, crc)
        if intact:  # else a block of an earlier process turned out damaged, and another will be the last
            records += indexes.done_record(salt, len(self._present))
        with self._append:
            if generation != self.generation:
                return
            # A record that cannot be written costs a later process one block, not this one its file
            with contextlib.suppress(OSError):
                self._log(records)
            self._mark([(held, crc)], complete=intact)

    def _matches(self, generation: int) -> bool:
        """Does the whole match the digest? Not if it was reset since: the bytes are of this ``generation``."""
        while self._hash is not None:
            start = self._hash.starts  # before the look at the generation, which grows before a new start
            if generation != self.generation:
                return False
            if self._hash.matches(self.size, start):
                return True
            if start == self._hash.starts:
                return False
        return True

    def from_version(self, modified: float) -> bool:
        """Are the blocks that are here of the version that the server dates ``modified`` (seconds since 1970)?

        Where nothing is here, that date is noted; where all is, nothing will be joined with it. Raises nothing.
        """
        date = int(modified) & 0xFFFFFFFF
        with contextlib.suppress(OSError, CacheFault):
            self._may_write()
        with self._append:
            if self.complete or not self.is_empty():
                return self.complete or self._index.date == date
            if self._index.date != date:
                self._index.date = date
                if self.files.exclusive:
                    with contextlib.suppress(OSError):  # then only this process knows it
                        self._log(indexes.date_record(self._index.salt, date))
                    stamp = stamp_of(self.fileno)
                    with self._lock:
                        self._stamp = stamp
            return True

    def _follow_later(self) -> None:
        """Ask the helper to hash on, when there is enough to do."""
        if not self._hash or self.complete:
            return
        with self._lock:
            grown = self._ready.first_missing(self._hash.at // BLOCK) * BLOCK - self._hash.at
            if self._following or grown < _HASH_STEP:
                return
            self._following = True
        self._host.later(self._follow)

    def _follow(self) -> None:
        assert self._hash is not None
        while True:
            with self._lock:
                start = self._hash.starts  # what is ready now is of this start, or of none any more
                front = min(self._ready.first_missing(self._hash.at // BLOCK) * BLOCK, self.size)
                if front <= self._hash.at or self._hash.closed:
                    self._following = False
                    return
            try:
                self._hash.advance(front, start)
            except OSError:
                return  # found again, and dealt with, when the whole is verified

    # -- starting over, moving, ending -----------------------------------------------------------------------------

    def reset(self, generation: int | None = None) -> bool:
        """Forget all blocks: they were damaged, or are of another version.

        The bytes in the file stay until they are written over, so that a reader who was told `has` a moment ago
        reads what was there, and no zeros. With a ``generation`` that has passed nothing is done, and the answer is
        False. Raises CacheFault.
        """
        self._may_write()
        with self._append:
            if generation not in (None, self.generation):
                return False
            first_record = indexes.start(self.size) + HEADER_SIZE
            if self.files.kept:
                try:
                    os.ftruncate(self.fileno, first_record)
                except OSError:
                    self._leave_store()
            stamp = stamp_of(self.fileno)
            with self._lock:
                self.generation += 1
                self._labels.renew()
                self._stamp = stamp
                self._present.clear()
                self._ready.clear()
                self.complete = self.sound = self.size == 0
                self._index.end = first_record
                self._index.date = None
            if self._hash:
                self._hash.restart()
        return True

    def _move_out(self, moves: int) -> None:
        """Go on in a private file outside the store, under the same descriptor. Raises CacheFault.

        Whoever reads meanwhile reads the same bytes before and after, since what is there is copied first.
        """
        with self._append:
            if moves != self._moves:
                return  # another writer has done it
            if self.files.place != "store":
                raise CacheFault("no room for the file: neither in the cache nor in the system's temporary directory")
            fd, place = self._host.private_file(self.size)
            try:
                # and what is held back until the whole is verified: it is written already, and does not come again
                runs = [run for blocks in (self._present, self._claimed) for run in blocks.present(0, len(blocks))]
                copy_blocks(self.fileno, fd, runs, self.size, self._host.buffers)
                self._leave_store()
                os.dup2(fd, self.fileno, inheritable=False)
            except OSError as error:
                raise CacheFault(f"no room for the file outside the cache: {error.strerror or error}") from error
            finally:
                os.close(fd)
            self.files.place = place
            self._moves += 1
            with self._lock:
                self._stamp = stamp_of(self.fileno)
                self._paid = self._present.copy()

    def _leave_store(self) -> None:
        self._host.abandon(self)
        self.files.kept, self.files.exclusive = False, True

    def retain(self) -> None:
        """One use more, for somebody who outlives the one that holds it now; to be given back by `release`."""
        self._host.retain(self)

    def release(self) -> None:
        """One use less. After the last one nothing of this object may be used any more."""
        self._host.release(self)

    def is_empty(self) -> bool:
        return self._present.absent == len(self._present)

    def known(self) -> tuple[Stamp, bytes] | None:
        """What was verified of which state of the file, for `trust` of a later entry."""
        return (self._stamp, self._ready.to_bytes()) if self.recheck() else None

    def trust(self, stamp: Stamp, ready: bytes) -> None:
        """Take over what this process verified before, if the file is still the same. Before first use only."""
        if stamp == self._stamp:
            self._ready.load(ready)
            for a, b in self._present.missing(0, len(self._present)):
                self._ready.drop(a, b)
            self._settle()

    def close(self) -> None:
        """Close the files (by the store, after the last release)."""
        if self._hash:
            self._hash.close()
        os.close(self.fileno)
