"""Voxels that stay in their file until a slice of them is asked for."""

import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from nibabel.arrayproxy import ArrayProxy
from nibabel.volumeutils import apply_read_scaling

LARGE = 1 << 30  # bytes of voxels; beyond, they stay in their file and only a sample is hashed
PLANES = 32  # of a large volume that are looked at for its window and its digest
SAMPLE = 1_000_000  # voxels for the window
PAGE = 4096  # bytes that are read at once
MOST_PAGES = 1 << 15  # for one image on the screen; on a disk that seeks they take seconds


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Voxels in a file that are not as they are used: scaled, of another byte order, or fractions.

    What is indexed is read, scaled and checked; `numpy.asarray` reads all.
    """

    stored: np.ndarray  # a view of the memory map
    slope: float = 1.0
    inter: float = 0.0
    source: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    @property
    def size(self) -> int:
        return self.stored.size

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype:
        """As of a volume in memory: float32 where there may be fractions."""
        kind, is_scaled = self.stored.dtype.kind, (self.slope, self.inter) != (1, 0)
        is_float = kind == "f" or (kind in "ui" and is_scaled)
        return np.dtype(np.float32) if is_float else self.stored.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, place: Any) -> np.ndarray:
        """Voxels as NumPy's indexing chooses them, read and converted.

        Raises:
            ValueError: one of them is not a finite number.
        """
        with np.errstate(over="ignore"):  # too large for float32 is infinite, refused below
            voxels = np.asarray(self.stored[place])
            if (self.slope, self.inter) != (1, 0):
                voxels = apply_read_scaling(voxels, np.array(self.slope), np.array(self.inter))
            voxels = voxels.astype(self.dtype, copy=False)
        check_finite(voxels, self.source)
        return voxels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All voxels: what NumPy asks for."""
        return np.asarray(self[...], dtype=dtype)


Images = Num[np.ndarray, "slices height width *rgb"] | LazyImages


def map_voxels(path: Path, proxy: ArrayProxy) -> np.ndarray | LazyImages:
    """The voxels of an uncompressed NIfTI in the file's order; nothing is read.

    Raises:
        ValueError: the file is too short for them.
    """
    size, needed = path.stat().st_size, proxy.offset + math.prod(proxy.shape) * proxy.dtype.itemsize
    if size < needed:
        raise ValueError(f"it is cut off: its header tells of {needed} bytes, but there are {size}")
    shape = proxy.shape[:3]  # a fourth axis is a single channel
    stored = np.memmap(path, proxy.dtype, "r", proxy.offset, shape, order="F")
    return as_used(stored, float(proxy.slope), float(proxy.inter), path)


def as_used(
    stored: np.memmap, slope: float = 1.0, inter: float = 0.0, source: Path | None = None
) -> np.ndarray | LazyImages:
    """A memory map itself where its numbers can be used as they are, else with their conversion."""
    is_plain = stored.dtype.kind in "ui" and stored.dtype.isnative and (slope, inter) == (1, 0)
    return stored if is_plain else LazyImages(stored, slope, inter, source)


def is_mapped(images: np.ndarray | LazyImages) -> bool:
    """Whether the voxels are in a file: what was computed of a memory map is not."""
    return isinstance(images, LazyImages) or getattr(images, "filename", None) is not None


def check_finite(voxels: np.ndarray, source: Path | None) -> None:
    """Raise a ValueError where voxels are not finite numbers; whole numbers always are."""
    if voxels.dtype.kind != "f":
        return
    parts = voxels if voxels.ndim > 2 else [voxels]  # slice by slice: it takes a copy
    broken = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
    if broken:
        raise ValueError(
            f"every voxel must be a finite number, got {broken} NaN or infinite of {voxels.size} in"
            f" {source or 'this array'}; replace them (numpy.nan_to_num) and save again"
        )


def few_planes(images: Images, file_axes: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """PLANES planes, evenly from the first to the last, that lie in the file in one piece each.

    Args:
        file_axes: those that are slices, rows and columns; along axis 2 a file is in such pieces.
    """
    axis = file_axes.index(2)
    count = images.shape[axis]
    for index in sorted(set(np.linspace(0, count - 1, PLANES).round().astype(int).tolist())):
        yield images[(slice(None),) * axis + (index,)]


def subsampled_view(images: Images, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a view shows of images; where it lies scattered over a file, in coarse pixels.

    Args:
        view: two-dimensional, perhaps with colours, made by indexing alone.
    """
    if not is_mapped(images):
        return view(images)
    stored = view(images.stored if isinstance(images, LazyImages) else images)
    along, down = sorted(range(2), key=lambda axis: abs(stored.strides[axis]))
    apart = min(abs(stored.strides[along]) / PAGE, 1)  # pages from pixel to pixel
    pages = stored.shape[down] * (1 + apart * stored.shape[along])
    step = max(1, math.ceil(math.sqrt(pages / MOST_PAGES)))
    thin = stored[::step, ::step]
    with _page_by_page(stored):
        shown = np.array(replace(images, stored=thin) if isinstance(images, LazyImages) else thin)
    height, width = stored.shape[:2]
    return shown.repeat(step, axis=0)[:height].repeat(step, axis=1)[:, :width]


@contextmanager
def _page_by_page(view: np.ndarray) -> Iterator[None]:
    """Have the system read no more of a mapped file than is asked for, where it takes advice."""
    base = view
    while isinstance(base, np.ndarray):
        base = base.base
    takes_advice = isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM")
    if takes_advice:
        base.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if takes_advice:
            base.madvise(mmap.MADV_NORMAL)


def sampled(images: Images, file_axes: tuple[int, int, int]) -> np.ndarray:
    """Enough voxels to choose a window by: all in memory, or of a file a grid in a few planes."""
    if not is_mapped(images):
        return images
    plane = images.size // images.shape[file_axes.index(2)]
    step = math.ceil(math.sqrt(plane * PLANES / SAMPLE))
    return np.stack([each[::step, ::step] for each in few_planes(images, file_axes)])
