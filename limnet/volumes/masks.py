"""Masks of all slices kept small: of each slice the box that shows anything, a bit a pixel.

They never change, so that rounds share the slices that they have in common.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

Mask = Bool[np.ndarray, "height width"]
Masks = Bool[np.ndarray, "slices height width"]


class PackedMask(NamedTuple):
    """One slice; equal masks are equal tuples."""

    top: int = 0  # the first row and column that show anything
    left: int = 0
    height: int = 0  # of the box
    width: int = 0
    bits: bytes = b""  # row after row, each padded to whole bytes
    area: int = 0  # pixels

    @classmethod
    def pack(cls, mask: Mask) -> "PackedMask":
        """The smallest box of a mask."""
        rows = np.flatnonzero(mask.any(axis=1))
        if not rows.size:
            return cls()
        rows = slice(int(rows[0]), int(rows[-1]) + 1)
        columns = np.flatnonzero(mask[rows].any(axis=0))
        box = mask[rows, columns[0] : columns[-1] + 1]
        bits = np.packbits(box, axis=1).tobytes()
        return cls(rows.start, int(columns[0]), *box.shape, bits, int(np.count_nonzero(box)))

    def unpack(self, shape: tuple[int, int]) -> Mask:
        """The mask in a slice of this shape."""
        mask = np.zeros(shape, dtype=bool)
        if self.area:
            flat = np.unpackbits(np.frombuffer(self.bits, np.uint8))  # far faster than by axis
            box = flat.reshape(self.height, -1)[:, : self.width]
            mask[self.top : self.top + self.height, self.left : self.left + self.width] = box
        return mask

    def row(self, row: int, size: int) -> Bool[np.ndarray, " width"]:
        """One row of the mask, so many pixels long."""
        pixels = np.zeros(size, dtype=bool)
        if self.top <= row < self.top + self.height:
            packed = self._rows[row - self.top]
            box = np.unpackbits(packed, count=self.width).view(bool)
            pixels[self.left : self.left + self.width] = box
        return pixels

    def column(self, column: int, size: int) -> Bool[np.ndarray, " height"]:
        """One column of the mask, so many pixels long."""
        pixels = np.zeros(size, dtype=bool)
        if self.left <= column < self.left + self.width:
            byte, bit = divmod(column - self.left, 8)
            packed = self._rows[:, byte]
            pixels[self.top : self.top + self.height] = packed >> (7 - bit) & 1
        return pixels

    @property
    def _rows(self) -> np.ndarray:
        return np.frombuffer(self.bits, np.uint8).reshape(self.height, -1)


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Masks (slices, height, width) that are read like an array but cannot be written.

    `masks[slice_index]` unpacks one slice, a loop one after another; `numpy.asarray(masks)` and all
    of NumPy's functions unpack every slice. What comes out is the caller's own.
    """

    slices: tuple[PackedMask, ...] = field(repr=False)
    slice_shape: tuple[int, int]

    dtype = np.dtype(bool)
    ndim = 3

    @classmethod
    def pack(cls, masks: "Masks | PackedMasks") -> "PackedMasks":
        """These masks packed, where they are not yet.

        Raises:
            ValueError: they are not bool (slices, height, width).
        """
        if isinstance(masks, cls):
            return masks
        if not isinstance(masks, np.ndarray) or masks.dtype != bool or masks.ndim != 3:
            got = f"{getattr(masks, 'dtype', type(masks))} of shape {np.shape(masks)}"
            raise ValueError(f"masks must be bool (slices, height, width), got {got}; convert them")
        return cls.of(masks)

    @classmethod
    def of(cls, masks: Iterable[Mask]) -> "PackedMasks":
        """Masks that come one after another, at least one."""
        slices = []
        for mask in masks:
            slices.append(PackedMask.pack(mask))
        return cls(tuple(slices), mask.shape)

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "PackedMasks":
        """Masks of so many slices, rows and columns without a pixel."""
        return cls((PackedMask(),) * shape[0], tuple(shape[1:]))

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.slices), *self.slice_shape)

    @property
    def areas(self) -> Int[np.ndarray, " slices"]:
        """Pixels of each slice's mask."""
        return np.array([each.area for each in self.slices], dtype=np.int64)

    def any(self) -> bool:
        """Whether there is a pixel."""
        return any(each.area for each in self.slices)

    def replaced(self, others: Mapping[int, Mask | PackedMask]) -> "PackedMasks":
        """The same with other masks of some slices."""
        slices = list(self.slices)
        for index, mask in others.items():
            slices[index] = mask if isinstance(mask, PackedMask) else PackedMask.pack(mask)
        return PackedMasks(tuple(slices), self.slice_shape)

    def differs(self, other: "PackedMasks") -> Bool[np.ndarray, " slices"]:
        """Which slices are not the same in both; nothing is unpacked."""
        pairs = zip(self.slices, other.slices, strict=True)
        return np.array([mine != theirs for mine, theirs in pairs], dtype=bool)

    def where(self, keep: Bool[np.ndarray, " slices"], other: "PackedMasks") -> "PackedMasks":
        """These slices where they are to be kept, elsewhere those of `other`."""
        three = zip(keep, self.slices, other.slices, strict=True)
        slices = tuple(mine if kept else theirs for kept, mine, theirs in three)
        return PackedMasks(slices, self.slice_shape)

    def _cut(self, axis: int, index: int) -> Bool[np.ndarray, "_ _"]:
        """One row (axis 1) or column (2) of all slices."""
        height, width = self.slice_shape
        index = range(self.shape[axis])[index]
        if axis == 1:
            return np.stack([each.row(index, width) for each in self.slices])
        return np.stack([each.column(index, height) for each in self.slices])

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[Mask]:
        return (each.unpack(self.slice_shape) for each in self.slices)

    def __getitem__(self, place: Any) -> Any:
        """As of an array; of slices, of a row or a column of all, no more is unpacked."""
        first, *rest = place if isinstance(place, tuple) else (place,)
        *before, last = place if isinstance(place, tuple) else (place,)
        if before and all(each == slice(None) for each in before) and isinstance(last, int):
            return self._cut(len(before), last)
        if isinstance(first, int | np.integer) and not isinstance(first, bool):
            return self.slices[first].unpack(self.slice_shape)[tuple(rest)]
        if isinstance(first, slice) or (not rest and np.ndim(first) == 1):
            indices = np.arange(len(self))[first]
            masks = np.empty((len(indices), *self.slice_shape), dtype=bool)
            for mask, index in zip(masks, indices, strict=True):
                mask[...] = self.slices[index].unpack(self.slice_shape)
            return masks[(slice(None), *rest)]
        return np.asarray(self)[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All slices unpacked: what NumPy asks for."""
        if copy is False:
            raise ValueError("packed masks must be copied to become an array; ask for a copy")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)
