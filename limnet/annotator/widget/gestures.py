"""A button that is down, and the action that what it drew becomes."""

import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from limnet.annotator.widget.view import ViewState, along
from limnet.method.prompts import Click

SCRIBBLE_STEP = 12.0  # pixels of the slice between the clicks of a scribble

Number = float | int
Place = tuple[Number, Number]  # (v, u) on a plane or (x, y) on the canvas


@dataclass
class Gesture:
    """A button that is down."""

    tool: str
    points: list[Place]  # (v, u) on the plane
    last: Place  # (x, y) on the canvas
    click: Click | None = None  # that is dragged


def drawn_action(gesture: Gesture, look: ViewState) -> dict[str, Any] | None:
    """The action of a click that was dragged, a box or a scribble; None if it is none."""
    if gesture.tool == "move":
        return _moved_click(gesture, look)
    if gesture.tool == "box":
        return _box(gesture, look)
    if gesture.tool.endswith("scribble"):
        return _scribble(gesture, look)
    return None


def _moved_click(gesture: Gesture, look: ViewState) -> dict[str, Any] | None:
    old, (height, width) = gesture.click, look.plane.shape
    v, u = (math.floor(each + 0.5) for each in gesture.points[-1])
    if len(gesture.points) < 2 or not (0 <= v < height and 0 <= u < width):
        return None  # it was not moved, or out of the image
    _, row, column = look.voxel_at(v, u)
    to = [old.slice_index, row, column, old.positive]
    return {"action": "move_click", "click": [*astuple(old)], "to": to}


def _box(gesture: Gesture, look: ViewState) -> dict[str, Any] | None:
    last = [size - 1 for size in look.plane.shape]
    corners = np.array([gesture.points[0], gesture.points[-1]]).round().clip(0, last)
    (top, left), (bottom, right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    if bottom <= top or right <= left:
        return None
    return {"action": "box", "slice_index": look.slice_index, "box": [top, left, bottom, right]}


def _scribble(gesture: Gesture, look: ViewState) -> dict[str, Any] | None:
    height, width = look.plane.shape
    pixels = dict.fromkeys((round(v), round(u)) for v, u in along(gesture.points, SCRIBBLE_STEP))
    clicks = [
        [look.slice_index, row, column, gesture.tool == "scribble"]
        for row, column in pixels
        if 0 <= row < height and 0 <= column < width
    ]
    return {"action": "clicks", "clicks": clicks} if clicks else None
