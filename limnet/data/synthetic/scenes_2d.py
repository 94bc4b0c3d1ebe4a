"""Coloured shapes that hide each other or move, and a lesion: pictures of the 2D twins.

Positions are (row, column) in pixels of the picture.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage.draw import polygon

from limnet.data.synthetic.shapes import smooth_noise

VERSION = 2  # raise it when the same seed gives another picture
Rng = np.random.Generator
Mask = Bool[np.ndarray, "height width"]
Picture = Float[np.ndarray, "height width 3"]
# the points of each line of a thing, in radii of the thing
LINES: dict[str, list[list[tuple[float, float]]]] = {
    "antenna": [[(-1, 0), (1, 0)], [(-0.6, -0.3), (-0.6, 0.3)], [(-0.2, -0.3), (-0.2, 0.3)]],
    "branch": [[(-1, 0), (1, 0)], [(0.1, 0), (-0.6, 0.6)], [(0.5, 0), (-0.1, -0.6)]],
    "fence": [[(-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6), (-1, -0.6)], [(-1, 0), (1, 0)]],
    "hanger": [[(-0.7, 0), (-0.3, 0), (0.3, 0.9), (0.3, -0.9), (-0.3, 0)]],
    "log": [[(0, 0), (0, 0)]],
    "wire": [[(-0.3, -1.5), (0.3, -0.5), (-0.3, 0.5), (0.3, 1.5)]],
    "animal": [[(1, -0.6), (0, -0.6), (0, 0.6), (-0.6, 0.9)], [(0, 0.6), (1, 0.6)]],
}
HALF_WIDTHS = {"log": 0.5, "animal": 0.25}  # radii
THIN = 0.08  # half the width of all other lines
IRREGULAR = [kind for kind in LINES if kind != "animal"]  # the subsets of iShape


class Scene(NamedTuple):
    """A picture and where each of its objects can be seen."""

    image: UInt8[np.ndarray, "height width 3"]
    masks: Bool[np.ndarray, "instances height width"]


class Thing(NamedTuple):
    """An object of a still life: a flat list column, row, column, row ... as COCO has it."""

    outline: list[float]
    is_part: bool  # of the object before it


def irregular(rng: Rng, kind: str, side: int = 128) -> Scene:
    """Several objects of one kind of IRREGULAR that cross and hide parts of each other."""
    shape, count = (side, side), 9 if kind == "log" else 4
    masks = [
        _drawn(kind, shape, rng.uniform(0.2, 0.8, 2) * side, 0.35 * side, rng.uniform(0, 6.3))
        for _ in range(count)
    ]
    return _scene(rng, _ground(rng, shape), masks, rng.uniform(0, 1, (count, 3)))


def video(rng: Rng, shape: tuple[int, int], *, frames: int, animals: int) -> Iterator[Scene]:
    """Frames in which animals walk to the right."""
    ground, colours = _ground(rng, shape), rng.uniform(0, 1, (animals, 3))
    start = rng.uniform(0.2, 0.4, animals) + 0.4 * np.arange(animals)
    for frame in range(frames):
        places = [np.array((0.55, place + 0.06 * frame)) * shape for place in start]
        masks = [_drawn("animal", shape, place, 0.25 * shape[0]) for place in places]
        yield _scene(rng, ground, masks, colours)


def still_life(
    rng: Rng, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], list[Thing]]:
    """Four round things side by side with their outlines; some have a part of another colour."""
    height, width = shape
    image, things = _ground(rng, shape), []
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for slot in range(4):
        radii = 1 + rng.uniform(0.05, 0.25) * np.cos(rng.integers(2, 6) * angles)
        rim = radii * np.stack([np.sin(angles), np.cos(angles)])  # rows and columns
        size = rng.uniform(0.3, 0.42) * np.array([min(height, width / 2), width / 4])
        middle = np.array([rng.uniform(0.45, 0.55) * height, (slot + 0.5) * width / 4])
        for is_part in (False, True)[: 1 + rng.integers(2)]:
            points = middle + (0.5 if is_part else 1.0) * size * rim.T
            outline = np.round(points[:, ::-1], 2).ravel().tolist()
            things.append(Thing(outline, is_part))
            _paint(image, instance_mask([outline], height, width), rng.uniform(0, 1, 3))
    return _as_bytes(rng, image), things


def ultrasound(rng: Rng, shape: tuple[int, int]) -> tuple[UInt8[np.ndarray, "height width"], Mask]:
    """Layers of soft tissue in speckle, and where a dark lesion lies in them."""
    height, width = shape
    place = np.array([rng.uniform(0.36, 0.5) * height, rng.uniform(0.3, 0.7) * width])
    radii = rng.uniform(0.1, 0.16) * height * np.array([1, rng.uniform(1.1, 1.8)])
    pixels = np.stack(np.mgrid[:height, :width], axis=-1)
    lesion = np.linalg.norm((pixels - place) / radii, axis=-1) < 1 + 0.1 * _noise(rng, shape, 8)
    layers = np.array([0.06, 0.22, 0.62, 0.8]) * height
    layer = np.digitize(pixels[..., 0] + 0.03 * height * _noise(rng, shape, 4), layers)
    echo = np.where(lesion, rng.uniform(0.09, 0.2), np.array([0.8, 0.3, 0.5, 0.28, 0.6])[layer])
    waves = rng.standard_normal((2, *shape))  # scatterers, seen through the width of the beam
    speckle = np.hypot(*ndimage.gaussian_filter(waves, (0, 0.7, 1.4)))
    sound = ndimage.gaussian_filter(echo, (0.6, 1.2)) * speckle / speckle.mean()
    bright = 0.62 + 0.24 * np.log(np.maximum(sound, 1e-3))
    return (255 * np.clip(bright, 0, 1)).astype(np.uint8), lesion


def _drawn(
    kind: str, shape: tuple[int, int], place: np.ndarray, radius: float, angle: float = 0.0
) -> Mask:
    """The pixels on the lines of a thing."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    points = (np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1) - place) @ turn / radius
    half_width = HALF_WIDTHS.get(kind, THIN)
    mask = np.zeros(shape, bool)
    for start, end in (np.array(ends) for line in LINES[kind] for ends in pairwise(line)):
        step = end - start
        share = np.clip((points - start) @ step / max(step @ step, 1e-9), 0, 1)[..., None]
        mask |= np.linalg.norm(points - start - share * step, axis=-1) < half_width
    return mask


