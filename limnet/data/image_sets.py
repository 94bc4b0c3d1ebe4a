"""iShape, DAVIS-585 and the in-house sets: 2D images with masks (Table III), and their twins.

* iShape: Yang et al., arXiv:2109.15068; ishape.github.io. The paper cuts one instance out of each
  image: `cases.one_instance`.
* DAVIS-585: Chen et al., "FocalClick", CVPR 2022; github.com/alibaba/ClickSEG. It was made for
  tests. The paper lists 585 images for training and 585 for tests: these must be the same ones.
* The paper's two in-house sets are not public. The layout is ours, so that others can put theirs
  in: `in_house_us/training/images/NAME.png` with 8 bits a channel, and `.../masks/NAME.png` with
  one channel, where 0 is no instance and each other value is one; the same under `test`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from limnet.data.cases import (
    LabelledImage,
    few,
    read_map,
    read_rgb,
)
from limnet.data.folders import SetFolder
from limnet.data.synthetic.abdomen import VERSION as ABDOMEN_VERSION
from limnet.data.synthetic.abdomen import abdomen
from limnet.data.synthetic.defects import corrupt
from limnet.data.synthetic.scenes_2d import VERSION, irregular, ultrasound, video
from limnet.data.synthetic.twins import MARKER, TWIN_SEEDS, begin_twin, is_twin, write_first

SUBSETS = ("antenna", "branch", "fence", "hanger", "log", "wire")  # of iShape
FIRST_INSTANCE = 1000  # smaller values of its maps are no instance (instance_map_to_coco.py)
INITIAL = ("sp", "stm")  # defects made from superpixels, masks that the network STM propagated
DAVIS_SAMPLE = re.compile(r"\w+_(\d+)\.png")  # object1_00009.png is of 00009.jpg
SOFT_TISSUE = (-160, 240)  # HU that become black and white in the twin of the CT
SIDE = 160  # pixels of the in-house twins


Masks = Bool[np.ndarray, "instances height width"]


class Sample(NamedTuple):
    """One image of a set."""

    name: str
    split: str
    image: Path
    files: tuple[Path, ...]  # that must be there, too
    read_masks: Callable[[], Masks]
    collection: str = ""  # where it is not the name of the set


@dataclass(frozen=True)
class ImageLayout(SetFolder):
    """One set of images: where its files are, and what its twin shows."""

    samples: Callable[[Path], list[Sample]]
    # files of the twin with this seed: pixels, or bytes as they are
    draw: Callable[[int], Iterator[tuple[str, np.ndarray | bytes]]]
    twin_images: int
    trainable: bool = False  # whether weights that ship may be trained on the set itself

    def read(self, root: str | Path) -> tuple[LabelledImage, ...]:
        """The images of the set, or of its twin, in a fixed order; files are opened when loaded.

        Args:
            root: the folder of the set, or one above it of those that `inside` names.

        Raises:
            ValueError: the folder is missing or has another layout, a part of the set is empty, a
                file has another name, or one of the files of an image is missing.
        """
        folder = self.require(root)
        samples = self.samples(folder)
        files = [path for each in samples for path in (each.image, *each.files)]
        missing = [path.relative_to(folder).as_posix() for path in files if not path.is_file()]
        if missing:
            raise ValueError(
                f"every image of {self.name} needs all its files, but {folder} lacks"
                f" {few(dict.fromkeys(missing))}; unpack the set again, or remove what stands alone"
            )
        twin = is_twin(folder)
        return tuple(
            LabelledImage(
                each.name,
                each.image,
                (each.collection or self.name) + " twin (synthetic)" * twin,
                each.split,
                twin or self.trainable,
                each.read_masks,
            )
            for each in samples
        )

    def write_twin(self, root: str | Path, *, seed: int = 0) -> tuple[LabelledImage, ...]:
        """The twin in `root`, written where it is missing; one of another seed is replaced.

        Raises:
            ValueError: the folder holds a set that is no twin.
        """
        folder = self.holder(root) or Path(root) / self.inside[0]
        what = f"synthetic images in the layout of {self.name}"
        files = [path for kind in ("png", "jpg", "json") for path in folder.rglob(f"[!.]*.{kind}")]
        files = [path for path in files if path.name != MARKER]
        version = [VERSION, ABDOMEN_VERSION]
        begin_twin(folder, {"what": what, "version": version, "seed": seed}, files)
        if not self._is_whole(folder):
            for name, content in self.draw(seed):
                if not (folder / name).is_file():
                    _save(folder / name, content)
        return self.read(folder)

    def _is_whole(self, folder: Path) -> bool:
        try:
            return len(self.read(folder)) == self.twin_images
        except ValueError:
            return False


def _save(path: Path, content: np.ndarray | bytes) -> None:
    """Save bytes, an image, or a mask as black and white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_first(path, lambda partial: partial.write_bytes(content))
    else:
        pixels = content.astype(np.uint8) * 255 if content.dtype == bool else content
        write_first(path, Image.fromarray(pixels).save)


