"""Whole resources as one zip or tar, made while it is sent (contract 5.5).

Members are stored, not compressed, unless asked otherwise; each local header then carries size and CRC, names are
UTF-8 and flagged so.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from xnatfs.demo.content import CHUNK
from xnatfs.demo.model import Assessor, Experiment, Item, Labelled, Project, Reconstruction, Resource, Scan, StoredFile

_LIMIT = 0xFFFFFFFF
_UTF8 = 0x800
_DESCRIPTOR = 0x8


def member_name(resource: Resource, stored: StoredFile, structure: str, *, typed: bool) -> str:
    """The path of a file inside a bundle. ``typed``: the request named scans, so their types are in the path."""
    label = resource.label or str(resource.number)
    if structure == "improved":
        return _improved(resource, label) + stored.path
    if structure == "legacy":
        return _legacy(resource, label) + stored.path
    name = _default(resource, label, typed and structure != "simplified") + stored.path
    if structure == "simplified":
        name = name.replace("/resources", "").replace("/files", "")
    return name


def bundle_label(item: Item) -> str:
    """The directory name in the archive that a bundle of this item is called after."""
    if isinstance(item, (Scan, Reconstruction)):
        return item.session.label
    return item.label if isinstance(item, Labelled) else item.id


def _default(resource: Resource, label: str, typed: bool) -> str:
    parent = resource.parent
    direction = f"{resource.direction}/" if resource.direction else ""
    place = f"{direction}resources/{label}/files/"
    if isinstance(parent, Scan):
        kind = "-" + re.sub(r"\W", "_", parent.fields.get("type", ""), flags=re.ASCII) if typed else ""
        return f"{parent.session.label}/scans/{parent.id}{kind}/{place}"
    if isinstance(parent, Reconstruction):
        return f"{parent.session.label}/reconstructions/{parent.id}/{place}"
    return f"{bundle_label(parent)}/{place}"


def _improved(resource: Resource, label: str) -> str:
    parent = resource.parent
    if isinstance(parent, Scan):
        kind = re.sub(r'[\\/:*?"<>|]', "_", parent.fields.get("type", ""))
        return f"scans/{parent.id}{'_' + kind if kind else ''}/{label}/"
    if isinstance(parent, (Assessor, Reconstruction)):
        return f"{'assessors' if isinstance(parent, Assessor) else 'reconstructions'}/{parent.id}/{label}/"
    return f"resources/{parent.id}_ /{label}/" if isinstance(parent, Experiment) else f"resources/{label}/"


def _legacy(resource: Resource, label: str) -> str:
    parent = resource.parent
    if isinstance(parent, Scan):
        return f"{parent.session.label}/SCANS/{parent.id}/{label}/"
    if isinstance(parent, Assessor):
        return f"{parent.session.label}/ASSESSORS/{parent.label}/{label}/"
    if isinstance(parent, Reconstruction):
        return f"{parent.session.label}/PROCESSED/{parent.id}/{label}/"
    if isinstance(parent, Project):
        return f"{parent.id}/resources/{label}/"
    return f"{bundle_label(parent)}/RESOURCES/{label}/"


@dataclass(frozen=True)
class Member:
    name: str
    stored: StoredFile


def gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about `CHUNK`, so that thousands of small members are not thousands of writes."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _dos_time(moment: datetime) -> tuple[int, int]:
    day = (max(moment.year, 1980) - 1980) << 9 | moment.month << 5 | moment.day
    return moment.hour << 11 | moment.minute << 5 | moment.second // 2, day


def zip_pieces(
    members: list[Member], *, deflate: bool = False, damage: Callable[[int, bytes], bytes] | None = None
) -> Iterator[bytes]:
    """A zip archive. ``damage`` may change a piece of the n-th member after its CRC was written."""
    directory: list[bytes] = []
    offset = 0
    for number, member in enumerate(members):
        content, name = member.stored.content, member.name.encode("utf-8", "surrogateescape")
        time, day = _dos_time(member.stored.last_modified)
        size, crc = (0, 0) if deflate else (content.size, content.crc32)
        flags, method = (_UTF8 | _DESCRIPTOR, 8) if deflate else (_UTF8, 0)
        extra = struct.pack("<HHQQ", 1, 16, size, size) if size >= _LIMIT else b""
        version, shown = (45, _LIMIT) if extra else (20, size)
        head = struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, version, flags, method, time, day, crc, shown, shown, len(name), len(extra)
        )
        yield head + name + extra
        written = len(head) + len(name) + len(extra)
        packed = size
        if deflate:
            squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
            packed = 0
            for piece in content.chunks():
                crc, size = zlib.crc32(piece, crc), size + len(piece)
                if out := squeeze.compress(piece):
                    packed += len(out)
                    yield out
            out = squeeze.flush()
            packed += len(out)
            yield out + struct.pack("<IIII", 0x08074B50, crc, packed, size)
            written += packed + 16
        else:
            for piece in content.chunks():
                yield piece if damage is None else damage(number, piece)
            written += size
        wide = [value for value in (size, packed, offset) if value >= _LIMIT]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        directory.append(
            struct.pack(
                "<IHHHHHHIIIHHHHHII",
                0x02014B50,
                45 if wide else 20,
                45 if wide else 20,
                flags,
                method,
                time,
                day,
                crc,
                min(packed, _LIMIT),
                min(size, _LIMIT),
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                min(offset, _LIMIT),
            )
            + name
            + extra
        )
        offset += written
    yield _zip_end(directory, offset)


def _zip_end(directory: list[bytes], offset: int) -> bytes:
    body, count = b"".join(directory), len(directory)
    end = b""
    if count >= 0xFFFF or offset >= _LIMIT or len(body) >= _LIMIT:
        end += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(body), offset)
        end += struct.pack("<IIQI", 0x07064B50, 0, offset + len(body), 1)
    shown = min(count, 0xFFFF)
    end += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, shown, shown, min(len(body), _LIMIT), min(offset, _LIMIT), 0)
    return body + end


def tar_pieces(members: list[Member]) -> Iterator[bytes]:
    """A tar archive with PAX headers where a name needs them."""
    for member in members:
        info = tarfile.TarInfo(member.name)
        info.size = member.stored.content.size
        info.mtime = int(member.stored.last_modified.timestamp())
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield from member.stored.content.chunks()
        if info.size % 512:
            yield bytes(512 - info.size % 512)
    yield bytes(1024)


def gzip_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in pieces:
        if out := squeeze.compress(piece):
            yield out
    yield squeeze.flush()