def _scene(rng: Rng, ground: Picture, masks: list[Mask], colours: np.ndarray) -> Scene:
    """The masks painted over the ground; later ones hide earlier ones."""
    image, visible = ground.copy(), []
    for mask, colour in zip(masks, colours, strict=True):
        visible = [each & ~mask for each in visible] + [mask]
        _paint(image, mask, colour)
    return Scene(_as_bytes(rng, image), np.array([mask for mask in visible if mask.any()]))


def _paint(image: Picture, mask: Mask, colour: np.ndarray) -> None:
    """A body that is darker at its edge, in place."""
    depth = ndimage.distance_transform_edt(mask)[mask]
    image[mask] = colour * (0.6 + 0.4 * np.minimum(depth / 4, 1))[:, None]


def _ground(rng: Rng, shape: tuple[int, int]) -> Picture:
    """A cluttered background in colours of one kind."""
    clutter = 0.1 * _noise(rng, shape, 4) + 0.06 * _noise(rng, shape, 14)
    return np.clip(rng.uniform(0.3, 0.7, 3) + clutter[..., None], 0, 1)


def _noise(rng: Rng, shape: tuple[int, int], cells: int) -> Float[np.ndarray, "height width"]:
    return smooth_noise(rng, (1, *shape), (1, cells, cells))[0, 0]


def _as_bytes(rng: Rng, image: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """The image as a camera with some noise stores it."""
    soft = ndimage.gaussian_filter(image, (0.4, 0.4, 0))
    return (255 * np.clip(soft + rng.normal(0, 0.012, image.shape), 0, 1)).astype(np.uint8)


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
