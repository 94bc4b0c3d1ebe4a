"""Where and how one looks at a volume: the plane, the crosshair, the window, zoom and pan."""

import numpy as np

from limnet.annotator.widget.view import Plane, View, planes
from limnet.volumes import Volume
from limnet.volumes.lazy import subsampled_view


class ViewState:
    """One crosshair for three planes, of which one is the main one."""

    def __init__(self, volume: Volume, canvas: tuple[int, int]) -> None:
        """Look at the middle of the volume.

        Args:
            canvas: (width, height) of the main canvas in pixels.
        """
        self.volume = volume
        self.planes = planes(volume.images.shape[:3], volume.spacing_mm, volume.affine)
        self.views = [View(each.shape, each.spacing, canvas) for each in self.planes]
        self.axis = 0
        self.cross = [size // 2 for size in volume.images.shape[:3]]  # slice_index, row, column
        self.window = volume.window
        self.opacity, self.style, self.shows_masks = 0.4, "both", True

    @property
    def plane(self) -> Plane:
        return self.planes[self.axis]

    @property
    def view(self) -> View:
        return self.views[self.axis]

    @view.setter
    def view(self, view: View) -> None:
        self.views[self.axis] = view

    @property
    def slice_index(self) -> int:
        """Of the volume's own slices."""
        return self.cross[0]

    def index(self, axis: int | None = None) -> int:
        """Number of the image that a plane, by default the main one, shows."""
        return int(self.planes[self.axis if axis is None else axis].place(self.cross)[0])

    def go_to(self, index: int) -> None:
        """Show an image of the main plane; the nearest there is."""
        index = min(max(index, 0), len(self.plane) - 1)
        _, v, u = self.plane.place(self.cross)
        self.cross = [int(each) for each in self.plane.voxel(index, v, u)]

    def look_at(self, axis: int, v: float | int, u: float | int) -> None:
        """Put the crosshair on a pixel of the image that a plane shows; the nearest there is."""
        plane = self.planes[axis]
        height, width = plane.shape
        v, u = min(max(round(v), 0), height - 1), min(max(round(u), 0), width - 1)
        self.cross = [int(each) for each in plane.voxel(self.index(axis), v, u)]

    def image(self, axis: int) -> np.ndarray:
        """Raw intensities of the image that a plane shows (height, width) or (height, width, 3).

        Across the slices of a large file it is coarse: a whole one could be a read of all voxels.
        """
        plane, index, images = self.planes[axis], self.index(axis), self.volume.images
        if axis == 0:
            return images[index]
        return subsampled_view(images, lambda array: plane.image(array, index))

    def reading(self) -> str:
        """Where the crosshair is, in voxels and millimetres, and the intensity there."""
        right, front, head = self.volume.position_mm(*self.cross)
        value = np.atleast_1d(self.volume.images[tuple(self.cross)])
        unit = " HU" if self.volume.modality == "CT" else ""
        slice_index, row, column = self.cross
        return (
            f"slice {slice_index}, row {row}, column {column} · "
            f"R {right:.1f}, A {front:.1f}, S {head:.1f} mm · "
            f"{'/'.join(f'{each:g}' for each in value)}{unit}"
        )
