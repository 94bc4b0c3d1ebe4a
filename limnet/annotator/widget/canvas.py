"""Paints one image of a volume with masks and marks on a canvas in the browser.

A slice crosses to the browser once and stays there off the screen; masks cross as runs of pixels.
All else, such as zooming, is the browser copying its own canvases.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from ipycanvas import Canvas
from ipywidgets import Layout
from jaxtyping import Bool

from limnet.annotator.widget.image_cache import (
    CACHE_BYTES,
    Greys,
    ImageCache,
    held,
    on_screen,
    resize,
)
from limnet.annotator.widget.view import Runs, View, edges, runs

Style = Literal["fill", "contour", "both"]
Place = tuple[float | int, float | int]  # (v, u) on the plane

BACKGROUND = "#000000"
SMOOTH_UP_TO = 3.0  # canvas pixels of an image pixel; larger ones are shown as the squares they are
STRIPE = 6  # image pixels from a stripe of a locked mask to the next one
LINE, LOCKED_LINE = 2.0, 4.0  # canvas pixels of a contour
CORE = "#ffffff"  # of a locked contour
# of clicks: colours of Okabe and Ito, and a sign for those who cannot tell them apart
POSITIVE, NEGATIVE = "#009E73", "#D55E00"
LIGHT, DARK = "#ffffff", "rgba(0, 0, 0, 0.55)"
CROSSHAIR = "#56B4E9"
RADIUS, CHOSEN_RADIUS = 7.0, 9.5  # of a click's disc, in canvas pixels
GAP = 14.0  # of the crosshair around its pixel, in canvas pixels
THINNEST = 3.0  # canvas pixels of a stroke
STROKE_OPACITY = 0.5
FONT = "600 13px sans-serif"


@dataclass(frozen=True)
class Marks:
    """All that lies over one image."""

    clicks: Sequence[tuple[float | int, float | int, bool]] = ()  # (v, u, positive)
    chosen: int | None = None  # which click is under the pointer: drawn larger
    crosshair: Place | None = None
    box: tuple[Place, Place] | None = None  # two opposite corners
    stroke: Sequence[Place] = ()  # the way of the brush or scribble under way
    pointer: Place | None = None  # where the brush is shown
    radius: float | int = 0  # of brush and stroke, in pixels along the finer axis
    colour: str = LIGHT  # of brush and stroke
    edges: str = ""  # letters at the top, bottom, left and right


NO_MARKS = Marks()


class Overlay(NamedTuple):
    """One object's mask on an image."""

    mask: Bool[np.ndarray, "height width"]
    colour: str  # "#rrggbb"
    locked: bool = False  # striped, with a white line in its contour


@dataclass(frozen=True)
class Shown:
    """What is on the canvas besides masks."""

    key: Hashable
    view: View
    marks: Marks
    opacity: float
    style: Style


