import numpy as np
import pytest
import torch

from limnet.method.evidence import FusionFeatures
from limnet.networks.quality_net import EVIDENCE
from limnet.volumes.masks import PackedMasks


def columns(*counts):
    """Masks of slices 10 x 10 whose first so many columns are full."""
    return PackedMasks.of([np.arange(10) < np.full((10, 1), count) for count in counts])


def bright(count):
    """Slices whose first so many columns are bright."""
    picture = torch.where(torch.arange(10) < count, 0.9, 0.1)
    return lambda indices: picture.expand(len(indices), 3, 10, 10)


def evidence(
    previous,
    current,
    given=None,
    asked=(0,),
    images=bright(5),  # noqa: B008 - makes no state
):
    both = FusionFeatures.of(previous, current, given or {}, images)
    rows = both.on(list(asked), images(list(asked)))
    return {name: rows[:, EVIDENCE.index(name)] for name in EVIDENCE}


def test_equal_rounds_tell_nothing():
    told = evidence(columns(1, 2, 3), columns(1, 2, 3), asked=[0, 1, 2])
    assert not any(values.any() for values in told.values())


def test_areas_are_compared_as_a_ratio():
    told = evidence(columns(4, 0, 0), columns(1, 0, 0))
    assert told["area"][0] == pytest.approx(np.log(45 / 15))


def test_a_mask_of_a_twentieth_is_as_good_as_none():
    first = np.arange(10_000).reshape(100, 100)
    large, small, none = (PackedMasks.of([first < count]) for count in (9_000, 400, 0))
    images = lambda indices: torch.zeros(len(indices), 3, 100, 100)  # noqa: E731
    for each in (small, none):
        assert evidence(large, each, images=images)["area"][0] == 3
        assert evidence(each, large, images=images)["area"][0] == -3


def test_likeness_is_that_to_the_nearest_mask_shown():
    given = {1: columns(2)[0], 7: columns(9)[0]}
    told = evidence(columns(2, 0, 2, *5 * [9]), columns(4, 0, 4, *5 * [9]), given, asked=[0, 2])
    dice = 2 * 20 / (20 + 40)
    np.testing.assert_allclose(told["likeness"], 1 - dice, rtol=1e-6)
    assert evidence(columns(2, 0, 0), columns(4, 0, 0))["likeness"][0] == 0


def test_the_mask_whose_pixels_look_like_the_object_where_it_was_shown_is_the_likelier():
    told = evidence(columns(0, 0, 5), columns(0, 0, 9), given={1: columns(5)[0]}, asked=[2])
    assert told["appearance"][0] == 1  # as much as counts
    told = evidence(columns(0, 0, 5), columns(0, 0, 9), asked=[2])
    assert told["appearance"][0] == pytest.approx(0, abs=1e-6)  # nothing was shown


def test_what_was_corrected_on_the_nearest_slice_is_looked_for_on_the_others():
    given = {1: columns(4)[0]}  # where the round before had 7 columns: three were taken away
    told = evidence(columns(7, 7, 0), columns(5, 4, 0), given)
    assert told["correction"][0] == pytest.approx(-20 / (20 + 5))
    told = evidence(columns(7, 7, 0), columns(9, 4, 0), given)
    assert told["correction"][0] == 0  # neither made it
    told = evidence(columns(7, 2, 0), columns(2, 4, 0), given)  # two columns were added
    assert told["correction"][0] == pytest.approx(20 / (50 + 5))
    assert evidence(columns(7, 4, 0), columns(5, 4, 0), given)["correction"][0] == 0  # kept


def test_the_farther_beyond_what_was_shown_the_more_a_small_mask_is_the_likelier():
    large, small = columns(6, 6, 6, 6, 6), columns(0, 0, 0, 0, 0)
    told = evidence(large, small, {1: columns(6)[0], 3: columns(6)[0]}, asked=[0, 2, 4])
    ratio = np.log(65 / 5)
    np.testing.assert_allclose(told["ending"], [-ratio * np.log(2), 0, -ratio * np.log(2)], 1e-5)
    nothing = columns(0)[0]  # a slice without the object shows nothing of it
    told = evidence(large, small, {1: columns(6)[0], 4: nothing}, asked=[2, 3])
    np.testing.assert_allclose(told["ending"], [-ratio * np.log(2), -ratio * np.log(3)], 1e-5)


def test_rounds_that_change_places_change_the_sign():
    given = {1: columns(5)[0]}  # which neither round had
    one, other = columns(2, 3, 5), columns(7, 3, 5)
    told, swapped = evidence(one, other, given), evidence(other, one, given)
    assert {name: -values for name, values in swapped.items()} == told
    assert all(values[0] for values in told.values())


def test_nothing_asked_is_nothing_told():
    both = FusionFeatures.of(columns(1), columns(2), {}, bright(5))
    assert both.on([], bright(5)([])).shape == (0, len(EVIDENCE))
