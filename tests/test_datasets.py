import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from limnet.data import (
    BTCV_LABELS,
    Case,
    btcv_cases,
    collection_cases,
    find_btcv,
    scribbled_slices,
    write_btcv_twin,
)
from limnet.data.synthetic.abdomen import abdomen
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin
from limnet.method.prompts import Click

SMALL = {"shape": (10, 24, 24), "spacing_mm": (22.0, 16.0, 16.0)}


def write_nifti(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), value, np.uint8), np.eye(4)), path)


def write_btcv(root, images, labels):
    for number in images:
        write_nifti(root / "RawData/Training/img" / f"img{number:04d}.nii.gz")
    for number in labels:
        write_nifti(root / "RawData/Training/label" / f"label{number:04d}.nii.gz", value=3)


def write_collection(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    about = {"title": "t", "labels": {"1": "aorta", "7": "cord"}} | more
    (folder / "collection.json").write_text(json.dumps(about))


def test_btcv_cases_come_in_the_order_of_their_numbers(tmp_path):
    write_btcv(tmp_path, images=[21, 2, 1], labels=[1, 2, 21])
    cases = btcv_cases(tmp_path)
    assert [case.name for case in cases] == ["img0001", "img0002", "img0021"]
    assert cases[2].label.name == "label0021.nii.gz"
    assert cases[0].labels == BTCV_LABELS and BTCV_LABELS["oesophagus"] == 5
    assert {case.collection for case in cases} == {"BTCV"} and not cases[0].trainable
    assert not is_twin(tmp_path / "Abdomen/RawData/Training")


@pytest.mark.parametrize("inside", [".", "RawData", "RawData/Training"])
def test_the_root_may_be_any_folder_of_the_layout(tmp_path, inside):
    write_btcv(tmp_path / "Abdomen", images=[1], labels=[1])
    assert len(btcv_cases(tmp_path)) == len(btcv_cases(tmp_path / "Abdomen" / inside)) == 1


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        btcv_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="another layout"):
        btcv_cases(tmp_path)
    (tmp_path / "RawData/Training/img").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds none"):
        btcv_cases(tmp_path)
    write_btcv(tmp_path, images=[1, 2], labels=[1])
    with pytest.raises(ValueError, match="lacks label0002"):
        btcv_cases(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("img/img0002.nii.gz", "img/image2.nii.gz", "there is image2.nii.gz"),
        ("img/img0002.nii.gz", "img/img0002.nii", "there is img0002.nii"),
        ("label/label0002.nii.gz", "label/labels2.nii.gz", "there is labels2.nii.gz"),
        ("img/img0002.nii.gz", "img/img0003.nii.gz", "lacks that of label0002.nii.gz"),
        ("label/label0002.nii.gz", "label/.label0002.nii.gz", "lacks label0002.nii.gz"),
    ],
)
def test_a_renamed_file_is_refused_by_name(tmp_path, old, new, words):
    write_btcv(tmp_path, images=[1, 2], labels=[1, 2])
    training = tmp_path / "RawData/Training"
    (training / old).rename(training / new)
    with pytest.raises(ValueError, match=words):
        btcv_cases(tmp_path)


def test_a_truncated_file_or_one_of_another_shape_is_refused_by_name(tmp_path):
    write_btcv(tmp_path, images=[1, 2], labels=[1, 2])
    first, second = btcv_cases(tmp_path)
    first.image.write_bytes(first.image.read_bytes()[:-20])
    with pytest.raises(ValueError, match="img0001"):
        first.load()
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 7), np.uint8), np.eye(4)), second.label)
    with pytest.raises(ValueError, match="label0002"):
        second.load()


def test_the_twin_reads_back_as_the_phantoms_it_was_written_from(tmp_path):
    cases = write_btcv_twin(tmp_path, cases=2, seed=4, **SMALL)
    assert [case.image.name for case in cases] == ["img0001.nii.gz", "img0002.nii.gz"]
    assert (
        cases == btcv_cases(tmp_path)
        and is_twin(tmp_path / "RawData/Training")
        and cases[0].trainable
    )
    phantom = abdomen(TWIN_SEEDS + 4 * 30 + 1, **SMALL)
    volume, labels = cases[1].load()
    assert np.array_equal(volume.images, phantom.images)
    assert np.array_equal(labels, phantom.labels)
    assert volume.spacing_mm == pytest.approx(phantom.spacing_mm)
    assert nibabel.aff2axcodes(nibabel.load(cases[0].image).affine) == ("L", "A", "S")


def test_the_right_kidney_of_the_twin_is_on_the_right_of_the_patient(tmp_path):
    case = write_btcv_twin(tmp_path, cases=1, **SMALL)[0]
    label = nibabel.load(case.label)

    def middle_mm(organ):
        voxels = np.argwhere(np.asarray(label.dataobj) == BTCV_LABELS[organ])
        return nibabel.affines.apply_affine(label.affine, voxels).mean(axis=0)

    right, forward, up = middle_mm("right kidney") - middle_mm("left kidney")
    assert right > 50 > abs(forward) and abs(up) < 50
    assert (middle_mm("stomach") - middle_mm("aorta"))[1] > 0  # anterior is positive


