import math
from itertools import pairwise, product

import numpy as np
import pytest

from limnet.annotator.widget.view import (
    DRAG,
    View,
    along,
    dragged_window,
    edges,
    planes,
    runs,
    stroke,
    windowed,
)

SHAPE, SPACING = (3, 4, 5), (3.0, 0.5, 0.7)
RIGHT, FRONT, HEAD = np.eye(3)
# where slice_index, row and column grow to, as a `Volume` has them
AXIAL, CORONAL, SAGITTAL = (
    (HEAD, -FRONT, -RIGHT),
    (FRONT, -HEAD, -RIGHT),
    (RIGHT, -HEAD, -FRONT),
)
VOLUMES = pytest.mark.parametrize(
    "directions", [AXIAL, CORONAL, SAGITTAL], ids=["axial", "coronal", "sagittal"]
)
BLOB = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)


def cuts(directions):
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(directions) * SPACING
    return planes((*SHAPE, 3), SPACING, affine)  # a last axis of colours does not matter


def letter(direction):
    """The side of the patient that a direction points to."""
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "FH")[axis][int(direction[axis] > 0)]


@VOLUMES
def test_the_letters_at_the_edges_say_where_one_looks_to(directions):
    for plane in cuts(directions):
        origin, down, right = (
            np.transpose(directions) @ plane.voxel(0, *place) for place in [(0, 0), (1, 0), (0, 1)]
        )
        sides = (origin - down, down - origin, origin - right, right - origin)
        assert plane.edges == "".join(letter(side) for side in sides)
        expected = {"axial": "APRL", "coronal": "HFRL", "sagittal": "HFAP"}
        assert plane.edges == expected[plane.name]


@VOLUMES
def test_every_voxel_is_in_the_image_where_its_place_says(directions):
    array = np.arange(math.prod(SHAPE)).reshape(SHAPE)
    for plane in cuts(directions):
        for voxel in product(*map(range, SHAPE)):
            index, v, u = plane.place(voxel)
            assert plane.image(array, index)[v, u] == array[voxel]
            assert plane.voxel(index, v, u) == voxel
        assert plane.image(array, 0).shape == plane.shape
        assert len(plane) * math.prod(plane.shape) == array.size


def test_cuts_across_the_slices_show_the_last_slice_first():
    array = np.arange(math.prod(SHAPE)).reshape(SHAPE)
    own, rows, columns = cuts(AXIAL)
    assert np.array_equal(own.image(array, 1), array[1])
    assert np.array_equal(rows.image(array, 1), array[::-1, 1])
    assert np.array_equal(columns.image(array, 1), array[::-1, :, 1])
    assert (rows.axes, rows.shape, rows.spacing) == ((0, 2), (3, 5), (3.0, 0.7))
    # slices that run to the right: cuts of coronal slices across the columns are sagittal
    columns = cuts(CORONAL)[2]
    assert np.array_equal(columns.image(array, 1), array[::-1, :, 1].T)
    assert (columns.axes, columns.shape, columns.spacing) == ((1, 0), (4, 3), (0.5, 3.0))


VIEW = View((30, 40), (2.0, 1.0), (400, 300))  # 60 x 40 mm: five canvas pixels a millimetre


def test_a_view_has_the_aspect_of_the_millimetres_and_shows_the_whole_image():
    assert VIEW.scale == (10, 5)
    assert VIEW.rectangle() == (100, 0, 200, 300)  # in the middle, as high as the canvas
    assert VIEW.to_canvas(14.5, 19.5) == (200, 150)


@pytest.mark.parametrize("view", [VIEW, VIEW.zoomed(3, 150, 70), VIEW.panned(-30, 50)])
def test_the_way_to_the_canvas_leads_back(view):
    for place in product((-3, 0, 12.25, 29), (0, 7.5, 39, 50)):
        assert view.from_canvas(*view.to_canvas(*place)) == pytest.approx(place)


def test_a_pixel_reaches_half_a_pixel_from_its_centre():
    x, y = VIEW.to_canvas(7, 9)
    for dx, dy, pixel in [(2.4, 4.9, (7, 9)), (-2.4, -4.9, (7, 9)), (2.6, 5.1, (8, 10))]:
        assert VIEW.pixel(x + dx, y + dy) == pixel
    assert VIEW.pixel(101, 1) == (0, 0) and VIEW.pixel(299, 299) == (29, 39)
    assert VIEW.pixel(99, 1) is VIEW.pixel(301, 299) is VIEW.pixel(150, -1) is None


