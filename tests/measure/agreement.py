"""How far a fast way of propagating is from the plain one: pixels, probabilities, DSC."""

from typing import NamedTuple

import numpy as np
import torch

from limnet.method.propagation import propagate
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume
from measure.ladder import Optimisations
from measure.rows import Masks


class Agreement(NamedTuple):
    """Of the masks that one prompt mask leads to, two ways."""

    pixels: float  # share of all pixels that differ
    object_pixels: float  # the same over the pixels of the object
    probability: float | None  # largest difference; None where the two see other crops
    dice_plain: float
    dice_fast: float


def numerical_agreement(
    volume: Volume,
    target: Masks,
    plain: tuple[Optimisations, LimNet],
    fast: tuple[Optimisations, LimNet],
) -> Agreement:
    """Carry the true mask of the largest slice through the volume in both ways."""
    prompt = int(target.sum(axis=(1, 2)).argmax())
    masks, probabilities = [], []
    for way, networks in (plain, fast):
        session = way.session(volume, networks)
        session.paint(prompt, target[prompt])
        features, _ = session.expected_features()
        masks.append(np.asarray(session.propagate().propagated))
        given = {prompt: features.mask(target[prompt])}
        net, slices = networks.propagation_net, len(target)
        found = given | dict(propagate(net, features, slices, prompt, given, session.recipe))
        probabilities.append(torch.stack([found[index] for index in range(slices)]).cpu().numpy())
    differ, (first, second) = float((masks[0] != masks[1]).sum()), probabilities
    apart = float(np.abs(first - second).max()) if first.shape == second.shape else None
    scores = [dice(target, each) for each in masks]
    return Agreement(differ / target.size, differ / max(1, int(target.sum())), apart, *scores)
