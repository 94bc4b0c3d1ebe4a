import numpy as np
import pytest
import torch

from limnet.method.fusion import FusionFeatures, crop_to_masks, fuse
from limnet.networks.quality_net import QualityNet, QualityNetConfig
from limnet.volumes.masks import PackedMasks


def fuse_slowly(network, images, previous, current, threshold):
    """Equations 2 and 4 as they are written, slice by slice."""
    fused, previous_better = [], []
    for i in range(len(images)):
        one = slice(i, i + 1)
        p_i = network(*crop_to_masks(images[one], previous[one], current[one])).item()  # Eq. 2
        fused.append(previous[i] if p_i > threshold else current[i])  # Eq. 4
        previous_better.append(p_i)
    return torch.stack(fused), previous_better


def prefers(*previous_better):
    """A quality network that has made up its mind, for each slice it is asked about in turn."""
    answers = iter(previous_better)
    return lambda images, previous, current: torch.tensor([next(answers) for _ in images])


class Slices:
    """Black slices, and the indices that were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, slice_indices):
        self.asked.append(slice_indices)
        return torch.zeros(len(slice_indices), 3, 4, 4)


def rounds(slices):
    """A round of full masks, then a round of empty ones."""
    return torch.ones(slices, 4, 4, dtype=bool), torch.zeros(slices, 4, 4, dtype=bool)


def random_rounds(slices, generator):
    boxes = torch.zeros(2, slices, 40, 60, dtype=bool)
    for mask in boxes.flatten(0, 1):
        top, left = torch.randint(0, 25, (2,), generator=generator).tolist()
        mask[top : top + 15, left : left + 30] = True
    return torch.rand(slices, 3, 40, 60, generator=generator), *boxes


def quality_net():
    torch.manual_seed(0)
    return QualityNet(QualityNetConfig("resnet10", width=4)).eval()


@pytest.mark.parametrize(("tau", "keeps"), [(0.125, True), (0.25, False), (0.375, False)])
def test_only_a_probability_above_the_threshold_keeps_the_previous_mask(tau, keeps):
    fused, _ = fuse(prefers(0.25), Slices(), *map(packed, rounds(1)), threshold=tau)
    assert fused.any() == keeps


def test_only_slices_that_changed_are_asked_about():
    previous, current = rounds(5)
    current[[0, 2, 3]] = True
    slices = Slices()
    fused, better = fuse(prefers(0.9, 0.1), slices, packed(previous), packed(current))
    assert slices.asked == [[1, 4]] and fused.areas.tolist() == [16, 16, 16, 16, 0]
    assert better.tolist() == pytest.approx([0.5, 0.9, 0.5, 0.5, 0.1])


def packed(masks):
    return PackedMasks.pack(masks.numpy())


def test_what_the_user_has_given_is_not_asked_about():
    slices, both = Slices(), [packed(each) for each in rounds(4)]
    fused, better = fuse(prefers(0.9, 0.8), slices, *both, user_masks=(1, 2))
    assert slices.asked == [[0, 3]] and fused.areas.tolist() == [16, 0, 0, 16]
    assert better.tolist() == pytest.approx([0.9, 0.5, 0.5, 0.8])


def box(rows, columns, size=(200, 240)):
    mask = torch.zeros(1, *size, dtype=bool)
    mask[:, slice(*rows), slice(*columns)] = True
    return mask


def test_a_small_object_fills_the_crop():
    mask = box((50, 90), (170, 210))
    _, previous, current = crop_to_masks(torch.zeros(1, 3, 200, 240), mask, mask)
    assert previous.shape == current.shape == (1, 1, 96, 96)
    # the crop's side is 1.4 times that of the object
    assert current.mean().item() == pytest.approx(1 / 1.4**2, rel=0.02)
    assert mask.float().mean().item() < 0.04


def test_a_tiny_object_is_shown_with_its_surroundings_pixel_by_pixel(generator):
    images = torch.rand(1, 3, 60, 80, generator=generator)
    mask = box((20, 28), (30, 38), size=(60, 80))
    crop, previous, _ = crop_to_masks(images, mask, torch.zeros_like(mask))
    # 32 pixels around the middle, (24, 34), each of them three times as large
    torch.testing.assert_close(crop[:, :, 1::3, 1::3], images[:, :, 8:40, 18:50])
    assert torch.equal(previous[0, 0, 1::3, 1::3] > 0.5, mask[0, 8:40, 18:50])


def test_empty_masks_are_shown_with_the_whole_slice():
    images, empty = torch.rand(1, 3, 60, 80), torch.zeros(1, 60, 80, dtype=bool)
    crop, previous, current = crop_to_masks(images, empty, empty)
    assert crop.isfinite().all() and not previous.any() and not current.any()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_fusion_is_equations_2_to_4_written_out(batch_size, generator):
    images, previous, current = random_rounds(5, generator)
    network = quality_net()
    both = packed(previous), packed(current)
    fused, better = fuse(network, images.__getitem__, *both, threshold=0.45, batch_size=batch_size)
    slow, p = fuse_slowly(network, images, previous, current, 0.45)
    assert np.array_equal(fused, slow) and better.tolist() == pytest.approx(p)


def test_rounds_of_different_volumes_are_refused():
    previous, current = packed(rounds(3)[0]), packed(rounds(2)[1])
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) and \(2, 4, 4\)"):
        fuse(prefers(), Slices(), previous, current)


NAMES = (
    "log_area_ratio",
    "dice_to_nearest_prompt",
    "intensity_agreement",
    "last_correction",
    "distance_beyond_prompts",
)


def columns(*counts):
    """Masks of slices 10 x 10 whose first so many columns are full."""
    return PackedMasks.of([np.arange(10) < np.full((10, 1), count) for count in counts])


def features_of(previous, current, user_masks=None, asked=(0,), images=None):
    images = images or bright(5)
    both = FusionFeatures.of(previous, current, user_masks or {}, images)
    rows = both.on(list(asked), images(list(asked)))
    return {name: rows[:, place] for place, name in enumerate(NAMES)}


def bright(count):
    """Slices whose first so many columns are bright."""
    picture = torch.where(torch.arange(10) < count, 0.9, 0.1)
    return lambda indices: picture.expand(len(indices), 3, 10, 10)


def test_areas_are_compared_as_a_ratio():
    told = features_of(columns(4, 0, 0), columns(1, 0, 0))
    assert told["log_area_ratio"][0] == pytest.approx(np.log(45 / 15))


def test_dice_is_that_to_the_nearest_mask_shown():
    given = {1: columns(2)[0], 7: columns(9)[0]}
    told = features_of(columns(2, 0, 2, *5 * [9]), columns(4, 0, 4, *5 * [9]), given, asked=[0, 2])
    dice = 2 * 20 / (20 + 40)
    np.testing.assert_allclose(told["dice_to_nearest_prompt"], 1 - dice, rtol=1e-6)
    assert features_of(columns(2, 0, 0), columns(4, 0, 0))["dice_to_nearest_prompt"][0] == 0


def test_the_mask_whose_pixels_look_like_the_object_where_it_was_shown_is_the_likelier():
    told = features_of(columns(0, 0, 5), columns(0, 0, 9), user_masks={1: columns(5)[0]}, asked=[2])
    assert told["intensity_agreement"][0] == 1  # as much as counts
    told = features_of(columns(0, 0, 5), columns(0, 0, 9), asked=[2])
    assert told["intensity_agreement"][0] == pytest.approx(0, abs=1e-6)  # nothing was shown


def test_what_was_corrected_on_the_nearest_slice_is_looked_for_on_the_others():
    given = {1: columns(4)[0]}  # where the round before had 7 columns: three were taken away
    told = features_of(columns(7, 7, 0), columns(5, 4, 0), given)
    assert told["last_correction"][0] == pytest.approx(-20 / (20 + 5))
    told = features_of(columns(7, 7, 0), columns(9, 4, 0), given)
    assert told["last_correction"][0] == 0  # neither made it
    told = features_of(columns(7, 2, 0), columns(2, 4, 0), given)  # two columns were added
    assert told["last_correction"][0] == pytest.approx(20 / (50 + 5))
    assert features_of(columns(7, 4, 0), columns(5, 4, 0), given)["last_correction"][0] == 0  # kept


def test_the_farther_beyond_what_was_shown_the_more_a_small_mask_is_the_likelier():
    large, small = columns(6, 6, 6, 6, 6), columns(0, 0, 0, 0, 0)
    told = features_of(large, small, {1: columns(6)[0], 3: columns(6)[0]}, asked=[0, 2, 4])
    ratio = np.log(65 / 5)
    np.testing.assert_allclose(
        told["distance_beyond_prompts"], [-ratio * np.log(2), 0, -ratio * np.log(2)], 1e-5
    )
    nothing = columns(0)[0]  # a slice without the object shows nothing of it
    told = features_of(large, small, {1: columns(6)[0], 4: nothing}, asked=[2, 3])
    np.testing.assert_allclose(
        told["distance_beyond_prompts"], [-ratio * np.log(2), -ratio * np.log(3)], 1e-5
    )


def test_rounds_that_change_places_change_the_sign():
    given = {1: columns(5)[0]}  # which neither round had
    one, other = columns(2, 3, 5), columns(7, 3, 5)
    told, swapped = features_of(one, other, given), features_of(other, one, given)
    assert {name: -values for name, values in swapped.items()} == told
    assert all(values[0] for values in told.values())
