import json

import nibabel
import numpy as np
import pytest

from limnet.data import DATA_SETS
from limnet.data.amos import AMOS_LABELS, amos_cases, find_amos, write_amos_twin
from limnet.data.synthetic.abdomen import ORGANS, STRUCTURES, abdomen
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin

SMALL = {"shape": (10, 24, 24), "spacing_mm": (22.0, 16.0, 16.0)}
SHAPE = (6, 5, 4)


def write_nifti(path, value=0, spacing=(1, 1, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.full(SHAPE, value, np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), path)


def write_amos(root, training=(1, 4), tests=(8, 13), label=6, **about):
    """The layout of amos22.zip, with a few of its numbers."""
    for part, numbers in (("Tr", training), ("Va", tests), ("Ts", [2])):
        for number in numbers:
            name = f"amos_{number:04d}.nii.gz"
            write_nifti(root / "amos22" / f"images{part}" / name)
            if part != "Ts":
                write_nifti(root / "amos22" / f"labels{part}" / name, label)
    labels = {str(index): f"organ {index}" for index in range(16)}
    content = {"labels": labels, "training": []} | about
    (root / "amos22" / "dataset.json").write_text(json.dumps(content))


def test_cases_of_ct_come_in_order_with_those_for_tests_first(tmp_path):
    write_amos(tmp_path, training=(410, 4, 507, 600), tests=(13, 8, 555))
    cases = amos_cases(tmp_path)
    assert [case.name for case in cases] == ["amos_0008", "amos_0013", "amos_0004", "amos_0410"]
    parts = [(case.image.parent.name, case.label.parent.name) for case in cases]
    assert parts == [("imagesVa", "labelsVa")] * 2 + [("imagesTr", "labelsTr")] * 2
    assert cases == amos_cases(tmp_path / "amos22")
    assert {case.collection for case in cases} == {"AMOS"} and not is_twin(tmp_path / "amos22")
    assert not any(case.trainable for case in cases)
    known = DATA_SETS["amos"]
    assert known.split(cases).test == ("amos_0008", "amos_0013")


def test_mr_are_the_cases_with_the_higher_numbers(tmp_path):
    write_amos(tmp_path, training=(4, 507), tests=(8, 600))
    mr = amos_cases(tmp_path, modality="MR")
    assert [case.name for case in mr] == ["amos_0600", "amos_0507"]
    with pytest.raises(ValueError, match="modality must be CT or MR, got 'PET'"):
        amos_cases(tmp_path, modality="PET")
    write_amos(tmp_path / "other")
    with pytest.raises(ValueError, match="images of this modality, got none"):
        amos_cases(tmp_path / "other", modality="MR")


def test_the_organs_have_the_official_ids(tmp_path):
    write_amos(tmp_path, label=6)
    case = amos_cases(tmp_path)[0]
    volume, labels = case.load()
    assert case.target(labels, "liver").all() and volume.images.shape == (4, 5, 6)
    ids = [AMOS_LABELS[name] for name in ("spleen", "gallbladder", "duodenum", "bladder")]
    assert ids == [1, 4, 13, 14] and len(AMOS_LABELS) == 15
    # BTCV has the first nine organs in the same order but for the liver and the vessels
    assert AMOS_LABELS["pancreas"] == 10 and ORGANS["pancreas"] == 11


def test_slices_that_are_thinner_than_their_pixels_stay_slices(tmp_path):
    write_amos(tmp_path)
    for name in ("imagesTr", "labelsTr"):
        write_nifti(tmp_path / "amos22" / name / "amos_0001.nii.gz", spacing=(0.8, 0.8, 0.5))
    assert amos_cases(tmp_path)[0].load()[0].images.shape == (4, 5, 6)


def test_a_label_that_amos_does_not_define_is_refused(tmp_path):
    write_amos(tmp_path, label=16)
    with pytest.raises(ValueError, match=r"AMOS must be of 0 to 15, but .*amos_0008.* has 16; "):
        amos_cases(tmp_path)[0].load()


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        amos_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"hold amos22/imagesTr/amos_0001.*another layout"):
        amos_cases(tmp_path)


