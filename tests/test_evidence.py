import numpy as np
import pytest

from limnet.evidence import evidence_of_rounds
from limnet.packed_masks import PackedMasks

NO_ERRORS = np.zeros(3, dtype=np.float32)


def columns(*counts):
    """Masks of slices 10 x 10 whose first so many columns are full."""
    return PackedMasks.of([np.arange(10) < np.full((10, 1), count) for count in counts])


def evidence(previous, current, errors=(NO_ERRORS, NO_ERRORS), given=None, asked=(0,)):
    return evidence_of_rounds(previous, current, errors, given or {}, asked)


def test_equal_rounds_tell_nothing():
    assert not evidence(columns(1, 2, 3), columns(1, 2, 3), asked=[0, 1, 2]).any()


def test_the_surer_round_is_the_one_with_fewer_errors_to_expect():
    few, many = NO_ERRORS + 5, NO_ERRORS + 15
    certainty = evidence(columns(1, 1, 1), columns(1, 1, 1), (few, many))[0, 0]
    assert certainty == pytest.approx(np.log(20 / 10))


def test_areas_are_compared_as_a_ratio():
    assert evidence(columns(4, 0, 0), columns(1, 0, 0))[0, 1] == pytest.approx(np.log(45 / 15))


def test_likeness_is_that_to_the_nearest_mask_shown():
    given = {1: columns(2)[0], 7: columns(9)[0]}
    told = evidence(columns(2, 0, 2), columns(4, 0, 4), given=given, asked=[0, 2])
    dice = 2 * 20 / (20 + 40)
    np.testing.assert_allclose(told[:, 2], 1 - dice, rtol=1e-6)
    assert evidence(columns(2, 0, 0), columns(4, 0, 0))[0, 2] == 0


def test_rounds_that_change_places_change_the_sign():
    errors = NO_ERRORS + 3, NO_ERRORS + 8
    given = {1: columns(5)[0]}
    one, other = columns(2, 5, 5), columns(7, 5, 5)
    told = evidence(one, other, errors, given)
    np.testing.assert_array_equal(told, -evidence(other, one, errors[::-1], given))
