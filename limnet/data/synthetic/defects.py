"""Defective masks: six corruptions of a true mask and their mixture (paper, section III-B).

The paper gives lengths in pixels. They are read for slices 480 pixels wide and grow with the slice
(`scale`). Numbers that the paper leaves open are relative to the radius of the disk of equal area.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.random import Generator
from scipy import ndimage
from skimage.draw import polygon2mask

Mask = Bool[np.ndarray, "height width"]

PAPER_SIDE = 480  # pixels of the slices to which the paper's lengths belong
DILATION = (10, 30)  # iterations
EROSION = 10  # iterations
DISPLACEMENT = (10, 30)  # pixels, range of the largest displacement
# what the paper leaves open
SMOOTHING = (5, 25)  # pixels, standard deviation
GRAIN = (4, 16)  # pixels of boundary that move together
ADDED_SIZE = (0.3, 1.0)  # radius of a shape over the mask's
REMOVED_SIZE = (0.5, 1.2)
MERGED_SIZE = (0.2, 0.7)
EMPTY_RADIUS = 0.15  # of the slice's longer side: what stands in for the radius of an empty mask
# Section III-B lists the numbers without saying which is which. Here they go to the corruptions in
# the order of its text.
PROBABILITIES = {
    "add_shapes": 0.1,
    "morphology": 0.1,
    "displace_boundary": 0.3,
    "smooth": 0.2,
    "remove_parts": 0.1,
    "merge_shapes": 0.2,
}


def corrupt(
    mask: Mask,
    rng: Generator,
    *,
    probabilities: Mapping[str, float] | None = None,
    scale: float | None = None,
) -> tuple[Mask, str]:
    """One corruption, drawn at random, of the mask: (defective mask, name of the corruption).

    An empty mask can only gain shapes and a mask that fills its slice can only lose parts; a
    corruption that cannot apply returns the mask as it is.

    Args:
        probabilities: by name, see PROBABILITIES; names left out have probability 0.
        scale: slice pixels per pixel of the paper; by default the longer side over 480.

    Raises:
        ValueError: the mask is not 2D bool, a name is unknown, or probabilities do not sum to 1.
    """
    probabilities = PROBABILITIES if probabilities is None else probabilities
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(
            f"mask must be bool (height, width), got {mask.dtype} {mask.shape}; "
            "pass one slice, as mask > 0"
        )
    if unknown := set(probabilities) - set(DEFECTS):
        raise ValueError(f"corruptions are {list(DEFECTS)}, got {sorted(unknown)}")
    names, weights = list(probabilities), np.array(list(probabilities.values()), dtype=float)
    if (weights < 0).any() or not np.isclose(weights.sum(), 1):
        raise ValueError(f"probabilities must be >= 0 and sum to 1, got {dict(probabilities)}")
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    scale = max(mask.shape) / PAPER_SIDE if scale is None else scale
    return DEFECTS[name](mask, rng, scale=scale), name


def add_shapes(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask with one to three rectangles, triangles or polygons in it or near it."""
    defective, radius = mask.copy(), mask_radius(mask)
    for _ in range(rng.integers(1, 4)):
        centre = random_point(mask, rng) + rng.normal(0, radius, 2)
        defective |= random_shape(mask.shape, centre, radius * rng.uniform(*ADDED_SIZE), rng)
    return defective


