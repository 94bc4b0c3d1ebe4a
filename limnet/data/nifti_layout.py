"""One layout of NIfTI data sets: one reader, one checker and one writer of synthetic twins."""

import json
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np

from limnet.data.cases import Case, few
from limnet.data.folders import SetFolder
from limnet.data.synthetic.abdomen import STRUCTURES, VERSION, Phantom, abdomen
from limnet.data.synthetic.lesions import VERSION as LESIONS_VERSION
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import begin_twin, is_twin, write_first, write_slices

LIST = "dataset.json"
JUNK = "._"  # macOS left such files in the archives (nnUNet #240)
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError)


class Pairs(NamedTuple):
    """Where a set has its images and their labels; `{}` stands for an id."""

    image: str
    label: str | None  # None: the labels were not published
    listed_as: str = "training"  # key of dataset.json


class TwinFile(NamedTuple):
    """One phantom of a twin."""

    number: int  # counts from the seed of the twin
    id: str
    pairs: Pairs


@dataclass(frozen=True)
class Layout(SetFolder):
    """One set of NIfTI files: what its folder looks like, what its labels mean, what its twin has.

    None of these sets may train weights that are free for any use: BTCV's terms do not cover them,
    KiTS19 is CC BY-NC-SA, AMOS CC BY-NC by the paper's page, MSD CC BY-SA. Their twins may.
    """

    pairs: tuple[Pairs, ...]  # test cases first
    case: str  # name of a case, with {} for its id
    labels: dict[str, int | tuple[int, ...]]  # an organ contains its tumour
    ids: tuple[int, ...]  # all that its labels have
    most: int  # test cases of a twin
    seeds: tuple[int, int]  # of the twin with seed 0, and how far apart two twins are
    twin_files: Callable[[int], list[TwinFile]] = field(repr=False)  # for so many test cases
    structures: dict[str, int]  # of a phantom -> id
    digits: int = 4  # of an id
    known: Container[int] = range(10_000)  # ids that a file may have
    optional: Container[int] = ()  # those passed over where they have no label: test cases
    skipped: Container[int] = ()  # those always passed over: MR
    slice_axis: int | None = None  # also where slices are thinner than their pixels
    # of the ids in dataset.json, which must list the cases; (): no such file is needed
    names: tuple[str, ...] = ()
    writes_list: bool = False  # whether its twin has a dataset.json
    lesion_in: tuple[str, ...] = ()  # structures of a phantom, of which one has a lesion
    lesion: int = 0  # its id
    stored: tuple[type, type] = (np.int16, np.uint8)  # of images and of labels

    def read(self, root: str | Path) -> tuple[Case, ...]:
        """The cases with labels of the set, or of its twin, in the order of `pairs` and of ids.

        Args:
            root: the folder of the set, or one above it of those that `inside` names.

        Raises:
            ValueError: the folder is missing or has another layout, a file has another name, an
                image or label lacks the other one, or `dataset.json` is of another set.
        """
        folder = self.require(root)
        listed = self._check_list(folder / LIST)
        twin = is_twin(folder)
        cases = tuple(
            Case(
                self.case.format(each),
                folder / pairs.image.format(each),
                folder / pairs.label.format(each),
                self.labels,
                self.name + " twin (synthetic)" * twin,
                twin,
                slice_axis=self.slice_axis,
                ids=self.ids,
            )
            for pairs in self.pairs
            if pairs.label
            for each in (self._ids(folder, pairs) if listed is None else listed)
        )
        files = [path for case in cases for path in (case.image, case.label)]
        missing = [path.relative_to(folder).as_posix() for path in files if not path.is_file()]
        if missing or not cases:
            raise ValueError(
                f"every case of {self.name} needs its image and its label, but {folder} lacks"
                f" {few(missing) or 'all cases with labels'}; copy them from {self.source}, or"
                " remove what stands alone"
            )
        return cases

    def _ids(self, folder: Path, pairs: Pairs) -> list[str]:
        """The ids in the names of images and labels."""
        found, misnamed = set(), []
        for template in (pairs.image, pairs.label):
            holder, _, name = template.partition("{}")[0].rpartition("/")
            ending = template.partition("{}")[2].split("/")[0]
            pattern = re.compile(rf"{name}(\d{{{self.digits}}}){re.escape(ending)}")
            for path in (folder / holder).glob("[!.]*.nii*" if ending else f"{name}*/"):
                match = pattern.fullmatch(path.name)
                number = int(match[1]) if match else -1
                if number not in self.known:
                    misnamed.append(path.relative_to(folder).as_posix())
                elif number not in self.skipped and (
                    number not in self.optional or (folder / pairs.label.format(match[1])).is_file()
                ):
                    found.add(match[1])
        if misnamed:
            raise ValueError(
                f"files of {self.name} must be named {pairs.image.format('0' * self.digits)} and so"
                f" on, with numbers in {self.known}, but {folder} holds {few(sorted(misnamed))};"
                " rename or move them"
            )
        return sorted(found)

    def _check_list(self, path: Path) -> list[str] | None:
        """The ids that `dataset.json` lists. It is untrusted: it may name any path."""
        if not self.names and not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            labels = {int(key): name.lower() for key, name in content["labels"].items()}
            listed = [(each["image"], each["label"]) for each in content.get("training", ())]
            listed = {tuple(Path(file).as_posix() for file in each) for each in listed}
        except UNREADABLE as error:
            raise ValueError(
                f"{path} must be a JSON object with labels and training, but: {error!r}; take it"
                f" from {self.source} again"
            ) from error
        # the spelling of AMOS ("arota") is not compared: it may be corrected one day
        if sorted(labels) != sorted(self.ids) or (
            self.names and tuple(labels[key] for key in self.ids) != self.names
        ):
            raise ValueError(
                f"the labels of {self.name} must be {self.names or few(self.ids)}, got {labels} in"
                f" {path}; point at the folder of {self.source}"
            )
        if not self.names:
            return None
        listed = {pair for pair in listed if not Path(pair[0]).name.startswith(JUNK)}
        ids = sorted({Path(image).name.removesuffix(".nii.gz") for image, _ in listed})
        image, label, _ = self.pairs[0]
        strange = listed - {(image.format(each), label.format(each)) for each in ids}
        if strange or not ids:
            raise ValueError(
                f"{path} must list pairs of {image.format('NAME')} and {label.format('NAME')}, got"
                f" {few(sorted(strange)) or 'none'}; correct the list"
            )
        return ids

    def write_twin(
        self,
        root: str | Path,
        *,
        cases: int = 2,
        seed: int = 0,
        shape: tuple[int, int, int] = (44, 160, 160),
        spacing_mm: tuple[float, float, float] = (5.0, 2.4, 2.4),
    ) -> tuple[Case, ...]:
        """The first `cases` test phantoms of the twin in `root`, written where they are missing.

        Phantoms to train on and some without labels lie beside them where the set has them.
        Phantoms of another seed, grid or version are replaced.

        Raises:
            ValueError: the folder holds a set that is no twin, or `cases` is more than it has.
        """
        if not 1 <= cases <= self.most:
            raise ValueError(f"a twin has 1 to {self.most} cases, as {self.name} has, got {cases}")
        folder = self.holder(root) or Path(root) / self.inside[0]
        layout = self.inside[0] if self.names else self.name
        version = [VERSION, LESIONS_VERSION] if self.lesion else VERSION
        recipe = {"what": f"synthetic phantoms in the layout of {layout}", "version": version}
        recipe |= {"seed": seed, "shape": list(shape), "spacing_mm": list(spacing_mm)}
        templates = [each for pairs in self.pairs for each in pairs[:2] if each]
        files = {path for each in templates for path in folder.glob(each.replace("{}", "[!.]*"))}
        begin_twin(folder, recipe, {*files, *folder.glob(LIST)} if self.names else files)
        files = self.twin_files(cases)
        for number, each, pairs in files:
            patient = self.seeds[0] + self.seeds[1] * seed + number
            paths = [folder / template.format(each) for template in pairs[:2] if template]
            if not all(path.is_file() for path in paths):
                phantom = self._patient(patient, shape, spacing_mm)
                arrays = (phantom.images, phantom.labels)
                for path, slices, dtype in [*zip(paths, arrays, self.stored, strict=False)][::-1]:
                    self._save(path, slices.astype(dtype), spacing_mm)
        if self.writes_list:
            self._write_list(folder)
        tests = {self.case.format(each) for _, each, pairs in files if pairs is self.pairs[0]}
        return tuple(case for case in self.read(folder) if case.name in tests)

    def _patient(
        self, seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
    ) -> Phantom:
        """A phantom whose labels are those of the set."""
        phantom = abdomen(seed, shape=shape, spacing_mm=spacing_mm)
        ids = np.zeros(1 + max(STRUCTURES.values()), np.uint8)
        for name, each in self.structures.items():
            ids[STRUCTURES[name]] = each
        phantom = replace(phantom, labels=ids[phantom.structures])
        if not self.lesion:
            return phantom
        organ = self.lesion_in[seed % len(self.lesion_in)]
        return with_lesion(phantom, organ, seed, label=self.lesion)

    def _save(self, path: Path, slices: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
        """Save slices (upwards, rows to the back, columns to the left) as the set does."""
        if self.slice_axis != 0:
            write_slices(path, slices, spacing_mm)
            return
        # KiTS19: slices from head to feet, rows to the back, columns to the left; no origin
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        affine[[2, 1, 0], [0, 1, 2]] = np.negative(spacing_mm)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(slices[::-1], affine)
        write_first(path, lambda partial: nibabel.save(image, partial))

    def _write_list(self, folder: Path) -> None:
        names = self.names or ("background", *self.labels)
        content = {"name": self.name, "labels": dict(zip(self.ids, names, strict=False))}
        for image, label, key in self.pairs:
            found = sorted(folder.glob(image.replace("{}", "[!.]*")))
            files = [path.relative_to(folder).as_posix() for path in found]
            content[key] = [{"image": f"./{file}"} for file in files]
            for pair in content[key] if label else ():
                pair["label"] = pair["image"].replace("images", "labels")
        write_first(folder / LIST, lambda path: path.write_text(json.dumps(content, indent=1)))