def _pairs(
    folder: Path,
    parts: dict[str, str],
    images: str = "images",
    maps: str = "masks",
    first: int = 1,
) -> list[Sample]:
    """An image and a map of the same name for each name in the folders of some parts.

    Args:
        first: smallest value of a map that is an instance.
    """
    samples = []
    for part, split in parts.items():
        here = folder / part
        pictures = {path.stem: path for path in (here / images).glob("[!.]*.*")}
        masks = {path.stem: path for path in (here / maps).glob("[!.]*.png")}
        # numbers have no leading zeros
        names = sorted(pictures.keys() | masks.keys(), key=lambda name: (len(name), name))
        if not names:
            raise ValueError(f"{here} must hold {images} and {maps}, but is empty; unpack it again")
        for name in names:
            picture = pictures.get(name, here / images / f"{name}.png")
            mask = masks.get(name, here / maps / f"{name}.png")
            read = partial(_read_instances, mask, first)
            samples.append(Sample(f"{part}/{name}", split, picture, (mask,), read))
    return samples


def _read_instances(path: Path, first: int) -> Masks:
    labels = read_map(path)
    return labels == np.unique(labels[labels >= first])[:, None, None]


ISHAPE_PARTS = {
    f"{subset}/{part}": split
    for subset in SUBSETS
    for part, split in (("train", "training"), ("val", "test"))
}


