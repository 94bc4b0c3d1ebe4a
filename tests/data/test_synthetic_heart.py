from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from limnet.data.synthetic.heart import CHAMBERS, NAMES, heart

SEEDS = [0, 1, 2]
MILLILITRES = {  # of adults, sick and healthy, contracted or not
    "left ventricle": (10, 320),
    "myocardium": (30, 350),
    "right ventricle": (10, 350),
}


@cache
def patient(seed):
    return heart(seed)


def labelled(name, seed):
    return patient(seed).labels == NAMES.index(name)


def middle(seed):
    """The slice half way down the left ventricle."""
    shown = np.flatnonzero(labelled("left ventricle", seed).any(axis=(1, 2)))
    return int(shown[len(shown) // 2])


def test_the_seed_decides_everything():
    again = heart(0)
    assert np.array_equal(again.images, patient(0).images)
    assert np.array_equal(again.labels, patient(0).labels)
    assert not np.array_equal(patient(1).labels, patient(0).labels)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CHAMBERS)
def test_chambers_and_wall_have_natural_sizes(name, seed):
    least, most = MILLILITRES[name]
    assert least <= labelled(name, seed).sum() * np.prod(patient(seed).spacing_mm) / 1000 <= most


@pytest.mark.parametrize("seed", SEEDS)
def test_the_muscle_is_a_closed_ring_around_the_left_ventricle_half_way_down(seed):
    muscle = labelled("myocardium", seed)[middle(seed)]
    filled = ndimage.binary_fill_holes(muscle)
    chamber = labelled("left ventricle", seed)[middle(seed)]
    assert np.array_equal(filled & ~muscle, chamber) and chamber.any()
    left = ndimage.binary_dilation(labelled("left ventricle", seed), np.ones((1, 3, 3)))
    assert not (left & labelled("right ventricle", seed)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_blood_is_brighter_than_muscle(seed):
    images, at = patient(seed).images, middle(seed)
    assert images.min() >= 0 and images.max() <= 1 and images.dtype == np.float32
    blood, muscle = (
        images[at][labelled(name, seed)[at]].mean() for name in ("left ventricle", "myocardium")
    )
    assert blood > muscle + 0.1


@pytest.mark.parametrize("bad", [{"shape": (0, 8, 8)}, {"spacing_mm": (1.0, -1.0, 1.0)}])
def test_a_grid_must_be_positive(bad):
    with pytest.raises(ValueError, match="must be positive"):
        heart(0, **bad)
