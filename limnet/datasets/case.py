"""A labelled image on disk, and which ones never train."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Int

from limnet.volume import Volume

HELD_OUT_FILE = Path(__file__).parents[1] / "held_out.yaml"
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
            ValueError: the case has no image, or what `Volume.read` and `read_labels` raise.
        """
        if self.image is None:
            raise ValueError(
                f"to load a case it must have an image, but {self.name} of {self.collection} is a"
                " label map alone; use load_labels"
            )
        volume = Volume.read(self.image, slice_axis=self.slice_axis)
        return volume, volume.read_labels(self.label)

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
            ValueError: the file is not a label map.
        """
        grid = Volume.read(self.label, slice_axis=self.slice_axis, window=(0, 1))
        return grid.read_labels(self.label)
