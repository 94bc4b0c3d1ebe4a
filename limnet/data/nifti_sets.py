"""BTCV, the data set of Table IV, and its synthetic twin.

"Multi-Atlas Labeling Beyond the Cranial Vault", abdomen, doi:10.7303/syn3193805.
"""

import re
from pathlib import Path

from limnet.data.cases import Case
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.abdomen import ORGANS, VERSION, abdomen
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_slices

BTCV_LABELS = ORGANS  # name -> id
BTCV_IDS = (0, *BTCV_LABELS.values())
BTCV_NUMBERS = (*range(1, 11), *range(21, 41))  # of the 30 training cases
BTCV_LAYOUTS = (".", "Training", "RawData/Training", "Abdomen/RawData/Training")
BTCV_FOLDERS = ("btcv", "BTCV", "Abdomen", ".")  # where a data folder may hold it


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
    _refuse_other_names(training)
    if not images:
        raise ValueError(f"{training / 'img'} must hold img0001.nii.gz and so on, but holds none")
    labels = [training / "label" / image.name.replace("img", "label") for image in images]
    missing = [label.name for label in labels if not label.is_file()]
    if missing:
        raise ValueError(
            f"every BTCV image needs its label, but {training / 'label'} lacks"
            f" {', '.join(missing)}; copy them there or remove their images"
        )
    twin = is_twin(training)
    collection = "BTCV twin (synthetic)" if twin else "BTCV"
    return tuple(
        # BTCV's terms do not cover weights that are free for any use
        Case(
            image.name.removesuffix(".nii.gz"),
            image,
            label,
            BTCV_LABELS,
            collection,
            twin,
            ids=BTCV_IDS,
        )
        for image, label in zip(images, labels, strict=True)
    )


def _refuse_other_names(training: Path) -> None:
    """Every image and label has its number, and every label its image."""
    for folder in ("img", "label"):
        found = [path.name for path in (training / folder).glob("[!.]*.nii*")]
        misnamed = [name for name in found if not re.fullmatch(rf"{folder}\d{{4}}\.nii\.gz", name)]
        if misnamed:
            raise ValueError(
                f"files in {training / folder} must be named {folder}0001.nii.gz and so on, but"
                f" there is {few(sorted(misnamed))}; rename or move them"
            )
    labels = sorted(path.name for path in (training / "label").glob("label*.nii.gz"))
    alone = [
        name for name in labels if not (training / "img" / name.replace("label", "img")).is_file()
    ]
    if alone:
        raise ValueError(
            f"every BTCV label needs its image, but {training / 'img'} lacks that of {few(alone)};"
            " copy them there or remove their labels"
        )


def find_btcv(data_root: str | Path | None) -> Path | None:
    """The folder for `btcv_cases` in the data folder (`LIMNET_DATA`), None where there is none."""
    return find_folder(data_root, BTCV_FOLDERS, _training_folder)


def _training_folder(root: Path) -> Path | None:
    return first_folder(root, BTCV_LAYOUTS, lambda folder: (folder / "img").is_dir())


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
    recipe = {"what": "synthetic phantoms in the layout of BTCV", "version": VERSION, "seed": seed}
    recipe |= {"shape": list(shape), "spacing_mm": list(spacing_mm)}
    files = [*training.glob("img/img*.nii.gz"), *training.glob("label/label*.nii.gz")]
    begin_twin(training, recipe, files)
    for index, number in enumerate(BTCV_NUMBERS[:cases]):
        image = training / "img" / f"img{number:04d}.nii.gz"
        label = training / "label" / f"label{number:04d}.nii.gz"
        if image.is_file() and label.is_file():
            continue
        patient = TWIN_SEEDS + len(BTCV_NUMBERS) * seed + index
        phantom = abdomen(patient, shape=shape, spacing_mm=spacing_mm)
        write_slices(label, phantom.labels, spacing_mm)
        write_slices(image, phantom.images, spacing_mm)
    return btcv_cases(training)[:cases]
