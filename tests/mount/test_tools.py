"""The tools that people use, on a mount of the demo archive, against the archive's own truth and plain copies."""

from __future__ import annotations

import filecmp
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import dcm2niix
import nibabel
import numpy
import pydicom
import pytest
from support import truth
from support.faces import mounted

from xnatfs.demo import DemoServer, synthetic_archive

pytestmark = pytest.mark.mount

SERIES = "DEMO/sub-01/sub-01_MR1/2/DICOM"


def run(*command, cwd=None, check=True):
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, errors="surrogateescape"
    )
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def demo():
    with DemoServer(synthetic_archive()) as server:
        yield server


@pytest.fixture(scope="module")
def mnt(demo, tmp_path_factory):
    base = tmp_path_factory.mktemp("tools")
    with mounted(demo.url, base / "mnt", base) as face:
        yield face.root
        assert "Traceback" not in face.text()


@pytest.fixture(scope="module")
def files(demo):
    """Path below the mount -> bytes, of everything that the server really has."""
    found = {}
    for project in demo.archive.projects:
        for path, stored in truth.tree(demo.archive, project).items():
            if not stored.missing:
                found[path[1:]] = truth.content(stored)
    return found


@pytest.fixture(scope="module")
def lost(demo):
    """Paths that are catalogued while the server has lost the bytes; copying them has to fail, and only them."""
    return {
        p[1:] for project in demo.archive.projects for p, s in truth.tree(demo.archive, project).items() if s.missing
    }


def below(folder):
    return {os.path.relpath(os.path.join(top, name), folder) for top, _, names in os.walk(folder) for name in names}


def test_ls_recursive_shows_every_file_once(mnt, files, lost):
    listing = run("ls", "-lAR", mnt).stdout
    assert sum(line.startswith("-r--r--r--") for line in listing.splitlines()) == len(files) + len(lost)


def test_find_shows_every_path(mnt, files, lost):
    found = run("find", ".", "-type", "f", "-print0", cwd=mnt).stdout.split("\0")[:-1]
    assert {path[2:] for path in found} == set(files) | lost


