"""The panels around the canvas: actions, tools, objects, how one looks, files.

Each is a box and a `refresh`.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np

from limnet.annotator import export
from limnet.annotator.dicom_seg import is_dicom
from limnet.annotator.widget.controller import TOOLS, Controller
from limnet.volumes import CT_WINDOWS
from limnet.volumes.masks import PackedMasks

# Kelly's colours of maximum contrast, those that stand out on greys, easy ones first
COLOURS = (
    "#f3c300", "#00a3e0", "#f38400", "#be5bd0", "#8db600", "#e68fac", "#f99379", "#a1caf1",
    "#b3446c", "#dcd300", "#00c389", "#e25822",
)  # fmt: skip
WIDE = ipywidgets.Layout(width="auto", flex="1 1 auto")
NOW = ("now", -1)  # of the rounds to look at; None would be no choice at all
NARROW = ipywidgets.Layout(width="36px", padding="0")


def button(description: str, tooltip: str, does: Callable[[], object], **more) -> ipywidgets.Button:
    """A button that calls a function without arguments."""
    more = {"layout": ipywidgets.Layout(width="auto", flex="0 0 auto"), **more}
    made = ipywidgets.Button(description=description, tooltip=tooltip, **more)
    made.on_click(lambda _: does())
    return made


class ActionPanel:
    """What is done to the slice or the volume, once; its tooltips say more."""

    def __init__(self, controller: Controller, toggle_help: Callable[[], None]) -> None:
        self.controller = made = controller
        propagate = "carry the active object's mask through the volume"
        self._propagate = button("Propagate (p)", propagate, made.propagate, button_style="primary")
        self._cancel = button("Cancel (Esc)", "keep the round before", made.cancel)
        self._bar = ipywidgets.IntProgress(layout={"width": "160px"})
        self._speed = ipywidgets.Label()
        self._undo = button("Undo (z)", "take the last action back", lambda: made.perform("undo"))
        self._redo = button("Redo (y)", "do it again", lambda: made.perform("redo"))
        self._lock = button("Lock (l)", "no later round changes the slice", made.lock_or_unlock)
        other, doubt = "the mask that fusion did not choose", "where most errors are expected"
        row = [
            self._propagate,
            self._cancel,
            self._bar,
            self._speed,
            self._undo,
            self._redo,
            self._lock,
            button("Other round (t)", other, made.take_other),
            button("Next doubt (d)", doubt, made.look_at_doubt),
            button("Keys (?)", "what mouse and keys do", toggle_help),
        ]
        self.box = ipywidgets.HBox(row, layout={"flex_flow": "row wrap"})

    def refresh(self) -> None:
        """Show what can be done now, and how far the propagation is."""
        made, run = self.controller, self.controller.run
        for widget in (self._cancel, self._bar, self._speed):
            widget.layout.display = "" if run else "none"
        self._propagate.disabled = run is not None
        self._undo.disabled = not made.annotation.can_undo
        self._redo.disabled = not made.annotation.can_redo
        is_locked = made.object and made.look.slice_index in made.object.session.state.locked
        self._lock.description = "Unlock (l)" if is_locked else "Lock (l)"
        if run:
            self._bar.max, self._bar.value = run.total, run.done
            self._speed.value = f"{run.done} of {run.total}, {run.slices_a_second:.0f} slices/s"


class ToolPanel:
    """What the mouse does."""

    def __init__(self, controller: Controller, width: int) -> None:
        self.controller = controller
        self.box = ipywidgets.ToggleButtons(
            options=list(TOOLS),
            tooltips=[f"key {key}" for key in TOOLS.values()],
            style={"button_width": "auto"},
            layout={"width": f"{width}px"},
        )
        self.box.observe(lambda change: controller.choose_tool(change["new"]), "value")

    def refresh(self) -> None:
        """Show the tool at hand."""
        self.box.value = self.controller.tool


class ObjectPanel:
    """The objects, in the order in which they win; one is active; a new one gets a name here."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._rows = ipywidgets.VBox()
        self._name = ipywidgets.Text(placeholder="name of a new object", layout=WIDE)
        self._name.continuous_update = False  # Enter, or leaving the field, and then Add
        self._colour = ipywidgets.ColorPicker(concise=True, value=COLOURS[0], layout=NARROW)
        add = button("Add", "add an object of this name and colour", self._add)
        new = ipywidgets.HBox([self._colour, self._name, add])
        self.box = ipywidgets.VBox(
            [ipywidgets.HTML("<b>Objects</b>, the upper wins"), self._rows, new]
        )
        self._shown: object = None

    def refresh(self) -> None:
        """Show the objects as they are."""
        made = self.controller
        shown = tuple((each.name, each.colour) for each in made.annotation.objects)
        if (shown, made.active) == self._shown:
            return
        self._shown = (shown, made.active)
        self._rows.children = [self._row(name, colour) for name, colour in shown]
        taken = {colour for _, colour in shown}
        self._colour.value = next((each for each in COLOURS if each not in taken), COLOURS[0])

    def _add(self) -> None:
        number = len(self.controller.annotation.objects) + 1
        self.controller.add_object(
            self._name.value.strip() or f"object {number}", self._colour.value
        )
        if not self.controller.is_error:
            self._name.value = ""

    def _row(self, name: str, colour: str) -> ipywidgets.HBox:
        made, is_active = self.controller, name == self.controller.active
        choose = button(
            name,
            "make this object the active one",
            lambda: made.choose(name),
            button_style="info" if is_active else "",
            layout=ipywidgets.Layout(flex="1 1 auto", width="auto"),
        )
        picker = ipywidgets.ColorPicker(concise=True, value=colour, layout=NARROW)
        picker.observe(lambda change: self._recolour(name, change), "value")
        up = button("▲", "let it win over the one above", lambda: self._up(name), layout=NARROW)
        remove = button(
            "✕",
            "remove the object (undo brings it back)",
            lambda: made.perform("remove_object", object=name),
            layout=NARROW,
        )
        return ipywidgets.HBox([picker, choose, up, remove])

    def _recolour(self, name: str, change: dict) -> None:
        if not self.controller.perform("recolour_object", object=name, colour=change["new"]):
            self._shown = None  # the old colour is to be seen again
            self.refresh()

    def _up(self, name: str) -> None:
        names = [each.name for each in self.controller.annotation.objects]
        at = names.index(name)
        if at:
            names[at - 1], names[at] = names[at], names[at - 1]
            self.controller.perform("reorder_objects", objects=names)


