"""The composition root: settings -> client -> archive -> cache -> transfers -> file system, and their end.

Start order is the order of that line, stop order the reverse, and the stop always happens: downloads cancelled,
cache closed, session on the server ended. Nothing here decides what a path means or what a server said.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from xnatfs import causes, credentials, fuse_mount, logs, status
from xnatfs.cache.kept import KeptListings
from xnatfs.cache.loaders import Loaders
from xnatfs.cache.store import Limits, Store
from xnatfs.connect import client_for
from xnatfs.credentials import Credentials
from xnatfs.deadlines import Deadline
from xnatfs.errors import IsADirectory, NotADirectory, NotFound
from xnatfs.offline import KeptArchive
from xnatfs.settings import DEFAULT, Settings
from xnatfs.stats import Stats
from xnatfs.transfer.pool import Pool, Tuning
from xnatfs.tree.nodes import Attributes, DirNode, FileNode, Node
from xnatfs.vfs import Timing, Vfs
from xnatfs.xnat.archive import Archive
from xnatfs.xnat.client import Client
from xnatfs.xnat.urls import parse_server

log = logging.getLogger(__name__)

Ask = Callable[[str, bool], str]
"""Puts a question to a person; the answer is hidden if True."""

COPY_BYTES = 2**20


class App:
    """A connected archive, as a context manager: the file system is `vfs` while it is entered.

    Nothing is sent before `check` or the first use of `vfs`. Make it after a fork, never before.
    """

    vfs: Vfs
    client: Client

    def __init__(
        self,
        settings: Settings,
        login: Credentials | None,
        *,
        mountpoint: Path | None = None,
        watched: bool = False,
        tuning: Tuning | None = None,
    ) -> None:
        """``watched``: what the server is asked for is put down to the operation that caused it, for an access log."""
        self.settings = settings
        self.login = login
        self.stats = Stats()
        self.started = time.time()
        self._mountpoint = mountpoint
        self._tuning = tuning
        self._watch = causes.Watch(active=watched)
        self._ends = ExitStack()

    def __enter__(self) -> App:
        with ExitStack() as ends:
            self._build(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def _build(self, ends: ExitStack) -> None:
        settings, server = self.settings, self.settings.need_server()
        self.client = client_for(settings, self.login, self.stats)
        site = Archive(self.client)
        ends.callback(site.close)
        cache_dir = settings.cache_dir.value
        self.namespace = namespace(server, self.login)
        listings = KeptListings(cache_dir, self.namespace, pinned=lambda: self.store.pins.listings())
        self.archive = archive = KeptArchive(
            site,
            listings,
            keep=settings.keep_listings.value == "all",
            use=settings.keep_listings.value != "no",
            offline=settings.offline.value,
            ttl=settings.ttl.value,
        )
        limits = Limits(
            max_bytes=settings.cache_size.value,
            min_free_bytes=min_free(settings),
            max_age_seconds=settings.cache_age.value,
        )
        self.store = store = Store(cache_dir, limits, namespace=self.namespace, stats=self.stats)
        ends.callback(store.close)
        self.pool = pool = Pool(
            self._watch.source(archive), workers=settings.parallel.value, stats=self.stats, tuning=self._tuning
        )
        ends.callback(pool.close)
        loaders = Loaders()
        ends.callback(loaders.close)
        self.vfs = Vfs(
            archive,
            store,
            self._watch.pool(pool),
            submit=self._watch.submit(loaders.submit),
            stats=self.stats,
            timing=Timing(
                settings.ttl.value * (1 - fuse_mount.KERNEL_SHARE),
                settings.metadata_timeout.value,
                settings.read_timeout.value,
            ),
            status=self.status,
            series=settings.series.value,
            scan_names=settings.scan_names.value,
        )

    def check(self) -> int:
        """Log in and list the projects once; how many there are. Raises what the mount would meet.

        Offline nothing is sent.
        """
        if not self.settings.offline.value:
            self.client.login(Deadline(self.settings.metadata_timeout.value))
        return len(self.vfs.directory("/").names())

    def status(self) -> dict[str, Any]:
        """What ``.xnat/status.json`` shows. Never the network, never a secret."""
        document = status.document(
            status.Parts(
                self.settings,
                self.login.user if self.login else "guest",
                self.stats,
                self.client,
                self.store,
                self.pool,
                self.started,
                str(self._mountpoint) if self._mountpoint else None,
            )
        )
        return {**document, "offline": self.archive.status()}

    # -- for the commands that need no mount --------------------------------------------------------------------

    def rows(self, path: str) -> list[Row]:
        """What ``ls`` shows: the entries of a directory by name, or the one file."""
        path = absolute(path)
        with _said(path):
            try:
                listing = self.vfs.directory(path)
            except NotADirectory:
                return [self._row(path.rpartition("/")[2], self.vfs.lookup(path))]
        nodes = ((name, listing.get(name)) for name in sorted(listing.names()))
        return [self._row(name, node) for name, node in nodes if node is not None]

    def describe(self, path: str) -> tuple[Row, dict[str, str]]:
        """What ``stat`` shows: the attributes and every ``user.xnat.*`` value that is set."""
        path = absolute(path)
        with _said(path):
            node = self.vfs.lookup(path, follow=True)
            names = self.vfs.listxattr(path)
            values = {name: self.vfs.getxattr(path, name).decode("utf-8", "replace") for name in names}
        return self._row(path.rpartition("/")[2] or "/", node), values

    def _row(self, name: str, node: Node) -> Row:
        attributes: Attributes = self.vfs.attributes(node)
        record = node.record if isinstance(node, (DirNode, FileNode)) else None
        modified = ""
        if attributes.mtime_ns:
            modified = datetime.fromtimestamp(attributes.mtime_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M")
        return Row(
            name, attributes.kind.value, attributes.size, modified, str(getattr(record, "id", "")), attributes.ino
        )

    def content(self, path: str) -> Iterator[bytes]:
        """The bytes of a file in pieces; every one of them or an error."""
        path = absolute(path)
        with _said(path):
            file = self.vfs.open(path)
        try:
            offset = 0
            while offset < file.size:
                piece = file.read(offset, COPY_BYTES)
                yield piece
                offset += len(piece)
        finally:
            file.close()


@dataclass(frozen=True, slots=True)
class Row:
    """A line of ``ls -l``. Size in bytes; modified in UTC to the minute, empty when the archive does not say."""

    name: str
    kind: str
    size: int
    modified: str
    id: str
    inode: int

    def document(self) -> dict[str, object]:
        """As JSON shows it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "size": self.size,
            "modified": self.modified or None,
            "id": self.id or None,
            "inode": self.inode,
        }