def _draw_ishape(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    for number, part in enumerate(ISHAPE_PARTS):
        rng = np.random.default_rng(20 * TWIN_SEEDS + len(ISHAPE_PARTS) * seed + number)
        scene = irregular(rng, part.split("/")[0], 128)
        ids = np.arange(FIRST_INSTANCE, FIRST_INSTANCE + len(scene.masks))
        labels = (scene.masks * ids[:, None, None]).sum(axis=0).astype(np.uint16)
        yield f"{part}/instance_map/0.png", labels
        yield f"{part}/image/0.jpg", scene.image


ISHAPE = ImageLayout(
    name="iShape",
    folders=("ishape_dataset", "ishape", "iShape", "."),
    inside=("ishape_dataset", "."),
    source="ishape_dataset.tar",
    marks=tuple(f"{subset}/train/instance_map" for subset in SUBSETS),
    samples=partial(
        _pairs, parts=ISHAPE_PARTS, images="image", maps="instance_map", first=FIRST_INSTANCE
    ),
    draw=_draw_ishape,
    twin_images=len(ISHAPE_PARTS),
    trainable=True,  # CC0 (its README)
)


def initial_mask(image: LabelledImage, kind: str = "sp") -> Bool[np.ndarray, "height width"]:
    """The defective mask from which the correction of a sample of DAVIS-585 begins.

    Args:
        kind: "sp" or "stm", see INITIAL.

    Raises:
        ValueError: there is no such kind, or the file is not whole.
    """
    if kind not in INITIAL:
        raise ValueError(f"the initial masks of DAVIS-585 must be of {INITIAL}, got {kind!r}")
    name = image.name.split("/")[-1]
    return _read_mask(image.image.with_name(f"init_{kind}_{name}.png"))[0]


def _read_mask(path: Path) -> Bool[np.ndarray, "1 height width"]:
    return read_rgb(path)[None, :, :, 2] > 128  # as davis585.py of ClickSEG


def _davis_samples(folder: Path) -> list[Sample]:
    # also where only an initial mask is left, so that what is missing can be named
    masks = sorted(
        {
            path.with_name(path.name.removeprefix("init_sp_").removeprefix("init_stm_"))
            for path in folder.glob("*/[!.]*.png")
        }
    )
    if misnamed := [path.name for path in masks if not DAVIS_SAMPLE.fullmatch(path.name)]:
        raise ValueError(
            f"the masks of DAVIS-585 must have names as object1_00009.png, but {folder} holds"
            f" {few(misnamed)}; rename or move them"
        )
    return [
        Sample(
            f"{mask.parent.name}/{mask.stem}",
            "test",
            mask.with_name(f"{mask.stem.split('_')[-1]}.jpg"),
            (mask, *(mask.with_name(f"init_{kind}_{mask.name}") for kind in INITIAL)),
            partial(_read_mask, mask),
        )
        for mask in masks
    ]


def _draw_davis(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Three frames each of two videos; the initial masks have the defects of section III-B."""
    for number, animals in enumerate((1, 2)):
        rng = np.random.default_rng(21 * TWIN_SEEDS + 2 * seed + number)
        for index, scene in enumerate(video(rng, (120, 208), frames=3, animals=animals)):
            folder, frame = f"video{animals}", f"{9 * index:05d}"
            yield f"{folder}/{frame}.jpg", scene.image
            for which, mask in enumerate(scene.masks, 1):
                name = f"object{which}_{frame}.png"
                yield f"{folder}/{name}", mask
                for kind in INITIAL:
                    yield f"{folder}/init_{kind}_{name}", corrupt(mask, rng)[0]


DAVIS585 = ImageLayout(  # ClickSEG names a licence for its code, none for this set
    name="DAVIS-585",
    folders=("davis585", "DAVIS585", "DAVIS-585", "."),
    inside=("DAVIS585", ".", "data", "DAVIS585/data"),
    source="ClickSEG's DAVIS585",
    marks=tuple(f"*/init_{kind}_*.png" for kind in INITIAL),
    samples=_davis_samples,
    draw=_draw_davis,
    twin_images=9,
)


def _draw_ultrasound(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    for number in range(8):
        rng = np.random.default_rng(23 * TWIN_SEEDS + 8 * seed + number)
        image, lesion = ultrasound(rng, (SIDE, SIDE))
        split = "training" if number < 6 else "test"
        yield f"{split}/images/us_{number:04d}.png", image
        yield f"{split}/masks/us_{number:04d}.png", lesion.astype(np.uint8)


def _draw_ct(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    spacing_mm = (22.0, 384 / SIDE, 384 / SIDE)
    phantom = abdomen(24 * TWIN_SEEDS + seed, shape=(6, SIDE, SIDE), spacing_mm=spacing_mm)
    low, high = SOFT_TISSUE
    grey = 255 * np.clip((phantom.images.astype(np.float32) - low) / (high - low), 0, 1)
    for number, (image, labels) in enumerate(
        zip(grey.astype(np.uint8), phantom.labels, strict=True)
    ):
        yield f"training/images/ct_{number:04d}.png", image
        yield f"training/masks/ct_{number:04d}.png", labels


# Section III-A counts 845 ultrasound images, Table III 683 + 171 = 854; 3,323 CT train. Whose
# images others put here, and what their patients agreed to, is not known: none trains weights.
IN_HOUSE_US = ImageLayout(
    name="In-house US",
    folders=("in_house_us",),
    inside=(".",),
    source="the layout on top of limnet/data/image_sets.py",
    marks=("training",),
    samples=partial(_pairs, parts={"training": "training", "test": "test"}),
    draw=_draw_ultrasound,
    twin_images=8,
)
IN_HOUSE_CT = ImageLayout(
    name="In-house CT",
    folders=("in_house_ct",),
    inside=(".",),
    source="the layout on top of limnet/data/image_sets.py",
    marks=("training",),
    samples=partial(_pairs, parts={"training": "training"}),
    draw=_draw_ct,
    twin_images=6,
)
