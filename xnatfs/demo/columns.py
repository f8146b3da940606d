"""Which columns each listing has, and how a cell is read. Pure.

The rows of the project-wide listings are joins: one row per item and resource, or per session, scan and resource;
an item without any still has its row, with empty cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xnatfs.demo import kinds
from xnatfs.demo.model import Assessor, Experiment, Labelled, Resource, Scan, Subject
from xnatfs.demo.tables import Columns, Getter, timestamp


@dataclass
class Row:
    """What one row of a listing is about. ``view`` is the project through which it is seen."""

    item: Any
    view: str | None = None
    resource: Resource | None = None
    scan: Scan | None = None
    scan_file: Resource | None = None


def field_of(name: str) -> Getter:
    return lambda row: row.item.fields.get(name, "")


def _fields(names: str) -> dict[str, Getter]:
    return {name: field_of(name) for name in names.split()}


_COMMON: dict[str, Getter] = {
    "ID": lambda row: row.item.id,
    "insert_date": lambda row: timestamp(row.item.inserted),
    "insert_user": lambda _: "admin",
    "last_modified": lambda row: timestamp(row.item.modified),
}

_RESOURCE_CELLS: dict[str, Any] = {
    "label": lambda resource: resource.label,
    "xnat_abstractresource_id": lambda resource: str(resource.number),
    "file_count": lambda resource: resource.file_count,
    "file_size": lambda resource: resource.file_size,
    "format": lambda resource: resource.format,
    "content": lambda resource: resource.content,
    "uri": lambda resource: f"/data/xnat/archive/resource_{resource.number}_catalog.xml",
}


def _resource_paths(prefix: str, attribute: str) -> dict[str, Getter]:
    def cell(read: Any) -> Getter:
        return lambda row: "" if getattr(row, attribute) is None else read(getattr(row, attribute))

    return {f"{prefix}/{name}": cell(read) for name, read in _RESOURCE_CELLS.items()}


def _own_paths(kind: str, shortcuts: dict[str, Getter]) -> dict[str, Getter]:
    """Every shortcut as an XPath of the type and what it extends (``xnat:mrsessiondata/fieldstrength``)."""
    paths = {}
    for ancestor in kinds.ancestors(kind):
        for name, getter in shortcuts.items():
            paths[f"{ancestor}/{name}".lower()] = getter
        paths[f"{ancestor}/meta/last_modified".lower()] = shortcuts.get("last_modified", _COMMON["last_modified"])
    return paths


def _listing_resources(kind: str) -> dict[str, Getter]:
    paths: dict[str, Getter] = {}
    for ancestor in kinds.ancestors(kind):
        paths.update(_resource_paths(f"{ancestor.lower()}/resources/resource", "resource"))
    return paths


# projects -------------------------------------------------------------------------------------------------------------

_PROJECT: dict[str, Getter] = {
    "ID": _COMMON["ID"],
    "secondary_ID": lambda row: row.item.fields.get("secondary_ID", row.item.id),
    "name": lambda row: row.item.name,
    **_fields("description keywords alias pi_firstname pi_lastname note"),
}


def projects(resources: bool) -> Columns:
    """``resources``: whether this server can join resources into the listing."""
    paths = _own_paths("xnat:projectData", _PROJECT)
    if resources:
        paths.update(_listing_resources("xnat:projectData"))
    return Columns(
        _PROJECT,
        ("ID", "secondary_ID", "name", "description", "pi_firstname", "pi_lastname"),
        ("ID", "URI"),
        paths,
        {"URI": lambda row: f"/data/projects/{row.item.id}"},
    )


# subjects -------------------------------------------------------------------------------------------------------------

_SUBJECT: dict[str, Getter] = {
    **_COMMON,
    "project": lambda row: row.item.project.id,
    "label": lambda row: row.item.label_in(row.view),
    **_fields(
        "group src pi_firstname pi_lastname dob yob age gender handedness ses education educationDesc race ethnicity "
        "weight height gestational_age post_menstrual_age birth_weight"
    ),
}


def subjects(resources: bool) -> Columns:
    paths = _own_paths("xnat:subjectData", _SUBJECT)
    if resources:
        paths.update(_listing_resources("xnat:subjectData"))
    return Columns(
        _SUBJECT,
        ("ID", "project", "label", "insert_date", "insert_user"),
        ("ID", "URI"),
        paths,
        {"URI": lambda row: f"/data/subjects/{row.item.id}"},
    )


# experiments and assessors --------------------------------------------------------------------------------------------


def _subject(row: Row) -> Subject | None:
    item = row.item.session if isinstance(row.item, Assessor) else row.item
    return item.subject if isinstance(item, Experiment) else None


def _session(row: Row) -> Experiment:
    return row.item.session if isinstance(row.item, Assessor) else row.item


def _of_subject(attribute: str) -> Getter:
    def cell(row: Row) -> str:
        subject = _subject(row)
        if subject is None:
            return ""
        if attribute == "label":
            return subject.label_in(row.view)
        return subject.project.id if attribute == "project" else subject.id

    return cell


def _project(row: Row) -> str:
    item: Labelled = row.item
    return row.view if row.view in item.shares else item.project.id


_EXPERIMENT: dict[str, Getter] = {
    **_COMMON,
    "project": _project,
    "label": lambda row: row.item.label_in(row.view),
    "xsiType": lambda row: row.item.xsi_type,
    **_fields(
        "visit_id visit protocol date time note pi_firstname pi_lastname validation_method validation_status "
        "validation_date validation_notes"
    ),
}
_SUBJECT_ASSESSOR: dict[str, Getter] = {
    "subject_ID": _of_subject("id"),
    "subject_label": _of_subject("label"),
    "subject_project": _of_subject("project"),
}
_IMAGE_SESSION: dict[str, Getter] = _fields(
    "scanner operator dcmAccessionNumber dcmPatientId dcmPatientName session_type modality UID studyInstanceUID coil "
    "fieldStrength marker stabilization studyType patientID patientName scan_start_time injection_start_time "
    "tracer_name tracer_startTime tracer_dose"
)
_OF_SESSION: dict[str, Getter] = {
    "session_ID": lambda row: _session(row).id,
    "session_label": lambda row: _session(row).label_in(row.view),
    "session_project": lambda row: _session(row).project.id,
}

_SCAN_CELLS: dict[str, Any] = {
    "id": lambda scan: scan.id,
    "xnat_imagescandata_id": lambda scan: str(scan.number),
    "xsitype": lambda scan: scan.xsi_type,
    "last_modified": lambda scan: timestamp(scan.modified),
    "type": lambda scan: scan.fields.get("type", ""),
    "quality": lambda scan: scan.fields.get("quality", ""),
    "frames": lambda scan: scan.fields.get("frames", ""),
    "series_description": lambda scan: scan.fields.get("series_description", ""),
    "note": lambda scan: scan.fields.get("note", ""),
    "uid": lambda scan: scan.fields.get("UID", ""),
    "modality": lambda scan: scan.fields.get("modality", ""),
    "condition": lambda scan: scan.fields.get("condition", ""),
}


def _scan_paths() -> dict[str, Getter]:
    def cell(read: Any) -> Getter:
        return lambda row: "" if row.scan is None else read(row.scan)

    return {f"xnat:imagescandata/{name}": cell(read) for name, read in _SCAN_CELLS.items()}


def experiments(root: str, *, resources: bool, default: tuple[str, ...] = ()) -> Columns:
    """The columns of a listing with that root type (`kinds.narrowed` has been asked)."""
    assessors = kinds.is_a(root, "xnat:imageAssessorData")
    shortcuts = {**_EXPERIMENT, **_OF_SESSION}
    if not assessors:
        shortcuts.update({**_SUBJECT_ASSESSOR, **_IMAGE_SESSION})
    paths = _own_paths(root, shortcuts)
    if not assessors:
        paths.update(_scan_paths())
        for ancestor in kinds.ancestors(root):
            paths[f"{ancestor}/subject_id".lower()] = _of_subject("id")
            paths[f"{ancestor}/sharing/share/project".lower()] = lambda row: ",".join(row.item.shares)
    if resources:
        paths.update(_listing_resources(root))
        paths.update(_resource_paths("xnat:imagescandata/file", "scan_file"))
    else:
        # Naming the resource in the scan query is older than asking for its counts there (contract 3.7).
        paths["xnat:imagescandata/file/label"] = lambda row: "" if row.scan_file is None else row.scan_file.label
    key = "session_ID" if root == "xnat:imageSessionData" else f"{root.lower()}/id"
    always = ["ID"]
    if root != "xnat:experimentData":
        always.append(key)
    if root in kinds.ROOT_ONLY:
        always.extend(("xsiType", "project"))
    return Columns(
        shortcuts,
        default or ("ID", "project", "date", "xsiType", "label", "insert_date"),
        (*always, "URI"),
        paths,
        {"URI": lambda row: f"/data/experiments/{row.item.id}", key: _COMMON["ID"]},
    )


# inside a session -----------------------------------------------------------------------------------------------------

_SCAN: dict[str, Getter] = {
    **_COMMON,
    "xnat_imagescandata_id": lambda row: str(row.item.number),
    "xsiType": lambda row: row.item.xsi_type,
    **_fields(
        "type UID note quality condition series_description documentation scanner modality frames validation_method "
        "validation_status scanTime coil fieldStrength marker stabilization orientation originalFileName systemType"
    ),
}


def scans() -> Columns:
    return Columns(
        _SCAN,
        ("xnat_imagescandata_id", "ID", "type", "quality", "xsiType", "note", "series_description"),
        ("xnat_imagescandata_id", "URI"),
        _own_paths("xnat:mrScanData", _SCAN),
        {"URI": lambda row: f"/data/experiments/{row.item.session.id}/scans/{row.item.id}"},
    )


_RECON: dict[str, Getter] = {
    "ID": _COMMON["ID"],
    "xnat_reconstructedimagedata_id": lambda row: str(row.item.number),
    "xsiType": lambda row: row.item.xsi_type,
    **_fields("type baseScanType"),
}


def reconstructions() -> Columns:
    return Columns(
        _RECON,
        ("xnat_reconstructedimagedata_id", "ID", "type", "baseScanType"),
        ("xnat_reconstructedimagedata_id", "URI"),
        _own_paths("xnat:reconstructedImageData", _RECON),
        {"URI": lambda row: f"/data/experiments/{row.item.session.id}/reconstructions/{row.item.id}"},
    )


# joins ----------------------------------------------------------------------------------------------------------------


def joined(rows: Iterable[Row], headers: Iterable[str]) -> Iterator[Row]:
    """The rows multiplied by the resources, scans and scan resources that the headers mention."""
    names = tuple(headers)
    by_resource = any("/resources/resource/" in name for name in names)
    by_scan_file = any(name.startswith("xnat:imagescandata/file/") for name in names)
    by_scan = by_scan_file or any(name.startswith("xnat:imagescandata/") for name in names)
    for row in rows:
        resources: tuple[Resource | None, ...] = (None,)
        if by_resource:
            resources = tuple(row.item.resources.values()) or (None,)
        scans: tuple[Scan | None, ...] = (None,)
        if by_scan and isinstance(row.item, Experiment):
            scans = tuple(row.item.scans.values()) or (None,)
        for resource in resources:
            for scan in scans:
                files: tuple[Resource | None, ...] = (None,)
                if by_scan_file and scan is not None:
                    files = tuple(scan.resources.values()) or (None,)
                for scan_file in files:
                    yield Row(row.item, row.view, resource, scan, scan_file)
