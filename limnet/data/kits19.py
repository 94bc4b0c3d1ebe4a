"""KiTS19, kidneys and their tumours (Table I), and its synthetic twin.

Heller et al., "The KiTS19 Challenge Data", arXiv:1904.00445; github.com/neheller/kits19.
"""

import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from limnet.data.cases import Case
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.abdomen import STRUCTURES, VERSION, Phantom, abdomen
from limnet.data.synthetic.lesions import VERSION as LESIONS_VERSION
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first

KITS19_LABELS = {"kidney": (1, 2), "tumour": 2}  # name -> id; the organ contains its tumour
KITS19_CASES = 210  # numbers 0 to 209 have a segmentation, 210 to 299 are the test cases (#77)
KITS19_ALL = 300
KITS19_LAYOUTS = ("data", ".")
KITS19_FOLDERS = ("kits19", "KiTS19", "kits19-master", ".")  # where a data folder may hold it
IMAGE, SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"
NO_SECOND_PHASE = "until April 2019 a second, unlabelled contrast phase followed the first (#6)"
# What neheller/kits19 says (changelog.md, issue numbers). A clone from 2020 on has the corrections;
# the changelog of the crops has case 22 where the issue, and its answer, have case 25.
KITS19_FAULTS = {
    "case_00015": "until December 2019 fluid in the spleen was labelled kidney (#21)",
    "case_00022": NO_SECOND_PHASE,
    "case_00023": "until December 2019 place and extent of the tumour were wrong",
    "case_00025": "a second, unlabelled contrast phase follows the first (#6); no fix is recorded",
    "case_00037": "until December 2019 a cystic tumour was labelled as kidney",
    "case_00061": NO_SECOND_PHASE,
    "case_00117": NO_SECOND_PHASE,
    "case_00125": "until December 2019 place and extent of the tumour were wrong",
    "case_00160": "its slices have 512 x 796 pixels, all others 512 x 512 (#13)",
}


def kits19_cases(root: str | Path) -> tuple[Case, ...]:
    """The cases of KiTS19, or of its twin, that have a segmentation, in order of their numbers.

    The official test cases, which have none, are passed over. The cases in KITS19_FAULTS are read
    as all others, since none of their faults makes a file unusable: leave out what you do not want.

    Args:
        root: the folder that holds `data`, or `data` itself.

    Raises:
        ValueError: the folder is missing or has another layout, a folder of a case has another
            name, or a case lacks a file that it must have.
    """
    data = _data_folder(Path(root))
    if data is None:
        raise ValueError(
            f"a KiTS19 folder must hold data/case_00000 and so on, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            " point at the clone of github.com/neheller/kits19"
        )
    twin = is_twin(data)
    collection = "KiTS19 twin (synthetic)" if twin else "KiTS19"
    return tuple(
        # KiTS19 is CC BY-NC-SA: weights that are free for any use must not be trained on it
        Case(
            folder.name,
            folder / IMAGE,
            folder / SEGMENTATION,
            KITS19_LABELS,
            collection,
            twin,
            slice_axis=0,  # also where slices are thinner than their pixels
            ids=(0, 1, 2),
        )
        for folder in _labelled(data)
    )


def _labelled(data: Path) -> list[Path]:
    """The folders of the cases with a segmentation, each whole."""
    folders = sorted(data.glob("case_*/"))
    misnamed = [folder.name for folder in folders if _number(folder) is None]
    if misnamed:
        raise ValueError(
            f"the cases of KiTS19 must be named case_00000 to case_{KITS19_ALL - 1:05d}, but {data}"
            f" holds {few(misnamed)}; rename or move them"
        )
    labelled = [
        folder
        for folder in folders
        if _number(folder) < KITS19_CASES or (folder / SEGMENTATION).is_file()
    ]
    files = [folder / name for folder in labelled for name in (IMAGE, SEGMENTATION)]
    missing = [f"{path.parent.name}/{path.name}" for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            f"every KiTS19 case below {KITS19_CASES} needs {IMAGE} and {SEGMENTATION}, but {data}"
            f" lacks {few(missing)}; the clone has the segmentations, and its"
            " starter_code.get_imaging fetches the images; or remove these cases"
        )
    if not labelled:
        raise ValueError(
            f"{data} must hold cases with a {SEGMENTATION}, but these are test cases alone; copy"
            f" case_00000 to case_{KITS19_CASES - 1:05d} there"
        )
    return labelled


