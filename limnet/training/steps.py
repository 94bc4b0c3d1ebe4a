"""Training: one step for each network (paper, section III-B); `training.loop` repeats them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from limnet.data.synthetic.defects import corrupt
from limnet.method.memory import affinity, similarity
from limnet.networks.click_net import ClickNet
from limnet.networks.layers import normalise
from limnet.networks.propagation_net import PropagationNet, SliceEncoding, aggregate
from limnet.networks.quality_net import QualityNet
from limnet.training.clicks import BatchedClicks, Regions, corrective_clicks, first_clicks
from limnet.training.interactions import InteractionSamples, MaskPairs
from limnet.training.losses import bootstrapped_cross_entropy, dice_loss, normalised_focal_loss
from limnet.training.samples import MIN_AREA, SliceSequence

Rng = np.random.Generator
Maps = Float32[Tensor, "batch 1 height width"]


class ClickBatch(NamedTuple):
    """Slices for the click network."""

    images: Float32[Tensor, "batch height width"]
    targets: Bool[Tensor, "batch height width"]
    previous: Bool[Tensor, "batch height width"]  # what the first clicks correct; or empty

    @classmethod
    def join(cls, *parts: "ClickBatch | InteractionSamples") -> "ClickBatch":
        """The slices of all parts in one batch."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def to(self, device: torch.device | str) -> "ClickBatch":
        """The same batch on a device."""
        return ClickBatch(*(each.to(device) for each in self))


class SequenceBatch(NamedTuple):
    """Sequences for the propagation network."""

    images: Float32[Tensor, "batch slices height width"]
    targets: Bool[Tensor, "batch slices height width"]


@dataclass(frozen=True)
class ClickTraining:
    """How clicks are simulated, after RITM: initial clicks, then rounds on errors."""

    decay: float = 0.25  # k further clicks of a polarity have a probability ~ decay^k (RITM: 0.8)
    max_clicks: int = 24  # of one polarity at the start
    max_rounds: int = 2  # of correcting clicks after the first (RITM: 3)
    defective_share: float = 0.3  # samples that start from a defective mask (section III-B)
    absent_share: float = 0.05  # samples whose previous mask must be clicked away altogether
    drop_clicks_prob: float = 0.35  # rounds that keep only the mask, as after propagation
    refinement_share: float = 0.2  # rounds without a new click, as a session refines a mask
    auxiliary_weight: float = 0.4  # of the OCR's auxiliary cross entropy
    dice_weight: float = 1.0  # of a Dice loss (not in RITM): random weights learn sooner


@dataclass(frozen=True)
class PropagationTraining:
    """How a sequence is followed, after XMem."""

    reference_slices: int = 3  # memory slices that one slice reads
    deep_update_share: float = 0.2  # memory slices that update the sensory state from their value
    second_prompt_share: float = 0.5  # batches with one more prompt, as in later rounds


def click_batch(sequences: Iterable[SliceSequence], size: int, per_sequence: int) -> ClickBatch:
    """`size` slices that show their target, up to `per_sequence` from one sequence."""
    images, targets = [], []
    for sequence in sequences:
        usable = (sequence.target.sum(dim=(1, 2)) >= MIN_AREA).nonzero()[:, 0]
        chosen = usable[:: max(1, math.ceil(len(usable) / per_sequence))]
        images += sequence.images[chosen]
        targets += sequence.target[chosen]
        if len(images) >= size:
            break
    images, targets = torch.stack(images[:size]), torch.stack(targets[:size])
    return ClickBatch(images, targets, torch.zeros_like(targets))


def sequence_batch(sequences: Iterable[SliceSequence], size: int) -> SequenceBatch:
    """The next `size` sequences as one batch."""
    return SequenceBatch(*map(torch.stack, zip(*islice(sequences, size), strict=True)))


