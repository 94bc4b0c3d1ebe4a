"""How well a network does what it is being trained for, on slices that no training saw (III-B).

Quick scores for a curve beside the loss; what sessions make of all three networks is measured by
`limnet.evaluation.evaluate`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limnet.evaluation.users import next_click_on_slice
from limnet.method.features import SliceFeatures
from limnet.method.prompts import Click
from limnet.method.propagation import propagate
from limnet.method.refinement import predict_prompt
from limnet.metrics import dice
from limnet.networks.click_net import ClickNet
from limnet.networks.propagation_net import PropagationNet
from limnet.networks.quality_net import QualityNet
from limnet.training.interactions import MaskPairs
from limnet.training.steps import ClickBatch, SequenceBatch
from limnet.volumes import Volume

Masks = Bool[np.ndarray, "samples height width"]


@torch.no_grad()
def click_rounds(
    network: ClickNet, batch: ClickBatch, rounds: int
) -> Iterator[tuple[list[Click], Masks]]:
    """For each round every sample's click and all masks after it; a sample's number is its slice.

    Each click goes to the deepest point of the larger error, as in the evaluation of RITM; a sample
    that is right already is clicked once more in its corner.
    """
    targets, device = batch.targets.cpu().numpy(), next(network.parameters()).device
    images = batch.images[:, None].expand(-1, 3, -1, -1).to(device)
    masks, clicks = np.zeros_like(targets), [[] for _ in targets]
    prompts: list[Tensor | None] = [None] * len(targets)
    for _ in range(rounds):
        for sample, target in enumerate(targets):
            positive, row, column = next_click_on_slice(target, masks[sample]) or (True, 0, 0)
            clicks[sample].append(Click(sample, row, column, positive))
            shown = images[sample], clicks[sample], prompts[sample]
            prompts[sample] = predict_prompt(network, *shown)
            masks[sample] = (prompts[sample] > 0.5).cpu().numpy()
        yield [each[-1] for each in clicks], masks.copy()


def click_score(network: ClickNet, batch: ClickBatch, rounds: int = 3) -> float:
    """Mean DSC of the samples after so many clicks."""
    *_, (_, masks) = click_rounds(network, batch, rounds)
    return float(np.mean([dice(*pair) for pair in zip(masks, batch.targets.numpy(), strict=True)]))


@torch.no_grad()
def propagation_score(network: PropagationNet, batch: SequenceBatch) -> float:
    """Mean DSC of sequences over their slices after the first, whose true mask is given."""
    scores = []
    for images, target in zip(*batch, strict=True):
        volume, truth = Volume.from_array(images.numpy(), window=(0, 1)), target.numpy()
        features = SliceFeatures(volume, network, working_size=min(truth.shape[1:]))
        resizer, found = features.resizer, np.zeros_like(truth)
        given = {0: features.mask(truth[0])}
        for index, probability in propagate(network, features, len(truth), 0, given):
            mask = resizer.to_slice(resizer.unpad(probability)) > 0.5
            found[index] = mask.cpu().numpy()
        scores.append(dice(found[1:], truth[1:]))
    return float(np.mean(scores))


@torch.no_grad()
def quality_answers(
    network: QualityNet, pairs: MaskPairs, batch_size: int = 64
) -> Float[np.ndarray, " pairs"]:
    """The probability that the previous mask is better, of every pair."""
    device = next(network.parameters(), pairs.images).device
    batches = zip(*(each.split(batch_size) for each in pairs[:4]), strict=True)
    answers = [network(*(each.to(device) for each in batch)).float().cpu() for batch in batches]
    return torch.cat(answers).numpy() if len(pairs.images) else np.zeros(0, dtype=np.float32)


def quality_score(network: QualityNet, pairs: MaskPairs) -> float:
    """The share of pairs whose better mask the network tells."""
    right = (quality_answers(network, pairs) > 0.5) == (pairs.previous_better.numpy() > 0.5)
    return float(right.mean()) if len(right) else 0.0
