"""What mouse and keys do to an annotation; knows no browser.

Handlers take plain numbers: canvas positions in pixels, the button, and whether keys were held.
"""

import math
from collections.abc import Callable
from dataclasses import astuple
from types import MappingProxyType
from typing import Any

import numpy as np

from limnet.annotator.annotation import Annotation, SegmentedObject
from limnet.annotator.journal import Recording
from limnet.annotator.widget.gestures import Gesture, Number, Place, drawn_action
from limnet.annotator.widget.run import Run
from limnet.annotator.widget.view import ViewState, dragged_window, stroke
from limnet.method.features import FeaturePrefetcher
from limnet.method.prompts import Click
from limnet.volumes.masks import PackedMasks

TOOLS = MappingProxyType(
    {
        "click": "c",
        "brush": "b",
        "eraser": "e",
        "box": "x",
        "scribble": "s",
        "window": "w",
        "pan": "v",
    }
)
NEAR = 9.0  # canvas pixels from a click at which the pointer is on it
ZOOM_STEP = 1.25
RADII = (1, 60)  # of the brush, in pixels of the slice
LEFT, MIDDLE, RIGHT = 0, 1, 2


class Controller:
    """An annotation, how one looks at it, and the tool at hand."""

    def __init__(
        self,
        annotation: Annotation,
        recorder: Recording | None = None,
        *,
        canvas: tuple[int, int] = (560, 560),
        post: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        """Nothing is done yet.

        Args:
            recorder: who performs actions; by default the annotation itself.
            canvas: (width, height) of the main canvas in pixels.
            post: has a call made in the thread of the caller.
        """
        self.annotation, self.recorder, self.post = annotation, recorder or annotation, post
        self.look = ViewState(annotation.volume, canvas)
        self.tool, self.brush_radius = "click", 6
        self.shown_round: int | None = None  # None: the masks as they are now
        self.active = annotation.objects[0].name if annotation.objects else None
        self.gesture: Gesture | None = None
        self.pointer: Place | None = None  # (x, y) on the canvas
        self.run: Run | None = None
        self.prefetcher = FeaturePrefetcher()
        self.message, self.is_error = "", False
        self.changed: Callable[[], None] = lambda: None  # called after anything has
        self._masks: dict[str, tuple[Any, PackedMasks]] = {}

    @property
    def object(self) -> SegmentedObject | None:
        """The active one."""
        found = [each for each in self.annotation.objects if each.name == self.active]
        return found[0] if found else None

    def mask(self, shown: SegmentedObject, axis: int) -> np.ndarray:
        """An object's mask on the image that a plane shows: of the round that is looked at."""
        session, index = shown.session, self.look.index(axis)
        earlier = self.shown_round if shown.name == self.active else None
        run = self.run if self.run and self.run.object == shown.name else None
        if axis == 0 and run and index in run.arrived:
            return run.arrived[index].unpack(self.look.planes[0].shape)
        if axis == 0 and earlier is None:
            return session.mask(index)
        masks = self._all_masks(shown) if earlier is None else session.rounds[earlier].masks
        return self.look.planes[axis].image(masks, index)

    def clicks_here(self) -> list[tuple[Click, Number, Number]]:
        """The active object's clicks on the main image, with their places (v, u) on it."""
        plane, index = self.look.plane, self.look.index()
        clicks = self.object.session.clicks if self.object else ()
        places = [plane.place((click.slice_index, click.row, click.column)) for click in clicks]
        return [
            (click, v, u)
            for click, (at, v, u) in zip(clicks, places, strict=True)
            if round(at) == index
        ]

    def painted(self) -> np.ndarray:
        """The active object's mask with the stroke under way added to it or taken from it."""
        plane, gesture = self.look.plane, self.gesture
        drawn = stroke(plane.shape, gesture.points, self.brush_radius, plane.spacing)
        mask = self.mask(self.object, 0)
        return mask | drawn if gesture.tool == "brush" else mask & ~drawn

    def press(
        self,
        x: Number,
        y: Number,
        button: int = LEFT,
        *,
        shift: bool = False,
        ctrl: bool = False,
        alt: bool = False,
    ) -> None:
        """A button goes down: a click acts at once, other tools when it is released."""
        tool = "pan" if button == MIDDLE else "window" if alt else self.tool
        positive, look = button == LEFT and not shift, self.look
        point, pixel = look.view.from_canvas(x, y), look.view.pixel(x, y)
        if tool in ("pan", "window"):
            self.gesture = Gesture(tool, [point], (x, y))
        elif self.object is None:
            self.set_status("Add an object first: give it a name at the right.", error=True)
        elif tool != "click" and look.axis != 0:
            self.set_status(f"The {tool} works on the volume's own slices: press 1.", error=True)
        elif pixel is not None:
            look.look_at(look.axis, *pixel)
            if tool == "click":
                self._click(x, y, pixel, positive, ctrl)
            else:
                opposite = {"brush": "eraser", "eraser": "brush", "scribble": "negative scribble"}
                tool = tool if positive else opposite.get(tool, tool)
                self.gesture = Gesture(tool, [point], (x, y))
        self.changed()

    def move(self, x: Number, y: Number) -> None:
        """The pointer moves, perhaps with a button down."""
        self.pointer, gesture = (x, y), self.gesture
        if gesture is not None:
            dx, dy = x - gesture.last[0], y - gesture.last[1]
            gesture.last = (x, y)
            if gesture.tool == "pan":
                self.look.view = self.look.view.panned(dx, dy)
            elif gesture.tool == "window":
                self.look.window = dragged_window(*self.look.window, dx, dy)
            else:
                gesture.points.append(self.look.view.from_canvas(x, y))
        self.changed()

    def release(self, x: Number, y: Number) -> None:
        """The button goes up: what was drawn, boxed or dragged becomes an action."""
        gesture = self.gesture
        if gesture is None:
            return
        gesture.points.append(self.look.view.from_canvas(x, y))  # moves come now and then only
        if gesture.tool in ("brush", "eraser"):
            self._act("paint", slice_index=self.look.slice_index, mask=self.painted())
        elif drawn := drawn_action(gesture, self.look):
            self._act(**drawn)
        self.gesture = None
        self.changed()

    def leave(self) -> None:
        """The pointer leaves the canvas."""
        self.pointer = None
        self.changed()

    def wheel(self, delta: Number, x: Number, y: Number, *, ctrl: bool = False) -> None:
        """Turned down (positive): the next image, or with ctrl zoom out."""
        if ctrl:
            self.zoom(ZOOM_STEP if delta < 0 else 1 / ZOOM_STEP, x, y)
        elif delta:
            self.step(int(math.copysign(1, delta)))

    def zoom(self, factor: Number, x: Number | None = None, y: Number | None = None) -> None:
        """Enlarge so many times about a canvas position, by default the pointer's or the middle."""
        if x is None or y is None:
            x, y = self.pointer or (side / 2 for side in self.look.view.canvas)
        self.look.view = self.look.view.zoomed(factor, x, y)
        self.changed()

    def step(self, images: int) -> None:
        """Go so many images on."""
        self.go_to(self.look.index() + images)

    def go_to(self, index: int) -> None:
        """Show an image of the main plane; the nearest there is."""
        self.look.go_to(index)
        self.changed()

    def show_plane(self, axis: int) -> None:
        """Cut the volume another way."""
        self.look.axis, self.gesture = axis, None
        self.changed()

    def show_round(self, number: int | None) -> None:
        """Look at the masks of an earlier round, 0 the first; None: as they are now."""
        rounds = len(self.object.session.rounds) if self.object else 0
        self.shown_round = number if number is not None and 0 <= number < rounds else None
        self.changed()

    def choose_tool(self, tool: str) -> None:
        """Take another tool."""
        self.tool, self.gesture = tool, None
        self.changed()

    def choose(self, name: str) -> None:
        """Make an object the active one."""
        self.active, self.shown_round = name, None
        self.changed()

    def perform(self, action: str, **values: Any) -> bool:
        """Have an action performed; whether it was. What goes wrong is told in `message`."""
        name = values.get("object")
        if self.run and (action in ("undo", "redo") or name == self.run.object):
            self.set_status(
                f"{self.run.object} is being propagated: wait, or cancel it.", error=True
            )
            return False
        try:
            with self.prefetcher.paused():
                self.recorder.perform({"action": action, **values})
        except (ValueError, RuntimeError) as error:
            self.set_status(str(error), error=True)
            return False
        self.shown_round = None
        names = [each.name for each in self.annotation.objects]
        if self.active not in names:
            self.active = names[-1] if names else None
        self.set_status("" if names else "No object is left: add one, or press y to redo.")
        self._fill()
        return True

    def add_object(self, name: str, colour: str) -> None:
        """Add an object and make it the active one."""
        if self.perform("add_object", object=name, colour=colour):
            self.choose(name)

    def lock_or_unlock(self) -> None:
        """Lock the slice shown, or unlock it."""
        if self.object:
            is_locked = self.look.slice_index in self.object.session.state.locked
            self._act("unlock" if is_locked else "lock", slice_index=self.look.slice_index)

    def take_other(self) -> None:
        """Take the mask that fusion did not choose on the slice shown."""
        self._act("take_other", slice_index=self.look.slice_index)

    def remove_click(self) -> None:
        """Remove the click under the pointer."""
        near = self.click_under(*self.pointer) if self.pointer else None
        if near:
            self._act("remove_click", click=[*astuple(near)])

    def look_at_doubt(self) -> None:
        """Go to the slice that is expected to have the most wrong pixels."""
        doubt = self.object.session.most_doubtful() if self.object else None
        if doubt is None:
            self.set_status("Nothing is doubted yet: propagate first.")
            return
        self.look.axis, self.look.cross[0] = 0, doubt
        self.set_status(f"Slice {doubt} has the largest expected error: correct it, or lock it.")

    def propagate(self) -> None:
        """Start a round in a thread; its slices are shown as they arrive."""
        if self.run is not None or self.object is None:
            return
        if not self.object.session.state.changed:
            self.set_status("Click or paint first: there is nothing new to propagate.", error=True)
            return
        self.prefetcher.stop()
        self.run = run = Run(self.object.name, self.object.session)
        self.shown_round = None
        run.start(lambda: self.post(self.changed), lambda: self.post(lambda: self._finish(run)))
        self.changed()

    def cancel(self) -> None:
        """Stop the propagation; the last round stays."""
        if self.run is not None:
            self.run.cancel()

    def wait(self) -> None:
        """Until the propagation has ended: for scripts, which have no loop to go on with."""
        if self.run is not None:
            run = self.run
            run.wait()
            self._finish(run)

    def set_status(self, message: str, *, error: bool = False) -> None:
        """Say something to the user."""
        self.message, self.is_error = message, error
        self.changed()

    def click_under(self, x: Number, y: Number) -> Click | None:
        """The click at a canvas position that can be moved or removed."""
        if self.object is None:
            return None
        prompts, view = self.object.session.state.prompts, self.look.view
        places = [
            (math.dist(view.to_canvas(v, u), (x, y)), click)
            for click, v, u in self.clicks_here()
            if click.slice_index in prompts and click in prompts[click.slice_index].pending_clicks
        ]
        distance, click = min(places, key=lambda each: each[0], default=(math.inf, None))
        return click if distance <= NEAR else None

    def _fill(self) -> None:
        """While the user looks on, what a propagation will need is computed."""
        if self.run is None and self.object and self.object.session.state.changed:
            self.prefetcher.start(*self.object.session.expected_features())

    def _finish(self, run: Run) -> None:
        """A propagation has ended; its round is recorded before it is shown."""
        if self.run is not run:  # somebody waited for it
            return
        self.run, found = None, run.found
        if found is None:
            self.set_status("Cancelled; the round before stays.")
        elif isinstance(found, Exception):
            self.set_status(f"Propagation failed: {found}", error=True)
        else:
            values = {name: value for name, value in vars(found).items() if name != "clicks"}
            if self.perform("propagate", object=run.object, round=values):
                self.set_status(run.summary(found))

    def _act(self, action: str, **values: Any) -> bool:
        """Have an action performed on the active object."""
        return self.active is not None and self.perform(action, object=self.active, **values)

    def _click(
        self, x: Number, y: Number, pixel: tuple[int, int], positive: bool, ctrl: bool
    ) -> None:
        near, look = self.click_under(x, y), self.look
        if near and ctrl:
            self._act("remove_click", click=[*astuple(near)])
        elif near:
            self.gesture = Gesture("move", [], (x, y), near)
        else:
            self._act("click", click=[*look.voxel_at(*pixel), positive])

    def _all_masks(self, shown: SegmentedObject) -> PackedMasks:
        """For planes across the slices; kept until they change."""
        state = shown.session.state
        if self._masks.get(shown.name, (None,))[0] is not state:
            self._masks[shown.name] = (state, shown.session.packed_masks)
        return self._masks[shown.name][1]
