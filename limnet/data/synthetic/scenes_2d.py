"""Pictures that no camera took, with the outlines of what they show: content of the 2D twins.

Positions are (row, column) in pixels of the picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from scipy import interpolate, ndimage
from skimage.color import hsv2rgb

from limnet.data.coco_masks import instance_mask
from limnet.data.synthetic.shapes import smooth_noise

VERSION = 1  # raise it when the same seed gives another picture
FINE = 4  # what is drawn with a pen is drawn so many times larger
Rng = np.random.Generator
Pen = tuple[np.ndarray, float]  # points of a line and its width


class Scene(NamedTuple):
    """A picture and where each of its objects can be seen."""

    image: UInt8[np.ndarray, "height width 3"]
    masks: Bool[np.ndarray, "instances height width"]


class Thing(NamedTuple):
    """An object of a still life: a flat list column, row, column, row ... as COCO has it."""

    outline: list[float]
    is_part: bool  # of the object before it


def irregular(rng: Rng, draw: Callable[[Rng, int], list[Pen]], side: int = 128) -> Scene:
    """Several objects of one kind that cross and hide parts of each other.

    Args:
        draw: one of IRREGULAR.
    """
    image = _ground(rng, (side, side), saturation=0.25)
    hue, saturation = rng.random(), rng.uniform(0.2, 0.8)
    masks: list[np.ndarray] = []
    for _ in range(rng.integers(3, 6) if draw is not logs else rng.integers(8, 13)):
        mask = _drawn(draw(rng, side), (side, side))
        masks = [each & ~mask for each in masks] + [mask]
        if draw is logs:
            _paint(rng, image, mask, (0.08, 0.55, rng.uniform(0.5, 0.8)), rings=True)
        else:
            value = rng.uniform(0.35, 0.85)
            _paint(rng, image, mask, (hue + rng.normal(0, 0.03), saturation, value))
    return Scene(_as_bytes(rng, image), np.array([mask for mask in masks if mask.any()]))


def wire(rng: Rng, side: int) -> list[Pen]:
    """A long curve from one border to another."""
    along = np.linspace(-0.05, 1.05, 6)
    points = np.stack([along, rng.uniform(0.1, 0.9, 6)], axis=1)[:, :: rng.choice([-1, 1])]
    curve = interpolate.CubicSpline(along, points)(np.linspace(-0.05, 1.05, 80))
    return [(curve * side, 0.028 * side)]


def branch(rng: Rng, side: int) -> list[Pen]:
    """A stem with twigs on twigs, each thinner than the one it leaves."""
    angle, length = rng.uniform(0, 2 * math.pi), 0.5 * side
    start = side / 2 - 0.55 * side * _towards(angle) + rng.normal(0, 0.15 * side, 2)
    pens, tips = [], [(start, angle, length, 0.045 * side)]
    while tips:
        start, angle, length, width = tips.pop()
        bend = np.cumsum(rng.normal(0, 0.12, 5))
        steps = length / 5 * np.array([_towards(angle + each) for each in bend])
        points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        pens.append((points, width))
        if width > 0.012 * side:
            turns = angle + bend[-1] + rng.uniform(0.2, 0.8, 2) * (-1, 1)
            tips += [(points[-1], turn, 0.7 * length, 0.62 * width) for turn in turns]
            tips.append((points[2], angle - 0.9, 0.5 * length, 0.5 * width))
    return pens


def fence(rng: Rng, side: int) -> list[Pen]:
    """A turned rectangle of bars."""
    height, width = rng.uniform(0.35, 0.5, 2) * side
    rows, columns = (np.linspace(-half, half, 6) for half in (height, width))
    lines = [[(row, -width), (row, width)] for row in rows]
    lines += [[(-height, column), (height, column)] for column in columns]
    placed = _placed(rng, side, np.array(lines))
    return [(line, 0.024 * side) for line in placed]


def hanger(rng: Rng, side: int) -> list[Pen]:
    """A coat hanger: a flat triangle with a hook."""
    shoulders = [(0, 0), (0.18, 0.34), (0.24, 0.3), (0.24, -0.3), (0.18, -0.34), (0, 0)]
    turn = np.linspace(-0.5, 1.2, 12) * math.pi
    hook = [
        (0, 0),
        (-0.08, 0),
        *zip(-0.13 + 0.05 * -np.sin(turn), 0.05 * np.cos(turn), strict=True),
    ]
    triangle, hook = (np.array(line) * side for line in (shoulders, hook))
    line = _placed(rng, side, np.concatenate([triangle, hook])[None])[0]
    return [(line, 0.03 * side)]


def antenna(rng: Rng, side: int) -> list[Pen]:
    """A pole with panels on both of its sides."""
    column, top = rng.uniform(0.15, 0.85) * side, rng.uniform(0.05, 0.35) * side
    lean = rng.normal(0, 0.05) * side
    pens = [(np.array([(top, column), (1.05 * side, column + lean)]), 0.025 * side)]
    for row in top + side * rng.uniform(0.04, 0.4, 4):
        across = column + rng.choice([-1, 1]) * 0.07 * side
        pens.append((np.array([(row, column), (row, across)]), 0.016 * side))
        panel = np.array([(row - 0.07 * side, across), (row + 0.07 * side, across)])
        pens.append((panel, 0.05 * side))
    return pens


def logs(rng: Rng, side: int) -> list[Pen]:
    """The cut end of a log."""
    middle = rng.uniform(0.08, 0.92, (1, 2)) * side
    return [(np.repeat(middle, 2, axis=0), rng.uniform(0.17, 0.28) * side)]


IRREGULAR = {
    "antenna": antenna,
    "branch": branch,
    "fence": fence,
    "hanger": hanger,
    "log": logs,
    "wire": wire,
}


def video(rng: Rng, shape: tuple[int, int], *, frames: int, animals: int) -> Iterator[Scene]:
    """Frames in which animals walk over a meadow; the camera follows them a little."""
    height, width = shape
    wide = width + 8 * frames
    meadow = _ground(rng, (height, wide), saturation=0.45, hue=0.28)
    horizon = round(0.35 * height)
    sky = np.linspace(0.9, 0.7, horizon)[:, None, None] * (0.75, 0.88, 1.0)
    meadow[:horizon] = sky + 0.04 * _noise(rng, (horizon, wide), (5, 9))[..., None]
    colours = [
        (rng.uniform(0, 0.12), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9)) for _ in range(animals)
    ]
    start = rng.uniform(0.2, 0.4, animals) + 0.4 * np.arange(animals)
    for frame in range(frames):
        image, masks = meadow[:, 8 * frame : 8 * frame + width].copy(), []
        for animal in range(animals):
            place = np.array([0.62 + 0.06 * animal, start[animal] + 0.06 * frame]) * (height, width)
            mask = _drawn(_animal(place, 0.25 * height, 1.4 * frame + animal), shape)
            masks = [each & ~mask for each in masks] + [mask]
            _paint(rng, image, mask, colours[animal])
        yield Scene(_as_bytes(rng, image), np.array(masks))


def _animal(place: np.ndarray, size: float, phase: float) -> list[Pen]:
    """Body, neck, head, ears, tail and legs of something that walks to the right."""
    swing = 0.35 * math.sin(phase)
    feet = [(0.9, -0.75 - swing), (0.9, -0.6 + swing), (0.9, 0.6 - swing), (0.9, 0.75 + swing)]
    hips = [(0.1, -0.6), (0.1, -0.6), (0.1, 0.6), (0.1, 0.6)]
    lines = [([hip, foot], 0.17) for hip, foot in zip(hips, feet, strict=True)]
    lines += [([(0, -0.6), (0, 0.6)], 0.62), ([(-0.05, 0.65), (-0.55, 1.0)], 0.34)]
    lines += [([(-0.6, 0.95), (-0.5, 1.35)], 0.3), ([(-0.65, 0.95), (-0.9, 0.85)], 0.12)]
    lines += [([(-0.1, -0.8), (0.1 - swing, -1.2), (0.4, -1.3)], 0.1)]
    return [(place + size * np.array(points), size * width) for points, width in lines]


def still_life(
    rng: Rng, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], list[Thing]]:
    """Fruit, boxes and bottles on a table, and their outlines; a bottle's label is a part of it."""
    height, width = shape
    image = _ground(rng, shape, saturation=0.2)
    edge = round(rng.uniform(0.45, 0.6) * height)
    image[edge:] = _ground(rng, (height - edge, width), saturation=0.5, hue=0.08)
    things: list[Thing] = []
    for slot in rng.permutation(4):
        size = rng.uniform(0.75, 1.0) * min(height, width / 4) * 0.5
        foot = np.array([rng.uniform(0.68, 0.9) * height, (slot + 0.5) * width / 4])
        shapes = (_fruit, _box, _bottle)[rng.integers(3)](rng, foot, size)
        hue = rng.random()
        for number, points in enumerate(shapes):
            outline = np.round(np.clip(points, 0, shape)[:, ::-1], 2).ravel().tolist()
            things.append(Thing(outline, number > 0))
            colour = (hue + 0.4 * number, 0.7 - 0.4 * number, rng.uniform(0.5, 0.9))
            _paint(rng, image, instance_mask([outline], height, width), colour)
    return _as_bytes(rng, image), things


