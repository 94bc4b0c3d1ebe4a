import numpy as np
import pytest

from limnet.data.synthetic.scenes_2d import (
    IRREGULAR,
    instance_mask,
    irregular,
    still_life,
    ultrasound,
    video,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", IRREGULAR)
def test_irregular_objects_hide_parts_of_each_other(kind):
    scene = irregular(rng(), kind, 64)
    assert scene.image.shape == (64, 64, 3) and len(scene.masks) >= 2
    assert scene.masks.sum(axis=0).max() == 1 and scene.masks.any(axis=(1, 2)).all()
    same, other = (irregular(rng(seed), kind, 64).image for seed in (0, 1))
    assert np.array_equal(scene.image, same) and not np.array_equal(scene.image, other)


def test_animals_walk_to_the_right():
    frames = list(video(rng(), (60, 104), frames=8, animals=1))
    middles = [np.nonzero(scene.masks[0])[1].mean() for scene in frames[:4]]
    assert middles == sorted(middles) and len(set(middles)) == 4
    assert {scene.image.shape for scene in frames} == {(60, 104, 3)}


def test_the_outlines_of_a_still_life_lie_in_it_and_parts_on_their_things():
    for seed in range(4):
        _, things = still_life(rng(seed), (60, 80))
        masks = [instance_mask([thing.outline], 60, 80) for thing in things]
        assert all(mask.sum() > 20 for mask in masks) and not things[0].is_part
        for thing, mask, whole in zip(things[1:], masks[1:], masks, strict=False):
            assert max(thing.outline[::2]) <= 80 and max(thing.outline[1::2]) <= 60
            assert not thing.is_part or (mask & whole).sum() == mask.sum()


def test_a_lesion_is_darker_than_the_tissue_around_it():
    image, lesion = ultrasound(rng(), (64, 64))
    assert image[lesion].mean() < 0.7 * image[~lesion].mean()
