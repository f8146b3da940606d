"""The XML schemas that xnatpy builds its classes from, and the tables of searchable types: as little as it needs.

Spelled as xnatpy matches them: ``<xs:schema`` with ``xmlns:prefix="..."`` attributes (contract 12.2).
"""

from __future__ import annotations

from xnatfs.demo import kinds
from xnatfs.demo.ask import Answer
from xnatfs.demo.tables import Table

NAMES = ("xdat", "xnat")

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<xs:schema targetNamespace="http://nrg.wustl.edu/{name}" xmlns:{name}="http://nrg.wustl.edu/{name}" '
    'xmlns:xdat="http://nrg.wustl.edu/security" xmlns:xs="http://www.w3.org/2001/XMLSchema" '
    'elementFormDefault="qualified" attributeFormDefault="unqualified">\n'
)

_XDAT = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<xs:schema targetNamespace="http://nrg.wustl.edu/security" xmlns:xdat="http://nrg.wustl.edu/security" '
    'xmlns:xs="http://www.w3.org/2001/XMLSchema"/>\n'
)


def _element(name: str, kind: str, many: bool = False) -> str:
    return f'<xs:element name="{name}" type="{kind}" minOccurs="0"{_unbounded(many)}/>'


def _unbounded(many: bool) -> str:
    return ' maxOccurs="unbounded"' if many else ""


def _texts(names: str) -> str:
    return "".join(_element(name, "xs:string") for name in names.split())


def _attributes(names: str) -> str:
    return "".join(f'<xs:attribute name="{name}" type="xs:string"/>' for name in names.split())


def _list(outer: str, inner: str, kind: str) -> str:
    return (
        f'<xs:element name="{outer}" minOccurs="0"><xs:complexType><xs:sequence>{_element(inner, kind, True)}'
        "</xs:sequence></xs:complexType></xs:element>"
    )


_BY_LABEL = '<xs:annotation><xs:appinfo><xdat:element displayIdentifiers="label"/></xs:appinfo></xs:annotation>'


def _type(name: str, elements: str, attributes: str = "", base: str = "", labelled: bool = False) -> str:
    note = _BY_LABEL if labelled else ""
    inner = f"<xs:sequence>{elements}</xs:sequence>{_attributes(attributes)}"
    if base:
        inner = f'<xs:complexContent><xs:extension base="xnat:{base}">{inner}</xs:extension></xs:complexContent>'
    return f'<xs:complexType name="{name}">{note}{inner}</xs:complexType>\n'


_RESOURCES = _list("resources", "resource", "xnat:abstractResource")
_CUSTOM = (
    '<xs:element name="fields" minOccurs="0"><xs:complexType><xs:sequence>'
    '<xs:element name="field" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:simpleContent>'
    '<xs:extension base="xs:string"><xs:attribute name="name" type="xs:string"/></xs:extension>'
    "</xs:simpleContent></xs:complexType></xs:element>"
    "</xs:sequence></xs:complexType></xs:element>"
)


