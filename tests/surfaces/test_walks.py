"""The tree does not depend on how it was asked for: session by session, or many at once during a walk."""

from __future__ import annotations

import pytest
from support.faces import direct

from xnatfs.demo import Archive, DemoServer, ServerOptions, synthetic_archive
from xnatfs.demo.bulk import bulk_project
from xnatfs.tree.nodes import DirNode, TextNode
from xnatfs.xnat.bulk import Bulk


def dump(vfs, start="/"):
    """Everything that a mount shows: names, kinds, numbers, times, sizes, attributes, tables."""
    found = {}

    def visit(path):
        directory = vfs.directory(path)
        for name in sorted(directory.names()):
            below = f"{path.rstrip('/')}/{name}"
            node = vfs.lookup(below)
            found[below] = vfs.attributes(node), {x: vfs.getxattr(below, x) for x in vfs.listxattr(below)}
            if isinstance(node, DirNode):
                visit(below)
        tables = vfs.directory(f"{path.rstrip('/')}/.xnat")
        for name in ("children.csv", "children.json"):
            table = tables.get(name)
            if isinstance(table, TextNode):  # there is a resource of that name
                found[f"{path}/.xnat/{name}"] = table.content
        if any(word in path for word in ("/E", "MR1", "PET")):
            for name in ("reconstructions", "in"):
                if directory.get(name) is not None and name not in directory.names():
                    visit(f"{path}/{name}")

    visit(start)
    return found


def tree(server, folder, *, together, start="/"):
    with direct(server.url, folder) as face:
        face.vfs._browser._walker._bulk.works = together
        server.reset_log()
        return dump(face.vfs, start), [f"{r.path}?{r.query}" for r in server.requests]


def batches(asked):
    return [line for line in asked if "," in line.partition("?")[0]]


def small(sessions=12):
    archive = Archive()
    bulk_project(archive, sessions=sessions, scans=2, resources=2, files=3)
    return archive


VARIANTS = [{}, {"shuffle": 3}, {"shuffle": 8}, {"resource_columns": False}, {"all_files": False}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_archive_looks_the_same_both_ways(tmp_path, options):
    with DemoServer(synthetic_archive(), options=ServerOptions(**options)) as server:
        alone, asked = tree(server, tmp_path / "a", together=False)
        assert not batches(asked)
        together, asked = tree(server, tmp_path / "b", together=True)
        assert bool(batches(asked)) == ("resource_columns" not in options)
        assert together == alone


@pytest.mark.parametrize("options", [{}, {"shuffle": 5}], ids=str)
def test_a_project_of_many_sessions_looks_the_same_and_costs_far_less(tmp_path, options):
    archive = small(40)
    with DemoServer(archive, options=ServerOptions(**options)) as server:
        alone, dear = tree(server, tmp_path / "a", together=False)
        with direct(server.url, tmp_path / "b") as face:
            server.reset_log()
            walk(face.vfs, "/MANY")
            cheap = len(server.requests)
            assert dump(face.vfs) == alone
        assert len(dear) > 120
        assert cheap <= 25, cheap


def walk(vfs, path):
    directory = vfs.directory(path)
    for name, kind, _ in directory.entries():
        if kind.name == "DIRECTORY":
            walk(vfs, f"{path}/{name}")


def test_assessors_reconstructions_and_odd_sessions_among_many(tmp_path):
    archive = small(30)
    sessions = list(archive.experiments_of(archive.projects["MANY"]))
    assessor = archive.add_assessor(sessions[5], "qc")
    archive.add_file(archive.add_resource(assessor, "REPORT", direction="out"), "r.txt", b"report")
    archive.add_assessor(sessions[6], "empty-qc")
    recon = archive.add_reconstruction(sessions[20], "R1")
    archive.add_resource(recon, "EMPTY", direction="out")
    archive.add_file(archive.add_resource(sessions[7], "NOTES"), "n.txt", b"note")
    archive.add_resource(next(iter(sessions[8].scans.values())), "NOTHING")
    archive.add_session(next(iter(archive.subjects_of(archive.projects["MANY"]))), "no-scans")
    other = archive.add_project("OTHER")
    archive.share(sessions[9], other, "borrowed")
    with DemoServer(archive) as server:
        alone, _ = tree(server, tmp_path / "a", together=False)
        together, asked = tree(server, tmp_path / "b", together=True)
        assert batches(asked)
        assert together == alone
        assert any("/reconstructions/R1" in path for path in alone)


@pytest.mark.parametrize("broken", ["outlines", "assessed", "resources", "files"])
def test_a_server_that_fails_on_many_is_asked_one_by_one(tmp_path, monkeypatch, broken):
    from xnatfs.errors import ServerFault

    original = getattr(Bulk, broken)
    called = []

    def failing(self, what, *rest, deadline):
        called.append(what)
        if broken in ("outlines", "assessed") or any(ident.endswith("7") for ident in what):
            raise ServerFault("500")
        return original(self, what, *rest, deadline=deadline)

    monkeypatch.setattr(Bulk, broken, failing)
    with DemoServer(small(20)) as server:
        alone, _ = tree(server, tmp_path / "a", together=False)
        called.clear()
        together, _ = tree(server, tmp_path / "b", together=True)
    assert called
    assert together == alone


def test_a_session_that_is_gone_or_changed_meanwhile_is_never_shown_half(tmp_path):
    archive = small(20)
    with DemoServer(archive) as server, direct(server.url, tmp_path / "b") as face:
        for number in range(1, 4):
            walk(face.vfs, f"/MANY/s{number:05d}")
        late = archive.find("s00019_MR1")
        resource = archive.add_resource(next(iter(late.scans.values())), "LATE")
        archive.add_file(resource, "late.txt", b"late")
        face.vfs.refresh("/MANY")
        walk(face.vfs, "/MANY")
        assert "LATE" in face.vfs.directory("/MANY/s00019/s00019_MR1/1").names()
        assert face.vfs.directory("/MANY/s00019/s00019_MR1/1/LATE").names() == ["late.txt"]


def test_looking_at_two_sessions_is_no_walk(tmp_path):
    with DemoServer(small()) as server, direct(server.url, tmp_path / "b") as face:
        for number in (1, 2):
            walk(face.vfs, f"/MANY/s{number:05d}")
        assert not any("imageSessionData" in r.query for r in server.requests)
