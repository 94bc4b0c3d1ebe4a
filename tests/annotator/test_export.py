import gzip
import json
import os
import zipfile
from dataclasses import astuple
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_series import OBLIQUE, write_series
from fakes import SHAPE as RAMP
from fakes import fakes, ramp
from nibabel.affines import apply_affine

from limnet.annotator.annotation import Annotation
from limnet.annotator.export import (
    mask_file_names,
    provenance,
    save_bundle,
    save_dicom_segmentation,
    save_label_map,
    save_object_masks,
    slice_provenance,
)
from limnet.method.prompts import Click
from limnet.method.session import Session
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume

SHAPE = (4, 5, 6)
# slices 3 mm apart along an oblique axis, rows of 0.9 mm and columns of 0.8 mm
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
AFFINE = np.vstack([np.column_stack([TURN * (3.0, 0.9, 0.8), (5, -7, 90)]), (0, 0, 0, 1)])
LPS = np.array([-1, -1, 1])  # SimpleITK's axes along RAS+


@pytest.fixture(autouse=True)
def weights_digest(monkeypatch):
    monkeypatch.setattr(LimNet, "digest", "ab" * 32)  # fakes have no configuration


def oblique():
    return Volume.from_array(np.zeros(SHAPE, np.int16), affine=AFFINE)


def voxels(*positions):
    masks = np.zeros(SHAPE, bool)
    masks[tuple(np.transpose(positions))] = True
    return masks


LIVER = ("liver", "#e6194b", voxels((0, 0, 0), (1, 2, 3)))
AORTA = ("aorta", "#3cb44b", voxels((1, 2, 3), (3, 4, 5)))


def ordered(positions):
    return np.array(sorted(np.round(positions, 3).tolist()))


def positions_in_simpleitk(path, label):
    """RAS+ millimetres of the voxels with a label."""
    image = SimpleITK.ReadImage(str(path))
    found = np.argwhere(SimpleITK.GetArrayFromImage(image) == label)[:, ::-1].tolist()
    return ordered([LPS * image.TransformIndexToPhysicalPoint(index) for index in found])


def positions_in_nibabel(path, label):
    image = nibabel.load(path)
    return ordered(apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) == label)))


def positions_in_volume(volume, masks):
    return ordered([volume.position_mm(*index) for index in np.argwhere(masks).tolist()])


@pytest.mark.parametrize("read", [positions_in_simpleitk, positions_in_nibabel])
@pytest.mark.parametrize("source", ["array", "nifti", "dicom"])
def test_labels_and_masks_open_elsewhere_at_the_same_place(source, read, tmp_path):
    volume = oblique()
    if source == "nifti":
        volume.save_masks(voxels((0, 0, 0)), tmp_path / "image.nii.gz")
        volume = Volume.read(tmp_path / "image.nii.gz", slice_axis=0)
    elif source == "dicom":
        series = write_series(tmp_path / "series", orientation=OBLIQUE, reverse=True)
        volume = Volume.read(series)
    objects = [
        ("liver", "#e6194b", np.arange(120).reshape(volume.images.shape) % 17 == 3),
        ("aorta", "#3cb44b", np.arange(120).reshape(volume.images.shape) % 7 == 2),
    ]
    liver, aorta = objects[0][2], objects[1][2]
    assert (liver & aorta).any()
    save_label_map(volume, objects, tmp_path / "labels.nii.gz")
    expected = positions_in_volume(volume, liver)
    assert read(tmp_path / "labels.nii.gz", 1) == pytest.approx(expected, abs=2e-3)
    expected = positions_in_volume(volume, aorta & ~liver)
    assert read(tmp_path / "labels.nii.gz", 2) == pytest.approx(expected, abs=2e-3)
    paths = save_object_masks(volume, objects, tmp_path / "masks")
    expected = positions_in_volume(volume, aorta)
    assert read(paths[1], 1) == pytest.approx(expected, abs=2e-3)


