"""Training sequences: consecutive slices with one target, cropped from labelled volumes (III-B).

The first slice always shows the target, so that a sequence is one pass of propagation; any of its
slices that show the target is a sample for the click network.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from limnet.data import Case, collection_cases
from limnet.data.synthetic.abdomen import STRUCTURES, abdomen
from limnet.data.synthetic.heart import CHAMBERS, heart
from limnet.data.synthetic.shapes import (
    degrade,
    field_of_view,
    paint_shape,
    radiograph,
    random_appearance,
    random_shapes,
)
from limnet.volumes import CT_WINDOWS

Rng = np.random.Generator
Labels = UInt8[np.ndarray, "slices height width"]

MIN_AREA = 16  # pixels of the target on the first slice
# thin and thick slices in turn, (shape, spacing in mm)
PHANTOM_GRIDS = (((64, 144, 144), (3.0, 2.7, 2.7)), ((40, 168, 168), (5.0, 2.3, 2.3)))
NO_TARGETS = ("skin", "fat", "muscle", "bone", "cartilage", "lung", "bowel gas", "other vessels")


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A volume to cut sequences from."""

    labels: Labels
    targets: tuple[int, ...]  # labels that may become the target
    images: np.ndarray | None = None  # raw intensities; None: appearance is always synthesised
    window: tuple[float, float] = (0.0, 1.0)  # intensities shown as 0 and 1

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("a labelled volume needs at least one target label, got none")
        if self.images is not None and self.images.shape != self.labels.shape:
            shapes = f"{self.images.shape} and {self.labels.shape}"
            raise ValueError(f"images and labels must have one shape, got {shapes}")


class SliceSequence(NamedTuple):
    """What one training step follows through the slices."""

    images: Float32[Tensor, "slices height width"]  # in [0, 1]
    target: Bool[Tensor, "slices height width"]


@dataclass(frozen=True)
class SequenceOptions:
    """How sequences are drawn."""

    length: int = 6  # slices
    size: int = 128  # pixels a side
    shapes_share: float = 0.45  # of the sequences show random shapes
    synthetic_share: float = 0.35  # of the cropped ones get a random appearance
    fitted_share: float = 0.4  # of the cropped ones are about as large as the target, as zoom-in is
    painted_share: float = 0.25  # of those with a real image follow a shape painted over it
    joined_share: float = 0.1  # follow two labels that touch: an organ and its tumour, say
    still_share: float = 0.12  # of the cropped ones repeat one slice under a drifting affine map
    radiograph_share: float = 0.15  # of the random shapes lie over each other, as in X-rays
    wide_share: float = 0.15  # of the real images have a window so wide that tissues differ little
    framed_share: float = 0.12  # of the sequences are black outside a field of view


def sequence_stream(
    rng: Rng, volumes: Sequence[LabelledVolume], options: SequenceOptions | None = None
) -> Iterator[SliceSequence]:
    """Sequences without end; equal generators give equal streams."""
    options = options or SequenceOptions()
    while True:
        if not volumes or rng.random() < options.shapes_share:
            sequence = shapes_sequence(rng, options)
        else:
            sequence = cropped_sequence(rng, volumes[rng.integers(len(volumes))], options)
        if rng.random() < options.framed_share:
            field = torch.from_numpy(field_of_view(rng, sequence.target.shape[1:]))
            sequence = SliceSequence(sequence.images * field, sequence.target & field)
        if sequence.target[0].sum() >= MIN_AREA:
            yield sequence


def shapes_sequence(rng: Rng, options: SequenceOptions) -> SliceSequence:
    """One of the random shapes that the first slice shows, or now and then a region."""
    shape = (options.length, options.size, options.size)
    if rng.random() < options.radiograph_share:
        return SliceSequence(*map(torch.from_numpy, radiograph(rng, shape)))
    labels, first = random_shapes(rng, shape)
    areas = np.bincount(labels[0].ravel(), minlength=int(labels.max()) + 1)
    if rng.random() < 0.8:
        areas[:first] = 0
    shown = np.flatnonzero(areas >= MIN_AREA)
    weights = np.sqrt(areas[shown])  # the larger, the likelier, as what a view is fitted to
    label = int(rng.choice(shown, p=weights / weights.sum())) if len(shown) else 255
    target = _target(rng, labels, label, range(first, 255), options)
    images = random_appearance(rng, labels)
    return SliceSequence(torch.from_numpy(images), torch.from_numpy(target))


