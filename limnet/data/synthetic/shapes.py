"""Volumes that no scanner ever saw: random shapes, and images of random appearance.

Domain randomisation after Billot et al. (SynthSeg, 2023) and Hoffmann et al. (SynthMorph, 2022):
a network that meets every contrast in training needs no particular one at test time.
"""

import math
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage
from torch.nn import functional

Labels = UInt8[np.ndarray, "slices height width"]
Images = Float32[np.ndarray, "slices height width"]
Masks = Bool[np.ndarray, "slices height width"]
Grid = list[np.ndarray]  # depth, row and column of every voxel, in pixels
Distance = np.ndarray  # of every voxel to the middle of a shape: below 1 is inside
Rng = np.random.Generator

MAX_REGIONS = 6  # background regions of one volume
MAX_SHAPES = 9  # foreground shapes of one volume, each with a core at most


def smooth_noise(
    rng: Rng, shape: tuple[int, ...], cells: tuple[int, ...], count: int = 1
) -> Float32[np.ndarray, "count slices height width"]:
    """Unit Gaussian noise on a coarse grid of `cells`, interpolated linearly to `shape`."""
    coarse = torch.from_numpy(rng.standard_normal((1, count, *cells), dtype=np.float32))
    fine = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    return fine[0].numpy()


def warped_grid(rng: Rng, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Depth, rows and columns in pixels of the slice plane, bent by two octaves of smooth noise."""
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


def _ellipsoid(rng: Rng, grid: Grid, size: float) -> Distance:
    """One that leans from slice to slice; now and then with a ragged border, as tumours have."""
    depth, row, column = _around(rng, grid, size)
    radii = size * np.exp(rng.normal(0, 0.35, 3))
    along, across = _turned(rng, row, column)
    slope = rng.normal(0, 0.4)
    distance = (depth / radii[0]) ** 2 + ((along - slope * depth) / radii[1]) ** 2
    distance += (across / radii[2]) ** 2
    if rng.random() < 0.2:
        cells = int(rng.integers(8, 24))
        ragged = smooth_noise(rng, depth.shape, (2 + depth.shape[0] // 3, cells, cells))[0]
        distance = distance * np.exp(np.float32(rng.uniform(0.2, 0.7)) * ragged)
    return distance


def _cluster(rng: Rng, grid: Grid, size: float) -> Distance:
    """Several ellipsoids that count as one: lesions, bones, parts of an organ."""
    parts = (_ellipsoid(rng, grid, 0.6 * size) for _ in range(rng.integers(2, 5)))
    return reduce(np.minimum, parts)


def _tube(rng: Rng, grid: Grid, size: float) -> Distance:
    """A tube that runs through the slices, or, thinner, within them."""
    radius = max(size * rng.uniform(0.2, 0.6), 2.0)
    depth, row, column = _around(rng, grid, size)
    if rng.random() < 0.7:
        drift = rng.normal(0, 0.6, 2)
        distance = (row - drift[0] * depth) ** 2 + (column - drift[1] * depth) ** 2
    else:
        along, across = _turned(rng, row, column)
        bent = across - rng.normal(0, 0.01) * along**2
        distance = bent**2 + depth**2 + np.maximum(np.abs(along) - 4 * size, 0) ** 2
    return distance / radius**2


def _tree(rng: Rng, grid: Grid, size: float) -> Distance:
    """Branches from one trunk, each thinner than the one it leaves: vessels, airways."""
    place = np.stack(_around(rng, grid, size))
    starts, distance = [(np.zeros(3), rng.normal(0, 1, 3), 0.3 * size)], None
    for _ in range(rng.integers(3, 7)):
        origin, heading, radius = starts.pop(0)
        step = (heading / np.linalg.norm(heading) * size * rng.uniform(0.8, 2.0))[:, None, None]
        step = step[..., None].astype(np.float32)
        offset = place - origin[:, None, None, None].astype(np.float32)
        share = np.clip((offset * step).sum(0) / (step**2).sum(), 0, 1)
        branch = ((offset - share * step) ** 2).sum(0) / np.float32(max(radius, 1.3) ** 2)
        distance = branch if distance is None else np.minimum(distance, branch)
        end = origin + step.ravel()
        starts += [(end, heading + rng.normal(0, 0.8, 3), 0.75 * radius) for _ in range(2)]
    return distance


def _sheet(rng: Rng, grid: Grid, size: float) -> Distance:
    """A thin curved layer: walls, cartilage, cortex."""
    depth, row, column = _around(rng, grid, size)
    along, across = _turned(rng, row, column)
    bent = across - rng.normal(0, 0.5) / size * along**2 - rng.normal(0, 0.3) * depth
    thickness = max(size * rng.uniform(0.06, 0.2), 1.5)
    return np.maximum((bent / thickness) ** 2, (along**2 + depth**2) / (1.5 * size) ** 2)


def _network(rng: Rng, grid: Grid, size: float) -> Distance:
    """Thin branches all over the slice, as the vessels of a retina; the same through the slices."""
    shape = grid[0].shape[1:]
    reach = max(size, 0.12 * shape[0])
    drawn = np.full((len(NETWORK_RADII), *shape), True)
    trunk = rng.uniform(0, 1, 2) * shape
    starts = [(trunk, rng.uniform(0, 2 * math.pi), 0) for _ in range(rng.integers(1, 5))]
    for _ in range(rng.integers(15, 60)):
        origin, heading, level = starts.pop(int(rng.integers(len(starts))))
        length = max(1, int(rng.uniform(0.5, 2.5) * reach))
        headings = heading + rng.normal(0, 0.15, length).cumsum()
        path = origin + np.stack([np.sin(headings), np.cos(headings)], 1).cumsum(0)
        rows, columns = path.astype(int)[((path >= 0) & (path < shape)).all(axis=1)].T
        drawn[level, rows, columns] = False
        thinner = min(level + int(rng.integers(2)), len(NETWORK_RADII) - 1)
        ends = [path[-1], path[-1], path[len(path) // 2]]
        starts += [(end, headings[-1] + rng.normal(0, 0.6), thinner) for end in ends]
    layers = (
        (ndimage.distance_transform_edt(each) / radius) ** 2
        for each, radius in zip(drawn, NETWORK_RADII, strict=True)
        if not each.all()
    )
    plane = reduce(np.minimum, layers, np.full(shape, np.inf)).astype(np.float32)
    return plane[tuple(np.clip(np.rint(grid[n + 1]), 0, shape[n] - 1).astype(int) for n in (0, 1))]


def _fold(rng: Rng, grid: Grid, size: float) -> Distance:
    """A band that winds through a part of the slice: a brain's cortex, loops of a bowel."""
    depth, row, column = _around(rng, grid, size)
    cells = int(np.clip(rng.uniform(1, 2.5) * depth.shape[1] / size, 4, 20))
    noise = smooth_noise(rng, depth.shape, (2 + depth.shape[0] // 8, cells, cells))[0]
    extent = (depth**2 + row**2 + column**2) / (2.5 * size) ** 2
    return np.maximum((noise / np.float32(rng.uniform(0.15, 0.5))) ** 2, extent)


SHAPES = (_ellipsoid, _cluster, _tube, _tree, _sheet, _network, _fold)
SHAPES_SHARES = (0.46, 0.1, 0.18, 0.09, 0.09, 0.04, 0.04)
NETWORK_RADII = (2.6, 1.8, 1.2)  # pixels, of branches after none, one and more divisions
LEAST_SIZE, MOST_SIZE = 0.04, 0.45  # of the radius of a shape, of the height of the slice


def random_shape(rng: Rng, grid: Grid, size: float) -> Distance:
    """A shape of about `size` pixels' radius somewhere in the grid."""
    return SHAPES[rng.choice(len(SHAPES), p=SHAPES_SHARES)](rng, grid, size)


def random_size(rng: Rng, height: int, most: float = MOST_SIZE) -> float:
    """Pixels, up to a share of the slice's height; small ones are as likely as large ones."""
    return height * math.exp(rng.uniform(math.log(LEAST_SIZE), math.log(most)))


def _around(rng: Rng, grid: Grid, size: float) -> Grid:
    """The grid as seen from a random place near the middle slices."""
    height, width = grid[0].shape[1:]
    centre = (rng.normal(0, size), rng.uniform(0, height), rng.uniform(0, width))
    return [axis - np.float32(at) for axis, at in zip(grid, centre, strict=True)]


def _turned(rng: Rng, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a random direction of the slice plane."""
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * row + sine * column, cosine * column - sine * row


def random_shapes(rng: Rng, shape: tuple[int, int, int]) -> tuple[Labels, int]:
    """Labels of touching background regions with shapes over them, and the first shape's label.

    Shapes appear, deform, split, merge and vanish along the slices. Some are hollow, and some of
    these have a core of their own label, as a heart's wall has its chamber.
    """
    grid = warped_grid(rng, shape)
    labels, first = random_regions(rng, shape)
    label = first
    for _ in range(rng.integers(2, MAX_SHAPES + 1)):
        distance = random_shape(rng, grid, random_size(rng, shape[1]))
        core = distance < (rng.uniform(0.3, 0.85) ** 2 if rng.random() < 0.3 else 0)
        filled = rng.random() < 0.6
        labels[(distance < 1) & ~core] = label
        if filled and core.any():
            label += 1
            labels[core] = label
        label += 1
    return labels, first


def random_regions(rng: Rng, shape: tuple[int, int, int]) -> tuple[Labels, int]:
    """Labels of touching regions that go on from slice to slice, and how many there are."""
    regions, cells = int(rng.integers(2, MAX_REGIONS + 1)), int(rng.integers(2, 7))
    depth = 2 + shape[0] // 8
    noise = smooth_noise(rng, shape, (depth, cells, cells), regions)
    return noise.argmax(0).astype(np.uint8), regions


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur within each slice (partial volume, reconstruction kernel)."""
    radius = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).float()
    tensor = functional.pad(torch.from_numpy(images)[:, None], (radius,) * 4, mode="replicate")
    tensor = functional.conv2d(tensor, taps.view(1, 1, -1, 1))
    return functional.conv2d(tensor, taps.view(1, 1, 1, -1))[:, 0].numpy()


def random_appearance(rng: Rng, labels: Labels) -> Images:
    """An image in [0, 1] in which every label has its own mean, texture and noise.

    Half the time what is not labelled (0) falls into regions of its own.
    """
    shape = labels.shape
    if (labels == 0).any() and rng.random() < 0.5:
        labels = np.where(labels == 0, labels.max() + 1 + random_regions(rng, shape)[0], labels)
    count = int(labels.max()) + 1
    spread = rng.choice([1.0, 0.5, 0.25])  # often clustered: neighbours differ by little
    means = np.clip(rng.uniform(0, 1) * (1 - spread) + spread * rng.uniform(0, 1, count), 0, 1)
    images = means.astype(np.float32)[labels]
    texture = rng.uniform(0, 0.10, count) * (rng.random(count) < 0.6)
    cells = (max(2, shape[0] // 2), int(shape[1] / rng.uniform(4, 12)), shape[2] // 8)
    images += smooth_noise(rng, shape, cells)[0] * texture.astype(np.float32)[labels]
    return degrade(rng, images)


def paint_shape(rng: Rng, images: Images) -> tuple[Images, Masks]:
    """Images in [0, 1] with a shape over them that they do not show, and where it is.

    A lesion in real tissue: some of what is below shines through, and the border is soft. A third
    are walls around something else, as of a heart or a bowel.
    """
    size = random_size(rng, images.shape[1], most=0.2)
    distance = random_shape(rng, warped_grid(rng, images.shape), size)
    inside = distance < 1
    if not inside.any():
        return images, inside
    if rng.random() < 0.33:
        core = distance < rng.uniform(0.4, 0.85) ** 2
        images, inside = _painted(rng, images, core) if core.any() else images, inside & ~core
    return _painted(rng, images, inside), inside


def _painted(rng: Rng, images: Images, inside: Masks) -> Images:
    """The images with an intensity of its own inside."""
    if not inside.any():
        return images
    share = _blur(inside.astype(np.float32), rng.uniform(0.4, 1.2))
    below = images[inside]
    contrast = max(rng.uniform(0.08, 0.5), 0.7 * float(below.std()))
    mean = float(below.mean())
    sign = 1 if rng.random() < 1 - mean else -1
    texture = smooth_noise(rng, images.shape, (2, 16, 16))[0] * np.float32(rng.uniform(0, 0.06))
    through = np.float32(rng.uniform(0, 0.7))
    painted = mean + sign * contrast + through * (images - mean) + texture
    return np.clip(images + share * (painted - images), 0, 1).astype(np.float32)


def radiograph(rng: Rng, shape: tuple[int, int, int]) -> tuple[Images, Masks]:
    """Shapes that lie over each other, as X-rays show them, and where one of them is.

    Each adds or takes away its thickness along the ray; some are hollow.
    """
    grid, bodies = warped_grid(rng, shape), []
    images = smooth_noise(rng, shape, (2, 4, 4))[0] * np.float32(rng.uniform(0, 0.3))
    for _ in range(rng.integers(4, 13)):
        distance = random_shape(rng, grid, random_size(rng, shape[1]))
        thickness = np.clip(1 - distance, 0, 1) ** np.float32(rng.uniform(0.2, 0.6))
        if rng.random() < 0.3:
            inner = rng.uniform(0.5, 0.9)
            thickness -= inner * np.sqrt(np.clip(1 - distance / inner**2, 0, 1))
        images += np.float32(rng.choice([-1, 1]) * rng.uniform(0.2, 1.2)) * thickness
        bodies.append(distance < 1)
    areas = np.sqrt([np.count_nonzero(body[0]) + 1e-3 for body in bodies])
    return degrade(rng, images), bodies[rng.choice(len(bodies), p=areas / areas.sum())]


def field_of_view(rng: Rng, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """What a scanner shows of a slice: a disk, a fan or a box, the rest of the picture is black."""
    row, column = np.mgrid[: shape[0], : shape[1]] / np.reshape(shape, (2, 1, 1)) - 0.5
    row, column = row - rng.normal(0, 0.05), column - rng.normal(0, 0.05)
    radii = rng.uniform(0.35, 0.6, 2)
    kind = rng.random()
    if kind < 0.4:
        return (row / radii[0]) ** 2 + (column / radii[1]) ** 2 < 1
    if kind < 0.7:  # of an ultrasound probe above
        far = np.hypot(row + 0.5, column)
        return (far < 2 * radii[0]) & (np.abs(column) < (row + 0.5) * rng.uniform(0.5, 1.2))
    return (np.abs(row) < radii[0]) & (np.abs(column) < radii[1])


def degrade(rng: Rng, images: Images) -> Images:
    """The image as another scanner would have made it: curve, blur, bias, noise, gamma."""
    shape = images.shape
    if rng.random() < 0.2:  # a random curve, half of them steady (Models Genesis)
        heights = rng.uniform(0, 1, 6)
        if rng.random() < 0.5:
            heights = np.sort(heights)[:: rng.choice([-1, 1])]
        images = np.interp(images, np.linspace(0, 1, 6), heights).astype(np.float32)
    if rng.random() < 0.8:
        images = _blur(np.ascontiguousarray(images), rng.uniform(0.4, 1.3))
    if rng.random() < 0.4:
        bias = smooth_noise(rng, shape, (2, 3, 3))[0]
        images = images * np.exp(np.float32(rng.uniform(0, 0.25)) * bias)
    if rng.random() < 0.08:  # speckle, as of ultrasound
        waves = rng.standard_normal((2, *shape), dtype=np.float32)
        images = images * np.hypot(*(_blur(wave, rng.uniform(0.6, 1.5)) for wave in waves))
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
