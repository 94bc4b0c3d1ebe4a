import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from limnet.data import DATA_SETS, Case, collection_cases

COLOURS = {(0, 0, 0): 0, (0, 255, 0): 1, (12, 255, 141): 11}


def write_nifti(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((4, 5, 6), np.int16)
    data.flat[: len(values)] = values
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


def volume_case(folder, values, ids):
    write_nifti(folder / "image.nii.gz", [])
    write_nifti(folder / "label.nii.gz", values)
    label = folder / "label.nii.gz"
    return Case("a", folder / "image.nii.gz", label, {"kidney": 1}, "KiTS19", False, ids=ids)


def video_case(folder, labels, mode="RGB", **more):
    """A case of frames: `labels` holds an array of colours (height, width, 3 or 4) a frame."""
    for part, images in (("frames", np.zeros((len(labels), 4, 6, 3))), ("masks", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            frame = Image.fromarray(np.asarray(image, np.uint8), mode if part == "masks" else "RGB")
            frame.save(folder / part / f"frame{index:03d}.png")
    frames, masks = folder / "frames", folder / "masks"
    return Case("seq_1", frames, masks, {"probe": 11}, "EndoVis", False, colours=COLOURS, **more)


def test_labels_that_the_data_set_defines_are_read(tmp_path):
    case = volume_case(tmp_path, [0, 1, 2], ids=(0, 1, 2))
    assert case.load()[1].max() == case.load_labels().max() == 2


@pytest.mark.parametrize("read", [Case.load, Case.load_labels])
def test_labels_that_the_data_set_does_not_define_are_refused_with_their_ids(tmp_path, read):
    case = volume_case(tmp_path, [1, 2, 7, 7, -3], ids=(0, 1, 2))
    refused = r"KiTS19 must be of 0, 1, 2, but .*label\.nii\.gz has -3, 7; put the data set's file"
    with pytest.raises(ValueError, match=refused):
        read(case)


def test_many_ids_are_said_in_few_words(tmp_path):
    case = volume_case(tmp_path, range(40, 60), ids=tuple(range(14)))
    with pytest.raises(ValueError, match=r"of 0 to 13, but .* has 40 to 59; "):
        case.load()
    case = volume_case(tmp_path, range(40, 60, 2), ids=tuple(range(14)))
    with pytest.raises(ValueError, match=r" has 40, 42, 44, 46, 48, 50 and 4 more; "):
        case.load()


LUNG = {"labels": {"0": "background", "1": "cancer"}, "training": []}
LUNG["training"].append({"image": "imagesTr/lung_001.nii.gz", "label": "labelsTr/lung_001.nii.gz"})


@pytest.mark.parametrize(
    ("key", "image", "label", "known", "unknown"),
    [
        ("btcv", "img/img0001.nii.gz", "label/label0001.nii.gz", 13, 14),
        ("kits19", "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz", 2, 3),
        ("msd_lung", "imagesTr/lung_001.nii.gz", "labelsTr/lung_001.nii.gz", 1, 2),
    ],
)
def test_published_data_sets_say_which_ids_they_define(tmp_path, key, image, label, known, unknown):
    root = tmp_path / "Task06_Lung" if key == "msd_lung" else tmp_path
    write_nifti(root / image, [])
    write_nifti(root / label, [known])
    (root / "dataset.json").write_text(json.dumps(LUNG))
    [case] = DATA_SETS[key].read(tmp_path)
    assert case.load()[1].max() == known
    write_nifti(root / label, [known, unknown])
    with pytest.raises(ValueError, match=f"{case.label.name} has {unknown}; put"):
        case.load()


def test_our_own_collections_may_have_any_label(tmp_path):
    write_nifti(tmp_path / "a/image.nii.gz", [])
    write_nifti(tmp_path / "a/label.nii.gz", [900])
    (tmp_path / "collection.json").write_text('{"labels": {"1": "aorta"}, "use": "evaluation"}')
    [case] = collection_cases(tmp_path)
    assert case.ids is None and case.load()[1].max() == 900


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_label_frames_become_ids(tmp_path, mode):
    colours = np.zeros((2, 4, 6, 3), int)
    colours[0, 1, 2] = 0, 255, 0
    colours[1, 3, 5] = 12, 255, 141
    alpha = np.full((2, 4, 6, 1), 128)  # as in the test data of EndoVis 2018
    labels = colours if mode == "RGB" else np.concatenate([colours, alpha], axis=-1)
    volume, found = video_case(tmp_path, labels, mode, ids=(0, 1, 11)).load()
    assert volume.images.shape == (2, 4, 6, 3) and found.dtype == np.int32
    assert np.argwhere(found == 1).tolist() == [[0, 1, 2]]
    assert np.argwhere(found == 11).tolist() == [[1, 3, 5]]
    assert np.count_nonzero(found) == 2


def test_a_colour_that_stands_for_no_label_is_refused_with_its_frame(tmp_path):
    colours = np.zeros((2, 4, 6, 3), int)
    colours[1, 0, 0] = 12, 254, 141  # one off: as a frame that was saved with loss
    with pytest.raises(ValueError, match=r"frame001\.png has \(12, 254, 141\), which none does"):
        video_case(tmp_path, colours).load()
    colours[1, 1, :5, 2] = range(1, 6)
    with pytest.raises(ValueError, match=r"\(0, 0, 1\), \(0, 0, 2\), \(0, 0, 3\) and others"):
        video_case(tmp_path, colours).load()


def test_a_case_without_an_image_still_checks_its_labels(tmp_path):
    write_nifti(tmp_path / "label.nii.gz", [5])
    case = Case("a", None, Path(tmp_path / "label.nii.gz"), {}, "mine", True, ids=(0, 1))
    with pytest.raises(ValueError, match=r"mine must be of 0, 1, but .* has 5;"):
        case.load_labels()
