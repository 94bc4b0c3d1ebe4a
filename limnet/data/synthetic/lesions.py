"""Synthetic tumours in the phantoms: what the twins of KiTS19 and the Decathlon are labelled with.

A `field` says for every voxel about how many mm it lies inside a structure (negative outside).
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int16
from scipy import ndimage

from limnet.data.synthetic.abdomen import STRUCTURES, Phantom
from limnet.data.synthetic.patient import one_piece

Rng = np.random.Generator
Field = Float32[np.ndarray, "slices height width"]
VERSION = 1  # raise it when the same seed gives another lesion
EDGE_MM = 2.4  # over which one tissue gives way to the next, as in the phantoms
PLACES = 8  # tried for one lesion: it grows where it has most room
FAR_MM = 1e3
SOFT_TISSUE = (-50, 150)  # HU
GRAIN = (7, 16)  # HU, of the phantoms' scans; on a coarse grid no patch is even


@dataclass(frozen=True)
class Growth:
    """How the tumours of an organ look and grow."""

    radius_mm: tuple[float, float]
    depth: tuple[float, float]  # of their middle below the surface of the organ, in radii
    tissue: str  # whose HU they nearly have
    brightness: tuple[float, float]  # times that
    contents: tuple[str, ...] = ()  # what the organ holds
    around: tuple[str, ...] = ("fat",)  # what they may grow into


GROWTHS = {
    "lung": Growth((9.0, 17.0), (0.4, 2.0), "muscle", (0.6, 1.1), around=()),
    "colon": Growth((10.0, 15.0), (0.1, 0.6), "muscle", (1.0, 1.6), contents=("bowel gas",)),
    "pancreas": Growth((9.0, 15.0), (0.4, 1.0), "pancreas", (0.5, 0.75)),
} | {
    kidney: Growth((9.0, 18.0), (0.0, 0.8), kidney, (0.5, 0.75), around=("fat", "other vessels"))
    for kidney in ("right kidney", "left kidney")
}


def with_lesion(phantom: Phantom, organ: str, seed: int, label: int) -> Phantom:
    """The same patient with one irregular tumour in, or on the border of, an organ.

    The tumour takes `label` in `labels` and counts to its organ in `structures`; it is one piece
    about 15 to 45 mm wide and spares what is neither its organ nor soft around it.

    Args:
        organ: a structure of GROWTHS.
        seed: of the lesion; with the phantom it decides everything.
        label: 1 to 255, the lesion's id in `labels`.

    Raises:
        ValueError: the organ is not one of GROWTHS or not in the phantom.
    """
    if organ not in GROWTHS:
        raise ValueError(f"a lesion must be in one of {', '.join(GROWTHS)}; got {organ!r}")
    if not _made_of(phantom, organ).any():
        raise ValueError(
            f"a lesion needs its organ, but this phantom of {phantom.images.shape} voxels shows no"
            f" {organ}; take a grid that reaches it"
        )
    growth, rng = GROWTHS[organ], np.random.default_rng(seed)
    field = _field(phantom, organ, growth, rng)
    lesion = field > 0
    return replace(
        phantom,
        images=_images(phantom, growth, field, rng),
        labels=np.where(lesion, np.uint8(label), phantom.labels),
        structures=np.where(lesion, np.uint8(STRUCTURES[organ]), phantom.structures),
    )


def _made_of(phantom: Phantom, *names: str) -> Bool[np.ndarray, "slices height width"]:
    return np.isin(phantom.structures, [STRUCTURES[name] for name in names])


def _field(phantom: Phantom, organ: str, growth: Growth, rng: Rng) -> Field:
    """The field of one lesion, in the one of some places in the organ where most of it fits."""
    spacing_mm, shape = np.array(phantom.spacing_mm), phantom.images.shape
    radius_mm = rng.uniform(*growth.radius_mm)
    body = _body(radius_mm, spacing_mm, rng)
    room = _made_of(phantom, organ, *growth.contents, *growth.around)
    inside, outside = (
        ndimage.distance_transform_edt(side, sampling=spacing_mm) if not side.all() else FAR_MM
        for side in (room, ~room)
    )
    margins = np.array(body.shape) // 2
    pads = np.stack([margins, margins], axis=1)
    limit = np.pad((inside - outside).astype(np.float32), pads, constant_values=-FAR_MM)

    def at(voxel):
        box = tuple(map(slice, voxel, np.add(voxel, body.shape)))
        return box, np.minimum(body, limit[box])

    places = map(at, _places(phantom, organ, growth, radius_mm, rng))
    box, best = max(places, key=lambda place: np.count_nonzero(place[1] > 0))
    field = np.full_like(limit, -FAR_MM)
    field[box] = one_piece(best, -EDGE_MM)
    return field[tuple(map(slice, margins, np.add(margins, shape)))]


def _body(radius_mm: float, spacing_mm: np.ndarray, rng: Rng) -> Field:
    """The field of an ellipsoid with a bumpy surface, in a box of odd sizes around its middle."""
    radii = radius_mm * rng.uniform(0.8, 1.2, 3)[:, None, None, None]
    counts = np.ceil(1.6 * radius_mm / spacing_mm).astype(int)
    axes = [np.arange(-n, n + 1) * step for n, step in zip(counts, spacing_mm, strict=True)]
    scaled = np.array(np.meshgrid(*axes, indexing="ij")) / radii
    inner = np.sqrt((scaled**2).sum(axis=0)) + 1e-3
    slope = np.sqrt(((scaled / radii) ** 2).sum(axis=0)) + 1e-4
    bumps = 0.16 * radius_mm * _noise(inner.shape, 0.4 * radius_mm / spacing_mm, rng)
    return (inner * (1 - inner) / slope + bumps).astype(np.float32)


def _places(
    phantom: Phantom, organ: str, growth: Growth, radius_mm: float, rng: Rng
) -> list[list[int]]:
    """Voxels of the organ as deep in it as its tumours lie, or else its deepest ones."""
    whole = np.pad(_made_of(phantom, organ, *growth.contents), 1, mode="edge")
    depth = ndimage.distance_transform_edt(whole, sampling=phantom.spacing_mm)[1:-1, 1:-1, 1:-1]
    depth = np.where(_made_of(phantom, organ), depth, 0)
    low, high = np.multiply(growth.depth, radius_mm)
    voxels = np.argwhere((depth > low) & (depth <= high))
    if not len(voxels):
        voxels = np.argwhere(depth >= 0.9 * depth.max())
    return voxels[rng.integers(len(voxels), size=PLACES)].tolist()


def _images(
    phantom: Phantom, growth: Growth, field: np.ndarray, rng: Rng
) -> Int16[np.ndarray, "slices height width"]:
    """The scan with the lesion: soft edge, faint texture, darker core and the scan's own grain."""
    images, spacing_mm = phantom.images.astype(np.float32), np.array(phantom.spacing_mm)
    tissue_hu = np.median(images[_made_of(phantom, growth.tissue)])
    hu = float(tissue_hu) * rng.uniform(*growth.brightness)
    texture = 4 * _noise(images.shape, 4 / spacing_mm, rng)
    core = 8 * np.clip(field / 15, 0, 1)  # less blood reaches the middle
    grain = _noise(images.shape, (0.3, 0.6, 0.6), rng)
    grain -= ndimage.gaussian_filter(grain, (0, 3, 3))
    share = np.clip(field / EDGE_MM + 0.5, 0, 1)
    share = ndimage.gaussian_filter(share, (0.45, *(1.3 / spacing_mm[1:])))  # as the scan blurs
    images += share * (hu + texture - core + _grain_hu(images) * grain - images)
    return np.clip(np.rint(images), -1024, 3071).astype(np.int16)


def _grain_hu(images: Field) -> float:
    """The deviation of the noise in a scan, measured where its soft tissue is most even."""
    squares = ndimage.uniform_filter(images.astype(np.float64) ** 2, (1, 5, 5))
    variance = squares - ndimage.uniform_filter(images.astype(np.float64), (1, 5, 5)) ** 2
    low, high = SOFT_TISSUE
    even = np.quantile(variance[(images > low) & (images < high)], 0.1)
    return float(np.clip(np.sqrt(even), *GRAIN))


def _noise(shape: tuple[int, ...], sigma: np.ndarray | tuple[float, ...], rng: Rng) -> Field:
    """White noise smoothed by so many voxels, of unit deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return noise / (noise.std() + 1e-6)
