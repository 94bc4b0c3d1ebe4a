"""Masks as a DICOM segmentation that refers to the series they were drawn on."""

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pydicom
from nibabel.affines import apply_affine

from limnet.volumes import Volume
from limnet.volumes.masks import PackedMasks
from limnet.volumes.readers import LPS_TO_RAS, NIFTI_SUFFIXES

LONGEST_LABEL = 64  # characters of a DICOM "long string"
SERIES_NUMBER = 1000  # beyond those that scanners give
# repeated from the series; they may be empty, but anonymisers take them out altogether
EMPTIED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")
EMPTIED += ("StudyID", "StudyDate", "StudyTime")
UTF_8 = "ISO_IR 192"  # names of objects are in any script

# name, colour "#rrggbb", bool masks (slices, height, width)
Object = tuple[str, str, np.ndarray | PackedMasks]


def is_dicom(volume: Volume) -> bool:
    """Whether the volume was read from a folder with a DICOM series."""
    source = volume.grid.source
    is_nifti = source is None or source.name.lower().endswith(NIFTI_SUFFIXES)
    return not is_nifti and volume.modality != "RGB"


def dicom_segmentation(volume: Volume, objects: Sequence[Object]) -> pydicom.Dataset:
    """A binary segmentation, one segment an object, with a frame a slice and object.

    Segments may overlap; objects without a voxel are left out. Patient and study are those of the
    series, as the standard wants it.

    Raises:
        ValueError: the volume is not of a DICOM series, no object has a voxel, or the folder has
            changed since or lacks what a segmentation needs.
    """
    from highdicom.seg import Segmentation  # here, for it takes a second

    source = volume.grid.source
    if not is_dicom(volume):
        raise ValueError(
            f"a DICOM segmentation must be of a DICOM series, got a volume from"
            f" {source.name if source else 'an array'}; save NIfTI masks instead"
        )
    objects = [each for each in objects if each[2].any()]
    if not objects:
        raise ValueError(
            "a DICOM segmentation must have an object with a voxel, got none; click first"
        )
    # to_file gives (column, row, slice) in the order of the series
    frames = np.stack(
        [volume.grid.to_file(np.asarray(masks)).T for _, _, masks in objects], axis=-1
    )
    try:
        return Segmentation(
            source_images=_series(volume),
            pixel_array=frames,
            segmentation_type="BINARY",
            segment_descriptions=[
                _segment(number, name, colour)
                for number, (name, colour, _) in enumerate(objects, start=1)
            ],
            series_instance_uid=pydicom.uid.generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=pydicom.uid.generate_uid(),
            instance_number=1,
            manufacturer="limnet",
            manufacturer_model_name="limnet",
            software_versions=metadata.version("limnet"),
            device_serial_number="0",  # there is no device, but the standard wants a number
            series_description="limnet segmentation",
            specific_character_set=UTF_8,
        )
    except Exception as error:  # headers are untrusted, and fail in many ways
        reason = str(error).replace(str(source), source.name)
        raise ValueError(
            f"the DICOM series in {source.name} must be as it was read and say what a segmentation"
            f" repeats of it, but: {reason}; save NIfTI masks instead"
        ) from error


def _series(volume: Volume) -> list[pydicom.Dataset]:
    """The headers of the volume's slices in the order of its grid."""
    columns, rows, slices = volume.grid.header.get_data_shape()
    to_voxel = np.linalg.inv(volume.grid.affine)
    places = []
    for path in _dicom_files(volume.grid.source):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        is_image = "Image" in pydicom.uid.UID(header.get("SOPClassUID", "Image")).name
        if is_image and (header.Rows, header.Columns) == (rows, columns):
            position = apply_affine(to_voxel, LPS_TO_RAS @ header.ImagePositionPatient)
            places.append((round(position[2]), header))
    places.sort(key=lambda place: place[0])
    if [index for index, _ in places] != [*range(slices)]:
        raise ValueError(f"{len(places)} images are there, and not one for each of {slices} slices")
    first = places[0][1]  # which a segmentation repeats
    for name in (name for name in EMPTIED if name not in first):
        setattr(first, name, "")
    if first.PatientSex not in ("M", "F", "O"):  # others do not exist, but occur
        first.PatientSex = ""
    # along the normal of the slices, also of a tilted gantry; what scanners write is often wrong
    along_row, along_column, step = volume.grid.affine[:3, :3].T
    normal = np.cross(along_row, along_column)
    distance = round(float(abs(step @ normal) / np.linalg.norm(normal)), 6)
    first.SpacingBetweenSlices = distance
    first.SliceThickness = first.get("SliceThickness") or distance
    return [header for _, header in places]


def _dicom_files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return [path for path in files if pydicom.misc.is_dicom(path)]


def _segment(number: int, name: str, colour: str) -> pydicom.Dataset:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    label = re.sub(r"[\\\x00-\x1f\x7f]", "_", name)[:LONGEST_LABEL].strip() or "object"
    algorithm = AlgorithmIdentificationSequence(
        name="limnet",
        version=metadata.version("limnet"),
        family=codes.DCM.ArtificialIntelligence,
    )
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Organ,
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_string(colour),
    )