def _fruit(rng: Rng, foot: np.ndarray, size: float) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radii = 0.75 * size * (1 + 0.06 * np.cos(rng.integers(2, 5) * angles + rng.uniform(0, 6)))
    return [foot - (0.7 * size, 0) + radii[:, None] * _towards(angles).T]


def _box(rng: Rng, foot: np.ndarray, size: float) -> list[np.ndarray]:
    tall, half, slant = rng.uniform(1, 1.8) * size, 0.7 * size, rng.uniform(0.1, 0.3) * size
    corners = [(0, -half), (0, half), (-tall, half), (-tall - slant, half - slant)]
    return [foot + np.array([*corners, (-tall - slant, slant - half), (-tall, -half)])]


def _bottle(rng: Rng, foot: np.ndarray, size: float) -> list[np.ndarray]:
    heights = np.array([0, 0.1, 1.1, 1.45, 1.6, 2.2, 2.2]) * size
    halves = np.array([0.45, 0.52, 0.52, 0.35, 0.17, 0.17, 0]) * size
    sides = [np.stack([-heights, sign * halves], axis=1) for sign in (1, -1)]
    label = np.array([(-0.35, -0.5), (-0.35, 0.5), (-0.85, 0.5), (-0.85, -0.5)]) * size
    return [foot + np.concatenate([sides[0], sides[1][::-1]]), foot + label]


