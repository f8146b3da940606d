"""A small archive in memory, for tests of the core that need no server."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from xnatfs.errors import NotFound
from xnatfs.xnat.records import (
    Assessor,
    Experiment,
    FileRecord,
    Parts,
    Project,
    Reconstruction,
    Resource,
    Scan,
    Subject,
)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class MemoryArchive:
    """Records as an archive would answer them; ``calls`` counts, ``fail`` maps a call's name to what it raises."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, BaseException] = {}
        self.contents: dict[str, bytes] = {}
        self.counts_known = True

    def _called(self, name):
        self.calls[name] += 1
        if name in self.fail:
            raise self.fail[name]

    def projects(self, *, deadline):
        self._called("projects")
        return (Project("P", "/projects/P", name="Project"), Project("EMPTY", "/projects/EMPTY"))

    def subjects(self, project_id, *, deadline):
        self._called("subjects")
        if project_id == "EMPTY":
            return ()
        info = Resource("50", "INFO", "/projects/P/subjects/S1/resources/50", file_count=1)
        return (
            Subject("S1", "sub-01", "/projects/P/subjects/S1", inserted=1e9, resources=(info,)),
            Subject("S2", "sub-02", "/projects/P/subjects/S2", inserted=1e9, resources=None),
        )

    def experiments(self, project_id, *, deadline):
        self._called("experiments")
        if project_id == "EMPTY":
            return ()
        return (
            Experiment("E1", "MR1", "/experiments/E1", "S1", inserted=1.1e9, xsi_type="xnat:mrSessionData"),
            Experiment("E2", "MR1", "/experiments/E2", "S1", inserted=1.2e9),
            Experiment("E3", "shared", "/experiments/E3", "S9", "other-subject"),
        )

    def parts(self, experiment_id, *, deadline):
        return Parts(self.scans(experiment_id, deadline=deadline))

    def scans(self, experiment_id, *, deadline):
        self._called("scans")
        return (Scan("1", "/experiments/E1/scans/1", type="T1"), Scan("2", "/experiments/E1/scans/2"))

    def assessors(self, experiment_id, *, deadline):
        self._called("assessors")
        return (Assessor("A1", "qc", "/experiments/E1/assessors/A1"),)

    def reconstructions(self, experiment_id, *, deadline):
        self._called("reconstructions")
        return (Reconstruction("R1", "/experiments/E1/reconstructions/R1"),)

    def session_resources(self, experiment_id, *, deadline):
        self._called("session_resources")
        base = f"/experiments/{experiment_id}"
        count = 2 if self.counts_known else None
        return (
            Resource("10", "DICOM", f"{base}/scans/1/resources/10", "scans", "1", count),
            Resource("11", "NIFTI", f"{base}/scans/1/resources/11", "scans", "1", count),
            Resource("12", "EMPTY", f"{base}/scans/2/resources/12", "scans", "2", 0),
            Resource("13", "DOCS", f"{base}/resources/13", "resources", "", count),
            Resource("14", "REPORT", f"{base}/assessors/A1/out/resources/14", "assessors", "A1", 1),
        )

    def input_resources(self, experiment_id, part, *, deadline):
        self._called("input_resources")
        return (Resource("15", "SOURCE", f"/experiments/{experiment_id}/{part}/A1/in/resources/15", owner_id="A1"),)

    def resources(self, container_uri, *, deadline):
        self._called("resources")
        return (Resource("60", "PROTOCOL", f"{container_uri}/resources/60"),)

    def _files(self, resource):
        names = {"12": [], "14": ["qc.pdf"]}.get(resource.id, ["a.bin", "sub/b.bin"])
        made = []
        for name in names:
            data = self.contents.get(name, f"{resource.id} {name}\n".encode() * 9)
            base = f"{resource.uri}/files/"
            size = None if name == "unsized" else len(data)
            made.append(FileRecord(base, name, size, md5(data), resource.id))
        return tuple(made)

    def session_files(self, experiment_id, *, deadline):
        self._called("session_files")
        resources = MemoryArchive.session_resources(MemoryArchive(), experiment_id, deadline=deadline)
        return {resource.id: self._files(resource) for resource in resources if self._files(resource)}

    def files(self, resource, *, deadline):
        self._called("files")
        return self._files(resource)

    def item(self, uri, *, deadline):
        self._called("item")
        return b'{"uri": "%s"}\n' % uri.encode()

    def size(self, file, *, deadline):
        self._called("size")
        if file.path == "gone":
            raise NotFound("gone")
        return 7

    def content(self, file):
        return self.contents.get(file.path, f"{file.resource_id} {file.path}\n".encode() * 9)


class MemoryStore:
    """Entries in temporary files, always complete: the transfer engine has tests of its own."""

    def __init__(self, archive: MemoryArchive, folder: Path) -> None:
        self.archive = archive
        self.folder = folder
        self.open_entries = 0

    def open(self, identity):
        self.open_entries += 1
        return _Entry(self, identity)

    def space(self):
        return 1 << 40, 1 << 30


class _Entry:
    sound = complete = True
    label = ""

    def __init__(self, store, identity):
        self.store = store
        base, _, path = identity.uri.partition("/files/")
        data = store.archive.contents.get(path, f"{base.rpartition('/')[2]} {path}\n".encode() * 9)
        self.file = (store.folder / f"{store.open_entries}").open("w+b", buffering=0)
        self.file.write(data)
        self.fileno = self.file.fileno()

    def recheck(self):
        return True

    def vouch(self, label):
        return label

    def release(self):
        self.store.open_entries -= 1
        self.file.close()


class NoTransfers:
    """A pool whose readers find everything there."""

    def reader(self, entry, file, siblings=None, *, walking=False):
        self.siblings = siblings
        return self

    def ensure(self, offset, size, deadline):
        pass

    def close(self):
        pass
