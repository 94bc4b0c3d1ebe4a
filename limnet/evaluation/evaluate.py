"""Evaluation: the simulated user plays sessions (paper, section III-C)."""

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
from limnet.method.prompts import Click
from limnet.method.session import Session
from limnet.method.state import Recipe, Round
from limnet.metrics import bootstrap_interval, dice, surface_dice
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume

ROUND_COLUMNS = ("dice", "surface_dice", "seconds", "slices_made_worse")  # of an Evaluation

COMPARISON_COLUMNS = ("round", "previous_better", "dice_previous", "dice_current")

PROTOCOL = 6  # raised when the evaluation itself changes, so that cached results are made anew

# a file that was cut off or changed
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
    recipe: Recipe | str | None = None,
    features: SliceFeatures | None = None,
) -> Evaluation:
    """Let the simulated user click once a round: the paper's "6 points" are six rounds.

    When nothing is left to correct, the remaining rounds repeat the last result in no time.

    Args:
        target: the true masks, which the user and the scores look at (`limnet.evaluation.leaks`).
        user: who clicks; others than the paper's stand in `limnet.evaluation.protocols`.
        oracle: fusion knows which mask is better: what a perfect quality network would reach.
        fuse, threshold: of the recipe.
        recipe, features: as of `Session`.

    Raises:
        ValueError: the target is empty or not on the volume's grid.
    """
    if target.shape != volume.images.shape[:3] or not target.any():
        raise ValueError(
            f"the target must be a mask of shape {volume.images.shape[:3]} with something in it, "
            f"got shape {target.shape} with {int(target.sum())} voxels"
        )
    compare = partial(_truly_better, target) if oracle else None
    recipe = replace(Recipe.of(networks, recipe), fuse=fuse, threshold=threshold)
    session = Session(volume, networks, recipe, compare=compare, features=features)
    comparisons: list[tuple[float, ...]] = []

    def segment(volume: Volume, clicks: Sequence[Click]) -> Masks:
        before = session.masks
        session.add_click(clicks[-1])
        last = session.propagate()
        if len(session.rounds) > 1:
            comparisons.extend(_comparisons(target, before, session, last))
        return session.masks

    played = _play_rounds(volume, target, [partial(user, target)] * rounds, segment)
    compared = np.array(comparisons, dtype=np.float32).reshape(-1, len(COMPARISON_COLUMNS))
    return replace(played, comparisons=compared)


def replay(
    volume: Volume, target: Masks, clicks: Sequence[Click | None], segment: Segmenter
) -> Evaluation:
    """What another method makes of the same clicks: of the first in round 1, then of the first two.

    Args:
        clicks: of another evaluation; in a round without one the last masks stay.
    """
    same = [lambda *_, click=click: click for click in clicks]
    return _play_rounds(volume, target, same, segment)


def _play_rounds(
    volume: Volume,
    target: Masks,
    users: Iterable[Callable[[Masks | None, Sequence[Click]], Click | None]],
    segment: Segmenter,
) -> Evaluation:
    """Let a user a round click, and score the masks of all clicks so far."""
    masks, results, clicks = np.zeros_like(target), [], []
    for user in users:
        earlier = [click for click in clicks if click is not None]
        click, before = user(masks if results else None, earlier), masks
        clicks.append(click)
        start = time.perf_counter()
        if click is not None:
            masks = segment(volume, [*earlier, click])
        seconds = time.perf_counter() - start
        worse = _slices_made_worse(target, before, masks) if results else 0
        nsd = surface_dice(target, masks, volume.spacing_mm)
        results.append((dice(target, masks), nsd, seconds, worse))
    scores, surface_scores, times, worse = zip(*results, strict=True)
    nothing = np.zeros((0, len(COMPARISON_COLUMNS)), dtype=np.float32)
    return Evaluation(scores, surface_scores, times, tuple(clicks), worse, masks, nothing)


def _slices_made_worse(target: Masks, before: Masks, after: Masks) -> int:
    changed = np.flatnonzero((before != after).any(axis=(1, 2)))
    return sum(bool(dice(target[i], after[i]) < dice(target[i], before[i])) for i in changed)


def _comparisons(
    target: Masks, before: Masks, session: Session, last: Round
) -> Iterator[tuple[float, ...]]:
    """COMPARISON_COLUMNS of every slice that fusion chose between, or would have."""
    clicked = {click.slice_index for click in session.clicks}
    for index, mask in enumerate(last.propagated):
        if index not in clicked and not np.array_equal(before[index], mask):
            scores = [dice(target[index], each) for each in (before[index], mask)]
            yield float(len(session.rounds)), float(last.previous_better[index]), *scores


def _truly_better(target: Masks, previous: Masks, current: Masks) -> np.ndarray:
    """1 for every slice whose previous mask has the higher DSC, else 0."""
    scores = [[*map(dice, target, masks)] for masks in (previous, current)]
    return np.greater(*scores).astype(np.float32)


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
    _, height, width = target.shape
    thickness, row_mm, column_mm = volume.spacing_mm
    spacing_mm = (thickness, row_mm * height / size, column_mm * width / size)
    images = both[None, :3].transpose(0, 2, 3, 1)
    return Volume.from_array(images, spacing_mm, window=(0, 1)), both[3:] > 0.5


