"""What is drawn over a slice in canvas pixels: clicks, crosshair, box, brush, letters of the sides.

Clicks are green with a plus or vermilion with a minus: colours of Okabe and Ito, and a sign for
those who cannot tell them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ipycanvas import Canvas

from limnet.annotator.widget.view import View

Place = tuple[float | int, float | int]  # (v, u) on the plane

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
