"""One resource's catalog document: the only place with the times of single files (contract 4)."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from xnatfs.demo.ask import XML_VARIANTS, Answer, Ask, Refusal
from xnatfs.demo.model import StoredFile
from xnatfs.demo.resolve import Resolver, Where, owner_project


def catalog(ask: Ask, where: Where, resolver: Resolver) -> Answer:
    """XML whatever ``format`` says; raises Refusal 404 unless exactly one resource is meant."""
    ask.require(XML_VARIANTS)
    chosen = resolver.resources(where)
    if len(chosen) != 1:
        raise Refusal(404)
    if where.extra:
        raise Refusal(400)
    resource = chosen[0]
    dicom = resource.label == "DICOM"
    kind = "DCMCatalog" if dicom else "Catalog"
    name = f"UID={quoteattr(f'1.2.826.0.1.{resource.number}')}" if dicom else f"ID={quoteattr(resource.label)}"
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<cat:{kind} {name} xmlns:cat="http://nrg.wustl.edu/catalog" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">',
        f'<cat:metaFields>\n\t<cat:metaField name="PROJECT">{escape(owner_project(resource).id)}</cat:metaField>\n'
        "</cat:metaFields>",
        "<cat:entries>",
    ]
    lines.extend(_entry(stored, dicom, number) for number, stored in enumerate(tuple(resource.files.values()), 1))
    lines.append(f"</cat:entries>\n</cat:{kind}>")
    return Answer("\n".join(lines).encode("utf-8", "surrogateescape"), type="text/xml", chunked=True)


def _entry(stored: StoredFile, dicom: bool, number: int) -> str:
    attributes = {
        "ID": stored.path,
        "URI": stored.path,
        "cachePath": stored.path,
        "name": stored.name,
        "createdBy": stored.created_by,
        "createdTime": f"{stored.created:%Y-%m-%dT%H:%M:%S}.{stored.created.microsecond // 1000:03d}",
        "format": stored.format,
        "content": stored.description,
        "digest": stored.digest,
    }
    if stored.modified > stored.created:
        attributes["modifiedBy"] = stored.created_by
        attributes["modifiedTime"] = f"{stored.modified:%Y-%m-%dT%H:%M:%S}.{stored.modified.microsecond // 1000:03d}"
    if dicom:
        attributes["instanceNumber"] = str(number)
        attributes["xsi:type"] = "cat:dcmEntry"
    text = " ".join(f"{key}={quoteattr(value)}" for key, value in attributes.items() if value)
    inner = ""
    if stored.has_size and stored.size is not None:
        inner = f'\n\t\t<cat:metaFields>\n\t\t\t<cat:metaField name="SIZE">{stored.size}</cat:metaField>\n'
        inner += "\t\t</cat:metaFields>"
    if stored.tags:
        inner += (
            "\n\t\t<cat:tags>" + "".join(f"<cat:tag>{escape(tag)}</cat:tag>" for tag in stored.tags) + "</cat:tags>"
        )
    return f"\t<cat:entry {text}>{inner}\n\t</cat:entry>" if inner else f"\t<cat:entry {text}/>"
