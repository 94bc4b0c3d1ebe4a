"""Volumes: slices out of files, masks back onto exactly the grid that they came from."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from limnet.volumes import Volume

SHAPE = (4, 5, 6)
OBLIQUE = np.array(  # rotations about two axes, spacing 0.8, 0.9 and 3 mm
    [[0.72, -0.2, 1.1, -31.0], [0.3, 0.86, -0.35, 12.5], [-0.18, 0.17, 2.77, 700.0], [0, 0, 0, 1]]
)
REORDERINGS = list(product(permutations(range(3)), product((1, -1), repeat=3)))  # 48


def write(path, data, affine=None, **header_fields):
    affine = np.diag([1, 1, 2, 1]) if affine is None else affine
    image = nibabel.Nifti1Image(data, affine)
    for name, value in header_fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


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


def position_in_simpleitk(path):
    """RAS+ millimetres of the one voxel that is set in a file."""
    mask = SimpleITK.ReadImage(str(path))
    [index] = np.argwhere(SimpleITK.GetArrayFromImage(mask))
    return np.array([-1, -1, 1]) * mask.TransformIndexToPhysicalPoint(index[::-1].tolist())


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


def test_spacing_and_positions_are_in_mm_where_the_file_counts_in_microns(tmp_path):
    path = write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16), np.diag([500, 500, 900, 1]))
    image = nibabel.load(path)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "micron.nii")
    volume = Volume.read(tmp_path / "micron.nii")
    assert volume.spacing_mm == pytest.approx((0.9, 0.5, 0.5))
    masks = np.zeros(volume.images.shape, bool)
    masks[1, 2, 3] = True
    volume.save_masks(masks, tmp_path / "mask.nii")
    expected = volume.position_mm(1, 2, 3)
    assert position_in_simpleitk(tmp_path / "mask.nii") == pytest.approx(expected, abs=1e-5)


def test_16_bit_stays_16_bit_and_scaled_values_are_scaled(tmp_path):
    data = np.arange(120, dtype=np.dtype(">i2")).reshape(SHAPE)
    plain = Volume.read(write(tmp_path / "plain.nii", data))
    assert plain.images.dtype == np.int16
    assert plain.images.max() == 119
    raw = bytearray((tmp_path / "plain.nii").read_bytes())
    raw[112:120] = np.array([2, -1024], dtype="<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "scaled.nii").write_bytes(raw)
    scaled = Volume.read(tmp_path / "scaled.nii")
    assert scaled.images.dtype == np.float32
    assert np.array_equal(scaled.images, plain.images * 2.0 - 1024)


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


def test_the_digest_tells_contents_apart():
    images = np.arange(120).reshape(SHAPE).astype(np.int16)
    same, turned = Volume.from_array(images), Volume.from_array(images[::-1])
    assert Volume.from_array(images.copy()).digest == same.digest != turned.digest
    assert len(same.digest) == 64


def write_series(folder, *, count=4, step=(0.0, 0.0, 2.5), uid="1.2.3", tilt=0.0, **changes):
    """CT slices of 5 rows and 6 columns, 0.8 x 0.7 mm, in files out of order."""
    folder.mkdir(exist_ok=True)
    cosine, sine = np.cos(tilt), np.sin(tilt)
    for index in range(count):
        dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.SOPClassUID = pydicom.uid.CTImageStorage
        dataset.SOPInstanceUID = f"{uid}.{index}"
        dataset.SeriesInstanceUID, dataset.SeriesDescription = uid, f"portal {uid}"
        dataset.Modality = "CT"
        dataset.ImagePositionPatient = [*(np.array([-9, 7, 40]) + np.array(step) * index).tolist()]
        dataset.ImageOrientationPatient = [cosine, sine, 0, -sine, cosine, 0]
        dataset.PixelSpacing, dataset.Rows, dataset.Columns = [0.8, 0.7], 5, 6
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        pixels = np.zeros((5, 6), np.uint16)
        pixels[2, 4] = 1000 + index
        dataset.PixelData = pixels.tobytes()
        for name, value in changes.items():
            setattr(dataset, name, value)
        dataset.save_as(folder / f"{uid}-{(count - index) % count}", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("step", [(0, 0, 2.5), (0, 0, -2.5)], ids=["upward", "downward"])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_a_dicom_series_is_sorted_in_hounsfield_units_and_placed_as_simpleitk_places_it(
    step, tilt, tmp_path
):
    folder = write_series(tmp_path / "series", step=step, tilt=tilt)
    volume = Volume.read(folder)
    assert volume.images.shape == (4, 5, 6) and volume.images.dtype == np.int16
    assert volume.modality == "CT"
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    hounsfield = [-24, -23, -22, -21] if step[2] > 0 else [-21, -22, -23, -24]
    assert volume.images[:, 2, 4].tolist() == hounsfield
    volume.save_masks(volume.images == -22, tmp_path / "mask.nii.gz")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    series = SimpleITK.ReadImage(names)
    [[plane, row, column]] = np.argwhere(SimpleITK.GetArrayFromImage(series) == -22).tolist()
    expected = np.array(series.TransformIndexToPhysicalPoint((column, row, plane))) * (-1, -1, 1)
    assert position_in_simpleitk(tmp_path / "mask.nii.gz") == pytest.approx(expected, abs=1e-3)
    assert volume.read_labels(tmp_path / "mask.nii.gz").sum() == 1


def test_a_tilted_gantry_makes_an_affine_with_a_shear(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", step=(0, 0.5, 2.5)))
    assert volume.position_mm(3, 0, 0) - volume.position_mm(0, 0, 0) == pytest.approx(
        (0, -1.5, 7.5)
    )
    volume.save_masks(volume.images == -22, tmp_path / "mask.nii")
    saved = nibabel.load(tmp_path / "mask.nii").affine[:3, 2]
    assert saved == pytest.approx((0, -0.5, 2.5))


def test_what_is_no_image_in_a_dicom_folder_is_passed_over(tmp_path):
    folder = write_series(tmp_path / "series")
    storage = pydicom.uid.RTStructureSetStorage
    write_series(tmp_path / "series", uid="1.9", count=1, SOPClassUID=storage)
    assert len(Volume.read(folder).images) == 4


def write_frames(folder, count=11, mode="RGB"):
    folder.mkdir()
    for index in range(count):
        image = Image.new(mode, (6, 5), (index, 0, 255) if mode == "RGB" else index)
        if mode == "P":
            image.putpalette([255, 0, 0] * 256)
        image.save(folder / f"frame_{index}.png")
    return folder


def test_frames_are_read_as_they_are_in_the_order_of_their_numbers(tmp_path):
    volume = Volume.read(write_frames(tmp_path / "frames"))
    assert volume.images.shape == (11, 5, 6, 3) and volume.images.dtype == np.uint8
    assert volume.modality == "RGB"
    assert volume.images[:, 0, 0, 0].tolist() == list(range(11))
    assert volume.rgb([10, 3]).shape == (2, 3, 5, 6)
    assert volume.rgb([10])[0, :, 0, 0] == pytest.approx((10 / 255, 0, 1))


def test_masks_of_frames_are_a_nifti_or_a_folder_of_images(tmp_path):
    volume = Volume.read(write_frames(tmp_path / "frames"))
    labels = volume.read_labels(write_frames(tmp_path / "masks", mode="P"))
    assert labels.dtype == np.int32
    assert labels[:, 4, 5].tolist() == list(range(11))
    volume.save_masks(labels, tmp_path / "mask.nii.gz")
    assert np.array_equal(volume.read_labels(tmp_path / "mask.nii.gz"), labels)
    assert np.array_equal(Volume.read(tmp_path / "mask.nii.gz").images, labels)


def nans(path):
    data = np.zeros(SHAPE, np.float32)
    data[1, 2, 3], data[0, 0, 0] = np.nan, np.inf
    return write(path / "image.nii.gz", data)


def cut_short(path, name):
    data = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    whole = write(path / name, data).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2])
    return path / name


def unknown_units(path):
    file = write(path / "image.nii", np.zeros(SHAPE, np.int16))
    raw = bytearray(file.read_bytes())
    raw[123] = 5  # xyzt_units
    file.write_bytes(raw)
    return file


def broken_dicom_header(path):
    file = write_series(path / "dicom") / "1.2.3-2"
    file.write_bytes(file.read_bytes().replace(b"(\0\x10\0US", b"(\0\x10\0Ut"))  # Rows
    return path / "dicom"


def not_nifti(path):
    (path / "image.nii.gz").write_bytes(gzip.compress(b"no image"))
    return path / "image.nii.gz"


def text_file(path):
    (path / "image.txt").write_text("no image")
    return path / "image.txt"


def two_series(path):
    write_series(path / "dicom")
    return write_series(path / "dicom", uid="1.2.4", count=2)


def series_without(path, *names):
    folder = write_series(path / "dicom")
    for name in names:
        (folder / name).unlink()
    return folder


def frames_of_two_sizes(path):
    folder = write_frames(path / "frames")
    Image.new("RGB", (9, 9)).save(folder / "frame_11.png")
    return folder


def cut_dicom(path):
    file = write_series(path / "dicom") / "1.2.3-2"
    file.write_bytes(file.read_bytes()[:-20])
    return path / "dicom"


def singular(path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.header["srow_x"] = 0
    image.header["sform_code"] = 2
    raw = bytearray(image.to_bytes())
    raw[280:296] = np.zeros(4, dtype="<f4").tobytes()  # srow_x
    (path / "image.nii").write_bytes(raw)
    return path / "image.nii"


def empty(path):
    (path / "empty").mkdir()
    return path / "empty"


UNREADABLE = {
    "missing": (lambda path: path / "none.nii.gz", "must be an existing .*none.nii.gz"),
    "text": (text_file, "existing .nii or .nii.gz file, or folder .*image.txt"),
    "not NIfTI": (not_nifti, "must be whole and readable"),
    "truncated nii.gz": (lambda path: cut_short(path, "i.nii.gz"), "must be whole"),
    "truncated nii": (lambda path: cut_short(path, "i.nii"), "must be whole"),
    "NaN": (nans, "got 2 NaN or infinite of 120"),
    "2D": (lambda path: write(path / "i.nii", np.zeros((4, 5), np.int16)), r"\(4, 5\), not 3D"),
    "4D": (lambda path: write(path / "i.nii", np.zeros((4, 5, 6, 2), np.int16)), "not 3D or 4D"),
    "5D": (lambda path: write(path / "i.nii", np.zeros((4, 5, 6, 1, 2), np.int16)), "not 3D or"),
    "complex": (lambda path: write(path / "i.nii", np.zeros(SHAPE, np.complex64)), "numbers of"),
    "singular affine": (singular, "singular or infinite .*image.nii; repair the header"),
    "empty folder": (empty, "must hold one DICOM series or png or jpg frames, got none"),
    "no image in folder": (lambda path: text_file(path).parent, "got none in .* among 1 files"),
    "two series": (two_series, r"got 2 .*1.2.3 \(portal 1.2.3\): 4 images; 1.2.4 .*: 2 images"),
    "missing slice": (lambda path: series_without(path, "1.2.3-2"), "gaps from 2.50 to 5.00 mm"),
    "doubled slices": (
        lambda path: write_series(path / "dicom", step=(0, 0, 0)),
        "gaps from 0.00 to 0.00",
    ),
    "no position": (
        lambda path: write_series(path / "dicom", ImagePositionPatient=None),
        "lacks .*ImagePositionPatient",
    ),
    "multi-frame": (
        lambda path: write_series(path / "dicom", NumberOfFrames=3),
        "convert the series to NIfTI",
    ),
    "unknown units": (unknown_units, "must be whole and readable"),
    "broken DICOM header": (broken_dicom_header, "1.2.3-2 must be whole and readable"),
    "truncated DICOM": (cut_dicom, "must be whole and readable"),
    "frames of two sizes": (frames_of_two_sizes, r"one size, got \[\(5, 6, 3\), \(9, 9, 3\)\]"),
}


@pytest.mark.parametrize(("make", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_refused_with_its_reason(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Volume.read(make(tmp_path))


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


def test_bad_windows_and_shapes_are_refused():
    for window in ((5, 5), (0, np.inf), "liver"):
        with pytest.raises(ValueError, match="window must"):
            Volume.from_array(np.zeros(SHAPE, np.int16), window=window)
    with pytest.raises(ValueError, match="shape"):
        Volume.from_array(np.zeros((5, 6)))


def test_an_unknown_slice_axis_is_refused(tmp_path):
    path = write(tmp_path / "image.nii", np.zeros(SHAPE, np.int16))
    with pytest.raises(ValueError, match="0, 1 or 2, got 3"):
        Volume.read(path, slice_axis=3)
