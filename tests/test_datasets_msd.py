import json

import nibabel
import numpy as np
import pytest

from limnet.data.msd import MSD_TASKS, find_msd, msd_cases, write_msd_twin
from limnet.data.synthetic.abdomen import STRUCTURES, abdomen
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin

SMALL = {"shape": (20, 40, 40), "spacing_mm": (11.0, 9.0, 9.0)}
LUNG = ("lung_001", "lung_014")


def write_nifti(path, value=0, shape=(4, 5, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full(shape, value, np.float32), np.eye(4)), path)


def pairs_of(names):
    return [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in names
    ]


def write_list(folder, names=LUNG, task="lung", **more):
    content = {"name": task, "modality": {"0": "CT"}, "labels": MSD_TASKS[task].official}
    content |= {"numTraining": len(names), "training": pairs_of(names)} | more
    (folder / "dataset.json").write_text(json.dumps(content))


def write_msd(root, names=LUNG, task="lung", value=1):
    """A task as its archive unpacks, with what macOS left in it."""
    folder = root / MSD_TASKS[task].folder
    for name in names:
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", value=-1000)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", value=value)
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"._{name}.nii.gz").write_bytes(b"Mac OS X")
    write_nifti(folder / "imagesTs" / "lung_002.nii.gz")
    write_list(folder, names, task, test=["./imagesTs/lung_002.nii.gz"])
    return folder


def test_the_training_cases_of_the_list_are_read_and_the_junk_of_macos_is_not(tmp_path):
    folder = write_msd(tmp_path, names=["lung_014", "lung_001"])
    cases = msd_cases(tmp_path, "lung")
    assert [case.name for case in cases] == ["lung_001", "lung_014"]
    assert cases == msd_cases(folder, "lung") and not is_twin(folder)
    assert {case.collection for case in cases} == {"MSD Lung"}
    assert not any(case.trainable for case in cases)
    volume, labels = cases[0].load()
    assert volume.images.shape == labels.shape and cases[0].target(labels, "tumour").all()


def test_junk_in_the_list_is_passed_over(tmp_path):
    write_list(write_msd(tmp_path), names=[*LUNG, "._lung_001"])
    assert [case.name for case in msd_cases(tmp_path, "lung")] == [*LUNG]


def test_the_pancreas_contains_its_tumour(tmp_path):
    folder = write_msd(tmp_path, names=["pancreas_290"], task="pancreas")
    data = np.zeros((4, 5, 6), np.float32)
    data[0, 0, :3] = (1, 1, 2)
    path = folder / "labelsTr/pancreas_290.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    [case] = msd_cases(tmp_path, "pancreas")
    labels = case.load()[1]
    assert case.target(labels, "pancreas").sum() == 3 and case.target(labels, "tumour").sum() == 1


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"of \['lung', 'pancreas', 'colon'\], got 'liver'"):
        msd_cases(tmp_path, "liver")
    with pytest.raises(ValueError, match="no such folder"):
        msd_cases(tmp_path / "nowhere", "lung")
    folder = write_msd(tmp_path)
    (folder / "dataset.json").rename(folder / "dataset_0.json")
    with pytest.raises(ValueError, match=r"folder Task06_Lung with dataset.json, .*another layout"):
        msd_cases(tmp_path, "lung")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_file_that_is_missing_or_renamed_is_named(tmp_path, part):
    path = write_msd(tmp_path) / part / "lung_014.nii.gz"
    path.rename(path.with_name("lung_14.nii.gz"))
    with pytest.raises(ValueError, match=f"lacks {part}/lung_014.nii.gz; unpack Task06_Lung.tar"):
        msd_cases(tmp_path, "lung")
    path.with_name("lung_14.nii.gz").unlink()
    with pytest.raises(ValueError, match=f"lacks {part}/lung_014.nii.gz; .* off the list"):
        msd_cases(tmp_path, "lung")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_refused_with_its_case_when_it_is_loaded(tmp_path, part, kept):
    path = write_msd(tmp_path) / part / "lung_014.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    whole, broken = msd_cases(tmp_path, "lung")
    whole.load()
    with pytest.raises(ValueError, match=r"lung_014.nii.gz must be whole .* copy or export"):
        broken.load()


def test_a_label_of_another_shape_is_refused_with_its_case(tmp_path):
    write_nifti(write_msd(tmp_path) / "labelsTr/lung_014.nii.gz", shape=(4, 5, 7))
    with pytest.raises(ValueError, match=r"on the grid of the volume.*lung_014.*resample"):
        msd_cases(tmp_path, "lung")[1].load()


def test_the_labels_of_another_task_are_refused(tmp_path):
    write_list(write_msd(tmp_path), labels={"0": "background", "1": "pancreas", "2": "cancer"})
    with pytest.raises(ValueError, match=r"labels of Task06_Lung must be .* got .*pancreas.*right"):
        msd_cases(tmp_path, "lung")