def ultrasound(
    rng: Rng, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Layers of soft tissue in speckle, and where a dark lesion lies in them."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    waves = [_noise(rng, shape, (4, 6)) for _ in range(2)]
    layer = np.digitize(rows + 0.03 * height * waves[0], np.array([0.06, 0.22, 0.62, 0.8]) * height)
    echo = np.array([0.8, 0.3, 0.5, 0.28, 0.6])[layer] * (1 + 0.25 * waves[1])
    echo += 0.35 * (layer == 3) * (np.sin(rows / 2.2 + waves[0]) > 0.6)  # muscle fibres
    middle = np.array([rng.uniform(0.36, 0.5) * height, rng.uniform(0.3, 0.7) * width])
    radii = rng.uniform(0.1, 0.16) * height * np.array([1, rng.uniform(1.1, 1.8)])
    offset = (np.stack([rows, columns], axis=-1) - middle) / radii
    angle = np.arctan2(offset[..., 0], offset[..., 1])
    lobes = sum(rng.uniform(0, 0.1) * np.cos(n * angle + rng.uniform(0, 6)) for n in (2, 3, 5))
    lesion = np.hypot(*np.moveaxis(offset, -1, 0)) < 1 + lobes
    below = (np.abs(offset[..., 1]) < 0.8) & (offset[..., 0] > 0) & ~lesion
    echo = np.where(
        lesion, rng.uniform(0.09, 0.2), echo * (1 + 0.5 * ndimage.gaussian_filter(below * 1.0, 3))
    )
    field = rng.standard_normal((2, *shape))  # scatterers, seen through the width of the beam
    speckle = np.hypot(*ndimage.gaussian_filter(field, (0, 0.7, 1.4)))
    sound = ndimage.gaussian_filter(echo, (0.6, 1.2)) * speckle / speckle.mean()
    bright = 0.62 + 0.24 * np.log(np.maximum(sound * np.exp(-0.4 * rows / height), 1e-3))
    return (255 * np.clip(bright, 0, 1)).astype(np.uint8), lesion


def _towards(angle: np.ndarray | float) -> np.ndarray:
    return np.stack([np.sin(angle), np.cos(angle)])


def _placed(rng: Rng, side: int, lines: np.ndarray) -> np.ndarray:
    """Lines about the origin, turned and moved to somewhere near the middle."""
    turn = np.array(
        [_towards(angle) for angle in rng.uniform(0, 2 * math.pi) + np.array([0, math.pi / 2])]
    )
    return lines @ turn + rng.uniform(0.3, 0.7, 2) * side


def _drawn(pens: Sequence[Pen], shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels at least half of which lie on the lines."""
    height, width = shape
    canvas = Image.new("L", (FINE * width, FINE * height))
    draw = ImageDraw.Draw(canvas)
    for points, thick in pens:
        fine = [(FINE * column, FINE * row) for row, column in points.tolist()]
        draw.line(fine, fill=255, width=max(1, round(FINE * thick)))
        radius = FINE * thick / 2
        for column, row in fine:  # round ends and corners
            draw.ellipse([column - radius, row - radius, column + radius, row + radius], fill=255)
    return np.array(canvas.reduce(FINE)) >= 128


def _ground(
    rng: Rng, shape: tuple[int, int], *, saturation: float, hue: float | None = None
) -> np.ndarray:
    """A cluttered background in colours of one kind."""
    coarse, middle, fine = (_noise(rng, shape, (n, n)) for n in (4, 14, max(shape) // 3))
    hue = rng.random() if hue is None else hue
    value = rng.uniform(0.4, 0.7) + 0.1 * coarse + 0.06 * middle + 0.04 * fine
    hsv = [hue + 0.03 * coarse + 0.02 * middle, saturation + 0.08 * middle, value]
    return hsv2rgb(np.stack([hsv[0] % 1, *np.clip(hsv[1:], 0, 1)], axis=-1))


def _noise(rng: Rng, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    return smooth_noise(rng, (1, *shape), (1, *cells))[0, 0]


def _paint(
    rng: Rng,
    image: np.ndarray,
    mask: np.ndarray,
    hsv: tuple[float, float, float],
    *,
    rings: bool = False,
) -> None:
    """Paints a round, textured body over the image, with the shadow that it throws."""
    shadow = ndimage.gaussian_filter(ndimage.shift(mask.astype(np.float32), (2, 3), order=0), 1.5)
    image *= 1 - 0.45 * shadow[..., None]
    depth = ndimage.distance_transform_edt(mask)
    lit = np.sqrt(np.clip(depth / max(depth.max(), 1.0), 0, 1))
    slope = ndimage.gaussian_filter(depth, 1.2)
    side = np.clip(np.gradient(slope, axis=0) + np.gradient(slope, axis=1), -1, 1)
    texture = _noise(rng, mask.shape, (mask.shape[0] // 5, mask.shape[1] // 5))
    value = hsv[2] * (0.65 + 0.3 * lit + 0.18 * side + 0.05 * texture)
    if rings:
        value = hsv[2] * (0.75 + 0.2 * np.cos(2.4 * depth) * (depth > 2) - 0.4 * (depth <= 2))
    colour = [np.full(mask.shape, hsv[0] % 1), np.full(mask.shape, hsv[1]), np.clip(value, 0, 1)]
    image[mask] = hsv2rgb(np.stack(colour, axis=-1))[mask]


def _as_bytes(rng: Rng, image: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """The image as a camera with some noise stores it."""
    soft = ndimage.gaussian_filter(image, (0.4, 0.4, 0))
    return (255 * np.clip(soft + rng.normal(0, 0.012, image.shape), 0, 1)).astype(np.uint8)
