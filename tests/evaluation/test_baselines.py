import warnings

import numpy as np
import pytest

from limnet.evaluation import baselines
from limnet.evaluation.baselines import (
    BACKGROUND,
    CONTRAST,
    LIKENESS,
    OBJECT,
    RELUCTANCE_MM,
    geodesic,
    random_walker,
)
from limnet.method.prompts import Click
from limnet.metrics import dice
from limnet.volumes import Volume

BOTH = pytest.mark.parametrize("segment", [random_walker, geodesic])
CLICKS = [Click(2, 12, 15), Click(2, 3, 4, positive=False)]


@pytest.fixture
def target():
    """A box of 3 x 10 x 14 voxels."""
    target = np.zeros((5, 24, 30), dtype=bool)
    target[1:4, 7:17, 8:22] = True
    return target


def two_tones(target, spacing_mm=(3, 1, 1)):
    """Dark grey, and light grey on the target, with a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.01, target.shape)
    images = (0.3 + 0.3 * target + noise).astype(np.float32)
    return Volume.from_array(images, spacing_mm, window=(0, 1))


@BOTH
@pytest.mark.parametrize("slices", [slice(0, 5), slice(2, 3)])
@pytest.mark.parametrize("count", [1, 2])  # without a negative click the rim is background
def test_clicks_find_what_has_clear_edges(segment, target, slices, count):
    at = 2 - slices.start
    clicks = [Click(at, 12, 15), Click(at, 3, 4, positive=False)][:count]
    volume = two_tones(target[slices])
    before = volume.images.copy()
    assert dice(target[slices], segment(volume, clicks)) > 0.9
    assert np.array_equal(volume.images, before)


@BOTH
def test_colours_count_by_their_mean(segment, target):
    grey = two_tones(target).images
    colours = np.stack([grey + 0.1, grey, grey - 0.1], axis=-1)
    masks = segment(Volume.from_array(255 * colours, (3, 1, 1)), CLICKS)
    assert np.array_equal(masks, segment(two_tones(target), CLICKS))


@BOTH
def test_large_volumes_are_solved_in_blocks(segment, target, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_VOXELS", 5 * 24 * 30)
    large = target.repeat(3, axis=1).repeat(3, axis=2)
    clicks = [Click(2, 37, 46), Click(2, 10, 13, positive=False)]
    masks = segment(two_tones(large), clicks)
    assert masks.shape == large.shape
    assert dice(large, masks) > 0.9


def test_blocks_are_means_and_shorten_the_finest_axis_first(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_VOXELS", 6)
    images = np.arange(24, dtype=np.float32).reshape(2, 2, 6) / 24
    means, factors = baselines._coarse(Volume.from_array(images, (3, 2, 1), window=(0, 1)))
    assert factors.tolist() == [1, 2, 2]
    slowly = [[[images[i, :, k : k + 2].mean() for k in (0, 2, 4)]] for i in range(2)]
    assert means == pytest.approx(np.array(slowly))


def test_what_was_found_in_blocks_is_drawn_linearly_between_their_centres():
    share = np.array([[[0.0, 1.0]]])
    drawn = baselines._enlarge(share, np.array([1, 1, 4]), (1, 1, 8))
    assert drawn[0, 0] == pytest.approx(
        [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]
    )  # centres 1.5, 5.5


def test_seeds_are_disks_on_their_slice_and_the_rim():
    clicks = [Click(0, 4, 4), Click(1, 0, 8, positive=False)]
    seeds = baselines._seeds(clicks, (2, 8, 9), np.array([1, 1, 1]))
    assert ["".join(map(str, row)) for row in seeds[0].tolist()] == [
        "222222222",
        "200000002",
        "200010002",
        "200111002",
        "201111102",
        "200111002",
        "200010002",
        "222222222",
    ]
    assert "".join(map(str, seeds[1, 1].tolist())) == "200000022"


@BOTH
@pytest.mark.parametrize("row", [0, 23])
@pytest.mark.parametrize("column", [0, 29])
def test_clicks_may_lie_at_the_border(segment, target, row, column):
    clicks = [Click(0, row, column), Click(4, 12, 15, positive=False)]
    masks = segment(two_tones(target), clicks)
    assert masks[0, row, column] and not masks[4, 12, 15]


@BOTH
def test_every_clicked_voxel_is_on_its_side(segment, target):
    pairs = [(3, 8, 15), (3, 8, 16), (1, 20, 2), (1, 20, 3)]
    clicks = [Click(*at, positive=index % 2 == 0) for index, at in enumerate(pairs)]
    masks = segment(two_tones(target), clicks)
    assert [masks[at] for at in pairs] == [True, False, True, False]


@BOTH
def test_of_two_clicks_on_one_voxel_the_latest_wins(segment, target):
    positive, negative = Click(2, 12, 15), Click(2, 12.7, 15.2, positive=False)
    assert segment(two_tones(target), [negative, positive])[2, 12, 15]
    assert not segment(two_tones(target), [positive, negative]).any()


@BOTH
@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 20, 20), (1, 2, 2), (1, 1, 1), (4, 3, 3)])
def test_where_all_voxels_are_alike_there_is_still_an_answer(segment, shape):
    volume = Volume.from_array(np.full(shape, 7.0), window=(0, 10))
    middle = tuple(size // 2 for size in shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = segment(volume, [Click(*middle)])
    assert masks.shape == shape and masks[middle]
    assert max(shape) < 20 or not masks.all()


@BOTH
def test_without_a_positive_click_nothing_is_found(segment, target):
    assert not segment(two_tones(target), CLICKS[1:]).any()
    assert not segment(two_tones(target), []).any()


@BOTH
@pytest.mark.parametrize("outside", [(5, 0, 0), (0, 24, 0), (0, 0, 30)])
def test_a_click_outside_the_volume_is_refused(segment, target, outside):
    with pytest.raises(ValueError, match=r"inside the volume of \(5, 24, 30\)"):
        segment(two_tones(target), [Click(2, 12, 15), Click(*outside)])


def test_a_random_walker_solves_a_dirichlet_problem(monkeypatch):
    """Each probability is the weighted mean of its neighbours'."""
    monkeypatch.setattr(baselines, "TOLERANCE", 1e-10)
    images = np.random.default_rng(1).random((1, 4, 5)).astype(np.float32) / 20
    seeds = np.zeros((1, 4, 5), dtype=np.int8)
    seeds[0, 1, 1], seeds[0, 3, 4] = OBJECT, BACKGROUND
    probability = baselines._walk(images, seeds, np.array([2.0, 1.0, 1.5]))
    assert probability[0, 1, 1] == 1 and probability[0, 3, 4] == 0
    spacing = {(1, 0): 1.0, (-1, 0): 1.0, (0, 1): 1.5, (0, -1): 1.5}
    for row, column in np.argwhere(seeds[0] == 0).tolist():
        mean = total = 0.0
        for (down, right), step in spacing.items():
            at = (0, row + down, column + right)
            if at[1] in range(4) and at[2] in range(5):
                change = (float(images[at]) - float(images[0, row, column])) / step
                weight = np.exp(-baselines.EDGE * change**2)
                mean, total = mean + weight * probability[at], total + weight
        assert probability[0, row, column] == pytest.approx(mean / total, abs=1e-6)