def test_du_adds_up_to_the_bytes_of_the_archive(mnt, files):
    apparent = int(run("du", "-s", "--apparent-size", "--block-size=1", mnt).stdout.split()[0])
    assert apparent == sum(map(len, files.values()))
    on_disk = int(run("du", "-s", "--block-size=512", mnt).stdout.split()[0])
    assert on_disk == sum((len(data) + 511) // 512 for data in files.values())


def test_cp_recursive_copies_every_byte_and_fails_for_what_the_server_lost_only(mnt, files, lost, tmp_path):
    done = run("cp", "-r", mnt, tmp_path / "copy", check=False)
    assert len(done.stderr.strip().splitlines()) == len(lost)
    assert (done.returncode != 0) == bool(lost)
    assert below(tmp_path / "copy") == set(files)
    for path, data in files.items():
        assert (tmp_path / "copy" / path).read_bytes() == data, path


def test_tar_packs_every_byte(mnt, files, tmp_path):
    run("tar", "-cf", tmp_path / "all.tar", "-C", mnt, "DEMO", "SHARED")
    with tarfile.open(tmp_path / "all.tar") as packed:
        found = {member.name: packed.extractfile(member).read() for member in packed if member.isfile()}
    assert found == {path: data for path, data in files.items() if path.startswith(("DEMO/", "SHARED/"))}


def test_a_second_rsync_copies_nothing(mnt, tmp_path):
    run("rsync", "-a", f"{mnt}/DEMO/", tmp_path / "copy")
    again = run("rsync", "-a", "--itemize-changes", f"{mnt}/DEMO/", tmp_path / "copy")
    assert again.stdout == ""
    checked = run("rsync", "-a", "--checksum", "--dry-run", "--itemize-changes", f"{mnt}/DEMO/", tmp_path / "copy")
    assert checked.stdout == ""


def test_md5sum_agrees_with_the_listed_digests(mnt, demo, tmp_path):
    lines = []
    for project in demo.archive.projects:
        for path, stored in truth.tree(demo.archive, project).items():
            if stored.has_digest and not stored.missing and not set(path) & set("\\\n\r"):
                digest = os.getxattr(f"{mnt}{path}", "user.xnat.digest").decode()
                lines.append(f"{digest}  {path[1:]}\n")
    assert len(lines) > 300
    (tmp_path / "sums").write_text("".join(lines))
    run("md5sum", "--quiet", "-c", tmp_path / "sums", cwd=mnt)


def test_dcm2niix_gives_the_same_from_the_mount_as_from_a_copy(mnt, tmp_path):
    run("cp", "-r", mnt / SERIES, tmp_path / "copy")
    for name, source in (("mount", mnt / SERIES), ("copy", tmp_path / "copy")):
        (tmp_path / name / "..").resolve().mkdir(exist_ok=True)
        out = tmp_path / f"out_{name}"
        out.mkdir()
        run(dcm2niix.bin, "-o", out, "-f", "series", source)
    assert filecmp.cmpfiles(
        tmp_path / "out_mount", tmp_path / "out_copy", ["series.nii", "series.json"], shallow=False
    ) == (
        ["series.nii", "series.json"],
        [],
        [],
    )


def test_pydicom_reads_the_headers_of_a_series(mnt):
    instances = sorted(
        pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber for path in (mnt / SERIES).iterdir()
    )
    assert instances == list(range(1, len(instances) + 1))
    assert len(instances) > 20


def test_nibabel_opens_plain_and_compressed_volumes_to_the_same_array(mnt, files):
    plain = [path for path in files if path.endswith(".nii") and path.startswith("DEMO/sub-01")]
    packed = [path for path in files if path.endswith(".nii.gz") and path.startswith("DEMO/sub-01")]
    assert plain
    assert packed
    for path in (plain + packed)[:4]:
        image = nibabel.load(mnt / path)
        expected = nibabel.Nifti1Image.from_bytes(files[path]) if path in plain else None
        data = numpy.asanyarray(image.dataobj)  # memory-mapped for .nii
        assert data.ndim >= 3
        if expected is not None:
            assert numpy.array_equal(data, numpy.asanyarray(expected.dataobj))
        assert numpy.array_equal(
            numpy.asanyarray(image.dataobj[..., data.shape[-1] // 2]), data[..., data.shape[-1] // 2]
        )


def test_file_knows_dicom_and_pictures(mnt, files):
    dicom = next((mnt / SERIES).iterdir())
    assert "DICOM" in run("file", "-b", dicom).stdout
    picture = next(path for path in files if path.endswith(".png"))
    assert "PNG image data" in run("file", "-b", mnt / picture).stdout


def test_what_walks_the_tree_never_meets_the_metadata_directory(mnt, files):
    """The demo has one resource that is really called so; it is the only one found, and a real entry wins."""
    real = {f"{mnt}/{path[: path.index('/.xnat/') + 6]}" for path in files if "/.xnat/" in path}
    assert set(run("find", mnt, "-name", ".xnat").stdout.splitlines()) == real
    assert (mnt / "DEMO" / ".xnat" / "children.csv").is_file()


def test_changes_are_refused_as_read_only(mnt, tmp_path):
    target = mnt / SERIES
    for command in (
        ["touch", target / "new"],
        ["mkdir", target / "new"],
        ["rm", "-f", next(target.iterdir())],
        ["mv", mnt / "DEMO", mnt / "X"],
    ):
        done = run(*command, check=False)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_bytes(b"x")


def test_grep_through_a_resource_finds_what_is_there(mnt, files):
    texts = [path for path, data in files.items() if path.endswith(".txt") and path.startswith("DEMO/") and data]
    assert texts
    word = files[texts[0]].split()[0].decode()
    found = run("grep", "-rlF", "--", word, Path(mnt, texts[0]).parent).stdout.splitlines()
    assert f"{mnt}/{texts[0]}" in found


def test_a_file_read_by_mmap_is_the_file(mnt, files):
    import mmap

    path = max((path for path in files if path.startswith("DEMO/")), key=lambda path: len(files[path]))
    with (mnt / path).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert hashlib.sha256(mapped).digest() == hashlib.sha256(files[path]).digest()
