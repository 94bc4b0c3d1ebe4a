import numpy as np
import pytest
from fake_browser import FakeBrowser
from ipycanvas import Canvas

from limnet.annotator.widget.canvas import (
    CROSSHAIR,
    NEGATIVE,
    NO_MARKS,
    POSITIVE,
    Marks,
    Overlay,
    SlicePainter,
)
from limnet.annotator.widget.image_cache import ImageCache, held
from limnet.annotator.widget.view import View

# images of 6 x 8 pixels on a canvas of 80 x 60: ten canvas pixels a pixel
VIEW = View((6, 8), (1.0, 1.0), (80, 60))
GREY = np.full((6, 8), 100, dtype=np.uint8)
RED, BLUE = "#ff0000", "#0000ff"


@pytest.fixture
def browser(monkeypatch):
    return FakeBrowser.instead_of_a_kernel(monkeypatch)


@pytest.fixture
def painter(browser):
    return SlicePainter(80, 60)


def mask(rows, columns):
    drawn = np.zeros((6, 8), dtype=bool)
    drawn[slice(*rows), slice(*columns)] = True
    return drawn


def show(painter, *overlays, key="slice 1", image=GREY, view=VIEW, marks=NO_MARKS, **options):
    painter.show(key, lambda: image, view, overlays, marks, **options)


def colours(browser, painter):
    """Of the middles of all pixels."""
    places = [[(10 * u + 5, 10 * v + 5) for u in range(8)] for v in range(6)]
    return np.array([[browser.colour(painter.canvas, *place) for place in row] for row in places])


def test_every_pixel_of_an_image_is_seen_where_it_is(browser, painter):
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    show(painter, image=image)
    slowly = [[f"#{grey:02x}{grey:02x}{grey:02x}" for grey in row] for row in image.tolist()]
    assert colours(browser, painter).tolist() == slowly


def test_an_image_is_sent_once_and_then_drawn_from_the_browsers_own(browser, painter):
    for key, view in [(1, VIEW), (2, VIEW), (1, VIEW), (1, VIEW.zoomed(2, 0, 0)), (2, VIEW)]:
        show(painter, key=key, image=GREY + np.uint8(key), view=view)
        assert browser.colour(painter.canvas, 40, 30) == {1: "#656565", 2: "#666666"}[key]
    assert browser.names.count("putImageData") == 2


def test_nothing_is_sent_if_nothing_changed(browser, painter):
    red = mask((1, 4), (1, 5))
    show(painter, Overlay(red, RED))
    messages = browser.messages
    show(painter, Overlay(red.copy(), RED), marks=Marks(clicks=[]))
    assert messages == browser.messages == 1
    red[1, 1] = False  # in place
    show(painter, Overlay(red, RED), style="fill")
    assert browser.messages == 2 and colours(browser, painter)[1, 1] == "#646464"


def test_masks_are_blended_in_their_colour(browser, painter):
    red = mask((1, 4), (1, 5))
    show(painter, Overlay(red, RED), opacity=0.5, style="fill")
    blended = f"#{round(0.5 * 100 + 0.5 * 255):02x}3232"
    assert colours(browser, painter).tolist() == np.where(red, blended, "#646464").tolist()
    show(painter, Overlay(red, RED), opacity=0.0, style="fill")
    assert set(colours(browser, painter).flat) == {"#646464"}


def test_where_masks_overlap_the_first_one_wins(browser, painter):
    first, second = mask((0, 4), (0, 4)), mask((2, 6), (2, 8))
    show(painter, Overlay(first, RED), Overlay(second, BLUE), opacity=1.0, style="fill")
    expected = np.select([first, second], [RED, BLUE], "#646464")
    assert colours(browser, painter).tolist() == expected.tolist()
    show(painter, Overlay(second, BLUE), Overlay(first, RED), opacity=1.0, style="fill")
    assert colours(browser, painter)[3, 3] == BLUE
    for overlays in ((second, BLUE), (first, RED)), ((first, RED), (second, BLUE)):
        show(painter, *(Overlay(*each) for each in overlays), style="contour")
        assert browser.colour(painter.canvas, 40, 20) == overlays[0][1]  # where they cross


