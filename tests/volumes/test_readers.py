"""Files and folders that become volumes, and those that cannot."""

import gzip

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_series import AXIAL, OBLIQUE, write_series
from images import SHAPE, position_in_simpleitk, write
from PIL import Image

from limnet.volumes import Volume


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


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("reverse", [False, True], ids=["upward", "downward"])
def test_a_dicom_series_is_sorted_in_hounsfield_units_and_placed_as_simpleitk_places_it(
    orientation, reverse, tmp_path
):
    folder = write_series(tmp_path / "series", orientation=orientation, reverse=reverse)
    volume = Volume.read(folder)
    assert volume.images.shape == (4, 5, 6) and volume.images.dtype == np.int16
    assert volume.modality == "CT" and volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    hounsfield = [-21, -22, -23, -24] if reverse else [-24, -23, -22, -21]
    assert volume.images[:, 2, 4].tolist() == hounsfield
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    series = SimpleITK.ReadImage(names)
    plane = int(np.argwhere(SimpleITK.GetArrayFromImage(series) == -22)[0, 0])
    expected = np.array(series.TransformIndexToPhysicalPoint((4, 2, plane))) * (-1, -1, 1)
    index = hounsfield.index(-22)
    assert volume.position_mm(index, 2, 4) == pytest.approx(expected, abs=1e-3)
    masks = np.zeros(volume.images.shape, dtype=bool)
    masks[index, 2, 4] = True
    volume.save_masks(masks, tmp_path / "mask.nii.gz")
    assert position_in_simpleitk(tmp_path / "mask.nii.gz") == pytest.approx(expected, abs=1e-3)
    assert np.array_equal(volume.read_labels(tmp_path / "mask.nii.gz"), masks)


def test_a_tilted_gantry_makes_an_affine_with_a_shear(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", shear=0.5))
    step = volume.position_mm(1, 0, 0) - volume.position_mm(0, 0, 0)
    assert step == pytest.approx((0, -0.5, 2.5))
    volume.save_masks(volume.images == -22, tmp_path / "mask.nii")
    assert nibabel.load(tmp_path / "mask.nii").affine[:3, 2] == pytest.approx(step)


def test_what_is_no_image_in_a_dicom_folder_is_passed_over(tmp_path):
    report = write_series(tmp_path / "other", SOPClassUID=pydicom.uid.RTStructureSetStorage)
    folder = write_series(tmp_path / "series")
    (report / "0.dcm").rename(folder / "structures")  # without an ending it is DICOM as well
    assert len(Volume.read(folder).images) == 4


def test_a_slope_that_is_not_1_makes_fractions(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", RescaleSlope=0.5))
    assert volume.images.dtype == np.float32 and volume.images[0, 0, 0] == 1000 / 2 - 1024


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


def damaged(path, change):
    """A file whose bytes are changed; of a folder, those of its third file."""
    file = path / "2.dcm" if path.is_dir() else path
    file.write_bytes(change(file.read_bytes()))
    return path


def nifti(path, shape=SHAPE, dtype=np.int16, name="image.nii", value=0):
    return write(path / name, np.full(shape, value, dtype))


def half(content):
    return content[: len(content) // 2]


def with_bytes(place, new):
    return lambda content: content[:place] + new + content[place + len(new) :]


def two_series(path):
    other = write_series(path / "other", SeriesInstanceUID="1.2.9")
    for file in other.iterdir():
        file.rename(write_series(path / "dicom") / f"other-{file.name}")
    return path / "dicom"


def without_a_slice(path):
    (write_series(path / "dicom") / "1.dcm").unlink()
    return path / "dicom"


def frames_of_two_sizes(path):
    Image.new("RGB", (9, 9)).save(write_frames(path / "frames") / "frame_11.png")
    return path / "frames"


def text_file(path):
    (path / "image.txt").write_text("no image")
    return path / "image.txt"


# what is wrong -> how it is made, and the value that the error names
UNREADABLE = {
    "missing": (lambda path: path / "none.nii.gz", "none.nii.gz"),
    "text": (text_file, "image.txt"),
    "not NIfTI": (
        lambda path: damaged(nifti(path, name="i.nii.gz"), lambda _: gzip.compress(b"no image")),
        "i.nii.gz",
    ),
    "truncated nii.gz": (lambda path: damaged(nifti(path, name="i.nii.gz"), half), "i.nii.gz"),
    "truncated nii": (lambda path: damaged(nifti(path), half), "image.nii"),
    "NaN": (lambda path: nifti(path, dtype=np.float32, value=np.nan), "120 NaN or infinite"),
    "2D": (lambda path: nifti(path, (4, 5)), r"\(4, 5\)"),
    "4D": (lambda path: nifti(path, (4, 5, 6, 2)), r"\(4, 5, 6, 2\)"),
    "5D": (lambda path: nifti(path, (4, 5, 6, 1, 2)), r"\(4, 5, 6, 1, 2\)"),
    "complex": (lambda path: nifti(path, dtype=np.complex64), "complex64"),
    "singular affine": (
        lambda path: damaged(nifti(path), with_bytes(280, bytes(16))),  # srow_x
        "singular or infinite .*image.nii",
    ),
    "unknown units": (lambda path: damaged(nifti(path), with_bytes(123, b"\5")), "image.nii"),
    "no image in folder": (lambda path: text_file(path).parent, "1 files"),
    "two series": (two_series, r"1.2.3 \(\): 4 images.*1.2.9|1.2.9 .*1.2.3 "),
    "missing slice": (without_a_slice, "gaps from 2.50 to 5.00 mm"),
    "doubled slices": (
        lambda path: write_series(path / "dicom", ImagePositionPatient=[0, 0, 1]),
        "gaps from 0.00 to 0.00",
    ),
    "no position": (
        lambda path: write_series(path / "dicom", ImagePositionPatient=None),
        "ImagePositionPatient",
    ),
    "multi-frame": (lambda path: write_series(path / "dicom", NumberOfFrames=3), r"\.dcm"),
    "broken DICOM header": (  # the kind of value of Rows
        lambda path: damaged(
            write_series(path / "dicom"), lambda c: c.replace(b"(\0\x10\0US", b"(\0\x10\0Ut")
        ),
        "2.dcm",
    ),
    "truncated DICOM": (
        lambda path: damaged(write_series(path / "dicom"), lambda content: content[:-20]),
        "2.dcm",
    ),
    "slices of two sizes": (
        lambda path: damaged(
            write_series(path / "dicom"), lambda c: c.replace(b"0.8\\0.7 ", b"0.9\\0.7 ")
        ),
        "PixelSpacing",
    ),
    "frames of two sizes": (frames_of_two_sizes, r"\[\(5, 6, 3\), \(9, 9, 3\)\]"),
    "deep frames": (
        lambda path: write_frames(path / "frames", count=1, mode="I;16"),
        "I;16",
    ),
}


@pytest.mark.parametrize(("make", "value"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_refused_with_its_reason(make, value, tmp_path):
    with pytest.raises(ValueError, match=value):
        Volume.read(make(tmp_path))


def test_labels_by_colour_need_an_id_for_each_colour(tmp_path):
    volume = Volume.read(write_frames(tmp_path / "frames", count=3))
    colours = {(index, 0, 255): index + 5 for index in range(3)}
    labels = volume.read_labels(tmp_path / "frames", colours=colours)
    assert labels[:, 0, 0].tolist() == [5, 6, 7]
    del colours[1, 0, 255]
    with pytest.raises(ValueError, match=r"\(1, 0, 255\)"):
        volume.read_labels(tmp_path / "frames", colours=colours)
