"""A resource's catalog XML as file records: what is left when its listing is an error (differences A9). Pure.

No DTD and no entity is accepted, so that a small document cannot become a large one.
"""

from __future__ import annotations

from xml.parsers import expat

from xnatfs.xnat.records import FileRecord
from xnatfs.xnat.values import number

MAX_CATALOG = 512 * 1024 * 1024


class CatalogError(ValueError):
    """The document is no catalog, or no safe one."""


def parse_catalog(document: bytes, base: str, resource_id: str) -> tuple[FileRecord, ...]:
    """The entries of ``<cat:Catalog>`` or ``<cat:DCMCatalog>``.

    Raises:
        CatalogError: another document, malformed, or with a DTD.
    """
    reader = _Reader(base, resource_id)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise CatalogError(f"malformed XML ({expat.errors.messages.get(error.code, 'error')})") from error
    if not reader.is_catalog:
        raise CatalogError("not a catalog")
    return tuple(reader.records)


class _Reader:
    def __init__(self, base: str, resource_id: str) -> None:
        self._base = base
        self._resource_id = resource_id
        self._depth = 0
        self._entry: dict[str, str] | None = None
        self._size: str = ""
        self._in_size = False
        self.is_catalog = False
        self.records: list[FileRecord] = []

    def refuse(self, *_: object) -> None:
        raise CatalogError("a DTD or an entity declaration")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        if self._depth == 0:
            self.is_catalog = name in ("Catalog", "DCMCatalog")
        self._depth += 1
        if name == "entry":
            self._entry, self._size = attributes, ""
        elif name == "metaField" and self._entry is not None:
            self._in_size = attributes.get("name") == "SIZE"

    def text(self, data: str) -> None:
        if self._in_size:
            self._size += data

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._in_size = False
        if tag.rpartition(":")[2] != "entry" or self._entry is None:
            return
        entry, self._entry = self._entry, None
        path = entry.get("URI", "")
        if not path or "://" in path:
            return
        digest = entry.get("digest", "").lower()
        self.records.append(
            FileRecord(
                base=self._base,
                path=path,
                size=number(self._size),
                digest=digest if len(digest) == 32 else "",
                resource_id=self._resource_id,
                format=entry.get("format", ""),
                content=entry.get("content", ""),
            )
        )