def test_a_contour_runs_between_the_pixels(browser, painter):
    show(painter, Overlay(mask((1, 4), (1, 5)), RED), style="contour")
    assert set(colours(browser, painter).flat) == {"#646464"}
    sides = [(10, 25), (9, 25), (49, 25), (50, 25), (25, 9), (25, 10), (25, 39), (25, 40)]
    assert {browser.colour(painter.canvas, *side) for side in sides} == {RED}
    beside = [(8, 25), (11, 25), (48, 25), (51, 25), (25, 8), (25, 11), (25, 38), (25, 41)]
    assert {browser.colour(painter.canvas, *place) for place in beside} == {"#646464"}


def test_a_locked_mask_is_striped_and_lets_nothing_through(browser, painter):
    everything = mask((0, 6), (0, 8))
    overlays = Overlay(everything, RED, locked=True), Overlay(everything, BLUE)
    show(painter, *overlays, opacity=1.0, style="fill")
    slowly = [[RED if (v + u) % 6 < 3 else "#646464" for u in range(8)] for v in range(6)]
    assert colours(browser, painter).tolist() == slowly


def test_clicks_and_crosshair_lie_over_all(browser, painter):
    everything = Overlay(mask((0, 6), (0, 8)), BLUE)
    clicks = ((1, 1, True), (4, 6, False))
    show(painter, everything, marks=Marks(clicks=clicks, crosshair=(5, 3)), opacity=1.0)
    positive, negative = ((10 * u + 5, 10 * v + 5) for v, u, _ in clicks)
    assert browser.colour(painter.canvas, positive[0] - 3, positive[1] - 3) == POSITIVE.lower()
    assert browser.colour(painter.canvas, negative[0] - 3, negative[1] - 3) == NEGATIVE.lower()
    plus = [(x, y - 3) for x, y in (positive, negative)]  # only one sign has an upright line
    assert [browser.colour(painter.canvas, *at) for at in plus] == ["#ffffff", NEGATIVE.lower()]
    assert browser.colour(painter.canvas, 2, 55) == CROSSHAIR.lower()


def test_box_stroke_brush_and_letters_are_drawn_with_lines(browser, painter):
    box, stroke = ((1.0, 1.0), (4.0, 6.0)), ((1.0, 1.0), (2.0, 5.0))
    show(painter, marks=Marks(box=box, stroke=stroke, pointer=(2, 5), radius=1, edges="APRL"))
    assert {"strokeRect", "strokeLines", "strokeCircle"} <= set(browser.names)
    assert browser.names.count("fillText") == 4
    show(painter, marks=Marks(stroke=stroke[:1], radius=1, colour=RED))  # not moved yet
    assert browser.colour(painter.canvas, 10 + 5, 10 + 5) == "#b23232"


def test_a_page_loaded_again_gets_everything_anew(browser, painter):
    show(painter, Overlay(mask((1, 4), (1, 5)), RED), marks=Marks(clicks=((4, 6, True),)))
    before = browser.pixels(painter.canvas).copy()
    browser.load_again(painter.canvas)
    assert np.array_equal(browser.pixels(painter.canvas), before)
    show(painter, Overlay(mask((1, 4), (1, 5)), RED), opacity=0.9)
    assert browser.names.count("putImageData") == 2  # once for each page


def test_memory_given_back_is_filled_again_when_it_is_needed(browser, painter):
    red = Overlay(mask((1, 4), (1, 5)), RED)
    show(painter, red)
    before = browser.pixels(painter.canvas).copy()
    painter.release()
    assert np.array_equal(browser.pixels(painter.canvas), before)
    show(painter, red, view=VIEW.zoomed(2, 0, 0))
    show(painter, red)
    assert np.array_equal(browser.pixels(painter.canvas), before)


def test_the_cache_forgets_the_image_not_used_for_longest(browser):
    slices, made = ImageCache(cache_bytes=2 * 6 * 8 * 4), []
    for key in "abacabb":  # two have room
        with held():
            slices.canvas(key, lambda key=key: (made.append(key), GREY)[1])
    assert made == ["a", "b", "c", "b"]
    assert browser.names.count("putImageData") == 4


def test_holding_survives_an_exception(browser):
    canvas = Canvas(width=4, height=4)
    with pytest.raises(ZeroDivisionError), held(), held():
        canvas.fill_rect(0, 0, 4, 4)
        raise ZeroDivisionError
    assert browser.messages == 1
    with held():
        canvas.fill_rect(0, 0, 4, 4)
    assert browser.messages == 2
