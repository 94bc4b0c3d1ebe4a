"""Evaluation: the simulated user plays sessions (paper, section III-C)."""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from limnet.clicks import Click
from limnet.datasets import Case
from limnet.metrics import dice, surface_dice
from limnet.networks.checkpoints import LimNet
from limnet.propagation import PropagationOptions
from limnet.session import Session
from limnet.simulated_user import next_click
from limnet.slice_features import SliceFeatures
from limnet.volume import Volume

ROUND_COLUMNS = ("dice", "surface_dice", "seconds", "slices_made_worse")  # of an Evaluation

PROTOCOL = 1  # raised when the evaluation itself changes, so that cached results are made anew

Masks = Bool[np.ndarray, "slices height width"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the rounds of one case gave; one entry a round."""

    dice: tuple[float, ...]  # DSC over the whole volume
    surface_dice: tuple[float, ...]  # NSD at 2 mm
    seconds: tuple[float, ...]  # prompt, propagation and fusion
    clicks: tuple[Click | None, ...]  # None where nothing was left to correct
    slices_made_worse: tuple[int, ...]  # slices whose DSC fell against the round before
    masks: Masks  # after the last round


def evaluate(
    volume: Volume,
    target: Masks,
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
    masks, results, clicks = np.zeros_like(target), [], []
    for _ in range(rounds):
        click = next_click(target, masks if results else None, session.clicks)
        clicks.append(click)
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
    return Evaluation(scores, surface_scores, times, tuple(clicks), worse, masks)


def _slices_made_worse(target: np.ndarray, before: np.ndarray, after: np.ndarray) -> int:
    changed = np.flatnonzero((before != after).any(axis=(1, 2)))
    return sum(bool(dice(target[i], after[i]) < dice(target[i], before[i])) for i in changed)


@dataclass(frozen=True, eq=False)
class CaseEvaluation:
    """The evaluation of one organ of one case."""

    case: Case
    organ: str
    evaluation: Evaluation

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a round, for a table of all cases."""
        named = {"collection": self.case.collection, "case": self.case.name, "organ": self.organ}
        for index in range(len(self.evaluation.dice)):
            row = {name: getattr(self.evaluation, name)[index] for name in ROUND_COLUMNS}
            yield {**named, "round": index + 1, **row}


def evaluate_cases(
    cases: Iterable[Case],
    organs: Iterable[str],
    networks: LimNet,
    cache: Path,
    *,
    rounds: int = 6,
    fuse: bool = True,
    threshold: float = 0.5,
) -> Iterator[CaseEvaluation]:
    """Evaluate every organ of every case; an organ that a case does not show is left out.

    What was computed before is read from `cache`, where a result is found by all it depends on:
    image, target, weights and options.
    """
    options = {"rounds": rounds, "fuse": fuse, "threshold": threshold}
    organs, weights = tuple(organs), networks.digest
    for case in cases:
        volume, labels = case.load()
        features = SliceFeatures(
            volume, networks.propagation_net, working_size=networks.working_size
        )
        for organ in organs:
            target = labels == case.labels[organ]
            if target.any():
                image = f"{volume.digest} {volume.spacing_mm} {volume.window}"
                recipe = f"{PROTOCOL} {image} {weights} {options}"
                path = cache / f"{_digest(recipe.encode(), np.packbits(target))}.npz"
                result = _read_cache(path)
                if result is None:
                    result = evaluate(volume, target, networks, features=features, **options)
                    _write_cache(path, result)
                yield CaseEvaluation(case, organ, result)


def _digest(*parts: bytes | np.ndarray) -> str:
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return sha256.hexdigest()[:32]


def _read_cache(path: Path) -> Evaluation | None:
    """None where there is no whole file: what cannot be read is computed again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(str(arrays["values"]))
            shape = tuple(arrays["shape"])
            masks = np.unpackbits(arrays["masks"], count=int(np.prod(shape))).astype(bool)
        clicks = tuple(click and Click(**click) for click in values.pop("clicks"))
        scores = {name: tuple(column) for name, column in values.items()}
        return Evaluation(**scores, clicks=clicks, masks=masks.reshape(shape))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, result: Evaluation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {name: getattr(result, name) for name in ROUND_COLUMNS}
    values["clicks"] = [click and asdict(click) for click in result.clicks]
    part = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(
        part,
        values=json.dumps(values),
        shape=result.masks.shape,
        masks=np.packbits(result.masks),
    )
    part.replace(path)
