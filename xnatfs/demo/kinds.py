"""The data types this archive knows: which extends which, and what they are called. Pure."""

from __future__ import annotations

PARENTS = {
    "xnat:projectData": "",
    "xnat:subjectData": "",
    "xnat:experimentData": "",
    "xnat:subjectAssessorData": "xnat:experimentData",
    "xnat:subjectVariablesData": "xnat:subjectAssessorData",
    "xnat:imageSessionData": "xnat:subjectAssessorData",
    "xnat:mrSessionData": "xnat:imageSessionData",
    "xnat:petSessionData": "xnat:imageSessionData",
    "xnat:ctSessionData": "xnat:imageSessionData",
    "xnat:otherDicomSessionData": "xnat:imageSessionData",
    "xnat:derivedData": "xnat:experimentData",
    "xnat:imageAssessorData": "xnat:derivedData",
    "xnat:qcManualAssessorData": "xnat:imageAssessorData",
    "xnat:qcAssessmentData": "xnat:imageAssessorData",
    "xnat:imageScanData": "",
    "xnat:mrScanData": "xnat:imageScanData",
    "xnat:petScanData": "xnat:imageScanData",
    "xnat:ctScanData": "xnat:imageScanData",
    "xnat:otherDicomScanData": "xnat:imageScanData",
    "xnat:reconstructedImageData": "",
}

SINGULAR = {
    "xnat:projectData": "Project",
    "xnat:subjectData": "Subject",
    "xnat:subjectVariablesData": "Subject Variables",
    "xnat:mrSessionData": "MR Session",
    "xnat:petSessionData": "PET Session",
    "xnat:ctSessionData": "CT Session",
    "xnat:otherDicomSessionData": "Other Session",
    "xnat:qcManualAssessorData": "Manual QC",
    "xnat:qcAssessmentData": "Auto QC",
    "xnat:mrScanData": "MR Scan",
    "xnat:petScanData": "PET Scan",
    "xnat:ctScanData": "CT Scan",
    "xnat:otherDicomScanData": "Other Scan",
}

ROOT_ONLY = ("xnat:experimentData", "xnat:subjectAssessorData", "xnat:imageSessionData")
"""Types that are no registered data types themselves: listings of them always say each row's type."""

NARROWING = {
    "subject_ID": "xnat:subjectAssessorData",
    "subject_label": "xnat:subjectAssessorData",
    "subject_project": "xnat:subjectAssessorData",
    "modality": "xnat:imageSessionData",
    "UID": "xnat:imageSessionData",
    "scanner": "xnat:imageSessionData",
    "operator": "xnat:imageSessionData",
    "session_type": "xnat:imageSessionData",
    "dcmAccessionNumber": "xnat:imageSessionData",
    "dcmPatientId": "xnat:imageSessionData",
    "dcmPatientName": "xnat:imageSessionData",
    "session_ID": "xnat:imageSessionData",
    "session_label": "xnat:imageSessionData",
    "coil": "xnat:mrSessionData",
    "fieldStrength": "xnat:mrSessionData",
    "tracer_name": "xnat:petSessionData",
}
"""Columns that quietly restrict a listing to one type (contract 3.2)."""


def is_a(kind: str, root: str) -> bool:
    """Whether ``kind`` is ``root`` or extends it; types nobody knows extend nothing."""
    while kind:
        if kind == root:
            return True
        kind = PARENTS.get(kind, "")
    return False


def ancestors(kind: str) -> tuple[str, ...]:
    """``kind`` and what it extends, nearest first."""
    found = []
    while kind:
        found.append(kind)
        kind = PARENTS.get(kind, "")
    return tuple(found)


def narrowed(root: str, names: list[str]) -> str:
    """The root type of a listing after the columns and filters that belong to a subtype."""
    for name in names:
        kind = NARROWING.get(name)
        if kind is None and "/" in name:
            prefix = name.split("/", 1)[0].lower()
            kind = next((known for known in PARENTS if known.lower() == prefix), None)
            if kind is None or is_a(kind, "xnat:imageScanData"):
                continue
        if kind is not None and kind != root and is_a(kind, root):
            root = kind
    return root