def _xnat() -> str:
    demographics = (
        "dob yob age gender handedness ses education educationDesc race ethnicity weight height gestational_age "
        "post_menstrual_age birth_weight"
    )
    scan = _texts("quality series_description documentation condition scanner modality frames note")
    types = [
        _type("projectData", _texts("name description keywords") + _RESOURCES, "ID secondary_ID"),
        _type("abstractDemographicData", ""),
        _type("demographicData", _texts(demographics), base="abstractDemographicData"),
        _type(
            "subjectData",
            _element("demographics", "xnat:abstractDemographicData")
            + _RESOURCES
            + _list("experiments", "experiment", "xnat:subjectAssessorData")
            + _CUSTOM,
            "ID label project group src",
            labelled=True,
        ),
        _type("experimentData", _texts("date time note") + _RESOURCES + _CUSTOM, "ID label project", labelled=True),
        _type("subjectAssessorData", _texts("subject_ID age"), base="experimentData"),
        _type("subjectVariablesData", "", base="subjectAssessorData"),
        _type(
            "imageSessionData",
            _list("scans", "scan", "xnat:imageScanData")
            + _list("reconstructions", "reconstructedImage", "xnat:reconstructedImageData")
            + _list("assessors", "assessor", "xnat:imageAssessorData")
            + _texts("scanner operator modality dcmPatientId dcmPatientName session_type"),
            "UID",
            base="subjectAssessorData",
        ),
        _type("mrSessionData", _texts("coil fieldStrength marker stabilization"), base="imageSessionData"),
        _type("petSessionData", _texts("studyType tracer_name"), base="imageSessionData"),
        _type("ctSessionData", "", base="imageSessionData"),
        _type("otherDicomSessionData", "", base="imageSessionData"),
        _type("derivedData", "", base="experimentData"),
        _type(
            "imageAssessorData",
            _element("imageSession_ID", "xs:string")
            + _list("in", "file", "xnat:abstractResource")
            + _list("out", "file", "xnat:abstractResource"),
            base="derivedData",
        ),
        _type("qcManualAssessorData", _texts("rater stereotacticMarker"), base="imageAssessorData"),
        _type("qcAssessmentData", "", base="imageAssessorData"),
        _type("imageScanData", scan + _list_flat("file"), "ID type UID image_session_ID"),
        _type("mrScanData", _texts("coil fieldStrength marker stabilization"), base="imageScanData"),
        _type("petScanData", "", base="imageScanData"),
        _type("ctScanData", "", base="imageScanData"),
        _type("otherDicomScanData", "", base="imageScanData"),
        _type(
            "reconstructedImageData",
            _texts("type baseScanType")
            + _list("in", "file", "xnat:abstractResource")
            + _list("out", "file", "xnat:abstractResource"),
            "ID",
        ),
        _type("abstractResource", _texts("note"), "label file_count file_size", labelled=True),
        _type("resource", "", "URI format content", base="abstractResource"),
        _type("resourceCatalog", "", base="resource"),
    ]
    names = {
        "Project": "projectData",
        "Subject": "subjectData",
        "MRSession": "mrSessionData",
        "PETSession": "petSessionData",
        "CTSession": "ctSessionData",
        "OtherDicomSession": "otherDicomSessionData",
        "SubjectVariables": "subjectVariablesData",
        "QCManualAssessment": "qcManualAssessorData",
        "QCAssessment": "qcAssessmentData",
        "MRScan": "mrScanData",
        "PETScan": "petScanData",
        "CTScan": "ctScanData",
        "OtherDicomScan": "otherDicomScanData",
        "ResourceCatalog": "resourceCatalog",
        "demographicData": "demographicData",
    }
    elements = "".join(f'<xs:element name="{name}" type="xnat:{kind}"/>\n' for name, kind in names.items())
    return _HEAD.format(name="xnat") + elements + "".join(types) + "</xs:schema>\n"


def _list_flat(name: str) -> str:
    return _element(name, "xnat:abstractResource", True)


def schema(name: str) -> Answer | None:
    text = {"xdat": _XDAT, "xnat": _xnat()}.get(name.removesuffix(".xsd").rsplit("/", 1)[-1])
    return None if text is None else Answer(text.encode(), type="application/xml")


def elements(counts: dict[str, int]) -> Table:
    """``/data/search/elements``: the types that can be searched for."""
    headers = ["ELEMENT_NAME", "SINGULAR", "PLURAL", "SECURED", "COUNT"]
    secured = [name for name in kinds.SINGULAR if not kinds.is_a(name, "xnat:imageScanData")]
    rows = [
        (name, kinds.SINGULAR[name], kinds.SINGULAR[name] + "s", "true", str(counts.get(name, 0))) for name in secured
    ]
    return Table(headers, rows, {"totalRecords": str(len(rows)), "title": "Data-Types"})


def fields(name: str) -> Table | None:
    """``/data/search/elements/{name}``: what can be asked about a type; None for an unknown one."""
    if name not in kinds.PARENTS:
        return None
    headers = ["FIELD_ID", "HEADER", "SUMMARY", "TYPE", "REQUIRES_VALUE", "DESC", "ELEMENT_NAME", "SRC"]
    rows = [
        (field, field.title(), f"{name}.{field}", "string", "false", "", name, "0")
        for field in ("ID", "LABEL", "PROJECT", "INSERT_DATE")
    ]
    return Table(headers, rows, {"totalRecords": str(len(rows)), "title": "Search Fields"})