def cropped_sequence(rng: Rng, volume: LabelledVolume, options: SequenceOptions) -> SliceSequence:
    """A crop around a random target voxel, rotated, scaled, mirrored, in either direction."""
    label, centre = _target_voxel(rng, volume)
    still = rng.random() < options.still_share
    indices = _slice_indices(rng, int(centre[0]), volume.labels.shape[0], options.length, still)
    if rng.random() < options.fitted_share:
        view = _view_of(rng, volume.labels[centre[0]] == label)
    else:
        view = _view_around(rng, centre[1:], max(volume.labels.shape[1:]))
    grid = _sampling_grid(rng, view, volume.labels.shape[1:], options, still)
    labels = _sample(volume.labels[indices].astype(np.float32), grid, "nearest")
    labels = labels.numpy().astype(np.uint8)
    if volume.images is None or rng.random() < options.synthetic_share:
        images = random_appearance(rng, labels)
    else:
        low, high = volume.window
        jitter = rng.uniform(-0.15, 0.15), rng.uniform(-0.2, 0.4)
        if rng.random() < options.wide_share:
            jitter = rng.uniform(-2.0, 0.0), rng.uniform(0.0, 2.0)
        low, high = low + jitter[0] * (high - low), high + jitter[1] * (high - low)
        images = _sample(np.asarray(volume.images[indices], dtype=np.float32), grid, "bilinear")
        images = ((images - low) / max(high - low, 1e-6)).clamp(0, 1).numpy()
        if not still and rng.random() < options.painted_share:
            images, inside = paint_shape(rng, images)
            labels, label = inside.astype(np.uint8), 1
        if rng.random() < 0.5:
            images = degrade(rng, images)
    target = _target(rng, labels, label, volume.targets, options)
    return SliceSequence(torch.from_numpy(images), torch.from_numpy(target))


def _target(
    rng: Rng, labels: Labels, label: int, targets: Sequence[int], options: SequenceOptions
) -> Bool[np.ndarray, "slices height width"]:
    """Where the label is; now and then with another one of the targets, which it touches."""
    target = labels == label
    if rng.random() < options.joined_share:
        rim = ndimage.binary_dilation(target, np.ones((1, 3, 3))) & ~target
        touching = labels[rim]
        touching = touching[np.isin(touching, targets)]
        if len(touching):  # the longer their border, the likelier
            target |= labels == rng.choice(touching)
    return target


def _target_voxel(rng: Rng, volume: LabelledVolume) -> tuple[int, Int[np.ndarray, "3"]]:
    """A target label, every one as likely, and one of its voxels."""
    for label in rng.permutation(volume.targets):
        voxels = np.flatnonzero(volume.labels.ravel() == label)
        if len(voxels):
            return int(label), np.array(np.unravel_index(rng.choice(voxels), volume.labels.shape))
    raise ValueError(f"none of the target labels {volume.targets} is in the label map")


def _slice_indices(
    rng: Rng, start: int, slices: int, length: int, still: bool
) -> Int[np.ndarray, " length"]:
    """From `start` up or down; at the end of the volume the sequence turns round."""
    if still:
        return np.full(length, start)
    step = int(rng.choice([1, 1, 2])) * int(rng.choice([-1, 1]))
    indices = start + step * np.arange(length)
    period = max(2 * (slices - 1), 1)
    indices = np.abs(indices) % period
    return np.minimum(indices, period - indices) if slices > 1 else np.zeros(length, dtype=int)


View = tuple[float, float, float]  # row and column of a square's centre, and its side; pixels


def _view_around(rng: Rng, centre: Int[np.ndarray, "2"], side: int) -> View:
    """A view of any size that holds the point somewhere."""
    field = math.exp(rng.uniform(math.log(max(20.0, 0.25 * side)), math.log(1.15 * side)))
    row, column = centre + rng.uniform(-0.35, 0.35, 2) * field
    return row, column, field


