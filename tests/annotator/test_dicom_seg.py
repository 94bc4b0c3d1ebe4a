import highdicom
import numpy as np
import pydicom
import pytest
from dicom_series import AXIAL, OBLIQUE, write_series
from nibabel.affines import apply_affine

from limnet.annotator.dicom_seg import dicom_segmentation, is_dicom
from limnet.volumes import Volume

SAGITTAL = ((0, 1, 0), (0, 0, -1))


def corner(volume):
    """An object without symmetry: no flip or turn of an axis leaves it as it is."""
    masks = np.zeros(volume.images.shape, bool)
    masks[0, 0, :3] = masks[0, 1, 0] = masks[1, 3, 2] = True
    return masks


def lesion(volume):
    masks = np.zeros(volume.images.shape, bool)
    masks[0, 0, :2] = masks[-1, -1, -1] = True
    return masks


def read_back(segmentation, path):
    segmentation.save_as(path)
    return pydicom.dcmread(path)


def positions_mm(dataset, segment):
    """RAS+ millimetres of a segment's voxels, by the frames' own places alone."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    along_row, along_column = np.reshape(cosines, (2, 3)).astype(float)
    row_spacing, column_spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    found = []
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for pixels, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment:
            first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            for row, column in np.argwhere(pixels):
                along = column * column_spacing * along_row + row * row_spacing * along_column
                found.append((first + along) * (-1, -1, 1))
    return ordered(found)


def ordered(positions):
    return np.array(sorted(np.round(positions, 3).tolist()))


def expected_mm(volume, masks):
    return ordered(apply_affine(volume.affine, np.argwhere(masks)))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize(
    ("orientation", "slice_axis"),
    [(AXIAL, None), (SAGITTAL, None), (OBLIQUE, None), (OBLIQUE, 0), (OBLIQUE, 1)],
    ids=["axial", "sagittal", "oblique", "cut along columns", "cut along rows"],
)
def test_every_voxel_is_where_it_was(orientation, slice_axis, reverse, tmp_path):
    folder = write_series(tmp_path / "series", orientation=orientation, reverse=reverse)
    volume = Volume.read(folder, slice_axis=slice_axis)
    objects = [("corner", "#ff0000", corner(volume)), ("lesion", "#00ff00", lesion(volume))]
    saved = read_back(dicom_segmentation(volume, objects), tmp_path / "seg.dcm")
    for number, (_, _, masks) in enumerate(objects, start=1):
        found = positions_mm(saved, number)
        assert found == pytest.approx(expected_mm(volume, masks), abs=2e-3)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reversed"])
def test_a_frame_refers_to_the_image_that_it_was_drawn_on(reverse, tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", orientation=OBLIQUE, reverse=reverse))
    masks = np.zeros(volume.images.shape, bool)
    first = volume.images == -24  # in instance 1
    masks[first.any(axis=(1, 2)), 1, 2] = True
    dicom_segmentation(volume, [("dot", "#ff0000", masks)]).save_as(tmp_path / "seg.dcm")
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [f"1.2.3.{number}" for number in (1, 2, 3, 4)]
    by_image = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[1], assert_missing_frames_are_empty=True
    )
    assert by_image.reshape(4, -1).sum(axis=1).tolist() == [1, 0, 0, 0]
    referred = segmentation.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == "1.2.3"
    found = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert found == set(uids)


@pytest.mark.parametrize("written", [{"SpacingBetweenSlices": -2.5}, {"SliceThickness": None}])
def test_odd_distances_between_slices_in_the_headers_do_not_matter(written, tmp_path):
    volume = Volume.read(write_series(tmp_path / "series", **written))
    saved = dicom_segmentation(volume, [("corner", "#ff0000", corner(volume))])
    [measures] = saved.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2.5, 2.5)


def test_segments_have_name_colour_and_algorithm_and_may_overlap(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series"))
    objects = [
        ("Läsion 肝\\1\n", "#e6194b", corner(volume)),
        ("empty", "#00ff00", np.zeros(volume.images.shape, bool)),
        ("x" * 100, "#ffffff", lesion(volume)),
        ("", "#000000", lesion(volume)),
    ]
    saved = read_back(dicom_segmentation(volume, objects), tmp_path / "seg.dcm")
    labels = [segment.SegmentLabel for segment in saved.SegmentSequence]
    assert labels == ["Läsion 肝_1_", "x" * 64, "object"]
    first = saved.SegmentSequence[0]
    assert first.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert first.SegmentAlgorithmName == "limnet"
    colour = highdicom.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue)
    assert colour.to_rgb(clip=True) == pytest.approx((0xE6, 0x19, 0x4B), abs=1)
    assert saved.SegmentsOverlap == "YES" and saved.SegmentationType == "BINARY"
    assert saved.Modality == "SEG" and saved.NumberOfFrames == 2 + 2 + 2


def test_an_anonymised_series_may_lack_all_that_names_the_patient(tmp_path):
    gone = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID")
    gone += ("AccessionNumber", "SpecificCharacterSet")
    folder = write_series(tmp_path / "series", without=gone, PatientSex="U")
    volume = Volume.read(folder)
    objects = [("liver", "#ff0000", corner(volume))]
    saved = read_back(dicom_segmentation(volume, objects), tmp_path / "seg.dcm")
    assert not saved.PatientName and not saved.PatientSex


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_without_what_must_be_repeated_is_refused_and_named_without_its_path(
    keyword, tmp_path
):
    volume = Volume.read(write_series(tmp_path / "series", without=[keyword]))
    with pytest.raises(ValueError, match="DICOM series in series must be") as caught:
        dicom_segmentation(volume, [("liver", "#ff0000", corner(volume))])
    assert str(tmp_path) not in str(caught.value)


def lose_one(folder):
    (folder / "2.dcm").unlink()


def lose_all(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def double_one(folder):
    (folder / "copy.dcm").write_bytes((folder / "2.dcm").read_bytes())


@pytest.mark.parametrize("change", [lose_one, lose_all, double_one])
def test_a_folder_that_has_changed_since_is_refused(change, tmp_path):
    volume = Volume.read(write_series(tmp_path / "series"))
    change(tmp_path / "series")
    with pytest.raises(ValueError, match="as it was read") as caught:
        dicom_segmentation(volume, [("liver", "#ff0000", corner(volume))])
    assert str(tmp_path) not in str(caught.value)


def test_a_segmentation_or_a_hidden_file_among_the_images_is_passed_over(tmp_path):
    volume = Volume.read(write_series(tmp_path / "series"))
    objects = [("liver", "#ff0000", corner(volume))]
    dicom_segmentation(volume, objects).save_as(tmp_path / "series" / "seg.dcm")
    (tmp_path / "series" / ".2.dcm").write_bytes((tmp_path / "series" / "2.dcm").read_bytes())
    assert len(Volume.read(tmp_path / "series").images) == 4
    assert dicom_segmentation(volume, objects).NumberOfFrames == 2


def test_other_images_and_empty_objects_are_refused(tmp_path):
    array = Volume.from_array(np.zeros((4, 5, 6), np.int16))
    array.save_masks(array.images == 0, tmp_path / "image.nii.gz")
    for volume in (array, Volume.read(tmp_path / "image.nii.gz")):
        assert not is_dicom(volume)
        with pytest.raises(ValueError, match="must be of a DICOM series, got a volume from"):
            dicom_segmentation(volume, [("liver", "#ff0000", corner(volume))])
    series = Volume.read(write_series(tmp_path / "series"))
    assert is_dicom(series)
    for objects in ([], [("liver", "#ff0000", np.zeros((4, 5, 6), bool))]):
        with pytest.raises(ValueError, match="an object with a voxel"):
            dicom_segmentation(series, objects)