def test_a_geodesic_voxel_is_the_objects_if_its_shortest_way_comes_from_there():
    """Ways are relaxed until none gets shorter (Bellman and Ford)."""
    shape, spacing_mm = (2, 5, 6), (3.0, 1.0, 2.0)
    images = np.random.default_rng(2).integers(0, 6, shape).astype(np.float32) / 50 + 0.5
    images[:, :, 4:] -= 0.3
    seeds = np.zeros(shape, dtype=np.int8)
    seeds[0, 2, 1], seeds[1, 4, 0] = OBJECT, BACKGROUND
    unlike = (images.astype(float) - images[0, 2, 1]) / LIKENESS
    ways = {
        OBJECT: np.full(shape, np.inf),
        BACKGROUND: RELUCTANCE_MM * np.exp(-(unlike**2) / 2),
    }
    for side, way in ways.items():
        way[seeds == side] = 0
        for _ in range(2 + 5 + 6):
            for at in np.ndindex(shape):
                for axis, step_mm in enumerate(spacing_mm):
                    if at[axis] > 0:
                        before = (*at[:axis], at[axis] - 1, *at[axis + 1 :])
                        change = (float(images[at]) - float(images[before])) / CONTRAST
                        length = step_mm * (1 + change**4)
                        way[at] = min(way[at], way[before] + length)
                        way[before] = min(way[before], way[at] + length)
    expected = ways[OBJECT] < ways[BACKGROUND]
    assert 5 < expected.sum() < 50
    found = baselines._nearest(images, seeds, np.array(spacing_mm))
    assert np.array_equal(found, expected)
