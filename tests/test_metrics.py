import numpy as np
import pytest
import torch

from limnet.metrics import (
    bootstrap_interval,
    dice,
    mean_slice_dice,
    number_of_clicks,
    surface_dice,
    surface_points,
)


def ball(radius, centre=(12, 16, 16), shape=(24, 32, 32), spacing=(1, 1, 1)):
    grid = np.indices(shape)
    offsets = [(axis - c) * s for axis, c, s in zip(grid, centre, spacing, strict=True)]
    return sum(offset**2 for offset in offsets) <= radius**2


FIRST = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
SECOND = np.array([[1, 0, 0], [1, 1, 1]], dtype=bool)
NOTHING = np.zeros((2, 3), dtype=bool)


def test_dice_is_twice_the_overlap_over_the_sum():
    assert dice(FIRST, SECOND) == 2 * 2 / (3 + 4)


@pytest.mark.parametrize("score", [dice, lambda a, b: surface_dice(a, b, (1.0, 1.0))])
def test_two_empty_masks_agree_and_one_empty_mask_does_not(score):
    assert score(NOTHING, NOTHING) == 1.0
    assert score(FIRST, NOTHING) == score(NOTHING, FIRST) == 0.0
    assert score(FIRST, FIRST) == 1.0


def test_the_surface_is_the_voxels_with_a_neighbour_off_the_mask():
    mask = ball(6)
    slowly = [
        voxel
        for voxel in np.argwhere(mask)
        if not all(
            mask[tuple(voxel + sign * step)] for step in np.eye(3, dtype=int) for sign in (1, -1)
        )
    ]
    assert np.array_equal(surface_points(mask), slowly)
    assert len(surface_points(np.ones((3, 3, 3), dtype=bool))) == 26  # the rim is surface


def test_surface_dice_is_its_definition_written_out():
    spacing, tolerance = (2.0, 0.7, 1.1), 1.3
    first, second = ball(6), ball(6, centre=(13, 17, 14))
    surfaces = [surface_points(mask) * spacing for mask in (first, second)]
    distances = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=2)
    near = (distances.min(axis=1) <= tolerance).sum() + (distances.min(axis=0) <= tolerance).sum()
    expected = near / (len(surfaces[0]) + len(surfaces[1]))
    assert surface_dice(first, second, spacing, tolerance_mm=tolerance) == pytest.approx(expected)


def test_a_surface_exactly_at_the_tolerance_is_within_it():
    first, second = np.zeros((9, 4), bool), np.zeros((9, 4), bool)
    first[2], second[5] = True, True
    assert surface_dice(first, second, (0.1, 1.0), tolerance_mm=0.3) == 1.0
    assert surface_dice(first, second, (0.1, 1.0), tolerance_mm=0.29) == 0.0


PAIRS = [
    (ball(8), ball(8, centre=(12, 18, 17)), (1.0, 1.0, 1.0)),
    (ball(9), ball(6), (1.0, 1.0, 1.0)),
    (ball(12, spacing=(3, 0.8, 0.8)), ball(10, spacing=(3, 0.8, 0.8)), (3.0, 0.8, 0.8)),
    (ball(7) | ball(3, centre=(20, 5, 5)), ball(7), (1.5, 1.0, 1.2)),
]


@pytest.mark.filterwarnings("ignore")  # both packages call deprecated functions
@pytest.mark.parametrize(("first", "second", "spacing"), PAIRS)
def test_surface_dice_agrees_with_monai(first, second, spacing):
    monai = pytest.importorskip("monai.metrics")
    batch = [torch.from_numpy(mask)[None, None].float() for mask in (first, second)]
    expected = monai.compute_surface_dice(
        *batch, class_thresholds=[2.0], include_background=True, spacing=spacing
    ).item()
    assert surface_dice(first, second, spacing) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # both packages call deprecated functions
@pytest.mark.parametrize(("first", "second", "spacing"), PAIRS)
def test_surface_dice_is_close_to_surface_distance(first, second, spacing):
    package = pytest.importorskip("surface_distance")
    distances = package.compute_surface_distances(first, second, spacing)
    expected = package.compute_surface_dice_at_tolerance(distances, 2.0)
    assert surface_dice(first, second, spacing) == pytest.approx(expected, abs=0.13)


@pytest.mark.parametrize(
    ("scores", "clicks"),
    [([0.5, 0.9, 0.95], 2), ([0.95], 1), ([0.1, 0.2], 20), ([], 20), ([0.0] * 20 + [1.0], 20)],
)
def test_clicks_are_counted_until_the_target_is_reached(scores, clicks):
    assert number_of_clicks(scores) == clicks


def test_target_and_limit_can_be_chosen():
    assert number_of_clicks([0.5, 0.6, 0.7], target=0.65, limit=5) == 3
    assert number_of_clicks([0.5, 0.6, 0.7], target=0.65, limit=2) == 2
    with pytest.raises(ValueError, match="at least 1"):
        number_of_clicks([0.5], limit=0)


@pytest.mark.parametrize("score", [dice, lambda a, b: surface_dice(a, b, (1.0, 1.0))])
def test_masks_of_two_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(3, 2\)"):
        score(FIRST, FIRST.T)


def test_masks_that_are_not_bool_are_refused():
    with pytest.raises(Exception, match=r"bool|Bool"):
        dice(FIRST.astype(int), SECOND.astype(int))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -2.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing):
    with pytest.raises(ValueError, match="2 positive numbers"):
        surface_dice(FIRST, SECOND, spacing)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="not be negative"):
        surface_dice(FIRST, SECOND, (1.0, 1.0), tolerance_mm=-1.0)


def test_the_interval_of_many_scores_is_that_of_the_normal_distribution():
    scores = np.random.default_rng(0).random(1000)
    error = scores.std() / np.sqrt(1000)
    for level, width in ((0.95, 1.96), (0.68, 0.994)):
        low, high = bootstrap_interval(scores.tolist(), level=level, resamples=10_000)
        assert low == pytest.approx(scores.mean() - width * error, abs=0.1 * error)
        assert high == pytest.approx(scores.mean() + width * error, abs=0.1 * error)


def test_one_score_is_its_own_interval_and_none_is_refused():
    assert bootstrap_interval([0.7]) == pytest.approx((0.7, 0.7))
    assert bootstrap_interval([0.1, 0.9]) == bootstrap_interval([0.1, 0.9])
    with pytest.raises(ValueError, match="at least one score"):
        bootstrap_interval([])


def test_slices_are_averaged_over_those_that_show_the_target():
    target, mask = np.zeros((4, 2, 3), bool), np.zeros((4, 2, 3), bool)
    target[1], mask[1] = FIRST, SECOND  # DSC 4 / 7
    target[2], mask[2] = FIRST, FIRST  # DSC 1
    mask[3] = True  # a slice without the target does not count
    assert mean_slice_dice(target, mask) == pytest.approx((4 / 7 + 1) / 2)
    with pytest.raises(ValueError, match="shows the target"):
        mean_slice_dice(mask & False, mask)


def test_surfaces_are_compared_where_tiny_numbers_are_flushed():
    mask = np.ones((40, 40, 4), dtype=bool)  # SciPy's tree crashed on coordinates of zero
    torch.set_flush_denormal(True)
    try:
        assert surface_dice(mask, mask, (3.0, 3.0, 3.0)) == 1
    finally:
        torch.set_flush_denormal(False)
