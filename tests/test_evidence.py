import numpy as np
import pytest
import torch

from limnet.evidence import Evidence
from limnet.networks.quality_net import EVIDENCE
from limnet.packed_masks import PackedMasks

NO_ERRORS = np.zeros(3, dtype=np.float32)


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
    errors=(NO_ERRORS, NO_ERRORS),
    given=None,
    asked=(0,),
    images=bright(5),  # noqa: B008 - makes no state
):
    both = Evidence.of(previous, current, errors, given or {}, images)
    rows = both.on(list(asked), images(list(asked)))
    return {name: rows[:, EVIDENCE.index(name)] for name in EVIDENCE}


def test_equal_rounds_tell_nothing():
    told = evidence(columns(1, 2, 3), columns(1, 2, 3), asked=[0, 1, 2])
    assert not any(values.any() for values in told.values())


def test_the_surer_round_is_the_one_with_fewer_errors_to_expect():
    few, many = NO_ERRORS + 5, NO_ERRORS + 15
    told = evidence(columns(1, 1, 1), columns(1, 1, 1), (few, many))
    assert told["certainty"][0] == pytest.approx(np.log(20 / 10))


def test_areas_are_compared_as_a_ratio():
    told = evidence(columns(4, 0, 0), columns(1, 0, 0))
    assert told["area"][0] == pytest.approx(np.log(45 / 15))


def test_likeness_is_that_to_the_nearest_mask_shown():
    given = {1: columns(2)[0], 7: columns(9)[0]}
    told = evidence(columns(2, 0, 2), columns(4, 0, 4), given=given, asked=[0, 2])
    dice = 2 * 20 / (20 + 40)
    np.testing.assert_allclose(told["likeness"], 1 - dice, rtol=1e-6)
    assert evidence(columns(2, 0, 0), columns(4, 0, 0))["likeness"][0] == 0


def test_the_mask_whose_pixels_look_like_the_object_where_it_was_shown_is_the_likelier():
    told = evidence(columns(0, 0, 5), columns(0, 0, 9), given={1: columns(5)[0]}, asked=[2])
    assert told["appearance"][0] > 1
    told = evidence(columns(0, 0, 5), columns(0, 0, 9), asked=[2])
    assert told["appearance"][0] == pytest.approx(0, abs=1e-6)  # nothing was shown


def test_rounds_that_change_places_change_the_sign():
    errors = NO_ERRORS + 3, NO_ERRORS + 8
    given = {1: columns(5)[0]}
    one, other = columns(2, 5, 5), columns(7, 5, 5)
    told = evidence(one, other, errors, given)
    swapped = evidence(other, one, errors[::-1], given)
    assert {name: -values for name, values in swapped.items()} == told


def test_nothing_asked_is_nothing_told():
    both = Evidence.of(columns(1), columns(2), (NO_ERRORS[:1], NO_ERRORS[:1]), {}, bright(5))
    assert both.on([], bright(5)([])).shape == (0, len(EVIDENCE))
