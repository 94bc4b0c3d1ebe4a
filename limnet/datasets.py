"""Labelled cases on disk: BTCV's official layout and its synthetic twin, and our own collections.

BTCV ("Multi-Atlas Labeling Beyond the Cranial Vault", abdomen, doi:10.7303/syn3193805) is the data
set of Table IV. Its twin holds phantoms under the same folder and file names, so that one adapter
reads both; a `twin.json` beside them says that they are synthetic.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import nibabel
import numpy as np
import yaml
from jaxtyping import Bool, Float32, Int
from scipy import ndimage

from limnet.clicks import Click
from limnet.phantoms import ORGANS, VERSION, abdomen
from limnet.volume import Volume

BTCV_LABELS = ORGANS  # name -> id
BTCV_NUMBERS = (*range(1, 11), *range(21, 41))  # of the 30 training cases
BTCV_LAYOUTS = (".", "Training", "RawData/Training", "Abdomen/RawData/Training")
BTCV_FOLDERS = ("btcv", "BTCV", "Abdomen")  # where a data folder may hold it
MARKER = "twin.json"
# collection -> "all" or names of the cases that validate and never train
HELD_OUT = yaml.safe_load(Path(__file__).with_name("held_out.yaml").read_text(encoding="utf-8"))
NOT_ANATOMY = {"PTV56", "PTV63", "PTV70"}  # treatment targets: nothing in the image shows them
TWIN_SEEDS = 1_000_000  # the twin's patients are none of those that networks are trained on


@dataclass(frozen=True)
class Case:
    """One labelled image on disk; `load` reads it."""

    name: str
    image: Path | None  # NIfTI file or folder of frames; None: a label map without an image
    label: Path  # NIfTI file or folder of masks
    labels: dict[str, int]  # name -> id; empty where the collection does not name them
    collection: str
    trainable: bool  # whether the licence lets shipped weights be trained on it

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
        volume = Volume.read(self.image)
        return volume, volume.read_labels(self.label)

    def load_labels(self) -> Int[np.ndarray, "slices height width"]:
        """The label map alone, on its own grid.

        Raises:
            ValueError: the file is not a label map.
        """
        return Volume.read(self.label, window=(0, 1)).read_labels(self.label)


def btcv_cases(root: str | Path) -> tuple[Case, ...]:
    """The training cases of BTCV or of its twin, in the order of their numbers.

    Args:
        root: the folder that holds `Abdomen`, `RawData` or `Training`, or `Training` itself.

    Raises:
        ValueError: the folder is missing, has another layout or no case, or a label is missing.
    """
    training = _training_folder(Path(root))
    if training is None:
        raise ValueError(
            f"a BTCV folder must hold RawData/Training/img and label, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            " point at the folder into which RawData.zip was unpacked"
        )
    images = sorted((training / "img").glob("img*.nii.gz"))
    if not images:
        raise ValueError(f"{training / 'img'} must hold img0001.nii.gz and so on, but holds none")
    labels = [training / "label" / image.name.replace("img", "label") for image in images]
    missing = [label.name for label in labels if not label.is_file()]
    if missing:
        raise ValueError(
            f"every BTCV image needs its label, but {training / 'label'} lacks"
            f" {', '.join(missing)}; copy them there or remove their images"
        )
    twin = (training / MARKER).is_file()
    collection = "BTCV twin (synthetic)" if twin else "BTCV"
    return tuple(
        # BTCV's terms do not cover weights that are free for any use
        Case(image.name.removesuffix(".nii.gz"), image, label, BTCV_LABELS, collection, twin)
        for image, label in zip(images, labels, strict=True)
    )


def is_twin(root: str | Path) -> bool:
    """Whether the BTCV folder holds phantoms in place of patients."""
    training = _training_folder(Path(root))
    return training is not None and (training / MARKER).is_file()


def find_btcv(data_root: str | Path | None) -> Path | None:
    """The folder for `btcv_cases` in the data folder (`LIMNET_DATA`), None where there is none."""
    if data_root is None:
        return None
    if not Path(data_root).is_dir():
        raise ValueError(f"the data folder must exist, got {data_root}; correct LIMNET_DATA")
    candidates = (*(Path(data_root) / name for name in BTCV_FOLDERS), Path(data_root))
    return next((folder for folder in candidates if _training_folder(folder)), None)


def _training_folder(root: Path) -> Path | None:
    folders = (root / layout for layout in BTCV_LAYOUTS)
    return next((folder for folder in folders if (folder / "img").is_dir()), None)


def write_btcv_twin(
    root: str | Path,
    *,
    cases: int = 3,
    seed: int = 0,
    shape: tuple[int, int, int] = (44, 160, 160),
    spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
) -> tuple[Case, ...]:
    """The first `cases` phantoms of the twin in `root`, written where they are missing.

    Phantoms of another seed, grid or version of the phantoms are replaced.

    Raises:
        ValueError: the folder holds a BTCV that is no twin, or `cases` is not 1 to 30.
    """
    if not 1 <= cases <= len(BTCV_NUMBERS):
        raise ValueError(f"a twin has 1 to {len(BTCV_NUMBERS)} cases, as BTCV has, got {cases}")
    training = _training_folder(Path(root)) or Path(root) / "RawData" / "Training"
    marker = training / MARKER
    recipe = {"what": "synthetic phantoms in the layout of BTCV", "version": VERSION, "seed": seed}
    recipe |= {"shape": list(shape), "spacing_mm": list(spacing_mm)}
    stale = [*training.glob("img/img*.nii.gz"), *training.glob("label/label*.nii.gz")]
    if stale and not marker.is_file():
        raise ValueError(f"a twin must not overwrite {training}, which is no twin; choose another")
    if not marker.is_file() or json.loads(marker.read_text()) != recipe:
        for path in stale:
            path.unlink(missing_ok=True)
        training.mkdir(parents=True, exist_ok=True)
        _write(marker, lambda path: path.write_text(json.dumps(recipe, indent=1)))
    for index, number in enumerate(BTCV_NUMBERS[:cases]):
        image = training / "img" / f"img{number:04d}.nii.gz"
        label = training / "label" / f"label{number:04d}.nii.gz"
        if image.is_file() and label.is_file():
            continue
        patient = TWIN_SEEDS + len(BTCV_NUMBERS) * seed + index
        phantom = abdomen(patient, shape=shape, spacing_mm=spacing_mm)
        _write_nifti(label, phantom.labels, spacing_mm)
        _write_nifti(image, phantom.images, spacing_mm)
    return btcv_cases(training)[:cases]


def _write_nifti(path: Path, slices: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Saves slices (upwards, rows to the back, columns to the left) in the LAS+ order of BTCV."""
    data = slices[:, ::-1].transpose(2, 1, 0)
    steps = np.array(spacing_mm[::-1]) * (-1, 1, 1)
    affine = nibabel.affines.from_matvec(np.diag(steps), -steps * (np.array(data.shape) - 1) / 2)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, lambda partial: nibabel.save(image, partial))