def test_zooming_keeps_the_point_under_the_pointer():
    view, pointer = VIEW, (260, 90)
    for factor in (1.25, 4, 0.5, 3, 0.9):
        before, view = view.from_canvas(*pointer), view.zoomed(factor, *pointer)
        assert view.from_canvas(*pointer) == pytest.approx(before)
    assert view.zoom == pytest.approx(1.25 * 4 * 0.5 * 3 * 0.9)


def test_panning_moves_the_image_and_keeps_some_of_it_in_the_middle():
    x, y = VIEW.to_canvas(5, 5)
    assert VIEW.panned(20, -30).to_canvas(5, 5) == pytest.approx((x + 20, y - 30))
    for dx, dy, corner in [(1e6, 1e6, (-0.5, -0.5)), (-1e6, -1e6, (29.5, 39.5))]:
        assert VIEW.panned(dx, dy).from_canvas(200, 150) == corner


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_greys_grow_evenly_from_low_to_high(dtype):
    image = np.array([[0, 40, 60], [61, 100, 30000]], dtype=dtype)
    slowly = [[round(min(max((i - 40) / 60, 0), 1) * 255) for i in row] for row in image.tolist()]
    assert windowed(image, 40, 100).tolist() == slowly == [[0, 0, 85], [89, 255, 255]]
    rgb = np.stack([image, image, image], axis=-1)
    assert windowed(rgb, 40, 100)[..., 2].tolist() == slowly


@pytest.mark.parametrize("window", [(5, 5), (6, 5), (math.nan, 5)])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="low < high"):
        windowed(np.zeros((2, 2)), *window)


def test_a_drag_to_the_right_widens_the_window_and_one_down_raises_it():
    low, high = dragged_window(40, 60, DRAG, 0)
    assert (low + high) / 2 == pytest.approx(50) and high - low == pytest.approx(20 * math.e)
    assert dragged_window(40, 60, 0, DRAG / 2) == pytest.approx((50, 70))
    low, high = dragged_window(-1000.0, 1000.0, -1e5, 0)
    assert low < high  # a window is never empty


def test_runs_are_the_pixels_of_each_row_that_hang_together():
    rows, columns, lengths = runs(BLOB)
    slowly = []
    for row, column in product(*map(range, BLOB.shape)):
        if BLOB[row, column] and not (column and BLOB[row, column - 1]):
            length = [*BLOB[row, column:], False].index(False)
            slowly.append((row, column, length))
    assert list(zip(rows.tolist(), columns.tolist(), lengths.tolist(), strict=True)) == slowly
    assert {each.dtype for each in (rows, columns, lengths)} == {np.dtype(np.int32)}
    assert [len(each) for each in runs(np.zeros((3, 4), dtype=bool))] == [0, 0, 0]


def test_edges_are_all_sides_between_mask_and_no_mask():
    level, upright = edges(BLOB)
    padded = np.pad(BLOB, 1)
    above, left = set(), set()  # pixels with such a side above or left of them
    for row, column in product(range(BLOB.shape[0] + 1), range(BLOB.shape[1] + 1)):
        here = padded[row + 1, column + 1]
        if here != padded[row, column + 1]:
            above.add((row, column))
        if here != padded[row + 1, column]:
            left.add((row, column))
    assert {(r, c + i) for r, c, n in zip(*level, strict=True) for i in range(n)} == above
    assert {(r + i, c) for c, r, n in zip(*upright, strict=True) for i in range(n)} == left


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 1.0), (0.5, 0.8)])
@pytest.mark.parametrize("radius", [0.3, 1.1, 2.6])
def test_a_stroke_is_every_pixel_within_the_radius_of_the_way(radius, spacing):
    points = [(2.2, 3.4), (8.3, 12.1), (-4.0, 15.7), (30.0, 15.7)]
    # millimetres of the finer axis; pixels that a thin brush would miss are shown to it smaller
    down, right = (min(each / min(spacing), math.sqrt(2) * radius) for each in spacing)
    slowly = np.zeros((20, 18), dtype=bool)
    for (row, column), (start, end) in product(np.ndindex(slowly.shape), pairwise(points)):
        steps = np.linspace(0, 1, 500)[:, None]
        way = np.array(start) + steps * (np.array(end) - start)
        distances = np.hypot((way[:, 0] - row) * down, (way[:, 1] - column) * right)
        slowly[row, column] |= distances.min() <= radius
    assert np.array_equal(stroke(slowly.shape, points, radius, spacing), slowly)


def test_points_along_a_way_are_evenly_apart():
    points = np.array(along([(0, 0), (0, 10), (3, 14)], 4))  # 15 long: three parts of five
    assert points == pytest.approx(np.array([(0, 0), (0, 5), (0, 10), (3, 14)]))