class LookPanel:
    """Plane, window, how masks are drawn, and which round is looked at."""

    def __init__(self, controller: Controller) -> None:
        self.controller, look = controller, controller.look
        names = [f"{plane.name} ({axis + 1})" for axis, plane in enumerate(look.planes)]
        self._plane = ipywidgets.ToggleButtons(
            options=[(name, axis) for axis, name in enumerate(names)],
            style={"button_width": "auto"},
        )
        self._plane.observe(lambda change: controller.show_plane(change["new"]), "value")
        own = {"of the volume": look.volume.window}
        presets = {**own, **(CT_WINDOWS if look.volume.modality == "CT" else {})}
        self._window = ipywidgets.Dropdown(
            options=[(name, name) for name in presets] + [("as dragged", "")], layout=WIDE
        )
        self._presets = presets
        self._window.observe(self._set_window, "value")
        self._opacity = ipywidgets.FloatSlider(
            value=look.opacity, min=0, max=1, step=0.1, readout=False, layout=WIDE
        )
        self._opacity.observe(self._set_opacity, "value")
        self._round = ipywidgets.Dropdown(options=[NOW], layout=WIDE)
        self._round.observe(self._set_round, "value")
        self._is_refreshing = False
        rows = [("window", self._window), ("opacity", self._opacity), ("round", self._round)]
        self.box = ipywidgets.VBox(
            [
                self._plane,
                *(
                    ipywidgets.HBox([ipywidgets.Label(name, layout={"width": "64px"}), widget])
                    for name, widget in rows
                ),
            ]
        )

    def refresh(self) -> None:
        """Show what keys and mouse have changed."""
        made, look = self.controller, self.controller.look
        self._is_refreshing = True
        self._plane.value = look.axis
        low_high = tuple(float(each) for each in look.window)
        named = [name for name, each in self._presets.items() if tuple(each) == low_high]
        self._window.value = named[0] if named else ""
        self._opacity.value = look.opacity
        rounds = len(made.object.session.rounds) if made.object else 0
        options = [NOW, *((str(number + 1), number) for number in range(rounds))]
        if tuple(options) != tuple(self._round.options):
            self._round.options = options
        self._round.value = NOW[1] if made.shown_round is None else made.shown_round
        self._is_refreshing = False

    def _set_round(self, change: dict) -> None:
        if change["new"] is not None and not self._is_refreshing:
            self.controller.show_round(None if change["new"] == NOW[1] else change["new"])

    def _set_window(self, change: dict) -> None:
        if change["new"] and not self._is_refreshing:
            low, high = self._presets[change["new"]]
            self.controller.look.window = (float(low), float(high))
            self.controller.changed()

    def _set_opacity(self, change: dict) -> None:
        self.controller.look.opacity = change["new"]
        self.controller.changed()