@pytest.mark.parametrize("part", ["Tr", "Va"])
def test_an_image_without_its_label_is_named(tmp_path, part):
    write_amos(tmp_path, training=(1,), tests=(1,))
    (tmp_path / f"amos22/labels{part}/amos_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match=rf"lacks labels{part}/amos_0001.nii.gz; the release of"):
        amos_cases(tmp_path)


@pytest.mark.parametrize("name", ["amos_1.nii.gz", "amos_0601.nii.gz", "case_0001.nii.gz"])
def test_a_renamed_image_is_refused_and_what_macos_left_is_passed_over(tmp_path, name):
    write_amos(tmp_path)
    images = tmp_path / "amos22/imagesTr"
    (images / "._amos_0001.nii.gz").write_bytes(b"\0\5\26\7")
    assert len(amos_cases(tmp_path)) == 4
    (images / "amos_0004.nii.gz").rename(images / name)
    with pytest.raises(ValueError, match=f"named amos_0001.nii.gz to amos_0600.* holds {name}; "):
        amos_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ("{", "must be a JSON object with labels"),
        ("{}", "must be a JSON object with labels"),
        ('{"labels": {"0": "background", "1": "cancer"}}', "must be 0 to 15, got .*cancer"),
    ],
)
def test_a_list_with_other_labels_is_refused(tmp_path, content, refused):
    write_amos(tmp_path)
    (tmp_path / "amos22/dataset.json").write_text(content)
    with pytest.raises(ValueError, match=refused):
        amos_cases(tmp_path)
    (tmp_path / "amos22/dataset.json").unlink()
    assert len(amos_cases(tmp_path)) == 4


def test_the_twin_reads_back_as_the_phantoms_it_was_written_from(tmp_path):
    [case] = write_amos_twin(tmp_path, cases=1, seed=4, **SMALL)
    test, training = amos_cases(tmp_path)
    assert case == test and (training.name, test.name) == ("amos_0001", "amos_0101")
    assert case.collection == "AMOS twin (synthetic)" and case.trainable
    phantom = abdomen(6 * TWIN_SEEDS + 4 * 600 + 101, **SMALL)
    volume, labels = case.load()
    assert np.array_equal(volume.images, phantom.images) and volume.modality == "CT"
    assert volume.spacing_mm == pytest.approx(SMALL["spacing_mm"])
    for organ in ("liver", "stomach", "duodenum"):
        is_organ = phantom.structures == STRUCTURES[organ]
        assert np.array_equal(case.target(labels, organ), is_organ) and is_organ.any()
    assert not case.target(labels, "bladder").any()
    # an unlabelled test case lies beside them, and the list of all
    folder = tmp_path / "amos22"
    assert [path.name for path in (folder / "imagesTs").iterdir()] == ["amos_0201.nii.gz"]
    assert not (folder / "labelsTs").exists()
    content = json.loads((folder / "dataset.json").read_text())
    assert content["validation"] == [
        {"image": "./imagesVa/amos_0101.nii.gz", "label": "./labelsVa/amos_0101.nii.gz"}
    ]
    assert content["labels"]["6"] == "liver"


def test_a_twin_is_written_once_and_again_for_another_seed(tmp_path):
    [case] = write_amos_twin(tmp_path, cases=1, **SMALL)
    first = case.image.read_bytes()
    case.image.write_bytes(b"kept")
    write_amos_twin(tmp_path, cases=1, **SMALL)
    assert case.image.read_bytes() == b"kept"
    write_amos_twin(tmp_path, cases=1, seed=1, **SMALL)
    assert case.image.read_bytes() not in (b"kept", first)


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_amos(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_amos_twin(tmp_path, cases=1, **SMALL)
    assert len(amos_cases(tmp_path)) == 4
    with pytest.raises(ValueError, match="1 to 100 test cases"):
        write_amos_twin(tmp_path / "new", cases=101)


def test_amos_is_found_in_the_data_folder(tmp_path):
    assert find_amos(None) is None and find_amos(tmp_path) is None
    write_amos(tmp_path / "amos")
    assert find_amos(tmp_path) == tmp_path / "amos"
    assert len(amos_cases(find_amos(tmp_path))) == 4
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_amos(tmp_path / "nowhere")
