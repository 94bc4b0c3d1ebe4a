"""A small NIfTI, and where another reader finds the voxel that is set in it."""

import nibabel
import numpy as np
import SimpleITK

SHAPE = (4, 5, 6)


def write(path, data, affine=None, **header_fields):
    affine = np.diag([1, 1, 2, 1]) if affine is None else affine
    image = nibabel.Nifti1Image(data, affine)
    for name, value in header_fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def position_in_simpleitk(path):
    """RAS+ millimetres of the one voxel that is set in a file."""
    mask = SimpleITK.ReadImage(str(path))
    [index] = np.argwhere(SimpleITK.GetArrayFromImage(mask))
    return np.array([-1, -1, 1]) * mask.TransformIndexToPhysicalPoint(index[::-1].tolist())
