"""Labelled volumes and labelled images on disk, and the data sets that hold them (III-A)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import Bool, Int, Int32, UInt8
from PIL import Image

from limnet.volumes import Volume

HELD_OUT_FILE = Path(__file__).with_name("held_out.yaml")
# collection -> "all" or names of the cases that validate and never train
HELD_OUT = yaml.safe_load(HELD_OUT_FILE.read_text(encoding="utf-8"))
NOT_ANATOMY = {"PTV56", "PTV63", "PTV70"}  # treatment targets: nothing in the image shows them
SPLITS = ("training", "test")
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
ONE_CHANNEL = ("1", "L", "P", "I;16", "I")
VALIDATION = "imagesVa"  # a folder of AMOS


@dataclass(frozen=True)
class Case:
    """One labelled volume on disk; `load` reads it."""

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
                f"labels of {self.collection} must be of {few(self.ids)}, but {self.label}"
                f" has {few(np.unique(unknown).tolist())}; put the data set's file there"
                " again, or bring its labels to these ids"
            )
        return labels


@dataclass(frozen=True)
class LabelledImage:
    """One labelled 2D image on disk, a mask an instance; `load` reads it."""

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


class Chosen(NamedTuple):
    """Cases or images, and the words that a report must say about them."""

    cases: tuple[Case, ...] | tuple[LabelledImage, ...]
    ran_on: str
    synthetic: bool


class Split(NamedTuple):
    """Which cases test and which may train, and why these."""

    rule: str
    training: tuple[str, ...]  # names of cases
    test: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A published data set of volumes or of images as its adapter knows it."""

    name: str
    find: Callable[[str | Path | None], Path | None]  # in the data folder
    read: Callable[[Path], tuple[Case, ...] | tuple[LabelledImage, ...]]
    # (root, *, cases, seed), for images (root, *, seed)
    write_twin: Callable[..., tuple[Case, ...] | tuple[LabelledImage, ...]]
    tested: int | None = None  # cases of the paper's test set; None: all
    of_images: bool = False

    def choose(
        self, data_root: str | Path | None, twin: Path, *, cases: int = 0, seed: int = 0
    ) -> Chosen:
        """The paper's test cases, or all images of both splits; without the set its twin's.

        Args:
            data_root: `LIMNET_DATA`; None where there is no data folder.
            twin: folder for the twin, written if needed.
            cases: the first so many volumes; 0: all, of a twin 2.
            seed: of the twin's patients or scenes.

        Raises:
            ValueError: as the adapter says.
        """
        root = self.find(data_root)
        if root is None:
            write = (
                self.write_twin if self.of_images else partial(self.write_twin, cases=cases or 2)
            )
            chosen = write(twin, seed=seed)
            said = f"the synthetic twin of {self.name} ({_counted(chosen)}), NOT on {self.name}"
            return Chosen(chosen, said, True)
        found = self.read(root)
        if self.of_images:
            names = dict.fromkeys(image.collection for image in found)  # says if a part is missing
            return Chosen(found, f"{' and '.join(names)}, {_counted(found)}", False)
        by_name = {case.name: case for case in found}
        chosen = tuple(by_name[name] for name in self.split(found).test[: cases or None])
        return Chosen(chosen, f"{self.name}, {len(chosen)} of its {_counted(found)}", False)

    def split(self, cases: Sequence[Case] | Sequence[LabelledImage]) -> Split:
        """The cases that `choose` tests on, and the others.

        Args:
            cases: all of the data set, as `read` gives them.
        """
        if self.of_images:
            test = [image for image in cases if image.split == "test"]
            rule = "the publishers'"
        elif self.tested:
            test = hash_split(cases, self.tested)
            rule = (
                f"ours: the first {self.tested} by the SHA-256 of their names test; the paper"
                " gives sizes (section III-A), not cases"
            )
        elif test := [
            case for case in cases if case.image and case.image.parent.name == VALIDATION
        ]:
            rule = f"the publishers': those in {VALIDATION} test; the paper does not say which do"
        else:
            test, rule = cases, "all test: the paper trains on none of them"
        names = tuple(case.name for case in test)
        held = set(names)
        return Split(rule, tuple(case.name for case in cases if case.name not in held), names)


def hash_split(cases: Sequence[Case], number: int) -> tuple[Case, ...]:
    """So many cases, chosen by the hash of their names and in the order of these hashes.

    The paper gives the sizes of its test sets and not their cases; this choice depends on nothing
    but the names, so that anybody gets the same one.
    """
    by_hash = sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())
    return tuple(by_hash[:number])


def _counted(items: Sequence[Case] | Sequence[LabelledImage]) -> str:
    if items and isinstance(items[0], Case):
        return f"{len(items)} case{'s' * (len(items) != 1)}"
    numbers = {split: sum(image.split == split for image in items) for split in SPLITS}
    return " and ".join(f"{count:,} {split}" for split, count in numbers.items()) + " images"


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


def few(names: Iterable[object], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    names = [*map(str, names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
