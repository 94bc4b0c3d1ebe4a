"""How good a mask is (Dice, surface Dice) and how many clicks it took (paper, section III)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

Mask = Bool[np.ndarray, "..."]  # a slice or a volume; both masks of a call have the same shape

ROUNDING_MM = 1e-6  # a distance of exactly the tolerance is within it, however it was rounded


def dice(first: Mask, second: Mask) -> float:
    """Dice similarity coefficient, DSC: 2 |A and B| / (|A| + |B|); 1 if both masks are empty.

    Raises:
        ValueError: the masks are not bool or differ in shape.
    """
    _check(first, second)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0


def surface_dice(
    first: Mask,
    second: Mask,
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float = 2.0,
) -> float:
    """Normalised surface Dice, NSD: the share of both surfaces within tolerance_mm of the other.

    A mask's surface is its voxels that have a face neighbour off the mask, the outside of the
    volume included; distances are between voxel centres, and every surface voxel counts the same
    (MONAI's compute_surface_dice; DeepMind's surface-distance weighs patches of a surface between
    the voxels instead: up to 0.13 away in our tests, whose surfaces lie close to the tolerance).
    1 if both masks are empty, 0 if one is.

    Args:
        spacing_mm: voxel size along each axis of the masks: (slice, row, column) for a volume.

    Raises:
        ValueError: the masks are not bool or differ in shape, the spacing does not fit them or is
            not positive, or the tolerance is negative.
    """
    _check(first, second)
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (first.ndim,) or not (spacing > 0).all():
        raise ValueError(
            f"spacing_mm must be {first.ndim} positive numbers, one per axis of the masks, "
            f"got {tuple(spacing_mm)}"
        )
    if tolerance_mm < 0:
        raise ValueError(f"tolerance_mm must not be negative, got {tolerance_mm}")
    # off zero: beside a zero coordinate SciPy's tree looks for the next number, which processors
    # that were told to flush tiny numbers do not have, and recurses until it crashes
    surfaces = [(surface_points(mask) + 1) * spacing for mask in (first, second)]
    total = sum(len(points) for points in surfaces)
    if min(len(points) for points in surfaces) == 0:
        return 0.0 if total else 1.0
    reach = tolerance_mm + ROUNDING_MM
    within = 0
    for points, others in (surfaces, surfaces[::-1]):
        distances, _ = KDTree(others).query(points, distance_upper_bound=reach)
        within += np.count_nonzero(np.isfinite(distances))  # no neighbour in reach: infinite
    return within / total


def surface_points(mask: Mask) -> Float[np.ndarray, "points axes"]:
    """Voxel indices of the mask's surface: the voxels with a face neighbour off the mask."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        inner, outer = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
        inner[[0, -1]] = False  # beyond the volume there is no mask
    return np.argwhere(mask & ~inside).astype(float)


def mean_slice_dice(
    target: Bool[np.ndarray, "slices height width"], mask: Bool[np.ndarray, "slices height width"]
) -> float:
    """Mean DSC of the slices that show the target: section III-D's, as far as it says.

    A slice that shows nothing of it does not count, whatever the mask has there.

    Raises:
        ValueError: the masks differ in shape, or the target is empty.
    """
    shown = np.flatnonzero(target.any(axis=(1, 2)))
    if not len(shown):
        raise ValueError("a mean over slices needs a slice that shows the target, got none")
    _check(target, mask)
    return float(np.mean([dice(target[index], mask[index]) for index in shown]))


def number_of_clicks(scores: Sequence[float], target: float = 0.9, limit: int = 20) -> int:
    """Clicks until the score first reaches the target (NoC@90), or the limit if it never does.

    Args:
        scores: after each click, from the first on; those beyond the limit do not count.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 click, got {limit}")
    reached = (clicks for clicks, score in enumerate(scores[:limit], start=1) if score >= target)
    return next(reached, limit)


def bootstrap_interval(
    scores: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Where the mean of such scores lies with this confidence: percentiles of resampled means.

    Args:
        scores: of independent cases; slices or organs of one patient are not.

    Raises:
        ValueError: there is no score.
    """
    if len(scores) == 0:
        raise ValueError("an interval needs at least one score, got none")
    drawn = np.random.default_rng(seed).choice(np.asarray(scores), (resamples, len(scores)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(first: Mask, second: Mask) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"masks must have the same shape, got {first.shape} and {second.shape}; "
            "resample one of them to the other's grid first"
        )
    if first.dtype != bool or second.dtype != bool:
        raise ValueError(
            f"masks must be bool, got {first.dtype} and {second.dtype}; "
            "pass labels == label or probability > 0.5"
        )
