"""A labelled 2D image on disk, a mask an instance: what the click net trains on (Table III)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

SPLITS = ("training", "test")
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
ONE_CHANNEL = ("1", "L", "P", "I;16", "I")


@dataclass(frozen=True)
class LabelledImage:
    """One labelled image on disk; `load` reads it."""

    name: str
    image: Path
    collection: str
    split: str  # the official one: "training" or "test"
    trainable: bool  # whether the licence lets shipped weights be trained on it
    # masks may overlap; ValueError where their file is not whole
    read_masks: Callable[[], Bool[np.ndarray, "instances height width"]] = field(
        repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"the split of an image must be one of {SPLITS}, got {self.split!r}")

    def load(
        self,
    ) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "instances height width"]]:
        """The image and its masks on the same grid.

        Raises:
            ValueError: a file is not whole, or the masks have another shape than the image.
        """
        image, masks = read_rgb(self.image), self.read_masks()
        if masks.shape[1:] != image.shape[:2]:
            raise ValueError(
                f"the masks of {self.name} of {self.collection} must have the shape of"
                f" {self.image}, got {masks.shape[1:]} and {image.shape[:2]}; copy both again"
            )
        return image, masks


def one_instance(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "instances height width"],
    seed: int,
    *,
    margin: float | int = 0.25,
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Bool[np.ndarray, "rows columns"]]:
    """One instance, drawn at random, cut out with what surrounds it: (image, mask).

    Section III-A trains on iShape like this; how much surrounds the instance it does not say.

    Args:
        margin: on each side, of the longer side of the instance's box; ours.

    Raises:
        ValueError: no mask has a pixel.
    """
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    if not len(seen):
        raise ValueError(
            f"to cut out an instance one of the masks must have a pixel, got {len(masks)} masks"
            " without; leave this image out"
        )
    mask = masks[np.random.default_rng(seed).choice(seen)]
    edges = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    grown = round(margin * max(last - first + 1 for first, last in edges))
    box = tuple(slice(max(first - grown, 0), last + 1 + grown) for first, last in edges)
    return image[box], mask[box]


def read_rgb(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of an image file with 8 bits a channel, as they are stored, in colour.

    Raises:
        ValueError: the file is not whole, or has more bits a channel.
    """
    return _read(path, COLOURS, "an image with 8 bits a channel")


def read_map(path: Path) -> Int32[np.ndarray, "height width"]:
    """The values, or palette indices, of an image file with one channel.

    Raises:
        ValueError: the file is not whole, or has several channels.
    """
    return _read(path, ONE_CHANNEL, "a map with one channel").astype(np.int32)


def _read(path: Path, modes: tuple[str, ...], what: str) -> np.ndarray:
    try:
        with Image.open(path) as file:
            if file.mode not in modes:
                raise ValueError(f"its mode is {file.mode}, not one of {', '.join(modes)}")
            return np.array(file.convert("RGB") if modes is COLOURS else file)
    except BROKEN as error:
        raise ValueError(
            f"{path} must be {what} and whole, but: {error}; copy or export it again"
        ) from error
