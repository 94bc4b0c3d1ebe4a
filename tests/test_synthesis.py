import numpy as np
import pytest

from limnet import synthesis
from limnet.synthesis import degrade, random_appearance, random_shapes, smooth_noise

SHAPE = (4, 48, 64)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_shapes_are_labels_over_regions(seed):
    labels, first = random_shapes(rng(seed), SHAPE)
    assert labels.shape == SHAPE and labels.dtype == np.uint8
    assert 2 <= first <= synthesis.MAX_REGIONS
    assert labels.max() < first + synthesis.MAX_SHAPES + 1
    assert (labels < first).any()


def test_neighbouring_slices_show_more_of_the_same_than_distant_ones():
    def overlap(labels, apart):
        return np.mean(labels[apart:] == labels[:-apart])

    volumes = [random_shapes(rng(seed), (6, 64, 64))[0] for seed in range(8)]
    assert (
        np.mean([overlap(v, 1) for v in volumes]) > np.mean([overlap(v, 4) for v in volumes]) + 0.1
    )


@pytest.mark.parametrize("seed", range(5))
def test_appearances_are_images_between_0_and_1(seed):
    labels, _ = random_shapes(rng(seed), SHAPE)
    images = random_appearance(rng(seed), labels)
    assert images.shape == SHAPE and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0


def test_equal_generators_give_equal_volumes_and_others_do_not():
    def volume(seed):
        generator = rng(seed)
        labels, _ = random_shapes(generator, SHAPE)
        return labels, random_appearance(generator, labels)

    for first, second in zip(volume(3), volume(3), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(volume(3)[0], volume(4)[0])


def test_without_texture_and_degradation_the_pixels_of_a_label_are_one_mean(monkeypatch):
    monkeypatch.setattr(synthesis, "smooth_noise", lambda *args: np.zeros((1, *SHAPE), np.float32))
    monkeypatch.setattr(synthesis, "degrade", lambda rng, images: images)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 10:30, 10:30], labels[:, 20:40, 40:60] = 1, 2
    images = random_appearance(rng(), labels)
    means = [np.unique(images[labels == label]) for label in range(3)]
    assert [len(values) for values in means] == [1, 1, 1]
    assert len(np.unique(np.concatenate(means))) == 3


@pytest.mark.parametrize("seed", range(8))
def test_degraded_images_stay_between_0_and_1_whatever_their_intensities(seed):
    images = np.linspace(-1000, 3000, 4 * 48 * 64, dtype=np.float32).reshape(SHAPE)
    degraded = degrade(rng(seed), images)
    assert degraded.shape == SHAPE and degraded.dtype == np.float32
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert np.array_equal(degraded, degrade(rng(seed), images))


def test_an_image_of_one_intensity_stays_finite():
    degraded = [degrade(rng(seed), np.full(SHAPE, 0.4, np.float32)) for seed in range(8)]
    assert np.isfinite(degraded).all()


def test_degrading_leaves_the_original_alone():
    images = np.full(SHAPE, 0.4, np.float32)
    images[:, 10:20] = 0.6
    before = images.copy()
    for seed in range(8):
        degrade(rng(seed), images)
    assert np.array_equal(images, before)


def test_smooth_noise_is_the_coarse_noise_interpolated():
    noise = smooth_noise(rng(7), (3, 5, 5), (2, 3, 3), 2)
    coarse = rng(7).standard_normal((2, 2, 3, 3), dtype=np.float32)
    np.testing.assert_allclose(noise[:, ::2, ::2, ::2], coarse, rtol=1e-5)
    np.testing.assert_allclose(noise[:, 1, 0, 0], coarse[:, :, 0, 0].mean(axis=1), rtol=1e-5)
