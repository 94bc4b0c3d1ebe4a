"""Evaluation: the simulated user plays sessions (paper, section III-C)."""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from limnet.clicks import Click
from limnet.metrics import dice, surface_dice
from limnet.networks.checkpoints import LimNet
from limnet.propagation import PropagationOptions
from limnet.session import Session
from limnet.simulated_user import next_click
from limnet.slice_features import SliceFeatures
from limnet.volume import Volume


@dataclass(frozen=True)
class Evaluation:
    """What the rounds of one case gave; one entry a round."""

    dice: tuple[float, ...]  # DSC over the whole volume
    surface_dice: tuple[float, ...]  # NSD at 2 mm
    seconds: tuple[float, ...]  # prompt, propagation and fusion
    clicks: tuple[Click, ...]
    slices_made_worse: tuple[int, ...]  # slices whose DSC fell against the round before


def evaluate(
    volume: Volume,
    target: Bool[np.ndarray, "slices height width"],
    networks: LimNet,
    *,
    rounds: int = 6,
    fuse: bool = True,
    threshold: float = 0.5,
    options: PropagationOptions | None = None,
    features: SliceFeatures | None = None,
) -> Evaluation:
    """Let the simulated user click once a round: the paper's "6 points" are six rounds.

    When nothing is left to correct, the remaining rounds repeat the last result in no time.

    Args:
        target: the true masks.
        fuse, threshold, options, features: as of `Session`.

    Raises:
        ValueError: the target is empty or not on the volume's grid.
    """
    if target.shape != volume.images.shape[:3] or not target.any():
        raise ValueError(
            f"the target must be a mask of shape {volume.images.shape[:3]} with something in it, "
            f"got shape {target.shape} with {int(target.sum())} voxels"
        )
    session = Session(
        volume, networks, fuse=fuse, threshold=threshold, options=options, features=features
    )
    masks, results = np.zeros_like(target), []
    for _ in range(rounds):
        click = next_click(target, masks if results else None, session.clicks)
        start = time.perf_counter()
        if click is not None:
            session.add_click(click)
            session.propagate()
        seconds = time.perf_counter() - start
        before, masks = masks, session.masks
        worse = _slices_made_worse(target, before, masks) if results else 0
        nsd = surface_dice(target, masks, volume.spacing_mm)
        results.append((dice(target, masks), nsd, seconds, worse))
    scores, surface_scores, times, worse = zip(*results, strict=True)
    return Evaluation(scores, surface_scores, times, session.clicks, worse)


def _slices_made_worse(target: np.ndarray, before: np.ndarray, after: np.ndarray) -> int:
    changed = np.flatnonzero((before != after).any(axis=(1, 2)))
    return sum(dice(target[i], after[i]) < dice(target[i], before[i]) for i in changed)
