"""The demo archive: a small synthetic study, the same in every run. Nobody in it exists.

Projects: DEMO (the study), SHARED (things of DEMO under other labels), ODD (every awkward name and shape that an
archive can hold), OPEN (public), GUARDED (protected), EMPTY.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xnatfs.demo.archive import Archive
from xnatfs.demo.content import Lazy
from xnatfs.demo.model import Experiment, Item, Project, Resource, Scan, Subject
from xnatfs.demo.odd import add_odd_project
from xnatfs.demo.phantom import AXIAL, CORONAL, SAGITTAL, Scanner, Series, ct, mr, pet

_PEOPLE = {
    "sub-01": ("female", "F", "1980", "right", "16"),
    "sub-02": ("male", "M", "1975", "right", "12"),
    "sub-03": ("female", "F", "1991", "left", "18"),
    "sub-04": ("male", "M", "1968", "ambidextrous", "14"),
}


def synthetic_archive(*, odd: bool = True) -> Archive:
    """The demo study. ``odd``: with the project of awkward names, which no beginner needs to see first."""
    archive = Archive()
    demo = archive.add_project(
        "DEMO",
        "Demo study",
        members={"reader": "Collaborators", "member": "Members"},
        secondary_ID="DEMO",
        description="A synthetic imaging study",
        keywords="demo phantom",
        pi_firstname="Ada",
        pi_lastname="Lovelace",
    )
    people = {label: _person(archive, demo, label) for label in _PEOPLE}
    _documents(archive, demo, people)
    first = _mr_session(archive, people["sub-01"], "sub-01_MR1", 1, "2024-01-02", full=True)
    _mr_session(archive, people["sub-01"], "sub-01_MR2", 2, "2024-07-02")
    _pet_session(archive, people["sub-01"], "sub-01_PET1", 3, "2024-01-03")
    second = _mr_session(archive, people["sub-02"], "sub-02_MR1", 4, "2024-01-09")
    _ct_session(archive, people["sub-02"], "sub-02_CT1", 5, "2024-01-10")
    _mr_session(archive, people["sub-03"], "sub-03_MR1", 6, "2024-02-01")
    archive.add_session(people["sub-03"], "sub-03_MR2", date="2024-08-01", note="planned, not yet scanned")
    interview = archive.add_session(
        people["sub-04"], "sub-04_interview", "xnat:subjectVariablesData", date="2024-02-14", note="questionnaire"
    )
    answers = archive.add_resource(interview, "FORMS", format="CSV")
    archive.add_file(answers, "answers.csv", b"question,answer\nq1,yes\nq2,no\n", format="CSV")
    _findings(archive, first)
    _sharing(archive, people, first, second)
    if odd:
        add_odd_project(archive)
    _open_projects(archive)
    return archive


def _person(archive: Archive, project: Project, label: str) -> Subject:
    gender, _, year, hand, education = _PEOPLE[label]
    return archive.add_subject(
        project,
        label,
        custom={"cohort": "A" if label < "sub-03" else "B", "consented": "yes"},
        gender=gender,
        yob=year,
        handedness=hand,
        education=education,
        group="control",
        src="demo",
    )


def _documents(archive: Archive, demo: Project, people: dict[str, Subject]) -> None:
    protocol = archive.add_resource(demo, "PROTOCOL", format="TXT", content="DOCS")
    archive.add_file(
        protocol, "README.txt", b"Protocol of the demo study.\nEverything here is made up.\n", format="TXT"
    )
    archive.add_file(protocol, "forms/consent.txt", b"I agree that this is synthetic.\n", format="TXT")
    table = "participant_id\tsex\tyob\n" + "".join(f"{k}\t{v[1]}\t{v[2]}\n" for k, v in _PEOPLE.items())
    archive.add_file(protocol, "participants.tsv", table.encode(), format="TSV")
    consent = archive.add_resource(people["sub-01"], "CONSENT", format="TXT")
    archive.add_file(consent, "signed/consent.txt", b"signed: sub-01\n", format="TXT", tags=("signed",))


@dataclass
class _Study:
    """Adds scans to one session."""

    archive: Archive
    session: Experiment
    number: int
    date: str
    kind: str
    modality: str

    def scan(self, id: str, type: str, description: str, **options: Any) -> tuple[Scan, Scanner]:
        _, sex, year, *_ = _PEOPLE[self.session.subject.label]
        parameters = {"MR": mr, "CT": ct, "PT": pet}[self.modality]()
        series = Series(
            self.modality,
            int("".join(c for c in id if c.isdigit()) or 1),
            description,
            self.number * 100 + len(self.session.scans),
            self.session.subject.label,
            self.number,
            self.date.replace("-", ""),
            sex=sex,
            birth=f"{year}0101",
            parameters=parameters,
            **options,
        )
        scan = self.archive.add_scan(
            self.session,
            id,
            self.kind,
            type=type,
            series_description=description,
            quality="usable",
            frames=str(series.slices),
            UID=series.series_uid,
            modality=self.modality,
            **({"fieldStrength": "3.0"} if self.modality == "MR" else {}),
        )
        maker = Scanner(series)
        add_dicom(self.archive, scan, maker)
        return scan, maker


def add_dicom(archive: Archive, scan: Scan, maker: Scanner) -> Resource:
    """A DICOM resource with the series' slices, made when they are read."""
    resource = archive.add_resource(scan, "DICOM", format="DICOM", content="RAW")
    for index in range(maker.series.slices):
        name = f"{maker.series.instance_uid(index)}.dcm"
        content = Lazy(maker.dicom_maker(index), maker.slice_size)
        archive.add_file(resource, name, content, format="DICOM", description="RAW")
    return resource


