"""User clicks and the disks that show them to the click network (paper, section II-B; RITM)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

RADIUS = 5.0  # pixels, of the disks (RITM)


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
    clicks: Sequence[Click],
    height: int,
    width: int,
    *,
    radius: float = RADIUS,
    device: torch.device | str | None = None,
) -> Float[Tensor, "2 height width"]:
    """Disks of 1 at the clicks and 0 elsewhere; channels [positive, negative] (RITM, use_disks).

    Slice indices play no part; of a disk beyond the border only the inside is drawn.

    Args:
        radius: pixels; the rim belongs to the disk.
    """
    centres = [
        torch.tensor(
            [(click.row, click.column) for click in clicks if bool(click.positive) is sign],
            dtype=torch.float32,
            device=device,
        ).reshape(-1, 2)
        for sign in (True, False)
    ]
    return torch.stack([disks(points, height, width, radius=radius) for points in centres])


def disks(
    centres: Float[Tensor, "points 2"], height: int, width: int, *, radius: float = RADIUS
) -> Float[Tensor, "height width"]:
    """1 within radius pixels of a centre (row, column), which may lie outside, and 0 elsewhere."""
    rows = torch.arange(height, device=centres.device)[None, :, None]
    columns = torch.arange(width, device=centres.device)[None, None, :]
    row, column = centres[:, 0, None, None], centres[:, 1, None, None]
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside.any(dim=0).float()


def check_inside(click: Click, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the click is outside a volume of (slices, rows, columns)."""
    position = (click.slice_index, click.row, click.column)
    if not all(0 <= at < size for at, size in zip(position, shape, strict=True)):
        raise ValueError(
            f"a click must be inside the volume of {shape} (slices, rows, columns), got {position}"
        )
