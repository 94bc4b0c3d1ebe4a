from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fakes import SHAPE, fakes, ramp

from limnet import metrics
from limnet.data import Case
from limnet.evaluation import baselines
from limnet.evaluation import users as simulated_user
from limnet.evaluation.evaluate import evaluate
from limnet.evaluation.leaks import ALLOWED, audit, overlap, slice_digests, watched
from limnet.evaluation.protocols import Challenge, RandomError


@pytest.fixture
def target():
    masks = np.zeros(SHAPE, dtype=bool)
    masks[1:4, 8:20, 10:30] = True
    return masks


def test_only_user_and_scores_read_the_truth(target):
    for user in (simulated_user.next_click, Challenge(), RandomError()):
        masks = watched(target)
        evaluate(ramp(), masks, fakes(), rounds=3, user=user)
        read = audit(masks)
        assert "not allowed" not in set(read["role"]), read
        assert {"the simulated user", "the scores"} == set(read["role"])


def test_watched_masks_give_what_plain_ones_give(target):
    plain = evaluate(ramp(), target, fakes(), rounds=3)
    seen = evaluate(ramp(), watched(target), fakes(), rounds=3)
    assert seen.dice == plain.dice and seen.clicks == plain.clicks
    assert np.array_equal(seen.masks, plain.masks) and type(seen.masks) is np.ndarray


def test_a_method_that_looks_at_the_truth_is_found(target):
    """Baselines stand for any module that has no business with it."""
    masks = watched(target)
    exec("def peek(masks):\n    return masks[1].sum()", vars(baselines))  # code of that module
    try:
        baselines.peek(masks)
    finally:
        del baselines.peek
    assert audit(masks).to_dict("records") == [
        {"module": "limnet.evaluation.baselines", "reads": 1, "role": "not allowed"}
    ]


@pytest.mark.parametrize(
    "read",
    [
        lambda masks: masks ^ masks,
        lambda masks: ~masks,
        lambda masks: masks & True,
        lambda masks: np.count_nonzero(masks),
        lambda masks: np.pad(masks, 1),
        lambda masks: np.stack([masks, masks]),
        lambda masks: masks.any(axis=0),
        lambda masks: masks.sum(),
        lambda masks: masks[0],
        lambda masks: list(masks),
        lambda masks: masks.mean(),
        lambda masks: np.flatnonzero(masks),
    ],
)
def test_every_way_to_read_is_seen_and_gives_plain_arrays(target, read):
    masks = watched(target)
    found, expected = read(masks), read(target)
    assert np.array_equal(found, expected)
    assert not isinstance(found, type(masks))
    assert sum(masks.readers.values()) >= 1


def test_metrics_called_by_anyone_count_as_metrics(target):
    masks = watched(target)
    metrics.dice(masks, target)
    assert set(audit(masks)["module"]) == {"limnet.metrics"} <= ALLOWED.keys()


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
