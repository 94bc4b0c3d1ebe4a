"""Lung, pancreas and colon of the Medical Segmentation Decathlon, and their synthetic twins.

Table I has the tumours of lung and colon, Table V those of the pancreas. Simpson et al., "A large
annotated medical image dataset", arXiv:1902.09063; medicaldecathlon.com.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from limnet.data.cases import Case
from limnet.data.layout import few, find_folder, first_folder
from limnet.data.synthetic.abdomen import STRUCTURES, VERSION, Phantom, abdomen
from limnet.data.synthetic.lesions import VERSION as LESIONS_VERSION
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first, write_slices


@dataclass(frozen=True)
class MsdTask:
    """One task of the Decathlon."""

    folder: str  # as its tar archive unpacks
    labels: dict[str, int | tuple[int, ...]]  # name -> id; an organ contains its tumour
    official: dict[str, str]  # the labels in its dataset.json
    cases: int  # pairs that its dataset.json lists for training


MSD_TASKS = {
    # the paper counts 64; the list in dataset.json has 63
    "lung": MsdTask("Task06_Lung", {"tumour": 1}, {"0": "background", "1": "cancer"}, 63),
    "pancreas": MsdTask(
        "Task07_Pancreas",
        {"pancreas": (1, 2), "tumour": 2},
        {"0": "background", "1": "pancreas", "2": "cancer"},
        281,
    ),
    "colon": MsdTask(
        "Task10_Colon", {"tumour": 1}, {"0": "background", "1": "colon cancer primaries"}, 126
    ),
}
MSD_FOLDERS = ("msd", "MSD", "decathlon", ".")  # where a data folder may hold the tasks
LIST = "dataset.json"
JUNK = "._"  # macOS left such files in the archives (nnUNet #240)
SUFFIX = ".nii.gz"
FILES = (LIST, f"imagesTr/[!.]*{SUFFIX}", f"labelsTr/[!.]*{SUFFIX}")


def msd_cases(root: str | Path, task: str) -> tuple[Case, ...]:
    """The training cases of one task, or of its twin, sorted by name.

    The list in `dataset.json` counts. Names that begin with "._" are passed over.

    Args:
        root: the folder that holds the task's folder (`Task06_Lung`), or this itself.
        task: "lung", "pancreas" or "colon".

    Raises:
        ValueError: the folder is missing or has another layout, `dataset.json` cannot be read, is
            of another task or leaves its folder, or a file that it lists is missing.
    """
    about = _task(task)
    folder = _task_folder(Path(root), about)
    if folder is None:
        raise ValueError(
            f"the Decathlon's {task} must be a folder {about.folder} with {LIST}, got {root}"
            f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
            f" point at the folder into which {about.folder}.tar was unpacked"
        )
    names = _listed_names(folder / LIST, about)
    _check_files(folder, names, about)
    twin = is_twin(folder)
    collection = f"MSD {task.capitalize()}" + " twin (synthetic)" * twin
    images, labels = folder / "imagesTr", folder / "labelsTr"
    return tuple(
        # CC BY-SA 4.0 asks that what is made from the data is shared under the same terms
        Case(
            name.removesuffix(SUFFIX),
            images / name,
            labels / name,
            about.labels,
            collection,
            twin,
            slice_axis=2,  # also where slices are thinner than their pixels
            ids=tuple(map(int, about.official)),
        )
        for name in names
    )


def find_msd(data_root: str | Path | None, task: str) -> Path | None:
    """The folder for `msd_cases` in the data folder (`LIMNET_DATA`), None where there is none."""
    about = _task(task)
    holder = find_folder(data_root, MSD_FOLDERS, lambda folder: _is_task(folder / about.folder))
    return holder and holder / about.folder


def _task(task: str) -> MsdTask:
    if task not in MSD_TASKS:
        raise ValueError(f"a task of the Decathlon must be of {[*MSD_TASKS]}, got {task!r}")
    return MSD_TASKS[task]


def _task_folder(root: Path, about: MsdTask) -> Path | None:
    return first_folder(root, (about.folder, "."), _is_task)


def _is_task(folder: Path) -> bool:
    return (folder / LIST).is_file()


def _listed_names(path: Path, about: MsdTask) -> list[str]:
    """The file names of the training cases. The file is untrusted: it may name any path."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = {key: name.lower() for key, name in content["labels"].items()}
        pairs = [(Path(pair["image"]), Path(pair["label"])) for pair in content["training"]]
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON object with labels and training, but: {error!r}; unpack"
            f" {about.folder}.tar again"
        ) from error
    if labels != about.official:
        raise ValueError(
            f"the labels of {about.folder} must be {about.official}, got {labels} in {path}; point"
            " at the folder of the right task"
        )
    pairs = [pair for pair in pairs if not pair[0].name.startswith(JUNK)]
    for image, label in pairs:
        is_inside = image.parts[:-1] == ("imagesTr",) and label.parts == ("labelsTr", image.name)
        if not is_inside or not image.name.endswith(SUFFIX):
            raise ValueError(
                f"{path} must list pairs imagesTr/NAME{SUFFIX} and labelsTr/NAME{SUFFIX}, got"
                f" {image} and {label}; correct the list"
            )
    if not pairs:
        raise ValueError(
            f"{path} must list training cases, but lists none; unpack {about.folder}.tar again"
        )
    return sorted({image.name for image, _ in pairs})


