import numpy as np
import pytest
import torch
from fakes import fakes

from limnet.metrics import dice
from limnet.training.interactions import (
    GOOD_DICE,
    MIN_ERROR,
    InteractionSamples,
    simulate_interactions,
)
from limnet.training.samples import SliceSequence


def ramp_sequence(first_column):
    """Columns that grow brighter; the target begins left of where the fake network paints."""
    columns = torch.arange(48) / 48
    target = torch.zeros(5, 32, 48, dtype=torch.bool)
    target[:, :, first_column:] = True
    return SliceSequence(columns.expand(5, 32, 48).contiguous(), target)


def play(*sequences, seed=0, rounds=1):
    return simulate_interactions(sequences, fakes(), np.random.default_rng(seed), rounds=rounds)


def test_every_slice_without_a_click_comes_with_the_mask_that_propagation_brought():
    played = play(ramp_sequence(12))
    assert len(played.images) == 4  # of five one was clicked on
    assert torch.equal(played.targets[0], ramp_sequence(12).target[0])
    for mask in played.previous:
        assert not mask[:, :24].any() and mask[:, 25:].all()


def test_slices_that_are_right_are_left_out():
    played = play(ramp_sequence(24))
    assert len(played.images) == 0
    assert play(ramp_sequence(12)._replace(target=torch.zeros(5, 32, 48) > 0)).images.shape[0] == 0


def test_all_slices_are_worth_a_click():
    played = play(ramp_sequence(12), ramp_sequence(36), rounds=3)
    for mask, target in zip(played.previous.numpy(), played.targets.numpy(), strict=True):
        assert (mask ^ target).sum() >= MIN_ERROR and dice(mask, target) <= GOOD_DICE


def test_the_same_seed_plays_the_same():
    first, same = (play(ramp_sequence(12), rounds=3, seed=3) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, same, strict=True))


def test_images_and_masks_are_mirrored_and_turned_together():
    corner = torch.zeros(1, 4, 4)
    corner[0, 0, 1] = 1
    played = InteractionSamples(corner, corner > 0, corner > 0)
    drawn = played.draw(np.random.default_rng(0), 40)
    inverted = drawn.images.mean((1, 2)) > 0.5
    images = torch.where(inverted[:, None, None], 1 - drawn.images, drawn.images)
    assert torch.equal(images > 0.5, drawn.targets) and torch.equal(drawn.targets, drawn.previous)
    places = {tuple(mask.nonzero()[0].tolist()) for mask in drawn.targets}
    assert places == {(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2)}
    assert 0 < inverted.float().mean() < 0.5


def test_nothing_can_be_drawn_from_nothing():
    with pytest.raises(ValueError, match="at least one slice must have been played"):
        play(ramp_sequence(24)).draw(np.random.default_rng(0), 2)
