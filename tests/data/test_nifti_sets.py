import json

import nibabel
import numpy as np
import pytest

from limnet.data.nifti_sets import AMOS, AMOS_LABELS, BTCV, BTCV_LABELS, KITS19, MSD_LUNG
from limnet.data.synthetic.abdomen import STRUCTURES, abdomen
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import TWIN_SEEDS

SMALL = {"shape": (10, 24, 24), "spacing_mm": (22.0, 16.0, 16.0)}


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")


def kits(*numbers):
    return [f"case_{n:05d}/{name}.nii.gz" for n in numbers for name in ("imaging", "segmentation")]


def amos(part, *numbers):
    return [f"{what}{part}/amos_{n:04d}.nii.gz" for n in numbers for what in ("images", "labels")]


def test_cases_come_in_the_order_of_their_numbers(tmp_path):
    numbers = (21, 2, 1)
    touch(tmp_path, *(f"Abdomen/RawData/Training/img/img{n:04d}.nii.gz" for n in numbers))
    touch(tmp_path, *(f"Abdomen/RawData/Training/label/label{n:04d}.nii.gz" for n in numbers))
    cases = BTCV.read(tmp_path)
    assert [case.name for case in cases] == ["img0001", "img0002", "img0021"]
    assert cases[2].label.name == "label0021.nii.gz" and cases[0].labels == BTCV_LABELS
    for inside in ("Abdomen", "Abdomen/RawData", "Abdomen/RawData/Training"):
        assert len(BTCV.read(tmp_path / inside)) == 3


def test_the_test_cases_of_kits19_are_passed_over_unless_they_have_a_label(tmp_path):
    touch(tmp_path, *kits(21, 3, 209, 250), "case_00210/imaging.nii.gz")
    assert [case.name[-3:] for case in KITS19.read(tmp_path)] == ["003", "021", "209", "250"]
    touch(tmp_path, "case_00100/readme.txt")
    with pytest.raises(ValueError, match="case_00100/imaging"):
        KITS19.read(tmp_path)


def test_a_set_of_test_cases_alone_has_no_case(tmp_path):
    touch(tmp_path, "data/case_00210/imaging.nii.gz")
    with pytest.raises(ValueError, match="all cases"):
        KITS19.read(tmp_path)


def test_the_validation_of_amos_tests_and_mr_is_passed_over(tmp_path):
    touch(tmp_path, *amos("Tr", 1, 4, 507), *amos("Va", 8), "imagesTs/amos_0201.nii.gz")
    touch(tmp_path, "imagesTr/._amos_0001.nii.gz")
    cases = AMOS.read(tmp_path)
    assert [case.name[-1] for case in cases] == ["8", "1", "4"]
    assert AMOS_LABELS["liver"] == 6 and AMOS_LABELS["bladder"] == 14 and len(AMOS_LABELS) == 15


@pytest.mark.parametrize(
    ("layout", "whole", "renamed"),
    [
        (AMOS, amos("Tr", 1), "imagesTr/amos_1.nii.gz"),
        (AMOS, amos("Tr", 1), "imagesTr/amos_0601.nii.gz"),
        (AMOS, amos("Tr", 1), "labelsTr/case_0001.nii.gz"),
        (KITS19, kits(0), "case_1/imaging.nii.gz"),
        (KITS19, kits(0), "case_00300/imaging.nii.gz"),
        (BTCV, ["img/img0001.nii.gz", "label/label0001.nii.gz"], "img/image2.nii.gz"),
        (BTCV, ["img/img0001.nii.gz", "label/label0001.nii.gz"], "img/img0002.nii"),
        (BTCV, ["img/img0001.nii.gz", "label/label0001.nii.gz"], "label/label2.nii.gz"),
    ],
)
def test_a_file_of_another_name_is_named(tmp_path, layout, whole, renamed):
    touch(tmp_path, *whole)
    assert len(layout.read(tmp_path)) == 1
    touch(tmp_path, renamed)
    name = renamed.split("/")[0 if layout is KITS19 else 1]
    with pytest.raises(ValueError, match=name):
        layout.read(tmp_path)


