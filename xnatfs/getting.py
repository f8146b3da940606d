"""Moving whole parts of an archive on purpose: first a plan of what there is, then all of it that is not there yet.

`plan` lists everything below some paths, as the mount shows it, by resource. A `Fetch` brings it to a target: a
directory or the file cache (`xnatfs.targets`). It uses the transfer engine of the mount: where an archive of a
resource pays it is asked for at once, for nobody has to find out that all of it will be read; what it does not bring
comes by single requests, side by side. What fails for a passing reason is tried once more at the end.
"""

from __future__ import annotations

import logging
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Protocol

from xnatfs.deadlines import Deadline
from xnatfs.errors import AccessDenied, CacheFault, InvalidRequest, LoginFailed, NotFound, Unreachable, XnatfsError
from xnatfs.opened import Member, Siblings
from xnatfs.transfer.pool import Pool
from xnatfs.tree.directory import Directory
from xnatfs.tree.nodes import DirNode, FileNode, Level, LinkNode, TextNode
from xnatfs.vfs import Vfs

log = logging.getLogger(__name__)

CHUNK = 8 * 1024 * 1024
"""Bytes that have to come within one time-out."""
_FINAL = (AccessDenied, LoginFailed, NotFound)
"""What a second attempt does not change."""


# -- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One file: its path in the mount, and what the listing has of it. Size in bytes."""

    path: str
    node: FileNode
    size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is missing, a file or a directory, and why."""

    path: str
    error: XnatfsError


@dataclass(frozen=True, slots=True)
class Batch:
    """A resource, or one file or folder of it: directories as they were listed, with their paths in the mount."""

    folders: Sequence[tuple[str, Directory]]
    only: str = ""
    """The name of the one file that is wanted; empty for all."""

    def nodes(self) -> Iterator[tuple[str, FileNode]]:
        for path, directory in self.folders:
            for node in directory.nodes():
                if isinstance(node, FileNode) and self.only in ("", node.name):
                    yield posixpath.join(path, node.name), node

    @property
    def whole(self) -> bool:
        """Is it all of a resource?"""
        return not self.only and self.folders[0][1].node.address.level is Level.RESOURCE


@dataclass(slots=True)
class Plan:
    """What there is to be moved."""

    batches: list[Batch] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    """Sum of the sizes that the listings have."""

    def add(self, batch: Batch) -> None:
        self.batches.append(batch)
        for _, node in batch.nodes():
            self.files += 1
            self.bytes += node.record.size or 0

    def extend(self, other: Plan) -> None:
        self.batches += other.batches
        self.problems += other.problems
        self.files += other.files
        self.bytes += other.bytes


def canonical(vfs: Vfs, path: str) -> str:
    """A path by the names that the mount lists: IDs and other links are followed. Raises `NotFound`."""
    at = "/"
    for name in path.split("/"):
        if name in ("", "."):
            continue
        node = vfs.lookup(posixpath.join(at, name))
        at = posixpath.normpath(posixpath.join(at, node.target if isinstance(node, LinkNode) else name))
    return at


def plan(vfs: Vfs, paths: Iterable[str], told: Callable[[Plan], None] = lambda _: None) -> Plan:
    """List everything below some canonical paths. ``told`` is called after each resource with the plan so far.

    A directory that cannot be listed becomes a `Problem`; a path that does not exist raises `NotFound`, and what the
    mount makes itself (``.xnat``) `InvalidRequest`.
    """
    found = Plan()
    for path in paths:
        node = vfs.lookup(path, follow=True)
        if isinstance(node, TextNode) or (isinstance(node, DirNode) and _is_made_up(node)):
            raise InvalidRequest(f"{path}: made by the mount itself; 'xnatfs cat' shows it")
        if isinstance(node, DirNode):
            _gather(vfs, path, found, told)
        else:
            above, _, name = path.rpartition("/")
            found.add(Batch([(above or "/", vfs.directory(above))], name))
    return found


def _is_made_up(node: DirNode) -> bool:
    return node.address.level in (Level.META, Level.BY_TYPE)


def _gather(vfs: Vfs, path: str, found: Plan, told: Callable[[Plan], None]) -> None:
    try:
        directory = vfs.directory(path)
        if directory.node.address.level in (Level.RESOURCE, Level.FOLDER):
            found.add(Batch(list(_folders(vfs, path, directory))))
            told(found)
            return
    except XnatfsError as error:
        found.problems.append(Problem(path, error))
        return
    for node in directory.nodes():
        if isinstance(node, DirNode):
            _gather(vfs, posixpath.join(path, node.name), found, told)


def _folders(vfs: Vfs, path: str, directory: Directory) -> Iterator[tuple[str, Directory]]:
    yield path, directory
    for node in directory.nodes():
        if isinstance(node, DirNode):
            below = posixpath.join(path, node.name)
            yield from _folders(vfs, below, vfs.directory(below))


# -- the run ---------------------------------------------------------------------------------------------------------


class Target(Protocol):
    """Where files go. Any thread may call anything."""

    def holds(self, item: Item) -> bool:
        """Is the file there already, whole and right?"""
        ...

    def take(self, item: Item) -> bool:
        """Put it there without the server, if that can be done; was it?"""
        ...

    def entry(self, item: Item) -> Any:
        """What the transfer engine fills (`xnatfs.transfer.protocols.Entry`). Raises CacheFault."""
        ...

    def keeps(self, entry: Any) -> bool:
        """Is a complete entry there to stay?"""
        ...


class Progress(Protocol):
    """Who is told. Any thread may call."""

    def moved(self, amount: int) -> None:
        """So many bytes have arrived; negative for bytes that have to come again."""
        ...

    def done(self, size: int, *, fetched: bool) -> None:
        """A file of that size is there; ``fetched`` unless it was before."""
        ...


@dataclass(slots=True)
class Outcome:
    """What came of it. ``fetched`` and ``present`` are files; bytes are those of the files, not of the network.

    ``fetched`` counts what was taken from the cache as well.
    """

    fetched: int = 0
    fetched_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


class Fetch:
    """One run. ``jobs``: resources and files at a time; ``seconds``: within which something has to come.

    ``_lock`` guards ``outcome`` and ``_again``; a leaf.
    """

    def __init__(
        self,
        vfs: Vfs,
        pool: Pool,
        target: Target,
        progress: Progress,
        *,
        jobs: int = 8,
        seconds: float = 60.0,
        archives: bool = True,
    ) -> None:
        self.outcome = Outcome()
        self._vfs = vfs
        self._pool = pool
        self._target = target
        self._progress = progress
        self._seconds = seconds
        self._archives = archives
        self._jobs = jobs
        self._lock = threading.Lock()
        self._again: list[Item] = []
        self._stop = threading.Event()

    def run(self, plan: Plan) -> Outcome:
        """Bring everything that is planned. What fails is in the outcome, with what could not be listed.

        Interrupted, it ends its downloads first: what is whole stays.
        """
        self.outcome.problems += plan.problems
        resources = ThreadPoolExecutor(self._jobs, "resource")
        self._files = ThreadPoolExecutor(self._jobs, "file")
        try:
            _finish([resources.submit(self._resource, batch) for batch in plan.batches])
            again, self._again = self._again, []
            _finish([self._files.submit(self._single, item, last=True) for item in again])
        except BaseException:
            self._stop.set()
            self._pool.close()
            raise
        finally:
            resources.shutdown(cancel_futures=True)
            self._files.shutdown(cancel_futures=True)
        return self.outcome

    def _resource(self, batch: Batch) -> None:
        items, absent = [], []
        for path, node in batch.nodes():
            if self._stop.is_set():
                return
            try:
                item = self._item(path, node)
                there = self._target.holds(item)
                taken = not there and self._target.take(item)
            except XnatfsError as error:
                self._failed(path, error)
                continue
            items.append(item)
            if taken:
                self._progress.moved(item.size)
            if there or taken:
                self._arrived(item, fetched=taken)
            else:
                absent.append(item)
        if absent and batch.whole and self._archives:
            absent = self._by_archive(items, absent)
        _finish([self._files.submit(self._single, item) for item in absent])

    def _item(self, path: str, node: FileNode) -> Item:
        size = self._vfs.attributes(node).size
        if node.record.size is None and not size:
            raise NotFound("listed, but the server has no bytes for it")
        return Item(path, node, size)

    def _by_archive(self, items: list[Item], absent: list[Item]) -> list[Item]:
        """Fetch what is absent of a resource as one archive, if that pays; what is absent then."""
        wanted = {item.node.record.path: item for item in absent if item.size}
        arrived: set[str] = set()

        def opened(item: Item) -> Any:
            if item.node.record.path not in wanted:
                return _Whole()
            return _Metered(self._target.entry(item), self._progress, lambda: arrived.add(item.path))

        def members() -> list[Member]:
            return [
                Member.of(item.node.record, item.size, lambda item=item: opened(item))  # type: ignore[misc]
                for item in items
            ]

        whole = self._pool.whole(Siblings.of(items[0].node.record, members), len(wanted))
        while whole is not None and not whole.wait(1.0):
            if self._stop.is_set():
                whole.cancel()
        for item in absent:
            if item.path in arrived:
                self._arrived(item, fetched=True)
        return [item for item in absent if item.path not in arrived]

    def _single(self, item: Item, *, last: bool = False) -> None:
        if self._stop.is_set():
            return
        try:
            self._download(item)
        except _FINAL as error:
            self._failed(item.path, error)
        except XnatfsError as error:
            log.debug("%s: %s", item.path, error)
            if last:
                self._failed(item.path, error)
            else:
                with self._lock:
                    self._again.append(item)
        else:
            self._arrived(item, fetched=True)

    def _download(self, item: Item) -> None:
        entry = _Metered(self._target.entry(item), self._progress)
        try:
            reader = self._pool.reader(entry, item.node.record)
            try:
                for offset in range(0, item.size, CHUNK):
                    if self._stop.is_set():
                        raise Unreachable(f"{item.path}: interrupted")
                    reader.ensure(offset, min(CHUNK, item.size - offset), Deadline(self._seconds))
            finally:
                reader.close()
            if not self._target.keeps(entry):
                raise CacheFault(f"{item.path}: there is no room to keep it")
        finally:
            entry.release()

    def _arrived(self, item: Item, *, fetched: bool) -> None:
        self._progress.done(item.size, fetched=fetched)
        with self._lock:
            if fetched:
                self.outcome.fetched += 1
                self.outcome.fetched_bytes += item.size
            else:
                self.outcome.present += 1
                self.outcome.present_bytes += item.size

    def _failed(self, path: str, error: XnatfsError) -> None:
        with self._lock:
            self.outcome.problems.append(Problem(path, error))


def _finish(futures: Sequence[Future[None]]) -> None:
    """Wait for all; an error that nobody foresaw is raised."""
    for future in as_completed(futures):
        future.result()


class _Metered:
    """An entry that says how much arrives. Everything else is the entry's own business."""

    def __init__(self, entry: Any, progress: Progress, whole: Callable[[], None] = lambda: None) -> None:
        self._entry = entry
        self._progress = progress
        self._whole = whole
        self._moved = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def write(self, block: int, data: bytes | memoryview, *, dated: bool = True) -> None:
        self._entry.write(block, data, dated=dated)
        self._moved += len(data)
        self._progress.moved(len(data))

    def reset(self) -> None:
        self._entry.reset()
        self._progress.moved(-self._moved)
        self._moved = 0

    def release(self) -> None:
        if self._entry.complete:
            self._whole()
        self._entry.release()


class _Whole:
    """In place of a file of an archive that is there already."""

    complete = True

    def release(self) -> None:
        pass