class SlicePainter:
    """Shows one image at a time with masks and marks over it; sends only what has changed.

    A canvas and not a MultiCanvas: that one copies all its layers whenever one of them changes.
    """

    def __init__(self, width: int, height: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        """An empty canvas.

        Args:
            width: of the canvas in pixels, as in the views that are shown.
            cache_bytes: what slices may take in the browser, at 4 bytes a pixel.
        """
        self.canvas = Canvas(width=width, height=height, layout=on_screen(width))
        self._slices = ImageCache(cache_bytes)
        self._fill = Canvas(width=1, height=1, layout=Layout())
        self._shown: Shown | None = None
        self._make: Callable[[], Greys] | None = None
        self._overlays: tuple[Overlay, ...] = ()
        self._edges: list[tuple[Runs, Runs]] | None = None  # of the masks, when they were needed
        self._is_filled = False  # whether the masks are on their canvas
        self.canvas.on_client_ready(self.redraw)

    def show(
        self,
        key: Hashable,
        make: Callable[[], Greys],
        view: View,
        overlays: Sequence[Overlay] = (),
        marks: Marks = NO_MARKS,
        *,
        opacity: float = 0.4,
        style: Style = "both",
    ) -> None:
        """Show an image, masks over it and marks over all; nothing happens if they are there.

        Args:
            key: of the image: with the plane, the index and the window that it is seen in.
            make: gives its pixels, uint8 (height, width) or (height, width, 3), if the browser
                does not have them.
            overlays: where they overlap, the first one is filled.
            opacity: of fills; contours are opaque.
        """
        marks = replace(marks, clicks=tuple(marks.clicks), stroke=tuple(marks.stroke))
        shown, same = Shown(key, view, marks, opacity, style), _same(self._overlays, overlays)
        if same and shown == self._shown:
            return
        if not same:
            copies = [Overlay(*each)._replace(mask=each[0].copy()) for each in overlays]
            self._overlays, self._edges, self._is_filled = tuple(copies), None, False
        self._shown, self._make = shown, make
        self._draw()

    def redraw(self) -> None:
        """Send everything again: the browser has nothing, as after the page was loaded again."""
        self._slices.forget()
        self._is_filled = False
        if self._shown is not None:
            self._draw()

    def release(self) -> None:
        """Give the browser the memory of the slices back; what is on the screen stays."""
        self._slices.release()
        resize(self._fill, 1, 1)
        self._is_filled = False

    def _draw(self) -> None:
        shown, view, canvas = self._shown, self._shown.view, self.canvas
        with held():
            image = self._slices.canvas(shown.key, self._make)
            canvas.fill_style = BACKGROUND
            canvas.fill_rect(0, 0, *view.canvas)
            canvas.image_smoothing_enabled = max(view.scale) <= SMOOTH_UP_TO
            canvas.draw_image(image, *view.rectangle())
            if self._overlays and shown.style != "contour" and shown.opacity > 0:
                self._send_fills()
                canvas.image_smoothing_enabled = False
                canvas.global_alpha = shown.opacity
                canvas.draw_image(self._fill, *view.rectangle())
                canvas.global_alpha = 1.0
            if shown.style != "fill":
                self._draw_contours()
            draw_marks(canvas, shown.marks, view)

    def _send_fills(self) -> None:
        if self._is_filled:
            return
        height, width = self._overlays[0].mask.shape
        resize(self._fill, width, height)
        self._fill.clear()
        free = np.ones((height, width), dtype=bool)
        for mask, colour, locked in self._overlays:
            pixels = mask & free
            if locked:
                diagonals = np.add.outer(np.arange(height), np.arange(width))
                pixels &= diagonals % STRIPE < STRIPE / 2
            rows, starts, lengths = runs(pixels)
            free &= ~mask
            if len(rows):
                self._fill.fill_style = colour
                self._fill.fill_rects(starts, rows, lengths, 1)
        self._is_filled = True

    def _draw_contours(self) -> None:
        if self._edges is None:
            self._edges = [edges(overlay.mask) for overlay in self._overlays]
        view = self._shown.view
        for overlay, lines in reversed(list(zip(self._overlays, self._edges, strict=True))):
            if overlay.locked:
                _draw_lines(self.canvas, lines, view, overlay.colour, LOCKED_LINE)
                _draw_lines(self.canvas, lines, view, CORE, LOCKED_LINE / 4)
            else:
                _draw_lines(self.canvas, lines, view, overlay.colour, LINE)


def _draw_lines(
    canvas: Canvas, lines: tuple[Runs, Runs], view: View, colour: str, thick: float
) -> None:
    """Draw along the sides of pixels, equally thick however large these are shown."""
    (rows, starts, widths), (columns, tops, heights) = lines
    if len(rows):
        (x, y), (down, right), half = view.to_canvas(-0.5, -0.5), view.scale, thick / 2
        canvas.fill_style = colour
        left, top = x + starts * right - half, y + rows * down - half
        canvas.fill_rects(left, top, widths * right + thick, thick)
        left, top = x + columns * right - half, y + tops * down - half
        canvas.fill_rects(left, top, thick, heights * down + thick)


def _same(before: Sequence[Overlay], overlays: Sequence[Overlay]) -> bool:
    return len(before) == len(overlays) and all(
        one.colour == colour and one.locked == locked and np.array_equal(one.mask, mask)
        for one, (mask, colour, locked) in zip(before, overlays, strict=True)
    )


def draw_marks(canvas: Canvas, marks: Marks, view: View) -> None:
    """Draw the marks over what is there."""
    if marks.crosshair is not None:
        _draw_crosshair(canvas, marks.crosshair, view)
    _draw_edges(canvas, marks.edges, view)
    if marks.stroke:
        _draw_stroke(canvas, marks, view)
    if marks.pointer is not None and marks.radius:
        _draw_brush(canvas, marks, view)
    if marks.box is not None:
        _draw_box(canvas, marks.box, view)
    for number, (v, u, positive) in enumerate(marks.clicks):
        radius = CHOSEN_RADIUS if number == marks.chosen else RADIUS
        _draw_click(canvas, *view.to_canvas(v, u), positive, radius)


def _draw_click(canvas: Canvas, x: float, y: float, positive: bool, radius: float) -> None:
    for colour, size in ((DARK, 2.5), (LIGHT, 1.5), (POSITIVE if positive else NEGATIVE, 0.0)):
        canvas.fill_style = colour
        canvas.fill_circle(x, y, radius + size)
    arm = 0.6 * radius
    canvas.fill_style = LIGHT
    canvas.fill_rect(x - arm, y - 1, 2 * arm, 2)
    if positive:
        canvas.fill_rect(x - 1, y - arm, 2, 2 * arm)


def _draw_crosshair(canvas: Canvas, crosshair: Place, view: View) -> None:
    (x, y), (width, height) = view.to_canvas(*crosshair), view.canvas
    down, right = (max(GAP, 0.5 * scale + 4) for scale in view.scale)
    for colour, thick in ((DARK, 3), (CROSSHAIR, 1)):
        canvas.fill_style = colour
        for start, end in ((0, x - right), (x + right, width)):
            if end > start:
                canvas.fill_rect(start, y - thick / 2, end - start, thick)
        for start, end in ((0, y - down), (y + down, height)):
            if end > start:
                canvas.fill_rect(x - thick / 2, start, thick, end - start)


def _draw_stroke(canvas: Canvas, marks: Marks, view: View) -> None:
    points = np.array([view.to_canvas(v, u) for v, u in marks.stroke])
    thick = max(2 * marks.radius * min(view.scale), THINNEST)
    canvas.global_alpha = STROKE_OPACITY
    if len(points) == 1:
        canvas.fill_style = marks.colour
        canvas.fill_circle(*points[0].tolist(), thick / 2)
    else:
        canvas.stroke_style, canvas.line_width = marks.colour, thick
        canvas.line_cap = canvas.line_join = "round"
        canvas.stroke_lines(points)
    canvas.global_alpha = 1.0


def _draw_brush(canvas: Canvas, marks: Marks, view: View) -> None:
    x, y = view.to_canvas(*marks.pointer)
    radius = marks.radius * min(view.scale)
    for colour, thick in ((DARK, 3.5), (marks.colour, 1.5)):
        canvas.stroke_style, canvas.line_width = colour, thick
        canvas.stroke_circle(x, y, radius)


def _draw_box(canvas: Canvas, corners: Sequence[Place], view: View) -> None:
    (left, top), (right, bottom) = (view.to_canvas(v, u) for v, u in corners)
    for colour, dash in ((DARK, []), (LIGHT, [6, 4])):
        canvas.stroke_style, canvas.line_width = colour, 2
        canvas.set_line_dash(dash)
        canvas.stroke_rect(left, top, right - left, bottom - top)
    canvas.set_line_dash([])


def _draw_edges(canvas: Canvas, edges: str, view: View) -> None:
    width, height = view.canvas
    places = ((width / 2, 12), (width / 2, height - 12), (12, height / 2), (width - 12, height / 2))
    canvas.font, canvas.text_align, canvas.text_baseline = FONT, "center", "middle"
    canvas.line_width = 3
    canvas.stroke_style, canvas.fill_style = DARK, LIGHT
    for letter, (x, y) in zip(edges, places, strict=False):
        canvas.stroke_text(letter, x, y)
        canvas.fill_text(letter, x, y)
