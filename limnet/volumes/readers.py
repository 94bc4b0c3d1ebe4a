"""Images as files hold them: NIfTI, a folder with one DICOM series, a folder of frames."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from jaxtyping import Float, UInt8
from nibabel.affines import voxel_sizes
from PIL import Image

from limnet.volumes.lazy import LARGE, LazyImages, map_voxels

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")
UNITS_MM = {"meter": 1000.0, "micron": 0.001}  # a NIfTI without units is taken to be in mm
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point left and back, NIfTI's right and front
STEP_TOLERANCE = 0.1  # of the distance between slices: positions in DICOM headers are rounded
DESCRIPTION = ("SeriesInstanceUID", "SeriesDescription", "Modality", "NumberOfFrames")
DEPTH = ("SamplesPerPixel", "SpacingBetweenSlices", "SliceThickness")
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
NO_LABEL = 255  # of a colour that means none

Colours = Mapping[tuple[int, int, int], int]  # (red, green, blue) in label frames -> id, 0 to 254


@dataclass(frozen=True, eq=False)
class FileGrid:
    """The voxel grid of a file, and how slices are cut from it."""

    affine: Float[np.ndarray, "4 4"]  # file voxel -> mm, RAS+
    header: nibabel.Nifti1Header  # of masks to save: shape (perhaps 4D), codes, units
    axes: tuple[int, int, int] = (2, 1, 0)  # the file axes that are slices, rows, columns
    flips: tuple[int, ...] = ()  # those of slices (0), rows (1), columns (2) that run against them
    source: Path | None = None  # the file or folder it came from

    def to_slices(self, data: np.ndarray | LazyImages) -> np.ndarray | LazyImages:
        """An array in file order as (slices, height, width, ...); a view."""
        if isinstance(data, LazyImages):
            return replace(data, stored=self.to_slices(data.stored))
        return np.flip(np.transpose(data, (*self.axes, *range(3, data.ndim))), self.flips)

    def to_file(self, slices: np.ndarray) -> np.ndarray:
        """An array (slices, height, width) in the order and shape of the file."""
        ordered = np.transpose(np.flip(slices, self.flips), np.argsort(self.axes))
        return ordered.reshape(self.header.get_data_shape())

    def slices_affine(self) -> Float[np.ndarray, "4 4"]:
        """(slice_index, row, column) -> mm, RAS+."""
        to_file = np.eye(4)[[*np.argsort(self.axes), 3]]
        for axis in self.flips:
            file_axis = self.axes[axis]
            to_file[file_axis, axis] = -1
            to_file[file_axis, 3] = self.header.get_data_shape()[file_axis] - 1
        return self.affine @ to_file

    def __str__(self) -> str:
        spacing, origin = voxel_sizes(self.affine).round(4), self.affine[:3, 3].round(3)
        return (
            f"file shape {self.header.get_data_shape()}, axes"
            f" {''.join(nibabel.aff2axcodes(self.affine))}, spacing {spacing.tolist()} mm,"
            f" first voxel at {origin.tolist()} mm"
        )


def read_file(
    path: Path, *, frames_as: str | Colours | None, in_memory: bool | None = True
) -> tuple[np.ndarray | LazyImages, FileGrid, str | None]:
    """What a file or folder holds in the file's own order, its grid, its modality if it says so.

    Args:
        frames_as: the mode that frames are converted to; None for grey or palette values as such;
            for frames whose colours are labels, their ids.
        in_memory: as of `Volume.read`.
    """
    if in_memory is False and not path.name.lower().endswith(".nii"):
        raise ValueError(
            f"only an uncompressed .nii can be read slice by slice, got {path}; decompress or"
            " convert it, or read it into memory"
        )
    if path.name.lower().endswith(NIFTI_SUFFIXES) and path.is_file():
        return _read_nifti(path, in_memory)
    if not path.is_dir():
        raise ValueError(
            "an image must be an existing .nii or .nii.gz file, or folder with one DICOM series or"
            f" png or jpg frames, got {path}; check the path, or convert it"
        )
    files = [file for file in path.iterdir() if file.is_file() and file.name[0] != "."]
    frames = [file for file in files if file.suffix.lower() in FRAME_SUFFIXES]
    others = [file for file in files if file not in frames]
    dicom = [
        file for file in others if file.suffix.lower() == ".dcm" or pydicom.misc.is_dicom(file)
    ]
    if not dicom and not frames:
        raise ValueError(
            f"a folder must hold one DICOM series or png or jpg frames, got none in {path} among"
            f" {len(files)} files; name the folder that holds them itself"
        )
    return _read_dicom(dicom) if dicom else _read_frames(frames, frames_as)


def _read_nifti(
    path: Path, in_memory: bool | None
) -> tuple[np.ndarray | LazyImages, FileGrid, None]:
    with _reading(path):
        image = nibabel.load(path)
        shape, stored, file_affine = image.shape, image.dataobj, image.affine
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)):
            raise ValueError(f"its shape is {shape}, not 3D or 4D with one channel")
        is_scaled = (stored.slope, stored.inter) != (1, 0)
        data = map_voxels(path, stored) if path.name.lower().endswith(".nii") else None
        is_large = data is not None and math.prod(shape) * stored.dtype.itemsize > LARGE
        if data is None or in_memory or (in_memory is None and not is_large):
            data = np.asarray(stored, dtype=np.float32 if is_scaled else None).reshape(shape[:3])
        header = image.header.copy()
        header["cal_min"] = header["cal_max"] = 0  # the image's display range is not the masks'
        header.extensions.clear()  # may name the patient
        scale = UNITS_MM.get(header.get_xyzt_units()[0], 1.0)
    affine = np.diag([scale, scale, scale, 1.0]) @ file_affine
    return data, FileGrid(_invertible(affine, path), header), None


def _read_dicom(paths: list[Path]) -> tuple[np.ndarray, FileGrid, str | None]:
    folder, slices = paths[0].parent, []
    for path in paths:
        with _reading(path):
            dataset = pydicom.dcmread(path)
            for name in (*PLACE, *DESCRIPTION, *DEPTH):
                dataset.get(name)  # pydicom parses a value, and fails, when it is first asked for
            # structure sets, doses, segmentations, reports and indices are no images
            if "Image" in pydicom.uid.UID(dataset.get("SOPClassUID", "Image")).name:
                slices.append(dataset)
    _check_series(slices, folder)
    first = slices[0]
    along_row, along_column = np.reshape(_numbers(first, "ImageOrientationPatient"), (2, 3))
    normal = np.cross(along_row, along_column)
    slices.sort(key=lambda dataset: normal @ _numbers(dataset, "ImagePositionPatient"))
    positions = np.array([_numbers(dataset, "ImagePositionPatient") for dataset in slices])
    thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1
    step = (positions[-1] - positions[0]) / (len(slices) - 1) if slices[1:] else normal * thickness
    # A tilted gantry moves slices sideways as well: the step need not be along the normal.
    even = positions[0] + np.arange(len(slices))[:, None] * step
    uneven = np.linalg.norm(positions - even, axis=1).max()
    if not uneven < STEP_TOLERANCE * np.linalg.norm(step):
        gaps = np.diff(positions @ normal)
        raise ValueError(
            f"slices must be evenly spaced, got gaps from {gaps.min():.2f} to {gaps.max():.2f} mm"
            f" between {len(slices)} slices in {folder}, the widest after slice {gaps.argmax()};"
            " add what is missing, remove what is doubled"
        )
    row_spacing, column_spacing = _numbers(first, "PixelSpacing")
    columns = (along_row * column_spacing, along_column * row_spacing, step, positions[0])
    affine = np.vstack([LPS_TO_RAS @ np.stack(columns, axis=1), [0, 0, 0, 1]])
    data = np.stack([_rescaled_pixels(dataset) for dataset in slices], axis=-1).swapaxes(0, 1)
    fits_int16 = data.dtype.kind == "i" and data.min() >= -(2**15) and data.max() < 2**15
    data = data.astype(np.int16 if fits_int16 else np.float32)
    return data, new_grid(data.shape, affine, folder), first.get("Modality")


def _check_series(slices: list[pydicom.Dataset], folder: Path) -> None:
    """All are single grey slices of one series, placed in space, parallel and of one size."""
    names = [f"{s.get('SeriesInstanceUID')} ({s.get('SeriesDescription', '')})" for s in slices]
    if len(set(names)) != 1:
        found = "; ".join(f"{name}: {count} images" for name, count in Counter(names).items())
        raise ValueError(
            f"a folder must hold one DICOM series, got {len(set(names))} in {folder}: {found or 0};"
            " move each into a folder of its own"
        )
    for dataset in slices:
        absent = [name for name in PLACE if not dataset.get(name)]
        layers = [dataset.get(name) or 1 for name in ("NumberOfFrames", "SamplesPerPixel")]
        if absent or max(layers) > 1:
            raise ValueError(
                "DICOM files must be single grey slices with a place in space, but"
                f" {dataset.filename} lacks {absent or 'that'}; convert the series to NIfTI first"
            )
        for name in PLACE[1:]:
            here, there = _numbers(slices[0], name), _numbers(dataset, name)
            if not np.allclose(here, there, atol=1e-3):
                raise ValueError(
                    f"slices must share {name}, got {here} and {there} in {folder}; move scout"
                    " images to another folder"
                )


def _numbers(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    with _reading(f"{name} of {dataset.filename}"):
        sizes = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
        return np.array(dataset[name].value, dtype=np.float64).reshape(sizes.get(name, 1))


def _rescaled_pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """(rows, columns) in the units of the series, int32 as long as nothing is lost."""
    with _reading(dataset.filename):
        pixels = dataset.pixel_array
        slope = float(dataset.get("RescaleSlope") or 1)
        intercept = float(dataset.get("RescaleIntercept") or 0)
    if slope == 1 and intercept.is_integer():
        return pixels.astype(np.int32) + int(intercept)
    return pixels.astype(np.float32) * slope + intercept


def _read_frames(
    paths: list[Path], frames_as: str | Colours | None
) -> tuple[np.ndarray, FileGrid, str | None]:
    mode = frames_as if frames_as is None or isinstance(frames_as, str) else "RGB"
    ids = None if mode is frames_as else np.full(1 << 24, NO_LABEL, np.uint8)  # of 24-bit colours
    if ids is not None:
        for (red, green, blue), label in frames_as.items():
            ids[red << 16 | green << 8 | blue] = label
    frames = []
    parts = {path: re.split(r"(\d+)", path.name) for path in paths}  # text and numbers in turns
    for path in sorted(paths, key=lambda path: (parts[path][::2], [*map(int, parts[path][1::2])])):
        with _reading(path), Image.open(path) as image:
            is_fit = image.mode[0] not in "IF" if mode else image.mode in ("1", "L", "P", "I;16")
            if not is_fit:
                raise ValueError(
                    f"its mode is {image.mode}; frames are 8-bit, masks grey or palette"
                )
            frame = np.asarray(image.convert(mode) if mode else image)
        frames.append(frame if ids is None else _labels_of_colours(frame, ids, path))
    sizes = sorted({frame.shape for frame in frames})
    if len(sizes) > 1:
        raise ValueError(
            f"frames must be of one size, got {sizes} in {paths[0].parent}; resize or move some"
        )
    data = np.stack(frames, axis=2).swapaxes(0, 1)
    # Rows run to the back and columns to the left, so that a saved mask opens upright.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return data, new_grid(data.shape[:3], affine, paths[0].parent), mode


def _labels_of_colours(
    frame: UInt8[np.ndarray, "height width 3"], ids: UInt8[np.ndarray, " colours"], path: Path
) -> UInt8[np.ndarray, "height width"]:
    codes = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    labels = ids[codes]
    unknown = np.unique(codes[labels == NO_LABEL])
    if unknown.size:
        named = [(code >> 16, code >> 8 & 255, code & 255) for code in unknown[:3].tolist()]
        raise ValueError(
            f"every colour of a label frame must stand for a label, but {path} has"
            f" {', '.join(map(str, named))}{' and others' * (unknown.size > 3)}, which none does;"
            " save it without smoothing or compression, or name the colour's label"
        )
    return labels


def new_grid(shape: Sequence[int], affine: np.ndarray, where: str | Path) -> FileGrid:
    """The grid of images that came without a NIfTI header, in file order."""
    grid = FileGrid(_invertible(affine, where), nibabel.Nifti1Header())
    grid.header.set_data_shape(shape)
    grid.header.set_qform(affine, code=0)  # for the spacing only: it cannot hold a tilted gantry
    grid.header.set_sform(affine, code=1)
    grid.header.set_xyzt_units("mm")
    return grid


def _invertible(affine: np.ndarray, where: str | Path) -> np.ndarray:
    lengths = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * lengths:
        raise ValueError(
            "an affine must span three dimensions, got the singular or infinite"
            f" {affine.tolist()} in {where}; repair the header (sform, qform, pixdim)"
        )
    return affine


@contextmanager
def _reading(what: str | Path) -> Iterator[None]:
    """Files are untrusted, and readers fail in many ways: each becomes a ValueError with a name."""
    try:
        yield
    except MemoryError as error:
        raise ValueError(
            f"{what} must fit into memory, but: {error}; an uncompressed .nii is read slice by"
            " slice"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{what} must be whole and readable, but: {error}; copy or export it again"
        ) from error
