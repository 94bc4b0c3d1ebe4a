from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import fakes

from limnet.method.features import SliceFeatures
from limnet.method.fusion import CROP_SIZE
from limnet.method.session import Session
from limnet.method.state import Recipe
from limnet.networks.checkpoints import lite
from limnet.networks.quality_net import QualityNet
from limnet.training import interactions
from limnet.training.interactions import (
    InteractionSamples,
    MaskPairs,
    defective_pairs,
    pairs_of_rounds,
    pairs_of_volumes,
    sample_pairs,
    simulate_interactions,
)
from limnet.training.samples import LabelledVolume, SliceSequence
from limnet.volumes import Volume


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
    assert pairs.images.shape[1:] == (3, CROP_SIZE, CROP_SIZE)


def test_parts_without_pairs_do_not_hinder_the_others():
    some = defective_pairs([disk_sequence()], np.random.default_rng(0))
    none = some.choose(torch.zeros(0, dtype=torch.long))
    assert len(MaskPairs.join([none, some]).images) == len(some.images)
    assert len(MaskPairs.join([]).images) == 0


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_of_the_model_give_pairs_from_the_second_on(rounds):
    torch.manual_seed(0)
    target = disk_sequence().target.numpy()
    volume = Volume.from_array(target.astype(np.float32))
    pairs = pairs_of_rounds(Session(volume, lite()), target, rounds)
    assert pairs.images.shape[1] == 3
    if rounds == 1:
        assert len(pairs.images) == 0


@pytest.mark.parametrize("fuse", [False, True])
def test_with_fusion_the_round_before_is_what_fusion_made_of_it(monkeypatch, fuse):
    class Stubborn(QualityNet):  # the first masks are the best
        def forward(self, images, *others):
            return torch.ones(len(images))

    compared, original = [], interactions.FusionFeatures.of

    def remember(cls, before, after, *others):
        compared.append((before, after))
        return original(before, after, *others)

    monkeypatch.setattr(interactions.FusionFeatures, "of", classmethod(remember))
    torch.manual_seed(0)
    target = disk_sequence(size=32).target.numpy()
    networks = replace(lite(), quality_net=Stubborn(lite().quality_net.config).eval())
    volume = Volume.from_array(target.astype(np.float32))
    features = SliceFeatures(volume, networks.propagation_net, working_size=32)
    recipe = replace(Recipe.of(networks), fuse=fuse)
    session = Session(volume, networks, recipe, features=features)
    pairs_of_rounds(session, target, rounds=3)
    (first, second), (third, _) = compared[0], compared[-1]
    same = ~third.differs(first if fuse else second)
    assert same.sum() >= len(same) - 2  # all but clicked slices


def numbered(first, count, size=4):
    """Pairs whose truth, which is 1 less it where they are swapped, says their number."""
    masks = torch.ones(count, 1, size, 4)
    number = torch.arange(first, first + count).float()
    return MaskPairs(masks.expand(-1, 3, -1, -1), 0 * masks, masks, torch.zeros(count, 5), number)


def numbers(pairs):
    return [int(max(number, 1 - number)) for number in pairs.previous_better.tolist()]


def test_a_batch_has_equal_shares_of_the_sources_that_have_pairs():
    sources = [numbered(0, 100), numbered(0, 0), numbered(1000, 2)]
    batch = sample_pairs(sources, np.random.default_rng(0), 8)
    assert sum(number >= 1000 for number in numbers(batch)) == 4
    assert len(numbers(batch)) == 8
    assert len(numbers(sample_pairs(sources, np.random.default_rng(0), 7))) == 7


def test_a_batch_is_swapped_mirrored_and_turned_as_a_whole():
    corner = torch.zeros(1, 1, 4, 4)
    corner[..., 0, 0] = 1
    images, told = corner.expand(-1, 3, -1, -1), torch.ones(1, 4)
    pairs = MaskPairs(images, 0 * corner, corner, told, torch.zeros(1))
    seen = set()
    for seed in range(40):
        batch = sample_pairs([pairs], np.random.default_rng(seed), 1)
        better = batch.current if batch.previous_better == 0 else batch.previous
        assert torch.equal(better[:, 0], batch.images[:, 0])
        assert torch.equal(batch.evidence, told if batch.previous_better == 0 else -told)
        seen.add((batch.previous_better.item(), *better[0, 0].nonzero()[0].tolist()))
    assert {answer for answer, *_ in seen} == {0, 1}
    assert {tuple(place) for _, *place in seen} == {(0, 0), (0, 3), (3, 0)}


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one source"):
        sample_pairs([numbered(0, 0)], np.random.default_rng(0), 4)


def test_rounds_are_played_on_some_targets_of_every_volume_with_images(monkeypatch):
    played = []

    def remember(session, target, rounds):
        played.append((session.recipe.fuse, int(target.sum()), rounds, session.features))
        return numbered(0, 10)

    monkeypatch.setattr(interactions, "pairs_of_rounds", remember)
    labels = np.zeros((2, 8, 8), dtype=np.uint8)
    labels[0, 0, :3], labels[0, 1, :5] = 1, 2
    volumes = [
        LabelledVolume(labels, (1, 2, 7), labels.astype(np.float32)),  # there is no 7
        LabelledVolume(labels, (1,)),  # no images
        LabelledVolume(labels, (2,), labels.astype(np.float32)),
    ]
    rng = np.random.default_rng(0)
    pairs = pairs_of_volumes(volumes, lite(), rng, targets=2, rounds=4, fuse=True, limit=6)
    assert [area for _, area, _, _ in sorted(played[:2], key=lambda row: row[1])] == [3, 5]
    assert [area for _, area, _, _ in played[2:]] == [5]
    assert {each[:1] + each[2:3] for each in played} == {(True, 4)}
    assert played[0][3] is played[1][3] and played[0][3] is not played[2][3]
    assert len(pairs.images) == 18


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
