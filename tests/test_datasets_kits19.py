import nibabel
import numpy as np
import pytest

from limnet.data.kits19 import (
    KITS19_FAULTS,
    KITS19_LABELS,
    find_kits19,
    kits19_cases,
    write_kits19_twin,
)
from limnet.data.synthetic.abdomen import STRUCTURES, abdomen
from limnet.data.synthetic.lesions import with_lesion
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin

SMALL = {"shape": (20, 40, 40), "spacing_mm": (11.0, 9.0, 9.0)}
# README.md of neheller/kits19: slice thickness 5, pixel width 2
AFFINE = np.array([[0, 0, -2, 0], [0, -2, 0, 0], [-5, 0, 0, 0], [0, 0, 0, 1.0]])


def write_nifti(path, value=0, shape=(3, 4, 6), dtype=np.float32, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full(shape, value, dtype), affine), path)


def write_kits19(root, labelled=(0, 1), unlabelled=(210,)):
    for number in (*labelled, *unlabelled):
        write_nifti(root / "data" / f"case_{number:05d}" / "imaging.nii.gz", value=-1000)
    for number in labelled:
        path = root / "data" / f"case_{number:05d}" / "segmentation.nii.gz"
        write_nifti(path, value=2, dtype=np.uint8)
    (root / "data" / "kits.json").write_text("[]")


def test_cases_come_in_order_and_the_test_cases_are_passed_over(tmp_path):
    write_kits19(tmp_path, labelled=[21, 3, 209], unlabelled=[210, 299])
    cases = kits19_cases(tmp_path)
    assert [case.name for case in cases] == ["case_00003", "case_00021", "case_00209"]
    assert cases == kits19_cases(tmp_path / "data")
    assert {case.collection for case in cases} == {"KiTS19"}
    assert not any(case.trainable for case in cases) and not is_twin(tmp_path / "data")


def test_the_slices_of_a_case_are_axial_and_the_organ_contains_its_tumour(tmp_path):
    write_kits19(tmp_path, labelled=[0])
    path = tmp_path / "data/case_00000/segmentation.nii.gz"
    data = np.zeros((3, 4, 6), np.uint8)
    data[0, :, 0] = 1  # uppermost slice, at the patient's right
    data[0, 3, 0] = 2  # and its last row: at the back
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), path)
    [case] = kits19_cases(tmp_path)
    volume, labels = case.load()
    assert volume.images.shape == (3, 4, 6) and volume.spacing_mm == (5, 2, 2)
    assert np.argwhere(case.target(labels, "tumour")).tolist() == [[2, 3, 0]]
    assert case.target(labels, "kidney").sum() == 4 and case.labels == KITS19_LABELS


def test_slices_that_are_thinner_than_their_pixels_stay_slices(tmp_path):
    thin = AFFINE * [[1], [1], [0.1], [1]]  # 0.5 mm, as case_00000 (#15)
    for name in ("imaging.nii.gz", "segmentation.nii.gz"):
        write_nifti(tmp_path / "data/case_00000" / name, value=2, affine=thin)
    volume, labels = kits19_cases(tmp_path)[0].load()
    assert volume.images.shape == labels.shape == (3, 4, 6) and volume.spacing_mm == (0.5, 2, 2)


def test_cases_with_known_faults_are_read_all_the_same(tmp_path):
    write_kits19(tmp_path, labelled=[14, 15, 160])
    names = [case.name for case in kits19_cases(tmp_path)]
    assert [name for name in names if name in KITS19_FAULTS] == ["case_00015", "case_00160"]
    assert "#13" in KITS19_FAULTS["case_00160"]


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        kits19_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must hold data/case_00000 .*another layout"):
        kits19_cases(tmp_path)
    write_kits19(tmp_path, labelled=[], unlabelled=[210])
    with pytest.raises(ValueError, match="these are test cases alone; copy case_00000"):
        kits19_cases(tmp_path)


@pytest.mark.parametrize("name", ["imaging.nii.gz", "segmentation.nii.gz"])
def test_a_file_that_is_missing_or_renamed_is_named(tmp_path, name):
    write_kits19(tmp_path)
    path = tmp_path / "data/case_00001" / name
    path.rename(path.with_name("renamed.nii.gz"))
    with pytest.raises(ValueError, match=f"lacks case_00001/{name}; .*get_imaging"):
        kits19_cases(tmp_path)
    path.with_name("renamed.nii.gz").unlink()
    with pytest.raises(ValueError, match=f"lacks case_00001/{name}; .* or remove these cases"):
        kits19_cases(tmp_path)