def test_a_twin_is_written_once_and_again_when_it_is_stale(tmp_path, monkeypatch):
    [case] = write_btcv_twin(tmp_path, cases=1, **SMALL)
    first = case.image.read_bytes()
    case.image.write_bytes(b"kept")
    write_btcv_twin(tmp_path, cases=1, **SMALL)
    assert case.image.read_bytes() == b"kept"
    monkeypatch.setattr("limnet.data.nifti_sets.VERSION", -1)
    write_btcv_twin(tmp_path, cases=1, **SMALL)
    assert case.image.read_bytes() == first
    write_btcv_twin(tmp_path, cases=1, seed=1, **SMALL)
    assert case.image.read_bytes() != first
    assert sorted(path.name for path in case.image.parent.iterdir()) == ["img0001.nii.gz"]


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_btcv(tmp_path, images=[1], labels=[1])
    with pytest.raises(ValueError, match="is no twin"):
        write_btcv_twin(tmp_path, cases=1, **SMALL)
    with pytest.raises(ValueError, match="1 to 30 cases"):
        write_btcv_twin(tmp_path / "new", cases=31)


def test_btcv_is_found_in_the_data_folder(tmp_path):
    assert find_btcv(None) is None and find_btcv(tmp_path) is None
    write_btcv(tmp_path / "BTCV", images=[1], labels=[1])
    assert len(btcv_cases(find_btcv(tmp_path))) == 1
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_btcv(tmp_path / "nowhere")


def test_collections_hold_volumes_label_maps_and_video(tmp_path):
    write_collection(tmp_path / "aorta_ct", may_train_weights=True, use="evaluation only")
    write_nifti(tmp_path / "aorta_ct/b/image.nii.gz")
    write_nifti(tmp_path / "aorta_ct/b/label.nii.gz", value=7)
    write_nifti(tmp_path / "aorta_ct/a/label.nii.gz", value=7)
    write_collection(
        tmp_path / "video", may_train_weights=False, use="weights may use it", labels="see"
    )
    for folder in ("frames", "masks"):
        (tmp_path / "video" / folder).mkdir()
    write_collection(tmp_path / "scribbles")  # another kind: passed over
    map_only, scan, video = collection_cases(tmp_path)
    assert (scan.name, scan.collection, scan.labels) == ("b", "aorta_ct", {"aorta": 1, "cord": 7})
    volume, labels = scan.load()
    assert volume.images.shape == labels.shape and (labels == 7).all()
    assert (video.name, video.label.name, video.labels) == ("video", "masks", {})
    assert [case.trainable for case in (map_only, scan, video)] == [True, True, False]
    assert (map_only.load_labels() == 7).all()
    with pytest.raises(ValueError, match="a of aorta_ct is a label map alone"):
        map_only.load()


@pytest.mark.parametrize("use", ["weights may not use it", "weights may use it", ""])
def test_a_collection_trains_by_its_field_not_by_its_sentence(tmp_path, use):
    write_nifti(tmp_path / "case/label.nii.gz")
    for field, trains in ({}, False), ({"may_train_weights": True}, True):
        write_collection(tmp_path, use=use, **field)
        assert collection_cases(tmp_path)[0].trainable is trains
    write_collection(tmp_path, may_train_weights="no")
    with pytest.raises(ValueError, match="'no'"):
        collection_cases(tmp_path)


def test_a_single_collection_is_read_too_and_an_empty_or_broken_one_is_an_error(tmp_path):
    write_collection(tmp_path)
    with pytest.raises(ValueError, match="none was found"):
        collection_cases(tmp_path)
    write_nifti(tmp_path / "case/label.nii.gz")
    assert [case.name for case in collection_cases(tmp_path)] == ["case"]
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(ValueError, match=r"collection\.json must be a JSON object"):
        collection_cases(tmp_path)


def test_what_is_held_out_stands_in_a_file():
    def case(name, collection):
        return Case(name, None, Path("label.nii.gz"), {"cord": 1, "PTV56": 2}, collection, True)

    assert case("a", "abdomen_ct").held_out and case("pt_5", "headneck_ct").held_out
    assert not case("pt_8", "headneck_ct").held_out and not case("a", "mine").held_out
    assert case("a", "mine").anatomy == ("cord",)


def test_a_person_clicks_in_the_middle_of_their_largest_scribbles(tmp_path):
    scribbles = np.zeros((2, 16, 16), np.float16)
    scribbles[0, 4, 2:9] = 1  # on the structure
    scribbles[0, 12, 3] = 1
    scribbles[1, 1:4, 14] = 0.7  # off it
    nothing = np.zeros_like(scribbles)
    soft = np.full((16, 16), 0.4, np.float16)
    soft[3:6] = 0.6
    arrays = {"img": soft, "seg": soft, "scribble_0": scribbles, "scribble_1": nothing}
    np.savez(tmp_path / "one.npz", **arrays)
    [slice_] = scribbled_slices(tmp_path)
    assert slice_.clicks == ((Click(0, 4, 5, True), Click(0, 2, 14, False)), ())
    assert slice_.image.shape == (1, 16, 16) and slice_.target.sum() == 3 * 16


def test_scribbles_that_are_not_there_or_broken_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="must hold npz files"):
        next(scribbled_slices(tmp_path))
    (tmp_path / "one.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"one\.npz must be an npz"):
        next(scribbled_slices(tmp_path))
    np.savez(tmp_path / "one.npz", img=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="seg"):
        next(scribbled_slices(tmp_path))
