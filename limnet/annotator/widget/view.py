"""Where the pixels of a slice are on a canvas, and how masks and windows become pixels there.

A plane is one of the three ways to cut a volume. In its images v counts pixels downward and u to
the right; pixel centres are whole numbers. Canvas positions are (x, y) from the top left corner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8

from limnet.volumes import Volume
from limnet.volumes.lazy import subsampled_view
from limnet.volumes.masks import PackedMasks

Image = Num[np.ndarray, "height width *rgb"]
Mask = Bool[np.ndarray, "height width"]
Runs = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
Points = Sequence[tuple[float | int, float | int]]  # (v, u)

ZOOM = (1.0, 40.0)  # least and most
ENDS = ("LR", "PA", "FH")  # of the patient's axes: left-right, back-front, feet-head
NAMES = ("sagittal", "coronal", "axial")  # planes across these axes
# canvas pixels of a drag that change the window's width e-fold, and its level by the width
DRAG = 250.0


@dataclass(frozen=True)
class Plane:
    """One way to cut a volume (slices, height, width): across its axis 0, 1 or 2.

    Cuts across rows and columns (axes 1 and 2) show the slices in descending order, so that head,
    front or the patient's right are above or to the left, where radiologists expect them.
    """

    axis: int  # 0: the volume's own slices; 1: a row in all slices; 2: a column in all slices
    volume_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]  # (slice, row, column)
    across: bool = False  # axes 1 and 2: slices run to the right, not downward
    name: str = ""  # "axial", "coronal", "sagittal"
    edges: str = ""  # letters at the top, bottom, left and right: of LR, PA (back, front), FH

    def __len__(self) -> int:
        """How many images there are."""
        return self.volume_shape[self.axis]

    @property
    def axes(self) -> tuple[int, int]:
        """The volume's axes that run downward and to the right."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return (second, first) if self.across else (first, second)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of an image."""
        return tuple(self.volume_shape[axis] for axis in self.axes)

    @property
    def spacing(self) -> tuple[float, float]:
        """Millimetres of a pixel, downward and to the right."""
        return tuple(self.spacing_mm[axis] for axis in self.axes)

    def image(self, array: np.ndarray | PackedMasks, index: int) -> np.ndarray:
        """A view of one image of a volume (slices, height, width), or of RGB with a last axis 3."""
        if self.axis == 0:
            return array[index]
        image = array[(slice(None),) * self.axis + (index,)][::-1]  # the slices are its first axis
        return image.swapaxes(0, 1) if self.across else image

    def voxel(
        self, index: int, v: float | int, u: float | int
    ) -> tuple[float | int, float | int, float | int]:
        """(slice_index, row, column) of a pixel."""
        voxel = [index] * 3
        voxel[self.axes[0]], voxel[self.axes[1]] = v, u
        return self._turned(voxel)

    def place(self, voxel: Sequence[float | int]) -> tuple[float | int, float | int, float | int]:
        """(index, v, u) of a voxel (slice_index, row, column): in which image and where there."""
        turned = self._turned(voxel)
        return turned[self.axis], turned[self.axes[0]], turned[self.axes[1]]

    def _turned(self, voxel: Sequence[float | int]) -> tuple:
        slice_index, row, column = voxel
        return (self.volume_shape[0] - 1 - slice_index if self.axis else slice_index, row, column)


def planes(
    volume_shape: tuple[int, ...],
    spacing_mm: Sequence[float],
    affine: Float[np.ndarray, "4 4"],
) -> tuple[Plane, Plane, Plane]:
    """The three planes of a volume, turned as radiologists expect them.

    Args:
        volume_shape: (slices, height, width), with or without a last axis of colours.
        affine: of a `Volume`: (slice_index, row, column) to RAS+ mm.
    """
    anatomical = nibabel.io_orientation(affine)[:, 0].astype(int).tolist()
    shape, spacing = tuple(volume_shape[:3]), tuple(float(each) for each in spacing_mm)
    return tuple(_plane(axis, shape, spacing, anatomical) for axis in range(3))


def _plane(axis: int, shape: tuple, spacing_mm: tuple, anatomical: list[int]) -> Plane:
    # as in the volume's own slices, the axis later in left-right, back-front, feet-head is downward
    across = axis > 0 and anatomical[0] < anatomical[3 - axis]
    plane = Plane(axis, shape, spacing_mm, across, NAMES[anatomical[axis]])
    down, right = (ENDS[anatomical[each]] for each in plane.axes)
    return replace(plane, edges=down[::-1] + right[::-1])  # both run from H, A or R on


