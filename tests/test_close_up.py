import numpy as np
import pytest

from limnet.method.close_up import GROWTH, MARGIN, PLACES, ROOM, SIZES, CloseUp

SIZE = (100, 140)


def masks(*boxes):
    shown = np.zeros((3, *SIZE), dtype=bool)
    for index, (top, bottom, left, right) in enumerate(boxes):
        shown[index, top:bottom, left:right] = True
    return shown


def test_it_is_a_square_about_all_masks_with_room():
    part = CloseUp.around(masks((40, 50, 60, 70), (46, 60, 60, 80)))
    side = part.size[0]
    assert part.size == (side, side) and 20 * ROOM <= side <= 20 * ROOM * SIZES + 1
    assert (part.top + part.bottom) / 2 == pytest.approx(50, abs=side / PLACES)
    assert (part.left + part.right) / 2 == pytest.approx(70, abs=side / PLACES)


def test_masks_that_differ_a_little_have_the_same():
    parts = {CloseUp.around(masks((39, 59 + more, 61, 81 + more))) for more in (0, 1)}
    assert len(parts) == 1


def test_it_stays_within_the_slice():
    part = CloseUp.around(masks((0, 10, 130, 140)))
    assert (part.top, part.right) == (0, 140) and part.size == (22, 22)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (10, 50, 10, 50), (20, 30, 0, 140)])
def test_nothing_or_a_large_object_is_seen_on_the_whole_slice(box):
    assert CloseUp.around(masks(box)) == CloseUp.whole(SIZE) == (0, 100, 0, 140)


def test_a_small_object_is_not_magnified_without_bound():
    assert CloseUp.around(masks((50, 51, 50, 51))).size == (20, 20)


def test_an_object_near_an_inner_border_may_go_on_beyond_it():
    part = CloseUp(0, 50, 20, 70)
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
        assert part.reached_by(mask, SIZE) is reached
    full = np.ones(SIZE, dtype=bool)
    assert not CloseUp.whole(SIZE).reached_by(full, SIZE)


def test_it_grows_until_it_is_the_whole_slice():
    part = CloseUp(40, 60, 60, 80)
    larger = part.grown(SIZE)
    assert (
        larger.size[0] >= 20 * GROWTH
        and larger.size[0] == larger.size[1]
        and larger.top < part.top
        and larger.right > part.right
    )
    for _ in range(3):
        larger = larger.grown(SIZE)
    assert larger == CloseUp.whole(SIZE)


def test_its_pixels_cut_it_out():
    image = np.arange(np.prod(SIZE)).reshape(SIZE)
    part = CloseUp(10, 30, 50, 70)
    assert image[part.pixels].shape == part.size == (20, 20)
    assert image[part.pixels][0, 0] == image[10, 50]
