"""Layouts on real mounts: the disk of the server, its zips, XNAT's notebooks, and the real xnatpy that reads there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from support.faces import direct, environment, mounted
from support.moving import contents

from xnatfs import layouts
from xnatfs.demo import Archive, DemoServer, bulk_project, synthetic_archive
from xnatfs.demo.model import Assessor, Experiment, Project, Reconstruction, Scan, Subject
from xnatfs.layouts.shapes import LAYOUTS
from xnatfs.tree.nodes import DirNode

pytestmark = pytest.mark.mount
LOOPS = {"archive": "fast", "jupyter": "fast", "zip": "plain"}


@pytest.fixture(scope="module")
def demo():
    with DemoServer(synthetic_archive()) as server:
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def mount(demo, base):
    """A mount of the demo archive in a layout, made when it is first asked for."""
    faces = {}
    with ExitStack() as ends:

        def made(layout):
            if layout not in faces:
                how = mounted(demo.url, base / layout, base, "--layout", layout, "--ttl", "600", loop=LOOPS[layout])
                faces[layout] = ends.enter_context(how)
            return faces[layout]

        yield made
        for face in faces.values():
            assert "Traceback" not in face.text(), face.text()


def listed(top) -> set[str]:
    done = subprocess.run(["find", ".", "-type", "f", "-print0"], cwd=top, capture_output=True, check=True)
    return {name.removeprefix(b"./").decode() for name in done.stdout.split(b"\0") if name}


def run(base, *words):
    """The command, as the mounts' user: (status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "xnatfs", *map(str, words)],
        env=environment(base / "home", XNAT_PASS="admin"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


# -- what stands where, computed from the archive's model ------------------------------------------------------------


def on_disk(item, projects: str, experiments: str) -> str:
    """The directory of an item, in its own project, as XNAT's archive has it on its disk."""
    if isinstance(item, Project):
        return f"{projects}{item.id}"
    if isinstance(item, Subject):
        return f"{on_disk(item.project, projects, experiments)}/subjects/{item.label}"
    if isinstance(item, Experiment):
        return f"{on_disk(item.project, projects, experiments)}/{experiments}/{item.label}"
    group = {Scan: "SCANS", Assessor: "ASSESSORS", Reconstruction: "PROCESSED"}[type(item)]
    name = item.label if isinstance(item, Assessor) else item.id
    return f"{on_disk(item.session, projects, experiments)}/{group}/{name}"


def files_on_disk(archive, project: str, projects: str, experiments: str) -> set[str]:
    found = set()
    for resource, stored in archive.files():
        item = resource.parent
        session = getattr(item, "session", item)
        if (item if isinstance(item, Project) else session.project).id != project:
            continue
        place = on_disk(item, projects, experiments)
        if isinstance(item, Project):
            place += "/resources"
        elif isinstance(item, Experiment):
            place += "/RESOURCES"
        label = resource.label or str(resource.number)
        found.add(f"{place}/{'in/' if resource.direction == 'in' else ''}{label}/{stored.path}")
    return found


def undoubled(names: set[str]) -> set[str]:
    """Two resources of one label are two directories in a mount, and one on the disk and in a zip."""
    return {re.sub(r"/TWICE~\d+/", "/TWICE/", name) for name in names}


@pytest.mark.parametrize("project", ["DEMO", "ODD"])
@pytest.mark.parametrize(
    ("layout", "projects", "group"), [("archive", "", "arc001"), ("jupyter", "projects/", "experiments")]
)
def test_every_file_lies_where_xnat_has_it(mount, demo, project, layout, projects, group):
    there = {f"{projects}{project}/{name}" for name in listed(mount(layout).root / projects / project)}
    assert undoubled(there) == files_on_disk(demo.archive, project, projects, group)


def members(http, url: str) -> set[str]:
    """The names in a zip; none where there is nothing to send."""
    answer = http.get(f"{url}/files", params={"format": "zip"}, timeout=20)
    if answer.status_code != 200:
        return set()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("project", ["DEMO", "ODD"])
def test_a_session_lists_what_unzip_lists_of_the_servers_zips(mount, demo, project):
    """Zips of its scans, its own resources, each reconstruction and each assessor: together they are all of it."""
    found = 0
    with requests.Session() as http:
        http.auth = ("admin", "admin")
        for experiment in demo.archive.experiments_of(demo.archive.projects[project]):
            uri = f"{demo.url}/data/experiments/{experiment.id}"
            wanted = members(http, f"{uri}/scans/ALL") | members(http, uri)
            for part in experiment.reconstructions:
                for direction in ("out", "in"):
                    wanted |= members(http, f"{uri}/reconstructions/{part}/{direction}")
            for assessor in experiment.assessors.values():
                for direction in ("", "/out", "/in"):  # no listing tells the first from the second
                    inside = members(http, f"{uri}/assessors/{assessor.id}{direction}")
                    inside = {re.sub("^([^/]+)/resources/", r"\1/out/resources/", name) for name in inside}
                    wanted |= {f"{experiment.label}/assessors/{name}" for name in inside}
            subject = experiment.subject
            above = mount("zip").root / project / (subject.id if subject.label == "resources" else subject.label)
            there = {f"{experiment.label}/{name}" for name in listed(above / experiment.label)}
            lost = {name for name in there if name.endswith("BARE/files/gone.txt")}
            assert undoubled(there - lost) == wanted
            found += len(wanted)
    assert found > 60


def test_a_zip_unpacked_is_the_same_tree(mount, demo, tmp_path):
    url = f"{demo.url}/data/experiments/XNAT_E00001/scans/ALL/files?format=zip"
    (tmp_path / "a.zip").write_bytes(requests.get(url, auth=("admin", "admin"), timeout=20).content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    there = mount("zip").root / "DEMO/sub-01/sub-01_MR1/scans"
    subprocess.run(["diff", "-r", there, tmp_path / "sub-01_MR1/scans"], check=True)


@pytest.mark.parametrize(
    ("layout", "scan"),
    [
        ("archive", "DEMO/arc001/sub-01_MR1/SCANS/3"),
        ("jupyter", "projects/DEMO/experiments/sub-01_MR1/SCANS/3"),
        ("zip", "DEMO/sub-01/sub-01_MR1/scans/3-T2_SPACE"),
    ],
)
def test_status_and_commands_know_the_layout(mount, base, demo, layout, scan):
    face = mount(layout)
    assert json.loads((face.root / ".xnat/status.json").read_text())["options"]["layout"] == layout
    there = face.root / scan
    status, said, errors = run(base, "warm", there)
    assert (status, errors) == (0, ""), said
    status, _, errors = run(base, "warm", f"{there}-not")
    assert status == 1
    assert "no such file" in errors
    os.listdir(there.parent)
    demo.reset_log()
    assert run(base, "refresh", there.parent)[0] == 0
    os.listdir(there.parent)
    assert len(demo.requests) == 2


# -- what programs see that know XNAT --------------------------------------------------------------------------------

NOTEBOOK = """
import hashlib, os, xnat
with xnat.connect(os.environ["XNAT_HOST"], user=os.environ["XNAT_USER"], password=os.environ["XNAT_PASS"],
                  loglevel="ERROR") as session:
    experiment = session.create_object("/data/experiments/" + os.environ["XNAT_ITEM_ID"])
    assert os.environ["XNAT_XSI_TYPE"] == experiment.__xsi_type__
    for scan in experiment.scans.values():
        for resource in scan.resources.values():
            for file in resource.files.values():
                with file.open() as opened:
                    print(hashlib.md5(opened.read()).hexdigest(), file.data_path)
"""


def test_a_notebook_reads_through_the_mount_with_what_env_prints(mount, demo, base, tmp_path):
    pytest.importorskip("xnat")
    place = mount("jupyter").root / "projects/DEMO/experiments/sub-01_MR1"
    subprocess.run(f"find '{place}' -type f -exec cat {{}} + > /dev/null", shell=True, check=True)
    demo.reset_log()
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    command = f'eval "$("{sys.executable}" -m xnatfs env "{place}")" && exec "{sys.executable}" notebook.py'
    own = environment(base / "home", XNAT_PASS="admin")
    done = subprocess.run(["sh", "-ec", command], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    read = dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())
    scans = demo.archive.find("sub-01_MR1").scans.values()
    wanted = {
        f"{place}/SCANS/{scan.id}/{resource.label}/{stored.path}": stored.content.md5
        for scan in scans
        for resource in scan.resources.values()
        for stored in resource.files.values()
    }
    assert read == wanted
    assert contents(demo) == (0, 0)


@pytest.mark.parametrize("layout", ["archive", "jupyter"])
def test_xnatpy_finds_every_kind_of_data_directory(mount, demo, monkeypatch, layout):
    xnat = pytest.importorskip("xnat")
    monkeypatch.setenv("XNAT_DATA", str(mount(layout).root))
    with xnat.connect(demo.url, user="admin", password="admin", loglevel="ERROR") as session:
        project = session.projects["DEMO"]
        experiment = project.experiments["sub-01_MR1"]
        items = [project, project.subjects["sub-01"], experiment, experiment.scans["4-MR2"]]
        items += experiment.assessors.values()
        resources = [resource for item in items for resource in item.resources.values()]
        assert len(resources) == 6
        for resource in resources:
            assert resource.data_dir is not None, resource
            assert listed(resource.data_dir) == {file.path for file in resource.files.values()}
        file = next(iter(resources[0].files.values()))
        first = Path(file.data_path).read_bytes()
        demo.reset_log()
        assert file.verify_digest()
        assert hashlib.md5(first).hexdigest() == file.digest
        assert contents(demo) == (0, 0)


@pytest.mark.parametrize("layout", ["jupyter", "zip"])
def test_env_prints_what_a_shell_can_read(mount, base, demo, layout):
    root = mount(layout).root
    wanted = {"XNAT_HOST": demo.url, "XNAT_USER": "admin"} | ({"XNAT_DATA": str(root)} if layout == "jupyter" else {})
    status, said, errors = run(base, "env", root, "--json")
    assert (status, json.loads(said), errors) == (0, wanted, "")
    status, said, errors = run(base, "env", root / ".xnat")
    assert said.splitlines() == [f"export {name}={value}" for name, value in wanted.items()]
    assert status == 0
    assert ("no XNAT_DATA" in errors) is (layout == "zip")
    assert run(base, "env", root / "nothing")[0] == 6


# -- what it costs ---------------------------------------------------------------------------------------------------


def walked(face, path="/") -> int:
    """Files below a path, found as ``find`` does."""
    count = 0
    for node in face.directory(path).nodes():
        if isinstance(node, DirNode):
            count += walked(face, f"{path.rstrip('/')}/{node.name}")
        else:
            count += 1
    return count


@pytest.fixture(scope="module")
def many():
    archive = Archive()
    bulk_project(archive, sessions=40, scans=2, resources=2, files=5)
    with DemoServer(archive) as server:
        yield server


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_walk_over_a_project_asks_for_many_sessions_at_once_in_every_layout(many, tmp_path, layout):
    asked = {}
    for name in ("plain", layout):
        with direct(many.url, tmp_path / name) as face:
            face.vfs.directory("/")
            many.reset_log()
            assert walked(layouts.over(face.vfs, name)) == 800
            asked[name] = len(many.requests)
    assert asked[layout] <= asked["plain"] <= 24