def add_nifti(archive: Archive, scan: Scan, maker: Scanner, *, plain: bool = True, packed: bool = True) -> Resource:
    resource = archive.add_resource(scan, "NIFTI", format="NIFTI", content="CONVERTED")
    stem = f"{scan.session.label}_{scan.fields['series_description']}"
    if plain:
        archive.add_file(resource, f"{stem}.nii", Lazy(maker.nifti, maker.nifti_size), format="NIFTI")
    if packed:
        archive.add_file(resource, f"{stem}.nii.gz", Lazy(maker.nifti_gz), format="NIFTI")
    sidecar = f'{{"SeriesDescription": "{maker.series.description}", "Modality": "{maker.series.modality}"}}\n'
    archive.add_file(resource, f"{stem}.json", sidecar.encode(), format="JSON")
    return resource


def add_snapshots(archive: Archive, scan: Scan, maker: Scanner) -> Resource:
    resource = archive.add_resource(scan, "SNAPSHOTS", format="PNG", content="SNAPSHOTS")
    archive.add_file(resource, "snapshot.png", Lazy(maker.snapshot), format="PNG", description="ORIGINAL")
    archive.add_file(resource, "snapshot_t.png", Lazy(lambda: maker.snapshot(1)), format="PNG", description="THUMBNAIL")
    return resource


def _mr_session(
    archive: Archive, subject: Subject, label: str, number: int, date: str, *, full: bool = False
) -> Experiment:
    session = archive.add_session(
        subject,
        label,
        "xnat:mrSessionData",
        custom={"visit_code": f"V{number}"},
        date=date,
        time="10:15:00",
        modality="MR",
        scanner="Phantom 3T",
        fieldStrength="3.0",
        dcmPatientId=subject.label,
        dcmPatientName=subject.label,
        UID=f"{Series('MR', 1, '', 0, '', number).study_uid}",
    )
    study = _Study(archive, session, number, date, "xnat:mrScanData", "MR")
    scout, maker = study.scan("1", "LOCALIZER", "localizer", slices=3, thickness=10.0, orientation=CORONAL)
    add_snapshots(archive, scout, maker)
    t1, maker = study.scan("2", "T1 MPRAGE", "t1_mprage_sag", slices=32, orientation=SAGITTAL)
    add_nifti(archive, t1, maker)
    add_snapshots(archive, t1, maker)
    t2, maker = study.scan("3", "T2 SPACE", "t2_space", slices=24, orientation=AXIAL, spacing=(3.5, 3.0))
    add_nifti(archive, t2, maker, plain=False)
    if full:
        flair, maker = study.scan("4-MR2", "FLAIR", "flair", slices=24, thickness=5.0)
        add_snapshots(archive, flair, maker)
        flair.fields["quality"] = "questionable"
        flair.fields["note"] = "subject moved"
    return session