def test_a_clone_without_the_images_says_where_they_are_in_a_line(tmp_path):
    write_kits19(tmp_path, labelled=range(9))
    for path in tmp_path.glob("data/*/imaging.nii.gz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"case_00005/imaging.nii.gz and 3 more; the clone has"):
        kits19_cases(tmp_path)


@pytest.mark.parametrize("name", ["case_1", "case_00001_old", "case_00300"])
def test_a_renamed_case_is_refused(tmp_path, name):
    write_kits19(tmp_path)
    (tmp_path / "data/case_00001").rename(tmp_path / "data" / name)
    with pytest.raises(ValueError, match=f"named case_00000 to case_00299, .* holds {name}; "):
        kits19_cases(tmp_path)


@pytest.mark.parametrize("name", ["imaging.nii.gz", "segmentation.nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_refused_with_its_case_when_it_is_loaded(tmp_path, name, kept):
    write_kits19(tmp_path)
    path = tmp_path / "data/case_00001" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    whole, broken = kits19_cases(tmp_path)
    whole.load()
    with pytest.raises(ValueError, match=rf"case_00001.{name} must be whole .* copy or export"):
        broken.load()


def test_a_pointer_of_git_lfs_is_no_image(tmp_path):
    write_kits19(tmp_path, labelled=[0])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "data/case_00000/imaging.nii.gz").write_text(pointer)
    with pytest.raises(ValueError, match=r"case_00000.imaging.nii.gz must be whole"):
        kits19_cases(tmp_path)[0].load()


def test_a_segmentation_of_another_shape_is_refused_with_its_case(tmp_path):
    write_kits19(tmp_path)
    write_nifti(tmp_path / "data/case_00001/segmentation.nii.gz", shape=(3, 4, 5), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"on the grid of the volume.*case_00001.*resample"):
        kits19_cases(tmp_path)[1].load()


def test_the_twin_reads_back_as_the_phantoms_it_was_written_from(tmp_path):
    cases = write_kits19_twin(tmp_path, cases=2, seed=4, **SMALL)
    assert [case.name for case in cases] == ["case_00000", "case_00001"]
    assert cases == kits19_cases(tmp_path) and is_twin(tmp_path / "data")
    assert {case.collection for case in cases} == {"KiTS19 twin (synthetic)"}
    assert all(case.trainable for case in cases)
    seed = 2 * TWIN_SEEDS + 4 * 300 + 1
    healthy = abdomen(seed, **SMALL)
    phantom = with_lesion(healthy, "right kidney", seed, label=99)
    volume, labels = cases[1].load()
    assert np.array_equal(volume.images, phantom.images) and volume.modality == "CT"
    assert volume.spacing_mm == SMALL["spacing_mm"]
    assert np.array_equal(cases[1].target(labels, "tumour"), phantom.labels == 99)
    kidneys = [STRUCTURES["left kidney"], STRUCTURES["right kidney"]]
    assert np.array_equal(cases[1].target(labels, "kidney"), np.isin(phantom.structures, kidneys))


def test_the_twin_has_the_quirks_of_the_real_files(tmp_path):
    [case] = write_kits19_twin(tmp_path, cases=1, **SMALL)
    image, label = nibabel.load(case.image), nibabel.load(case.label)
    assert image.shape == label.shape == (20, 40, 40)  # slices first
    assert image.affine.tolist() == [[0, 0, -9, 0], [0, -9, 0, 0], [-11, 0, 0, 0], [0, 0, 0, 1]]
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.float32, np.uint8)
    unlabelled = tmp_path / "data/case_00210"
    assert [path.name for path in unlabelled.iterdir()] == ["imaging.nii.gz"]


def test_a_twin_is_written_once_and_again_for_another_seed(tmp_path):
    [case] = write_kits19_twin(tmp_path, cases=1, **SMALL)
    first = case.image.read_bytes()
    case.image.write_bytes(b"kept")
    write_kits19_twin(tmp_path, cases=1, **SMALL)
    assert case.image.read_bytes() == b"kept"
    write_kits19_twin(tmp_path, cases=1, seed=1, **SMALL)
    assert case.image.read_bytes() not in (b"kept", first)


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_kits19(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_kits19_twin(tmp_path, cases=1, **SMALL)
    assert len(kits19_cases(tmp_path)) == 2
    with pytest.raises(ValueError, match="1 to 210 cases"):
        write_kits19_twin(tmp_path / "new", cases=211)


def test_kits19_is_found_in_the_data_folder(tmp_path):
    assert find_kits19(None) is None and find_kits19(tmp_path) is None
    write_kits19(tmp_path / "kits19")
    assert find_kits19(tmp_path) == tmp_path / "kits19"
    assert len(kits19_cases(find_kits19(tmp_path))) == 2
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_kits19(tmp_path / "nowhere")
