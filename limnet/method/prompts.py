"""User clicks, their disks, and the crops of slices that networks see (paper, section II-B; RITM).

`Crop` is a part of a slice. Propagation sees a square crop around the object (beyond
the paper): a small object fills a few cells of the stride-16 grid on which memory is read. The
click network zooms in on the object (RITM).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from limnet.volumes.masks import Mask

RADIUS = 5.0  # pixels, of the disks (RITM)
# of the crop that propagation sees
ROOM = 2.2  # side of the first crop over the object's
LEAST = 0.2  # of the slice's shorter side
MOST = 0.8  # of it: a larger crop is the whole slice
MARGIN = 0.04  # of the side: an object this near to the border may go on beyond it
SIZES = 1.1  # side of a crop over that of the next smaller one there is
PLACES = 8  # by this share of its side it can be moved
GROWTH = 1.5  # side of the next crop over that of the last
WORTH_ZOOMING_IOU = 0.5  # of an object's crop and the whole slice; fixed in RITM


@dataclass(frozen=True)
class Click:
    """One user point: on the object (positive) or off it (negative).

    Raises:
        ValueError: a coordinate is negative or not finite.
    """

    slice_index: int
    row: float | int  # pixels from the slice's first row; sub-pixel positions are allowed
    column: float | int
    positive: bool = True

    def __post_init__(self) -> None:
        position = (self.slice_index, self.row, self.column)
        if not all(math.isfinite(value) and value >= 0 for value in position):
            raise ValueError(
                "a click needs finite, non-negative (slice_index, row, column), "
                f"got {position}; give voxel indices of the volume"
            )


class Box(NamedTuple):
    """A rectangle around an object on a slice, in pixels; all four ends belong to it."""

    top: float | int
    left: float | int
    bottom: float | int
    right: float | int

    @property
    def middle(self) -> tuple[float, float]:
        """(row, column)"""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    def ellipse(self, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """What fills the box best when nothing else is known of the object.

        Raises:
            ValueError: the box is empty or reaches beyond a slice of this shape.
        """
        inside = 0 <= self.top <= self.bottom < shape[0] and 0 <= self.left <= self.right < shape[1]
        if not inside:
            raise ValueError(
                f"a box must have top <= bottom < {shape[0]} and left <= right < {shape[1]}, "
                f"got {tuple(self)}"
            )
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        (row, column), half = self.middle, (self.bottom - self.top + 1) / 2
        down = (rows - row) / half
        right = (columns - column) / ((self.right - self.left + 1) / 2)
        return down**2 + right**2 <= 1


def click_maps(
    centres: Sequence[Sequence[float | int]],
    positive: Sequence[bool],
    height: int,
    width: int,
    *,
    device: torch.device | str | None = None,
) -> Float[Tensor, "2 height width"]:
    """Disks of 1 at the clicks and 0 elsewhere; channels [positive, negative] (RITM, use_disks).

    The rim belongs to a disk; of a disk beyond the border only the inside is drawn.

    Args:
        centres: (row, column) of each click, not rounded.
    """
    rows = torch.arange(height, device=device)[None, :, None]
    columns = torch.arange(width, device=device)[None, None, :]
    maps = []
    for sign in (True, False):
        # RITM ignores a click with both coordinates negative, even where its disk reaches inside
        chosen = [
            centre
            for centre, each in zip(centres, positive, strict=True)
            if each == sign and max(centre) >= 0
        ]
        points = torch.tensor(chosen, dtype=torch.float32, device=device).reshape(-1, 2)
        row, column = points[:, 0, None, None], points[:, 1, None, None]
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= RADIUS**2
        maps.append(inside.any(dim=0).float())
    return torch.stack(maps)


def check_inside(click: Click, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the click is outside a volume of (slices, rows, columns)."""
    position = (click.slice_index, click.row, click.column)
    if not all(0 <= at < size for at, size in zip(position, shape, strict=True)):
        raise ValueError(
            f"a click must be inside the volume of {shape} (slices, rows, columns), got {position}"
        )


