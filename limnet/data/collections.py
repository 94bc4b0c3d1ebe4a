"""Our own collections of labelled images: folders that describe themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from limnet.data.cases import Case
from limnet.data.nifti_sets import BTCV
from limnet.method.prompts import Click

PERMISSION = "may_train_weights"  # field of a collection.json; a collection without never trains


def collection_cases(root: str | Path) -> tuple[Case, ...]:
    """The cases of one collection, or of all collections in a data folder, sorted by name.

    A collection is a folder with a `collection.json` and one folder a case with `image.nii.gz`
    (may be absent) and `label.nii.gz`, or with `frames` and `masks`; these may also lie directly
    in it. In a data folder, collections of another kind are passed over.

    Its cases may train only where `collection.json` says `"may_train_weights": true`.

    Raises:
        ValueError: there is no such folder or no case in it, or a `collection.json` is unreadable
            or says something else than true or false.
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
        trainable = about.get(PERMISSION, False)
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{description} must be a JSON object with labels: {error}") from error
    if not isinstance(trainable, bool):
        raise ValueError(
            f"{PERMISSION} in {description} must be true or false, got {trainable!r}; say whether"
            " the licence lets weights that ship be trained on the collection"
        )
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
    return BTCV.write_twin(twin, cases=1)[0]
