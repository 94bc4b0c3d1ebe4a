from itertools import repeat

import numpy as np
import pytest
import torch

from limnet.networks.click_net import ClickNet, ClickNetConfig
from limnet.networks.hrnet import HRNetConfig
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig
from limnet.networks.quality_net import QualityNet, QualityNetConfig
from limnet.training import steps as training
from limnet.training.clicks import BatchedClicks
from limnet.training.interactions import MaskPairs
from limnet.training.loop import FitOptions, fit
from limnet.training.losses import dice_loss, normalised_focal_loss
from limnet.training.samples import SliceSequence
from limnet.training.steps import (
    ClickBatch,
    ClickTraining,
    SequenceBatch,
    click_batch,
    click_step,
    propagation_step,
    quality_step,
    weigh_evidence,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def bright_boxes(*shape):
    """Boxes, and images in which they are bright among noise."""
    generator = rng()
    masks = np.zeros((*shape, 32, 32), dtype=bool)
    for mask in masks.reshape(-1, 32, 32):
        top, left = generator.integers(3, 12, 2)
        mask[top : top + 14, left : left + 12] = True
    noise = 0.2 * generator.random(masks.shape)
    return torch.from_numpy((0.8 * masks + noise).astype(np.float32)), torch.from_numpy(masks)


def bright_batch():
    images, targets = bright_boxes(2)
    return ClickBatch(images, targets, torch.zeros_like(targets))


def click_net():
    torch.manual_seed(0)
    sizes = HRNetConfig(
        width=4, stem_channels=8, bottlenecks=1, bottleneck_planes=4, stage_modules=(1, 1, 1),
        blocks=1, ocr_width=8,
    )  # fmt: skip
    return ClickNet(ClickNetConfig(sizes, maps_scale=1.0))


def propagation_net():
    torch.manual_seed(0)
    return PropagationNet(
        PropagationNetConfig(
            "resnet10", "resnet10", width=8, key_dim=8, value_dim=16, hidden_dim=8,
            decoder_channels=16,
        )
    )  # fmt: skip


def quality_net():
    torch.manual_seed(0)
    return QualityNet(QualityNetConfig("resnet10", width=8))


def quality_batch():
    """In every other pair the previous mask is the true one, else the current one."""
    images, true = bright_boxes(8)
    false = true.roll(6, dims=2)
    previous_better = torch.arange(8) % 2 == 0
    first = torch.where(previous_better[:, None, None], true, false)
    second = torch.where(previous_better[:, None, None], false, true)
    pairs = (mask[:, None].float() for mask in (first, second))
    images = images[:, None].expand(-1, 3, -1, -1)
    return MaskPairs(images, *pairs, torch.zeros(8, 5), previous_better.float())


EVERY_ROUND = {"drop_clicks_prob": 0.0, "refinement_share": 0.0}  # adds one click


def correcting_step(network, batch, rng):
    return click_step(network, batch, rng, ClickTraining(**EVERY_ROUND))


@pytest.mark.parametrize(
    ("network", "step", "batch"),
    [
        (click_net, correcting_step, lambda: bright_batch()),
        (propagation_net, propagation_step, lambda: SequenceBatch(*bright_boxes(2, 3))),
        (quality_net, quality_step, quality_batch),
    ],
    ids=["click", "propagation", "quality"],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_loss_falls_when_one_batch_is_learnt_by_heart(network, step, batch, bfloat16, tmp_path):
    def same_step(network, batch, _):  # with the same clicks again
        return step(network, batch, rng())

    batch = batch()
    options = FitOptions(
        iterations=40, learning_rate=1e-2, warm_up=1, freeze_bn_fraction=0.0, bfloat16=bfloat16
    )
    losses = fit(network(), same_step, lambda rng: batch, tmp_path, options).losses
    # the focal loss is rescaled to weights of mean 1 and falls slowly, that of first clicks most of
    # all, which counts too as every round teaches (with the last alone 20 iterations were enough)
    assert len(losses) == 40 and np.mean(losses[-5:]) < 0.75 * losses[0]


@pytest.mark.parametrize(
    ("network", "step", "batch"),
    [
        (click_net, click_step, lambda: bright_batch()),
        (propagation_net, propagation_step, lambda: SequenceBatch(*bright_boxes(1, 6))),
    ],
)
def test_a_step_depends_on_its_generator_only(network, step, batch):
    network, batch = network().eval(), batch()
    first, same, other = (step(network, batch, rng(seed)).item() for seed in (1, 1, 2))
    assert first == same != other


def test_every_weight_learns_but_those_that_weigh_objects():
    network = click_net()
    click_step(network, bright_batch(), rng()).backward()
    # there is one object, which has all of the attention whatever they say
    attention = ("hrnet.head.f_pixel.", "hrnet.head.f_object.")
    for name, weight in network.named_parameters():
        assert (weight.grad is None) == name.startswith(attention), name
    network, sequences = propagation_net(), SequenceBatch(*bright_boxes(2, 5))
    for seed in range(3):  # now the mask, now the value updates sensory memory
        propagation_step(network, sequences, rng(seed)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_slice_reads_the_prompts_and_some_of_the_slices_before_it():
    options = training.PropagationTraining(reference_slices=3)
    references = [training._references(i, [0], rng(), options) for i in (1, 2, 3)]
    assert references == [[0], [0, 1], [0, 1, 2]]
    assert training._references(2, [0, 5], rng(), options) == [0, 1, 5]
    for seed in range(10):
        first, *others, prompt = training._references(7, [0, 9], rng(seed), options)
        assert first == 0 and prompt == 9 and len(others) == 2
        assert others == sorted(set(others)) and min(others) >= 1 and others[-1] <= 6


def test_a_second_prompt_is_read_before_the_pass_comes_to_it_and_has_no_loss():
    images, targets = bright_boxes(1, 3)
    network = propagation_net()
    other = torch.cat([targets[:, :2], ~targets[:, 2:]], dim=1)

    def losses(share):
        options = training.PropagationTraining(second_prompt_share=share)
        batches = (SequenceBatch(images, masks) for masks in (targets, targets, other))
        return [propagation_step(network, batch, rng(), options).item() for batch in batches]

    for share in (0.0, 1.0):
        first, same, changed = losses(share)
        assert first == same != changed
    assert losses(0.0)[0] != losses(1.0)[0]


def box(top, bottom, left, right):
    mask = np.zeros((32, 32), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def starts(given=None, **shares):
    """Targets, previous masks and clicks of eight samples of one box."""
    targets = np.stack([box(8, 20, 10, 24)] * 8)
    given, options = targets & False if given is None else given, ClickTraining(**shares)
    both = [torch.from_numpy(each) for each in (targets, given)]
    both = training._starts(*both, rng(), options)
    return *both, training._first_clicks(*both, torch.Generator().manual_seed(0), options)


def test_samples_start_from_nothing_from_a_defective_mask_or_from_one_to_be_removed():
    target = torch.from_numpy(box(8, 20, 10, 24))
    truth, previous, clicks = starts(defective_share=0.0, absent_share=0.0)
    assert (truth == target).all() and not previous.any()
    assert (clicks.signs == 1).any(dim=1).all()
    truth, previous, clicks = starts(defective_share=1.0, absent_share=0.0)
    assert (truth == target).all() and previous.flatten(1).any(dim=1).all()
    for mask, row, column, sign in zip(previous, *clicks, strict=True):
        if (mask != target).any():  # one click, on the error
            [at] = sign.nonzero()
            assert mask[row[at], column[at]] != target[row[at], column[at]]
    truth, previous, clicks = starts(defective_share=0.0, absent_share=1.0)
    assert not truth.any() and (previous == target).all()
    assert (clicks.signs.sum(dim=1) == -1).all() and (clicks.signs.abs().sum(dim=1) == 1).all()
    played = np.stack([np.roll(target.numpy(), 5, axis=1)] * 8)  # it has its mask already
    truth, previous, clicks = starts(played, defective_share=0.5, absent_share=0.5)
    assert (truth == target).all() and torch.equal(previous, torch.from_numpy(played))
    assert (clicks.signs.abs().sum(dim=1) == 1).all()


def test_every_round_has_a_loss():
    batch, network, seen = bright_batch(), click_net(), []
    network.register_forward_hook(lambda *call: seen.append(call[2]))
    before = [tensor.clone() for tensor in batch]
    for seed in range(6):
        seen.clear()
        options = ClickTraining(**EVERY_ROUND, absent_share=0.0)
        loss = click_step(network, batch, rng(seed), options)
        targets = batch.targets[:, None].float()
        slow = []
        for mask, auxiliary in seen:
            guess = torch.nn.functional.binary_cross_entropy_with_logits(auxiliary, targets)
            main, overlap = normalised_focal_loss(mask, targets), dice_loss(mask.sigmoid(), targets)
            slow.append(main.mean() + 0.4 * guess + overlap.mean())
        torch.testing.assert_close(loss, sum(slow) / len(seen))
    assert all(torch.equal(*pair) for pair in zip(batch, before, strict=True))


def clicked(*clicks):
    """One sample with these (row, column, sign)."""
    return BatchedClicks(*torch.tensor(clicks).T[:, None])


def after_round(clicks, previous, **shares):
    target = torch.from_numpy(box(4, 20, 4, 15))[None]
    generator = torch.Generator().manual_seed(0)
    return training._after_round(
        clicks, target.expand(len(previous), -1, -1), previous, generator, ClickTraining(**shares)
    )


def test_correcting_clicks_are_added_where_something_is_wrong():
    right = torch.from_numpy(box(4, 20, 4, 15))[None, None].float()
    clicks = BatchedClicks(*(torch.tensor([[5], [6]]) for _ in range(2)), torch.ones(2, 1).long())
    clicks, seen = after_round(clicks, torch.cat([right, 0 * right]), **EVERY_ROUND)
    assert clicks.signs.tolist() == [[1, 0], [1, 1]]
    assert torch.equal(seen, torch.cat([right, 0 * right]))


def test_a_mask_whose_clicks_are_forgotten_comes_with_one_click_on_its_error():
    previous = torch.from_numpy(box(4, 20, 4, 25))[None, None] * 0.97  # ten columns too many
    shares = {"refinement_share": 0.0, "drop_clicks_prob": 1.0}
    clicks, seen = after_round(clicked((6, 6, 1), (1, 1, -1)), previous, **shares)
    assert clicks.signs.tolist() == [[0, 0, -1]] and 15 <= clicks.columns[0, 2] < 25
    assert torch.equal(seen, (previous > 0.5).float())


def test_a_click_batch_holds_slices_that_show_their_target():
    images, target = bright_boxes(6)
    target[1], target[4] = False, False
    sequence = SliceSequence(images, target)
    batch = click_batch(repeat(sequence), 5, per_sequence=2)
    assert torch.equal(batch.images, images[[0, 3, 0, 3, 0]])
    assert torch.equal(batch.targets, target[[0, 3, 0, 3, 0]])


def weighing_net():
    torch.manual_seed(0)
    config = QualityNetConfig("resnet10", width=8, evidence=True)
    return QualityNet(config).eval().requires_grad_(False)


def telling_pairs(count=4000):
    """Pairs whose evidence, weighed in a known way, tells the better mask; the picture does not."""
    generator = rng()
    deviations = (1, 2, 0.5, 1, 1)
    evidence = torch.from_numpy(generator.normal(0, deviations, (count, 5)).astype(np.float32))
    likely = (evidence @ torch.tensor([1.0, -0.5, 2.0, 0.0, 0.3]) - 0.4).sigmoid()
    better = torch.from_numpy(generator.random(count).astype(np.float32)) < likely
    picture = torch.from_numpy(generator.random((count, 5, 8, 8), dtype=np.float32))
    return MaskPairs(*picture.split((3, 1, 1), dim=1), evidence, better.float())


def test_evidence_is_weighed_as_it_deserves():
    network = weighing_net()
    weigh_evidence(network, telling_pairs(), ridge=0.0)
    found = network.weigh.weight[0].tolist()
    assert found == pytest.approx([1.0, -0.5, 2.0, 0.0, 0.3], abs=0.2)


def test_a_picture_that_speaks_for_the_worse_mask_or_for_none_weighs_nothing():
    pairs = telling_pairs(400)
    with torch.no_grad():
        answers = weighing_net().logits(*pairs[:3])
    worse = pairs._replace(previous_better=(answers < answers.median()).float())
    network = weighing_net()
    weigh_evidence(network, worse)
    assert not network.classify.weight.any()
    weigh_evidence(network, pairs, ridge=0.0)  # its answers are all the same now
    assert network.weigh.weight[0].tolist() == pytest.approx([1.0, -0.5, 2.0, 0.0, 0.3], abs=0.6)


def test_evidence_is_not_weighed_without_pairs_or_by_a_network_as_in_the_paper():
    with pytest.raises(ValueError, match="and 0 pairs"):
        weigh_evidence(weighing_net(), telling_pairs(0))
    with pytest.raises(ValueError, match="evidence=False"):
        weigh_evidence(quality_net(), telling_pairs(3))