class FilePanel:
    """Saves the masks, and opens saved ones to start from."""

    def __init__(
        self,
        controller: Controller,
        stem: Path,
        journal: Path | None,
        begin_anew: Callable[[], None],
    ) -> None:
        """Files are proposed to be called as `stem` with an ending, and to lie where it does."""
        self.controller, self.folder, self.journal = controller, stem.parent, journal
        self._path = ipywidgets.Text(value=stem.name, layout=WIDE)
        self._open = ipywidgets.Text(placeholder="saved mask to start from", layout=WIDE)
        saves = [
            (
                "Save",
                "label map (.nii.gz) and where each slice comes from (.json)",
                self._save_labels,
            ),
            ("One file each", "a mask for each object, in a folder", self._save_each),
            ("All as .zip", "masks, provenance, journal; DICOM-SEG", self._save_all),
        ]
        if is_dicom(controller.look.volume):
            saves.append(("DICOM-SEG", "a DICOM segmentation (.dcm)", self._save_dicom))
        buttons = [
            button(name, tooltip, lambda save=save: self._try(save))
            for name, tooltip, save in saves
        ]
        start = button("Start from it", "its voxels become the active object", self.start_from)
        where = escape(str(self.folder))
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HTML(f"<span title='{where}'><b>Files</b>, beside the image</span>"),
                self._path,
                ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"}),
                ipywidgets.HBox([self._open, start]),
                button("Begin anew", "set the journal aside and start without a click", begin_anew),
            ]
        )

    def refresh(self) -> None:
        """Nothing here changes by itself."""

    def save(self) -> None:
        """Write the label map, and beside it the provenance."""
        self._try(self._save_labels)

    def _save_labels(self) -> Path:
        annotation, path = self.controller.annotation, self._named(".nii.gz")
        export.save_label_map(annotation.volume, export.objects_of(annotation), path)
        export.save_provenance(annotation, self._named(".json"))
        return path

    def _save_each(self) -> Path:
        annotation, folder = self.controller.annotation, self._named("-masks")
        export.save_object_masks(annotation.volume, export.objects_of(annotation), folder)
        return folder

    def _save_all(self) -> str:
        path = self._named(".zip")
        left_out = export.save_bundle(self.controller.annotation, path, journal=self.journal)
        return ". ".join([str(path), *(f"Without {name}: {why}" for name, why in left_out.items())])

    def _save_dicom(self) -> Path:
        annotation, path = self.controller.annotation, self._named(".dcm")
        export.save_dicom_segmentation(annotation.volume, export.objects_of(annotation), path)
        return path

    def start_from(self) -> None:
        """Let the active object be what a file holds: of several labels the one of its place."""
        made = self.controller
        if made.object is None:
            made.set_status("Add an object first: the masks become the active one.", error=True)
            return
        try:
            path = self.folder / Path(self._open.value.strip()).expanduser()
            labels = made.look.volume.read_labels(path, dtype=np.int16)
        except (ValueError, RuntimeError, OSError) as error:
            made.set_status(f"Not opened: {error}", error=True)
            return
        found = set().union(*(np.unique(label).tolist() for label in labels))
        numbers = sorted(number for number in found if number > 0)
        place = 1 + made.annotation.objects.index(made.object)
        if len(numbers) != 1 and place not in numbers:
            held = f"{path.name} holds the labels {numbers}"
            made.set_status(f"Not opened: {held}, but {made.active} is number {place}.", error=True)
            return
        number = place if len(numbers) > 1 else numbers[0]
        masks = PackedMasks.of(label == number for label in labels)
        if made.perform("start_from", object=made.active, masks=masks):
            made.set_status(f"{made.active} is now label {number} of {path.name}.")

    def _named(self, ending: str) -> Path:
        name = self._path.value.strip()
        if not name:
            raise ValueError("files need a name: write one into the field above the buttons")
        return self.folder / Path(f"{name}{ending}").expanduser()

    def _try(self, write: Callable[[], object]) -> None:
        try:
            self.controller.set_status(f"Saved {write()}")
        except (ValueError, RuntimeError, OSError) as error:
            self.controller.set_status(f"Not saved: {error}", error=True)
