"""Two methods without networks that get the same clicks; they stand beside section III-C.

Both take the window's grey values in [0, 1] (of RGB the mean) of the whole volume. Voxels are
averaged in blocks, along the finest axis first, until at most MOST_VOXELS are left. The result is
enlarged linearly. A click seeds a disk on its slice; where disks overlap, the latest wins. The rim
of every slice is background too. The first and the last slice are not: scans cut through organs.

The constants were chosen for the mean DSC over six rounds of the simulated user, on an abdominal
CT and a head and neck CT: measured on these, the baselines are at an advantage. Means were
    random walker: 0.68, 0.71, 0.74, 0.69, 0.41 for an EDGE of 500, 2000, 5000, 10000, 20000;
        0.63 and 0.66 for a TOLERANCE of 0.03 and 0.001;
    geodesic: 0.74; 0.60, 0.72 for a RELUCTANCE_MM of 50, 200; 0.72, 0.74 for a LIKENESS of 0.1,
        0.3; 0.48, 0.72 for a CONTRAST of 0.01, 0.03; 0.72 with a square for the fourth power.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from skimage import segmentation
from skimage.graph import pixel_graph

from limnet.method.prompts import Click, check_inside
from limnet.volumes import Volume

Masks = Bool[np.ndarray, "slices height width"]
Images = Float32[np.ndarray, "slices height width"]  # in [0, 1], coarse
Seeds = Int8[np.ndarray, "slices height width"]

OBJECT, BACKGROUND = 1, 2  # seeds; 0 is for the segmenter to decide
MOST_VOXELS = 500_000
RADIUS = 2  # pixels of the coarse slice; the network's disks of 5 are wider than an aorta here

EDGE = 5000.0  # random walker: a step of d grey values is taken with a weight of exp(-EDGE d^2)
TOLERANCE = 0.01  # of the conjugate gradient, relative; to stop early keeps the walker near

CONTRAST = 0.02  # geodesic: grey values a step at which the way is twice as long
LIKENESS = 0.2  # standard deviation of the object's grey values
RELUCTANCE_MM = 100.0  # way from the background to a voxel as bright as the clicks


def random_walker(volume: Volume, clicks: Sequence[Click]) -> Masks:
    """Where a random walker comes to a positive click before the background (Grady, PAMI 2006).

    Returns:
        A bool mask (slices, height, width); empty while no click is positive.

    Raises:
        ValueError: a click is outside the volume.
    """
    return _segment(volume, clicks, _walk)


def geodesic(volume: Volume, clicks: Sequence[Click]) -> Masks:
    """What is nearer to a positive click than to the background, by paths that avoid edges.

    Criminisi, Sharp and Blake, "GeoS", ECCV 2008. A step of a path costs its mm, multiplied by
    1 + (d / CONTRAST)^4 for d grey values in between. Every voxel is a background seed too, at a
    cost that grows with its likeness to the clicked voxels.

    Returns:
        A bool mask (slices, height, width); empty while no click is positive.

    Raises:
        ValueError: a click is outside the volume.
    """
    return _segment(volume, clicks, _nearest)


def _segment(
    volume: Volume,
    clicks: Sequence[Click],
    solve: Callable[[Images, Seeds, Float64[np.ndarray, " 3"]], np.ndarray],
) -> Masks:
    """`solve` gives each coarse voxel's share of object in [0, 1]; clicked voxels are certain."""
    shape = volume.images.shape[:3]
    for click in clicks:
        check_inside(click, shape)
    images, factors = _coarse(volume)
    seeds = _seeds(clicks, images.shape, factors)
    masks = np.zeros(shape, dtype=bool)
    if (seeds == OBJECT).any():
        masks = _enlarge(solve(images, seeds, factors * volume.spacing_mm), factors, shape) > 0.5
    for click in clicks:
        masks[click.slice_index, int(click.row), int(click.column)] = click.positive
    return masks


