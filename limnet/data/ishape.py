"""iShape, irregular shapes (Table III), and its synthetic twin.

Yang et al., "iShape: A First Step Towards Irregular Shape Instance Segmentation",
arXiv:2109.15068; ishape.github.io. The paper cuts one instance out of each image:
`labelled_image.one_instance`.
"""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from limnet.data.labelled_image import LabelledImage, read_map
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.scenes_2d import VERSION, irregular
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first

ISHAPE_SUBSETS = ("antenna", "branch", "fence", "hanger", "log", "wire")
ISHAPE_SPLITS = {"train": "training", "val": "test"}
ISHAPE_IMAGES = {"training": 10_185, "test": 2_685}  # 185 of antenna, 2,000 and 500 of the others
ISHAPE_FOLDERS = ("ishape_dataset", "ishape", "iShape", ".")  # where a data folder may hold it
IMAGES, MAPS = "image", "instance_map"
FIRST_INSTANCE = 1000  # a map's smaller values are no instance (instance_map_to_coco.py)


def ishape_images(root: str | Path) -> tuple[LabelledImage, ...]:
    """The images of all six subsets of iShape or of its twin; `train` trains and `val` tests.

    The list comes from the names of the files, which are opened only when they are loaded. The
    masks are those of `instance_map`; the COCO-style file beside them says the same and is not
    read.

    Args:
        root: the folder that holds `antenna`, `branch` and so on, or `ishape_dataset`.

    Raises:
        ValueError: the folder is missing or has another layout, a subset or a split of it is
            missing or empty, or an image lacks its map or a map its image.
    """
    folder = _dataset_folder(Path(root))
    if folder is None:
        raise ValueError(
            f"an iShape folder must hold antenna/train/{MAPS} and so on, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            " point at the folder into which ishape_dataset.tar was unpacked"
        )
    return tuple(
        image
        for subset in ISHAPE_SUBSETS
        for split in ISHAPE_SPLITS
        for image in _images(folder, subset, split)
    )


def _images(folder: Path, subset: str, split: str) -> list[LabelledImage]:
    part = folder / subset / split
    images = {path.stem: path for path in (part / IMAGES).glob("[!.]*.*")}
    maps = {path.stem: path for path in (part / MAPS).glob("[!.]*.png")}
    if lacking := sorted(images.keys() ^ maps.keys()):
        raise ValueError(
            f"every image of iShape needs a map of its name, and every map its image, but {part}"
            f" has only one of {few(lacking)}; unpack ishape_dataset.tar again or remove them"
        )
    if not images:
        raise ValueError(
            f"{part} must hold {IMAGES} and {MAPS}, but holds no such files; unpack"
            " ishape_dataset.tar again"
        )
    twin = is_twin(folder)
    collection = "iShape twin (synthetic)" if twin else "iShape"
    return [
        LabelledImage(
            f"{subset}/{split}/{name}",
            images[name],
            collection,
            ISHAPE_SPLITS[split],
            True,  # iShape is in the public domain: CC0 (its README)
            partial(_masks, maps[name]),
        )
        for name in sorted(images, key=lambda name: (len(name), name))  # numbers without zeros
    ]


def _masks(path: Path) -> Bool[np.ndarray, "instances height width"]:
    labels = read_map(path)
    instances = np.unique(labels[labels >= FIRST_INSTANCE])
    return labels == instances[:, None, None]


def find_ishape(data_root: str | Path | None) -> Path | None:
    """The folder for `ishape_images` in the data folder (`LIMNET_DATA`), None if there is none."""
    return find_folder(data_root, ISHAPE_FOLDERS, _dataset_folder)


def _dataset_folder(root: Path) -> Path | None:
    def holds(folder: Path) -> bool:
        return any((folder / subset / "train" / MAPS).is_dir() for subset in ISHAPE_SUBSETS)

    return first_folder(root, ("ishape_dataset", "."), holds)


def write_ishape_twin(
    root: str | Path, *, seed: int = 0, side: int = 128
) -> tuple[LabelledImage, ...]:
    """The twin in `root`: one training and one test image of every subset, written if missing.

    Images of another seed, side or version are replaced.

    Raises:
        ValueError: the folder holds an iShape that is no twin.
    """
    folder = _dataset_folder(Path(root)) or Path(root) / "ishape_dataset"
    recipe = {"what": "synthetic scenes in the layout of iShape", "seed": seed}
    files = [path for name in (IMAGES, MAPS) for path in folder.glob(f"*/*/{name}/[!.]*.*")]
    begin_twin(folder, recipe | {"version": VERSION, "side": side}, files)
    parts = [(subset, split) for subset in ISHAPE_SUBSETS for split in ISHAPE_SPLITS]
    for number, (subset, split) in enumerate(parts):
        image = folder / subset / split / IMAGES / "0.jpg"
        labels = folder / subset / split / MAPS / "0.png"
        if image.is_file() and labels.is_file():
            continue
        rng = np.random.default_rng(20 * TWIN_SEEDS + len(parts) * seed + number)
        scene = irregular(rng, subset, side)
        ids = np.arange(FIRST_INSTANCE, FIRST_INSTANCE + len(scene.masks))
        _write(labels, (scene.masks * ids[:, None, None]).sum(axis=0).astype(np.uint16))
        _write(image, scene.image)
    return ishape_images(folder)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_first(path, lambda partial: Image.fromarray(pixels).save(partial))