def test_the_first_object_wins_in_the_label_map_and_no_one_in_masks_of_their_own(tmp_path):
    volume = oblique()
    save_label_map(volume, [AORTA, LIVER], tmp_path / "labels.nii")
    labels = volume.read_labels(tmp_path / "labels.nii")
    assert (labels[1, 2, 3], labels[3, 4, 5], labels[0, 0, 0], labels.sum()) == (1, 1, 2, 4)
    assert nibabel.load(tmp_path / "labels.nii").get_data_dtype() == np.uint8
    paths = save_object_masks(volume, [AORTA, LIVER], tmp_path / "masks")
    assert [path.name for path in paths] == ["aorta.nii.gz", "liver.nii.gz"]
    assert [volume.read_labels(path).sum() for path in paths] == [2, 2]


def test_file_names_are_safe_and_different():
    names = ["Leber/rechts", "../x", "", "...", "x", "X", "x_2", "Milz (3. Ordnung)", "a-b", "肝"]
    assert mask_file_names(names) == [
        "Leber_rechts.nii.gz",
        "x.nii.gz",
        "object.nii.gz",
        "object_2.nii.gz",
        "x_2.nii.gz",
        "X_3.nii.gz",
        "x_2_2.nii.gz",
        "Milz_3_Ordnung.nii.gz",
        "a-b.nii.gz",
        "肝.nii.gz",
    ]
    composed, decomposed = mask_file_names(["Läsion", "La\u0308sion"])
    assert (composed, decomposed) == ("Läsion.nii.gz", "Läsion_2.nii.gz")


@pytest.mark.parametrize("wrong", [LIVER[2].astype(np.uint8), LIVER[2][1:]])
@pytest.mark.parametrize("save", [save_label_map, save_object_masks, save_dicom_segmentation])
def test_masks_that_do_not_fit_are_refused_by_name(save, wrong, tmp_path):
    with pytest.raises(ValueError, match=r"bool of shape \(4, 5, 6\), got .* for 'spleen'"):
        save(oblique(), [LIVER, ("spleen", "#ffffff", wrong)], tmp_path / "file")
    assert not [*tmp_path.iterdir()]


def full_disk(*_, **__):
    raise OSError("no space left")


def test_a_dicom_segmentation_is_there_as_a_whole_or_as_it_was(tmp_path, monkeypatch):
    volume, path = Volume.read(write_series(tmp_path / "series")), tmp_path / "seg.dcm"
    save_dicom_segmentation(volume, [LIVER], path)
    assert pydicom.dcmread(path).SegmentSequence[0].SegmentLabel == "liver"
    with pytest.raises(ValueError, match="an object with a voxel"):
        save_dicom_segmentation(volume, [], path)
    for owner, name in [(pydicom.Dataset, "save_as"), (os, "fsync"), (Path, "replace")]:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
            patched.setattr(owner, name, full_disk)
            save_dicom_segmentation(volume, [AORTA], path)
        assert pydicom.dcmread(path).SegmentSequence[0].SegmentLabel == "liver"
        assert {file.name for file in tmp_path.iterdir()} == {"series", "seg.dcm"}


