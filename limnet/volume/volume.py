"""A 3D image as slices, with the way back to its file: NIfTI, DICOM series, RGB frames.

Slices are shown as a radiologist expects: they ascend toward right, front or head; rows run
downward toward the back (axial slices) or the feet; columns run toward the patient's left (axial,
coronal) or back (sagittal). Only axes are exchanged and flipped, so no voxel is ever resampled.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float, Int, Num
from nibabel.affines import apply_affine, voxel_sizes

from limnet.volume.stored_image import (
    check_affine,
    nifti_header,
    read_image,
    read_label_map,
    write_nifti,
)

CT_WINDOWS = {  # Hounsfield units, (low, high): the usual radiology presets
    "abdomen": (-160, 240),
    "lung": (-1350, 150),
    "bone": (-500, 1300),
    "brain": (0, 80),
}
DISPLAY_SIGNS = (1, -1, -1)  # slices, rows, columns along R+, A+, S+
GRID_TOLERANCE = 0.05  # of the finest spacing, at any corner: headers are float32 and rounded
PERCENTILES = (0.5, 99.5)  # of what is brighter than the background
PERCENTILE_SAMPLE = 1_000_000  # voxels

Window = tuple[float | int, float | int]


@dataclass(frozen=True, eq=False)
class FileGrid:
    """The voxel grid of a file, and how slices were cut from it."""

    affine: Float[np.ndarray, "4 4"]  # file voxel -> mm, RAS+
    axes: tuple[int, int, int]  # the file axes that became slices, rows, columns
    flips: tuple[int, ...]  # those of slices (0), rows (1), columns (2) that run against theirs
    header: nibabel.Nifti1Header  # of the masks to save: shape (perhaps 4D), codes, units
    source: Path | None = None  # the file or folder it came from

    def to_slices(self, data: np.ndarray) -> np.ndarray:
        """An array in file order as (slices, height, width, ...); a view."""
        return np.flip(np.transpose(data, (*self.axes, *range(3, data.ndim))), self.flips)

    def to_file(self, slices: np.ndarray) -> np.ndarray:
        """An array (slices, height, width) in the order and shape of the file; a view."""
        ordered = np.transpose(np.flip(slices, self.flips), np.argsort(self.axes))
        return ordered.reshape(self.header.get_data_shape())

    def slices_affine(self) -> Float[np.ndarray, "4 4"]:
        """(slice_index, row, column) -> mm, RAS+."""
        to_file = np.eye(4)[:, [*np.argsort(self.axes), 3]].T
        for axis in self.flips:
            file_axis = self.axes[axis]
            to_file[file_axis, axis] = -1
            to_file[file_axis, 3] = self.header.get_data_shape()[file_axis] - 1
        return self.affine @ to_file


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image cut into slices. Made by `Volume.read` and `Volume.from_array`."""

    images: Num[np.ndarray, "slices height width *rgb"]  # raw intensities (HU in CT)
    spacing_mm: tuple[float, float, float]  # (slice, row, column)
    affine: Float[np.ndarray, "4 4"]  # (slice_index, row, column) of `images` -> mm, RAS+
    modality: str  # "CT", "RGB", DICOM's own word, or "other": guessed where the file is silent
    window: tuple[float, float]  # raw intensities shown as 0 and 1
    grid: FileGrid

    @classmethod
    def read(
        cls, path: str | Path, *, slice_axis: int | None = None, window: Window | str | None = None
    ) -> "Volume":
        """The volume in a NIfTI file, a folder with one DICOM series, or a folder of RGB frames.

        16-bit files stay 16-bit; scaled and 64-bit floating point ones become float32.

        Args:
            slice_axis: file axis that runs through the slices; by default the one of coarsest
                spacing, of equals the last. DICOM and frames count as (column, row, slice).
            window: intensities shown as 0 and 1, or a name of `CT_WINDOWS`. By default "abdomen"
                for CT and percentiles otherwise.

        Raises:
            ValueError: what is there is not one readable, finite, evenly spaced 3D image.
        """
        path = Path(path)
        stored = read_image(path)
        check_affine(stored.affine, path)
        axes, flips = _display_axes(stored.affine, slice_axis)
        grid = FileGrid(stored.affine, axes, flips, stored.header, path.resolve())
        return _volume(grid.to_slices(stored.data), grid, stored.modality, window)

    @classmethod
    def from_array(
        cls,
        images: np.ndarray,
        spacing_mm: Sequence[float | int] = (1.0, 1.0, 1.0),
        affine: np.ndarray | None = None,
        *,
        modality: str | None = None,
        window: Window | str | None = None,
    ) -> "Volume":
        """A volume of slices that are in memory, (slices, height, width) or with RGB last.

        Args:
            spacing_mm: (slice, row, column); not used where `affine` says it.
            affine: (slice_index, row, column) -> mm; by default axial slices, the first voxel at 0.
        """
        if affine is None:
            to_slice, to_row, to_column = spacing_mm
            affine = np.zeros((4, 4))
            affine[[2, 1, 0, 3], [0, 1, 2, 3]] = to_slice, -to_row, -to_column, 1
        affine = np.asarray(affine, dtype=np.float64)
        check_affine(affine, "this array")
        file_affine = affine[:, [2, 1, 0, 3]]
        header = nifti_header(images.shape[2::-1], file_affine)
        grid = FileGrid(file_affine, (2, 1, 0), (), header)
        if images.ndim == 4:
            modality = "RGB"
        return _volume(images, grid, modality, window)

    def with_window(self, window: Window | str | None) -> "Volume":
        """The same volume shown with another (low, high), preset name or, for None, the default."""
        return replace(self, window=_window(window, self.images, self.modality))

    def rgb(
        self, slice_indices: Sequence[int] | Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "n 3 height width"]:
        """Slices (all by default) in the window as float32 in [0, 1], what the networks take."""
        selected = self.images if slice_indices is None else self.images[list(slice_indices)]
        low, high = self.window
        shown = (selected.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        shown = shown.clip(0, 1, out=shown)
        if shown.ndim == 4:
            return np.ascontiguousarray(np.moveaxis(shown, -1, 1))
        return np.repeat(shown[:, None], 3, axis=1)

    def position_mm(
        self, slice_index: float | int, row: float | int, column: float | int
    ) -> Float[np.ndarray, " 3"]:
        """Where a voxel's centre is: millimetres toward right, front and head (RAS+)."""
        return apply_affine(self.affine, (slice_index, row, column))

    def voxel_at(
        self, position_mm: Sequence[float | int] | Num[np.ndarray, " 3"]
    ) -> tuple[int, int, int]:
        """(slice_index, row, column) of the voxel nearest to a position in RAS+ millimetres."""
        nearest = np.rint(apply_affine(np.linalg.inv(self.affine), position_mm)).astype(int)
        shape = self.images.shape[:3]
        if not all(0 <= index < size for index, size in zip(nearest, shape, strict=True)):
            raise ValueError(
                f"the position must be inside the volume of {shape} voxels, got {position_mm} mm,"
                f" which is voxel {tuple(nearest.tolist())}; give RAS+ millimetres"
            )
        return tuple(nearest.tolist())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the raw intensities, their type and shape."""
        sha256 = hashlib.sha256(f"{self.images.dtype.str} {self.images.shape}".encode())
        sha256.update(self.images)
        return sha256.hexdigest()

    def read_labels(self, path: str | Path) -> Int[np.ndarray, "slices height width"]:
        """Labels of a NIfTI file or a folder of mask images, int32 on this volume's grid.

        A label map on the same voxels in another order of axes is brought to this one.

        Raises:
            ValueError: the file cannot be read, holds fractions, or is on another grid.
        """
        path = Path(path)
        stored = read_label_map(path)
        check_affine(stored.affine, path)
        to_slices = (np.linalg.inv(self.affine) @ stored.affine)[:3, :3]
        axes = tuple(np.abs(to_slices).argmax(axis=1).tolist())
        flips = tuple(np.flatnonzero(to_slices[range(3), axes] < 0).tolist())
        grid = FileGrid(stored.affine, axes, flips, stored.header)
        if sorted(axes) != [0, 1, 2] or not self._is_on(grid, grid.to_slices(stored.data).shape):
            raise ValueError(
                f"labels must be on the grid of the volume, {_describe(self.grid)}, but {path} is"
                f" on {_describe(grid)}; resample the labels to the volume first"
            )
        with np.errstate(invalid="ignore"):
            labels = stored.data.astype(np.int32)
        if not np.array_equal(labels, stored.data):
            raise ValueError(f"labels must be whole numbers, got {stored.data.dtype} in {path}")
        return np.ascontiguousarray(grid.to_slices(labels))

    def _is_on(self, grid: FileGrid, shape: tuple[int, ...]) -> bool:
        corners = list(product(*((0, size - 1) for size in self.images.shape[:3])))
        here, there = (apply_affine(a, corners) for a in (self.affine, grid.slices_affine()))
        apart = np.linalg.norm(here - there, axis=-1).max()
        return shape == self.images.shape[:3] and apart <= GRID_TOLERANCE * min(self.spacing_mm)

    def save_masks(self, masks: np.ndarray, path: str | Path) -> None:
        """Write masks as NIfTI on the exact grid of the file that the volume was read from.

        Shape (4D with one channel included), affine, codes and units are the input's; DICOM and
        frames get (column, row, slice) with the series' affine, frames 1 mm apart. The type is
        uint8, or int16 for labels above 255. A file in the way is replaced at once or not at all.

        Args:
            masks: (slices, height, width), bool or labels from 0 to 32767.

        Raises:
            ValueError: masks of another shape or type, or a path that cannot be written.
        """
        path = Path(path)
        masks = np.asarray(masks)
        if masks.shape != self.images.shape[:3] or masks.dtype.kind not in "bui":
            raise ValueError(
                f"masks must be bool or integer of shape {self.images.shape[:3]}, got"
                f" {masks.dtype} of shape {masks.shape}; threshold probabilities first"
            )
        if masks.size and (masks.min() < 0 or masks.max() > np.iinfo(np.int16).max):
            raise ValueError(
                f"labels must be 0 to 32767, got {masks.min()} to {masks.max()}; number them anew"
            )
        if path.resolve() == self.grid.source:
            raise ValueError(f"masks must not overwrite their image {path}; choose another name")
        dtype = np.uint8 if masks.max(initial=0) <= np.iinfo(np.uint8).max else np.int16
        write_nifti(self.grid.to_file(masks.astype(dtype)), self.grid.header, path)


def _volume(
    images: np.ndarray, grid: FileGrid, modality: str | None, window: Window | str | None
) -> Volume:
    """A checked Volume; the images are copied into the memory order of slices."""
    is_rgb = modality == "RGB" and images.shape[3:] == (3,)
    if not (images.ndim == 3 or is_rgb) or 0 in images.shape or images.dtype.kind not in "uif":
        raise ValueError(
            "images must be numbers of shape (slices, height, width), or (slices, height, width, 3)"
            f" for RGB, none of them 0, got {images.dtype} of shape {images.shape}"
        )
    dtype = np.float32 if images.dtype.kind == "f" else images.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        images = np.array(images, dtype=dtype, order="C")
    broken = images.size - np.count_nonzero(np.isfinite(images))
    if broken:
        raise ValueError(
            f"every voxel must be a finite number, got {broken} NaN or infinite of {images.size} in"
            f" {grid.source or 'this array'}; replace them (numpy.nan_to_num) and save again"
        )
    if modality is None:
        # Air is -1000 HU, and scanners pad with down to -3024; MR phase images start at -4096.
        modality = "CT" if -3100 <= images.min() <= -500 else "other"
    affine = grid.slices_affine()
    spacing_mm = tuple(voxel_sizes(affine).tolist())
    return Volume(images, spacing_mm, affine, modality, _window(window, images, modality), grid)


def _window(window: Window | str | None, images: np.ndarray, modality: str) -> tuple[float, float]:
    if window is None and modality == "CT":
        window = "abdomen"
    if isinstance(window, str):
        if window not in CT_WINDOWS:
            raise ValueError(f"window must be one of {sorted(CT_WINDOWS)} or a pair, got {window}")
        window = CT_WINDOWS[window]
    if window is None and modality == "RGB":
        window = (0, 255)
    if window is None:
        sample = images.reshape(-1)[:: images.size // PERCENTILE_SAMPLE | 1]
        foreground = sample[sample > images.min()]
        window = np.percentile(foreground, PERCENTILES) if foreground.size else (0, 0)
        if window[0] >= window[1]:  # a constant image, or two values
            window = (float(images.min()), float(max(images.max(), images.min() + 1.0)))
    low, high = (float(limit) for limit in window)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"window must be finite with low < high, got ({low}, {high})")
    return low, high


def _display_axes(
    affine: np.ndarray, slice_axis: int | None
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """The file axes of slices, rows and columns, and which of these to flip."""
    if slice_axis is None:
        spacing = voxel_sizes(affine)
        slice_axis = int(np.flatnonzero(spacing >= 0.999 * spacing.max())[-1])
    if slice_axis not in (0, 1, 2):
        raise ValueError(f"slice_axis must be a file axis, 0, 1 or 2, got {slice_axis}")
    anatomical, signs = nibabel.io_orientation(affine).astype(int).T  # nearest of R, A, S; + or -
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    column, row = sorted(in_plane, key=lambda axis: anatomical[axis])
    axes = (slice_axis, row, column)
    return axes, tuple(axis for axis in range(3) if signs[axes[axis]] != DISPLAY_SIGNS[axis])


def _describe(grid: FileGrid) -> str:
    axes = "".join(nibabel.aff2axcodes(grid.affine))
    spacing, origin = voxel_sizes(grid.affine).round(4), grid.affine[:3, 3].round(3)
    return (
        f"file shape {grid.header.get_data_shape()}, axes {axes}, spacing {spacing.tolist()} mm,"
        f" first voxel at {origin.tolist()} mm"
    )
