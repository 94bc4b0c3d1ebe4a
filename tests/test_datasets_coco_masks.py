import numpy as np
import pytest

from limnet.data.coco_masks import instance_mask

SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]  # columns and rows 1 to 3


def area(columns, rows):
    mask = np.zeros((6, 8), bool)
    mask[rows, columns] = True
    return mask


def test_masks_hold_the_pixels_whose_centres_are_inside(tmp_path):
    shifted = [1.4, 1.4, 4.4, 1.4, 4.4, 4.4, 1.4, 4.4]  # rounds to the square
    beyond = [5, -3, 7, -3, 7, 60, 5, 60]
    assert np.array_equal(instance_mask([SQUARE], 6, 8), area(slice(1, 4), slice(1, 4)))
    assert np.array_equal(instance_mask([shifted], 6, 8), area(slice(1, 4), slice(1, 4)))
    assert np.array_equal(instance_mask([beyond], 6, 8), area(slice(5, 7), slice(None)))
    assert not instance_mask([[1, 1, 5, 5]], 6, 8).any()


@pytest.mark.parametrize("outline", [[1, 1, 4, 1, 4], [1, 1, float("nan"), 1, 4, 4], [[1, 2]]])
def test_a_polygon_that_is_none_is_refused(outline):
    with pytest.raises(ValueError, match="a polygon must be a list of column, row"):
        instance_mask([outline], 6, 8)


RUNS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)


def test_run_lengths_go_down_the_columns():
    counts = [5, 1, 7, 3, 3, 1, 1, 1, 3, 1, 1, 1, 3, 3, 3, 3, 8]
    assert np.array_equal(instance_mask({"counts": counts, "size": [6, 8]}, 6, 8), RUNS)


def test_compressed_run_lengths_are_those_of_pycocotools():
    text = "5172LNN020N022005"  # what pycocotools.mask.encode says of RUNS
    assert np.array_equal(instance_mask({"counts": text, "size": [6, 8]}, 6, 8), RUNS)


@pytest.mark.parametrize(
    "runs",
    [
        {"counts": [40], "size": [6, 8]},
        {"counts": [48], "size": [8, 6]},
        {"counts": [50, -2], "size": [6, 8]},
        {"counts": [10**30], "size": [6, 8]},
        {"counts": "ooo", "size": [6, 8]},
        {"counts": [48]},
        {"counts": None, "size": [6, 8]},
    ],
)
def test_run_lengths_of_another_size_are_refused(runs):
    with pytest.raises(ValueError, match="run lengths must"):
        instance_mask(runs, 6, 8)
