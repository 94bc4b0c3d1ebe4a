from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fakes import SHAPE, fakes, ramp

from limnet.data import Case
from limnet.evaluation.evaluate import evaluate
from limnet.evaluation.leaks import audit, overlap, slice_digests
from limnet.evaluation.protocols import Challenge, RandomError
from limnet.evaluation.users import next_click


@pytest.fixture
def target():
    masks = np.zeros(SHAPE, dtype=bool)
    masks[1:4, 8:20, 10:30] = True
    return masks


@pytest.mark.parametrize("user", [next_click, Challenge(), RandomError()])
def test_masks_depend_on_the_truth_by_the_clicks_alone(target, user):
    result = evaluate(ramp(), target, fakes(), rounds=3, user=user)
    [row] = audit(ramp(), result, fakes()).to_dict("records")
    assert row == {"clicks": 3, "voxels": result.masks.sum(), "voxels that differ": 0}


def test_a_method_that_looks_at_the_truth_is_found(target):
    result = evaluate(ramp(), target, fakes(), rounds=3)
    [row] = audit(ramp(), replace(result, masks=target), fakes()).to_dict("records")
    assert row["voxels that differ"] == (result.masks ^ target).sum() > 0


def write_case(folder, name, *slices):
    path = folder / name / "image.nii.gz"
    path.parent.mkdir(parents=True)
    data = np.stack(slices).transpose(2, 1, 0).astype(np.int16)
    for file in (path, path.with_name("label.nii.gz")):
        nibabel.save(nibabel.Nifti1Image(data, np.diag([1, 1, 3, 1])), file)
    return Case(name, path, path.with_name("label.nii.gz"), {"a": 1}, "set", True)


def test_copied_slices_are_found_and_empty_ones_say_nothing(tmp_path):
    rng = np.random.default_rng(0)
    a, b, c, d = rng.integers(0, 99, (4, 6, 6))
    empty = np.zeros((6, 6), int)
    training = [write_case(tmp_path, "t1", a, b, empty), write_case(tmp_path, "t2", c, empty)]
    test = [write_case(tmp_path, "x", d, c, b, empty), write_case(tmp_path, "y", d, empty)]
    found = overlap(training, test).set_index("case")
    assert found.loc["x", ["slices", "shared", "with"]].tolist() == [3, 2, "set t1, set t2"]
    assert found.loc["y", ["slices", "shared", "with"]].tolist() == [1, 0, ""]


def test_a_label_map_without_an_image_has_no_slices():
    case = Case("a", None, Path("nowhere"), {}, "set", True)
    assert slice_digests(case) == [] and len(overlap([case], [replace(case, name="b")])) == 1
