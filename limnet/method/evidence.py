"""What two rounds tell of themselves, slice by slice: evidence of which is better (ours).

The quality network of the paper looks at one slice and two masks (Eq. 2). Rounds know more: what
the user has shown on other slices, and what was wrong where the user corrected last.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from limnet.method.appearance import Grey, IntensityModel
from limnet.metrics import dice
from limnet.networks.quality_net import EVIDENCE
from limnet.volumes.masks import Mask, PackedMasks

FEW_PIXELS = 5  # added to areas, so that small ones say little
LARGEST_RATIO = 3.0  # of the logarithms of areas: a mask of a twentieth is as good as none
STRONGEST_VOTE = 1.0  # of a mask's appearance: histograms of little overlap would decide alone

Images = Float[Tensor, "batch 3 height width"]  # in [0, 1]


@dataclass(frozen=True, eq=False)
class FusionFeatures:
    """Two rounds and what the user has shown."""

    previous: PackedMasks
    current: PackedMasks
    given: Mapping[int, Mask]  # masks that the user vouches for
    corrections: Mapping[int, Mask]  # where these differ from the previous round: pixels that do
    appearance: IntensityModel  # of the object on these slices

    @classmethod
    def of(
        cls,
        previous: PackedMasks,
        current: PackedMasks,
        given: Mapping[int, Mask],
        images: Callable[[list[int]], Images],
    ) -> "FusionFeatures":
        """With the corrections and the appearance that the given slices show.

        Args:
            images: gives the slices of the indices it is asked for, at the size of the masks.
        """
        shown = ((_grey(images([index]))[0], mask) for index, mask in given.items() if mask.any())
        changed = {index: previous[index] ^ mask for index, mask in given.items()}
        corrections = {index: pixels for index, pixels in changed.items() if pixels.any()}
        return cls(previous, current, given, corrections, IntensityModel.of(shown))

    def on(
        self, slice_indices: Sequence[int], images: Images
    ) -> Float32[np.ndarray, "asked values"]:
        """The values named EVIDENCE of each slice asked for, of the previous mask less the current.

        So rounds that change places change the sign, if the same was corrected. What would need a
        slice that the user has shown is 0 where there is none.

        Args:
            images: these slices.
        """
        asked = zip(slice_indices, _grey(images), strict=True)
        rows = [self._on_one(index, grey) for index, grey in asked]
        return np.array(rows, dtype=np.float32).reshape(-1, len(EVIDENCE))

    def _on_one(self, index: int, grey: Grey) -> list[float]:
        first, second = self.previous[index], self.current[index]
        larger = _log_ratio(*(each.slices[index].area for each in (self.previous, self.current)))
        preferred = self.appearance.prefers(grey, first, second)
        values = {
            "area": larger,
            "likeness": self._likeness(index, first, second),
            "appearance": float(np.clip(preferred, -STRONGEST_VOTE, STRONGEST_VOTE)),
            "correction": self._correction(index, first, second),
            "ending": -larger * self._beyond(index),
        }
        return [values[name] for name in EVIDENCE]

    def _likeness(self, index: int, first: Mask, second: Mask) -> float:
        if not self.given:
            return 0.0
        shown = self.given[_nearest(self.given, index)]
        return dice(first, shown) - dice(second, shown)

    def _correction(self, index: int, first: Mask, second: Mask) -> float:
        """Pixels of the nearest correction that are right in the first mask, less in the second.

        As a share of those that differ. What was wrong on a slice is wrong on its neighbours."""
        if not self.corrections:
            return 0.0
        nearest = _nearest(self.corrections, index)
        differs = first ^ second
        decided = differs & self.corrections[nearest]
        right = (first == self.given[nearest])[decided].sum()
        return float((2 * right - decided.sum()) / (differs.sum() + FEW_PIXELS))

    def _beyond(self, index: int) -> float:
        """Logarithm of how far from the slices that show the object; 0 between two of them."""
        shown = [other for other, mask in self.given.items() if mask.any()]
        if not shown or min(shown) < index < max(shown):
            return 0.0
        return float(np.log1p(abs(_nearest(shown, index) - index)))


def _nearest(slices: Iterable[int], index: int) -> int:
    return min(slices, key=lambda other: abs(other - index))


def _grey(images: Images) -> Float[np.ndarray, "batch height width"]:
    return images.float().mean(dim=1).cpu().numpy()


def _log_ratio(first: int, second: int) -> float:
    ratio = np.log((first + FEW_PIXELS) / (second + FEW_PIXELS))
    return float(np.clip(ratio, -LARGEST_RATIO, LARGEST_RATIO))
