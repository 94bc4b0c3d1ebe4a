"""Evaluation: the simulated user plays sessions (paper, section III-C)."""

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32
from torch.nn.functional import interpolate

from limnet.data import Case
from limnet.evaluation.protocols import User
from limnet.evaluation.users import next_click
from limnet.files import atomic_write
from limnet.method.features import SliceFeatures
from limnet.method.passes import PropagationOptions
from limnet.method.prompts import Click
from limnet.method.session import Session
from limnet.method.state import Round
from limnet.metrics import bootstrap_interval, dice, surface_dice
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume

ROUND_COLUMNS = ("dice", "surface_dice", "seconds", "slices_made_worse")  # of an Evaluation

COMPARISON_COLUMNS = ("round", "previous_better", "dice_previous", "dice_current")

PROTOCOL = 6  # raised when the evaluation itself changes, so that cached results are made anew

# what reading a file raises that was cut off or changed
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)

Masks = Bool[np.ndarray, "slices height width"]

# any method: a volume and all clicks so far in, masks out
Segmenter = Callable[[Volume, Sequence[Click]], Masks]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the rounds of one case gave; one entry a round."""

    dice: tuple[float, ...]  # DSC over the whole volume
    surface_dice: tuple[float, ...]  # NSD at 2 mm
    seconds: tuple[float, ...]  # prompt, propagation and fusion
    clicks: tuple[Click | None, ...]  # None where nothing was left to correct
    slices_made_worse: tuple[int, ...]  # slices whose DSC fell against the round before
    masks: Masks  # after the last round
    # a row a slice that two rounds show differently and no user decided on
    comparisons: Float32[np.ndarray, "compared 4"]


def evaluate(
    volume: Volume,
    target: Masks,
    networks: LimNet,
    *,
    rounds: int = 6,
    fuse: bool = True,
    oracle: bool = False,
    threshold: float = 0.5,
    user: User = next_click,
    options: PropagationOptions | None = None,
    features: SliceFeatures | None = None,
) -> Evaluation:
    """Let the simulated user click once a round: the paper's "6 points" are six rounds.

    When nothing is left to correct, the remaining rounds repeat the last result in no time.

    Args:
        target: the true masks, which the user and the scores look at (`limnet.evaluation.leaks`).
        user: who clicks; others than the paper's stand in `limnet.evaluation.protocols`.
        oracle: fusion knows which mask is better: what a perfect quality network would reach.
        fuse, threshold, options, features: as of `Session`.

    Raises:
        ValueError: the target is empty or not on the volume's grid.
    """
    if target.shape != volume.images.shape[:3] or not target.any():
        raise ValueError(
            f"the target must be a mask of shape {volume.images.shape[:3]} with something in it, "
            f"got shape {target.shape} with {int(target.sum())} voxels"
        )
    compare = partial(_truly_better, target) if oracle else None
    how = {"fuse": fuse, "threshold": threshold, "compare": compare}
    session = Session(volume, networks, **how, options=options, features=features)
    masks, results, clicks, comparisons = np.zeros_like(target), [], [], []
    for _ in range(rounds):
        click = user(target, masks if results else None, session.clicks)
        clicks.append(click)
        start = time.perf_counter()
        if click is not None:
            session.add_click(click)
            comparisons += _comparisons(target, masks, session, session.propagate())
        seconds = time.perf_counter() - start
        before, masks = masks, session.masks
        worse = _slices_made_worse(target, before, masks) if results else 0
        nsd = surface_dice(target, masks, volume.spacing_mm)
        results.append((dice(target, masks), nsd, seconds, worse))
    scores, surface_scores, times, worse = zip(*results, strict=True)
    compared = np.array(comparisons, dtype=np.float32).reshape(-1, len(COMPARISON_COLUMNS))
    return Evaluation(scores, surface_scores, times, tuple(clicks), worse, masks, compared)


def _comparisons(
    target: Masks, before: Masks, session: Session, last: Round
) -> list[tuple[float, ...]]:
    """Both rounds' masks of every slice that fusion chose between, or would have."""
    if len(session.rounds) < 2:
        return []
    clicked = {click.slice_index for click in session.clicks}
    return [
        (
            float(len(session.rounds)),
            float(last.previous_better[index]),
            dice(target[index], before[index]),
            dice(target[index], mask),
        )
        for index, mask in enumerate(last.propagated)
        if index not in clicked and not np.array_equal(before[index], mask)
    ]


def _truly_better(target: Masks, previous: Masks, current: Masks) -> np.ndarray:
    """1 for every slice whose previous mask has the higher DSC, else 0."""
    scores = (
        [dice(truth, mask) for truth, mask in zip(target, masks, strict=True)]
        for masks in (previous, current)
    )
    return np.greater(*scores).astype(np.float32)


def replay(
    volume: Volume, target: Masks, clicks: Sequence[Click | None], segment: Segmenter
) -> Evaluation:
    """What another method makes of the same clicks: of the first in round 1, then of the first two.

    Args:
        clicks: of another evaluation; in a round without one the last masks stay.
    """
    masks, results, given = np.zeros_like(target), [], []
    for click in clicks:
        start = time.perf_counter()
        before = masks
        if click is not None:
            given.append(click)
            masks = segment(volume, given)
        seconds = time.perf_counter() - start
        worse = _slices_made_worse(target, before, masks) if results else 0
        nsd = surface_dice(target, masks, volume.spacing_mm)
        results.append((dice(target, masks), nsd, seconds, worse))
    scores, surface_scores, times, worse = zip(*results, strict=True)
    nothing = np.zeros((0, len(COMPARISON_COLUMNS)), dtype=np.float32)
    return Evaluation(scores, surface_scores, times, tuple(clicks), worse, masks, nothing)


def largest_slice(
    volume: Volume, target: Masks, size: int = 256
) -> tuple[Volume, Bool[np.ndarray, "1 size size"]]:
    """The slice with the largest target area and its mask, resized to `size` x `size` pixels.

    What the click network alone is evaluated on; linear interpolation, of the mask at one half.
    """
    index = int(target.sum(axis=(1, 2)).argmax())
    image = torch.from_numpy(volume.rgb([index]))
    both = torch.cat([image, torch.from_numpy(target[index]).float()[None, None]], dim=1)
    both = interpolate(both, (size, size), mode="bilinear", antialias=True)[0].numpy()
    spacing_mm = [
        step * length / size
        for step, length in zip(volume.spacing_mm[1:], target.shape[1:], strict=True)
    ]
    resized = Volume.from_array(
        both[None, :3].transpose(0, 2, 3, 1), (volume.spacing_mm[0], *spacing_mm), window=(0, 1)
    )
    return resized, both[3:] > 0.5


def _slices_made_worse(target: np.ndarray, before: np.ndarray, after: np.ndarray) -> int:
    changed = np.flatnonzero((before != after).any(axis=(1, 2)))
    return sum(bool(dice(target[i], after[i]) < dice(target[i], before[i])) for i in changed)


@dataclass(frozen=True, eq=False)
class CaseEvaluation:
    """The evaluation of one organ of one case."""

    case: Case
    organ: str
    evaluation: Evaluation
    file: Path | None = None  # in the cache
    computed: bool = True  # now; or it was in the cache

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a round, for a table of all cases."""
        scores = {name: getattr(self.evaluation, name) for name in ROUND_COLUMNS}
        return round_rows(self.case, self.organ, scores)


def round_rows(
    case: Case, organ: str, scores: Mapping[str, Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """A row a round with the names of case and organ.

    Args:
        scores: ROUND_COLUMNS, as `read_scores` gives them.
    """
    named = {"collection": case.collection, "case": case.name, "organ": organ}
    for index, values in enumerate(zip(*(scores[name] for name in ROUND_COLUMNS), strict=True)):
        yield {**named, "round": index + 1, **dict(zip(ROUND_COLUMNS, values, strict=True))}


def scores_by_collection(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC of every round, a row a collection and method, with its bootstrap interval.

    Columns: collection, method, cases, labels, "round 1" and so on, and "low" and "high" of the
    last round's mean over cases (`bootstrap_interval`).

    Args:
        rows: those of `CaseEvaluation.rows`, with a column `method` beside them.
    """
    table = []
    for (collection, method), part in rows.groupby(["collection", "method"], sort=False):
        means = part.groupby("round")["dice"].mean()
        last = part[part["round"] == means.index.max()]
        low, high = bootstrap_interval(last.groupby("case")["dice"].mean().tolist())
        counted = {"cases": last["case"].nunique(), "labels": len(last)}
        scores = {f"round {number}": float(score) for number, score in means.items()}
        named = {"collection": collection, "method": method}
        table.append({**named, **counted, **scores, "low": low, "high": high})
    return pd.DataFrame(table)


