"""Synthetic hearts in short-axis slices, as cine MR shows them: rings, crescents and chambers.

Nothing else that the networks learn from has a target around another one of the same size. Lengths
are mm; a ventricle is half an ellipsoid, cut off by the plane of its valves, which is tilted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from limnet.data.synthetic.shapes import smooth_noise

VERSION = 1  # raise it when the same seed gives another heart
_NAMES = (  # the index is the id
    "lung, left ventricle, myocardium, right ventricle, right wall, atria, fat, liver, muscle"
)
NAMES = _NAMES.split(", ")
CHAMBERS = {name: NAMES.index(name) for name in NAMES[1:4]}
LEAST_WALL_MM = 2.5
LOWEST = np.array((0.02, 0.65, 0.15, 0.6, 0.15, 0.6, 0.5, 0.2, 0.15))  # mean intensity of each
HIGHEST = np.array((0.15, 0.95, 0.5, 0.95, 0.5, 0.95, 1.0, 0.55, 0.45))


@dataclass(frozen=True)
class Heart:
    """One synthetic heart; labels by NAMES, slices run from the atria to the tip."""

    images: Float32[np.ndarray, "slices height width"]  # in [0, 1]
    labels: UInt8[np.ndarray, "slices height width"]
    spacing_mm: tuple[float, float, float]


def heart(
    seed: int,
    *,
    shape: tuple[int, int, int] = (20, 112, 112),
    spacing_mm: tuple[float, float, float] = (7.0, 1.5, 1.5),
) -> Heart:
    """The heart of patient `seed`, in any phase of its beat.

    Raises:
        ValueError: shape or spacing is not positive.
    """
    if min(shape) < 1 or min(spacing_mm) <= 0:
        raise ValueError(f"shape and spacing_mm must be positive, got {shape} and {spacing_mm}")
    rng = np.random.default_rng(seed)
    axes = [
        (np.arange(count, dtype=np.float32) - (count - 1) / 2) * np.float32(step)
        for count, step in zip(shape, spacing_mm, strict=True)
    ]
    depth, row, column = np.meshgrid(*axes, indexing="ij")
    bend = smooth_noise(rng, shape, (4, 5, 5), 2) * np.float32(rng.uniform(0, 4))
    lean, place = rng.normal(0, 0.15, 2), rng.normal(0, 6, 2)
    row, column = row + bend[0], column + bend[1]
    row = row - np.float32(place[0]) - np.float32(lean[0]) * depth
    column = column - np.float32(place[1]) - np.float32(lean[1]) * depth
    labels, muscles = _anatomy(rng, depth, row, column)
    return Heart(_scan(rng, labels, muscles), labels, tuple(map(float, spacing_mm)))


def _anatomy(
    rng: np.random.Generator, depth: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and where muscles stand within the left ventricle, which count as of it."""
    shape = depth.shape
    length, radius = rng.uniform(65, 100), rng.uniform(11, 29)
    wall = rng.uniform(5, 10) + 0.35 * max(0, 22 - radius)  # contracted hearts have thick walls
    tilt = rng.normal(0, 0.25, 2)
    below = depth + length / 2 + tilt[0] * row + tilt[1] * column  # the plane of the valves
    stretch = np.exp(rng.normal(0, 0.06))
    rough = 1 + rng.uniform(0, 0.12) * smooth_noise(rng, shape, (shape[0], 16, 16))[0]
    across = np.hypot(row * stretch, column / stretch)
    thick = wall * (1 + rng.uniform(0, 0.25) * smooth_noise(rng, shape, (4, 4, 4))[0])
    inner = np.hypot(across * rough / radius, below / length)
    outer, within = (
        np.hypot(across / (radius + thick - thin), below / (length + thick - thin))
        for thin in (0, LEAST_WALL_MM)
    )

    angle = rng.uniform(-np.pi, np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    outward = cosine * column + sine * row - (radius + wall) * rng.uniform(0.6, 1.05)
    along = cosine * row - sine * column
    reach = (radius + wall) * rng.uniform(0.7, 1.1), (radius + wall) * rng.uniform(0.85, 1.3)
    right_length = length * rng.uniform(0.7, 0.95)

    def right(grown_mm: float) -> np.ndarray:
        sides = (outward / (reach[0] + grown_mm)) ** 2 + (along / (reach[1] + grown_mm)) ** 2
        return np.sqrt(sides + (below / (right_length + grown_mm)) ** 2)

    atria = np.hypot(np.hypot(row, column - 20 * cosine) / rng.uniform(30, 55), below / 50) < 1
    tissue = smooth_noise(rng, shape, (3, 4, 4), 4).argmax(0)
    labels = np.choose(tissue, [NAMES.index(n) for n in ("lung", "fat", "liver", "muscle")])
    around = smooth_noise(rng, shape, (4, 6, 6))[0] * 9 + rng.uniform(0, 6)  # mm of fat
    beating = below > 0
    labels[beating & (np.minimum(outer, right(0.0)) * (radius + wall) < radius + wall + around)] = (
        NAMES.index("fat")
    )
    labels[atria & ~beating] = NAMES.index("atria")
    labels[beating & (right(rng.uniform(2, 4)) < 1)] = NAMES.index("right wall")
    labels[beating & (right(0.0) < 1)] = CHAMBERS["right ventricle"]
    labels[beating & (outer < 1)] = CHAMBERS["myocardium"]
    chamber = beating & (inner < 1) & (within < 1)
    labels[chamber] = CHAMBERS["left ventricle"]

    muscles = np.zeros(shape, dtype=bool)
    for turn in rng.uniform(0, 2 * np.pi) + np.array((0, rng.uniform(1.5, 3))):
        middle = radius * rng.uniform(0.5, 0.8)
        off = np.hypot(row - middle * np.sin(turn), column - middle * np.cos(turn))
        muscles |= chamber & (off < radius * rng.uniform(0.1, 0.28))
    muscles &= (below > length * rng.uniform(0.1, 0.4)) & (below < length * 0.9)
    return labels.astype(np.uint8), muscles


def _scan(
    rng: np.random.Generator, labels: np.ndarray, muscles: np.ndarray
) -> Float32[np.ndarray, "slices height width"]:
    """Bright blood, dark muscle, more or less; blood is of one brightness, and so is muscle."""
    means = rng.uniform(LOWEST, HIGHEST)
    blood, muscle = means[1], means[2]
    means[[3, 5]] = blood + rng.normal(0, 0.04, 2)
    means[4] = muscle
    images = np.where(muscles, muscle, means[labels]).astype(np.float32)
    shape = labels.shape
    texture = smooth_noise(rng, shape, (shape[0], shape[1] // 6, shape[2] // 6))[0]
    images += texture * np.float32(rng.uniform(0, 0.06))
    flow = smooth_noise(rng, shape, (shape[0], 8, 8))[0] * np.float32(rng.uniform(0, 0.08))
    images += np.where(np.isin(labels, (1, 3, 5)), flow, 0)
    images = ndimage.gaussian_filter(images, (rng.uniform(0, 0.4), *[rng.uniform(0.4, 1.0)] * 2))
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.04))
    return np.clip(images + noise, 0, 1).astype(np.float32)
