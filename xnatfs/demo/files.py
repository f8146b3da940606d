"""Everything below ``/files``: listings, single files, ranges, bundles; and catalogs (contract 4 and 5)."""

from __future__ import annotations

import email.utils
import io
import posixpath
import random
import re
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

from xnatfs.demo import bundles
from xnatfs.demo.ask import FILE_VARIANTS, Answer, Ask, Refusal, Slice, Stream, http_date
from xnatfs.demo.model import Assessor, Experiment, Project, Reconstruction, Resource, Scan, StoredFile, Subject
from xnatfs.demo.resolve import Resolver, Where
from xnatfs.demo.tables import Table, arranged, render

FILE_HEADERS = ["Name", "Size", "URI", "collection", "file_tags", "file_format", "file_content", "cat_ID", "digest"]

POISON = 'Cannot invoke "java.io.File.getName()" because "f" is null'
NO_ENTRY = "Unable to find catalog entry for given uri."
NO_FILE = "Unable to find file."

_TYPES = {
    "bmp": "image/bmp",
    "gif": "image/gif",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tiff": "image/tiff",
    "txt": "text/plain",
    "xml": "text/xml",
}
_ARCHIVES = re.compile(r"^(.*?\.(?:zip|jar|rar|ear|gar|mrb))(?:!/|/)(.+)$")


@dataclass
class Options:
    """How honest this server is about files; see `xnatfs.demo.server.ServerOptions`."""

    ranges: bool = True
    clamp_ranges: bool = False
    digests: bool = True
    sizes: bool = True
    all_files: bool = True
    accel_prefix: str = ""
    accel_root: Path | None = None
    shuffle: int | None = None