def find_kits19(data_root: str | Path | None) -> Path | None:
    """The folder for `kits19_cases` in the data folder (`LIMNET_DATA`), None if there is none."""
    return find_folder(data_root, KITS19_FOLDERS, _data_folder)


def _data_folder(root: Path) -> Path | None:
    return first_folder(root, KITS19_LAYOUTS, lambda folder: any(folder.glob("case_*/")))


def _number(folder: Path) -> int | None:
    found = re.fullmatch(r"case_(\d{5})", folder.name)
    number = int(found[1]) if found else KITS19_ALL
    return number if number < KITS19_ALL else None


def write_kits19_twin(
    root: str | Path,
    *,
    cases: int = 2,
    seed: int = 0,
    shape: tuple[int, int, int] = (44, 160, 160),
    spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
) -> tuple[Case, ...]:
    """The first `cases` phantoms of the twin in `root`, written where they are missing.

    Each has one tumour in or on a kidney. A test case without a segmentation lies beside them, as
    in the real set. Phantoms of another seed, grid or version are replaced.

    Raises:
        ValueError: the folder holds a KiTS19 that is no twin, or `cases` is not 1 to 210.
    """
    if not 1 <= cases <= KITS19_CASES:
        raise ValueError(f"a twin has 1 to {KITS19_CASES} cases, as KiTS19 has, got {cases}")
    data = _data_folder(Path(root)) or Path(root) / "data"
    recipe = {"what": "synthetic phantoms in the layout of KiTS19", "seed": seed}
    recipe |= {"version": [VERSION, LESIONS_VERSION], "shape": list(shape)}
    files = data.glob("case_*/[!.]*.nii.gz")
    begin_twin(data, recipe | {"spacing_mm": list(spacing_mm)}, files)
    for number in (*range(cases), KITS19_CASES):
        folder = data / f"case_{number:05d}"
        names = (IMAGE, SEGMENTATION) if number < KITS19_CASES else (IMAGE,)
        if all((folder / name).is_file() for name in names):
            continue
        phantom = _patient(2 * TWIN_SEEDS + KITS19_ALL * seed + number, shape, spacing_mm)
        if SEGMENTATION in names:
            _write(folder / SEGMENTATION, phantom.labels, spacing_mm)
        _write(folder / IMAGE, phantom.images.astype(np.float32), spacing_mm)
    return kits19_cases(data)[:cases]


def _patient(
    seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Phantom:
    """A phantom whose kidneys have label 1 and the tumour of one of them label 2."""
    phantom = abdomen(seed, shape=shape, spacing_mm=spacing_mm)
    kidneys = ("left kidney", "right kidney")
    is_kidney = np.isin(phantom.structures, [STRUCTURES[name] for name in kidneys])
    phantom = replace(phantom, labels=is_kidney.astype(np.uint8))
    return with_lesion(phantom, kidneys[seed % 2], seed, label=2)


def _write(path: Path, slices: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Saves slices (upwards, rows to the back, columns to the left) as KiTS19 does.

    The file's axes are slices from head to feet, rows to the back, columns to the left; its affine
    has no origin (README.md, "Voxel Spacing").
    """
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[[2, 1, 0], [0, 1, 2]] = np.negative(spacing_mm)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(slices[::-1], affine)
    write_first(path, lambda partial: nibabel.save(image, partial))
