"""A labelled image on disk, and which ones never train."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Int

from limnet.volumes import Volume

HELD_OUT_FILE = Path(__file__).with_name("held_out.yaml")
# collection -> "all" or names of the cases that validate and never train
HELD_OUT = yaml.safe_load(HELD_OUT_FILE.read_text(encoding="utf-8"))
NOT_ANATOMY = {"PTV56", "PTV63", "PTV70"}  # treatment targets: nothing in the image shows them


@dataclass(frozen=True)
class Case:
    """One labelled image on disk; `load` reads it."""

    name: str
    image: Path | None  # NIfTI file or folder of frames; None: a label map without an image
    label: Path  # NIfTI file or folder of masks
    # name -> id, or ids of an organ and what lies in it; empty where they have no names
    labels: dict[str, int | tuple[int, ...]]
    collection: str
    trainable: bool  # whether the licence lets shipped weights be trained on it
    slice_axis: int | None = None  # of the file's array; None: the one of the coarsest spacing
    ids: tuple[int, ...] | None = None  # all that the data set defines; None: any
    # (red, green, blue) -> id, where the masks of a folder show labels by colours
    colours: Mapping[tuple[int, int, int], int] | None = None

    @property
    def held_out(self) -> bool:
        """Whether the case validates and so never trains (`held_out.yaml`)."""
        names = HELD_OUT.get(self.collection, ())
        return names == "all" or self.name in names

    @property
    def anatomy(self) -> tuple[str, ...]:
        """The labels that show something in the image."""
        return tuple(name for name in self.labels if name not in NOT_ANATOMY)

    def load(self) -> tuple[Volume, Int[np.ndarray, "slices height width"]]:
        """The volume and its labels on the same grid.

        Raises:
            ValueError: the case has no image, its labels have an id that its data set does not
                define, or what `Volume.read` and `read_labels` raise.
        """
        if self.image is None:
            raise ValueError(
                f"to load a case it must have an image, but {self.name} of {self.collection} is a"
                " label map alone; use load_labels"
            )
        volume = Volume.read(self.image, slice_axis=self.slice_axis)
        return volume, self._labels_on(volume)

    def target(
        self, labels: Int[np.ndarray, "slices height width"], name: str
    ) -> Bool[np.ndarray, "slices height width"]:
        """Where a label map shows what has this name.

        Raises:
            ValueError: the case has no such label.
        """
        if name not in self.labels:
            known = ", ".join(self.labels) or "none"
            raise ValueError(f"a label of {self.collection} must be one of {known}; got {name!r}")
        return np.isin(labels, self.labels[name])

    def load_labels(self) -> Int[np.ndarray, "slices height width"]:
        """The label map alone, on its own grid.

        Raises:
            ValueError: the file is not a label map, or has an id that the data set does not define.
        """
        return self._labels_on(Volume.read(self.label, slice_axis=self.slice_axis, window=(0, 1)))

    def _labels_on(self, grid: Volume) -> Int[np.ndarray, "slices height width"]:
        labels = grid.read_labels(self.label, colours=self.colours)
        if self.ids is None:
            return labels
        unknown = np.concatenate([each[~np.isin(each, self.ids)] for each in labels])
        if unknown.size:
            raise ValueError(
                f"labels of {self.collection} must be of {_as_ranges(self.ids)}, but {self.label}"
                f" has {_as_ranges(np.unique(unknown).tolist())}; put the data set's file there"
                " again, or bring its labels to these ids"
            )
        return labels


def _as_ranges(ids: Iterable[int]) -> str:
    """Ids in words: "0 to 13", "0, 1, 2, 7"."""
    ids = sorted(ids)
    if len(ids) > 3 and ids[-1] - ids[0] == len(ids) - 1:
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(map(str, ids[:6])) + f" and {len(ids) - 6} more" * (len(ids) > 6)