class Files:
    """Answers everything below ``/files``."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def answer(self, ask: Ask, where: Where, resolver: Resolver) -> Answer:
        ask.require(FILE_VARIANTS)
        everything = ask.true("all")
        if everything and not self.options.all_files:
            raise Refusal(500, POISON)
        chosen = resolver.resources(where, everything=everything)
        path = stored_path(where.rest)
        bundle = ask.get("format").lower()
        if path and not path.endswith("/"):
            if bundle in ("zip", "application/zip"):
                return self._bundle(ask, where, [self._find(chosen, path)], bundle)
            return self._path(ask, chosen, path)
        found = self._selected(ask, chosen, path)
        if ask.get("index"):
            return self._index(ask, found)
        if bundle in ("zip", "application/zip", "tar", "tar.gz", "application/x-tar", "application/x-gtar"):
            return self._bundle(ask, where, found, bundle)
        if any(resource.poisoned for resource in chosen):
            raise Refusal(500, POISON)
        table = self._table(ask, where, chosen, found)
        return render(arranged(table, ask, None), ask)

    # listing ----------------------------------------------------------------------------------------------------------

    def _selected(self, ask: Ask, chosen: list[Resource], folder: str) -> list[tuple[Resource, StoredFile]]:
        """Entries of the resources in catalog order, after the filters and the folder."""
        contents, formats = ask.all("file_content"), ask.all("file_format")
        found = []
        for resource in chosen:
            entries = list(resource.files.values())
            if self.options.shuffle is not None:
                # A catalog has some order, and index=N means that one: shuffled once for all, not per request.
                random.Random(f"{self.options.shuffle}/{resource.number}").shuffle(entries)  # noqa: S311 - an order
            for stored in entries:
                if folder.strip("/") and not stored.path.startswith(folder):
                    continue
                if contents and stored.description not in contents:
                    continue
                if formats and stored.format not in formats:
                    continue
                found.append((resource, stored))
        return found

    def _table(self, ask: Ask, where: Where, chosen: list[Resource], found: list[tuple[Resource, StoredFile]]) -> Table:
        single = where.selector is not None and len(chosen) == 1
        bases = {resource.number: files_base(where, resource, single) for resource in chosen}
        sizes, digests = self.options.sizes, self.options.digests
        rows = [
            (
                stored.name,
                _cell(stored.size) if sizes and stored.has_size else "",
                bases[resource.number] + stored.path,
                resource.label,
                ",".join(stored.tags),
                stored.format,
                stored.description,
                str(resource.number),
                stored.digest if digests else "",
            )
            for resource, stored in found
        ]
        locator = ask.get("locator")
        key = locator if locator in ("absolutePath", "projectPath") else "URI"
        headers = [key if name == "URI" else name for name in FILE_HEADERS]
        return Table(headers, rows, {"title": "Files"}, [{"key": key, "serverRoot": ask.context}])

    # one file ---------------------------------------------------------------------------------------------------------

    def _index(self, ask: Ask, found: list[tuple[Resource, StoredFile]]) -> Answer:
        try:
            index = int(ask.get("index"))
        except ValueError:
            raise Refusal(400) from None
        if not 0 <= index < len(found):
            return _absent(ask, NO_ENTRY)
        return self._file(ask, found[index][1])

    def _path(self, ask: Ask, chosen: list[Resource], path: str) -> Answer:
        try:
            _, stored = self._find(chosen, path)
        except Refusal:
            member = self._zip_member(chosen, path)
            return member if member is not None else _absent(ask, NO_ENTRY)
        if ask.true("listContents") and _ARCHIVES.match(path + "/x"):
            with zipfile.ZipFile(io.BytesIO(stored.content.read(0, stored.content.size))) as archive:
                rows = [(info.filename, str(info.file_size)) for info in archive.infolist()]
            return render(Table(["File Name", "Size"], rows, {"totalRecords": str(len(rows))}), ask)
        return self._file(ask, stored)

    @staticmethod
    def _find(chosen: list[Resource], path: str) -> tuple[Resource, StoredFile]:
        """The entry of that name: as received, then decoded (contract 5.1)."""
        if not chosen:
            raise Refusal(404)
        # A folder that is called like an archive cannot be addressed: what follows is taken for a member.
        hidden = _ARCHIVES.match(path) is not None
        for name in () if hidden else (path, unquote_plus(path), unquote(path)):
            for resource in chosen:
                stored = resource.files.get(name)
                if stored is not None:
                    return resource, stored
        raise Refusal(404, NO_ENTRY, tomcat=True)

    def _zip_member(self, chosen: list[Resource], path: str) -> Answer | None:
        match = _ARCHIVES.match(path)
        if match is None:
            if not chosen:
                raise Refusal(404)
            return None
        stored = next((r.files[match[1]] for r in chosen if match[1] in r.files), None)
        if stored is None:
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(stored.content.read(0, stored.content.size))) as archive:
                data = archive.read(unquote(match[2]))
        except (KeyError, zipfile.BadZipFile):
            return None
        return Answer(data, type=media_type(match[2]))

    def _file(self, ask: Ask, stored: StoredFile) -> Answer:
        content, size = stored.content, stored.size
        if size is None:
            return _absent(ask, NO_FILE)
        since, unless = _date(ask, "if-modified-since"), _date(ask, "if-unmodified-since")
        changed = stored.last_modified.replace(microsecond=0)
        if unless is not None and changed > unless:
            answer = Refusal(412).answer()
            answer.headers.append(("Cache-Control", "must-revalidate"))
            return answer
        if since is not None and changed <= since:
            return Answer(status=304, headers=[("Cache-Control", "must-revalidate")])
        answer = Answer(Slice(content, 0, size, size), type=media_type(stored.name))
        answer.headers = [
            ("Content-Disposition", f'attachment; filename="{stored.name}";'),
            ("Last-Modified", http_date(changed)),
            ("Cache-Control", "must-revalidate"),
        ]
        if self.options.accel_root is not None and content.path is not None:
            relative = content.path.relative_to(self.options.accel_root)
            answer.body = b""
            answer.headers.append(("X-Accel-Redirect", self.options.accel_prefix + quote(relative.as_posix())))
        elif self.options.ranges and "range" in ask.headers:
            return apply_range(answer, ask.headers["range"], clamp=self.options.clamp_ranges)
        return answer

    # bundles ----------------------------------------------------------------------------------------------------------

    def _bundle(self, ask: Ask, where: Where, found: list[tuple[Resource, StoredFile]], kind: str) -> Answer:
        typed, structure = where.part == "scans", ask.get("structure", "default")
        members = [
            bundles.Member(bundles.member_name(resource, stored, structure, typed=typed), stored)
            for resource, stored in found
            if stored.size is not None
        ]
        suffix, type_ = {"zip": ("zip", "application/zip"), "application/zip": ("zip", "application/zip")}.get(
            kind, ("tar.gz", "application/x-gtar") if kind == "tar.gz" else ("tar", "application/x-tar")
        )
        item = where.experiment or where.item
        label = bundles.bundle_label(item) if item is not None else "files"
        disposition = ("Content-Disposition", f'attachment; filename="{label}.{suffix}";')
        if not members:
            answer = Refusal(404).answer()
            answer.headers.append(disposition)
            return answer
        if suffix == "zip":
            pieces = bundles.zip_pieces(members, deflate=ask.get("compression") == "8", damage=ask.damage)
        else:
            pieces = bundles.tar_pieces(members)
            if suffix == "tar.gz":
                pieces = bundles.gzip_pieces(pieces)
        return Answer(Stream(bundles.gathered(pieces)), type=type_, headers=[disposition], chunked=True)


def apply_range(answer: Answer, header: str, *, clamp: bool = False) -> Answer:
    """Restlet's range filter on a body of known size, with all it does not check (contract 5.2).

    ``clamp``: be well-behaved instead, as a proxy in front may be.
    """
    body = answer.body
    assert isinstance(body, Slice)
    size = body.promised
    units, _, wanted = header.partition("=")
    if units.strip().lower() != "bytes" or size == 0:
        return answer
    if "," in wanted:
        refused = Refusal(501).answer()
        refused.headers.append(("Cache-Control", "must-revalidate"))
        return refused
    match = re.fullmatch(r"\s*(\d*)\s*-\s*(\d*)\s*", wanted)
    if match is None or not (match[1] or match[2]):
        start, stop, shown = 0, size, f"bytes 0--1/{size}"
    else:
        first, last = match.groups()
        start = int(first) if first else size - int(last)
        stop = int(last) + 1 if first and last else size
        if clamp:
            start, stop = max(start, 0), min(stop, size)
            if start >= size:
                return Answer(b"", 416, headers=[("Content-Range", f"bytes */{size}")])
        shown = f"bytes {start}-{stop - 1}/{size}"
    answer.status = 206
    answer.body = Slice(body.content, max(0, min(start, size)), max(0, min(stop, size)), stop - start)
    answer.set("Content-Range", shown)
    return answer


def files_base(where: Where, resource: Resource, single: bool) -> str:
    """Where the listing says the files of a resource are, up to and with ``/files/`` (contract 4)."""
    tail = f"/resources/{resource.number}/files/"
    if not single:
        return item_uri(resource) + tail
    base = "/data"
    if where.project is not None and where.subject is not None:
        base += f"/projects/{where.project.id}/subjects/{where.subject.id}"
    elif not where.experiments:
        return item_uri(resource) + tail
    if where.experiment is not None:
        base += f"/experiments/{where.experiment.id}"
    if where.items:
        base += f"/{where.part}/{','.join(item.id for item in where.items)}"
        if resource.direction:
            base += f"/{resource.direction}"
    return base + tail


def item_uri(resource: Resource) -> str:
    parent = resource.parent
    direction = f"/{resource.direction}" if resource.direction else ""
    if isinstance(parent, Scan):
        return f"/data/experiments/{parent.session.id}/scans/{parent.id}"
    if isinstance(parent, Reconstruction):
        return f"/data/experiments/{parent.session.id}/reconstructions/{parent.id}{direction}"
    if isinstance(parent, Assessor):
        return f"/data/experiments/{parent.session.id}/assessors/{parent.id}{direction}"
    if isinstance(parent, Experiment):
        return f"/data/experiments/{parent.id}"
    if isinstance(parent, Subject):
        return f"/data/projects/{parent.project.id}/subjects/{parent.id}"
    assert isinstance(parent, Project)
    return f"/data/projects/{parent.id}"


def stored_path(rest: str) -> str:
    """The file path of a raw URL: decoded only if it holds ``%20`` or ``%2B``, and then all of it (contract 7.4)."""
    path = rest[1:] if rest.startswith("/") else rest
    if "%20" in path or "%2B" in path or "%2b" in path:
        return unquote_plus(path)
    return path


def _cell(size: int | None) -> str:
    return "" if size is None else str(size)


def media_type(name: str) -> str:
    return _TYPES.get(posixpath.splitext(name)[1][1:].lower(), "application/octet-stream")


def _absent(ask: Ask, message: str) -> Answer:
    if ask.true("accept-not-found"):
        return Answer(status=204)
    raise Refusal(404, message, tomcat=True)


def _date(ask: Ask, name: str) -> datetime | None:
    value = ask.headers.get(name)
    try:
        return email.utils.parsedate_to_datetime(value) if value else None
    except ValueError:
        return None
