"""AMOS 2022, abdominal organs whose slices train the click network, and its synthetic twin.

Ji et al., "AMOS: A Large-Scale Abdominal Multi-Organ Benchmark", arXiv:2206.08023; the archive is
amos22.zip of zenodo.org/records/7155725. Table III counts 6,263 slices for training and 253 for
tests, all of CT; which ones the paper does not say.
"""

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from limnet.data.cases import Case
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.abdomen import STRUCTURES, VERSION, abdomen
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first, write_slices

_NAMES = (  # the id is the index and one more, by the dataset.json of the archive
    "spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, "
    "inferior vena cava, pancreas, right adrenal gland, left adrenal gland, duodenum, bladder, "
    "prostate or uterus"
)
AMOS_LABELS = {name: index for index, name in enumerate(_NAMES.split(", "), start=1)}
AMOS_IDS = (0, *AMOS_LABELS.values())
AMOS_FIRST_MR = 501  # its readme.md: MR have the higher numbers; the first one is 507
AMOS_LAST = 600
AMOS_VALIDATED = 100  # CT with labels in imagesVa
AMOS_LAYOUTS = ("amos22", ".")
AMOS_FOLDERS = ("amos", "AMOS", "amos22", ".")  # where a data folder may hold it
PARTS = ("Va", "Tr")  # that have labels; those of imagesTs were not published
SUFFIX = ".nii.gz"
LIST = "dataset.json"


def amos_cases(root: str | Path, *, modality: str = "CT") -> tuple[Case, ...]:
    """The cases of AMOS or of its twin with labels, of one modality: imagesVa, then imagesTr.

    For us imagesVa, the challenge's validation, tests and imagesTr trains: the labels of the test
    cases in imagesTs were not published. In each folder the order is that of the numbers.

    Args:
        root: the folder that holds `amos22`, or this itself.
        modality: "CT", as in the paper, or "MR".

    Raises:
        ValueError: the folder is missing or has another layout, `dataset.json` has other labels, a
            file has another name, or an image lacks its label.
    """
    if modality not in ("CT", "MR"):
        raise ValueError(f"modality must be CT or MR, got {modality!r}")
    folder = _amos_folder(Path(root))
    if folder is None:
        raise ValueError(
            f"an AMOS folder must hold amos22/imagesTr/amos_0001{SUFFIX} and so on, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            " point at the folder into which amos22.zip was unpacked"
        )
    _check_labels(folder / LIST)
    twin = is_twin(folder)
    collection = "AMOS twin (synthetic)" if twin else "AMOS"
    cases = tuple(
        # CC BY by Zenodo's record, CC BY-NC by the paper's page: the stricter one holds
        Case(
            image.name.removesuffix(SUFFIX),
            image,
            folder / f"labels{part}" / image.name,
            AMOS_LABELS,
            collection,
            twin,
            slice_axis=2,  # also where slices are thinner than their pixels
            ids=AMOS_IDS,
        )
        for part in PARTS
        for image in _images(folder / f"images{part}", modality)
    )
    _check_files(folder, cases)
    return cases


def _check_labels(path: Path) -> None:
    """`dataset.json`, where it is there, must be that of the fifteen organs.

    Its spelling ("arota") is not compared: it may be corrected one day.
    """
    if not path.is_file():
        return
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        ids = sorted(map(int, labels))
    except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON object with labels, but: {error!r}; unpack amos22.zip again"
        ) from error
    if ids != [*AMOS_IDS]:
        raise ValueError(
            f"the labels of AMOS must be 0 to {AMOS_IDS[-1]}, got {labels} in {path}; point at the"
            " folder of AMOS"
        )


def _images(folder: Path, modality: str) -> list[Path]:
    """The images of a folder in the order of their numbers."""
    paths = sorted(folder.glob(f"[!.]*{SUFFIX}"))
    misnamed = [path.name for path in paths if _number(path) is None]
    if misnamed:
        raise ValueError(
            f"the images of AMOS must be named amos_0001{SUFFIX} to amos_{AMOS_LAST:04d}{SUFFIX},"
            f" but {folder} holds {few(misnamed)}; rename or move them"
        )
    return [path for path in paths if (_number(path) >= AMOS_FIRST_MR) == (modality == "MR")]


def _number(path: Path) -> int | None:
    found = re.fullmatch(r"amos_(\d{4})\.nii\.gz", path.name)
    return int(found[1]) if found and 1 <= int(found[1]) <= AMOS_LAST else None