_SAID = {
    NotFound: "no such file or directory in the archive",
    NotADirectory: "not a directory",
    IsADirectory: "is a directory",
}


@contextmanager
def _said(path: str) -> Iterator[None]:
    """The everyday errors of paths in the everyday words."""
    try:
        yield
    except (NotFound, NotADirectory, IsADirectory) as error:
        raise type(error)(f"{path}: {_SAID[type(error)]}") from error


def absolute(path: str) -> str:
    """``PROJECT/SUBJECT``, ``/PROJECT/SUBJECT/`` and ``.`` as the file system wants them."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def min_free(settings: Settings) -> int:
    """Bytes that the cache leaves free; without a setting 1 GiB or 5 % of the disk, whichever is less."""
    if settings.min_free.value is not None:
        return settings.min_free.value
    cache_dir = settings.cache_dir.value
    place = next(path for path in (cache_dir, *cache_dir.parents) if path.exists())
    disk = os.statvfs(place)
    return min(2**30, disk.f_blocks * disk.f_frsize // 20)


def namespace(server: str, login: Credentials | None) -> str:
    """What keeps the cached files of different servers and users apart, without naming them."""
    identity = f"{server}\0{login.user if login else ''}".encode()
    return hashlib.blake2b(identity, digest_size=16).hexdigest()


def warnings(settings: Settings, login: Credentials | None) -> list[str]:
    """What a person should know before anything is sent."""
    found = []
    server = settings.server.value or ""
    if settings.verify.value is False:
        found.append(
            f"the certificate of {server} is not checked ({settings.verify.origin}); anyone in between can read along"
        )
    on_the_way = settings.proxy.value is not None or (bool(server) and not parse_server(server).local)
    if login is not None and server.startswith("http://") and on_the_way and not settings.offline.value:
        found.append(
            f"{server} is not encrypted: the password of {login.user} can be read on the way; use https:// if it can"
        )
    if any(word.startswith("allow_") for text in settings.fuse_options.value for word in text.split(",")):
        found.append("allow_other/allow_root: other users of this machine will see what this login may see")
    return found


# -- mounting --------------------------------------------------------------------------------------------------------


def redactor(settings: Settings, login: Credentials | None) -> logs.Redactor:
    """Knows every secret of this run."""
    hidden = logs.Redactor()
    if login is not None:
        hidden.hide(login.password.reveal(), login.user)
    if settings.proxy.value is not None:
        parts = urlsplit(settings.proxy.value.reveal())
        hidden.hide(parts.password or "", parts.username or "")
    return hidden


def find_login(settings: Settings, ask: Ask | None) -> Credentials | None:
    """The login to send; None is guest. Raises `LoginFailed` when there is a user and no password to be had."""
    settings.need_server()
    if settings.offline.value:  # the name alone tells whose cache it is; nothing is sent
        user = None if settings.guest.value else settings.user.value
        return Credentials(user, credentials.Secret(""), "offline") if user else None
    return credentials.complete(settings.choice(), ask)


def log_to_terminal(settings: Settings, login: Credentials | None) -> None:
    """Log records go to stderr: all if a level was asked for, else only remarks."""
    if settings.log_level.origin == DEFAULT:
        logs.setup("warning", logs.remarks(), redactor(settings, login), logs.BRIEF)
    else:
        logs.setup(settings.log_level.value, logs.to_terminal(), redactor(settings, login))
