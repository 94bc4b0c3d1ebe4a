from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from images import SHAPE, position_in_simpleitk, write

from limnet.volumes import Volume

OBLIQUE = np.array(  # rotations about two axes, spacing 0.8, 0.9 and 3 mm
    [[0.72, -0.2, 1.1, -31.0], [0.3, 0.86, -0.35, 12.5], [-0.18, 0.17, 2.77, 700.0], [0, 0, 0, 1]]
)
REORDERINGS = list(product(permutations(range(3)), product((1, -1), repeat=3)))  # 48


def orthonormal(affine):
    """The nearest affine that ITK accepts: orthogonal axes of the same spacing."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    return np.block([[left @ right * spacing, affine[:3, 3:]], [np.zeros((1, 3)), 1]])


def reordered_affine(axes, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.7, 1.1, 2.5])[:, axes] * signs
    affine[:3, 3] = 10, -20, 30
    return affine


@pytest.mark.parametrize(
    "affine",
    [reordered_affine(*reordering) for reordering in REORDERINGS] + [orthonormal(OBLIQUE)],
    ids=[f"axes {axes} signs {signs}" for axes, signs in REORDERINGS] + ["oblique"],
)
def test_a_clicked_voxel_is_where_it_was_in_millimetres_when_simpleitk_reads_the_mask(
    affine, tmp_path
):
    data = np.zeros(SHAPE, dtype=np.int16)
    data[3, 1, 2] = 500
    volume = Volume.read(write(tmp_path / "image.nii", data, affine))
    [clicked] = np.argwhere(volume.images == 500)
    masks = np.zeros(volume.images.shape, dtype=bool)
    masks[tuple(clicked)] = True
    volume.save_masks(masks, tmp_path / "mask.nii.gz")
    expected = (affine @ (3, 1, 2, 1))[:3]
    assert position_in_simpleitk(tmp_path / "mask.nii.gz") == pytest.approx(expected, abs=1e-4)
    assert volume.position_mm(*clicked.tolist()) == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(volume.read_labels(tmp_path / "mask.nii.gz"), masks)


@pytest.mark.parametrize(("axes", "signs"), REORDERINGS)
def test_slices_ascend_to_the_head_with_the_back_below_and_the_patients_left_on_the_right(
    axes, signs, tmp_path
):
    affine = reordered_affine(axes, signs)
    volume = Volume.read(write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16), affine))
    assert np.allclose(volume.affine[:3, :3], [[0, 0, -0.7], [0, -1.1, 0], [2.5, 0, 0]])
    assert volume.spacing_mm == pytest.approx((2.5, 1.1, 0.7))


@pytest.mark.parametrize(
    ("slice_axis", "directions"),
    [(0, "RIP"), (1, "AIL"), (2, "SPL")],  # where slices, rows and columns run to
    ids=["sagittal", "coronal", "axial"],
)
def test_a_slice_axis_that_was_asked_for_is_shown_upright(slice_axis, directions, tmp_path):
    path = write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16))
    volume = Volume.read(path, slice_axis=slice_axis)
    assert "".join(nibabel.aff2axcodes(volume.affine)) == directions
    assert len(volume.images) == SHAPE[slice_axis]


def test_slices_run_along_the_coarsest_spacing_and_of_equals_the_last(tmp_path):
    data = np.zeros(SHAPE, np.int16)
    slices = {
        spacing: len(Volume.read(write(tmp_path / "i.nii", data, np.diag([*spacing, 1]))).images)
        for spacing in [(5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 1, 1), (3, 3, 1)]
    }
    assert list(slices.values()) == [4, 5, 6, 6, 5]


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1)])
def test_a_mask_has_shape_affine_codes_and_units_of_the_file(shape, tmp_path):
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), OBLIQUE)
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(np.diag([0.8, 0.9, 3, 1]), code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 240
    nibabel.save(image, tmp_path / "image.nii.gz")
    volume = Volume.read(tmp_path / "image.nii.gz")
    assert volume.images.shape == (6, 5, 4)
    volume.save_masks(volume.images == 0, tmp_path / "mask.nii.gz")
    source, saved = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("image", "mask"))
    assert saved.shape == shape and saved.get_data_dtype() == np.uint8
    assert np.array_equal(saved.get_sform(coded=True)[0], source.get_sform())
    assert np.array_equal(saved.get_qform(coded=True)[0], source.get_qform())
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(saved.header[name], source.header[name]), name
    assert saved.header["cal_max"] == 0
    assert np.asarray(saved.dataobj).all()


def test_a_file_without_codes_gives_a_mask_without_codes(tmp_path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header.set_zooms((1, 1, 2))
    nibabel.save(image, tmp_path / "image.nii")
    volume = Volume.read(tmp_path / "image.nii")
    volume.save_masks(volume.images == 0, tmp_path / "mask.nii")
    saved = nibabel.load(tmp_path / "mask.nii")
    assert (saved.header["sform_code"], saved.header["qform_code"]) == (0, 0)
    assert np.array_equal(saved.affine, nibabel.load(tmp_path / "image.nii").affine)


def test_labels_above_255_are_saved_as_int16(tmp_path):
    volume = Volume.from_array(np.zeros(SHAPE, np.int16))
    volume.save_masks(np.full(SHAPE, 300), tmp_path / "mask.nii")
    assert nibabel.load(tmp_path / "mask.nii").get_data_dtype() == np.int16
    assert (volume.read_labels(tmp_path / "mask.nii") == 300).all()


def test_labels_on_the_same_voxels_in_another_order_of_axes_are_brought_to_the_volume(tmp_path):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    volume = Volume.read(write(tmp_path / "image.nii", data, OBLIQUE))
    turned = nibabel.load(tmp_path / "image.nii").as_reoriented([[2, -1], [0, 1], [1, -1]])
    nibabel.save(turned, tmp_path / "turned.nii")
    assert np.array_equal(volume.read_labels(tmp_path / "turned.nii"), volume.images)


def test_an_array_and_its_saved_masks_read_back_as_they_were(tmp_path):
    masks = np.zeros(SHAPE, bool)
    masks[1, 2, 3] = True
    volume = Volume.from_array(np.zeros(SHAPE, np.float64), (5, 0.8, 0.7))
    assert volume.images.dtype == np.float32
    assert volume.spacing_mm == (5, 0.8, 0.7)
    volume.save_masks(masks, tmp_path / "mask.nii.gz")
    assert np.array_equal(Volume.read(tmp_path / "mask.nii.gz").images, masks)
    assert position_in_simpleitk(tmp_path / "mask.nii.gz") == pytest.approx((-2.1, -1.6, 5))
    obliquely = Volume.from_array(np.zeros(SHAPE, np.int16), affine=OBLIQUE)
    assert obliquely.position_mm(1, 2, 3) == pytest.approx((OBLIQUE @ (1, 2, 3, 1))[:3])


def test_ct_is_known_by_its_air_and_shown_from_minus_160_to_240_hu():
    images = np.full(SHAPE, -1024, np.int16)
    images[0, 0, :3] = -160, 40, 1000
    volume = Volume.from_array(images)
    assert (volume.modality, volume.window) == ("CT", (-160, 240))
    assert volume.rgb([0]).shape == (1, 3, 5, 6)
    assert volume.rgb([0])[0, 2, 0, :4] == pytest.approx([0, 0.5, 1, 0])
    assert Volume.from_array(images, window="bone").window == (-500, 1300)
    narrow = Volume.from_array(images, window=(0, 100))
    assert narrow.rgb()[0, 0, 0, 1] == pytest.approx(0.4)


def test_other_images_are_shown_from_percentiles_of_what_is_not_background():
    images = np.zeros((10, 20, 20), np.int16)
    images[:5] = np.arange(1, 2001).reshape(5, 20, 20)
    volume = Volume.from_array(images)
    assert volume.modality == "other"
    assert volume.window == pytest.approx(np.percentile(np.arange(1, 2001), (0.5, 99.5)))
    assert volume.rgb().dtype == np.float32
    assert (volume.rgb().min(), volume.rgb().max()) == (0, 1)
    constant = Volume.from_array(np.full(SHAPE, 7, np.uint8))
    assert not constant.rgb().any()


@pytest.mark.parametrize(
    ("shape", "affine", "other"),
    [
        ((4, 5, 7), np.diag([1, 1, 2, 1]), r"\(4, 5, 6\).*\(4, 5, 7\)"),
        (SHAPE, np.diag([1, 1, 2.1, 1]), r"\[1.0, 1.0, 2.0\].*\[1.0, 1.0, 2.1\]"),
        (SHAPE, np.diag([-1, 1, 2, 1]), "RAS.*LAS"),
        (SHAPE, np.eye(4) + np.eye(4)[2:3].T @ [[0, 0, 1, 0.5]], r"\[0.0, 0.0, 0.5\]"),
        (SHAPE, OBLIQUE, "-31"),
    ],
    ids=["shape", "spacing", "flipped", "shifted", "oblique"],
)
def test_labels_on_another_grid_are_refused_with_both_grids(shape, affine, other, tmp_path):
    volume = Volume.read(write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16)))
    labels = write(tmp_path / "labels.nii", np.zeros(shape, np.uint8), affine)
    with pytest.raises(ValueError, match=other):
        volume.read_labels(labels)


def test_labels_with_fractions_are_refused(tmp_path):
    volume = Volume.read(write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16)))
    with pytest.raises(ValueError, match="whole numbers"):
        volume.read_labels(write(tmp_path / "labels.nii", np.full(SHAPE, 0.5, np.float32)))


def test_masks_that_do_not_fit_and_paths_that_cannot_be_are_refused(tmp_path):
    path = write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16))
    volume = Volume.read(path)
    masks = np.zeros(volume.images.shape, bool)
    for wrong in (masks[1:], masks.astype(float), masks - 1, np.full(masks.shape, 2**15)):
        with pytest.raises(ValueError, match="must be"):
            volume.save_masks(wrong, tmp_path / "mask.nii")
    for name in ("mask.png", "none/mask.nii", "image.nii"):
        with pytest.raises(ValueError, match="name"):
            volume.save_masks(masks, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["image.nii"]


def test_a_failed_save_leaves_the_older_mask_and_nothing_else(tmp_path, monkeypatch):
    volume = Volume.from_array(np.zeros(SHAPE, np.int16))
    masks = np.ones(SHAPE, bool)
    volume.save_masks(masks, tmp_path / "mask.nii.gz")

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        volume.save_masks(~masks, tmp_path / "mask.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert volume.read_labels(tmp_path / "mask.nii.gz").all()


def test_bad_windows_shapes_and_axes_are_refused(tmp_path):
    for window in ((5, 5), (0, np.inf), "liver"):
        with pytest.raises(ValueError, match="window must"):
            Volume.from_array(np.zeros(SHAPE, np.int16), window=window)
    with pytest.raises(ValueError, match="shape"):
        Volume.from_array(np.zeros((5, 6)))
    path = write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16))
    with pytest.raises(ValueError, match="got 3"):
        Volume.read(path, slice_axis=3)
