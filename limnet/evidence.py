"""What two rounds tell of themselves, slice by slice: evidence of which is better (ours).

The quality network of the paper looks at one slice and two masks (Eq. 2). Rounds know more: how
sure propagation was of each mask, and what the user has shown on other slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from limnet.appearance import Appearance, Grey
from limnet.metrics import dice
from limnet.networks.quality_net import EVIDENCE
from limnet.packed_masks import Mask, PackedMasks

FEW_PIXELS = 5  # added to areas and errors, so that small ones say little

Errors = Float32[np.ndarray, " slices"]
Images = Float[Tensor, "batch 3 height width"]  # in [0, 1]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Two rounds and what the user has shown."""

    previous: PackedMasks
    current: PackedMasks
    errors: tuple[Errors, Errors]  # to expect in the masks of each (`Round.expected_errors`)
    given: Mapping[int, Mask]  # masks that the user vouches for
    appearance: Appearance  # of the object on these slices

    @classmethod
    def of(
        cls,
        previous: PackedMasks,
        current: PackedMasks,
        errors: tuple[Errors, Errors],
        given: Mapping[int, Mask],
        images: Callable[[list[int]], Images],
    ) -> "Evidence":
        """With the appearance that the given slices show.

        Args:
            images: gives the slices of the indices it is asked for, at the size of the masks.
        """
        shown = ((_grey(images([index]))[0], mask) for index, mask in given.items() if mask.any())
        return cls(previous, current, errors, given, Appearance.of(shown))

    def on(
        self, slice_indices: Sequence[int], images: Images
    ) -> Float32[np.ndarray, "asked values"]:
        """The values named EVIDENCE of each slice asked for, of the previous mask less the current.

        So rounds that change places change the sign. What would need a slice that the user has
        shown is 0 where there is none.

        Args:
            images: these slices.
        """
        asked = zip(slice_indices, _grey(images), strict=True)
        rows = [self._on_one(index, grey) for index, grey in asked]
        return np.array(rows, dtype=np.float32).reshape(-1, len(EVIDENCE))

    def _on_one(self, index: int, grey: Grey) -> list[float]:
        first, second = self.previous[index], self.current[index]
        areas = (float(each.slices[index].area) for each in (self.previous, self.current))
        wrong = (float(each[index]) for each in self.errors)
        values = {
            "certainty": -_log_ratio(*wrong),
            "area": _log_ratio(*areas),
            "likeness": self._likeness(index, first, second),
            "appearance": self.appearance.prefers(grey, first, second),
        }
        return [values[name] for name in EVIDENCE]

    def _likeness(self, index: int, first: Mask, second: Mask) -> float:
        if not self.given:
            return 0.0
        shown = self.given[min(self.given, key=lambda other: abs(other - index))]
        return dice(first, shown) - dice(second, shown)


def _grey(images: Images) -> Float[np.ndarray, "batch height width"]:
    return images.float().mean(dim=1).cpu().numpy()


def _log_ratio(first: float, second: float) -> float:
    return float(np.log((first + FEW_PIXELS) / (second + FEW_PIXELS)))
