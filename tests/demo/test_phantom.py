"""The synthetic images are valid and show what they should."""

from __future__ import annotations

import io
import subprocess

import dcm2niix
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from xnatfs.demo import synthetic_archive
from xnatfs.demo.phantom import AXIAL, CORONAL, SAGITTAL, Scanner, Series, ct, mr, pet, volume


def series(modality="MR", orientation=AXIAL, **options):
    parameters = {"MR": mr, "CT": ct, "PT": pet}[modality]()
    settings = {"slices": 12, "columns": 32, "rows": 24, "spacing": (3.5, 3.0), "parameters": parameters, **options}
    return Series(modality, 2, "a_series", 5, "sub-99", 9, orientation=orientation, **settings)


def canonical(image):
    return nibabel.as_closest_canonical(image)


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL], ids=["axial", "sagittal", "coronal"])
def test_dcm2niix_gives_the_phantom_back(tmp_path, modality, orientation):
    scanner = Scanner(series(modality, orientation))
    source, target = tmp_path / "dicom", tmp_path / "nifti"
    source.mkdir()
    target.mkdir()
    for index in range(scanner.series.slices):
        (source / f"{index}.dcm").write_bytes(scanner.dicom(index))
    run = subprocess.run(
        [dcm2niix.bin, "-f", "out", "-o", str(target), str(source)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    (path,) = target.glob("*.nii")
    converted = canonical(nibabel.load(path))
    wanted = canonical(nibabel.Nifti1Image(scanner.scaled(), scanner.series.affine()))
    assert np.array_equal(converted.get_fdata(), wanted.get_fdata())
    assert np.allclose(converted.affine, wanted.affine, atol=1e-3)


def test_nifti_holds_the_same_volume():
    scanner = Scanner(series("PT"))
    plain = scanner.nifti()
    assert len(plain) == scanner.nifti_size()
    image = nibabel.Nifti1Image.from_bytes(plain)
    assert np.array_equal(image.get_fdata(), scanner.scaled())
    assert np.allclose(image.affine, scanner.series.affine())


def test_slices_are_valid_and_of_one_length():
    scanner = Scanner(series())
    files = [scanner.dicom(index) for index in range(scanner.series.slices)]
    assert {len(data) for data in files} == {scanner.slice_size()}
    headers = [pydicom.dcmread(io.BytesIO(data)) for data in files]
    assert len({h.SOPInstanceUID for h in headers}) == len(files)
    assert all(h.file_meta.MediaStorageSOPInstanceUID == h.SOPInstanceUID for h in headers)
    assert np.array_equal(headers[3].pixel_array.T, scanner.volume()[:, :, 3])


def test_the_volume_has_no_symmetry():
    picture = volume(series(rows=32, slices=32))
    for axes in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
        assert not np.array_equal(picture, picture.transpose(axes))
    for axis in range(3):
        assert not np.array_equal(picture, np.flip(picture, axis))


def test_the_archives_own_files_open():
    archive = synthetic_archive()
    session = archive.find("sub-01_MR1")
    nifti = next(r for r in session.scans["2"].resources.values() if r.label == "NIFTI")
    kinds = {}
    for stored in nifti.files.values():
        kinds[stored.path.split(".", 1)[1]] = stored.content.read(0, stored.content.size)
    plain = nibabel.Nifti1Image.from_bytes(kinds["nii"])
    import gzip

    assert gzip.decompress(kinds["nii.gz"]) == kinds["nii"]
    assert plain.shape == (64, 64, 32)
    snapshot = next(r for r in session.scans["2"].resources.values() if r.label == "SNAPSHOTS").files["snapshot.png"]
    assert Image.open(io.BytesIO(snapshot.content.read(0, snapshot.content.size))).size == (256, 256)


def test_the_same_bytes_in_every_run():
    first, second = (
        {(r.number, f.path): f.content.md5 for r, f in synthetic_archive().files() if r.parent.id in ("1", "average")}
        for _ in range(2)
    )
    assert first == second
    assert len(first) > 20