def click_step(
    network: ClickNet, batch: ClickBatch, rng: Rng, options: ClickTraining | None = None
) -> Float[Tensor, ""]:
    """Mean loss of simulated rounds: focal and auxiliary as in RITM, and Dice.

    RITM learns from the last round alone. Here every round has a loss, since its prediction is made
    in any case: the same time gives half as many steps more.
    """
    options = options or ClickTraining()
    images = batch.images[:, None].expand(-1, 3, -1, -1)
    truth, masks = _starts(batch.targets, batch.previous, rng, options)
    generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**62)))
    clicks = _first_clicks(truth, masks, generator, options)
    targets, previous = (each[:, None].to(images) for each in (truth, masks))
    losses, rounds = [], rng.integers(options.max_rounds + 1)
    for further in reversed(range(rounds + 1)):
        # losses need float32, also where autocast has the network compute in bfloat16
        logits = network(images, clicks.maps(*images.shape[2:]), previous)
        mask, auxiliary = (each.float() for each in logits)
        auxiliary = functional.binary_cross_entropy_with_logits(auxiliary, targets)
        main = normalised_focal_loss(mask, targets).mean()
        overlap = dice_loss(mask.sigmoid(), targets).mean()
        losses.append(main + (options.auxiliary_weight * auxiliary + options.dice_weight * overlap))
        if further:
            predicted = mask.detach().sigmoid()
            clicks, previous = _after_round(clicks, truth, predicted, generator, options)
    return torch.stack(losses).mean()


def _starts(targets: Regions, previous: Regions, rng: Rng, options: ClickTraining) -> list[Regions]:
    """Targets and previous masks of every sample: some begin with a defective mask."""
    starts = [each.cpu().clone() for each in (targets, previous)]
    for target, mask in zip(*(each.numpy() for each in starts), strict=True):
        chance = rng.random()
        if mask.any():
            continue
        if chance < options.defective_share:
            mask[:] = corrupt(target, rng)[0]
        elif chance < options.defective_share + options.absent_share:
            mask[:], target[:] = target, False
    return [each.to(targets.device) for each in starts]


def _first_clicks(
    targets: Regions, previous: Regions, generator: torch.Generator, options: ClickTraining
) -> BatchedClicks:
    """On the error of the previous mask; on and off the target where there is no such error."""
    corrections = corrective_clicks(targets, previous, generator)
    wrong = previous.flatten(1).any(dim=1) & (corrections.signs[:, 0] != 0)
    others = first_clicks(targets, generator, decay=options.decay, most=options.max_clicks)
    return corrections.where(wrong) + others.where(~wrong)


def _after_round(
    clicks: BatchedClicks,
    targets: Regions,
    previous: Maps,
    generator: torch.Generator,
    options: ClickTraining,
) -> tuple[BatchedClicks, Maps]:
    """Click the largest errors; what the network sees as previous masks in the next round."""
    chance, level = torch.rand(2, len(targets), generator=generator, device=targets.device)
    refined = chance < options.refinement_share
    dropped = ~refined & (chance < options.refinement_share + options.drop_clicks_prob)
    # too large or too small along edges of the image, as propagated masks are
    level = torch.where(dropped, 0.05 + 0.9 * level, 0.49)[:, None, None]
    masks = previous[:, 0] > level
    corrections = corrective_clicks(targets, masks, generator).where(~refined)
    dropped &= corrections.signs[:, 0] != 0
    seen = torch.where(dropped[:, None, None, None], masks[:, None].to(previous), previous)
    return clicks.where(~dropped) + corrections, seen


def propagation_step(
    network: PropagationNet,
    batch: SequenceBatch,
    rng: Rng,
    options: PropagationTraining | None = None,
) -> Float[Tensor, ""]:
    """Mean loss over the slices after the first, whose true mask is the prompt (XMem).

    Half of the batches have a second prompt, as in later rounds (section II-D). Its true mask is in
    memory from the start, and the pass takes it over when it comes there.
    """
    options = options or PropagationTraining()
    size, length = batch.images.shape[:2]
    frames = normalise(batch.images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1))
    parts = [x.unflatten(0, (size, length)) for x in network.precompute(network.encode_key(frames))]
    key, shrinkage, selection = (x.float() for x in parts[:3])
    frames = frames.unflatten(0, (size, length))
    targets = batch.targets.to(frames)[:, :, None]
    no_sensory = frames.new_zeros(size, network.config.hidden_dim, *key.shape[-2:])
    others = torch.zeros_like(targets[:, 0])

    def encoding(index: int) -> SliceEncoding:
        return SliceEncoding(*(part[:, index] for part in parts))

    def encode(index: int, sensory: Tensor, mask: Tensor, update: bool) -> tuple[Tensor, Tensor]:
        seen = frames[:, index], encoding(index)
        return network.encode_value(*seen, sensory, mask, others, update_sensory=update)

    first, sensory = encode(0, no_sensory, targets[:, 0], True)
    values, losses = {0: first}, []
    prompts = [0]
    if length >= 3 and rng.random() < options.second_prompt_share:
        index = int(rng.integers(2, length))
        prompts.append(index)  # out of turn: no slice has led up to it
        values[index], _ = encode(index, no_sensory, targets[:, index], False)
    for index in range(1, length):
        if index in prompts:
            _, sensory = encode(index, sensory, targets[:, index], True)
            continue
        chosen = _references(index, prompts, rng, options)
        # differences of near squares, which bfloat16 would lose (as in XMem)
        with torch.autocast(key.device.type, enabled=False):
            memory = (part[:, chosen].movedim(1, 2).flatten(2) for part in (key, shrinkage))
            query = (part[:, index].flatten(2) for part in (key, selection))
            weights = affinity(similarity(*memory, *query))
        memory = torch.stack([values[i] for i in chosen], dim=2).flatten(2)
        readout = (memory @ weights).unflatten(2, key.shape[-2:])
        last = index == length - 1
        deep = not last and rng.random() < options.deep_update_share
        update = not deep and not last
        logits, sensory = network.decode(encoding(index), readout, sensory, update_sensory=update)
        aggregated = aggregate(logits.float().sigmoid())
        target = targets[:, index]
        cross_entropy = bootstrapped_cross_entropy(aggregated, target[:, 0].long())
        overlap = dice_loss(aggregated.softmax(dim=1)[:, 1:], target)
        losses.append((cross_entropy + overlap).mean())
        if not last:
            mask = aggregated.softmax(dim=1)[:, 1:]
            values[index], sensory = encode(index, sensory, mask, deep)
    return torch.stack(losses).mean()