def morphology(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask dilated by 10 to 30 iterations or eroded by 10 (times scale), half the time each.

    Iterations with the small disk are one threshold of the distance to the other side. Erosion
    stops before the mask is gone: an empty previous mask says nothing of its defects.
    """
    if not mask.any() or mask.all():
        return mask.copy()
    if rng.random() < 0.5:
        iterations = rng.integers(*DILATION, endpoint=True)
        return ndimage.distance_transform_edt(~mask) <= scale * iterations
    depth = ndimage.distance_transform_edt(mask)
    return depth > min(scale * EROSION, 0.8 * depth.max())


def displace_boundary(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask with its boundary moved in and out, jaggedly.

    The largest displacement is drawn between 10 and 30 pixels (times scale), but is at most the
    mask's radius, or small objects would drown. Each pixel goes with the boundary pixel nearest to
    it, and runs of GRAIN boundary pixels move together.
    """
    edge = boundary(mask)
    if not edge.any():
        return mask.copy()
    distance, (rows, columns) = ndimage.distance_transform_edt(~edge, return_indices=True)
    depth = np.where(mask, distance, -distance)  # the boundary pixels, of depth 0, are in the mask
    largest = min(scale * rng.uniform(*DISPLACEMENT), mask_radius(mask))
    grain = max(1, round(scale * rng.uniform(*GRAIN)))
    height, width = (side // grain + 1 for side in mask.shape)
    noise = rng.uniform(-largest, largest, (height, width))
    return depth + noise[rows // grain, columns // grain] >= 0


def smooth(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask blurred and cut at a half: corners round off, thin parts and notches go."""
    width = min(scale * rng.uniform(*SMOOTHING), 0.7 * mask_radius(mask))
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), width, mode="nearest", truncate=3)
    return blurred > min(0.5, 0.9 * blurred.max())  # thin objects get thinner, but stay


def remove_parts(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask less one of its shapes (half the time, if it has several) or a random shape."""
    if not mask.any():
        return mask.copy()
    parts, count = ndimage.label(mask)
    if count > 1 and rng.random() < 0.5:
        return mask & (parts != rng.integers(1, count, endpoint=True))
    radius = mask_radius(mask) * rng.uniform(*REMOVED_SIZE)
    return mask & ~random_shape(mask.shape, random_point(mask, rng), radius, rng)


def merge_shapes(mask: Mask, rng: Generator, *, scale: float = 1.0) -> Mask:
    """The mask with one to four random shapes grown onto its boundary."""
    edge = boundary(mask)
    if mask.any() and not edge.any():  # a full mask
        return mask.copy()
    defective, radius = mask.copy(), mask_radius(mask)
    for _ in range(rng.integers(1, 5)):
        size = radius * rng.uniform(*MERGED_SIZE)
        defective |= random_shape(mask.shape, random_point(edge, rng), size, rng)
    return defective


CORRUPTIONS = (add_shapes, morphology, displace_boundary, smooth, remove_parts, merge_shapes)
DEFECTS: dict[str, Callable[..., Mask]] = {each.__name__: each for each in CORRUPTIONS}


def boundary(mask: Mask) -> Mask:
    """The mask's pixels with a neighbour (of four) off the mask; the slice's rim is no boundary."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def mask_radius(mask: Mask) -> float:
    """Radius in pixels of the disk that has the mask's area; for an empty mask see EMPTY_RADIUS."""
    area = np.count_nonzero(mask)
    return float(np.sqrt(area / np.pi)) if area else EMPTY_RADIUS * max(mask.shape)


def random_point(mask: Mask, rng: Generator) -> Int[np.ndarray, "2"]:
    """(row, column) of a pixel of the mask, of the slice if the mask is empty."""
    pixels = np.flatnonzero(mask)
    pixel = rng.choice(pixels) if len(pixels) else rng.integers(mask.size)
    return np.array(np.unravel_index(pixel, mask.shape))


def random_shape(
    size: tuple[int, int],
    centre: Float[np.ndarray, "2"] | Int[np.ndarray, "2"],
    radius: float,
    rng: Generator,
) -> Mask:
    """A filled rectangle, triangle or polygon whose corners lie within radius of centre."""
    kind = rng.integers(3)
    if kind == 0:
        half = rng.uniform(0.15 * np.pi, 0.35 * np.pi)  # half the angle between two corners
        angles = rng.uniform(0, 2 * np.pi) + np.array([-half, half, np.pi - half, np.pi + half])
        reach = radius
    else:
        corners = 3 if kind == 1 else rng.integers(5, 10)
        sector = 2 * np.pi / corners  # one corner in each, so that the centre is inside
        angles = sector * (np.arange(corners) + rng.uniform(0.3, 0.7, corners))
        angles += rng.uniform(0, 2 * np.pi)
        reach = radius * rng.uniform(0.5, 1, corners)
    rows, columns = centre[0] + reach * np.sin(angles), centre[1] + reach * np.cos(angles)
    return polygon2mask(size, np.stack([rows, columns], axis=1))