@dataclass(frozen=True, eq=False)
class CaseEvaluation:
    """The evaluation of one organ of one case."""

    case: Case
    organ: str
    evaluation: Evaluation
    file: Path | None = None  # in the cache
    computed: bool = True  # now; or it was in the cache

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a round with the names of case and organ, for a table of all cases."""
        named = {"collection": self.case.collection, "case": self.case.name, "organ": self.organ}
        columns = [getattr(self.evaluation, name) for name in ROUND_COLUMNS]
        for index, values in enumerate(zip(*columns, strict=True)):
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
        row = {"collection": collection, "method": method}
        row |= {"cases": last["case"].nunique(), "labels": len(last)}
        row |= {f"round {number}": float(score) for number, score in means.items()}
        table.append(row | {"low": low, "high": high})
    return pd.DataFrame(table)


@dataclass(frozen=True)
class EvaluationOptions:
    """What `evaluate_cases` lets one choose; a result in the cache is found by it."""

    rounds: int = 6
    fuse: bool = True
    oracle: bool = False
    threshold: float | int = 0.5
    user: User | None = None  # of `limnet.evaluation.protocols`; None: the paper's
    only_largest_slice: bool = False  # see `largest_slice`
    recipe: Recipe | str | None = None  # "paper" or "lite"; None: what the networks ask for


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
    recipe: Recipe | str | None = None,
    segment: Segmenter | None = None,
) -> Iterator[CaseEvaluation]:
    """Evaluate every organ of every case; an organ that a case does not show is left out.

    What was computed before is read from `cache`, where a result is found by all it depends on:
    image, target, weights and options.

    Args:
        organs: names of labels; None: all that are anatomy.
        user: of `limnet.evaluation.protocols`, whose repr says all about it; None: the paper's.
        only_largest_slice: see `largest_slice`.
        recipe: as of `Session`.
        segment: another method, which gets the clicks that the networks got; its results are
            cached by its `digest` where it has one (those of `comparators`), else by its name.
    """
    options = EvaluationOptions(rounds, fuse, oracle, threshold, user, only_largest_slice, recipe)
    organs = organs and tuple(organs)
    for case in cases:
        loaded = LoadedCase(case, networks)
        for organ in case.anatomy if organs is None else organs:
            result = loaded.evaluate(organ, cache, options, segment)
            if result is not None:
                yield result


class LoadedCase:
    """A case in memory, whose organs share the features of its slices."""

    def __init__(self, case: Case, networks: LimNet) -> None:
        """Image and labels are read here."""
        self.case, self.networks = case, networks
        self.volume, self.labels = case.load()
        self.features = SliceFeatures(self.volume, networks.propagation_net)

    def evaluate(
        self,
        organ: str,
        cache: Path,
        options: EvaluationOptions,
        segment: Segmenter | None = None,
    ) -> CaseEvaluation | None:
        """Evaluate one organ, as `evaluate_cases`; None where the case does not show it."""
        volume, target, features = self.volume, self.case.target(self.labels, organ), self.features
        if not target.any():
            return None
        if options.only_largest_slice:
            (volume, target), features = largest_slice(volume, target), None
        chosen = {name: value for name, value in vars(options).items() if value is not None}
        chosen.pop("only_largest_slice")
        image = f"{volume.digest} {volume.spacing_mm} {volume.window}"
        file = cache / _file_name(f"{image} {self.networks.digest} {chosen}", target)
        play = partial(evaluate, volume, target, self.networks, features=features, **chosen)
        result, computed = _cached(file, play)
        if segment is not None:
            method = getattr(segment, "digest", None) or segment.__name__
            file = cache / _file_name(f"{image} {method} {result.clicks}", target)
            play = partial(replay, volume, target, result.clicks, segment)
            result, computed = _cached(file, play)
        return CaseEvaluation(self.case, organ, result, file, computed)


def _file_name(depends_on: str, target: Masks) -> str:
    content = f"{PROTOCOL} {depends_on}".encode() + np.packbits(target).tobytes()
    return f"{hashlib.sha256(content).hexdigest()[:32]}.npz"


def _cached(path: Path, play: Callable[[], Evaluation]) -> tuple[Evaluation, bool]:
    """A result, and whether it was computed now: what cannot be read is computed again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(str(arrays["values"]))
            shape = tuple(arrays["shape"])
            masks = np.unpackbits(arrays["masks"], count=int(np.prod(shape))).astype(bool)
            comparisons = arrays["comparisons"]
        clicks = tuple(click and Click(**click) for click in values.pop("clicks"))
        scores = {name: tuple(column) for name, column in values.items()}
        masks = masks.reshape(shape)
        return Evaluation(**scores, clicks=clicks, masks=masks, comparisons=comparisons), False
    except UNREADABLE:
        result = play()
    values = {name: getattr(result, name) for name in ROUND_COLUMNS}
    values["clicks"] = [click and asdict(click) for click in result.clicks]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        np.savez_compressed(
            partial,
            values=json.dumps(values),
            shape=result.masks.shape,
            masks=np.packbits(result.masks),
            comparisons=result.comparisons,
        )
    return result, True