def _view_of(rng: Rng, target: Bool[np.ndarray, "height width"]) -> View:
    """A view with the target in its middle and some room around it."""
    extents = [np.flatnonzero(target.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    extent = max(last - first + 1 for first, last in extents)
    field = max(20.0, extent * math.exp(rng.uniform(math.log(1.15), math.log(3.0))))
    row, column = (ends.mean() + rng.uniform(-0.12, 0.12) * field for ends in extents)
    return row, column, field


def _sampling_grid(
    rng: Rng, view: View, plane: tuple[int, int], options: SequenceOptions, still: bool
) -> Float32[Tensor, "slices height width 2"]:
    """Where in the source slice, in [-1, 1], each pixel of the crop comes from."""
    angle, mirror = rng.normal(0, 0.2), rng.choice([-1.0, 1.0])
    drift = 1.0 if still else 0.15  # patients move a little, copies of one slice a lot
    steps = np.arange(options.length) * drift
    row, column, field = view
    angles = angle + steps * rng.normal(0, 0.04)
    fields = field * np.exp(steps * rng.normal(0, 0.03))
    rows = row + steps * rng.normal(0, 0.02) * field
    columns = column + steps * rng.normal(0, 0.02) * field
    height, width = plane
    cosine, sine = np.cos(angles) * fields, np.sin(angles) * fields
    across = np.stack([mirror * cosine, -sine, 2 * columns + 1 - width], 1) / width
    down = np.stack([mirror * sine, cosine, 2 * rows + 1 - height], 1) / height
    theta = np.stack([across, down], axis=1)
    shape = (options.length, 1, options.size, options.size)
    return functional.affine_grid(torch.from_numpy(theta).float(), list(shape), align_corners=False)


def _sample(
    slices: Float32[np.ndarray, "slices height width"],
    grid: Float32[Tensor, "slices rows columns 2"],
    mode: str,
) -> Float32[Tensor, "slices rows columns"]:
    """Slices resampled on the grid; beyond their border the nearest pixel goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(slices))[:, None]
    return functional.grid_sample(tensor, grid, mode, "border", align_corners=False)[:, 0]


def phantom_volumes(seeds: Iterable[int]) -> list[LabelledVolume]:
    """Synthetic abdomens, with thick slices for odd seeds and thin ones for even seeds."""
    targets = tuple(label for name, label in STRUCTURES.items() if name not in NO_TARGETS)
    window = tuple(float(edge) for edge in CT_WINDOWS["abdomen"])
    grids = ((seed, *PHANTOM_GRIDS[seed % 2]) for seed in seeds)
    patients = (abdomen(seed, shape=shape, spacing_mm=spacing) for seed, shape, spacing in grids)
    return [LabelledVolume(each.structures, targets, each.images, window) for each in patients]


def heart_volumes(seeds: Iterable[int]) -> list[LabelledVolume]:
    """Synthetic hearts: two ventricles and the ring of muscle around one of them."""
    hearts = [heart(seed) for seed in seeds]
    return [LabelledVolume(each.labels, tuple(CHAMBERS.values()), each.images) for each in hearts]


def collection_volumes(data_root: str | Path) -> list[LabelledVolume]:
    """Every case in a data folder that may train weights and does not validate them."""
    cases = collection_cases(data_root)
    cases = [case for case in cases if case.trainable and not case.held_out]
    return [volume for case in cases if (volume := _labelled_volume(case)) is not None]


def _labelled_volume(case: Case) -> LabelledVolume | None:
    """The case with its labels numbered anew; None if it shows nothing that could be a target."""
    if case.image is None:
        labels, images, window = case.load_labels(), None, (0.0, 1.0)
    else:
        volume, labels = case.load()
        images = volume.images if volume.modality != "RGB" else volume.images.mean(axis=-1)
        window = tuple(float(edge) for edge in volume.window)
    for name in set(case.labels) - set(case.anatomy):
        labels[case.target(labels, name)] = 0
    found, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(labels.shape).astype(np.uint8)
    if len(found) < 2:
        return None
    return LabelledVolume(labels, tuple(range(1, len(found))), images, window)
