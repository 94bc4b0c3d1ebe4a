"""The strip under the slider: for every slice of the volume what there is and where to look.

From above: clicked slices, locked slices, the mask's area in the colour of the round that it comes
from, the quality net's probability that the round before was better, and the expected errors.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import ipywidgets
import numpy as np
from ipycanvas import Canvas
from ipyevents import Event
from ipywidgets import Layout
from jaxtyping import Float, Int

from limnet.annotator.export import SliceProvenance, slice_provenance
from limnet.annotator.widget.controller import Controller
from limnet.annotator.widget.image_cache import held, on_screen

HEIGHT = 64
DESCRIBED = "font-size: 12px; line-height: 17px; min-height: 34px"  # room for two lines
BACKGROUND, NEUTRAL = "#1e2026", "#5c6069"  # its own, so that it looks the same in any theme
ROUNDS = ("#3f76b5", "#5b98d0", "#82b9e3", "#b0d6f2", "#dff0fc")  # the last from round 5 on
BY_USER, LOCKED, POINTED = "#f0a030", "#d5d8de", "#ffffff"
PREVIOUS, LATEST = "#b98af5", "#4cc2a4"  # the better round
DOUBT = "#ff6fae"
LEVELS = 5  # of probability and doubt that are told apart
CLICKED_ROW, LOCKED_ROW = (1, 6), (8, 4)  # top, height
BETTER_ROW, DOUBT_ROW = (12, 5), (6, 5)  # the same, from below
AREA_TOP, AREA_BOTTOM = 14, 14


class Rectangle(NamedTuple):
    """A filled one, in canvas pixels."""

    x: int
    y: int
    width: int
    height: int
    colour: str


class Timeline:
    """Draws the records of all slices, and a line at the one that is looked at."""

    def __init__(self, width: int, height: int = HEIGHT) -> None:
        """An empty strip of so many pixels."""
        self.canvas = Canvas(width=width, height=height, layout=on_screen(width))
        self._still = Canvas(width=width, height=height, layout=Layout())  # all but the line
        self._shown: tuple[Sequence[SliceProvenance], Sequence[float]] = ((), ())
        self._pointed = 0
        self.canvas.on_client_ready(self.redraw)
        self.redraw()

    def show(
        self,
        records: Sequence[SliceProvenance],
        expected_errors: Sequence[float] | Float[np.ndarray, " slices"] = (),
    ) -> None:
        """Show one record a slice, and its expected wrong pixels; none: no slice is in doubt."""
        shown = (tuple(records), tuple(float(each) for each in expected_errors))
        if shown != self._shown:
            self._shown = shown
            self.redraw()

    def point_at(self, slice_index: int) -> None:
        """Put the line at a slice."""
        if slice_index != self._pointed:
            self._pointed = slice_index
            with held():
                self._draw_line()

    def slice_at(self, x: float | int) -> int:
        """The slice at a canvas position, of several the first; outside, the nearest."""
        starts, slices = columns(max(len(self._shown[0]), 1), self.canvas.width)
        column = int(np.searchsorted(starts, x, side="right")) - 1
        return int(slices[min(max(column, 0), len(slices) - 2)])

    def redraw(self) -> None:
        """Send everything: the browser has nothing, as after the page was loaded again."""
        records, expected_errors = self._shown
        width, height = self.canvas.width, self.canvas.height
        shown = [Rectangle(0, 0, width, height, BACKGROUND)]
        if records:
            shown += rectangles(records, expected_errors, width, height)
        with held():
            _fill(self._still, shown)
            self._draw_line()

    def _draw_line(self) -> None:
        self.canvas.draw_image(self._still, 0, 0)
        slices = len(self._shown[0])
        if slices:
            width, height = self.canvas.width, self.canvas.height
            _fill(self.canvas, line(self._pointed, slices, width, height))


class SlicePanel:
    """A slider through the images, and under it what there is to say about each slice."""

    def __init__(self, controller: Controller, width: int) -> None:
        self.controller, self.timeline = controller, Timeline(width)
        self._slider = ipywidgets.IntSlider(layout={"width": f"{width}px"})
        self._slider.observe(lambda change: self._go_to(change["new"]), "value")
        self._described = ipywidgets.HTML()
        self._pressed = Event(source=self.timeline.canvas, watched_events=["mousedown"])
        self._pressed.on_dom_event(self._press)
        self._is_refreshing = False
        self._shown: tuple[object, object] = (None, None)
        self._records: tuple[SliceProvenance, ...] = ()
        self._errors: Sequence[float] | np.ndarray = ()
        self.box = ipywidgets.VBox([self._slider, self.timeline.canvas, self._described])

    def refresh(self) -> None:
        """Show the slice that is looked at, and the active object's records."""
        look, shown = self.controller.look, self.controller.object
        index, self._is_refreshing = look.index(), True  # a smaller maximum moves the value
        self._slider.max, self._slider.value = len(look.plane) - 1, index
        self._is_refreshing = False
        state = shown.session.state if shown else None
        if (shown, state) != self._shown:
            self._shown = (shown, state)
            self._records = slice_provenance(shown.session) if shown else ()
            self._errors = (
                shown.session.rounds[-1].expected_errors if shown and state.rounds else ()
            )
            self.timeline.show(self._records, self._errors)
        self.timeline.point_at(look.slice_index)
        said = escape(self._description(look.slice_index))
        self._described.value = f"<div style='{DESCRIBED}'>{said}</div>"

    def _description(self, slice_index: int) -> str:
        if not self._records:
            return ""
        error = float(self._errors[slice_index]) if len(self._errors) else 0.0
        shared = int(self.controller.annotation.overlap(slice_index).sum())
        also = f", {shared} pixels shared with other objects" if shared else ""
        return described(slice_index, self._records[slice_index], error) + also

    def _go_to(self, index: int) -> None:
        if not self._is_refreshing:
            self.controller.go_to(index)

    def _press(self, event: dict) -> None:
        x = event["relativeX"] * self.timeline.canvas.width / max(event["boundingRectWidth"], 1)
        self.controller.show_plane(0)
        self.controller.go_to(self.timeline.slice_at(x))


