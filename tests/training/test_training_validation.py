import numpy as np
import torch
from fakes import Brighter, Disks, Prefers

from limnet.training.interactions import MaskPairs
from limnet.training.steps import ClickBatch, SequenceBatch
from limnet.training.validation import (
    click_rounds,
    click_score,
    propagation_score,
    quality_answers,
    quality_score,
)


def disk_batch(radius=4):
    """Two slices with a disk each, somewhere else."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    disks = [(rows - 20) ** 2 + (columns - middle) ** 2 <= radius**2 for middle in (15, 30)]
    targets = torch.stack(disks)
    return ClickBatch(targets.float(), targets, torch.zeros_like(targets))


def test_every_sample_is_clicked_in_its_largest_error_once_a_round():
    batch = disk_batch()
    (clicks, masks), (_, later) = click_rounds(Disks(), batch, rounds=2)
    assert [(c.slice_index, c.row, c.column) for c in clicks] == [(0, 20, 15), (1, 20, 30)]
    assert masks.shape == batch.targets.shape and masks[0, 20, 15] and masks[1, 20, 30]
    assert not np.array_equal(masks, later)  # a disk of radius 5 was too large


def test_the_score_of_clicks_is_the_mean_dice_of_the_last_round():
    batch = disk_batch(radius=5)
    *_, (_, masks) = click_rounds(Disks(), batch, rounds=1)
    truth = batch.targets.numpy()
    pairs = zip(masks, truth, strict=True)
    slow = np.mean([2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in pairs])
    assert click_score(Disks(), batch, rounds=1) == slow > 0.9


def test_a_sequence_is_followed_from_its_first_true_mask():
    columns = (torch.arange(48) / 48).expand(4, 32, 48).contiguous()
    bright = columns > 0.5
    assert propagation_score(Brighter(), SequenceBatch(columns[None], bright[None])) > 0.95
    brighter = bright & (columns > 0.75)
    two = SequenceBatch(torch.stack([columns] * 2), torch.stack([bright, brighter]))
    assert 0.75 < propagation_score(Brighter(), two) < 0.875


def pairs(previous_better):
    count = len(previous_better)
    masks = torch.zeros(count, 1, 8, 8)
    images = masks.expand(-1, 3, -1, -1)
    return MaskPairs(images, masks, masks, torch.zeros(count, 3), torch.tensor(previous_better))


def test_the_score_of_a_quality_net_is_its_share_of_right_answers():
    judged = pairs([1.0, 0.0, 0.0, 0.0])
    assert quality_score(Prefers(0.25), judged) == 0.75
    assert quality_score(Prefers(0.75), judged) == 0.25
    assert np.allclose(quality_answers(Prefers(0.25), judged, batch_size=3), 0.25)


def test_without_pairs_there_are_no_answers():
    network, none = Prefers(0.25), pairs([])
    assert len(quality_answers(network, none)) == 0 and quality_score(network, none) == 0
