"""Volumes that no scanner ever saw: random shapes, and images of random appearance.

Domain randomisation after Billot et al. (SynthSeg, 2023) and Hoffmann et al. (SynthMorph, 2022):
a network that meets every contrast in training needs no particular one at test time.
"""

import math

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn import functional

Labels = UInt8[np.ndarray, "slices height width"]
Images = Float32[np.ndarray, "slices height width"]

MAX_REGIONS = 6  # background regions of one volume
MAX_SHAPES = 9  # foreground shapes of one volume


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...], count: int = 1
) -> Float32[np.ndarray, "count slices height width"]:
    """Unit Gaussian noise on a coarse grid of `cells`, interpolated linearly to `shape`."""
    coarse = torch.from_numpy(rng.standard_normal((1, count, *cells), dtype=np.float32))
    return functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[
        0
    ].numpy()


def _warped_grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Coordinates in pixels of the slice plane, bent by two octaves of smooth noise."""
    slices, height, width = shape
    gap = rng.uniform(0.8, 5.0)  # slice spacing in pixels: volumes are anisotropic
    grid = np.meshgrid(
        (np.arange(slices, dtype=np.float32) - slices / 2) * np.float32(gap),
        np.arange(height, dtype=np.float32),
        np.arange(width, dtype=np.float32),
        indexing="ij",
    )
    depth = max(2, math.ceil(slices * gap / 24))
    coarse = smooth_noise(rng, shape, (depth, 4, 4), 3) * rng.uniform(0, 0.09) * height
    fine = smooth_noise(rng, shape, (depth, 12, 12), 3) * rng.uniform(0, 0.03) * height
    return [axis + bend for axis, bend in zip(grid, coarse + fine, strict=True)]


def _ellipsoid(rng: np.random.Generator, grid: list[np.ndarray], size: float) -> np.ndarray:
    """Below 1 inside; with some probability hollow, like a vessel wall or a heart muscle."""
    height, width = grid[0].shape[1:]
    centre = (rng.normal(0, size), rng.uniform(0, height), rng.uniform(0, width))
    radii = size * np.exp(rng.normal(0, 0.35, 3))
    angle = rng.uniform(0, math.pi)
    depth, row, column = (axis - at for axis, at in zip(grid, centre, strict=True))
    along = math.cos(angle) * row + math.sin(angle) * column
    across = math.cos(angle) * column - math.sin(angle) * row
    slope = rng.normal(0, 0.4)  # leans from slice to slice
    distance = (
        (depth / radii[0]) ** 2
        + ((along - slope * depth) / radii[1]) ** 2
        + (across / radii[2]) ** 2
    )
    if rng.random() < 0.2:
        inner = rng.uniform(0.3, 0.75) ** 2
        return np.where(distance < inner, np.float32(2), distance)
    return distance


def _tube(rng: np.random.Generator, grid: list[np.ndarray], size: float) -> np.ndarray:
    """Below 1 inside a tube that runs through the slices, or, thinner, within them."""
    height, width = grid[0].shape[1:]
    radius = max(size * rng.uniform(0.2, 0.6), 2.0)
    centre = (rng.normal(0, size), rng.uniform(0, height), rng.uniform(0, width))
    depth, row, column = (axis - at for axis, at in zip(grid, centre, strict=True))
    if rng.random() < 0.7:
        drift = rng.normal(0, 0.6, 2)
        distance = (row - drift[0] * depth) ** 2 + (column - drift[1] * depth) ** 2
    else:
        angle = rng.uniform(0, math.pi)
        across = math.cos(angle) * column - math.sin(angle) * row
        along = math.cos(angle) * row + math.sin(angle) * column
        bent = across - rng.normal(0, 0.01) * along**2
        distance = bent**2 + depth**2 + np.maximum(np.abs(along) - 4 * size, 0) ** 2
    return distance / radius**2


def random_shapes(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Labels, int]:
    """Labels of touching background regions with shapes over them, and the first shape's label.

    Shapes appear, deform, split, merge and vanish along the slices.
    """
    grid = _warped_grid(rng, shape)
    regions = int(rng.integers(2, MAX_REGIONS + 1))
    cells = int(rng.integers(2, 7))
    depth = 2 + shape[0] // 8  # regions go on from slice to slice
    labels = smooth_noise(rng, shape, (depth, cells, cells), regions).argmax(0).astype(np.uint8)
    for label in range(regions, regions + int(rng.integers(2, MAX_SHAPES + 1))):
        size = shape[1] * math.exp(rng.uniform(math.log(0.04), math.log(0.28)))
        draw = _tube if rng.random() < 0.3 else _ellipsoid
        labels[draw(rng, grid, size) < 1] = label
    return labels, regions


def _means(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mean intensity of each label; often clustered, so that neighbours differ by little."""
    spread = rng.choice([1.0, 0.5, 0.25])
    return np.clip(rng.uniform(0, 1) * (1 - spread) + spread * rng.uniform(0, 1, count), 0, 1)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur within each slice (partial volume, reconstruction kernel)."""
    radius = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).float()
    tensor = functional.pad(torch.from_numpy(images)[:, None], (radius,) * 4, mode="replicate")
    tensor = functional.conv2d(tensor, taps.view(1, 1, -1, 1))
    return functional.conv2d(tensor, taps.view(1, 1, 1, -1))[:, 0].numpy()


def random_appearance(rng: np.random.Generator, labels: Labels) -> Images:
    """An image in [0, 1] in which every label has its own mean, texture and noise."""
    count = int(labels.max()) + 1
    shape = labels.shape
    images = _means(rng, count).astype(np.float32)[labels]
    texture = rng.uniform(0, 0.10, count) * (rng.random(count) < 0.6)
    cells = (max(2, shape[0] // 2), int(shape[1] / rng.uniform(4, 12)), shape[2] // 8)
    images += smooth_noise(rng, shape, cells)[0] * texture.astype(np.float32)[labels]
    return degrade(rng, images)


def degrade(rng: np.random.Generator, images: Images) -> Images:
    """The image as another scanner would have made it: blur, bias, noise, gamma, inversion."""
    shape = images.shape
    if rng.random() < 0.8:
        images = _blur(np.ascontiguousarray(images), rng.uniform(0.4, 1.3))
    if rng.random() < 0.4:
        bias = smooth_noise(rng, shape, (2, 3, 3))[0]
        images = images * np.exp(np.float32(rng.uniform(0, 0.25)) * bias)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.5:  # grain: reconstructed images have correlated noise
        noise = _blur(noise, rng.uniform(0.5, 1.0)) * np.float32(2)
    images = images + noise * np.float32(rng.uniform(0, 0.35) * images.std())
    low, high = images.min(), images.max()
    images = (images - low) / max(high - low, np.float32(1e-6))
    images = images ** np.float32(math.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.3:
        images = 1 - images
    return np.ascontiguousarray(images, dtype=np.float32)
