"""The widget: an ipycanvas view of an annotation in JupyterLab, every action journalled."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from html import escape
from itertools import count, cycle
from pathlib import Path
from typing import Any

import ipywidgets
from ipyevents import Event

from limnet.annotator.annotation import Annotation
from limnet.annotator.journal import Recording, journal_path
from limnet.annotator.widget.canvas import LIGHT, Marks, Overlay, SlicePainter
from limnet.annotator.widget.controller import Controller
from limnet.annotator.widget.keys import keys_help, press_key
from limnet.annotator.widget.panels import (
    COLOURS,
    ActionPanel,
    FilePanel,
    LookPanel,
    ObjectPanel,
    ToolPanel,
)
from limnet.annotator.widget.timeline import SlicePanel, legend
from limnet.annotator.widget.view import View, windowed
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.volumes import Volume

SIZE = 512  # pixels a side of the main canvas
SMALL = 148  # of those of the other two planes
LATER, LATEST = 0.08, 0.3  # seconds of rest, or in all, until what may wait is drawn again
MOVES = 20  # milliseconds between moves of mouse and wheel: what two cores can keep up with
HINT = "Click on the object, right click off it; p carries the mask through the volume, ? helps."
MESSAGE = "padding: 2px 8px; border-left: 4px solid {}; min-height: 20px; line-height: 20px"

OPEN: dict[Path, "ClickWidget"] = {}  # of this kernel, by journal


class ClickWidget(ipywidgets.VBox):
    """Click on slices, carry the masks through the volume, correct and save them.

    `controller` does everything that mouse and keys do; `annotation` holds the masks.
    """

    # what is closed may never have been opened
    controller: Controller | None = None
    recording: Recording | None = None
    journal: Path | None = None

    def __init__(
        self,
        image: str | Path | Volume,
        networks: str | Path | LimNet = "lite",
        *,
        journal: str | Path | None = None,
        objects: tuple[str, ...] = ("object 1",),
    ) -> None:
        """Open a volume, and go on where its journal ends.

        Args:
            image: NIfTI file, folder of a DICOM series or of frames, or a volume.
            networks: as `load_networks` takes them, or the networks.
            journal: by default beside the image; a volume in memory has none.
            objects: names of the first objects, if the journal has none.

        Raises:
            ValueError, RuntimeError: the image or the journal cannot be opened; another notebook
                has the journal.
        """
        self.volume = image if isinstance(image, Volume) else Volume.read(image)
        self.networks = networks if isinstance(networks, LimNet) else load_networks(networks)
        if journal is None and self.volume.grid.source is not None:
            journal = journal_path(self.volume.grid.source)
        self.journal = Path(journal).resolve() if journal else None
        self._first_objects, self._loop = objects, _running_loop()
        self._painting = self._refreshing = None
        super().__init__(layout={"width": "100%"})
        self.add_class("limnet")
        self._open()

    def begin_anew(self) -> None:
        """Set the journal aside, under a name with a number, and start without a click."""
        self.controller.cancel()
        if self.recording is not None:
            self.recording.close()
            numbered = (self.journal.with_suffix(f".{n}.jsonl") for n in count(1))
            aside = next(path for path in numbered if not path.exists())
            with suppress(FileNotFoundError):  # somebody has removed it
                self.journal.rename(aside)
        self._release()
        self._open()
        if self.recording is not None:
            self.controller.set_status(f"The journal up to here is {aside.name}.")

    def close(self) -> None:
        """Stop what runs, let others open the journal, and remove the widget."""
        if self.controller is not None:
            self.controller.cancel()
            self._release()
        if self.recording is not None:
            self.recording.close()
        if OPEN.get(self.journal) is self:
            del OPEN[self.journal]
        super().close()

    def _release(self) -> None:
        """Give the browser the memory of the slices back."""
        for painter in (self._main, *self._small):
            painter.release()

    def _open(self) -> None:
        """Go on where the journal ends, or begin one."""
        if self.journal in OPEN and OPEN[self.journal] is not self:  # the cell was run again
            OPEN[self.journal].close()
        self.annotation = Annotation(self.volume, self.networks)
        self.recording = Recording(self.annotation, self.journal) if self.journal else None
        if self.journal:
            OPEN[self.journal] = self
        self.controller = Controller(
            self.annotation, self.recording, canvas=(SIZE, SIZE), post=self._post
        )
        if not self.annotation.objects:
            for name, colour in zip(self._first_objects, cycle(COLOURS), strict=False):
                self.controller.add_object(name, colour)
        if self.annotation.objects:
            self.controller.active = self.annotation.objects[0].name
        self.children = self._parts()
        self.controller.changed = self.redraw
        self._welcome()
        self.paint()
        self.refresh()

    def save(self) -> None:
        """Write the label map and the origin of each slice beside the journal."""
        self._files.save()

    def redraw(self) -> None:
        """Draw soon; of many calls in a row the last counts."""
        if self._loop is None:
            self.paint()
            self.refresh()
        else:
            self._post(self._schedule)

    def _schedule(self) -> None:
        if self._painting is None:
            self._painting = self._loop.call_soon(self.paint)
        now = self._loop.time()
        if self._refreshing is None:
            self._due = now + LATEST
        else:
            self._refreshing.cancel()
        self._refreshing = self._loop.call_at(min(now + LATER, self._due), self.refresh)

    def paint(self) -> None:
        """Draw the main canvas."""
        self._painting = None
        view = self.controller.look.view
        self._show(self._main, self.controller.look.axis, view, self._marks())

    def refresh(self) -> None:
        """Draw everything else: the other planes, the strip, texts and panels."""
        self._refreshing = None
        made, look = self.controller, self.controller.look
        others = [axis for axis in range(3) if axis != look.axis]
        for axis, painter in zip(others, self._small, strict=True):
            plane = look.planes[axis]
            view = View(plane.shape, plane.spacing, (SMALL, SMALL))
            cross = plane.place(look.cross)[1:]
            self._show(painter, axis, view, Marks(crosshair=cross, edges=plane.edges))
        self._reading.value = f"<code>{escape(look.reading())}</code>"
        colour = "#d55e00" if made.is_error else "var(--jp-border-color1, #999)"
        self._message.value = f"<div style='{MESSAGE.format(colour)}'>{escape(made.message)}</div>"
        for panel in self._panels:
            panel.refresh()

    def on_mouse(self, event: dict[str, Any]) -> None:
        """Of the main canvas, from the browser."""
        scale = SIZE / max(event.get("boundingRectWidth") or SIZE, 1)
        x, y = event.get("relativeX", 0) * scale, event.get("relativeY", 0) * scale
        kind, made = event["type"], self.controller
        if kind == "wheel":
            made.wheel(event["deltaY"], x, y, ctrl=event["ctrlKey"])
        elif kind == "mousedown":
            held = {name: event[f"{name}Key"] for name in ("shift", "ctrl", "alt")}
            made.press(x, y, event["button"], **held)
        elif kind == "mouseup":
            made.release(x, y)
        elif kind == "mousemove":
            if made.gesture is not None and not event["buttons"]:  # released outside
                made.release(*made.gesture.last)
            made.move(x, y)
        elif kind == "mouseleave":
            made.leave()

    def on_key(self, event: dict[str, Any]) -> None:
        """A key that went down while the mouse was over the widget."""
        ctrl = event["ctrlKey"] or event["metaKey"]
        if event["key"] == "?":
            self._toggle_help()
        elif event["key"] == "s" and ctrl:
            self.save()
        else:
            press_key(self.controller, event["key"], ctrl=ctrl)

    def _toggle_help(self) -> None:
        """Show what keys do in the place of the panels, or these again."""
        for part in (self._help, self._beside):
            part.layout.display = "" if part.layout.display == "none" else "none"

    def _parts(self) -> list[ipywidgets.Widget]:
        """The layout: canvas and strip at the left, planes and panels at the right."""
        made = self.controller
        self._main = SlicePainter(SIZE, SIZE)
        self._small = [SlicePainter(SMALL, SMALL) for _ in range(2)]
        slices = SlicePanel(made, SIZE)
        self._reading, self._message = ipywidgets.HTML(), ipywidgets.HTML(layout={"width": "100%"})
        stem = self.journal or Path.cwd() / "volume.limnet.jsonl"
        stem = stem.with_name(stem.name.removesuffix(".jsonl"))
        self._files = FilePanel(made, stem, self.journal, self.begin_anew)
        beside = (ObjectPanel(made), LookPanel(made), self._files)
        actions, tools = ActionPanel(made, self._toggle_help), ToolPanel(made, SIZE + 8)
        self._panels = (actions, tools, slices, *beside)
        # ipycanvas sends the kernel every move, which halves what else gets through: the mouse
        # is over a pane of glass in the same place
        self.glass = ipywidgets.Box(layout={"overflow": "hidden", "grid_area": "1 / 1 / 2 / 2"})
        self._main.canvas.layout.grid_area = "1 / 1 / 2 / 2"
        pane = ipywidgets.GridBox(
            [self._main.canvas, self.glass],
            layout={"width": f"{SIZE}px", "max_width": "100%", "grid_template_columns": "100%"},
        )
        left = ipywidgets.VBox(
            [tools.box, pane, self._reading, slices.box],
            layout={"width": f"{SIZE + 10}px", "flex": "0 0 auto"},
        )
        planes = ipywidgets.HBox(
            [painter.canvas for painter in self._small], layout={"overflow": "hidden"}
        )
        self._listen([self.glass, slices.timeline.canvas, planes, actions.box, tools.box])
        right = {"flex": "1 1 300px", "min_width": "280px", "max_width": "480px"}
        self._beside = ipywidgets.VBox(
            [planes, *(panel.box for panel in beside), ipywidgets.HTML(legend())], layout=right
        )
        self._help = ipywidgets.HTML(keys_help(), layout={"display": "none", **right})
        body = ipywidgets.HBox([left, self._beside, self._help], layout={"flex_flow": "row wrap"})
        return [actions.box, self._message, body]

    def _listen(self, with_keys: list[ipywidgets.Widget]) -> None:
        """To mouse and keys; ipycanvas alone cannot tell the buttons apart."""
        self._events: list[Event] = []
        moves = {"throttle_or_debounce": "throttle", "wait": MOVES}
        buttons = ["mousedown", "mouseup", "mouseleave", "contextmenu"]
        self._on(self.glass, buttons, self.on_mouse)
        for kind in ("mousemove", "wheel"):  # neither holds the other back
            self._on(self.glass, [kind], self.on_mouse, **moves)
        for source in with_keys:  # while the mouse is over it; nothing that one types into
            self._on(source, ["keydown"], self.on_key, ignore_modifier_key_events=True)
        for number, painter in enumerate(self._small):
            self._on(painter.canvas, ["mousedown"], partial(self._on_small, number))

    def _on(
        self,
        source: ipywidgets.Widget,
        kinds: list[str],
        handler: Callable[[dict[str, Any]], None],
        **options: Any,
    ) -> None:
        """Have a handler called, on the kernel's loop, when such events come from the browser."""
        event = Event(source=source, watched_events=kinds, prevent_default_action=True, **options)
        event.on_dom_event(lambda values: self._post(lambda: handler(values)))
        self._events.append(event)

    def _on_small(self, number: int, event: dict[str, Any]) -> None:
        look = self.controller.look
        axis = [each for each in range(3) if each != look.axis][number]
        plane, scale = look.planes[axis], SMALL / max(event["boundingRectWidth"], 1)
        view = View(plane.shape, plane.spacing, (SMALL, SMALL))
        x, y = event["relativeX"] * scale, event["relativeY"] * scale
        look.look_at(axis, *view.from_canvas(x, y))
        self.redraw()

    def _show(self, painter: SlicePainter, axis: int, view: View, marks: Marks) -> None:
        made, look = self.controller, self.controller.look
        key, overlays = (axis, look.index(axis), look.window), []
        for shown in made.annotation.objects if look.shows_masks else ():
            is_locked = axis == 0 and look.slice_index in shown.session.state.locked
            overlays.append(Overlay(made.mask(shown, axis), shown.colour, is_locked))
        painter.show(
            key,
            lambda: windowed(look.image(axis), *look.window),
            view,
            overlays,
            marks,
            opacity=look.opacity,
            style=look.style,
        )

    def _marks(self) -> Marks:
        """What lies over the main image: clicks, crosshair, and what is being drawn."""
        made, look, gesture = self.controller, self.controller.look, self.controller.gesture
        here = made.clicks_here()
        under = made.click_under(*made.pointer) if made.pointer and made.tool == "click" else None
        drawing = gesture.tool if gesture else made.tool
        brushes = drawing in ("brush", "eraser") and look.axis == 0
        strokes = gesture is not None and drawing not in ("pan", "window", "move", "box")
        colour = made.object.colour if made.object and drawing == "brush" else LIGHT
        at = look.view.from_canvas(*made.pointer) if made.pointer else None
        return Marks(
            clicks=tuple((v, u, click.positive) for click, v, u in here),
            chosen=next((n for n, (click, *_) in enumerate(here) if click == under), None),
            crosshair=look.plane.place(look.cross)[1:],
            box=(gesture.points[0], gesture.points[-1]) if drawing == "box" and gesture else None,
            stroke=tuple(gesture.points) if strokes else (),
            pointer=at if brushes else None,
            radius=made.brush_radius if brushes else 1,
            colour=colour,
            edges=look.plane.edges,
        )

    def _welcome(self) -> None:
        """Say what the journal had to say."""
        if self.recording is None:
            self.controller.set_status("Nothing is recorded: this volume has no file.")
            return
        made = sum(len(each.session.clicks) for each in self.annotation.objects)
        clicks = f"{made} click{'s' * (made != 1)}"
        on = f"Going on where the journal {self.journal.name} ends: {clicks}."
        notices = self.recording.notices
        self.controller.set_status(" ".join([on if made else HINT, *notices]), error=bool(notices))

    def _post(self, call: Callable[[], None]) -> None:
        """Have a call made on the kernel's loop: the one way there for handlers and threads.

        JupyterLab 4.4 and later sends the messages of widgets on a thread of their own.
        """
        if self._loop is None or _running_loop() is self._loop:
            call()
        else:
            self._loop.call_soon_threadsafe(call)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # no notebook: tests and scripts draw at once
        return None
