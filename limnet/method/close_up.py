"""The part of the slices around the object, where propagation sees more of it (ours).

A small object fills a few cells of the stride-16 grid on which memory is read. A close-up shows it
larger and costs less time than the whole slice; it is left for a larger one before the object does.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

ROOM = 2.2  # side of the first close-up over the object's
LEAST = 0.2  # of the slice's shorter side
MOST = 0.8  # of it: a larger close-up is the whole slice
MARGIN = 0.04  # of the side: an object this near to the border may go on beyond it
SIZES = 1.1  # side of a close-up over that of the next smaller one there is
PLACES = 8  # by this share of its side it can be moved
GROWTH = 1.5  # side of the next close-up over that of the last


class CloseUp(NamedTuple):
    """A box of pixels in every slice; its bottom row and right column are the first outside."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, slice_size: tuple[int, int]) -> "CloseUp":
        return cls(0, slice_size[0], 0, slice_size[1])

    @classmethod
    def around(cls, masks: Bool[np.ndarray, "slices height width"]) -> "CloseUp":
        """A square around what all masks show, with room; the whole slice if there is nothing."""
        slice_size = masks.shape[1:]
        if not masks.any():
            return cls.whole(slice_size)
        ends = [np.flatnonzero(masks.any(axis=axes))[[0, -1]] for axes in ((0, 2), (0, 1))]
        extent = max(last - first + 1 for first, last in ends)
        middle = [(first + last + 1) / 2 for first, last in ends]
        return cls._square(middle, max(ROOM * extent, LEAST * min(slice_size)), slice_size)

    @classmethod
    def _square(cls, middle: list[float], side: float, slice_size: tuple[int, int]) -> "CloseUp":
        """A square as far as the slice allows; nothing beyond the slice."""
        if side >= MOST * min(slice_size):
            return cls.whole(slice_size)
        # of near sizes and places one is taken, so that a later round often meets the same
        least = LEAST * min(slice_size)
        steps = math.ceil(math.log(max(side / least, 1)) / math.log(SIZES) - 1e-9)
        side, ends = round(least * SIZES**steps), []
        for centre, length in zip(middle, slice_size, strict=True):
            step = max(1, side // PLACES)
            first = round((centre - side / 2) / step) * step
            first = int(np.clip(first, 0, length - side))
            ends += [first, first + side]
        return cls(*ends)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def reached_by(
        self, mask: Bool[np.ndarray, "height width"], slice_size: tuple[int, int]
    ) -> bool:
        """Whether the mask of the close-up comes near a border that is not the slice's own."""
        margin = max(1, round(MARGIN * max(self.size)))
        return bool(
            (self.top > 0 and mask[:margin].any())
            or (self.bottom < slice_size[0] and mask[-margin:].any())
            or (self.left > 0 and mask[:, :margin].any())
            or (self.right < slice_size[1] and mask[:, -margin:].any())
        )

    def grown(self, slice_size: tuple[int, int]) -> "CloseUp":
        """The next larger one about the same middle."""
        middle = [(self.top + self.bottom) / 2, (self.left + self.right) / 2]
        return self._square(middle, GROWTH * max(self.size), slice_size)
