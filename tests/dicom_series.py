"""A small CT series as scanners write it, in files out of order."""

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset

ORIGIN = (-9.0, 7.0, 40.0)  # LPS+ millimetres of the first voxel
AXIAL = ((1, 0, 0), (0, 1, 0))  # where a row runs to, and a column
# all axes mixed: a rotation by 0.4 about the third axis, then by 0.5 about the first
OBLIQUE = (
    (np.cos(0.4), np.sin(0.4) * np.cos(0.5), np.sin(0.4) * np.sin(0.5)),
    (-np.sin(0.4), np.cos(0.4) * np.cos(0.5), np.cos(0.4) * np.sin(0.5)),
)


def write_series(folder, *, orientation=AXIAL, reverse=False, shear=0.0, without=(), **changes):
    """4 slices of 5 rows and 6 columns, 0.8 x 0.7 mm, 2.5 mm apart, with the patient's name.

    Args:
        reverse: instance 1 is the one at the far end.
        shear: millimetres that each slice is moved along a column, as a tilted gantry does.
        without: keywords that are taken out; others are set by `changes`.
    """
    folder.mkdir(exist_ok=True)
    along_row, along_column = np.array(orientation, dtype=float)
    step = np.cross(along_row, along_column) * 2.5 + along_column * shear
    for index in range(4):
        dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.SOPClassUID = pydicom.uid.CTImageStorage
        dataset.SOPInstanceUID = f"1.2.3.{index + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
        dataset.FrameOfReferenceUID = "1.2.4"
        dataset.PatientName, dataset.PatientID = "Müller^Jörg", "P1"
        dataset.PatientBirthDate, dataset.PatientSex = "19500101", "M"
        dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.AccessionNumber = ""
        dataset.Modality, dataset.InstanceNumber = "CT", index + 1
        position = np.array(ORIGIN) + step * (3 - index if reverse else index)
        dataset.ImagePositionPatient = [float(f"{value:.6f}") for value in position]
        cosines = (*along_row, *along_column)
        dataset.ImageOrientationPatient = [float(f"{value:.8f}") for value in cosines]
        dataset.PixelSpacing, dataset.Rows, dataset.Columns = [0.8, 0.7], 5, 6
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = np.full((5, 6), 1000 + index, np.uint16).tobytes()
        for keyword in without:
            delattr(dataset, keyword)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{(7 * index + 2) % 4}.dcm", enforce_file_format=True)
    return folder
