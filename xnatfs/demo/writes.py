"""PUT, POST and DELETE below ``/data`` (contract 8), as far as clients use them. Changes are in memory only."""

from __future__ import annotations

import html
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from xnatfs.demo import kinds
from xnatfs.demo.archive import Archive
from xnatfs.demo.ask import Answer, Ask, Refusal, text
from xnatfs.demo.files import item_uri, stored_path
from xnatfs.demo.model import Experiment, Item, Labelled, Project, Resource, Subject
from xnatfs.demo.resolve import PARTS, Resolver, split_files

_UPLOADS = re.compile(
    r"application/(octet-stream|xml|dicom|zip|x-zip.*|x-tar|gzip|x-gzip|pdf|x-gtar)|text/(plain|xml|csv)|image/.*"
)
"""Content types that are taken as a file in the body without ``inbody=true``; JSON and HTML are not among them."""

_NO_BODY = "In-body File posts must include the file directly as the body of the message."


def answer(ask: Ask, rest: str, resolver: Resolver, *, silent_denied_put: bool) -> Answer:
    """Do what the request says (raises Refusal). ``rest`` is the raw path below ``/data``."""
    head, has_files, path = split_files(rest)
    if has_files:
        if ask.method == "DELETE":
            return _delete_files(resolver, head, stored_path(path))
        return _put_files(ask, resolver, head, stored_path(path), silent_denied_put)
    if ask.method == "DELETE":
        return _delete(resolver, rest)
    return _put(ask, resolver, [word for word in rest.split("/") if word])


# files ----------------------------------------------------------------------------------------------------------------


def _put_files(ask: Ask, resolver: Resolver, head: str, path: str, silent: bool) -> Answer:
    where = resolver.resolve(head)
    if where.kind != "resource" or where.item is None:
        raise Refusal(404)
    chosen = resolver.resources(where)
    item = chosen[0].parent if chosen else where.item
    if not resolver.viewer.edits(item):
        if silent:
            return text("")  # XNAT has no else branch there: 200, and nothing is stored (contract 8.2)
        raise Refusal(403)
    uploads = list(_uploads(ask, path))
    if ask.true("extract"):
        uploads = [member for name, data in uploads for member in _extracted(name, data)]
    if any(name.endswith("_catalog.xml") for name, _ in uploads):
        raise Refusal(500, "XNAT cannot catalog catalogs.")
    archive = resolver.archive
    resource = chosen[0] if chosen else _new_resource(archive, where.item, where.selector or "", where.direction or "")
    duplicates = [name for name, _ in uploads if name in resource.files]
    if duplicates and not ask.true("overwrite"):
        body = json.dumps({"duplicates": duplicates}, separators=(",", ":"))
        return Answer(body.encode(), type="text/html")
    for name in ("format", "content"):
        if ask.has(name):
            setattr(resource, name, html.escape(ask.get(name)))  # the upload's values relabel the whole resource
    for name, data in uploads:
        tags = tuple(tag for tag in ask.get("tags").split(",") if tag)
        archive.add_file(
            resource,
            name,
            data,
            format=ask.get("format"),
            description=ask.get("content"),
            tags=tags,
            user=ask.user or "guest",
        )
    return text("")


def _new_resource(archive: Archive, item: Item, selector: str, direction: str) -> Resource:
    if selector.isdigit():
        raise Refusal(404)
    return archive.add_resource(item, unquote(selector), direction=direction)