def test_a_dicom_segmentation_cannot_replace_an_image_of_its_series(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series"))
    with pytest.raises(ValueError, match="outside its series' folder"):
        save_dicom_segmentation(volume, [LIVER], tmp_path / "series" / "1.dcm")
    for path in (tmp_path / "seg.nii.gz", tmp_path / "none" / "seg.dcm"):
        with pytest.raises(ValueError, match=r"must end in .dcm and be in a folder that exists"):
            save_dicom_segmentation(volume, [LIVER], path)


def annotate(volume, *actions):
    annotation = Annotation(volume, fakes())
    annotation.perform({"action": "add_object", "object": "liver", "colour": "#e6194b"})
    annotation.perform({"action": "add_object", "object": "Milz/1", "colour": "#3cb44b"})
    for action, name, values in actions:
        annotation.perform({"action": action, "object": name, **values})
    return annotation


def painted(volume):
    """Three pixels of the liver in slice 1, two of them the spleen's too."""
    first = np.zeros(volume.images.shape[1:3], bool)
    first[0, :3] = True
    second = first.copy()
    second[0, 0] = False
    return annotate(
        volume,
        ("paint", "liver", {"slice_index": 1, "mask": first}),
        ("paint", "Milz/1", {"slice_index": 1, "mask": second}),
    )


def test_provenance_says_what_the_masks_depend_on():
    record = provenance(painted(oblique()))
    assert json.loads(json.dumps(record)) == record
    assert record["image"] is None and record["image_sha256"] == oblique().digest
    assert record["spacing_mm"] == pytest.approx((3, 0.9, 0.8))
    assert record["window"] == list(oblique().window)
    assert (record["weights"], record["weights_sha256"]) == ("fake", "ab" * 32)
    assert record["utc"].endswith("+00:00") and record["limnet"]
    liver, spleen = record["objects"]
    assert (liver["label"], liver["name"], liver["colour"]) == (1, "liver", "#e6194b")
    assert (spleen["label"], spleen["file"], spleen["voxels"]) == (2, "Milz_1.nii.gz", 2)
    assert (liver["voxels"], liver["rounds"], liver["clicks"]) == (3, 0, [])
    assert liver["millilitres"] == pytest.approx(3 * 3 * 0.9 * 0.8 / 1000, abs=1e-4)
    [painted_slice] = liver["slices"]
    assert painted_slice["centre_mm"] == pytest.approx(oblique().position_mm(1, 2, 2.5), abs=1e-3)
    assert painted_slice["position_mm"] == pytest.approx(
        oblique().position_mm(1, 2, 2.5) @ TURN[:, 0], abs=1e-3
    )
    assert painted_slice["area_mm2"] == pytest.approx(3 * 0.9 * 0.8)
    rest = {key: painted_slice[key] for key in ("slice_index", "source", "round", "locked")}
    assert rest == {"slice_index": 1, "source": "painted", "round": None, "locked": False}


def test_a_tilted_gantry_makes_voxels_smaller_than_their_edges(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", shear=1.0))
    [liver, _] = provenance(painted(volume))["objects"]
    assert liver["millilitres"] == pytest.approx(3 * 0.8 * 0.7 * 2.5 / 1000, abs=1e-4)


def test_provenance_has_every_click_with_its_round_and_every_slice_with_something():
    click = {"click": [2, 16.0, 10.5, True]}
    annotation = annotate(
        ramp(),
        ("click", "liver", click),
        ("propagate", "liver", {}),
        ("click", "liver", {"click": [3, 4, 5, False]}),
    )
    liver, spleen = provenance(annotation)["objects"]
    assert liver["clicks"] == [[2, 16.0, 10.5, True, 1], [3, 4.0, 5.0, False, 2]]
    assert liver["rounds"] == 1
    sources = [(each["slice_index"], each["source"], each["round"]) for each in liver["slices"]]
    assert sources[:3] == [(0, "propagated", 1), (1, "propagated", 1), (2, "clicked", None)]
    assert liver["voxels"] == annotation.session("liver").masks.sum()
    assert (spleen["voxels"], spleen["slices"]) == (0, [])


def test_a_bundle_of_a_dicom_series_has_all(tmp_path):
    series = write_series(tmp_path / "series", orientation=OBLIQUE)
    annotation, journal = painted(Volume.read(series)), tmp_path / "Müller.jsonl"
    journal.write_text("{}\n")
    assert save_bundle(annotation, tmp_path / "all.zip", journal=journal) == {}
    assert {file.name for file in tmp_path.iterdir()} == {"series", "Müller.jsonl", "all.zip"}
    with zipfile.ZipFile(tmp_path / "all.zip") as bundle:
        assert bundle.testzip() is None
        assert bundle.namelist() == [
            "journal.jsonl",
            "label_map.nii.gz",
            "masks/Milz_1.nii.gz",
            "masks/liver.nii.gz",
            "provenance.json",
            "segmentation.dcm",
        ]
        for name in bundle.namelist():
            content = bundle.read(name)
            content = gzip.decompress(content) if name.endswith(".gz") else content
            assert str(tmp_path).encode() not in content
            assert ("Müller".encode() in content) == (name == "segmentation.dcm")
        bundle.extractall(tmp_path / "opened")
    record = json.loads((tmp_path / "opened/provenance.json").read_text(encoding="utf-8"))
    assert (record["image"], record["left_out"]) == ("series", {})
    labels = annotation.volume.read_labels(tmp_path / "opened/label_map.nii.gz")
    assert np.array_equal(labels, annotation.labels())
    spleen = annotation.volume.read_labels(tmp_path / "opened/masks/Milz_1.nii.gz")
    assert np.array_equal(spleen, annotation.session("Milz/1").masks)
    segmentation = pydicom.dcmread(tmp_path / "opened/segmentation.dcm")
    assert [each.SegmentLabel for each in segmentation.SegmentSequence] == ["liver", "Milz/1"]


def test_a_bundle_says_why_it_has_no_segmentation(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", without=["StudyInstanceUID"]))
    left_out = save_bundle(painted(volume), tmp_path / "all.zip")
    assert "StudyInstanceUID" in left_out["segmentation.dcm"]
    with zipfile.ZipFile(tmp_path / "all.zip") as bundle:
        assert "segmentation.dcm" not in bundle.namelist()
        assert json.loads(bundle.read("provenance.json"))["left_out"] == left_out


@pytest.mark.parametrize(
    ("owner", "name"),
    [(zipfile.ZipFile, "write"), (os, "fsync"), (nibabel.Nifti1Image, "to_filename")],
)
def test_a_bundle_is_there_as_a_whole_or_as_it_was(owner, name, tmp_path, monkeypatch):
    path = tmp_path / "all.zip"
    save_bundle(painted(oblique()), path)
    before = path.read_bytes()
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(OSError, match="no space"):
        save_bundle(annotate(oblique()), path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def new_session(compare=None):
    return Session(ramp(), fakes(), compare=compare)


def sources(session):
    return [each.source for each in slice_provenance(session)]


def rounds(session):
    return [each.round for each in slice_provenance(session)]


def test_before_the_first_click_every_slice_is_empty():
    [first, *_] = records = slice_provenance(new_session())
    assert len(records) == 5 and set(records) == {first}
    assert astuple(first) == (0, "empty", None, None, False, False)


def test_a_slice_is_clicked_painted_or_propagated():
    session = new_session()
    session.add_click(Click(2, 16, 10))
    session.paint(4, np.eye(32, 48, dtype=bool))
    assert sources(session) == ["empty", "empty", "clicked", "empty", "painted"]
    session.propagate()
    assert sources(session) == ["propagated", "propagated", "clicked", "propagated", "painted"]
    assert rounds(session) == [1, 1, None, 1, None]
    records = slice_provenance(session)
    assert [each.clicked for each in records] == [False, False, True, False, False]
    assert [each.area_pixels for each in records] == session.masks.sum(axis=(1, 2)).tolist()
    assert {each.previous_better for each in records} == {None}  # nothing to compare with


def test_a_lock_is_the_source_only_where_there_is_no_click():
    session = new_session()
    session.add_click(Click(2, 16, 10))
    session.propagate()
    session.lock(2)
    session.lock(3)
    assert sources(session)[2:4] == ["clicked", "locked"]
    assert rounds(session)[2:4] == [None, None]
    assert [each.locked for each in slice_provenance(session)] == [False, False, True, True, False]


def keeps(*slices):
    """Judges that the previous masks of these slices are better."""
    return lambda previous, current: np.isin(np.arange(RAMP[0]), slices).astype(np.float32)


def test_a_kept_mask_comes_from_the_round_that_made_it():
    session = new_session()
    for level, kept in enumerate([(), (0, 1), (1,)], start=1):
        session.networks.propagation_net.level = level / 4
        session.compare = keeps(*kept)
        session.add_click(Click(2, 16, 10))
        session.propagate()
    assert rounds(session) == [3, 1, None, 3, 3]
    assert [each.previous_better for each in slice_provenance(session)] == [0, 1, 0, 0, 0]
    session.take_other(0)
    assert rounds(session) == [1, 1, None, 3, 3]
    session.take_other(1)
    assert rounds(session) == [1, 3, None, 3, 3]
