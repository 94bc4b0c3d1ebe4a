"""A 3D image as slices, and masks on the exact grid of its file."""

from limnet.volumes.volume import CT_WINDOWS, FileGrid, Volume

__all__ = ["CT_WINDOWS", "FileGrid", "Volume"]