def _check_files(folder: Path, cases: tuple[Case, ...]) -> None:
    labels = [case.label for case in cases]
    missing = [f"{path.parent.name}/{path.name}" for path in labels if not path.is_file()]
    if missing:
        raise ValueError(
            f"every AMOS image in imagesTr and imagesVa needs its label, but {folder} lacks"
            f" {few(missing)}; the release of October 2022 has both, or remove these images"
        )
    if not cases:
        raise ValueError(f"{folder} must hold images of this modality, got none; copy them there")


def find_amos(data_root: str | Path | None) -> Path | None:
    """The folder for `amos_cases` in the data folder (`LIMNET_DATA`), None where there is none."""
    return find_folder(data_root, AMOS_FOLDERS, _amos_folder)


def _amos_folder(root: Path) -> Path | None:
    return first_folder(
        root, AMOS_LAYOUTS, lambda folder: any(folder.glob(f"imagesTr/amos_*{SUFFIX}"))
    )


def write_amos_twin(
    root: str | Path,
    *,
    cases: int = 2,
    seed: int = 0,
    shape: tuple[int, int, int] = (44, 160, 160),
    spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
) -> tuple[Case, ...]:
    """The first `cases` test phantoms of the twin in `root`, written where they are missing.

    As many for training lie in imagesTr, and one without a label in imagesTs. Bladder and prostate
    lie below the phantoms. Phantoms of another seed, grid or version are replaced.

    Raises:
        ValueError: the folder holds an AMOS that is no twin, or `cases` is not 1 to 100.
    """
    if not 1 <= cases <= AMOS_VALIDATED:
        raise ValueError(f"a twin has 1 to {AMOS_VALIDATED} test cases, as AMOS has, got {cases}")
    folder = _amos_folder(Path(root)) or Path(root) / "amos22"
    recipe = {"what": "synthetic phantoms in the layout of AMOS", "version": VERSION, "seed": seed}
    recipe |= {"shape": list(shape), "spacing_mm": list(spacing_mm)}
    begin_twin(folder, recipe, folder.glob(f"*/[!.]*{SUFFIX}"))
    tests = range(AMOS_VALIDATED + 1, AMOS_VALIDATED + 1 + cases)
    numbers = {"Tr": range(1, 1 + cases), "Va": tests, "Ts": [2 * AMOS_VALIDATED + 1]}
    for part, number in ((part, number) for part, some in numbers.items() for number in some):
        name = f"amos_{number:04d}{SUFFIX}"
        image, label = folder / f"images{part}" / name, folder / f"labels{part}" / name
        if image.is_file() and (label.is_file() or part not in PARTS):
            continue
        patient = 6 * TWIN_SEEDS + AMOS_LAST * seed + number
        phantom = abdomen(patient, shape=shape, spacing_mm=spacing_mm)
        if part in PARTS:
            write_slices(label, _labels(phantom.structures), spacing_mm)
        write_slices(image, phantom.images, spacing_mm)
    _write_list(folder)
    named = {f"amos_{number:04d}" for number in tests}
    return tuple(case for case in amos_cases(folder) if case.name in named)


def _labels(
    structures: UInt8[np.ndarray, "slices height width"],
) -> UInt8[np.ndarray, "slices height width"]:
    """The organs of a phantom with the ids that AMOS gives them."""
    ids = np.zeros(1 + max(STRUCTURES.values()), np.uint8)
    for name in AMOS_LABELS.keys() & STRUCTURES.keys():
        ids[STRUCTURES[name]] = AMOS_LABELS[name]
    return ids[structures]


def _write_list(folder: Path) -> None:
    labels = {"0": "background"} | {str(label): name for name, label in AMOS_LABELS.items()}
    content = {"name": "AMOS", "modality": {"0": "CT"}, "labels": labels}
    for part, key in (("Tr", "training"), ("Va", "validation"), ("Ts", "test")):
        names = sorted(path.name for path in folder.glob(f"images{part}/[!.]*{SUFFIX}"))
        content[key] = [
            {"image": f"./images{part}/{name}"}
            | ({"label": f"./labels{part}/{name}"} if part in PARTS else {})
            for name in names
        ]
    write_first(folder / LIST, lambda path: path.write_text(json.dumps(content, indent=1)))