def evaluate_cases(
    cases: Iterable[Case],
    organs: Iterable[str] | None,
    networks: LimNet,
    cache: Path,
    *,
    rounds: int = 6,
    fuse: bool = True,
    oracle: bool = False,
    threshold: float = 0.5,
    user: User | None = None,
    only_largest_slice: bool = False,
    segment: Segmenter | None = None,
) -> Iterator[CaseEvaluation]:
    """Evaluate every organ of every case; an organ that a case does not show is left out.

    What was computed before is read from `cache`, where a result is found by all it depends on:
    image, target, weights and options.

    Args:
        organs: names of labels; None: all that are anatomy.
        user: of `limnet.evaluation.protocols`, whose repr says all about it; None: the paper's.
        only_largest_slice: see `largest_slice`.
        segment: another method, which gets the clicks that the networks got; its results are
            cached by its `digest` where it has one (those of `comparators`), else by its name.
    """
    options = {"rounds": rounds, "fuse": fuse, "oracle": oracle, "threshold": threshold}
    options |= {} if user is None else {"user": user}
    organs, size, digest = organs and tuple(organs), networks.working_size, networks.digest
    for case in cases:
        whole, labels = case.load()
        features = SliceFeatures(whole, networks.propagation_net, working_size=size)
        for organ in case.anatomy if organs is None else organs:
            volume, target = whole, case.target(labels, organ)
            if not target.any():
                continue
            if only_largest_slice:
                volume, target = largest_slice(volume, target)
            shared = None if only_largest_slice else features
            play = partial(evaluate, volume, target, networks, features=shared, **options)
            image = f"{volume.digest} {volume.spacing_mm} {volume.window}"
            recipe = f"{PROTOCOL} {image} {digest} {options}".encode()
            file = cache / f"{_digest(recipe, np.packbits(target))}.npz"
            result, computed = _cached(file, play)
            if segment is not None:
                play = partial(replay, volume, target, result.clicks, segment)
                method = getattr(segment, "digest", None) or segment.__name__
                recipe = f"{PROTOCOL} {image} {method} {result.clicks}".encode()
                file = cache / f"{_digest(recipe, np.packbits(target))}.npz"
                result, computed = _cached(file, play)
            yield CaseEvaluation(case, organ, result, file, computed)


def _cached(path: Path, play: Callable[[], Evaluation]) -> tuple[Evaluation, bool]:
    result = _read_cache(path)
    if result is not None:
        return result, False
    result = play()
    _write_cache(path, result)
    return result, True


def _digest(*parts: bytes | np.ndarray) -> str:
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return sha256.hexdigest()[:32]


def read_scores(path: Path) -> dict[str, tuple[float, ...]] | None:
    """ROUND_COLUMNS of a result in the cache, without its masks; None where there is no whole one.

    Args:
        path: `CaseEvaluation.file`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(str(arrays["values"]))
        return {name: tuple(values[name]) for name in ROUND_COLUMNS}
    except UNREADABLE:
        return None


def _read_cache(path: Path) -> Evaluation | None:
    """None where there is no whole file: what cannot be read is computed again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(str(arrays["values"]))
            shape = tuple(arrays["shape"])
            masks = np.unpackbits(arrays["masks"], count=int(np.prod(shape))).astype(bool)
            comparisons = arrays["comparisons"]
        clicks = tuple(click and Click(**click) for click in values.pop("clicks"))
        scores = {name: tuple(column) for name, column in values.items()}
        masks = masks.reshape(shape)
        return Evaluation(**scores, clicks=clicks, masks=masks, comparisons=comparisons)
    except UNREADABLE:
        return None


def _write_cache(path: Path, result: Evaluation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {name: getattr(result, name) for name in ROUND_COLUMNS}
    values["clicks"] = [click and asdict(click) for click in result.clicks]
    with atomic_write(path) as partial:
        np.savez_compressed(
            partial,
            values=json.dumps(values),
            shape=result.masks.shape,
            masks=np.packbits(result.masks),
            comparisons=result.comparisons,
        )