def write_msd(root, training=("lung_014", "lung_001"), labels=("background", "cancer"), pairs=()):
    folder = root / "Task06_Lung"
    for name in training:
        touch(folder, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")
        touch(folder, f"imagesTr/._{name}.nii.gz")
    listed = [(f"./imagesTr/{each}.nii.gz", f"./labelsTr/{each}.nii.gz") for each in training]
    content = {"labels": dict(enumerate(labels))}
    content["training"] = [{"image": image, "label": label} for image, label in [*listed, *pairs]]
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_the_list_of_the_decathlon_counts(tmp_path):
    folder = write_msd(
        tmp_path / "MSD", pairs=[("imagesTr/._lung_001.nii.gz", "labelsTr/._lung_001.nii.gz")]
    )
    touch(folder, "imagesTr/unlisted.nii.gz")
    assert MSD_LUNG.find(tmp_path) == folder
    assert [case.name for case in MSD_LUNG.read(folder)] == ["lung_001", "lung_014"]


@pytest.mark.parametrize(
    "pair",
    [
        ("../secret.nii.gz", "labelsTr/secret.nii.gz"),
        ("/secret.nii.gz", "/secret.nii.gz"),
        ("imagesTr/../../secret.nii.gz", "labelsTr/secret.nii.gz"),
        ("imagesTr/lung_001.nii.gz", "labelsTr/lung_014.nii.gz"),  # another patient's label
        ("imagesTr/lung_001.txt", "labelsTr/lung_001.txt"),
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_pair_is_refused(tmp_path, pair):
    write_msd(tmp_path, pairs=[pair])
    with pytest.raises(ValueError, match=pair[0]):
        MSD_LUNG.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        '{"labels": {"0": "back',
        "[]",
        '{"labels": {}}',
        '{"labels": {"0": "background", "1": "cancer"}, "training": ["a"]}',
        '{"labels": {"0": "background", "1": "cancer"}, "training": []}',
        '{"labels": {"0": "background", "1": "pancreas", "2": "cancer"}, "training": []}',
        "[" * 99_999,
    ],
)
def test_a_list_that_is_broken_empty_or_of_another_set_is_named(tmp_path, content):
    touch(tmp_path, *amos("Tr", 1))
    for folder in (write_msd(tmp_path), tmp_path):
        (folder / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        MSD_LUNG.read(tmp_path)
    if "cancer" not in content or "pancreas" in content:
        with pytest.raises(ValueError, match=r"dataset\.json"):
            AMOS.read(tmp_path)


def test_a_pointer_of_git_lfs_is_no_image(tmp_path):
    touch(tmp_path, *kits(0))
    image = tmp_path / "case_00000/imaging.nii.gz"
    image.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"imaging\.nii\.gz"):
        KITS19.read(tmp_path)[0].load()


def test_slices_that_are_thinner_than_their_pixels_stay_slices(tmp_path):
    for file in kits(0):
        touch(tmp_path, file)
        affine = [[0, 0, -2, 0], [0, -2, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1]]  # as case_00000
        image = nibabel.Nifti1Image(np.full((3, 4, 6), 2, np.uint8), np.array(affine, float))
        nibabel.save(image, tmp_path / file)
    volume, labels = KITS19.read(tmp_path)[0].load()
    assert volume.images.shape == labels.shape == (3, 4, 6) and volume.spacing_mm == (0.5, 2, 2)


def test_twins_hold_the_phantoms_of_their_seeds(tmp_path):
    [btcv] = BTCV.write_twin(tmp_path / "b", cases=1, seed=4, **SMALL)
    [test] = AMOS.write_twin(tmp_path / "a", cases=1, seed=4, **SMALL)
    phantom = abdomen(TWIN_SEEDS + 4 * 30, **SMALL)
    volume, labels = btcv.load()
    assert np.array_equal(volume.images, phantom.images) and np.array_equal(labels, phantom.labels)
    assert nibabel.aff2axcodes(nibabel.load(btcv.image).affine) == ("L", "A", "S")
    phantom = abdomen(6 * TWIN_SEEDS + 4 * 600 + 101, **SMALL)
    volume, labels = test.load()
    assert np.array_equal(volume.images, phantom.images)
    is_liver = phantom.structures == STRUCTURES["liver"]
    assert np.array_equal(test.target(labels, "liver"), is_liver)


def test_twins_with_a_tumour_hold_it_in_the_organ(tmp_path):
    first, second = KITS19.write_twin(tmp_path, cases=2, **SMALL)
    seed = 2 * TWIN_SEEDS + 1
    phantom = with_lesion(abdomen(seed, **SMALL), "right kidney", seed, label=99)
    volume, labels = second.load()
    assert np.array_equal(volume.images, phantom.images)
    assert np.array_equal(second.target(labels, "tumour"), phantom.labels == 99)
    assert (second.target(labels, "kidney") >= second.target(labels, "tumour")).all()
    image, label = nibabel.load(first.image), nibabel.load(first.label)
    assert image.affine.tolist() == [[0, 0, -16, 0], [0, -16, 0, 0], [-22, 0, 0, 0], [0, 0, 0, 1]]
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.float32, np.uint8)


def test_the_right_kidney_of_the_twin_is_on_the_right_of_the_patient(tmp_path):
    case = BTCV.write_twin(tmp_path, cases=1, **SMALL)[0]
    label = nibabel.load(case.label)

    def middle_mm(organ):
        voxels = np.argwhere(np.asarray(label.dataobj) == BTCV_LABELS[organ])
        return nibabel.affines.apply_affine(label.affine, voxels).mean(axis=0)

    right, forward, up = middle_mm("right kidney") - middle_mm("left kidney")
    assert right > 50 > abs(forward) and abs(up) < 50
    assert (middle_mm("stomach") - middle_mm("aorta"))[1] > 0  # anterior is positive
