"""The row of buttons above the canvas, with the progress of a propagation, and the row of tools."""

from collections.abc import Callable

import ipywidgets

from limnet.annotator.widget.controller import TOOLS, Controller


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