def _uploads(ask: Ask, path: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file that a request brings."""
    kind = ask.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind == "multipart/form-data":
        for part in ask.parts:
            yield path or part.filename, part.data
    elif kind == "application/x-www-form-urlencoded" and not ask.true("inbody"):
        raise Refusal(500)
    elif ask.true("inbody") or _UPLOADS.fullmatch(kind):
        if not ask.body or ("content-length" not in ask.headers and kind != "application/zip"):
            raise Refusal(500, _NO_BODY)
        yield path, ask.body
    else:
        raise Refusal(400)


def _extracted(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of an uploaded archive; they go to the root of the resource."""
    if name.endswith((".tar", ".tgz", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(data)) as packed:
            for info in packed:
                file = packed.extractfile(info) if info.isfile() else None
                if file is not None:
                    yield info.name.removeprefix("./"), file.read()
        return
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        for member in zipped.infolist():
            if not member.is_dir():
                yield member.filename, zipped.read(member)


def _delete_files(resolver: Resolver, head: str, path: str) -> Answer:
    """Every entry that begins with the path goes: there is no exact form (contract 8.3)."""
    where = resolver.resolve(head)
    chosen = resolver.resources(where)
    if not chosen:
        raise Refusal(400)
    if not resolver.viewer.deletes(chosen[0].parent):
        raise Refusal(403)
    prefix = path.rstrip("*")
    found = [(r, name) for r in chosen for name in tuple(r.files) if name.startswith(prefix)]
    if not found:
        raise Refusal(404, "No matched files")
    for resource, name in found:
        resolver.archive.delete_file(resource, name)
    return text("")


# items ----------------------------------------------------------------------------------------------------------------


def _delete(resolver: Resolver, rest: str) -> Answer:
    where = resolver.resolve(rest)
    archive, viewer = resolver.archive, resolver.viewer
    if where.kind == "resource":
        for resource in resolver.resources(where):
            if not viewer.deletes(resource.parent):
                raise Refusal(403)
            archive.delete(resource)
        return text("")
    item = where.item
    if item is None or where.kind in ("missing", "resources", *PARTS):
        raise Refusal(404 if item is None or where.kind == "missing" else 405)
    if not viewer.deletes(where.project or item):
        raise Refusal(403)
    other = where.project
    if isinstance(item, Labelled) and other is not None and other is not item.project and other.id in item.shares:
        archive.unshare(item, other)
    else:
        archive.delete(item)
    return text("")


def _put(ask: Ask, resolver: Resolver, words: list[str]) -> Answer:
    parent = "/" + "/".join(words[:-2])
    route, name = (words[-2], unquote(words[-1])) if len(words) > 1 else ("", "")
    if route == "projects" and len(words) == 2:
        return _put_project(ask, resolver, name)
    if route == "projects":
        return _share(ask, resolver, parent, name)
    if route == "resources" or words[-1:] == ["resources"]:
        return _put_resource(ask, resolver, words)
    if route == "subjects" and len(words) == 4:
        project = resolver.resolve(parent).project
        assert project is not None
        return _put_subject(ask, resolver, project, name)
    if route == "experiments" and len(words) == 6:
        return _put_experiment(ask, resolver, words, name)
    if route in PARTS:
        return _put_part(ask, resolver, parent, route, name)
    raise Refusal(405)


def _put_project(ask: Ask, resolver: Resolver, name: str) -> Answer:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise Refusal(417, "Invalid character in project ID.")
    archive = resolver.archive
    existing = archive.projects.get(name)
    if existing is None:
        if any(name.lower() in (p.id.lower(), p.name.lower()) for p in tuple(archive.projects.values())):
            raise Refusal(409)
        access = ask.get("accessibility", "private")
        archive.add_project(name, ask.get("name"), access=access, members={ask.user or "": "Owners"})
    elif not resolver.viewer.edits(existing):
        raise Refusal(403)
    return text("")


def _values(ask: Ask) -> dict[str, str]:
    """The fields that a query sets, by their last word, escaped as XNAT stores them."""
    skip = {"xsiType", "label", "format", "req_format", "event_reason", "ID", "project"}
    last = ((key.rsplit("/", 1)[-1], html.escape(value)) for key, value in ask.query)
    return {key: value for key, value in last if key not in skip}


def _put_subject(ask: Ask, resolver: Resolver, project: Project, name: str) -> Answer:
    if not resolver.viewer.edits(project):
        raise Refusal(403)
    existing = resolver.find_subject(project, name)
    if existing is not None:
        return _update(ask, resolver, existing, project)
    return text(resolver.archive.add_subject(project, name, custom=None, **_values(ask)).id, 201)


def _update(ask: Ask, resolver: Resolver, item: Subject | Experiment, project: Project) -> Answer:
    label, archive = ask.get("label"), resolver.archive
    siblings: tuple[Labelled, ...]
    siblings = archive.subjects_of(project) if isinstance(item, Subject) else archive.experiments_of(project)
    if label and label != item.label_in(project.id):
        if any(other is not item and other.label_in(project.id) == label for other in siblings):
            raise Refusal(409)
        archive.rename(item, label, project.id)
        return text("")
    item.fields.update(_values(ask))
    archive.touch(item)
    return text(item.id)


def _put_experiment(ask: Ask, resolver: Resolver, words: list[str], name: str) -> Answer:
    project = resolver.resolve("/" + "/".join(words[:2])).project
    assert project is not None
    if not resolver.viewer.edits(project):
        raise Refusal(403)
    archive = resolver.archive
    subject = resolver.find_subject(project, unquote(words[3]))
    known = [e for e in archive.experiments_of(project) if name in (e.id, e.label_in(project.id))]
    if known and known[0].subject is not subject:
        raise Refusal(409)
    if known:
        return _update(ask, resolver, known[0], project)
    kind = ask.get("xsiType")
    if not kind:
        raise Refusal(417, "Need PUT Contents")
    subject = subject or archive.add_subject(project, unquote(words[3]))
    return text(archive.add_session(subject, name, kind, project=project, custom=None, **_values(ask)).id, 201)


def _put_part(ask: Ask, resolver: Resolver, parent: str, part: str, name: str) -> Answer:
    session = resolver.resolve(parent).experiment
    if not isinstance(session, Experiment):
        raise Refusal(404)
    if not resolver.viewer.edits(session):
        raise Refusal(403)
    archive, kind, values = resolver.archive, ask.get("xsiType"), _values(ask)
    if part == "scans":
        scan = session.scans.get(name)
        if scan is None:
            if not kinds.is_a(kind or "xnat:mrScanData", "xnat:imageScanData") or kind == "xnat:imageScanData":
                raise Refusal(400)
            archive.add_scan(session, name, kind or "xnat:mrScanData", **values)
        elif kind and kind != scan.xsi_type:
            raise Refusal(409)
        else:
            scan.fields.update(values)
            archive.touch(scan)
        return text("")
    if part == "reconstructions":
        if name not in session.reconstructions:
            archive.add_reconstruction(session, name, **values)
        return text("")
    known = [a for a in tuple(session.assessors.values()) if name in (a.id, a.label)]
    if known:
        return text(known[0].id)
    if not kind:
        raise Refusal(417, "Need PUT Contents")
    return text(archive.add_assessor(session, name, kind, **values).id, 201)


def _put_resource(ask: Ask, resolver: Resolver, words: list[str]) -> Answer:
    where = resolver.resolve("/" + "/".join(words))
    if where.item is None or where.kind not in ("resource", "resources"):
        raise Refusal(404)
    if not resolver.viewer.edits(where.item):
        raise Refusal(403)
    if where.kind == "resource" and resolver.resources(where):
        raise Refusal(409, "Specified resource already exists.")
    resource = _new_resource(resolver.archive, where.item, where.selector or ask.get("label"), where.direction or "")
    resource.format, resource.content = html.escape(ask.get("format")), html.escape(ask.get("content"))
    resource.tags = html.escape(ask.get("tags"))
    if where.kind == "resource":
        return text("")
    return text(f"{item_uri(resource)}/resources/{resource.number}")


def _share(ask: Ask, resolver: Resolver, parent: str, name: str) -> Answer:
    where = resolver.resolve(parent)
    item, target = where.experiment or where.subject, resolver.archive.projects.get(name)
    if item is None or target is None:
        raise Refusal(404)
    if not (resolver.viewer.edits(item) and resolver.viewer.edits(target)):
        raise Refusal(403)
    if ask.true("primary"):
        item.project = target
        item.shares.pop(target.id, None)
        resolver.archive.touch(item)
    elif item.is_in(target.id):
        raise Refusal(409)
    else:
        resolver.archive.share(item, target, ask.get("label"))
    return text("")
