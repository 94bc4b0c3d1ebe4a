import numpy as np
import pytest

from limnet.data.synthetic import shapes as synthesis
from limnet.data.synthetic.shapes import (
    SHAPES,
    degrade,
    field_of_view,
    paint_shape,
    radiograph,
    random_appearance,
    random_shapes,
    smooth_noise,
    warped_grid,
)

SHAPE = (4, 48, 64)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(3))
def test_shapes_are_labels_over_regions(seed):
    labels, first = random_shapes(rng(seed), SHAPE)
    assert labels.shape == SHAPE and labels.dtype == np.uint8
    assert 2 <= first <= synthesis.MAX_REGIONS
    assert labels.max() < first + 2 * synthesis.MAX_SHAPES
    assert (labels < first).any()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__.strip("_"))
def test_every_kind_of_shape_fills_a_part_of_the_grid_and_goes_on_to_the_next_slice(shape):
    shares, together = [], []
    for seed in range(12):
        generator = rng(seed)
        inside = shape(generator, warped_grid(generator, (6, 64, 64)), 12.0) < 1
        shares.append(inside.mean())
        both = inside[1:] & inside[:-1]
        together.append(both.sum() / max((inside[1:] | inside[:-1]).sum(), 1))
    assert 0.001 < np.mean(shares) < 0.4 and np.max(together) > 0.3


def test_a_radiograph_is_an_image_between_0_and_1():
    for seed in range(5):
        images, target = radiograph(rng(seed), SHAPE)
        assert images.shape == target.shape == SHAPE
        assert images.dtype == np.float32 and target.dtype == bool
        assert images.min() >= 0 and images.max() <= 1
        again, same = radiograph(rng(seed), SHAPE)
        assert np.array_equal(images, again) and np.array_equal(target, same)


def test_a_field_of_view_shows_the_middle_and_hides_corners():
    fields = [field_of_view(rng(seed), (48, 64)) for seed in range(30)]
    assert all(field.shape == (48, 64) and field.dtype == bool for field in fields)
    assert np.mean([field[24, 32] for field in fields]) > 0.95
    assert np.mean([field[0, 0] for field in fields]) < 0.4
    assert 0.3 < np.mean(fields) < 0.9


def test_a_painted_shape_is_what_changed_most():
    found = 0
    for seed in range(10):
        images = 0.5 + 0.05 * smooth_noise(rng(seed), SHAPE, (2, 12, 16))[0]
        painted, inside = paint_shape(rng(seed), images)
        assert painted.shape == SHAPE and painted.dtype == np.float32
        assert painted.min() >= 0 and painted.max() <= 1
        if inside.any():
            change = np.abs(painted - images)
            found += change[inside].mean() > 5 * change[~inside].mean() > 0
    assert found >= 6


def test_equal_generators_give_equal_volumes_and_others_do_not():
    def volume(seed):
        generator = rng(seed)
        labels, _ = random_shapes(generator, SHAPE)
        images = random_appearance(generator, labels)
        assert images.shape == SHAPE and images.dtype == np.float32
        assert images.min() >= 0 and images.max() <= 1 and images.std() > 0
        return labels, images

    for first, second in zip(volume(3), volume(3), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(volume(3)[0], volume(4)[0])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_degraded_images_stay_between_0_and_1_whatever_their_intensities(seed, flat):
    images = np.linspace(-1000, 3000, 4 * 48 * 64, dtype=np.float32).reshape(SHAPE)
    images = np.full_like(images, 0.4) if flat else images
    before, degraded = images.copy(), degrade(rng(seed), images)
    assert degraded.shape == SHAPE and degraded.dtype == np.float32
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert np.array_equal(degraded, degrade(rng(seed), images)) and np.array_equal(images, before)


def test_smooth_noise_is_the_coarse_noise_interpolated():
    noise = smooth_noise(rng(7), (3, 5, 5), (2, 3, 3), 2)
    coarse = rng(7).standard_normal((2, 2, 3, 3), dtype=np.float32)
    np.testing.assert_allclose(noise[:, ::2, ::2, ::2], coarse, rtol=1e-5)
    np.testing.assert_allclose(noise[:, 1, 0, 0], coarse[:, :, 0, 0].mean(axis=1), rtol=1e-5)
