"""Images as files hold them: NIfTI, a folder with one DICOM series, a folder of frames.

Files are untrusted: whatever is wrong with one ends in a ValueError that names it.
"""

import os
import re
import uuid
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pydicom
from jaxtyping import Float
from PIL import Image

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")
UNITS_MM = {"meter": 1000.0, "micron": 0.001}  # a NIfTI without units is taken to be in mm
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point left and back, NIfTI's right and front
GEOMETRY = (  # all but the first are the same in every slice
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
STEP_TOLERANCE = 0.1  # of the distance between slices: positions in DICOM headers are rounded

UNREADABLE_NIFTI = (
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
    zlib.error,
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)


class StoredImage(NamedTuple):
    """What a file holds, in the file's own order."""

    data: np.ndarray  # (file axis 0, 1, 2), with a fourth axis of 3 for RGB
    affine: Float[np.ndarray, "4 4"]  # file voxel -> mm, RAS+
    header: nibabel.Nifti1Header  # of a NIfTI on the same grid
    modality: str | None  # None: to be guessed from the intensities


def read_image(path: Path) -> StoredImage:
    """The one image in a NIfTI file, or in a folder of DICOM files or of frames.

    Data of folders are in the order of NIfTI: (column, row, slice).

    Raises:
        ValueError: what is there is not one readable image; the message says what to do.
    """
    if not path.is_dir():
        return _read_nifti(path)
    files = _files(path)
    dicom = [file for file in files if file.suffix.lower() == ".dcm" or _is_dicom(file)]
    return _read_dicom(path, dicom) if dicom else _read_frames(path, files, to_mode="RGB")


def read_label_map(path: Path) -> StoredImage:
    """As `read_image`, but a folder holds mask images whose grey or palette index is the label."""
    return _read_frames(path, _files(path)) if path.is_dir() else _read_nifti(path)


def write_nifti(data: np.ndarray, header: nibabel.Nifti1Header, path: Path) -> None:
    """Write data under a header's grid; a file in the way is replaced at once or not at all."""
    if nifti_suffix(path) is None or not path.parent.is_dir():
        raise ValueError(
            f"masks are saved as .nii or .nii.gz in a folder that exists, got {path}; create the"
            " folder or change the name"
        )
    header = header.copy()
    header.set_data_dtype(data.dtype)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    partial = path.with_name(f".{uuid.uuid4().hex}{nifti_suffix(path)}")
    try:
        kind(data, None, header).to_filename(partial)  # no affine: the header's forms stay as read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def nifti_header(shape: Sequence[int], affine: np.ndarray) -> nibabel.Nifti1Header:
    """The header of a NIfTI with this affine, in mm."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(affine, code=0)  # for the spacing only: it cannot hold a tilted gantry
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    return header


def nifti_suffix(path: Path) -> str | None:
    """The part of a file name that says NIfTI, None in other names."""
    return next((end for end in NIFTI_SUFFIXES if path.name.lower().endswith(end)), None)


def check_affine(affine: np.ndarray, where: str | Path) -> None:
    """Refuse an affine that is not finite or flattens the volume."""
    directions = affine[:3, :3]
    volume = np.prod(np.linalg.norm(directions, axis=0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(directions)) <= 1e-6 * volume:
        raise ValueError(
            f"the affine must place voxels in three dimensions, got {affine.tolist()} in {where},"
            " which is singular or infinite; repair the header (sform, qform, pixdim)"
        )


def _read_nifti(path: Path) -> StoredImage:
    if not path.exists():
        raise ValueError(f"the image must exist, got {path}; check the path")
    if nifti_suffix(path) is None:
        raise ValueError(
            "an image is a .nii or .nii.gz file, or a folder with one DICOM series or frames, got"
            f" {path}; convert it, or give its folder"
        )
    try:
        image = nibabel.load(path)
        shape, stored = image.shape, image.dataobj
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or 0 in shape:
            raise ValueError(f"its shape is {shape}, not 3D or 4D with one channel")
        is_scaled = (stored.slope, stored.inter) != (1, 0)
        data = np.asarray(stored, dtype=np.float32 if is_scaled else None).reshape(shape[:3])
        affine = image.affine
    except UNREADABLE_NIFTI as error:
        raise ValueError(
            f"a NIfTI file must be whole and hold one 3D image, but {path} does not: {error};"
            " copy or export it again"
        ) from error
    header = image.header.copy()
    header["cal_min"] = header["cal_max"] = 0  # the image's display range is not the masks'
    header.extensions.clear()  # may name the patient
    scale = UNITS_MM.get(header.get_xyzt_units()[0], 1.0)
    return StoredImage(data, np.diag([scale, scale, scale, 1]) @ affine, header, None)


def _files(folder: Path) -> list[Path]:
    """The files of a folder by name, numbers in the names by value."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    if not files:
        raise ValueError(f"a folder must hold a DICOM series or frames, got no files in {folder}")
    parts = {path: re.split(r"(\d+)", path.name) for path in files}  # text and numbers in turns
    return sorted(files, key=lambda path: (parts[path][::2], list(map(int, parts[path][1::2]))))


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() not in FRAME_SUFFIXES and pydicom.misc.is_dicom(path)


def _read_dicom(folder: Path, paths: list[Path]) -> StoredImage:
    slices = [dataset for dataset in map(_dicom_dataset, paths) if _is_slice(dataset)]
    _check_one_series(folder, slices)
    first = slices[0]
    along_row, along_column = np.reshape(_numbers(first, "ImageOrientationPatient"), (2, 3))
    row_spacing, column_spacing = _numbers(first, "PixelSpacing")
    normal = np.cross(along_row, along_column)
    slices.sort(key=lambda dataset: normal @ _numbers(dataset, "ImagePositionPatient"))
    positions = np.array([_numbers(dataset, "ImagePositionPatient") for dataset in slices])
    step = _slice_step(folder, positions, normal, first)
    columns = (along_row * column_spacing, along_column * row_spacing, step, positions[0])
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS @ np.stack(columns, axis=1)
    data = np.stack([_rescaled_pixels(dataset) for dataset in slices], axis=-1).swapaxes(0, 1)
    fits_int16 = data.dtype.kind == "i" and data.min() >= -(2**15) and data.max() < 2**15
    data = data.astype(np.int16 if fits_int16 else np.float32)
    return StoredImage(data, affine, nifti_header(data.shape, affine), first.get("Modality"))


def _dicom_dataset(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path)
    except (pydicom.errors.InvalidDicomError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be a whole DICOM file: {error}; export it again") from error


def _is_slice(dataset: pydicom.Dataset) -> bool:
    """Not a structure set, dose, segmentation, report or the folder's index."""
    return "Image" in pydicom.uid.UID(dataset.get("SOPClassUID", "Image")).name


def _numbers(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    return np.array(dataset[name].value, dtype=np.float64)


def _check_one_series(folder: Path, slices: list[pydicom.Dataset]) -> None:
    """All are slices of one series: single-frame, grey, placed in space, parallel, of one size."""
    series = Counter(
        f"{dataset.get('SeriesInstanceUID')} ({dataset.get('SeriesDescription', 'no name')})"
        for dataset in slices
    )
    if len(series) != 1:
        found = "; ".join(f"{name}: {count} files" for name, count in series.items()) or "none"
        raise ValueError(
            f"a folder must hold the images of one DICOM series, got {len(series)} in {folder}:"
            f" {found}; move each into a folder of its own"
        )
    for dataset in slices:
        lacking = [name for name in GEOMETRY if not dataset.get(name)]
        if lacking or dataset.get("NumberOfFrames", 1) > 1 or dataset.get("SamplesPerPixel", 1) > 1:
            raise ValueError(
                "DICOM slices must be single grey frames placed in space, but"
                f" {dataset.filename} has several frames, colours, or no {lacking or 'place'};"
                " convert the series to NIfTI, for example with dcm2niix"
            )
        for name in GEOMETRY[1:]:
            here, there = _numbers(slices[0], name), _numbers(dataset, name)
            if here.shape != there.shape or not np.allclose(here, there, atol=1e-3):
                raise ValueError(
                    f"slices of a series must share {name}, got {here.tolist()} and"
                    f" {there.tolist()} in {folder}; move scout images elsewhere"
                )


def _slice_step(
    folder: Path, positions: np.ndarray, normal: np.ndarray, first: pydicom.Dataset
) -> np.ndarray:
    """From one slice to the next in mm, as DICOM's axes run; a tilted gantry makes it oblique."""
    count = len(positions)
    if count == 1:
        return normal * float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1)
    step = (positions[-1] - positions[0]) / (count - 1)
    even = positions[0] + np.arange(count)[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() >= STEP_TOLERANCE * np.linalg.norm(step):
        gaps = np.diff(positions @ normal)
        raise ValueError(
            f"slices must be evenly spaced, got gaps from {gaps.min():.2f} to {gaps.max():.2f} mm"
            f" between {count} slices in {folder}, the widest after slice {gaps.argmax()} from the"
            " start; add the missing slices, remove doubled ones"
        )
    return step


def _rescaled_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """(rows, columns) in the units of the series, int32 as long as nothing is lost."""
    try:
        pixels = dataset.pixel_array
    except (ValueError, AttributeError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"the pixels of {dataset.filename} must be whole and readable: {error}; export the"
            " series again, uncompressed"
        ) from error
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    if slope == 1 and intercept.is_integer():
        return pixels.astype(np.int32) + int(intercept)
    return pixels.astype(np.float32) * slope + intercept


def _read_frames(folder: Path, files: list[Path], *, to_mode: str | None = None) -> StoredImage:
    frames = [_frame(path, to_mode) for path in files if path.suffix.lower() in FRAME_SUFFIXES]
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1:
        raise ValueError(
            "a folder must hold DICOM files, or png or jpg frames of one size, got sizes"
            f" {shapes} from {len(files)} files in {folder}; keep one kind in it"
        )
    data = np.stack(frames, axis=2).swapaxes(0, 1)
    # One millimetre a pixel; rows run to the back and columns to the left, so that a saved mask
    # opens upright.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return StoredImage(data, affine, nifti_header(data.shape[:3], affine), to_mode)


def _frame(path: Path, to_mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if to_mode is None and image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ValueError(f"a mask image must be grey or of a palette, got {image.mode}")
            if to_mode is not None and image.mode.startswith(("I", "F")):
                raise ValueError(f"a frame must have 8 bits a channel, got {image.mode}")
            return np.asarray(image.convert(to_mode) if to_mode else image)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} must be a whole image: {error}; write it again") from error