def _references(
    index: int, prompts: list[int], rng: Rng, options: PropagationTraining
) -> list[int]:
    """Memory slices that slice `index` reads: the prompts and some of the slices before it."""
    before = [other for other in range(1, index) if other not in prompts]
    few = options.reference_slices - 1
    if len(before) > few:
        before = rng.choice(before, few, replace=False).tolist()
    return sorted([*prompts, *before])


def quality_step(network: QualityNet, batch: MaskPairs, rng: Rng) -> Float[Tensor, ""]:
    """Binary cross entropy of "the previous mask is better" (Eq. 2)."""
    logits = network.logits(*batch[:4]).float()
    return functional.binary_cross_entropy_with_logits(logits, batch.previous_better)


def weigh_evidence(network: QualityNet, pairs: MaskPairs, ridge: float = 3e-3) -> None:
    """Fit the weights of picture and evidence in place by logistic regression.

    The picture part keeps its features, and its logits are scaled, by 0 if they prefer the worse
    mask. How often the newer mask is better is fitted and dropped: of clear pairs it says too much.

    Args:
        pairs: of simulated rounds.
        ridge: penalty of the squared weights of columns scaled to unit deviation.

    Raises:
        ValueError: the network weighs no evidence, or there are no pairs.
    """
    if not network.config.evidence or not len(pairs.images):
        raise ValueError(
            "evidence can be weighed by a network with the option `evidence` and on at least one "
            f"pair of rounds, got {network.config} and {len(pairs.images)} pairs"
        )
    where = next(network.parameters())
    with torch.no_grad():
        batches = zip(*(part.split(256) for part in pairs[:3]), strict=True)
        logits = [network.logits(*(each.to(where) for each in batch)) for batch in batches]
        columns = torch.cat([torch.cat(logits).cpu()[:, None], pairs.evidence], dim=1).double()
    scale = columns.std(dim=0, correction=0)
    scale[scale < 1e-6] = torch.inf  # what is the same everywhere tells nothing, and weighs nothing
    truth, signs = pairs.previous_better.double().numpy(), 2 * pairs.previous_better.numpy() - 1
    design = np.column_stack([(columns / scale).numpy(), np.ones(len(truth))])

    def nll(weights: np.ndarray) -> tuple[float, np.ndarray]:
        found, penalised = design @ weights, np.append(weights[:-1], 0)
        slope = design.T @ (expit(found) - truth) / len(truth) + 2 * ridge * penalised
        return np.logaddexp(0, -signs * found).mean() + ridge * (penalised**2).sum(), slope

    limits = [(0, None)] + [(None, None)] * (design.shape[1] - 1)
    *weights, _ = minimize(nll, [0] * len(limits), jac=True, bounds=limits, tol=1e-10).x
    picture, *others = torch.tensor(weights) / scale
    with torch.no_grad():
        network.classify.weight *= picture
        network.classify.bias -= columns[:, 0].mean()
        network.classify.bias *= picture
        network.weigh.weight[:] = torch.stack(others)
