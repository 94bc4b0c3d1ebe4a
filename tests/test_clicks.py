import math

import pytest
import torch

from limnet.method.prompts import Box, Click, click_maps, disks


def test_a_disk_is_every_pixel_within_the_radius_rim_included():
    maps = click_maps([Click(3, 7, 9)], 16, 20, radius=5.0)
    slowly = [[float((r - 7) ** 2 + (c - 9) ** 2 <= 25) for c in range(20)] for r in range(16)]
    assert maps[0].tolist() == slowly
    assert maps[0, 7, 14] == 1 and maps[0, 10, 13] == 1 and maps[0, 7, 15] == 0  # 5, (3, 4), 6
    assert not maps[1].any()


def test_positive_and_negative_clicks_have_a_channel_each():
    maps = click_maps([Click(0, 2, 2, True), Click(0, 9, 9, False)], 12, 12, radius=1.0)
    assert maps.sum(dim=(1, 2)).tolist() == [5, 5]
    assert maps[0, 2, 2] == 1 and maps[1, 9, 9] == 1


def test_a_centre_between_pixels_moves_the_disk():
    maps = click_maps([Click(0, 2.5, 2.5)], 6, 6, radius=1.0)
    assert maps[0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_no_clicks_draw_nothing():
    assert click_maps([], 4, 5).shape == (2, 4, 5)
    assert not click_maps([], 4, 5).any()


def test_a_click_beyond_the_border_draws_what_is_inside():
    assert click_maps([Click(0, 5, 1)], 4, 4, radius=2.0)[0].nonzero().tolist() == [[3, 1]]
    assert disks(torch.tensor([[-1.0, 0.0]]), 4, 4, radius=1.0).nonzero().tolist() == [[0, 0]]


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


def test_the_middle_of_a_box_may_lie_between_pixels():
    assert Box(2, 3, 8, 15).middle == (5, 9) and Box(2, 3, 3, 4).middle == (2.5, 3.5)


@pytest.mark.parametrize(
    "box", [(8, 3, 2, 15), (2, 15, 8, 3), (-1, 3, 8, 15), (2, 3, 12, 15), (2, 3, 8, math.nan)]
)
def test_a_box_that_is_empty_or_reaches_beyond_the_slice_is_refused(box):
    with pytest.raises(ValueError, match=r"top <= bottom < 12 and left <= right < 20, got \("):
        Box(*box).ellipse((12, 20))
