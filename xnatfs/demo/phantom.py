"""A 3-D phantom as numbers, and as DICOM, NIfTI and PNG files. Deterministic: the same bytes in every run.

The shapes have no symmetry, so that any flip or swap of axes on the way shows.
Axes of a volume: ``volume[column, row, slice]`` in the order of the DICOM images, as a converter hands them on.
"""

from __future__ import annotations

import gzip
import importlib
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.int16]

UID_ROOT = "1.2.826.0.1.3680043.10.1187"
"""A prefix for made-up instances, of the free range that Medical Connections hands out."""

# Image orientation (row direction, column direction) in the patient's coordinates, left-posterior-superior.
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Series:
    """One imaging series: what is scanned, how, and where it lies in space (millimetres)."""

    modality: str
    number: int
    description: str
    seed: int
    patient: str
    study: int
    """Number of the study; series of one study share their study UID."""
    date: str = "20240102"
    columns: int = 64
    rows: int = 64
    slices: int = 32
    spacing: tuple[float, float] = (3.0, 3.0)
    """Between rows, between columns."""
    thickness: float = 4.0
    orientation: tuple[float, ...] = AXIAL
    sex: str = "O"
    birth: str = "19800101"
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    """More DICOM attributes by keyword."""

    @property
    def study_uid(self) -> str:
        return f"{UID_ROOT}.{1000 + self.study}"

    @property
    def series_uid(self) -> str:
        return f"{self.study_uid}.{1000 + self.number}"

    def instance_uid(self, index: int) -> str:
        return f"{self.series_uid}.{1001 + index}"

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.array(np.cross(row, column).tolist())

    def origin(self) -> npt.NDArray[np.float64]:
        """Centre of the first voxel of the first slice, left-posterior-superior."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        middle = row * self.spacing[1] * (self.columns - 1) / 2 + column * self.spacing[0] * (self.rows - 1) / 2
        return np.array([2.0, -5.0, 7.0]) - middle - self.normal * self.thickness * (self.slices - 1) / 2

    def affine(self) -> npt.NDArray[np.floating[Any]]:
        """From voxel (column, row, slice) to millimetres right-anterior-superior, as NIfTI has it."""
        matrix = np.eye(4)
        matrix[:3, 0] = np.array(self.orientation[:3]) * self.spacing[1]
        matrix[:3, 1] = np.array(self.orientation[3:]) * self.spacing[0]
        matrix[:3, 2] = self.normal * self.thickness
        matrix[:3, 3] = self.origin()
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def volume(series: Series) -> Volume:
    """The stored pixel values, shape (columns, rows, slices): an ellipsoid head with things in it, and some noise."""
    i, j, k = np.meshgrid(
        np.linspace(-1, 1, series.columns),
        np.linspace(-1, 1, series.rows),
        np.linspace(-1, 1, series.slices),
        indexing="ij",
    )
    random = np.random.default_rng(series.seed)
    level = random.integers(180, 320, size=5)
    picture = np.zeros(i.shape)
    head = (i / 0.82) ** 2 + (j / 0.92) ** 2 + (k / 0.95) ** 2 < 1
    picture[head] = level[0]
    picture[head & ((i / 0.72) ** 2 + (j / 0.82) ** 2 + (k / 0.85) ** 2 < 1)] = level[1] + 250
    picture[(i - 0.3) ** 2 + (j + 0.25) ** 2 + (k - 0.2) ** 2 < 0.05] = level[2] + 700
    picture[(abs(i + 0.35) < 0.12) & (abs(j - 0.3) < 0.25) & (abs(k + 0.3) < 0.3)] = level[3] + 900
    # An L of bright voxels near the first corner tells every axis and direction apart.
    picture[4:16, 4:6, 1:3] = 1500
    picture[4:6, 4:12, 1:3] = 1500
    picture[4:6, 4:6, 1:6] = 1500
    picture += random.integers(0, 20, size=picture.shape)
    return np.clip(picture, 0, 2000).astype(np.int16)


class Scanner:
    """Makes the files of one series; the volume is computed once, when first wanted. Thread-safe."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self._lock = threading.Lock()
        self._volume: Volume | None = None
        self._slice_size: int | None = None

    def volume(self) -> Volume:
        with self._lock:
            if self._volume is None:
                self._volume = volume(self.series)
            return self._volume

    def slice_size(self) -> int:
        """Bytes of each DICOM file: all of a series have the same length, by fixed-width numbers."""
        if self._slice_size is None:
            self._slice_size = len(self.dicom(0))
        return self._slice_size

    def dicom(self, index: int) -> bytes:
        """One slice as a DICOM file."""
        return _dicom(self.series, index, self.volume()[:, :, index].T)

    def dicom_maker(self, index: int) -> Callable[[], bytes]:
        return lambda: self.dicom(index)

    def scaled(self) -> npt.NDArray[np.floating[Any]]:
        """Values after slope and intercept."""
        slope = float(self.series.parameters.get("RescaleSlope", 1))
        return self.volume() * slope + float(self.series.parameters.get("RescaleIntercept", 0))

    def nifti(self) -> bytes:
        """The volume as an uncompressed NIfTI-1 file."""
        nibabel: Any = importlib.import_module("nibabel")  # late: it takes a while, and most servers never need it
        stored = self.volume()
        image = nibabel.Nifti1Image(stored, self.series.affine())
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(self.series.affine(), 1)
        image.set_qform(self.series.affine(), 1)
        slope = float(self.series.parameters.get("RescaleSlope", 1))
        intercept = float(self.series.parameters.get("RescaleIntercept", 0))
        data = bytearray(image.to_bytes())
        if (slope, intercept) != (1.0, 0.0):
            # nibabel resets the scaling of images it makes: put into the header's fields at 112 and 116.
            data[112:120] = np.array([slope, intercept], "<f4").tobytes()
        return bytes(data)

    def nifti_size(self) -> int:
        return 352 + 2 * self.series.columns * self.series.rows * self.series.slices

    def nifti_gz(self) -> bytes:
        return gzip.compress(self.nifti(), 6, mtime=0)

    def snapshot(self, scale: int = 4) -> bytes:
        """The middle slice as a PNG."""
        from PIL import Image

        plane = self.volume()[:, :, self.series.slices // 2].T.astype(np.float64)
        grey = np.clip(plane * 255 / max(1.0, plane.max()), 0, 255).astype(np.uint8)
        picture = Image.fromarray(grey).resize((grey.shape[1] * scale, grey.shape[0] * scale), 0)
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()


_CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}


