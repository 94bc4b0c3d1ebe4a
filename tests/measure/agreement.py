"""How far a fast way of propagating is from the plain one: pixels, probabilities, DSC."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from limnet.method.passes import propagate
from limnet.method.propagation import close_up, propagate_masks
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume
from measure.setting import Masks, Setting


class Agreement(NamedTuple):
    """Of the masks that one given mask leads to, two ways."""

    pixels: float  # share of all pixels that differ
    object_pixels: float  # the same over the pixels of the object
    probability: float | None  # largest difference; None where the two see other close-ups
    dice_plain: float
    dice_fast: float


def agreement(
    volume: Volume,
    target: Masks,
    plain: tuple[Setting, LimNet],
    fast: tuple[Setting, LimNet],
) -> Agreement:
    """Carry the true mask of the largest slice through the volume in both ways."""
    prompt = int(target.sum(axis=(1, 2)).argmax())
    given, masks, probabilities = {prompt: target[prompt]}, [], []
    for setting, networks in (plain, fast):
        net, features = networks.propagation_net, setting.features(volume, networks)
        found, _ = propagate_masks(net, features, given, prompt, setting.options)
        masks.append(np.asarray(found))
        probabilities.append(_probabilities(setting, networks, volume, target, prompt))
    differ = float((masks[0] != masks[1]).sum())
    same_view = probabilities[0].shape == probabilities[1].shape
    apart = np.abs(probabilities[0] - probabilities[1]).max() if same_view else None
    scores = [dice(target, each) for each in masks]
    return Agreement(differ / target.size, differ / max(1, int(target.sum())), apart, *scores)


def _probabilities(
    setting: Setting, networks: LimNet, volume: Volume, target: Masks, prompt: int
) -> Float32[np.ndarray, "slices frame_height frame_width"]:
    """Of every slice as the network sees it, in the close-up that it begins with."""
    features, net = setting.features(volume, networks), networks.propagation_net
    inside = close_up(net, features, {prompt: target[prompt]}, setting.options)
    given = {prompt: inside.mask(target[prompt])}
    found = {prompt: given[prompt]}
    found |= dict(propagate(net, inside, len(target), prompt, given, setting.options))
    return torch.stack([found[index] for index in range(len(target))]).cpu().numpy()
