"""A 3D image as slices, with the way back to its file: NIfTI, DICOM series, RGB frames.

Slices are shown as a radiologist expects: they ascend toward right, front or head; rows run
downward toward the back (axial slices) or the feet; columns run toward the patient's left, or in
sagittal slices toward the back. Axes are only exchanged and flipped: no voxel is resampled.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TypeVar

import nibabel
import numpy as np
from jaxtyping import Float, Int, Integer
from nibabel.affines import apply_affine, voxel_sizes

from limnet.files import atomic_write
from limnet.volumes.lazy import (
    LARGE,
    PLANES,
    SAMPLE,
    Images,
    LazyImages,
    as_used,
    check_finite,
    few_planes,
    is_mapped,
    sampled,
)
from limnet.volumes.masks import PackedMasks
from limnet.volumes.readers import NIFTI_SUFFIXES, Colours, FileGrid, new_grid, read_file

Intensities = TypeVar("Intensities")  # an array, or a tensor

# Hounsfield units, (low, high): the usual radiology presets
CT_WINDOWS = {"abdomen": (-160, 240), "lung": (-1350, 150), "bone": (-500, 1300), "brain": (0, 80)}
PERCENTILES = (0.5, 99.5)  # of what is brighter than the background
GRID_TOLERANCE = 0.05  # of the finest spacing, at any corner: headers are float32 and rounded
DISPLAY_SIGNS = (1, -1, -1)  # slices, rows, columns along R+, A+, S+

Window = tuple[float | int, float | int] | str | None


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image cut into slices. Made by `Volume.read` and `Volume.from_array`."""

    # raw intensities (HU in CT); those of a file that is not in memory are read when indexed
    images: Images
    spacing_mm: tuple[float, float, float]  # (slice, row, column)
    affine: Float[np.ndarray, "4 4"]  # (slice_index, row, column) of `images` -> mm, RAS+
    modality: str  # "CT", "RGB", DICOM's own word, or "other": guessed where the file is silent
    window: tuple[float, float]  # raw intensities shown as 0 and 1
    grid: FileGrid

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        slice_axis: int | None = None,
        window: Window = None,
        in_memory: bool | None = None,
    ) -> "Volume":
        """The volume in a NIfTI file, a folder with one DICOM series, or a folder of RGB frames.

        16-bit files stay 16-bit; scaled and 64-bit floating point ones become float32.

        Args:
            slice_axis: file axis that runs through the slices; by default the one of coarsest
                spacing, of equals the last. DICOM and frames count as (column, row, slice).
            window: intensities shown as 0 and 1, or a name of `CT_WINDOWS`. By default "abdomen"
                for CT and percentiles otherwise.
            in_memory: False leaves the voxels of an uncompressed `.nii` in the file, and each slice
                is read when it is used: window and modality then come from a sample, and what is
                not finite is refused only then. Slices along the file's last axis read fastest. By
                default so beyond a gigabyte (LARGE). The file must then stay as it is.

        Raises:
            ValueError: what is there is not one readable, finite, evenly spaced 3D image, or cannot
                be left in its file.
        """
        path = Path(path)
        data, grid, modality = read_file(path, frames_as="RGB", in_memory=in_memory)
        if slice_axis is None:
            spacing = voxel_sizes(grid.affine)
            slice_axis = int(np.flatnonzero(spacing >= 0.999 * spacing.max())[-1])
        axes, flips = _display_axes(grid.affine, slice_axis)
        grid = replace(grid, axes=axes, flips=flips, source=path.resolve())
        images = grid.to_slices(data)
        # NumPy's view of a file that is read into memory must not stay one
        images = images if is_mapped(images) else _in_memory(images, copy=True)
        return _checked(images, grid, modality, window)

    @classmethod
    def from_array(
        cls,
        images: np.ndarray,
        spacing_mm: Sequence[float | int] = (1.0, 1.0, 1.0),
        affine: np.ndarray | None = None,
        *,
        modality: str | None = None,
        window: Window = None,
    ) -> "Volume":
        """A volume of slices in an array, (slices, height, width) or with RGB as the last axis.

        An array that fits is not copied: do not change it any more. A `numpy.memmap` is read slice
        by slice, as `read` does.

        Args:
            spacing_mm: (slice, row, column); not used where `affine` says it.
            affine: (slice_index, row, column) -> mm; by default axial slices, the first voxel at 0.
        """
        if affine is None:
            affine = np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]] * np.array([[-1], [-1], [1], [1]])
        file_affine = np.asarray(affine, np.float64)[:, [2, 1, 0, 3]]
        grid = new_grid(images.shape[2::-1], file_affine, "this array")
        images = as_used(images) if is_mapped(images) else _in_memory(images, copy=False)
        return _checked(images, grid, "RGB" if images.ndim == 4 else modality, window)

    def rgb(
        self, slice_indices: Sequence[int] | Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "n 3 height width"]:
        """Slices (all by default) in the window as float32 in [0, 1], what the networks take."""
        selected = self.images[:] if slice_indices is None else self.images[list(slice_indices)]
        shown = self.windowed(np.array(selected, dtype=np.float32))
        if shown.ndim == 4:
            return np.ascontiguousarray(np.moveaxis(shown, -1, 1))
        return np.repeat(shown[:, None], 3, axis=1)

    def windowed(self, intensities: Intensities) -> Intensities:
        """Intensities as the window shows them, in [0, 1]; those given are overwritten.

        Args:
            intensities: float32, an array or a tensor on any device.
        """
        low, high = self.window
        intensities -= float(low)
        intensities /= float(high - low)
        return intensities.clip(0, 1)

    def position_mm(
        self, slice_index: float | int, row: float | int, column: float | int
    ) -> Float[np.ndarray, " 3"]:
        """Where a voxel's centre is: millimetres toward right, front and head (RAS+)."""
        return apply_affine(self.affine, (slice_index, row, column))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the raw intensities, their type and shape.

        Of more than a gigabyte (LARGE), whether in memory or not, only PLANES planes of the file
        are hashed, evenly from its first to its last: 20 GB are told apart in seconds, but not
        where they differ in other planes alone.
        """
        if self.images.nbytes <= LARGE:
            return self._whole_digest
        images = self.images
        sha256 = hashlib.sha256(f"{PLANES} of {images.dtype.str} {images.shape}".encode())
        for plane in few_planes(images, self.grid.axes):
            sha256.update(np.ascontiguousarray(plane))
        return sha256.hexdigest()

    def has_digest(self, digest: str) -> bool:
        """Whether this is the digest, or that of all voxels, which older journals hold."""
        return digest == self.digest or digest == self._whole_digest

    @cached_property
    def _whole_digest(self) -> str:
        sha256 = hashlib.sha256(f"{self.images.dtype.str} {self.images.shape}".encode())
        for image in self.images:
            sha256.update(np.ascontiguousarray(image))
        return sha256.hexdigest()

    def read_labels(
        self,
        path: str | Path,
        *,
        colours: Colours | None = None,
        dtype: type[np.integer] = np.int32,
    ) -> Integer[np.ndarray, "slices height width"]:
        """Labels of a NIfTI file or a folder of mask images, on this volume's grid.

        A label map on the same voxels in another order of axes is brought to this one.

        Args:
            colours: (red, green, blue) -> id, where mask images show labels by colours.
            dtype: of the labels; a small one saves memory.

        Raises:
            ValueError: the file cannot be read, holds fractions, numbers that are none of the
                dtype or a colour that has no id, or is on another grid.
        """
        data, grid, _ = read_file(Path(path), frames_as=colours)
        to_slices = (np.linalg.inv(self.affine) @ grid.affine)[:3, :3]
        axes = tuple(np.abs(to_slices).argmax(axis=1).tolist())
        flips = tuple(np.flatnonzero(to_slices[range(3), axes] < 0).tolist())
        grid = replace(grid, axes=axes, flips=flips)
        if sorted(axes) != [0, 1, 2] or not self._is_on(grid, grid.to_slices(data).shape):
            raise ValueError(
                f"labels must be on the grid of the volume, {self.grid}, but {path} is on {grid};"
                " resample the labels to the volume first"
            )
        slices = grid.to_slices(data)
        labels = np.empty(slices.shape, dtype)
        for label, found in zip(labels, slices, strict=True):  # of a map, no more is read at once
            with np.errstate(invalid="ignore"):
                label[...] = found
            if not np.array_equal(label, found):
                raise ValueError(
                    f"labels must be whole numbers that {labels.dtype} holds, got {data.dtype} with"
                    f" others in {path}; round them"
                )
        return labels

    def _is_on(self, grid: FileGrid, shape: tuple[int, ...]) -> bool:
        corners = list(product(*((0, size - 1) for size in shape)))
        apart = apply_affine(self.affine, corners) - apply_affine(grid.slices_affine(), corners)
        is_near = np.linalg.norm(apart, axis=1).max() <= GRID_TOLERANCE * min(self.spacing_mm)
        return bool(is_near) and shape == self.images.shape[:3]

    def save_masks(self, masks: np.ndarray | PackedMasks, path: str | Path) -> None:
        """Write masks as NIfTI on the exact grid of the file that the volume was read from.

        Shape (4D with one channel included), affine, codes and units are the input's; DICOM and
        frames get (column, row, slice) with the series' affine, frames 1 mm apart. The type is
        uint8, or int16 for labels above 255. A file in the way is replaced at once or not at all.

        Args:
            masks: (slices, height, width), bool or labels from 0 to 32767.

        Raises:
            ValueError: masks of another shape or type, or a path where none can be saved.
        """
        path, shape = Path(path), self.images.shape[:3]
        masks = np.asarray(masks)
        labels = masks.dtype.kind in "bui" and masks.shape == shape and masks.min() >= 0
        if not labels or masks.max() > np.iinfo(np.int16).max:
            raise ValueError(
                f"masks must be bool, or labels from 0 to 32767, of shape {shape}, got"
                f" {masks.dtype} of shape {masks.shape}; threshold probabilities first"
            )
        is_named = path.name.lower().endswith(NIFTI_SUFFIXES)
        if not is_named or not path.parent.is_dir() or path.resolve() == self.grid.source:
            raise ValueError(
                "masks must be saved as .nii or .nii.gz in a folder that exists and not over their"
                f" image, got {path}; choose another name"
            )
        dtype = np.uint8 if masks.max() <= np.iinfo(np.uint8).max else np.int16
        data = masks.view(np.uint8) if masks.dtype == bool else masks.astype(dtype, copy=False)
        header = self.grid.header.copy()
        header.set_data_dtype(data.dtype)
        is_nifti2 = isinstance(header, nibabel.Nifti2Header)
        image = nibabel.Nifti2Image if is_nifti2 else nibabel.Nifti1Image
        with atomic_write(path) as partial:
            # without an affine the header's forms stay as they were read
            image(self.grid.to_file(data), None, header).to_filename(partial)


def _in_memory(images: np.ndarray, *, copy: bool) -> np.ndarray:
    """An array in the memory order of slices, floating point numbers as float32."""
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused
        dtype = np.float32 if images.dtype.kind == "f" else images.dtype.newbyteorder("=")
        return np.array(images, dtype=dtype, order="C", copy=copy or None)


def _checked(
    images: np.ndarray | LazyImages, grid: FileGrid, modality: str | None, window: Window
) -> Volume:
    """The Volume of images that are fit to be one."""
    channels = (3,) if modality == "RGB" else ()
    is_numeric = images.dtype.kind in "uif" and 0 not in images.shape
    if not is_numeric or images.ndim < 3 or images.shape[3:] != channels:
        raise ValueError(
            "images must be numbers of shape (slices, height, width), with RGB as a last axis of 3,"
            f" got {images.dtype} of shape {images.shape}; convert them"
        )
    if not is_mapped(images):
        check_finite(images, grid.source)
    sample = sampled(images, grid.axes)
    if modality is None:
        # Air is -1000 HU, and scanners pad with down to -3024; MR phase images start at -4096.
        modality = "CT" if -3100 <= sample.min() <= -500 else "other"
    affine = grid.slices_affine()
    spacing_mm = tuple(voxel_sizes(affine).tolist())
    return Volume(images, spacing_mm, affine, modality, _limits(window, sample, modality), grid)


def _limits(window: Window, images: np.ndarray, modality: str) -> tuple[float, float]:
    if window is None:
        window = {"CT": "abdomen", "RGB": (0, 255)}.get(modality)
    if isinstance(window, str) and window in CT_WINDOWS:
        window = CT_WINDOWS[window]
    if window is None:
        sample = images.reshape(-1)[:: images.size // SAMPLE | 1]
        foreground = sample[sample > images.min()]
        window = np.percentile(foreground, PERCENTILES) if foreground.size else (0, 0)
        if window[0] >= window[1]:  # an image of one or two values
            window = (images.min(), max(images.max(), images.min() + 1.0))
    if isinstance(window, str) or not np.isfinite(window).all() or window[0] >= window[1]:
        raise ValueError(f"window must be a finite low < high or of {[*CT_WINDOWS]}, got {window}")
    return float(window[0]), float(window[1])


def _display_axes(
    affine: np.ndarray, slice_axis: int
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """The file axes of slices, rows and columns, and which of these to flip."""
    if slice_axis not in (0, 1, 2):
        raise ValueError(f"slice_axis must be a file axis, 0, 1 or 2, got {slice_axis}")
    anatomical, signs = nibabel.io_orientation(affine).astype(int).T  # nearest of R, A, S; + or -
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    column, row = sorted(in_plane, key=lambda axis: anatomical[axis])
    axes = (slice_axis, row, column)
    return axes, tuple(axis for axis in range(3) if signs[axes[axis]] != DISPLAY_SIGNS[axis])
