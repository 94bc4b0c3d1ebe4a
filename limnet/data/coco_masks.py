"""Masks of instances from the polygons and run lengths of COCO's annotation files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from skimage.draw import polygon


def instance_mask(
    segmentation: Sequence[Any] | dict[str, Any], height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """The pixels whose centres lie in one of the polygons, or those of the run lengths.

    Args:
        segmentation: polygons, each a flat list column, row, column, row ... in pixels from the
            outer corner of the first pixel; or {"counts": ..., "size": [height, width]}.

    Raises:
        ValueError: a polygon has an odd number of coordinates or one that is not finite, or the
            run lengths are of another size.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width)
    mask = np.zeros((height, width), bool)
    for outline in segmentation:
        points = np.asarray(outline, np.float64)
        if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(
                "a polygon must be a list of column, row, column, row ... in pixels, got"
                f" {outline}; unpack the annotations again"
            )
        if len(points) >= 6:  # COCO has a few polygons of two points: they cover nothing
            mask[polygon(points[1::2] - 0.5, points[::2] - 0.5, mask.shape)] = True
    return mask


def _from_runs(runs: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The mask whose columns, one below the other, are so many pixels off, on, off ..."""
    try:
        counts = runs["counts"]
        lengths = _lengths(counts) if isinstance(counts, str) else [int(count) for count in counts]
        size = [int(side) for side in runs["size"]]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"run lengths must have counts and size, but: {error!r}") from error
    fits = min(lengths, default=0) >= 0 and sum(lengths) == height * width
    if size != [height, width] or not fits:
        raise ValueError(
            f"run lengths must be of {height} x {width} pixels, got {sum(lengths)} pixels of size"
            f" {size}; unpack the annotations again"
        )
    is_on = np.arange(len(lengths)) % 2 == 1
    return np.repeat(is_on, lengths).reshape(width, height).T


def _lengths(text: str) -> list[int]:
    """Run lengths from COCO's text: digits of 5 bits, from the third on relative to two before."""
    lengths, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - ord("0")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # another digit follows
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths
