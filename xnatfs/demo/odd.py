"""The project ODD: every awkward name and shape that an archive can hold, one of each kind."""

from __future__ import annotations

from xnatfs.demo.archive import Archive
from xnatfs.demo.model import Experiment, Project, Resource, Subject

ODD_NAMES = (
    "plain.txt",
    "with space.txt",
    "two  spaces.txt",
    "trailing space ",
    "hash#tag.txt",
    "percent%.txt",
    "escaped%20name.txt",
    "escaped%23hash.txt",
    "plus+plus.txt",
    "question?.txt",
    "amper&sand.txt",
    "semi;colon.txt",
    "colon:name.txt",
    "back\\slash.txt",
    "single'quote.txt",
    'double"quote.txt',
    "comma,name.txt",
    "equals=name.txt",
    "at@name.txt",
    "brackets[1](2){3}.txt",
    "star*.txt",
    "pipe|name.txt",
    "less<greater>.txt",
    "tilde~.txt",
    "dollar$name.txt",
    "umlaut-\u00fc\u00f6\u00e4.txt",
    "decomposed-u\u0308.txt",
    "japanese-\u8133.txt",
    "emoji-\U0001f9e0.txt",
    ".hidden",
    "..two-dots",
    "...",
    "-dash-first.txt",
    "no_extension",
    "UPPER.TXT",
    "upper.txt",
    "long-" + "x" * 191 + ".txt",
    "folder/same.txt",
    "other/same.txt",
    "deep/er/and/deeper/file.txt",
    "sp ace/in fol der/file name.txt",
    "#folder/#file",
    "archive.zip/inside.txt",
)
"""Stored names of resource NAMES, each file holding its own name as UTF-8 text."""


def add_odd_project(archive: Archive) -> Project:
    """Build it. Files hold their own path, so that a mix-up shows."""
    project = archive.add_project("ODD", "Awkward names & shapes", members={"reader": "Collaborators"})
    subject = archive.add_subject(project, "odd subject #1")
    session = archive.add_session(subject, "odd subject #1", "xnat:mrSessionData", date="")
    _names(archive, session)
    _resources(archive, session)
    _scans(archive, session)
    _reserved(archive, project)
    return project


def _fill(archive: Archive, resource: Resource, *paths: str) -> None:
    for path in paths:
        archive.add_file(resource, path, f"{path}\n".encode())


def _names(archive: Archive, session: Experiment) -> None:
    scan = archive.add_scan(session, "1", type="NAMES", series_description="odd file names", quality="usable")
    _fill(archive, archive.add_resource(scan, "NAMES"), *ODD_NAMES)


def _resources(archive: Archive, session: Experiment) -> None:
    scan = archive.add_scan(session, "2", type="RESOURCES", series_description="", quality="usable")
    _fill(archive, archive.add_resource(scan, ""), "no label.txt")
    _fill(archive, archive.add_resource(scan, "TWICE"), "first.txt", "both.txt")
    _fill(archive, archive.add_resource(scan, "TWICE"), "second.txt", "both.txt")
    archive.add_resource(scan, "EMPTY")
    never = archive.add_resource(scan, "NEVER_COUNTED")
    never.counted = False
    _fill(archive, never, "a.txt")
    bare = archive.add_resource(scan, "BARE")
    _fill(archive, bare, "no-digest.txt", "no-size.txt", "neither.txt", "gone.txt")
    for path in ("no-digest.txt", "neither.txt"):
        bare.files[path].has_digest = False
    for path in ("no-size.txt", "neither.txt"):
        bare.files[path].has_size = False
    bare.files["gone.txt"].missing = True
    archive.add_file(bare, "zero-bytes.dat", b"")
    _fill(archive, archive.add_resource(scan, "spaced label"), "a.txt")
    _fill(archive, archive.add_resource(scan, "label.with+signs&more"), "a.txt")
    _fill(archive, archive.add_resource(scan, "in"), "a.txt")
    tagged = archive.add_resource(scan, "TAGGED", format="TXT", content="NOTES", tags="x,y")
    archive.add_file(tagged, "a.txt", b"tagged\n", format="TXT", description="NOTES", tags=("k=v", "blue"))
    _fill(archive, archive.add_resource(session, "resources"), "resources.txt")
    _fill(archive, archive.add_resource(session, ".xnat"), "x.txt")


def _scans(archive: Archive, session: Experiment) -> None:
    for id, kind in (
        ("3", "LOCALIZER"),
        ("3-MR2", "LOCALIZER"),
        ("OT1", "secondary"),
        ("0-OT1", ""),
        ("10", r"*a^wk.ward/ scan\type%?~@&amp;"),
        ("9", "T1_ALFA1 "),
        ("mpr 1", "CBF:Feb 16 2023"),
    ):
        scan = archive.add_scan(session, id, type=kind, series_description=kind, quality="unknown")
        _fill(archive, archive.add_resource(scan, "secondary"), f"scan {id}.txt")
    archive.add_scan(session, "resources", type="T1", quality="usable")
    archive.add_scan(session, "11", type="no resource at all", quality="unusable")


def _reserved(archive: Archive, project: Project) -> None:
    """Labels that mean something else in a path or a directory."""
    for label in ("resources", "assessors", "000", "XNAT_S99999", ".hidden", "subject+with%signs"):
        subject: Subject = archive.add_subject(project, label)
        session = archive.add_session(subject, "reconstructions" if label == "assessors" else f"{label}_s", date="")
        scan = archive.add_scan(session, "1", type="T1", quality="usable")
        _fill(archive, archive.add_resource(scan, "R"), "a.txt")
    # One label for two things of one kind is refused by XNAT, but not one for a subject and its session.
    same = archive.add_subject(project, "25A")
    session = archive.add_session(same, "25A")
    _fill(archive, archive.add_resource(session, "25A"), "25A")
    archive.add_assessor(session, "assessors", "xnat:qcAssessmentData")
    archive.add_subject(project, "nobody scanned")


HOSTILE_PATHS = (
    "../../evil.txt",
    "/absolute.txt",
    "a/../../up.txt",
    "double//slash.txt",
    "dot/./dot.txt",
    "..",
    ".",
    "trailing/",
    "new\nline.txt",
    "tab\tand\x01control.txt",
    "nul\x00byte.txt",
    "file-and-folder",
    "file-and-folder/inside.txt",
    "/".join(["deep"] * 1000) + "/end.txt",
    "n" * 5000,
)
"""Stored names that no honest archive has, or that no file system can show as they are."""


def hostile_archive() -> Archive:
    """An archive that means harm, or has been damaged: project HOSTILE with paths and labels that escape or clash."""
    archive = Archive()
    project = archive.add_project("HOSTILE", "<b>name</b>\r\nwith lines")
    subject = archive.add_subject(project, "s")
    session = archive.add_session(subject, "e")
    scan = archive.add_scan(session, "1", type="PATHS")
    resource = archive.add_resource(scan, "PATHS")
    for path in HOSTILE_PATHS:
        archive.add_file(resource, path, b"x")
    for label in ("..", ".", "", "a/b", "../up", "nul\x00", "l" * 5000, "resources"):
        archive.add_scan(session, label or " ")
        _fill(archive, archive.add_resource(scan, label), "a.txt")
        child = archive.add_subject(project, label)
        archive.add_session(child, label)
    # Two of one kind under one label: refused by an honest server.
    for _ in range(2):
        archive.add_session(archive.add_subject(project, "same"), "same")
    return archive