def _pet_session(archive: Archive, subject: Subject, label: str, number: int, date: str) -> Experiment:
    session = archive.add_session(
        subject, label, "xnat:petSessionData", date=date, modality="PT", scanner="Phantom PET", tracer_name="FDG"
    )
    study = _Study(archive, session, number, date, "xnat:petScanData", "PT")
    scan, maker = study.scan("1", "PET FDG", "fdg_static", slices=24, thickness=5.0)
    add_nifti(archive, scan, maker, plain=False)
    add_snapshots(archive, scan, maker)
    return session


def _ct_session(archive: Archive, subject: Subject, label: str, number: int, date: str) -> Experiment:
    session = archive.add_session(subject, label, "xnat:ctSessionData", date=date, modality="CT", scanner="Phantom CT")
    study = _Study(archive, session, number, date, "xnat:ctScanData", "CT")
    scan, maker = study.scan("1", "CT HEAD", "head_native", slices=40, thickness=2.5, spacing=(2.0, 2.0))
    add_snapshots(archive, scan, maker)
    return session


def _findings(archive: Archive, session: Experiment) -> None:
    """Assessors, a reconstruction and session-level files."""
    notes = archive.add_resource(session, "NOTES", format="TXT")
    archive.add_file(notes, "operator.txt", b"All went well.\n", format="TXT")
    archive.add_file(notes, "logs/2024/scanner.log", b"10:15 start\n10:58 end\n")
    manual = archive.add_assessor(session, f"{session.label}_QC", "xnat:qcManualAssessorData", date="2024-01-04")
    own = archive.add_resource(manual, "FORM", format="TXT")
    archive.add_file(own, "form.txt", b"rater: demo\nquality: good\n", format="TXT")
    report = archive.add_resource(manual, "REPORT", direction="out", format="HTML")
    archive.add_file(report, "report.html", b"<!DOCTYPE html>\n<html><body>Quality is good.</body></html>\n")
    archive.add_file(report, "figures/snr.csv", b"scan,snr\n2,41.5\n3,38.2\n", format="CSV")
    automatic = archive.add_assessor(session, f"{session.label}_auto", "xnat:qcAssessmentData", date="2024-01-05")
    source = archive.add_resource(automatic, "SOURCE", direction="in", format="TXT")
    archive.add_file(source, "series.txt", b"2\n3\n")
    stats = archive.add_resource(automatic, "STATS", direction="out", format="CSV")
    archive.add_file(stats, "stats.csv", b"metric,value\nfber,12.5\n", format="CSV")
    recon = archive.add_reconstruction(session, "average", type="T1 average", baseScanType="T1 MPRAGE")
    scanner = Scanner(Series("MR", 900, "average", 7, session.subject.label, 1, slices=24, parameters=mr()))
    average = archive.add_resource(recon, "NIFTI", format="NIFTI")
    archive.add_file(average, "average.nii.gz", Lazy(scanner.nifti_gz), format="NIFTI")
    used = archive.add_resource(recon, "INPUTS", direction="in", format="TXT")
    archive.add_file(used, "scans.txt", b"2\n")


def _sharing(archive: Archive, people: dict[str, Subject], first: Experiment, second: Experiment) -> None:
    shared = archive.add_project(
        "SHARED", "Things of other projects", members={"reader": "Collaborators"}, description="Owns nothing"
    )
    archive.share(people["sub-01"], shared, "case-A")
    archive.share(first, shared, "case-A_visit1")
    archive.share(people["sub-02"], shared)
    archive.share(second, shared)


def _open_projects(archive: Archive) -> None:
    archive.add_project("EMPTY", "Nothing in it yet", members={"reader": "Collaborators"})
    guarded = archive.add_project("GUARDED", "Protected: known to all, readable by members", access="protected")
    _small(archive, archive.add_session(archive.add_subject(guarded, "g-01"), "g-01_MR1", date="2024-03-01"))
    public = archive.add_project("OPEN", "Public data", access="public", description="Readable without an account")
    session = archive.add_session(archive.add_subject(public, "open-01"), "open-01_MR1", date="2024-03-05")
    scan = archive.add_scan(session, "1", type="T1", series_description="t1", quality="usable")
    add_dicom(archive, scan, Scanner(Series("MR", 1, "t1", 77, "open-01", 77, slices=12, parameters=mr())))
    _small(archive, session)


def _small(archive: Archive, item: Item) -> None:
    archive.add_file(archive.add_resource(item, "NOTES", format="TXT"), "note.txt", b"A note.\n", format="TXT")