def _walk(images: Images, seeds: Seeds, spacing_mm: Float64[np.ndarray, " 3"]) -> np.ndarray:
    if seeds.all():
        return seeds == OBJECT
    images = images.astype(np.float64)
    if images.min() == images.max():
        images[0, 0, 0] += 1e-6  # the solver divides by the standard deviation
    return segmentation.random_walker(
        images,
        seeds,
        beta=10 * images.std() * EDGE,  # of which the solver makes exp(-EDGE d^2)
        tol=TOLERANCE,
        prob_tol=np.inf,  # values a little beyond [0, 1] are expected from an early stop
        spacing=spacing_mm / spacing_mm.min(),
        return_full_prob=True,
    )[OBJECT - 1].clip(0, 1)


def _nearest(images: Images, seeds: Seeds, spacing_mm: Float64[np.ndarray, " 3"]) -> np.ndarray:
    def way_mm(first: np.ndarray, second: np.ndarray, step_mm: np.ndarray) -> np.ndarray:
        return step_mm * (1 + ((first - second) / CONTRAST) ** 4)

    images, everywhere = images.astype(np.float64), np.ones(images.shape, dtype=bool)
    ways, _ = pixel_graph(
        images, mask=everywhere, edge_function=way_mm, spacing=tuple(spacing_mm.tolist())
    )
    unlike = (images - np.median(images[seeds == OBJECT])) / LIKENESS
    entry_mm = RELUCTANCE_MM * np.exp(-(unlike.ravel() ** 2) / 2)
    # one node more: the background, from which every voxel can be entered
    voxels = np.arange(images.size)
    graph = csr_array(
        (
            np.concatenate([ways.data, entry_mm]),
            np.concatenate([ways.indices, voxels]),
            np.append(ways.indptr, ways.nnz + images.size),
        ),
        shape=(images.size + 1, images.size + 1),
    )
    starts = np.append(np.flatnonzero(seeds), images.size)
    _, _, nearest = dijkstra(graph, indices=starts, min_only=True, return_predecessors=True)
    return np.append(seeds.ravel(), BACKGROUND)[nearest[:-1]].reshape(images.shape) == OBJECT


def _coarse(volume: Volume) -> tuple[Images, Int64[np.ndarray, " 3"]]:
    """Mean grey values of blocks, and how many voxels a block spans along each axis."""
    images = np.concatenate([volume.rgb([i]).mean(axis=1) for i in range(len(volume.images))])
    shape, factors = np.array(images.shape), np.ones(3, dtype=int)
    while np.prod(-(-shape // factors)) > MOST_VOXELS:
        spacing_mm = np.where(factors < shape, factors * volume.spacing_mm, np.inf)
        factors[spacing_mm.argmin()] += 1
    means = ndimage.uniform_filter(images, factors, mode="nearest")
    return means[tuple(slice(factor // 2, None, factor) for factor in factors)], factors


def _seeds(
    clicks: Sequence[Click], shape: tuple[int, ...], factors: Int64[np.ndarray, " 3"]
) -> Seeds:
    seeds = np.zeros(shape, dtype=np.int8)
    seeds[:, [0, -1]] = seeds[:, :, [0, -1]] = BACKGROUND
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    for radius in (RADIUS, 0):  # the clicked pixel itself is under no other click's disk
        for click in clicks:
            voxel = np.array([click.slice_index, click.row, click.column], dtype=int)
            slice_index, row, column = np.minimum(voxel // factors, np.array(shape) - 1)
            disk = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            seeds[slice_index][disk] = OBJECT if click.positive else BACKGROUND
    return seeds


def _enlarge(
    share: np.ndarray, factors: Int64[np.ndarray, " 3"], shape: tuple[int, ...]
) -> Float32[np.ndarray, "slices height width"]:
    """Back to the volume's own voxels, linearly between the centres of the blocks."""
    centre = (factors - 1) / 2
    return ndimage.affine_transform(
        share.astype(np.float32),
        1 / factors,
        offset=-centre / factors,
        output_shape=shape,
        order=1,
        mode="nearest",
    )