@dataclass(frozen=True)
class View:
    """How an image lies on a canvas: enlarged, shifted, and with the aspect of its millimetres."""

    shape: tuple[int, int]  # (height, width) of the image
    spacing: tuple[float, float]  # millimetres of a pixel, downward and to the right
    canvas: tuple[int, int]  # (width, height) in canvas pixels
    zoom: float = 1.0  # 1 shows the whole image
    centre: tuple[float, float] | None = None  # (v, u) in the canvas's middle; None: the image's

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels of an image pixel, downward and to the right."""
        (height, width), (down, right) = self.shape, self.spacing
        fits = min(self.canvas[0] / (width * right), self.canvas[1] / (height * down))
        return self.zoom * fits * down, self.zoom * fits * right

    def to_canvas(self, v: float | int, u: float | int) -> tuple[float, float]:
        """(x, y) of a pixel position."""
        (down, right), (middle_v, middle_u) = self.scale, self._middle()
        width, height = self.canvas
        return width / 2 + (u - middle_u) * right, height / 2 + (v - middle_v) * down

    def from_canvas(self, x: float | int, y: float | int) -> tuple[float, float]:
        """(v, u) at a canvas position; outside the image too."""
        (down, right), (middle_v, middle_u) = self.scale, self._middle()
        width, height = self.canvas
        return middle_v + (y - height / 2) / down, middle_u + (x - width / 2) / right

    def pixel(self, x: float | int, y: float | int) -> tuple[int, int] | None:
        """(v, u) of the pixel at a canvas position, or None outside the image."""
        v, u = (math.floor(position + 0.5) for position in self.from_canvas(x, y))
        return (v, u) if 0 <= v < self.shape[0] and 0 <= u < self.shape[1] else None

    def rectangle(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) that the whole image takes on the canvas, and beyond it."""
        (down, right), (height, width) = self.scale, self.shape
        return *self.to_canvas(-0.5, -0.5), width * right, height * down

    def zoomed(self, factor: float | int, x: float | int, y: float | int) -> "View":
        """Enlarged so many times around a canvas position; zoomed out fully, centred again."""
        zoom = min(max(self.zoom * factor, ZOOM[0]), ZOOM[1])
        if zoom == ZOOM[0]:
            return replace(self, zoom=zoom, centre=None)
        v, u = self.from_canvas(x, y)
        middle_v, middle_u = self._middle()
        stays = self.zoom / zoom
        return replace(self, zoom=zoom)._at(v + (middle_v - v) * stays, u + (middle_u - u) * stays)

    def panned(self, dx: float | int, dy: float | int) -> "View":
        """Shifted by so many canvas pixels; the canvas's middle stays on the image."""
        (down, right), (middle_v, middle_u) = self.scale, self._middle()
        return self._at(middle_v - dy / down, middle_u - dx / right)

    def _middle(self) -> tuple[float, float]:
        return self.centre or ((self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2)

    def _at(self, v: float | int, u: float | int) -> "View":
        height, width = self.shape
        centre = (min(max(v, -0.5), height - 0.5), min(max(u, -0.5), width - 0.5))
        return replace(self, centre=centre)


def windowed(image: Image, low: float | int, high: float | int) -> UInt8[np.ndarray, "..."]:
    """Intensities as greys: 0 up to low, 255 from high on.

    Raises:
        ValueError: the window is empty.
    """
    if not low < high:
        raise ValueError(f"a window must have low < high, got {low} and {high}")
    greys = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(greys.clip(0, 255, out=greys), out=greys).astype(np.uint8)


def dragged_window(
    low: float | int, high: float | int, dx: float | int, dy: float | int
) -> tuple[float, float]:
    """The window after a drag of so many canvas pixels: right widens it, down raises its level."""
    level = (low + high) / 2 + (high - low) * dy / DRAG
    width = max((high - low) * math.exp(dx / DRAG), 1e-6 * max(abs(level), 1.0))
    return level - width / 2, level + width / 2


def runs(mask: Mask) -> Runs:
    """Row, first column and length of every horizontal run of mask pixels."""
    height, width = mask.shape
    line = np.zeros(1 + height * (width + 1), dtype=bool)  # a gap before, between and after rows
    line[1:].reshape(height, width + 1)[:, :width] = mask
    changes = np.flatnonzero(line[1:] != line[:-1])
    starts, ends = changes[::2], changes[1::2]
    rows, columns = np.divmod(starts, width + 1)
    return tuple(each.astype(np.int32) for each in (rows, columns, ends - starts))


def edges(mask: Mask) -> tuple[Runs, Runs]:
    """The border of a mask, which runs between pixels, outside the image too: two times runs.

    The horizontal ones are (row, first column, length) and lie above their row; the vertical ones
    are (column, first row, length) and lie left of their column.
    """
    padded = np.pad(mask, 1)
    level = padded[1:, 1:-1] != padded[:-1, 1:-1]
    upright = padded[1:-1, 1:] != padded[1:-1, :-1]
    return runs(level), runs(upright.T)


def stroke(
    shape: tuple[int, int],
    points: Points,
    radius: float | int,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Mask:
    """The pixels that a round brush covers on its way from point to point.

    Args:
        points: (row, column); they may lie outside.
        radius: in pixels along the finer axis; the rim belongs to the brush.
        spacing: of rows and columns; only their ratio counts.
    """
    painted = np.zeros(shape, dtype=bool)
    # a brush thinner than a pixel covers the one that it is on
    pixel = np.minimum(np.array(spacing) / min(spacing), math.sqrt(2) * radius)
    ways = np.array(points, dtype=float).reshape(-1, 2)
    for start, end in zip(ways, [*ways[1:], ways[-1]] if len(ways) else [], strict=True):
        reach = radius / pixel
        low = np.maximum(np.ceil(np.minimum(start, end) - reach), 0).astype(int)
        high = np.minimum(np.floor(np.maximum(start, end) + reach), np.array(shape) - 1).astype(int)
        if (low > high).any():
            continue
        rows, columns = np.ogrid[low[0] : high[0] + 1, low[1] : high[1] + 1]
        near = _distances(rows, columns, start, end, pixel) <= radius
        painted[low[0] : high[0] + 1, low[1] : high[1] + 1] |= near
    return painted


def _distances(rows, columns, start, end, pixel) -> np.ndarray:
    """Of pixels from the way between two points, in units of the finer axis."""
    down, right = (rows - start[0]) * pixel[0], (columns - start[1]) * pixel[1]
    along_down, along_right = (end - start) * pixel
    length = along_down**2 + along_right**2
    part = ((down * along_down + right * along_right) / length).clip(0, 1) if length else 0.0
    return np.hypot(down - part * along_down, right - part * along_right)


def along(points: Points, step: float | int) -> list[tuple[float, float]]:
    """Points on a polyline from its start to its end, evenly `step` or a little more apart."""
    ways = np.array(points, dtype=float).reshape(-1, 2)
    if not len(ways):
        return []
    lengths = np.array([0.0, *np.hypot(*np.diff(ways, axis=0).T).cumsum()])
    at = np.linspace(0, lengths[-1], int(lengths[-1] / step) + 1)
    rows, columns = (np.interp(at, lengths, axis) for axis in ways.T)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


class ViewState:
    """One crosshair for three planes, of which one is the main one."""

    def __init__(self, volume: Volume, canvas: tuple[int, int]) -> None:
        """Look at the middle of the volume.

        Args:
            canvas: (width, height) of the main canvas in pixels.
        """
        self.volume = volume
        self.planes = planes(volume.images.shape[:3], volume.spacing_mm, volume.affine)
        self.views = [View(each.shape, each.spacing, canvas) for each in self.planes]
        self.axis = 0
        self.cross = [size // 2 for size in volume.images.shape[:3]]  # slice_index, row, column
        self.window = volume.window
        self.opacity, self.style, self.shows_masks = 0.4, "both", True

    @property
    def plane(self) -> Plane:
        return self.planes[self.axis]

    @property
    def view(self) -> View:
        return self.views[self.axis]

    @view.setter
    def view(self, view: View) -> None:
        self.views[self.axis] = view

    @property
    def slice_index(self) -> int:
        """Of the volume's own slices."""
        return self.cross[0]

    def index(self, axis: int | None = None) -> int:
        """Number of the image that a plane, by default the main one, shows."""
        return int(self.planes[self.axis if axis is None else axis].place(self.cross)[0])

    def go_to(self, index: int) -> None:
        """Show an image of the main plane; the nearest there is."""
        index = min(max(index, 0), len(self.plane) - 1)
        _, v, u = self.plane.place(self.cross)
        self.cross = [int(each) for each in self.plane.voxel(index, v, u)]

    def look_at(self, axis: int, v: float | int, u: float | int) -> None:
        """Put the crosshair on a pixel of the image that a plane shows; the nearest there is."""
        plane = self.planes[axis]
        height, width = plane.shape
        v, u = min(max(round(v), 0), height - 1), min(max(round(u), 0), width - 1)
        self.cross = [int(each) for each in plane.voxel(self.index(axis), v, u)]

    def voxel_at(self, v: int, u: int) -> list[int]:
        """(slice_index, row, column) of a pixel of the main image."""
        return [int(each) for each in self.plane.voxel(self.index(), v, u)]

    def image(self, axis: int) -> np.ndarray:
        """Raw intensities of the image that a plane shows (height, width) or (height, width, 3).

        Across the slices of a large file it is coarse: a whole one could be a read of all voxels.
        """
        plane, index, images = self.planes[axis], self.index(axis), self.volume.images
        if axis == 0:
            return images[index]
        return subsampled_view(images, lambda array: plane.image(array, index))

    def reading(self) -> str:
        """Where the crosshair is, in voxels and millimetres, and the intensity there."""
        right, front, head = self.volume.position_mm(*self.cross)
        value = np.atleast_1d(self.volume.images[tuple(self.cross)])
        unit = " HU" if self.volume.modality == "CT" else ""
        slice_index, row, column = self.cross
        return (
            f"slice {slice_index}, row {row}, column {column} · "
            f"R {right:.1f}, A {front:.1f}, S {head:.1f} mm · "
            f"{'/'.join(f'{each:g}' for each in value)}{unit}"
        )
