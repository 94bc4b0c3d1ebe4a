"""Other people's protocols: who clicks where, and how the rounds are scored.

A simulated user is called with (target, masks, clicks) and gives the next click. Chance depends on
a seed and the number of clicks alone, and the user's repr says all about it. The paper's protocol,
as far as it says one, is `users.next_click`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from limnet.evaluation.users import next_click
from limnet.method.prompts import Click

Masks = Bool[np.ndarray, "slices height width"]

# (target, masks or None before the first click, clicks so far) -> click; None: nothing to correct
User = Callable[[Masks, Masks | None, Sequence[Click]], Click | None]

CHALLENGE_SEED = 42  # of the challenge's choice among equally deep voxels
CHALLENGE_STEPS = 5  # clicks that are scored
DSC_FOR_NSD = 0.2  # at or below it the challenge counts no surface
NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=int)


@dataclass(frozen=True)
class SliceBySlice:
    """The paper's user, `next_click`, with one of the rules for the slice (`SLICE_RULES`)."""

    slice_rule: str = "largest_error"
    seed: int = 0

    def __call__(
        self, target: Masks, masks: Masks | None = None, clicks: Sequence[Click] = ()
    ) -> Click | None:
        rng = np.random.default_rng([self.seed, len(clicks)])
        return next_click(target, masks, clicks, slice_rule=self.slice_rule, rng=rng)


@dataclass(frozen=True)
class Challenge:
    """The user of the CVPR 2025 interactive challenge, who clicks in 3D.

    Errors of both kinds are joined by faces, edges or corners. The click goes to the deepest voxel
    of the largest part; among equally deep ones a seed chooses. Depth is in voxels, and voxels
    beyond the border are correct. Unlike the challenge, no large volume is halved first.
    """

    def __call__(
        self, target: Masks, masks: Masks | None = None, clicks: Sequence[Click] = ()
    ) -> Click | None:
        wrong = target if masks is None else target ^ masks
        parts, count = ndimage.label(wrong, NEIGHBOURS_26)
        if not count:
            return None
        largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
        box = ndimage.find_objects(parts, largest)[largest - 1]
        depth = ndimage.distance_transform_edt(np.pad(parts[box] == largest, 1))[1:-1, 1:-1, 1:-1]
        deepest = np.argwhere(depth == depth.max())
        chosen = deepest[np.random.RandomState(CHALLENGE_SEED).randint(len(deepest))]
        place = [int(at + edge.start) for at, edge in zip(chosen, box, strict=True)]
        return Click(*place, bool(target[tuple(place)]))


@dataclass(frozen=True)
class RandomError:
    """A user who clicks any wrong voxel, each as likely: SAM-Med3D's default, and RadioActive's."""

    seed: int = 0

    def __call__(
        self, target: Masks, masks: Masks | None = None, clicks: Sequence[Click] = ()
    ) -> Click | None:
        wrong = np.argwhere(target if masks is None else target ^ masks)
        if not len(wrong):
            return None
        rng = np.random.default_rng([self.seed, len(clicks)])
        place = wrong[rng.integers(len(wrong))].tolist()
        return Click(*place, bool(target[tuple(place)]))


@dataclass(frozen=True)
class Jittered:
    """Another user with an unsteady hand: normal steps along rows and columns of the slice."""

    user: User
    pixels: float | int  # standard deviation of either step
    seed: int = 0

    def __call__(
        self, target: Masks, masks: Masks | None = None, clicks: Sequence[Click] = ()
    ) -> Click | None:
        click = self.user(target, masks, clicks)
        if click is None:
            return None
        step = np.random.default_rng([self.seed, len(clicks)]).normal(0, self.pixels, 2)
        place = np.rint(np.array([click.row, click.column]) + step)
        row, column = np.clip(place, 0, np.array(target.shape[1:]) - 1).astype(int)
        return replace(click, row=int(row), column=int(column))


def challenge_area(scores: Sequence[float]) -> float:
    """The area under a score over the five clicks, by trapezoids: 4.0 at best.

    Raises:
        ValueError: there are fewer than five scores.
    """
    if len(scores) < CHALLENGE_STEPS:
        raise ValueError(
            f"the challenge scores {CHALLENGE_STEPS} clicks, got {len(scores)} scores; play as many"
        )
    return float(np.trapezoid(scores[:CHALLENGE_STEPS]))


def challenge_surface(dice: Sequence[float], surface_dice: Sequence[float]) -> tuple[float, ...]:
    """NSD of every round, zero where DSC is 0.2 or less, as the challenge has it."""
    pairs = zip(dice, surface_dice, strict=True)
    return tuple(0.0 if dsc <= DSC_FOR_NSD else nsd for dsc, nsd in pairs)
