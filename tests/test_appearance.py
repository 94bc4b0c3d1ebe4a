import numpy as np
import pytest
from scipy import ndimage

from limnet.method.appearance import BINS, IntensityModel, surroundings

INSIDE, AROUND = 0.8, 0.2


def square(first=8, last=16, size=24):
    mask = np.zeros((size, size), dtype=bool)
    mask[first:last, first:last] = True
    return mask


def picture(mask):
    return np.where(mask, INSIDE, AROUND).astype(np.float32)


def vote(appearance, intensity):
    return appearance.log_odds[min(int(intensity * BINS), BINS - 1)]


def votes_of(inside, around):
    """The slow form: two histograms of pixels, as shares, blurred."""
    shares = (counts / counts.sum() for counts in (inside, around))
    inside, around = (ndimage.gaussian_filter1d(each, 1.0, mode="nearest") for each in shares)
    return np.log((inside + 0.002) / (around + 0.002))


def test_intensities_of_the_object_vote_for_it_and_those_around_it_against():
    known = IntensityModel.of([(picture(square()), square())])
    assert vote(known, INSIDE) > 1 and vote(known, AROUND) < -1


def test_what_nobody_saw_has_hardly_a_vote():
    known = IntensityModel.of([(picture(square()), square())])
    assert abs(vote(known, 0.5)) < 0.5


def test_votes_are_the_logarithm_of_two_histograms():
    rng = np.random.default_rng(0)
    mask, grey = square(), rng.random((24, 24)).astype(np.float32)
    grey[mask] **= 2
    off = ndimage.distance_transform_edt(~mask)
    counts = [np.zeros(BINS), np.zeros(BINS)]
    for row in range(24):
        for column in range(24):
            place = int(grey[row, column] * BINS)
            counts[0][place] += mask[row, column]
            counts[1][place] += 0 < off[row, column] <= 6  # three quarters of sqrt(64) pixels
    np.testing.assert_allclose(
        IntensityModel.of([(grey, mask)]).log_odds, votes_of(*counts), rtol=1e-5
    )


def test_each_pixel_votes_as_its_intensity_does():
    known = IntensityModel.of([(picture(square()), square())])
    log_odds = known.on(np.array([[INSIDE, AROUND, 0.5]]))
    assert log_odds.tolist() == [[vote(known, INSIDE), vote(known, AROUND), vote(known, 0.5)]]


def test_far_away_pixels_do_not_count():
    grey = picture(square())
    far = grey.copy()
    far[:2] = INSIDE
    known, other = (IntensityModel.of([(each, square())]) for each in (grey, far))
    np.testing.assert_array_equal(known.log_odds, other.log_odds)


def test_large_objects_are_looked_at_coarsely_with_nearly_the_same_votes():
    rng, mask = np.random.default_rng(0), square(80, 180, 260)
    grey = (rng.random((260, 260)) ** (1 + mask)).astype(np.float32)
    places, off = (grey * BINS).astype(int), ndimage.distance_transform_edt(~mask)
    near = (off > 0) & (off <= 75)
    slow = votes_of(*(np.bincount(places[each], minlength=BINS) for each in (mask, near)))
    assert np.abs(IntensityModel.of([(grey, mask)]).log_odds - slow).mean() < 0.15  # of -0.6 to 1.5


def test_slices_count_by_their_pixels_however_coarsely_they_are_looked_at():
    small, large = square(), square(80, 180, 260)
    bright, dark = picture(small), 1 - picture(large)  # inside and around have changed places
    known = IntensityModel.of([(bright, small), (dark, large)])
    assert vote(known, AROUND) > 1 > -1 > vote(known, INSIDE)


def test_the_mask_that_adds_pixels_of_the_object_is_preferred():
    grey = picture(square(4, 20))
    known = IntensityModel.of([(grey, square(4, 20))])
    whole, part, too_much = square(4, 20), square(4, 14), square(1, 23)
    assert known.prefers(grey, whole, part) > 1
    assert known.prefers(grey, whole, too_much) > 1
    assert known.prefers(grey, part, whole) == -known.prefers(grey, whole, part)


def test_equal_masks_and_unknown_objects_are_not_preferred():
    grey = picture(square())
    assert IntensityModel.of([(grey, square())]).prefers(grey, square(), square()) == 0
    nobody = IntensityModel.of([(grey, np.zeros_like(square()))])
    assert nobody.prefers(grey, square(), square(2, 4)) == pytest.approx(0, abs=1e-6)


def test_the_brightest_pixels_have_a_bin():
    grey = np.ones((24, 24), dtype=np.float32)
    assert np.isfinite(IntensityModel.of([(grey, square())]).prefers(grey, square(), square(2, 4)))


def test_surroundings_end_at_the_border_of_the_slice():
    rows, columns = surroundings(square(1, 16), 3)
    assert (rows.start, rows.stop) == (columns.start, columns.stop) == (0, 19)
