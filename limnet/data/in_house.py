"""Slots for the paper's in-house sets of ultrasound and CT (Table III), and their synthetic twins.

The paper's two sets are not public. The layout is ours, so that others can put theirs in:

    in_house_us/training/images/NAME.png   8 bits a channel, grey or colour
    in_house_us/training/masks/NAME.png    one channel: 0 is no instance, each other value is one
    in_house_us/test/images, .../masks     the same
    in_house_ct/training/images, .../masks the same; the paper's CT has no test images
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from limnet.data.labelled_image import LabelledImage, read_map
from limnet.data.layout import few, find_folder
from limnet.data.synthetic.abdomen import VERSION, abdomen
from limnet.data.synthetic.scenes_2d import VERSION as SCENES_VERSION
from limnet.data.synthetic.scenes_2d import ultrasound
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first

SOFT_TISSUE = (-160, 240)  # HU that become black and white in the twin of the CT


@dataclass(frozen=True)
class InHouse:
    """One of the paper's in-house sets."""

    folder: str
    name: str
    images: dict[str, int]  # split -> how many the paper has


IN_HOUSE = {
    # section III-A counts 845 ultrasound images, Table III 683 + 171 = 854
    "us": InHouse("in_house_us", "In-house US", {"training": 683, "test": 171}),
    "ct": InHouse("in_house_ct", "In-house CT", {"training": 3_323}),
}


def in_house_images(root: str | Path, modality: str) -> tuple[LabelledImage, ...]:
    """The images of an in-house set, or of its twin, by split and name.

    The list comes from the names of the files, which are opened only when they are loaded.

    Args:
        root: the folder `in_house_us` or `in_house_ct`.
        modality: "us" or "ct".

    Raises:
        ValueError: the folder or one of its splits is missing or empty, or an image lacks its
            masks or masks their image.
    """
    about, folder = _about(modality), Path(root)
    lacking = [split for split in about.images if not (folder / split / "images").is_dir()]
    if lacking:
        raise ValueError(
            f"an in-house folder must hold {' and '.join(about.images)} with images and masks,"
            f" but {root} lacks {few(lacking)}; see the layout in limnet/data/in_house.py"
        )
    return tuple(image for split in about.images for image in _images(folder, split, about))


def _images(folder: Path, split: str, about: InHouse) -> list[LabelledImage]:
    images, masks = (
        {path.stem: path for path in (folder / split / part).glob("[!.]*.png")}
        for part in ("images", "masks")
    )
    if alone := sorted(images.keys() ^ masks.keys()):
        raise ValueError(
            f"every image needs masks of its name, and masks their image, but {folder / split} has"
            f" only one of {few(alone)}; add or remove them"
        )
    if not images:
        raise ValueError(
            f"{folder / split / 'images'} must hold NAME.png, but holds none; add some"
        )
    twin = is_twin(folder)
    collection = about.name + " twin (synthetic)" * twin
    return [
        # whose images these are, and what their patients agreed to, is not known here
        LabelledImage(name, images[name], collection, split, twin, partial(_masks, masks[name]))
        for name in sorted(images)
    ]


def _masks(path: Path) -> Bool[np.ndarray, "instances height width"]:
    labels = read_map(path)
    return labels == np.unique(labels[labels > 0])[:, None, None]


def find_in_house(data_root: str | Path | None, modality: str) -> Path | None:
    """The folder for `in_house_images` in the data folder (`LIMNET_DATA`); None: no such one."""
    names = (_about(modality).folder,)
    return find_folder(data_root, names, lambda folder: (folder / "training").is_dir())


def _about(modality: str) -> InHouse:
    if modality not in IN_HOUSE:
        raise ValueError(f"an in-house set must be of {[*IN_HOUSE]}, got {modality!r}")
    return IN_HOUSE[modality]


def write_in_house_twin(
    root: str | Path, modality: str, *, seed: int = 0, side: int = 160
) -> tuple[LabelledImage, ...]:
    """The twin in `root`, six training images and for ultrasound two test images.

    Ultrasound shows a lesion in soft tissue, CT slices of a phantom's abdomen and its organs. It
    is written where it is missing; images of another seed, side or version are replaced.

    Raises:
        ValueError: the folder holds a set that is no twin.
    """
    about, folder = _about(modality), Path(root)
    recipe = {"what": f"synthetic images in the place of {about.name}", "seed": seed}
    recipe |= {"version": [SCENES_VERSION, VERSION], "side": side}
    begin_twin(folder, recipe, folder.glob("*/*/[!.]*.png"))
    numbers = {"training": range(6), "test": range(6, 8)}
    files = [
        [folder / split / part / f"{modality}_{number:04d}.png" for part in ("images", "masks")]
        for split in about.images
        for number in numbers[split]
    ]
    if not all(path.is_file() for pair in files for path in pair):
        make = _ultrasounds if modality == "us" else _ct_slices
        for pair, pictures in zip(files, make(seed, len(files), side), strict=True):
            for path, pixels in zip(pair, pictures, strict=True):
                _write(path, pixels)
    return in_house_images(folder, modality)


Picture = UInt8[np.ndarray, "height width"]


def _ultrasounds(seed: int, count: int, side: int) -> list[tuple[Picture, Picture]]:
    first = 23 * TWIN_SEEDS + count * seed
    scenes = [ultrasound(np.random.default_rng(first + n), (side, side)) for n in range(count)]
    return [(image, lesion.astype(np.uint8)) for image, lesion in scenes]


def _ct_slices(seed: int, count: int, side: int) -> list[tuple[Picture, Picture]]:
    spacing_mm = (22.0, 384 / side, 384 / side)
    phantom = abdomen(24 * TWIN_SEEDS + seed, shape=(count, side, side), spacing_mm=spacing_mm)
    low, high = SOFT_TISSUE
    grey = 255 * np.clip((phantom.images.astype(np.float32) - low) / (high - low), 0, 1)
    return list(zip(grey.astype(np.uint8), phantom.labels, strict=True))


def _write(path: Path, pixels: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_first(path, lambda partial: Image.fromarray(pixels).save(partial))
