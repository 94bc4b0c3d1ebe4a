import json

import nibabel
import numpy as np
import pytest

from limnet.data import collection_cases, example_case, scribbled_slices
from limnet.method.prompts import Click


def write_nifti(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), value, np.uint8), np.eye(4)), path)


def write_collection(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    about = {"title": "t", "labels": {"1": "aorta", "7": "cord"}} | more
    (folder / "collection.json").write_text(json.dumps(about))


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


def test_the_example_is_the_abdomen_of_the_data_folder_or_a_twin(tmp_path):
    write_collection(tmp_path / "abdomen_ct")
    write_nifti(tmp_path / "abdomen_ct/a/label.nii.gz")
    assert example_case(tmp_path, tmp_path / "twin").collection == "abdomen_ct"
    assert not (tmp_path / "twin").exists()