def columns(
    slices: int, width: int
) -> tuple[Int[np.ndarray, " columns"], Int[np.ndarray, " columns"]]:
    """Where columns of pixels start, and with which slice: one a slice while there is room.

    Both end with one more entry: the width, and the number of slices.
    """
    number = np.arange(min(slices, width) + 1)
    return number * width // number[-1], number * slices // number[-1]


def rectangles(
    records: Sequence[SliceProvenance],
    expected_errors: Sequence[float],
    width: int,
    height: int,
) -> list[Rectangle]:
    """What to fill, from the lowest on; of slices that share a column the most notable shows."""
    starts, slices = (each.tolist() for each in columns(len(records), width))
    gap = 1 if width >= 4 * len(records) else 0
    largest, worst = max(each.area_pixels for each in records), max(expected_errors, default=0)
    shown = [Rectangle(0, height - AREA_BOTTOM, width, 1, NEUTRAL)]
    for column, (x, first) in enumerate(zip(starts[:-1], slices[:-1], strict=True)):
        wide, last = starts[column + 1] - x - gap, slices[column + 1]
        here = records[first:last]
        error = max(expected_errors[first:last], default=0)
        found = (
            _area(here, largest, height - AREA_TOP - AREA_BOTTOM),
            _better(here, height),
            _doubt(error / worst if worst > 0 else 0.0, height),
        )
        shown += [
            Rectangle(x, top, wide, tall, colour) for top, tall, colour in filter(None, found)
        ]
        size = min(max(wide, 3), 8)
        ticks = ((CLICKED_ROW, BY_USER, "clicked"), (LOCKED_ROW, LOCKED, "locked"))
        for (top, tall), colour, name in ticks:
            if any(getattr(each, name) for each in here):
                shown.append(Rectangle(x + (wide - size) // 2, top, size, tall, colour))
    return shown


Band = tuple[int, int, str] | None  # top, height and colour of a column's part


def _area(here: Sequence[SliceProvenance], largest: int, room: int) -> Band:
    area = max(each.area_pixels for each in here)
    by_user = any(each.source in ("clicked", "painted", "locked") for each in here)
    if not by_user and not area:
        return None
    latest = max((each.round or 1 for each in here if each.source == "propagated"), default=1)
    colour = BY_USER if by_user else ROUNDS[min(latest, len(ROUNDS)) - 1]
    tall = max(round(room * area / max(largest, 1)), 2)
    return AREA_TOP + room - tall, tall, colour


def _better(here: Sequence[SliceProvenance], height: int) -> Band:
    away = [each.previous_better - 0.5 for each in here if each.previous_better is not None]
    if not away:
        return None
    most, (above, tall) = max(away, key=abs), BETTER_ROW
    return height - above, tall, mixed(NEUTRAL, PREVIOUS if most > 0 else LATEST, 2 * abs(most))


def _doubt(part: float, height: int) -> Band:
    if part == 0:
        return None
    above, tall = DOUBT_ROW
    return height - above, tall, mixed(BACKGROUND, DOUBT, part**0.5)


def line(pointed: int, slices: int, width: int, height: int) -> list[Rectangle]:
    """A line through the middle of a slice's column."""
    starts, first = columns(slices, width)
    column = int(np.searchsorted(first, pointed, side="right")) - 1
    column = min(max(column, 0), len(starts) - 2)
    x = int(starts[column] + starts[column + 1]) // 2
    return [Rectangle(x - 2, 0, 4, height, BACKGROUND), Rectangle(x - 1, 0, 2, height, POINTED)]


def mixed(start: str, end: str, part: float) -> str:
    """One of a few colours on the way from one "#rrggbb" to another."""
    part = round(min(max(part, 0.0), 1.0) * (LEVELS - 1)) / (LEVELS - 1)
    both = zip(bytes.fromhex(start[1:]), bytes.fromhex(end[1:]), strict=True)
    return "#" + bytes(round(a + (b - a) * part) for a, b in both).hex()


def described(slice_index: int, record: SliceProvenance, expected_error: float = 0.0) -> str:
    """One line that says everything about a slice."""
    came = {"propagated": f"from round {record.round}", "empty": "empty"}.get(record.source)
    better, error = record.previous_better, round(expected_error)
    parts = (
        f"slice {slice_index}: {came or record.source}",
        f"{record.area_pixels:,} pixels" if record.area_pixels else "",
        "clicked" if record.clicked and record.source != "clicked" else "",
        "locked" if record.locked and record.source != "locked" else "",
        f"round before better: {better:.0%}" if better is not None else "",
        f"about {error:,} wrong pixels" if error else "",
    )
    return ", ".join(filter(None, parts))


def legend() -> str:
    """HTML that says what the colours are."""
    meanings = (
        ((BY_USER,), "clicked, painted"),
        ((LOCKED,), "locked"),
        (ROUNDS, "area, by round 1 to 5"),
        ((LATEST, NEUTRAL, PREVIOUS), "better: latest round to round before"),
        ((DOUBT,), "errors expected"),
    )
    box = "display:inline-block;width:10px;height:10px;background:"
    entries = "".join(
        "<span style='margin-right:14px;white-space:nowrap'>"
        + "".join(f"<span style='{box}{colour}'></span>" for colour in colours)
        + f" {meaning}</span>"
        for colours, meaning in meanings
    )
    return f"<div style='font-size:11px;line-height:16px'>{entries}</div>"


def _fill(canvas: Canvas, shown: Sequence[Rectangle]) -> None:
    """Fill rectangles, those of one colour at once in the order of the colours' first ones."""
    by_colour: dict[str, list[Rectangle]] = {}
    for rectangle in shown:
        by_colour.setdefault(rectangle.colour, []).append(rectangle)
    for colour, same in by_colour.items():
        canvas.fill_style = colour
        x, y, width, height = np.array([each[:4] for each in same], dtype=np.int32).T
        canvas.fill_rects(x, y, width, height)
