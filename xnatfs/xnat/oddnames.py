"""Files whose names a server refuses by path: fetched by their number in the listing, or out of the resource's archive.

XNAT 1.8's firewall rejects paths with ``%25``, ``%3B``, ``%5C`` and the like before XNAT sees them, while 1.6.4 serves
them (contract 7.4, differences A6 and A7). What a server refused once is not tried by path again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import quote

from stream_unzip import UnzipError, stream_unzip

from xnatfs.deadlines import Deadline
from xnatfs.errors import BadHandle, ContentChanged, NotFound, ServerFault, Unreachable
from xnatfs.xnat import urls
from xnatfs.xnat.client import REFUSED, Client
from xnatfs.xnat.download import CHUNK, Download, Expected
from xnatfs.xnat.records import FileRecord
from xnatfs.xnat.tables import Row

log = logging.getLogger(__name__)

_MEMBER = re.compile(rb"^.*?/resources/[^/]+/files/(.*)$", re.DOTALL)
_FILENAME = re.compile(r'filename="(.*)"', re.DOTALL)


class OpenZip(Protocol):
    def __call__(self, resource_uri: str, *, deadline: Deadline) -> Download: ...


class OddNames:
    """The ways to a file besides its path, and which of them this server needs."""

    def __init__(self, client: Client, open_zip: OpenZip) -> None:
        self._client = client
        self._open_zip = open_zip
        self._lock = threading.Lock()
        self._refused: set[str] = set()

    def paths(self, file: FileRecord) -> Iterator[str]:
        """The request paths worth trying, in order; none for a name that no path can carry."""
        if urls.hopeless(file.path):
            return
        odd = urls.suspicion(file.path)
        with self._lock:
            refused = odd in self._refused
        base = urls.data(file.base)
        if not refused:
            yield base + urls.encode(file.path)
        unchanged = urls.as_listed(file.path)
        if unchanged is not None:
            yield base + unchanged

    def refused(self, file: FileRecord) -> None:
        """This file's name was refused by path and found another way."""
        with self._lock:
            self._refused.add(urls.suspicion(file.path))

    def open_by_number(self, file: FileRecord, expected: Expected, deadline: Deadline) -> Download | None:
        """``?index=N`` (contract 4); None where the server does not know it or means another file.

        Raises:
            NotFound: the listing has no such file any more.
        """
        number = self._number(file, deadline)
        params = {"index": str(number)}
        base = urls.data(file.base.rstrip("/"))
        try:
            download = self._client.download(base, expected, params=params, deadline=deadline, none_on=REFUSED)
        except (ContentChanged, ServerFault) as error:
            log.debug("by number: %s", error)
            return None
        if download is not None and not _is_called(download, file):
            download.close()
            return None
        return download

    def _number(self, file: FileRecord, deadline: Deadline) -> int:
        def find(rows: Iterable[Row]) -> int:
            found = -1
            for number, row in enumerate(rows):
                parts = urls.split_file_uri(str(row.get("URI", "")))
                if parts is not None and parts[2] == file.path:
                    found = number
            return found

        number = self._client.table(urls.data(file.base.rstrip("/")), find, deadline=deadline, of_files=True)
        if number is None or number < 0:
            raise NotFound(f"{quote(file.path)}: not in its resource any more")
        return number

    def open_in_archive(self, file: FileRecord, deadline: Deadline) -> Download:
        """The file out of the whole resource as an archive; always from its beginning.

        Raises:
            NotFound: the archive does not hold it.
        """
        archive = self._open_zip(file.base.removesuffix("/files/"), deadline=deadline)
        try:
            return MemberDownload(archive, file)
        except BaseException:
            archive.close()
            raise


def _is_called(download: Download, file: FileRecord) -> bool:
    """Whether the server says that it sends a file of this base name; without a name in the answer, no."""
    found = _FILENAME.search(getattr(download, "disposition", ""))
    name = file.path.rpartition("/")[2]
    # header texts are bytes that http.client reads as Latin-1
    return found is not None and found[1] in (name, name.encode("utf-8", "surrogatepass").decode("latin-1"))


class MemberDownload:
    """One member of an archive that is on its way, as a `Download`."""

    start = 0
    last_modified: float | None = None

    def __init__(self, archive: Download, file: FileRecord) -> None:
        self.length = file.size
        self._archive = archive
        self._name = quote(file.path)
        self._left = file.size
        self._rest = b""
        self._closed = False
        self._pieces = self._find(file.path)

    def _find(self, path: str) -> Iterator[bytes]:
        """The member's pieces. Members are matched by what follows resource and ``files/`` (contract 5.5)."""
        wanted = path.encode("utf-8", "surrogatepass")
        with self._damage():
            for name, _, pieces in stream_unzip(self._arriving()):
                found = _MEMBER.match(name)
                if found is not None and found[1] == wanted:
                    return iter(pieces)
                for _ in pieces:
                    pass
        raise NotFound(f"{self._name}: not in the archive of its resource")

    def _arriving(self) -> Iterator[bytes]:
        buffer = memoryview(bytearray(CHUNK))
        while count := self._archive.readinto(buffer):
            yield bytes(buffer[:count])

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (UnzipError, ValueError) as error:
            raise ServerFault(f"{self._name}: the archive of its resource is damaged") from error

    def readinto(self, buffer: memoryview) -> int:
        if self._closed:
            raise BadHandle(f"{self._name}: the download is closed")
        if not self._rest:
            with self._damage():
                self._rest = next((piece for piece in self._pieces if piece), b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        if self._left is not None:
            if count == 0 and self._left:
                raise Unreachable(f"{self._name}: the archive's member ended early, {self._left} bytes missing")
            if count > self._left:
                raise ContentChanged(f"{self._name}: longer than the listing's {self.length} bytes")
            self._left -= count
        return count

    def close(self) -> None:
        self._closed = True
        self._archive.close()