def pixel_depth(mask: Mask) -> Float[np.ndarray, "height width"]:
    """The distance of each pixel from the nearest pixel off the mask or off the slice."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def deepest_pixel(mask: Mask, allowed: Mask | None = None) -> tuple[tuple[int, int], float]:
    """The pixel (row, column) farthest from the mask's border, and its depth; (0, 0), 0 for none.

    Args:
        allowed: pixels that may be chosen; all by default. The first in row-major order wins.
    """
    if not mask.any():
        return (0, 0), 0.0
    crop = Crop.bounding(mask)
    depth = pixel_depth(mask[crop.pixels])
    if allowed is not None:
        depth = depth * allowed[crop.pixels]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return (crop.top + int(row), crop.left + int(column)), float(depth[row, column])


class Crop(NamedTuple):
    """A box of pixels of a slice; its bottom row and right column are the first outside."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, slice_size: tuple[int, int]) -> "Crop":
        return cls(0, slice_size[0], 0, slice_size[1])

    @classmethod
    def bounding(cls, mask: Mask, margin: int = 0) -> "Crop":
        """The smallest box around a mask that is not empty, with a margin of some pixels."""
        ends = []
        for axis in (1, 0):
            occupied = mask.any(axis=axis)
            first, last = np.flatnonzero(occupied)[[0, -1]].tolist()
            ends += [max(0, first - margin), min(len(occupied), last + margin + 1)]
        return cls(*ends)

    @classmethod
    def from_masks(cls, masks: Bool[np.ndarray, "slices height width"]) -> "Crop":
        """A square around what all masks show, with room; the whole slice if there is nothing."""
        slice_size = masks.shape[1:]
        if not masks.any():
            return cls.whole(slice_size)
        tight = cls.bounding(masks.any(axis=0))
        return cls._square(tight._middle, ROOM * max(tight.size), slice_size)

    @classmethod
    def _square(
        cls, middle: tuple[float, float], side: float, slice_size: tuple[int, int]
    ) -> "Crop":
        """A square as far as the slice allows; nothing beyond the slice."""
        least = LEAST * min(slice_size)
        side = max(side, least)
        if side >= MOST * min(slice_size):
            return cls.whole(slice_size)
        # of near sizes and places one is taken, so that a later round often meets the same
        steps = math.ceil(math.log(side / least) / math.log(SIZES) - 1e-9)
        side, ends = round(least * SIZES**steps), []
        for centre, length in zip(middle, slice_size, strict=True):
            step = max(1, side // PLACES)
            first = round((centre - side / 2) / step) * step
            first = int(np.clip(first, 0, length - side))
            ends += [first, first + side]
        return cls(*ends)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns, as an index of a slice."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def _middle(self) -> tuple[float, float]:
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    def touches_border(self, mask: Mask, slice_size: tuple[int, int]) -> bool:
        """Whether a mask of the crop comes near a border that is not the slice's own."""
        margin = max(1, round(MARGIN * max(self.size)))
        return bool(
            (self.top > 0 and mask[:margin].any())
            or (self.bottom < slice_size[0] and mask[-margin:].any())
            or (self.left > 0 and mask[:, :margin].any())
            or (self.right < slice_size[1] and mask[:, -margin:].any())
        )

    def expanded(self, slice_size: tuple[int, int]) -> "Crop":
        """The next larger square about the same middle."""
        return self._square(self._middle, GROWTH * max(self.size), slice_size)

    def overlap(self, other: "Crop") -> float:
        """Product of both axes' intersection over hull (RITM; for boxes apart it is 0)."""
        product = 1.0
        for axis in (slice(0, 2), slice(2, 4)):
            (start, end), (other_start, other_end) = self[axis], other[axis]
            shared = max(0, min(end, other_end) - max(start, other_start))
            product *= shared / (max(end, other_end) - min(start, other_start))
        return product


@dataclass(frozen=True)
class ZoomIn:
    """When and how far the click network zooms in on the object (defaults: RITM's evaluation)."""

    target_size: int = 400  # pixels of the crop's longer side, resized (600 for DAVIS)
    skip_clicks: int = 1  # this many clicks see the whole slice; -1: resize it from the first on
    expansion_ratio: float = 1.4  # crop over the box of the object, along each axis
    min_crop_size: int = 200  # pixels, a crop's least side

    def crop(
        self,
        probability: Float[Tensor, "height width"] | None,
        clicks: Sequence[Click],
        whole: Crop,
    ) -> Crop | None:
        """The object's crop; None: see the whole slice, not resized."""
        if len(clicks) <= self.skip_clicks:
            return None
        if probability is not None and (probability > 0.5).any():
            return self.around(probability > 0.5, clicks)
        return whole if self.skip_clicks < 0 else None

    def around(self, mask: Bool[Tensor, "height width"], clicks: Sequence[Click] = ()) -> Crop:
        """The box of the mask and the positive clicks, enlarged about its centre, in the slice.

        Raises:
            ValueError: the mask is empty and no click is positive.
        """
        found = mask.cpu().numpy().copy()  # in which ends are found faster than in a tensor
        for click in clicks:
            if click.positive:
                found[int(click.row), int(click.column)] = True
        if not found.any():
            raise ValueError("a crop needs an object: the mask is empty and no click is positive")
        tight, ends = Crop.bounding(found), []
        for (first, end), length in zip((tight[:2], tight[2:]), found.shape, strict=True):
            centre = 0.5 * (first + end - 1)
            half = 0.5 * max(self.expansion_ratio * (end - first), self.min_crop_size)
            # RITM rounds halves to even, as Python does; its last row and column are inside
            ends += [max(0, round(centre - half)), min(length - 1, round(centre + half)) + 1]
        return Crop(*ends)

    def worth_it(self, probability: Float[Tensor, "height width"], whole: Crop) -> bool:
        """Whether the object is so small that it is predicted once more, zoomed in (RITM)."""
        found = probability > 0.5
        return bool(found.any()) and self.around(found).overlap(whole) < WORTH_ZOOMING_IOU