def _write(path: Path, save) -> None:
    """Saves under another name first, so that a file that exists is whole."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def collection_cases(root: str | Path) -> tuple[Case, ...]:
    """The cases of one collection, or of all collections in a data folder, sorted by name.

    A collection is a folder with a `collection.json` and one folder a case with `image.nii.gz`
    (may be absent) and `label.nii.gz`, or with `frames` and `masks`; these may also lie directly
    in it. In a data folder, collections of another kind are passed over.

    Raises:
        ValueError: there is no such folder or no case in it, or a `collection.json` is unreadable.
    """
    root = Path(root)
    descriptions = sorted(path / "collection.json" for path in (root, *root.glob("*/")))
    cases = [case for path in descriptions if path.is_file() for case in _cases_of(path)]
    if not cases:
        raise ValueError(
            f"{root} must hold a collection.json and cases (label.nii.gz, or frames and masks),"
            " or folders that do; none was found"
        )
    return tuple(cases)


def _cases_of(description: Path) -> list[Case]:
    try:
        about = json.loads(description.read_text(encoding="utf-8"))
        named = about.get("labels")
        labels = {name: int(i) for i, name in named.items()} if isinstance(named, dict) else {}
        trainable = "weights" in str(about.get("use", ""))
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{description} must be a JSON object with labels: {error}") from error
    cases = []
    for folder in (description.parent, *sorted(description.parent.glob("*/"))):
        image, label = folder / "image.nii.gz", folder / "label.nii.gz"
        if (folder / "frames").is_dir() and (folder / "masks").is_dir():
            image, label = folder / "frames", folder / "masks"
        if label.exists():
            image = image if image.exists() else None
            collection = description.parent.name
            cases.append(Case(folder.name, image, label, labels, collection, trainable))
    return cases


class ScribbledSlice(NamedTuple):
    """A slice on which several people scribbled (MedScribble, Wong et al., 2024)."""

    name: str
    image: Float32[np.ndarray, "1 height width"]  # in [0, 1]
    target: Bool[np.ndarray, "1 height width"]
    clicks: tuple[tuple[Click, ...], ...]  # a person: the middle of their largest scribble on
    # the structure, and of the largest one off it


def scribbled_slices(root: str | Path) -> Iterator[ScribbledSlice]:
    """The slices in a folder of `.npz` files with `img`, `seg` and `scribble_0`, `scribble_1`, ...

    Raises:
        ValueError: there is no such file, or one lacks an array.
    """
    paths = sorted(Path(root).glob("*.npz"))
    if not paths:
        raise ValueError(f"{root} must hold npz files with img, seg and scribble_0, got none")
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name].astype(np.float32) for name in file.files}
            image, target = arrays["img"][None], arrays["seg"][None] > 0.5
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise ValueError(f"{path} must be an npz with img and seg: {error}") from error
        people = [arrays[name] for name in sorted(arrays) if name.startswith("scribble_")]
        clicks = tuple(tuple(_clicks_on(scribbles)) for scribbles in people)
        yield ScribbledSlice(path.stem, image, target, clicks)


def _clicks_on(scribbles: Float32[np.ndarray, "2 height width"]) -> Iterator[Click]:
    for positive, scribble in zip((True, False), scribbles > 0.5, strict=True):
        strokes, count = ndimage.label(scribble, np.ones((3, 3)))
        if count:
            largest = np.argwhere(strokes == 1 + np.argmax(np.bincount(strokes.ravel())[1:]))
            offset = np.square(largest - largest.mean(axis=0)).sum(axis=1)
            row, column = largest[offset.argmin()].tolist()
            yield Click(0, row, column, positive)


def example_case(data_root: str | Path | None, twin: str | Path) -> Case:
    """The abdominal CT of a data folder if there is one, else the first case of a BTCV twin.

    Args:
        data_root: our own collections (`LIMNET_DATA`); None where there is no data folder.
        twin: folder for the twin, written if needed.
    """
    collection = Path(data_root) / "abdomen_ct" if data_root else None
    if collection is not None and collection.is_dir():
        return collection_cases(collection)[0]
    return write_btcv_twin(twin, cases=1)[0]
