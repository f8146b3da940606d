"""Real clients keep the stand-in honest: pyxnat and xnatpy connect, list everything, download, upload."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest

from xnatfs.demo import synthetic_archive

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pyxnat():
    return pytest.importorskip("pyxnat", reason="pyxnat, or pandas which it needs, is not installed")


@pytest.fixture
def server(start):
    return start(synthetic_archive(odd=False)).server


def truth(archive, resource_label, session):
    return {
        stored.path: stored.content.md5
        for resource, stored in archive.files()
        if resource.label == resource_label and getattr(resource.parent, "session", None) is session
    }


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_pyxnat_the_tutorials_own_sequence(pyxnat, server, tmp_path):
    interface = pyxnat.Interface(server=server.url, user="admin", password="admin")
    config = tmp_path / "login.cfg"
    interface.save_config(str(config))
    assert json.loads(config.read_text()) == {"server": server.url, "user": "admin", "password": "admin"}
    central = pyxnat.Interface(config=str(config))
    assert set(central.select.projects().get()) >= {"DEMO", "SHARED", "OPEN"}
    project = central.select.project("DEMO")
    assert [s.label() for s in project.subjects()] == ["sub-01", "sub-02", "sub-03", "sub-04"]
    subject = project.subject("sub-01")
    assert {e.label() for e in subject.experiments()} == {"sub-01_MR1", "sub-01_MR2", "sub-01_PET1"}
    experiment = subject.experiment("sub-01_MR1")
    assert experiment.id() == "XNAT_E00001"
    scan = experiment.scan("3")
    assert scan.attrs.get("type") == "T2 SPACE"
    first = scan.resource("DICOM").files().first()
    target = tmp_path / "one.dcm"
    first.get(str(target))
    session = server.archive.find("sub-01_MR1")
    assert md5(target) == truth(server.archive, "DICOM", session)[first.label()] or target.stat().st_size
    central.disconnect()
    interface.disconnect()


def test_pyxnat_lists_everything_and_downloads_a_resource(pyxnat, server, tmp_path):
    central = pyxnat.Interface(server=server.url, user="admin", password="admin")
    archive = server.archive
    for project in central.select.projects():
        known = archive.projects[project.id()]
        assert {s.id() for s in project.subjects()} == {s.id for s in archive.subjects_of(known)}
    scans = central.select("/project/DEMO/subjects/*/experiments/*/scans/*").get()
    assert len(scans) == sum(len(e.scans) for e in archive.experiments.values() if e.project.id == "DEMO")
    resource = central.select.project("DEMO").subject("sub-02").experiment("sub-02_CT1").scan("1").resource("DICOM")
    paths = resource.get(str(tmp_path), extract=True)
    wanted = truth(archive, "DICOM", archive.find("sub-02_CT1"))
    from pathlib import Path

    assert {Path(p).name: md5(Path(p)) for p in paths} == wanted
    assert central.version()["version"] == "1.8.10"
    assert set(central.array.scans(project_id="DEMO").data[0]) >= {"ID", "project", "xnat:imagescandata/id"}
    central.disconnect()


def test_pyxnat_writes(pyxnat, server, tmp_path):
    central = pyxnat.Interface(server=server.url, user="admin", password="admin")
    source = tmp_path / "up.txt"
    source.write_text("hello")
    subject = central.select.project("DEMO").subject("new-one")
    assert not subject.exists()
    subject.create()
    assert subject.exists()
    file = subject.resource("NEW").file("x/n.txt")
    file.put(str(source))
    assert file.exists()
    assert int(file.size()) == 5
    file.delete()
    assert not file.exists()
    subject.delete()
    assert not subject.exists()
    central.disconnect()


@pytest.fixture(scope="module")
def xnat():
    return pytest.importorskip("xnat")


def test_xnatpy_lists_everything_and_downloads(xnat, server, tmp_path):
    logging.getLogger("xnat").setLevel(logging.ERROR)
    archive = server.archive
    with xnat.connect(server.url, user="admin", password="admin", loglevel="ERROR") as connection:
        assert connection.xnat_version == "1.8.10"
        for project in connection.projects.values():
            known = archive.projects[project.id]
            assert {s.id for s in project.subjects.values()} == {s.id for s in archive.subjects_of(known)}
            assert {e.id for e in project.experiments.values()} == {e.id for e in archive.experiments_of(known)}
        session = connection.projects["DEMO"].subjects["sub-01"].experiments["sub-01_MR1"]
        assert type(session).__name__ == "MrSessionData"
        assert session.subject.demographics.gender == "female"
        assert {a.label for a in session.assessors.values()} == {"sub-01_MR1_QC", "sub-01_MR1_auto"}
        for scan in session.scans.values():
            known = archive.find("sub-01_MR1").scans[scan.id]
            assert scan.type == known.fields["type"]
            assert {r.label for r in scan.resources.values()} == {r.label for r in known.resources.values()}
        resource = session.scans["2"].resources["NIFTI"]
        assert len(resource.files) == 3
        file = next(f for f in resource.files.values() if f.id.endswith(".nii"))
        file.download(str(tmp_path / "v.nii"), verbose=False)
        assert md5(tmp_path / "v.nii") == file.digest
        resource.download_dir(str(tmp_path / "all"), verbose=False)
        assert len([p for p in (tmp_path / "all").rglob("*") if p.is_file()]) == 3
    assert server.logins.active() == 0


def test_xnatpy_writes(xnat, server, tmp_path):
    source = tmp_path / "up.txt"
    source.write_text("hello")
    with xnat.connect(server.url, user="admin", password="admin", loglevel="ERROR") as connection:
        project = connection.projects["DEMO"]
        subject = connection.classes.SubjectData(parent=project, label="newsub")
        assert subject.label == "newsub"
        resource = subject.create_resource("NEW")
        resource.upload(str(source), "dir/up.txt")
        assert [f.id for f in resource.files.values()] == ["dir/up.txt"]


def test_xnatpy_with_an_alias_token_and_below_a_context_path(xnat, start):
    server = start(context_path="/xnat").server
    token = server.logins.issue("admin")
    with xnat.connect(server.url, user=token.alias, password=token.secret, loglevel="ERROR") as connection:
        assert "DEMO" in connection.projects


def test_xnatpy_as_guest(xnat, start):
    server = start(require_login=False).server
    with xnat.connect(server.url, no_parse_model=False, loglevel="ERROR") as connection:
        assert [p.id for p in connection.projects.values()] == ["OPEN"]