def _check_files(folder: Path, names: list[str], about: MsdTask) -> None:
    files = [f"{part}/{name}" for name in names for part in ("imagesTr", "labelsTr")]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"every case that {LIST} lists needs its image and label, but {folder} lacks"
            f" {few(missing)}; unpack {about.folder}.tar again, or take them off"
            " the list"
        )


def write_msd_twin(
    root: str | Path,
    task: str,
    *,
    cases: int = 2,
    seed: int = 0,
    shape: tuple[int, int, int] = (44, 160, 160),
    spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
) -> tuple[Case, ...]:
    """The first `cases` phantoms of a task's twin in `root`, written where they are missing.

    Each has one tumour: in the base of a lung, in the pancreas, or on the wall of the colon.
    The archives' "._" files lie beside them. Phantoms of another seed, grid or version are
    replaced.

    Raises:
        ValueError: the folder holds a task that is no twin, or `cases` is not 1 to the task's.
    """
    about = _task(task)
    if not 1 <= cases <= about.cases:
        raise ValueError(f"a twin has 1 to {about.cases} cases, as {task} has, got {cases}")
    folder = Path(root) if Path(root).name == about.folder else Path(root) / about.folder
    recipe = {"what": f"synthetic phantoms in the layout of {about.folder}", "seed": seed}
    recipe |= {"version": [VERSION, LESIONS_VERSION], "shape": list(shape)}
    files = [path for pattern in FILES for path in folder.glob(pattern)]
    begin_twin(folder, recipe | {"spacing_mm": list(spacing_mm)}, files)
    names = [f"{task}_{number + 1:03d}{SUFFIX}" for number in range(cases)]
    for number, name in enumerate(names):
        image, label = folder / "imagesTr" / name, folder / "labelsTr" / name
        if image.is_file() and label.is_file():
            continue
        of_task = (3 + [*MSD_TASKS].index(task)) * TWIN_SEEDS
        phantom = _patient(of_task + about.cases * seed + number, task, shape, spacing_mm)
        for path, slices in ((label, phantom.labels), (image, phantom.images)):
            write_slices(path, slices.astype(np.float32), spacing_mm)  # as they are stored
            path.with_name(JUNK + name).write_bytes(b"\0\5\26\7")  # AppleDouble
    _write_list(folder, about)
    return msd_cases(folder, task)[:cases]


def _patient(
    seed: int, task: str, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Phantom:
    """A phantom with the task's labels: its tumour and, if it has a label, the organ."""
    phantom = abdomen(seed, shape=shape, spacing_mm=spacing_mm)
    labels = MSD_TASKS[task].labels
    is_organ = (phantom.structures == STRUCTURES[task]) & (task in labels)
    phantom = replace(phantom, labels=is_organ.astype(np.uint8))
    return with_lesion(phantom, task, seed, label=labels["tumour"])


def _write_list(folder: Path, about: MsdTask) -> None:
    names = sorted(path.name for path in folder.glob(FILES[1]))
    pairs = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    content = {"name": about.folder, "modality": {"0": "CT"}, "labels": about.official}
    content |= {"numTraining": len(pairs), "training": pairs, "numTest": 0, "test": []}
    write_first(folder / LIST, lambda path: path.write_text(json.dumps(content, indent=1)))
