"""The simulated user: where the next click goes, given the truth (RITM's clicker; section III-C).

The paper says how many clicks there are, not which slice comes next: SLICE_RULES are the choices.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from limnet.method.prompts import Click, deepest_pixel

Slice = Bool[np.ndarray, "height width"]
Masks = Bool[np.ndarray, "slices height width"]

SLICE_RULES = ("largest_error", "worst_dice", "random")


def next_click(
    target: Masks,
    masks: Masks | None = None,
    clicks: Sequence[Click] = (),
    *,
    slice_rule: str = "largest_error",
    rng: np.random.Generator | None = None,
) -> Click | None:
    """The simulated user's next click, or None if there is no error left to click on.

    Without masks it goes to the slice with the largest target area. Then the rule chooses among
    the slices with errors: "largest_error" by pixels (Mem3D's evaluation), "worst_dice" by Dice
    and then by pixels, "random" evenly. Ties go to the lower slice. Within the slice the click is
    next_click_on_slice; if all errors of a slice have been clicked, the next slice has its turn.

    Args:
        masks: what is segmented so far; None before the first click.
        clicks: made so far; no pixel is clicked twice.
        rng: needed by "random" only.

    Raises:
        ValueError: masks and target differ in shape, the rule is unknown, or rng is missing.
    """
    if masks is None:
        masks, slice_rule = np.zeros_like(target), "largest_error"
    if target.shape != masks.shape:
        raise ValueError(
            f"masks must have the target's shape, got {masks.shape} and {target.shape}"
        )
    for slice_index in _slices_in_turn(target, masks, slice_rule, rng):
        not_clicked = np.ones(target.shape[1:], dtype=bool)
        for click in clicks:
            if click.slice_index == slice_index:
                not_clicked[int(click.row), int(click.column)] = False
        found = next_click_on_slice(target[slice_index], masks[slice_index], not_clicked)
        if found is not None:
            positive, row, column = found
            return Click(int(slice_index), row, column, positive)
    return None


def next_click_on_slice(
    target: Slice, mask: Slice, not_clicked: Slice | None = None
) -> tuple[bool, int, int] | None:
    """(positive, row, column) of the deepest pixel of the larger of both error regions, as in RITM.

    Missing parts give a positive click, surplus parts a negative one. The larger region is the one
    whose deepest pixel is deeper, surplus if equal; pixels beyond the border count as correct; the
    first deepest pixel in row-major order is taken. None if there is no error pixel to click on
    (RITM's clicker then clicks at (0, 0)).

    Args:
        not_clicked: pixels that may be clicked; all by default.
    """
    missing, missing_depth = deepest_pixel(target & ~mask, not_clicked)
    surplus, surplus_depth = deepest_pixel(mask & ~target, not_clicked)
    if max(missing_depth, surplus_depth) == 0:
        return None
    positive = missing_depth > surplus_depth
    return positive, *(missing if positive else surplus)


def _slices_in_turn(
    target: Masks, masks: Masks, slice_rule: str, rng: np.random.Generator | None
) -> Int[np.ndarray, " wrong"]:
    """Indices of the slices with errors, the rule's first choice first."""
    if slice_rule not in SLICE_RULES:
        raise ValueError(f"slice_rule must be one of {SLICE_RULES}, got {slice_rule!r}")
    errors = np.count_nonzero(target ^ masks, axis=(1, 2))
    wrong = np.flatnonzero(errors)
    if slice_rule == "random":
        if rng is None:
            raise ValueError('slice_rule="random" needs a numpy generator: pass rng')
        return rng.permutation(wrong)
    order = [-errors[wrong]]
    if slice_rule == "worst_dice":
        total = np.count_nonzero(target, axis=(1, 2)) + np.count_nonzero(masks, axis=(1, 2))
        order.append(1 - errors[wrong] / total[wrong])  # Dice; lexsort's last key comes first
    return wrong[np.lexsort(order)]
