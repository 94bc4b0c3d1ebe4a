"""Slices as the rounds of a session leave them, for the click network to learn from (ours).

From the second round on a click corrects the mask that propagation brought to a slice. Its errors
are not those of the defective masks (paper, section III-B): it has shrunk, run on into a neighbour,
or lost the object. So the shipped networks play sessions, and their masks are previous masks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from limnet.evaluation.users import next_click
from limnet.method.session import Session
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet
from limnet.training.samples import SliceSequence
from limnet.volumes import Volume

LEAST_WRONG = 12  # pixels: fewer are hardly worth a click
GOOD_DICE = 0.97
# of the slices with errors: lost objects are no more than first clicks once again, and in masks
# where there is no object there is nothing to see
KEPT_SHARE = {"lost": 0.3, "absent": 0.5}


class InteractionSamples(NamedTuple):
    """Slices, their true masks, and the masks that a round left there."""

    images: Float32[Tensor, "slices height width"]  # in [0, 1]
    targets: Bool[Tensor, "slices height width"]
    previous: Bool[Tensor, "slices height width"]

    def draw(self, rng: np.random.Generator, size: int) -> "InteractionSamples":
        """`size` of them at random, mirrored, turned, changed in contrast, some inverted.

        Raises:
            ValueError: there are none.
        """
        if not len(self.images):
            raise ValueError("at least one slice must have been played to draw from, got none")
        picked = torch.from_numpy(rng.integers(len(self.images), size=size))
        images, *masks = (tensor[picked] for tensor in self)
        contrast = torch.from_numpy(rng.normal(0, 0.25, (size, 1, 1)).astype(np.float32)).exp()
        inverted = torch.from_numpy(rng.random((size, 1, 1)) < 0.15)
        images = images**contrast
        tensors = [torch.where(inverted, 1 - images, images), *masks]
        for axes in ((1,), (2,)):
            chosen = torch.from_numpy(rng.random((size, 1, 1)) < 0.5)
            tensors = [torch.where(chosen, each.flip(axes), each) for each in tensors]
        chosen = torch.from_numpy(rng.random((size, 1, 1)) < 0.5)
        return InteractionSamples(*(torch.where(chosen, each.mT, each) for each in tensors))


def simulate_interactions(
    sequences: Iterable[SliceSequence],
    networks: LimNet,
    rng: np.random.Generator,
    *,
    rounds: int = 3,
) -> InteractionSamples:
    """Every slice that is worth a click after one to `rounds` rounds without fusion on sequences.

    Propagation sees the slices at their own size, as for `mask_pairs.pairs_of_sequences`. Half of
    the clicks after the first go to any wrong slice, not to the worst.
    """
    found = [
        (sequence.images[index], sequence.target[index], mask)
        for sequence in sequences
        for index, mask in _left_wrong(sequence, networks, rng, rounds)
    ]
    if not found:
        none = torch.zeros(0, 1, 1)
        return InteractionSamples(none, none.bool(), none.bool())
    return InteractionSamples(*(torch.stack(tensors) for tensors in zip(*found, strict=True)))


def _left_wrong(
    sequence: SliceSequence, networks: LimNet, rng: np.random.Generator, rounds: int
) -> Iterator[tuple[int, Bool[Tensor, "height width"]]]:
    """Index and mask of slices without a click, after each of the rounds."""
    images, target = sequence.images.numpy(), sequence.target.numpy()
    if not target.any():
        return
    players = replace(networks, working_size=min(images.shape[1:]))
    session = Session(Volume.from_array(images, window=(0, 1)), players, fuse=False)
    masks = None
    for _ in range(rng.integers(1, rounds + 1)):
        rule = rng.choice(["largest_error", "random"])
        click = next_click(target, masks, session.clicks, slice_rule=rule, rng=rng)
        if click is None:
            return
        session.add_click(click)
        session.propagate()
        masks, clicked = session.masks, {each.slice_index for each in session.clicks}
        for index, (mask, truth) in enumerate(zip(masks, target, strict=True)):
            if index not in clicked and _worth_a_click(mask, truth, rng):
                yield index, torch.from_numpy(mask)


def _worth_a_click(mask: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> bool:
    if np.count_nonzero(mask ^ truth) < LEAST_WRONG or dice(mask, truth) > GOOD_DICE:
        return False
    kind = "lost" if not mask.any() else "absent" if not truth.any() else ""
    return rng.random() < KEPT_SHARE.get(kind, 1.0)
