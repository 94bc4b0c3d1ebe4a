import json
import math

import numpy as np
import pytest
import torch
from fakes import rectangle
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import FOLDER, answers

from limnet.method.prompts import (
    GROWTH,
    MARGIN,
    PLACES,
    ROOM,
    SIZES,
    Box,
    Click,
    Crop,
    ZoomIn,
    click_maps,
    deepest_pixel,
)


@pytest.mark.parametrize("bad", [(-1, 2, 3), (0, -0.5, 3), (0, 2, math.nan), (0, math.inf, 3)])
def test_a_position_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="finite, non-negative"):
        Click(*bad)


@pytest.mark.parametrize("box", [Box(2, 3, 8, 15), Box(0, 0, 11, 19), Box(4, 4, 4, 4)])
def test_an_ellipse_touches_all_four_ends_of_its_box(box):
    filled = box.ellipse((12, 20))
    half_height, half_width = (box.bottom - box.top + 1) / 2, (box.right - box.left + 1) / 2
    slowly = [
        [
            ((r - box.middle[0]) / half_height) ** 2 + ((c - box.middle[1]) / half_width) ** 2 <= 1
            for c in range(20)
        ]
        for r in range(12)
    ]
    assert filled.tolist() == slowly
    rows, columns = filled.nonzero()
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == box


@pytest.mark.parametrize(
    "box", [(8, 3, 2, 15), (2, 15, 8, 3), (-1, 3, 8, 15), (2, 3, 12, 15), (2, 3, 8, math.nan)]
)
def test_a_box_that_is_empty_or_reaches_beyond_the_slice_is_refused(box):
    with pytest.raises(ValueError, match=r"top <= bottom < 12 and left <= right < 20, got \("):
        Box(*box).ellipse((12, 20))


SIZE = (100, 140)


def masks(*boxes):
    shown = np.zeros((3, *SIZE), dtype=bool)
    for index, (top, bottom, left, right) in enumerate(boxes):
        shown[index, top:bottom, left:right] = True
    return shown


def test_it_is_a_square_about_all_masks_with_room():
    part = Crop.from_masks(masks((40, 50, 60, 70), (46, 60, 60, 80)))
    side = part.size[0]
    assert part.size == (side, side) and 20 * ROOM <= side <= 20 * ROOM * SIZES + 1
    assert (part.top + part.bottom) / 2 == pytest.approx(50, abs=side / PLACES)
    assert (part.left + part.right) / 2 == pytest.approx(70, abs=side / PLACES)


def test_it_stays_within_the_slice():
    part = Crop.from_masks(masks((0, 10, 130, 140)))
    assert (part.top, part.right) == (0, 140) and part.size == (22, 22)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (10, 50, 10, 50), (20, 30, 0, 140)])
def test_nothing_or_a_large_object_is_seen_on_the_whole_slice(box):
    assert Crop.from_masks(masks(box)) == Crop.whole(SIZE) == (0, 100, 0, 140)


def test_an_object_near_an_inner_border_may_go_on_beyond_it():
    part = Crop(0, 50, 20, 70)
    margin = round(MARGIN * 50)
    for row, column, reached in [
        (25, 25, False),
        (0, 25, False),  # the slice ends there
        (49, 25, True),
        (50 - margin, 25, True),
        (49 - margin, 25, False),
        (25, 0, True),
        (25, 49, True),
    ]:
        mask = np.zeros((50, 50), dtype=bool)
        mask[row, column] = True
        assert part.touches_border(mask, SIZE) is reached
    full = np.ones(SIZE, dtype=bool)
    assert not Crop.whole(SIZE).touches_border(full, SIZE)


def test_it_grows_until_it_is_the_whole_slice():
    part = Crop(40, 60, 60, 80)
    larger = part.expanded(SIZE)
    assert (
        larger.size[0] >= 20 * GROWTH
        and larger.size[0] == larger.size[1]
        and larger.top < part.top
        and larger.right > part.right
    )
    for _ in range(3):
        larger = larger.expanded(SIZE)
    assert larger == Crop.whole(SIZE)


GEOMETRY = json.loads((FOLDER / "ritm_geometry.json").read_text())


SLICES = [(case["H"], case["W"]) for case in GEOMETRY["next_click"]]


def half_open(region):
    """A crop from RITM's region, to which the last row and column belong."""
    top, bottom, left, right = region
    return Crop(top, bottom + 1, left, right + 1)


@pytest.mark.parametrize("case", GEOMETRY["roi"], ids=lambda case: f"{case['i']}-{case['roi']}")
def test_zoomed_crops_are_those_of_ritm(case):
    height, width = SLICES[case["i"]]
    packed = answers("ritm_geometry")[f"{case['which']}{case['i']}"].numpy()
    mask = torch.from_numpy(np.unpackbits(packed, count=height * width).reshape(height, width))
    zoom = ZoomIn(expansion_ratio=case["expansion"], min_crop_size=case["min_crop"])
    clicks = [Click(0, *case["positive_click"]), Click(0, 1, 1, positive=False)]
    assert zoom.around(mask.bool(), clicks) == half_open(case["roi"])


@pytest.mark.parametrize(("first", "second", "expected"), GEOMETRY["iou"])
def test_the_overlap_of_crops_is_that_of_ritm(first, second, expected):
    assert half_open(first).overlap(half_open(second)) == pytest.approx(expected, abs=1e-12)


def test_a_crop_without_an_object_is_refused():
    with pytest.raises(ValueError, match="needs an object"):
        ZoomIn().around(rectangle(0, 0, 0, 0), [Click(0, 3, 3, positive=False)])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 14)), min_size=1, max_size=60))
def test_the_deepest_pixel_is_as_far_from_all_pixels_off_the_mask_as_any(pixels):
    mask = np.zeros((12, 15), dtype=bool)
    mask[tuple(np.transpose(pixels))] = True
    off = np.argwhere(~np.pad(mask, 1)) - 1
    depths = {
        (row, column): np.hypot(*(off - (row, column)).T).min()
        for row, column in np.argwhere(mask).tolist()
    }
    place, depth = deepest_pixel(mask)
    assert depth == pytest.approx(depths[place]) == pytest.approx(max(depths.values()))
    allowed = np.zeros_like(mask)
    allowed[pixels[0]] = True
    assert deepest_pixel(mask, allowed)[0] == pixels[0]
    assert deepest_pixel(np.zeros_like(mask)) == ((0, 0), 0)


@pytest.mark.parametrize("centre", [(7, 9), (2.5, 2.5), (15, -3), (-4, 19)])
def test_a_disk_is_every_pixel_within_five_pixels_rim_included(centre):
    row, column = centre
    maps = click_maps([centre, (-1, -1), (0, 0)], [True, True, False], 16, 20)
    slowly = [
        [float((r - row) ** 2 + (c - column) ** 2 <= 25) for c in range(20)] for r in range(16)
    ]
    assert maps[0].tolist() == slowly  # RITM ignores the second click
    assert maps[1, 0, 5] == maps[1, 3, 4] == 1 and not maps[1, 4, 4:].any()
    assert not click_maps([], [], 4, 5).any()
