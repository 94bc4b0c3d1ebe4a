import numpy as np
import pytest
import torch

from limnet.fusion import CROP_SIZE
from limnet.mask_pairs import MaskPairs, defective_pairs, pairs_of_rounds
from limnet.networks.checkpoints import lite
from limnet.sequences import SliceSequence
from limnet.volume import Volume


def disk_sequence(slices=6, size=64):
    rows, columns = np.indices((size, size))
    disk = (rows - 30) ** 2 + (columns - 34) ** 2 < 15**2
    images = torch.from_numpy(np.stack([disk] * slices).astype(np.float32))
    target = torch.from_numpy(np.stack([disk] * (slices - 1) + [np.zeros_like(disk)]))
    return SliceSequence(images, target)


def overlap(masks, truth):
    """The DSC of each crop, on shares in [0, 1]."""
    return 2 * (masks * truth).sum((1, 2, 3)) / (masks.sum((1, 2, 3)) + truth.sum((1, 2, 3)))


def test_the_label_names_the_mask_that_overlaps_more():
    pairs = defective_pairs([disk_sequence()] * 6, np.random.default_rng(0))
    truth = (pairs.images[:, :1] > 0.5).float()  # the image shows the disk itself
    better = overlap(pairs.previous, truth) > overlap(pairs.current, truth)
    assert (better == (pairs.previous_better > 0.5)).float().mean() > 0.95
    assert 0 < pairs.previous_better.mean() < 1


def test_pairs_are_crops_as_fusion_makes_them():
    pairs = defective_pairs([disk_sequence()], np.random.default_rng(0))
    assert pairs.images.shape[1:] == (3, CROP_SIZE, CROP_SIZE)
    assert pairs.previous.shape[1:] == pairs.current.shape[1:] == (1, CROP_SIZE, CROP_SIZE)


def test_slices_without_the_target_give_no_pair():
    empty = disk_sequence()._replace(target=torch.zeros(6, 64, 64, dtype=torch.bool))
    both = defective_pairs([disk_sequence(), empty], np.random.default_rng(0))
    one = defective_pairs([disk_sequence()], np.random.default_rng(0))
    assert len(both.images) == len(one.images)


def test_swapping_a_pair_swaps_its_label():
    pairs = defective_pairs([disk_sequence()], np.random.default_rng(0))
    swapped = pairs.swapped()
    assert torch.equal(swapped.current, pairs.previous)
    assert torch.equal(swapped.previous_better, 1 - pairs.previous_better)


def test_chosen_pairs_stay_together():
    pairs = defective_pairs([disk_sequence()] * 2, np.random.default_rng(0))
    chosen = pairs.choose(torch.tensor([1, 0]))
    assert torch.equal(chosen.previous[0], pairs.previous[1])
    assert torch.equal(chosen.previous_better, pairs.previous_better[[1, 0]])


def test_parts_without_pairs_do_not_hinder_the_others():
    some = defective_pairs([disk_sequence()], np.random.default_rng(0))
    none = some.choose(torch.zeros(0, dtype=torch.long))
    assert len(MaskPairs.join([none, some]).images) == len(some.images)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_of_the_model_give_pairs_from_the_second_on(rounds):
    torch.manual_seed(0)
    target = disk_sequence().target.numpy()
    volume = Volume.from_array(target.astype(np.float32))
    pairs = pairs_of_rounds(volume, target, lite(), rounds=rounds)
    assert pairs.images.shape[1] == 3
    if rounds == 1:
        assert len(pairs.images) == 0