def _number(value: float) -> str:
    """A decimal string of fixed width, so that no file of a series is longer than another."""
    return f"{value:+011.4f}"


def _dicom(series: Series, index: int, plane: Volume) -> bytes:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_CLASSES[series.modality])
    meta.MediaStorageSOPInstanceUID = UID(series.instance_uid(index))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"{UID_ROOT}.1")
    meta.ImplementationVersionName = "XNATFS_DEMO"
    out = FileDataset(io.BytesIO(), Dataset(), file_meta=meta, preamble=bytes(128))
    out.SpecificCharacterSet = "ISO_IR 192"
    out.SOPClassUID, out.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.Modality, out.Manufacturer, out.ManufacturerModelName = series.modality, "XNATFS", "Phantom"
    out.StudyDate = out.SeriesDate = out.AcquisitionDate = out.ContentDate = series.date
    out.StudyTime = "101500"
    out.SeriesTime = out.AcquisitionTime = out.ContentTime = f"10{15 + series.number % 40:02d}00"
    out.AccessionNumber = f"ACC{series.study:05d}"
    out.StudyDescription, out.SeriesDescription = "XNATFS DEMO", series.description
    out.ProtocolName = series.description
    out.PatientName = out.PatientID = series.patient
    out.PatientSex, out.PatientBirthDate = series.sex, series.birth
    out.PatientPosition = "HFS"
    out.StudyInstanceUID, out.SeriesInstanceUID = series.study_uid, series.series_uid
    out.FrameOfReferenceUID = f"{series.study_uid}.1"
    out.StudyID, out.SeriesNumber = str(series.study), str(series.number)
    out.AcquisitionNumber, out.InstanceNumber = "1", f"{index + 1:04d}"
    position = series.origin() + series.normal * series.thickness * index
    out.ImagePositionPatient = [_number(value) for value in position]
    out.ImageOrientationPatient = [_number(value) for value in series.orientation]
    out.SliceLocation = _number(float(position @ series.normal))
    out.SliceThickness = out.SpacingBetweenSlices = f"{series.thickness:.3f}"
    out.PixelSpacing = [f"{value:.3f}" for value in series.spacing]
    for keyword, value in series.parameters.items():
        setattr(out, keyword, value)
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.Rows, out.Columns = series.rows, series.columns
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 16, 15, 1
    out.WindowCenter, out.WindowWidth = "600", "1200"
    out.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()
    buffer = io.BytesIO()
    out.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def mr(**parameters: Any) -> dict[str, Any]:
    """Attributes of an MR series."""
    return {
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "MRAcquisitionType": "3D",
        "MagneticFieldStrength": "3",
        "RepetitionTime": "2300",
        "EchoTime": "2.98",
        "FlipAngle": "9",
        **parameters,
    }


def ct() -> dict[str, Any]:
    return {
        "KVP": "120",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        "RescaleType": "HU",
        "GantryDetectorTilt": "0",
    }


def pet() -> dict[str, Any]:
    return {
        "Units": "BQML",
        "RescaleIntercept": "0",
        "RescaleSlope": "2.5",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN"],
        "SeriesType": ["STATIC", "IMAGE"],
        "NumberOfSlices": 24,
        "ActualFrameDuration": "60000",
    }
