import json
from pathlib import Path

import numpy as np
import pytest

from limnet.evaluation.users import next_click, next_click_on_slice
from limnet.method.prompts import Click

PARITY = Path(__file__).parents[1] / "parity"
GEOMETRY = json.loads((PARITY / "ritm_geometry.json").read_text())


def rectangle(top, bottom, left, right, shape=(20, 30)):
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = rectangle(0, 0, 0, 0)


@pytest.mark.parametrize("case", GEOMETRY["next_click"], ids=lambda case: str(case["i"]))
def test_the_clicks_are_those_of_ritms_clicker(case):
    shape, radius = (case["H"], case["W"]), case["paint_radius"]
    with np.load(PARITY / "ritm_geometry.npz") as fixture:
        target, mask = (
            np.unpackbits(fixture[f"{name}{case['i']}"], count=shape[0] * shape[1])
            .reshape(shape)
            .astype(bool)
            for name in ("gt", "pred")
        )
    not_clicked = np.ones(shape, dtype=bool)
    rows, columns = np.indices(shape)
    for expected in case["seq"]:
        positive, row, column = next_click_on_slice(target, mask, not_clicked)
        assert [positive, row, column] == expected
        not_clicked[row, column] = False
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = positive


def test_a_missing_part_is_clicked_positively_and_a_surplus_part_negatively():
    target = rectangle(2, 9, 2, 9)
    assert next_click_on_slice(target, NOTHING) == (True, 5, 5)
    assert next_click_on_slice(NOTHING, target) == (False, 5, 5)


def test_the_deeper_of_both_regions_is_clicked_and_a_tie_goes_to_the_surplus():
    wide, narrow = rectangle(0, 20, 0, 3), rectangle(5, 12, 10, 17)  # depths 2 and 4
    assert next_click_on_slice(wide, narrow) == (False, 8, 13)
    assert next_click_on_slice(narrow, wide) == (True, 8, 13)
    assert next_click_on_slice(rectangle(0, 5, 0, 5), rectangle(0, 5, 10, 15)) == (False, 2, 12)


def test_beyond_the_border_counts_as_correct():
    assert next_click_on_slice(rectangle(0, 20, 0, 9), NOTHING) == (True, 4, 4)


def test_the_same_pixel_is_not_clicked_twice():
    target, not_clicked = rectangle(2, 5, 2, 5), ~NOTHING
    not_clicked[3, 3] = False
    assert next_click_on_slice(target, NOTHING, not_clicked) == (True, 2, 2)


def test_no_error_means_no_click():
    assert next_click_on_slice(NOTHING, NOTHING) is None
    assert next_click_on_slice(rectangle(3, 4, 3, 4), NOTHING, NOTHING) is None
    volume = np.stack([NOTHING, rectangle(2, 9, 2, 9)])
    assert next_click(volume, volume) is None
    assert next_click(np.zeros_like(volume)) is None


def test_the_first_click_goes_to_the_slice_with_the_largest_target():
    target = np.stack([rectangle(0, 3, 0, 3), rectangle(2, 9, 2, 9), NOTHING])
    assert next_click(target) == Click(1, 5, 5, True)


def volume():
    """Slice 0 lacks a little, all it has; slice 1 has the largest error; slice 2 is right."""
    target = np.stack([rectangle(4, 7, 4, 7), rectangle(0, 20, 0, 20), rectangle(1, 5, 1, 5)])
    masks = np.stack([NOTHING, rectangle(0, 20, 0, 25), rectangle(1, 5, 1, 5)])
    return target, masks


def test_the_next_click_goes_to_the_slice_with_the_largest_error():
    assert next_click(*volume()) == Click(1, 2, 22, False)


def test_the_slice_with_the_worst_dice_can_be_chosen_instead():
    assert next_click(*volume(), slice_rule="worst_dice") == Click(0, 5, 5, True)


def test_a_random_slice_has_an_error_and_depends_on_the_generator_only():
    def slices(seed):
        rng = np.random.default_rng(seed)
        return [next_click(*volume(), slice_rule="random", rng=rng).slice_index for _ in range(20)]

    assert set(slices(0)) == {0, 1}
    assert slices(0) == slices(0)


def test_a_slice_whose_errors_are_all_clicked_makes_way_for_the_next():
    target = np.stack([rectangle(3, 4, 3, 5), rectangle(7, 8, 7, 8)])
    clicks = [Click(0, 3, 3), Click(0, 3.4, 4.9)]
    assert next_click(target, np.zeros_like(target), clicks[:1]) == Click(0, 3, 4)
    assert next_click(target, np.zeros_like(target), clicks) == Click(1, 7, 7)
    assert next_click(target, np.zeros_like(target), [*clicks, Click(1, 7, 7)]) is None


def test_wrong_arguments_are_refused():
    target, masks = volume()
    with pytest.raises(Exception, match=r"shape|slices height width"):
        next_click(target, masks[:2])
    with pytest.raises(ValueError, match="slice_rule must be one of"):
        next_click(target, masks, slice_rule="middle")
    with pytest.raises(ValueError, match="pass rng"):
        next_click(target, masks, slice_rule="random")
