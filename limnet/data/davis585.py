"""DAVIS-585, objects in frames of videos with a defective mask each (Table III), and its twin.

Chen et al., "FocalClick: Towards Practical Interactive Image Segmentation", CVPR 2022;
github.com/alibaba/ClickSEG. The set was made for tests. The paper lists 585 images for training
and 585 for tests: there are 585 in all, so these must be the same ones.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from limnet.data.labelled_image import LabelledImage, read_rgb
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.defects import corrupt
from limnet.data.synthetic.scenes_2d import VERSION, video
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first

DAVIS585_SAMPLES = 585  # from 30 videos
DAVIS585_LAYOUTS = (".", "data", "DAVIS585", "DAVIS585/data")
DAVIS585_FOLDERS = ("davis585", "DAVIS585", "DAVIS-585", ".")  # where a data folder may hold it
INITIAL = ("sp", "stm")  # defects made from superpixels, masks that the network STM propagated
SAMPLE = re.compile(r"\w+_(\d+)\.png")  # object1_00009.png is of 00009.jpg


def davis585_images(root: str | Path) -> tuple[LabelledImage, ...]:
    """The samples of DAVIS-585 or of its twin, one object each, sorted by video and name.

    All are of the split "test". The list comes from the names of the files, which are opened only
    when they are loaded. `initial_mask` reads the defective mask of a sample.

    Args:
        root: the folder that holds a folder for each video, or one above it.

    Raises:
        ValueError: the folder is missing or has another layout, a mask has another name, or one of
            the files of a sample is missing.
    """
    folder = _dataset_folder(Path(root))
    if folder is None:
        raise ValueError(
            f"a DAVIS-585 folder must hold VIDEO/init_sp_object1_00009.png and so on, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            " point at the folder into which ClickSEG's DAVIS585 was unpacked"
        )
    masks = _masks_of_samples(folder)
    twin = is_twin(folder)
    collection = "DAVIS-585 twin (synthetic)" if twin else "DAVIS-585"
    return tuple(
        # ClickSEG names a licence for its code, none for this set
        LabelledImage(
            f"{mask.parent.name}/{mask.stem}",
            _image_of(mask),
            collection,
            "test",
            twin,
            partial(_one_mask, mask),
        )
        for mask in masks
    )


def initial_mask(image: LabelledImage, kind: str = "sp") -> Bool[np.ndarray, "height width"]:
    """The defective mask from which the correction of a sample begins.

    Args:
        kind: "sp" or "stm", see INITIAL.

    Raises:
        ValueError: there is no such kind, or the file is not whole.
    """
    if kind not in INITIAL:
        raise ValueError(f"the initial masks of DAVIS-585 must be of {INITIAL}, got {kind!r}")
    name = image.name.split("/")[-1]
    return _one_mask(image.image.with_name(f"init_{kind}_{name}.png"))[0]


def _masks_of_samples(folder: Path) -> list[Path]:
    """The mask of each sample, all of whose files are there."""
    # also where only an initial mask is left, so that what is missing can be named
    masks = sorted(
        {
            path.with_name(path.name.removeprefix("init_sp_").removeprefix("init_stm_"))
            for path in folder.glob("*/[!.]*.png")
        }
    )
    misnamed = [
        f"{path.parent.name}/{path.name}" for path in masks if not SAMPLE.fullmatch(path.name)
    ]
    if misnamed:
        raise ValueError(
            f"the masks of DAVIS-585 must have names as object1_00009.png, but {folder} holds"
            f" {few(misnamed)}; rename or move them"
        )
    files = [path for mask in masks for path in (_image_of(mask), mask, *_initial_of(mask))]
    missing = [f"{path.parent.name}/{path.name}" for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            "every sample of DAVIS-585 needs its image, mask and two initial masks, but"
            f" {folder} lacks {few([*dict.fromkeys(missing)])}; unpack the archive again"
        )
    return masks


def _image_of(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem.split('_')[-1]}.jpg")


def _initial_of(mask: Path) -> list[Path]:
    return [mask.with_name(f"init_{kind}_{mask.name}") for kind in INITIAL]


def _one_mask(path: Path) -> Bool[np.ndarray, "1 height width"]:
    return read_rgb(path)[None, :, :, 2] > 128  # as davis585.py of ClickSEG


def find_davis585(data_root: str | Path | None) -> Path | None:
    """The folder for `davis585_images` in the data folder (`LIMNET_DATA`); None: no such folder."""
    return find_folder(data_root, DAVIS585_FOLDERS, _dataset_folder)


def _dataset_folder(root: Path) -> Path | None:
    def holds(folder: Path) -> bool:
        return any(any(folder.glob(f"*/init_{kind}_*.png")) for kind in INITIAL)

    return first_folder(root, DAVIS585_LAYOUTS, holds)


def write_davis585_twin(
    root: str | Path, *, seed: int = 0, shape: tuple[int, int] = (120, 208)
) -> tuple[LabelledImage, ...]:
    """The twin in `root`: three frames each of two videos, with one and two animals.

    It is written where it is missing; frames of another seed, shape or version are replaced. Both
    initial masks of a sample are true ones with the defects of section III-B.

    Raises:
        ValueError: the folder holds a DAVIS-585 that is no twin.
    """
    folder = _dataset_folder(Path(root)) or Path(root) / "DAVIS585"
    recipe = {"what": "synthetic videos in the layout of DAVIS-585", "seed": seed}
    files = [path for kind in ("png", "jpg") for path in folder.glob(f"*/[!.]*.{kind}")]
    begin_twin(folder, recipe | {"version": VERSION, "shape": list(shape)}, files)
    for number, animals in enumerate((1, 2)):
        rng = np.random.default_rng(21 * TWIN_SEEDS + 2 * seed + number)
        for index, scene in enumerate(video(rng, shape, frames=3, animals=animals)):
            frame = folder / f"video{animals}" / f"{9 * index:05d}.jpg"
            _write(frame, scene.image)
            for which, mask in enumerate(scene.masks, 1):
                name = frame.with_name(f"object{which}_{frame.stem}.png")
                _write(name, mask)
                for path in _initial_of(name):
                    _write(path, corrupt(mask, rng)[0])
    return davis585_images(folder)


def _write(path: Path, pixels: np.ndarray) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels)
    write_first(path, lambda partial: picture.save(partial))
