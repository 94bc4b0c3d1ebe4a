"""Training samples from sessions of the simulated user (paper, sections II-C and III-B).

The click network corrects masks that propagation left wrong; their errors are not those of
defective masks (beyond the paper). The quality network compares masks of two rounds, or defects.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from limnet.data.synthetic.defects import corrupt
from limnet.evaluation.users import next_click
from limnet.method.features import SliceFeatures
from limnet.method.fusion import FusionFeatures, crop_to_masks
from limnet.method.session import Session
from limnet.method.state import Recipe
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet
from limnet.networks.quality_net import EVIDENCE
from limnet.training.samples import LabelledVolume, SliceSequence
from limnet.volumes import Volume

Rng = np.random.Generator

MIN_ERROR = 12  # pixels: fewer are hardly worth a click
GOOD_DICE = 0.97
# of the slices with errors: a lost object is a first click, and where none is nothing can be seen
KEPT_SHARE = {"lost": 0.3, "absent": 0.5}
MIN_DIFFERENCE = 0.02  # of both masks' DSC: smaller ones teach noise
INTACT_SHARE = 0.4  # of the defective pairs in which one mask is not defective

Masks = Bool[np.ndarray, "slices height width"]


class InteractionSamples(NamedTuple):
    """Slices, their true masks, and the masks that a round left there."""

    images: Float32[Tensor, "slices height width"]  # in [0, 1]
    targets: Bool[Tensor, "slices height width"]
    previous: Bool[Tensor, "slices height width"]

    def draw(self, rng: Rng, size: int) -> "InteractionSamples":
        """`size` of them at random, mirrored, turned, changed in contrast, some inverted.

        Raises:
            ValueError: there are none.
        """
        if not len(self.images):
            raise ValueError("at least one slice must have been played to draw from, got none")
        picked = torch.from_numpy(rng.integers(len(self.images), size=size))
        images, *masks = (tensor[picked] for tensor in self)

        def by_chance(share: float) -> Bool[Tensor, "size 1 1"]:
            return torch.from_numpy(rng.random((size, 1, 1)) < share)

        contrast = torch.from_numpy(rng.normal(0, 0.25, (size, 1, 1)).astype(np.float32)).exp()
        inverted, images = by_chance(0.15), images**contrast
        tensors = [torch.where(inverted, 1 - images, images), *masks]
        for change in (lambda each: each.flip(1), lambda each: each.flip(2), lambda each: each.mT):
            chosen = by_chance(0.5)
            tensors = [torch.where(chosen, change(each), each) for each in tensors]
        return InteractionSamples(*tensors)


class MaskPairs(NamedTuple):
    """Two masks of one slice each, cropped as fusion crops them, and which of them is better."""

    images: Float[Tensor, "pairs 3 height width"]
    previous: Float[Tensor, "pairs 1 height width"]
    current: Float[Tensor, "pairs 1 height width"]
    evidence: Float[Tensor, "pairs 5"]  # 0 where there were no rounds
    previous_better: Float[Tensor, " pairs"]  # 1 where it is, else 0

    @classmethod
    def join(cls, parts: Iterable["MaskPairs"]) -> "MaskPairs":
        """All pairs in one; none where no part has any."""
        full = [part for part in parts if len(part.images)]
        if not full:
            shapes = (3, 1, 1), (1, 1, 1), (1, 1, 1), (len(EVIDENCE),), ()
            return cls(*(torch.zeros(0, *shape) for shape in shapes))
        return cls(*(torch.cat(tensors) for tensors in zip(*full, strict=True)))

    def choose(self, indices: Tensor) -> "MaskPairs":
        """These pairs alone."""
        return MaskPairs(*(tensor[indices] for tensor in self))

    def swapped(self) -> "MaskPairs":
        """The same pairs with previous and current exchanged."""
        images, previous, current, evidence, better = self
        return MaskPairs(images, current, previous, -evidence, 1 - better)


def simulate_interactions(
    sequences: Iterable[SliceSequence], networks: LimNet, rng: Rng, *, rounds: int = 3
) -> InteractionSamples:
    """Every slice that is worth a click after one to `rounds` rounds without fusion on sequences.

    Half of the clicks after the first go to any wrong slice, not to the worst.
    """
    found = []
    for sequence in sequences:
        if not sequence.target.any():
            continue
        session, target = _session_of(sequence, networks), sequence.target
        count = int(rng.integers(1, rounds + 1))
        for masks in _rounds(session, target.numpy(), count, rng):
            clicked = {each.slice_index for each in session.clicks}
            for index, (mask, truth) in enumerate(zip(masks, target.numpy(), strict=True)):
                if index not in clicked and _worth_a_click(mask, truth, rng):
                    found.append((sequence.images[index], target[index], torch.from_numpy(mask)))
    if not found:
        none = torch.zeros(0, 1, 1)
        return InteractionSamples(none, none.bool(), none.bool())
    return InteractionSamples(*(torch.stack(tensors) for tensors in zip(*found, strict=True)))


def defective_pairs(sequences: Iterable[SliceSequence], rng: Rng) -> MaskPairs:
    """One pair from each slice that shows its target: two defects of it, or a defect and itself."""
    images, masks = [], []
    for sequence in sequences:
        for image, target in zip(sequence.images, sequence.target.numpy(), strict=True):
            if not target.any():
                continue
            first = corrupt(target, rng)[0]
            second = target if rng.random() < INTACT_SHARE else corrupt(target, rng)[0]
            pair = (first, second) if rng.random() < 0.5 else (second, first)
            images.append(image.expand(3, -1, -1))
            masks.append((*pair, target))
    evidence = np.zeros((len(images), len(EVIDENCE)), np.float32)
    return _pairs(torch.stack(images), *np.stack(masks, axis=1), evidence)


def pairs_of_rounds(session: Session, target: Masks, rounds: int) -> MaskPairs:
    """Pairs of slices that a round showed differently from the round before."""
    parts = []

    def slices(indices: list[int]) -> Tensor:
        return torch.from_numpy(session.volume.rgb(indices))

    for masks in _rounds(session, target, rounds):
        if len(session.rounds) < 2:
            continue
        given = {each.slice_index: masks[each.slice_index] for each in session.clicks}
        before, after = session.rounds[-2].masks, session.rounds[-1].propagated
        changed = np.setdiff1d(np.flatnonzero(before.differs(after)), list(given)).tolist()
        if changed:
            images = slices(changed)
            known = FusionFeatures.of(before, after, given, slices).on(changed, images)
            parts.append(_pairs(images, before[changed], after[changed], target[changed], known))
    return MaskPairs.join(parts)


def pairs_of_volumes(
    volumes: Iterable[LabelledVolume],
    networks: LimNet,
    rng: Rng,
    *,
    targets: int = 2,
    rounds: int = 6,
    fuse: bool = False,
    limit: int = 60,
) -> MaskPairs:
    """Pairs of rounds on up to `targets` labels of every volume with images, drawn at random.

    Args:
        fuse: the rounds before are fused, as fusion meets them in a session.
        limit: pairs kept of one label; neighbouring slices teach much the same.
    """
    parts, recipe = [], replace(Recipe.of(networks), fuse=fuse)
    for labelled in volumes:
        if labelled.images is None:
            continue
        volume = Volume.from_array(labelled.images, window=labelled.window)
        features = SliceFeatures(volume, networks.propagation_net)
        shown = np.intersect1d(labelled.targets, labelled.labels)
        for label in rng.permutation(shown)[:targets]:
            session = Session(volume, networks, recipe, features=features)
            found = pairs_of_rounds(session, labelled.labels == label, rounds)
            kept = rng.permutation(len(found.images))[:limit]
            parts.append(found.choose(torch.from_numpy(kept)))
    return MaskPairs.join(parts)


def pairs_of_sequences(
    sequences: Iterable[SliceSequence], networks: LimNet, *, rounds: int = 3
) -> MaskPairs:
    """Pairs of rounds on short sequences, each as a volume of its own, at its own size."""
    return MaskPairs.join(
        pairs_of_rounds(_session_of(sequence, networks), sequence.target.numpy(), rounds)
        for sequence in sequences
        if sequence.target.any()
    )


def sample_pairs(sources: Iterable[MaskPairs], rng: Rng, size: int) -> MaskPairs:
    """A batch with equal shares of all sources that have pairs, changed in contrast and mirrored.

    Half of the batches are turned, and in half previous and current change places.

    Raises:
        ValueError: no source has pairs.
    """
    full = [source for source in sources if len(source.images)]
    if not full:
        raise ValueError("at least one source must have pairs to draw from, got none")
    share = math.ceil(size / len(full))
    picks = [torch.from_numpy(rng.integers(len(source.images), size=share)) for source in full]
    batch = MaskPairs.join(s.choose(pick) for s, pick in zip(full, picks, strict=True))
    batch = batch.choose(torch.arange(size))
    if rng.random() < 0.5:  # or the network would learn that one of them wins as a rule
        batch = batch.swapped()
    contrast = torch.from_numpy(rng.normal(0, 0.25, (size, 1, 1, 1)).astype(np.float32)).exp()
    pictures = [batch.images.clamp(0, 1) ** contrast, *batch[1:3]]
    if rng.random() < 0.5:
        pictures = [each.flip(-1) for each in pictures]
    if rng.random() < 0.5:
        pictures = [each.transpose(-1, -2) for each in pictures]
    return MaskPairs(*pictures, *batch[3:])


def _rounds(
    session: Session, target: Masks, rounds: int, rng: Rng | None = None
) -> Iterator[Masks]:
    """Masks after each round of the simulated user, until nothing is left to click on.

    Args:
        rng: sends half of the clicks to any wrong slice; without it all go to the worst.
    """
    masks = None
    for _ in range(rounds):
        rule = "largest_error" if rng is None else rng.choice(["largest_error", "random"])
        click = next_click(target, masks, session.clicks, slice_rule=rule, rng=rng)
        if click is None:
            return
        session.add_click(click)
        session.propagate()
        masks = session.masks
        yield masks


def _session_of(sequence: SliceSequence, networks: LimNet) -> Session:
    """A session without fusion on a sequence, unscaled: thousands of rounds are fast."""
    volume = Volume.from_array(sequence.images.numpy(), window=(0, 1))
    size = min(volume.images.shape[1:3])
    features = SliceFeatures(volume, networks.propagation_net, working_size=size)
    return Session(volume, networks, replace(Recipe.of(networks), fuse=False), features=features)


def _worth_a_click(mask: np.ndarray, truth: np.ndarray, rng: Rng) -> bool:
    if np.count_nonzero(mask ^ truth) < MIN_ERROR or dice(mask, truth) > GOOD_DICE:
        return False
    kind = "lost" if not mask.any() else "absent" if not truth.any() else ""
    return rng.random() < KEPT_SHARE.get(kind, 1.0)


def _pairs(
    images: Float[Tensor, "slices 3 height width"],
    previous: Masks,
    current: Masks,
    truth: Masks,
    evidence: Float32[np.ndarray, "slices 5"],
) -> MaskPairs:
    """Crops of the slices on which one mask is clearly better."""
    gain = np.array([dice(*both) for both in zip(previous, truth, strict=True)])
    gain -= [dice(*both) for both in zip(current, truth, strict=True)]
    clear = np.abs(gain) >= MIN_DIFFERENCE
    if not clear.any():
        return MaskPairs.join([])
    previous, current = (torch.from_numpy(masks[clear]) for masks in (previous, current))
    crops = crop_to_masks(images[torch.from_numpy(clear)], previous, current)
    better = torch.from_numpy(gain[clear] > 0).float()
    return MaskPairs(*crops, torch.from_numpy(evidence[clear]), better)
