"""Pairs of masks that the quality net learns from (paper, sections II-C and III-B).

The paper collects them from rounds of the model without fusion; defective masks add the kinds of
error that such rounds happen not to make.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from limnet.data.synthetic.defects import corrupt
from limnet.evaluation.users import next_click
from limnet.method.evidence import FusionFeatures
from limnet.method.features import SliceFeatures
from limnet.method.fusion import crop_to_masks
from limnet.method.session import Session
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet
from limnet.networks.quality_net import EVIDENCE
from limnet.training.samples import LabelledVolume, SliceSequence
from limnet.volumes import Volume

MIN_DIFFERENCE = 0.02  # of both masks' DSC: smaller ones teach noise
KEPT_SHARE = 0.4  # of the defective pairs in which one mask is not defective


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
        full = [part for part in parts if len(part.images)] or [_no_pairs()]
        return cls(*(torch.cat(tensors) for tensors in zip(*full, strict=True)))

    def choose(self, indices: Tensor) -> "MaskPairs":
        """These pairs alone."""
        return MaskPairs(*(tensor[indices] for tensor in self))

    def swapped(self) -> "MaskPairs":
        """The same pairs with previous and current exchanged."""
        masks, better = (self.current, self.previous), 1 - self.previous_better
        return MaskPairs(self.images, *masks, -self.evidence, better)


def defective_pairs(sequences: Iterable[SliceSequence], rng: np.random.Generator) -> MaskPairs:
    """One pair from each slice that shows its target: two defects of it, or a defect and itself."""
    images, previous, current, truth = [], [], [], []
    for sequence in sequences:
        for image, target in zip(sequence.images, sequence.target.numpy(), strict=True):
            if not target.any():
                continue
            first = corrupt(target, rng)[0]
            second = target if rng.random() < KEPT_SHARE else corrupt(target, rng)[0]
            pair = (first, second) if rng.random() < 0.5 else (second, first)
            images.append(image.expand(3, -1, -1))
            previous.append(pair[0])
            current.append(pair[1])
            truth.append(target)
    masks = [np.stack(each) for each in (previous, current, truth)]
    return _pairs(torch.stack(images), *masks, np.zeros((len(truth), len(EVIDENCE)), np.float32))


def pairs_of_rounds(
    volume: Volume,
    target: Bool[np.ndarray, "slices height width"],
    networks: LimNet,
    *,
    rounds: int = 6,
    fuse: bool = False,
    features: SliceFeatures | None = None,
) -> MaskPairs:
    """Pairs of slices that a round showed differently from the round before.

    Args:
        fuse: the rounds before are fused, as fusion meets them in a session (ours).
    """
    session = Session(volume, networks, fuse=fuse, features=features)
    parts, masks = [], None

    def slices(indices: list[int]) -> Tensor:
        return torch.from_numpy(volume.rgb(indices))

    for _ in range(rounds):
        click = next_click(target, masks, session.clicks)
        if click is None:
            break
        session.add_click(click)
        session.propagate()
        masks = session.masks
        if len(session.rounds) < 2:
            continue
        given = {each.slice_index: masks[each.slice_index] for each in session.clicks}
        before, after = session.rounds[-2].masks, session.rounds[-1].propagated
        changed = np.setdiff1d(np.flatnonzero(before.differs(after)), list(given)).tolist()
        if changed:
            images = slices(changed)
            known = FusionFeatures.of(before, after, given, slices).on(changed, images)
            shown = before[changed], after[changed], target[changed]
            parts.append(_pairs(images, *shown, known))
    return MaskPairs.join(parts)


def pairs_of_volumes(
    volumes: Iterable[LabelledVolume],
    networks: LimNet,
    rng: np.random.Generator,
    *,
    targets: int = 2,
    rounds: int = 6,
    fuse: bool = False,
    limit: int = 60,
) -> MaskPairs:
    """Pairs of rounds on up to `targets` labels of every volume with images, drawn at random.

    Args:
        fuse: as of `pairs_of_rounds`.
        limit: pairs kept of one label; neighbouring slices teach much the same.
    """
    parts = []
    for labelled in volumes:
        if labelled.images is None:
            continue
        volume = Volume.from_array(labelled.images, window=labelled.window)
        net, size = networks.propagation_net, networks.working_size
        features = SliceFeatures(volume, net, working_size=size)
        shown = np.intersect1d(labelled.targets, labelled.labels)
        for label in rng.permutation(shown)[:targets]:
            target = labelled.labels == label
            how = {"rounds": rounds, "fuse": fuse, "features": features}
            found = pairs_of_rounds(volume, target, networks, **how)
            kept = rng.permutation(len(found.images))[:limit]
            parts.append(found.choose(torch.from_numpy(kept)))
    return MaskPairs.join(parts)


def pairs_of_sequences(
    sequences: Iterable[SliceSequence], networks: LimNet, *, rounds: int = 3
) -> MaskPairs:
    """Pairs of rounds on short sequences, each as a volume of its own: as varied as their stream.

    Propagation sees the slices at their own size, so that thousands of rounds can be played.
    """
    parts = []
    for sequence in sequences:
        images, target = sequence.images.numpy(), sequence.target.numpy()
        if target.any():
            players = replace(networks, working_size=min(images.shape[1:]))
            volume = Volume.from_array(images, window=(0, 1))
            parts.append(pairs_of_rounds(volume, target, players, rounds=rounds))
    return MaskPairs.join(parts)


def sample_pairs(sources: Iterable[MaskPairs], rng: np.random.Generator, size: int) -> MaskPairs:
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


def _pairs(
    images: Float[Tensor, "slices 3 height width"],
    previous: Bool[np.ndarray, "slices height width"],
    current: Bool[np.ndarray, "slices height width"],
    truth: Bool[np.ndarray, "slices height width"],
    evidence: Float32[np.ndarray, "slices 5"],
) -> MaskPairs:
    """Crops of the slices on which one mask is clearly better."""
    scores = np.array(
        [[dice(a, t), dice(b, t)] for a, b, t in zip(previous, current, truth, strict=True)]
    )
    clear = np.abs(scores[:, 0] - scores[:, 1]) >= MIN_DIFFERENCE
    if not clear.any():
        return _no_pairs()
    previous, current = (torch.from_numpy(masks[clear]) for masks in (previous, current))
    crops = crop_to_masks(images[torch.from_numpy(clear)], previous, current)
    better = torch.from_numpy(scores[clear, 0] > scores[clear, 1]).float()
    return MaskPairs(*crops, torch.from_numpy(evidence[clear]), better)


def _no_pairs() -> MaskPairs:
    empty = torch.zeros(0, 1, 1, 1)
    none = torch.zeros(0, len(EVIDENCE))
    return MaskPairs(empty.expand(0, 3, 1, 1), empty, empty, none, torch.zeros(0))
