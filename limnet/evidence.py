"""What two rounds tell of themselves, slice by slice: evidence of which is better (ours).

The quality network of the paper looks at one slice and two masks (Eq. 2). Rounds know more: how
sure propagation was of each mask, and what the user has shown on other slices.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from limnet.metrics import dice
from limnet.networks.quality_net import EVIDENCE
from limnet.packed_masks import Mask, PackedMasks

FEW_PIXELS = 5  # added to areas and errors, so that small ones say little

Errors = Float32[np.ndarray, " slices"]


def evidence_of_rounds(
    previous: PackedMasks,
    current: PackedMasks,
    errors: tuple[Errors, Errors],
    given: Mapping[int, Mask],
    slice_indices: Sequence[int],
) -> Float32[np.ndarray, "asked 3"]:
    """For each slice asked for the values named EVIDENCE, of the previous mask less the current.

    So rounds that change places change the sign. Likeness is 0 where nothing is given.

    Args:
        errors: how many pixels of each mask are expected to be wrong (`Round.expected_errors`).
        given: masks that the user vouches for.
    """
    found = np.zeros((len(slice_indices), len(EVIDENCE)), dtype=np.float32)
    for row, index in zip(found, slice_indices, strict=True):
        masks, wrong = (previous[index], current[index]), (float(each[index]) for each in errors)
        row[0] = -_log_ratio(*wrong)
        row[1] = _log_ratio(*(float(each.slices[index].area) for each in (previous, current)))
        if given:
            shown = given[min(given, key=lambda other: abs(other - index))]
            row[2] = dice(masks[0], shown) - dice(masks[1], shown)
    return found


def _log_ratio(first: float, second: float) -> float:
    return float(np.log((first + FEW_PIXELS) / (second + FEW_PIXELS)))
