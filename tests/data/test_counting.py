import math
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from limnet.data import Case, DataSet, LabelledImage
from limnet.data.counting import Counted, beside_paper, count, count_set


def case(folder, name, labelled):
    """Five slices, of which the first `labelled` show the organ."""
    label = np.zeros((4, 4, 5), np.uint8)
    label[1, 1, :labelled] = 1
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return Case(name, path, path, {"organ": 1}, "Set", False)


def images(split, shown):
    return tuple(
        LabelledImage(
            f"{split}{i}", Path("a"), "Set", split, False, lambda see=see: np.full((1, 2, 2), see)
        )
        for i, see in enumerate(shown)
    )


def test_slices_are_counted_and_those_that_show_a_label(tmp_path):
    assert count([case(tmp_path, "a", 2), case(tmp_path, "b", 0)]) == Counted(10, 2)
    assert count([]) == Counted(0, 0)


def test_a_set_that_is_there_is_counted_by_its_split(tmp_path):
    cases = tuple(case(tmp_path, name, count) for name, count in zip("abc", (1, 2, 4), strict=True))
    real = DataSet("Set", Path, lambda root: cases, lambda root, *, cases, seed: (), tested=1)
    counted, synthetic = count_set(real, tmp_path, tmp_path / "twin")
    test = {each.name: n for each, n in zip(cases, (1, 2, 4), strict=True)}[
        real.split(cases).test[0]
    ]
    assert counted == {"training": Counted(10, 7 - test), "test": Counted(5, test)}
    assert not synthetic


def test_of_a_twin_one_case_tests(tmp_path):
    cases = (case(tmp_path, "a", 1), case(tmp_path, "b", 1))
    twin = DataSet(
        "Set", lambda root: None, lambda root: cases, lambda root, *, cases, seed: (), tested=42
    )
    counted, synthetic = count_set(twin, None, tmp_path)
    assert counted == {"training": Counted(5, 1), "test": Counted(5, 1)} and synthetic


def test_images_are_counted_by_their_own_split(tmp_path):
    both = images("training", [True, False]) + images("test", [True])
    known = DataSet("Set", Path, lambda root: both, lambda root, *, seed: (), of_images=True)
    counted, synthetic = count_set(known, tmp_path, tmp_path)
    assert counted == {"training": Counted(2, 1), "test": Counted(1, 1)} and not synthetic


def test_a_difference_is_taken_of_real_sets_only_and_empty_rows_are_left_out():
    paper = pd.DataFrame({"Training Set": [10.0, 20.0], "Test Set": [math.nan, 5.0]}, ["A", "B"])
    none, some = Counted(0, 0), Counted(12, 8)
    counted = {
        "A": ({"training": some, "test": none}, False),
        "B": ({"training": some, "test": some}, True),
    }
    table = beside_paper(counted, paper)
    assert table[["data set", "split"]].to_numpy().tolist() == [
        ["A", "training"],
        ["B", "training"],
        ["B", "test"],
    ]
    assert table.loc[0, ["ours", "difference", "difference with a label"]].tolist() == [12, 2, -2]
    assert table.loc[1:, ["difference", "difference with a label"]].isna().all(axis=None)
    assert table["counted on"].tolist() == ["the data set", "synthetic twin", "synthetic twin"]