@pytest.mark.parametrize(
    "content",
    [
        '{"labels": {"0": "back',
        "[]",
        '{"labels": {}}',
        '{"labels": {}, "training": ["a"]}',
        '"a"',
        "[" * 99999,
    ],
)
def test_a_truncated_or_strange_list_is_refused(tmp_path, content):
    (write_msd(tmp_path) / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset.json must be a JSON object .* unpack Task06"):
        msd_cases(tmp_path, "lung")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("../secret.nii.gz", "labelsTr/secret.nii.gz"),
        ("/secret.nii.gz", "/secret.nii.gz"),
        ("imagesTr/../../secret.nii.gz", "labelsTr/secret.nii.gz"),
        ("imagesTr/lung_001.nii.gz", "labelsTr/lung_014.nii.gz"),  # another patient's label
        ("imagesTr/lung_001.nii.gz", "imagesTr/lung_001.nii.gz"),
        ("imagesTr/lung_001.txt", "labelsTr/lung_001.txt"),
    ],
)
def test_paths_that_leave_the_folder_or_are_no_pair_are_refused(tmp_path, image, label):
    write_nifti(tmp_path / "secret.nii.gz")
    folder = write_msd(tmp_path)
    write_list(folder, training=[*pairs_of(LUNG), {"image": image, "label": label}])
    with pytest.raises(ValueError, match=r"must list pairs imagesTr/NAME.nii.gz .* correct"):
        msd_cases(tmp_path, "lung")
    write_list(folder, training=[])
    with pytest.raises(ValueError, match="lists none"):
        msd_cases(tmp_path, "lung")


@pytest.mark.parametrize("task", MSD_TASKS)
def test_the_twin_reads_back_as_the_phantoms_it_was_written_from(tmp_path, task):
    cases = write_msd_twin(tmp_path, task, cases=2, seed=4, **SMALL)
    assert [case.name for case in cases] == [f"{task}_001", f"{task}_002"]
    assert cases == msd_cases(tmp_path, task) and is_twin(tmp_path / MSD_TASKS[task].folder)
    assert cases[1].collection == f"MSD {task.capitalize()} twin (synthetic)"
    assert all(case.trainable for case in cases)
    place = {"lung": 3, "pancreas": 4, "colon": 5}[task]
    seed = place * TWIN_SEEDS + 4 * MSD_TASKS[task].cases + 1
    phantom = with_lesion(abdomen(seed, **SMALL), task, seed, label=99)
    volume, labels = cases[1].load()
    assert np.array_equal(volume.images, phantom.images) and volume.modality == "CT"
    assert volume.spacing_mm == pytest.approx(SMALL["spacing_mm"])
    tumour = cases[1].target(labels, "tumour")
    assert np.array_equal(tumour, phantom.labels == 99) and tumour.any()
    organ = phantom.structures == STRUCTURES[task]  # its tumour counts to it
    if task == "pancreas":
        assert np.array_equal(cases[1].target(labels, "pancreas"), organ)
    else:
        assert not labels[~tumour].any()


def test_the_twin_has_the_quirks_of_the_real_files(tmp_path):
    [case] = write_msd_twin(tmp_path, "lung", cases=1, **SMALL)
    for path in (case.image, case.label):
        assert nibabel.load(path).get_data_dtype() == np.float32
        assert path.with_name(f"._{path.name}").is_file()
    listed = json.loads((tmp_path / "Task06_Lung/dataset.json").read_text())
    assert listed["training"] == pairs_of(["lung_001"]) and listed["numTraining"] == 1


def test_a_twin_grows_and_is_replaced_for_another_seed(tmp_path):
    [case] = write_msd_twin(tmp_path, "colon", cases=1, **SMALL)
    first = case.image.read_bytes()
    case.image.write_bytes(b"kept")
    assert len(write_msd_twin(tmp_path / "Task10_Colon", "colon", cases=2, **SMALL)) == 2
    assert len(write_msd_twin(tmp_path, "colon", cases=1, **SMALL)) == 1
    assert case.image.read_bytes() == b"kept"
    write_msd_twin(tmp_path, "colon", cases=1, seed=1, **SMALL)
    assert case.image.read_bytes() not in (b"kept", first)
    assert len(msd_cases(tmp_path, "colon")) == 1  # the second one of the old seed is gone


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_msd(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_msd_twin(tmp_path, "lung", cases=1, **SMALL)
    assert len(msd_cases(tmp_path, "lung")) == 2
    with pytest.raises(ValueError, match="1 to 63 cases"):
        write_msd_twin(tmp_path / "new", "lung", cases=64)


def test_a_task_is_found_in_the_data_folder(tmp_path):
    assert find_msd(None, "lung") is None and find_msd(tmp_path, "lung") is None
    write_msd(tmp_path / "MSD")
    assert find_msd(tmp_path, "lung") == tmp_path / "MSD/Task06_Lung"
    assert find_msd(tmp_path, "colon") is None
    write_msd(tmp_path, names=["colon_001"], task="colon")
    assert len(msd_cases(find_msd(tmp_path, "colon"), "colon")) == 1
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_msd(tmp_path / "nowhere", "lung")
