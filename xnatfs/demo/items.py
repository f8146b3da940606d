"""One project, subject, experiment, assessor, scan or reconstruction as a document (contract 6)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from xnatfs.demo import pages
from xnatfs.demo.ask import ITEM_VARIANTS, Answer, Ask, json_answer
from xnatfs.demo.model import Assessor, Experiment, Item, Labelled, Project, Reconstruction, Resource, Scan, Subject
from xnatfs.demo.resolve import Viewer

Node = dict[str, Any]

_DEMOGRAPHICS = [
    "dob",
    "yob",
    "age",
    "gender",
    "handedness",
    "ses",
    "education",
    "educationDesc",
    "race",
    "ethnicity",
    "weight",
    "height",
    "gestational_age",
    "post_menstrual_age",
    "birth_weight",
]
_INTEGERS = {"yob", "age", "education", "frames"}
_FLOATS = {"parameters/tr", "parameters/te", "weight", "height", "dcmPatientWeight"}


def answer(ask: Ask, item: Item, viewer: Viewer) -> Answer:
    """HTML unless ``format`` asks for more; a client that accepts only JSON gets 406 (contract 0.3)."""
    ask.require(ITEM_VARIANTS)
    wanted = ask.get("format").lower()
    if wanted in ("json", "application/json"):
        return json_answer({"items": [node(item, viewer)]})
    if wanted in ("xml", "text/xml"):
        return Answer(xml(item), type="text/xml", chunked=True)
    return Answer(pages.item(item.id), type="text/html", chunked=True)


def _java_date(moment: datetime) -> str:
    return f"{moment:%a %b %d %H:%M:%S} UTC {moment:%Y}"


def _node(kind: str, fields: dict[str, Any], children: list[Node], changed: datetime | None = None) -> Node:
    meta: dict[str, Any] = {"isHistory": False, "xsi:type": kind}
    if changed is not None:
        meta["create_event_id"] = 18
        meta["start_date"] = _java_date(changed)
    return {"meta": meta, "data_fields": fields, "children": children}


def _native(name: str, value: str) -> Any:
    try:
        if name in _INTEGERS:
            return int(value)
        return float(value) if name in _FLOATS else value
    except ValueError:
        return value


def _typed(item: Item, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: _native(name, value) for name, value in item.fields.items() if name not in leave and value != ""}


def _child(field: str, items: list[Node]) -> list[Node]:
    return [{"field": field, "items": items}] if items else []


def node(item: Item, viewer: Viewer) -> Node:
    """The item with everything below it that the viewer may read."""
    if isinstance(item, Project):
        return _project(item)
    if isinstance(item, Subject):
        return _subject(item, viewer)
    if isinstance(item, Experiment):
        return _experiment(item, viewer)
    if isinstance(item, Assessor):
        return _assessor(item)
    if isinstance(item, Scan):
        return _scan(item)
    assert isinstance(item, Reconstruction)
    fields = {
        "ID": item.id,
        "xnat_reconstructedimagedata_id": item.number,
        "image_session_ID": item.session.id,
        **_typed(item),
    }
    return _node(item.xsi_type, fields, _directions(item), item.modified)


def _project(item: Project) -> Node:
    fields = {"ID": item.id, "secondary_ID": item.fields.get("secondary_ID", item.id), "name": item.name}
    fields.update(_typed(item, ("pi_firstname", "pi_lastname")))
    children = _child("resources/resource", _resources(item))
    pi = {key[3:]: item.fields[key] for key in ("pi_firstname", "pi_lastname") if item.fields.get(key)}
    if pi:
        children += _child("PI", [_node("xnat:investigatorData", pi, [])])
    return _node(item.xsi_type, fields, children, item.modified)


def _labelled(item: Labelled) -> tuple[dict[str, Any], list[Node]]:
    fields: dict[str, Any] = {"ID": item.id, "project": item.project.id, "label": item.label}
    kind = "xnat:subjectData" if isinstance(item, Subject) else "xnat:experimentData"
    shares = [
        _node(f"{kind}_share", {"project": project, "label": label}, [], item.modified)
        for project, label in item.shares.items()
    ]
    custom = [_node(f"{kind}_field", {"name": name, "field": value}, []) for name, value in item.custom.items()]
    return fields, _child("sharing/share", shares) + _child("fields/field", custom)


def _subject(item: Subject, viewer: Viewer) -> Node:
    fields, children = _labelled(item)
    fields.update(_typed(item, tuple(_DEMOGRAPHICS)))
    known = {name: _native(name, item.fields[name]) for name in _DEMOGRAPHICS if item.fields.get(name)}
    if known:
        children += _child("demographics", [_node("xnat:demographicData", known, [], item.modified)])
    readable = [e for e in viewer.archive.experiments_of(item) if viewer.reads_item(e)]
    children += _child("experiments/experiment", [_experiment(e, viewer) for e in readable])
    children += _child("resources/resource", _resources(item))
    return _node(item.xsi_type, fields, children, item.modified)


def _experiment(item: Experiment, viewer: Viewer) -> Node:
    fields, children = _labelled(item)
    fields["subject_ID"] = item.subject.id
    fields.update(_typed(item))
    children += _child("scans/scan", [_scan(scan) for scan in tuple(item.scans.values())])
    recons = [node(recon, viewer) for recon in tuple(item.reconstructions.values())]
    children += _child("reconstructions/reconstructedImage", recons)
    readable = [a for a in tuple(item.assessors.values()) if viewer.reads_item(a)]
    children += _child("assessors/assessor", [_assessor(a) for a in readable])
    children += _child("resources/resource", _resources(item))
    return _node(item.xsi_type, fields, children, item.modified)


def _assessor(item: Assessor) -> Node:
    fields, children = _labelled(item)
    fields["imageSession_ID"] = item.session.id
    fields.update(_typed(item))
    children += _child("resources/resource", _resources(item, "")) + _directions(item)
    return _node(item.xsi_type, fields, children, item.modified)


def _directions(item: Item) -> list[Node]:
    return _child("out/file", _resources(item, "out")) + _child("in/file", _resources(item, "in"))


def _scan(item: Scan) -> Node:
    fields = {
        "ID": item.id,
        "xnat_imagescandata_id": item.number,
        "image_session_ID": item.session.id,
        **_typed(item),
    }
    return _node(item.xsi_type, fields, _child("file", _resources(item)), item.modified)


def _resources(item: Item, direction: str = "") -> list[Node]:
    return [_resource(r) for r in tuple(item.resources.values()) if r.direction == direction]


def _resource(resource: Resource) -> Node:
    fields: dict[str, Any] = {
        "xnat_abstractresource_id": resource.number,
        "URI": f"/data/xnat/archive/resources/{resource.number}/{resource.label or resource.number}_catalog.xml",
    }
    for name in ("label", "format", "content"):
        if getattr(resource, name):
            fields[name] = getattr(resource, name)
    if resource.counted:
        fields["file_count"] = int(resource.file_count)
        fields["file_size"] = int(resource.file_size)
    return _node("xnat:resourceCatalog", fields, [], resource.changed)


_ELEMENTS = {
    "xnat:projectData": "xnat:Project",
    "xnat:subjectData": "xnat:Subject",
    "xnat:mrSessionData": "xnat:MRSession",
    "xnat:petSessionData": "xnat:PETSession",
    "xnat:ctSessionData": "xnat:CTSession",
    "xnat:mrScanData": "xnat:MRScan",
    "xnat:petScanData": "xnat:PETScan",
    "xnat:ctScanData": "xnat:CTScan",
    "xnat:qcManualAssessorData": "xnat:QCManualAssessment",
    "xnat:qcAssessmentData": "xnat:QCAssessment",
}


def xml(item: Item) -> bytes:
    """The item itself with its scalar fields; relations only as far as scans and resources."""
    element = _ELEMENTS.get(item.xsi_type, item.xsi_type.removesuffix("Data"))
    attributes = f"ID={quoteattr(item.id)}"
    if isinstance(item, Labelled):
        attributes += f" project={quoteattr(item.project.id)} label={quoteattr(item.label)}"
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<{element} {attributes} xmlns:xnat="http://nrg.wustl.edu/xnat" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">',
    ]
    for name, value in item.fields.items():
        tag = name.replace("/", "_")
        lines.append(f"<xnat:{tag}>{escape(value)}</xnat:{tag}>")
    if isinstance(item, Experiment):
        lines.append("<xnat:scans>")
        lines.extend(
            f"<xnat:scan ID={quoteattr(scan.id)} xsi:type={quoteattr(scan.xsi_type)}/>"
            for scan in tuple(item.scans.values())
        )
        lines.append("</xnat:scans>")
    lines.append(f"</{element}>")
    return "\n".join(lines).encode()
