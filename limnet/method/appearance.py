"""How bright an object is where it was shown or found, and what is around it (ours).

The region term of interactive graph cuts (Boykov and Jolly, 2001): a histogram of what is inside
against one of what is just outside.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

BINS = 32  # of intensities from 0 to 1
SMOOTHING = 1.0  # bins: deviation of the Gaussian over a histogram
UNSEEN = 2e-3  # share added to every bin of both histograms: what nobody saw has no vote
LEAST_RING, RING = 3, 0.75  # width of what counts as around: pixels, and of the object's size
FINE_RING = 32  # pixels: of objects with wider rings every other pixel, or fewer, is looked at

Grey = Float[np.ndarray, "height width"]  # in [0, 1]
Mask = Bool[np.ndarray, "height width"]
AnyGrey, AnyMask = Float[np.ndarray, "_ _"], Bool[np.ndarray, "_ _"]  # sizes may differ in a list


@dataclass(frozen=True, eq=False)
class IntensityModel:
    """Votes of intensities: above 0 they are found rather inside the object, below 0 around it."""

    log_odds: Float[np.ndarray, " bins"]  # log of p(intensity | inside) / p(intensity | around)

    @classmethod
    def of(cls, shown: Iterable[tuple[AnyGrey, AnyMask]]) -> "IntensityModel":
        """Learnt from slices and the object's masks there; without any, nothing has a vote."""
        inside, around = np.zeros(BINS), np.zeros(BINS)
        for grey, mask in shown:
            if not mask.any():
                continue
            width = max(LEAST_RING, int(RING * np.sqrt(mask.sum())))
            box, step = surroundings(mask, width), math.ceil(width / FINE_RING)
            bins, mask = _bins(grey[box][::step, ::step]), mask[box][::step, ::step]
            off = step * ndimage.distance_transform_edt(~mask)
            inside += step**2 * np.bincount(bins[mask], minlength=BINS)
            around += step**2 * np.bincount(bins[(off > 0) & (off <= width)], minlength=BINS)
        inside, around = (
            ndimage.gaussian_filter1d(counts / max(1, counts.sum()), SMOOTHING, mode="nearest")
            for counts in (inside, around)
        )
        return cls(np.log(inside + UNSEEN) - np.log(around + UNSEEN))

    def on(self, grey: Grey) -> Float[np.ndarray, "height width"]:
        """The vote of each pixel."""
        return self.log_odds[_bins(grey)]

    def prefers(self, grey: Grey, first: Mask, second: Mask) -> float:
        """Mean vote for the first mask of the pixels on which both differ; 0 if there are none."""
        differs = first ^ second
        if not differs.any():
            return 0.0
        log_odds = self.log_odds[_bins(grey[differs])]
        return float(np.where(first[differs], log_odds, -log_odds).mean())


def surroundings(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the box of a mask that is not empty, with a margin of some pixels."""
    ends = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    return tuple(slice(max(0, first - margin), last + margin + 1) for first, last in ends)


def _bins(grey: np.ndarray) -> np.ndarray:
    return np.clip((grey * BINS).astype(np.intp), 0, BINS - 1)
