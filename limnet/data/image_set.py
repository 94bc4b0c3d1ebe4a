"""Which 2D images to train on: a data set's of Table III where it is at hand, else its twin's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from limnet.data.labelled_image import SPLITS, LabelledImage


class ChosenImages(NamedTuple):
    """Images of both splits, and the words that a report must say about them."""

    images: tuple[LabelledImage, ...]
    ran_on: str
    synthetic: bool


@dataclass(frozen=True)
class ImageSet:
    """A 2D data set as its adapter knows it."""

    name: str
    find: Callable[[str | Path | None], Path | None]  # in the data folder
    read: Callable[[Path], tuple[LabelledImage, ...]]
    write_twin: Callable[..., tuple[LabelledImage, ...]]  # (root, *, seed)

    def choose(self, data_root: str | Path | None, twin: Path, *, seed: int = 0) -> ChosenImages:
        """All images of the data set, or of its twin.

        Args:
            data_root: `LIMNET_DATA`; None where there is no data folder.
            twin: folder for the twin, written if needed.
            seed: of the twin's images.

        Raises:
            ValueError: as the adapter says.
        """
        root = self.find(data_root)
        if root is None:
            images = self.write_twin(twin, seed=seed)
            said = f"the synthetic twin of {self.name} ({_counted(images)}), NOT on {self.name}"
            return ChosenImages(images, said, True)
        images = self.read(root)
        names = dict.fromkeys(image.collection for image in images)  # says if a part is missing
        return ChosenImages(images, f"{' and '.join(names)}, {_counted(images)}", False)


def _counted(images: Sequence[LabelledImage]) -> str:
    numbers = {split: sum(image.split == split for image in images) for split in SPLITS}
    return " and ".join(f"{count:,} {split}" for split, count in numbers.items()) + " images"
