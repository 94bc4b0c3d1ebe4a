import numpy as np
import pytest
from fake_browser import FakeBrowser

from limnet.annotator.export import SliceProvenance
from limnet.annotator.widget.timeline import (
    AREA_BOTTOM,
    AREA_TOP,
    BACKGROUND,
    BY_USER,
    DOUBT,
    HEIGHT,
    LATEST,
    LOCKED,
    NEUTRAL,
    POINTED,
    PREVIOUS,
    ROUNDS,
    Rectangle,
    Timeline,
    columns,
    described,
    line,
    mixed,
    rectangles,
)

ROOM = HEIGHT - AREA_TOP - AREA_BOTTOM  # of the largest area
ROWS = {"clicked": 3, "locked": 9, "area": HEIGHT - AREA_BOTTOM - 1, "better": 54, "doubt": 60}


def record(area=0, source="empty", round=None, better=None, clicked=False, locked=False):
    return SliceProvenance(area, source, round, better, clicked, locked)


EMPTY = record()
FIVE = [
    record(100, "propagated", 1, 0.5),
    record(200, "propagated", 2, 1.0),
    record(50, "clicked", None, 0.0, clicked=True),
    record(80, "locked", None, 0.5, locked=True),
    EMPTY,
]
ERRORS = [0.0, 4.0, 1.0, 0.0, 0.0]


@pytest.fixture
def browser(monkeypatch):
    return FakeBrowser.instead_of_a_kernel(monkeypatch)


def shown(browser, strip, row):
    """The colours of a row at the columns of `FIVE`."""
    return [browser.colour(strip.canvas, 100 * column + 50, ROWS[row]) for column in range(5)]


def test_every_row_says_one_thing_of_each_slice(browser):
    strip = Timeline(500)
    strip.point_at(4)
    strip.show(FIVE, ERRORS)
    nothing = BACKGROUND
    assert shown(browser, strip, "clicked")[:4] == [nothing, nothing, BY_USER, nothing]
    assert shown(browser, strip, "locked")[:4] == [nothing, nothing, nothing, LOCKED]
    assert shown(browser, strip, "area")[:4] == [ROUNDS[0], ROUNDS[1], BY_USER, BY_USER]
    assert shown(browser, strip, "better")[:4] == [NEUTRAL, PREVIOUS, LATEST, NEUTRAL]
    half = mixed(BACKGROUND, DOUBT, 0.5)  # the root of 1 / 4: small doubts are seen too
    assert shown(browser, strip, "doubt")[:4] == [nothing, DOUBT, half, nothing]
    assert shown(browser, strip, "area")[4] == POINTED


def test_a_column_is_as_high_as_the_mask_is_large():
    bars = [each for each in rectangles(FIVE, (), 500, HEIGHT) if each.y >= AREA_TOP]
    tops = {bar.x // 100: bar for bar in bars if bar.y + bar.height == HEIGHT - AREA_BOTTOM}
    assert {at: bar.height for at, bar in tops.items()} == {
        at: round(ROOM * FIVE[at].area_pixels / 200) for at in range(4)
    }


def test_of_slices_that_share_a_column_the_most_notable_shows(browser):
    records = [EMPTY] * 1000
    records[503] = record(7, "clicked", clicked=True, better=0.9)
    records[508] = record(90, "propagated", 3, better=0.05)
    strip = Timeline(100)
    strip.show(records, np.eye(1000)[509])
    assert browser.colour(strip.canvas, 50, ROWS["area"]) == BY_USER
    assert browser.colour(strip.canvas, 50, AREA_TOP) == BY_USER  # as high as the larger one
    assert browser.colour(strip.canvas, 50, ROWS["clicked"]) == BY_USER
    assert browser.colour(strip.canvas, 50, ROWS["better"]) == mixed(NEUTRAL, LATEST, 0.9)
    assert browser.colour(strip.canvas, 50, ROWS["doubt"]) == DOUBT
    assert {browser.colour(strip.canvas, x, ROWS["area"]) for x in (48, 52)} == {BACKGROUND}


@pytest.mark.parametrize(("slices", "width"), [(1, 60), (7, 60), (60, 60), (100, 60)])
def test_a_press_on_a_column_finds_its_first_slice(browser, slices, width):
    strip = Timeline(width)
    strip.show([EMPTY] * slices)
    starts, first = columns(slices, width)
    for column, slice_index in enumerate(first[:-1]):
        for x in (starts[column], starts[column + 1] - 0.01):
            assert strip.slice_at(float(x)) == slice_index
    assert strip.slice_at(-5) == 0 and strip.slice_at(width + 5) == first[-2]


def test_the_line_is_in_the_middle_of_the_slices_column(browser):
    assert line(2, 5, 500, HEIGHT)[-1] == Rectangle(249, 0, 2, HEIGHT, POINTED)
    assert line(503, 1000, 100, HEIGHT) == line(509, 1000, 100, HEIGHT)
    strip = Timeline(500)
    strip.show(FIVE)
    before = browser.pixels(strip.canvas).copy()
    strip.point_at(2)
    assert browser.colour(strip.canvas, 250, 30) == POINTED
    strip.point_at(0)  # it leaves no trace
    assert np.array_equal(browser.pixels(strip.canvas), before)


def test_a_page_loaded_again_gets_everything_anew(browser):
    strip = Timeline(500)
    strip.show(FIVE, ERRORS)
    strip.point_at(2)
    before = browser.pixels(strip.canvas).copy()
    browser.load_again(strip.canvas)
    assert np.array_equal(browser.pixels(strip.canvas), before)


@pytest.mark.parametrize(
    ("values", "error", "expected"),
    [
        ({}, 0.0, "slice 7: empty"),
        (
            {"area": 1234, "source": "propagated", "round": 2, "better": 0.25},
            1500.4,
            "slice 7: from round 2, 1,234 pixels, round before better: 25%,"
            " about 1,500 wrong pixels",
        ),
        (
            {"area": 5, "source": "painted", "clicked": True, "locked": True},
            0.4,
            "slice 7: painted, 5 pixels, clicked, locked",
        ),
        ({"area": 5, "source": "locked", "locked": True}, 0.0, "slice 7: locked, 5 pixels"),
    ],
)
def test_a_line_says_everything_about_a_slice(values, error, expected):
    assert described(7, record(**values), error) == expected
