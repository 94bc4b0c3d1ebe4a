"""The keys of the widget and what each is good for."""

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from limnet.annotator.widget.controller import RADII, TOOLS, ZOOM_STEP, Controller

SIGNS = {"ArrowUp": "↑", "ArrowRight": "→", "ArrowDown": "↓", "ArrowLeft": "←"}


class Key(NamedTuple):
    """One entry of the list that `?` shows."""

    keys: tuple[str, ...]  # as the browser names them; "ctrl+" before those held with it
    says: str
    does: Callable[[Controller], None]


def _opacity(controller: Controller, by: float) -> None:
    look = controller.look
    look.opacity = min(max(round(look.opacity + by, 2), 0.0), 1.0)
    controller.changed()


def _radius(controller: Controller, factor: float) -> None:
    radius = controller.brush_radius * factor
    controller.brush_radius = min(max(round(radius), RADII[0]), RADII[1])
    controller.changed()


def _masks(controller: Controller) -> None:
    controller.look.shows_masks = not controller.look.shows_masks
    controller.changed()


def _style(controller: Controller) -> None:
    styles = ("both", "fill", "contour")
    controller.look.style = styles[(styles.index(controller.look.style) + 1) % len(styles)]
    controller.changed()


def _round(controller: Controller, by: int) -> None:
    rounds = len(controller.object.session.rounds) if controller.object else 0
    shown = rounds if controller.shown_round is None else controller.shown_round
    controller.show_round(max(shown + by, 0))


def _object(controller: Controller) -> None:
    names = [each.name for each in controller.annotation.objects]
    if names:
        controller.choose(names[(names.index(controller.active) + 1) % len(names)])


KEYS = (
    Key(("ArrowUp", "ArrowRight"), "next slice", lambda c: c.step(1)),
    Key(("ArrowDown", "ArrowLeft"), "slice before", lambda c: c.step(-1)),
    Key(("PageUp",), "ten slices on", lambda c: c.step(10)),
    Key(("PageDown",), "ten slices back", lambda c: c.step(-10)),
    Key(("Home",), "first slice", lambda c: c.go_to(0)),
    Key(("End",), "last slice", lambda c: c.go_to(len(c.look.plane) - 1)),
    Key(("p",), "propagate", lambda c: c.propagate()),
    Key(("Escape",), "cancel the propagation", lambda c: c.cancel()),
    Key(("z", "ctrl+z"), "undo", lambda c: c.perform("undo")),
    Key(("y", "ctrl+y", "ctrl+Z"), "redo", lambda c: c.perform("redo")),
    Key(("Delete", "Backspace"), "remove the click under the pointer", lambda c: c.remove_click()),
    Key(("d",), "go to the slice most in doubt", lambda c: c.look_at_doubt()),
    Key(("l",), "lock or unlock the slice", lambda c: c.lock_or_unlock()),
    Key(("t",), "take the other round's mask on the slice", lambda c: c.take_other()),
    Key((",",), "look at the round before", lambda c: _round(c, -1)),
    Key((".",), "look at the round after", lambda c: _round(c, 1)),
    *(
        Key((key,), f"tool: {tool}", lambda c, tool=tool: c.choose_tool(tool))
        for tool, key in TOOLS.items()
    ),
    Key(("[",), "smaller brush", lambda c: _radius(c, 1 / 1.3)),
    Key(("]",), "larger brush", lambda c: _radius(c, 1.4)),
    Key(("n",), "next object", _object),
    Key(("m",), "show or hide the masks", _masks),
    Key(("f",), "masks filled, as contours, or both", _style),
    Key(("o",), "masks more transparent", lambda c: _opacity(c, -0.1)),
    Key(("O",), "masks more opaque", lambda c: _opacity(c, 0.1)),
    Key(("1",), "the volume's own slices", lambda c: c.show_plane(0)),
    Key(("2",), "cut across the rows", lambda c: c.show_plane(1)),
    Key(("3",), "cut across the columns", lambda c: c.show_plane(2)),
    Key(("+", "="), "zoom in at the pointer", lambda c: c.zoom(ZOOM_STEP)),
    Key(("-",), "zoom out", lambda c: c.zoom(1 / ZOOM_STEP)),
    Key(("0",), "the whole slice", lambda c: c.zoom(0.0)),
)
_BY_NAME = {name: key for key in KEYS for name in key.keys}


def press_key(controller: Controller, name: str, *, ctrl: bool = False) -> bool:
    """Do what a key is good for; whether it is good for anything.

    Args:
        name: as the browser names it: "a", "ArrowUp".
    """
    key = _BY_NAME.get(f"ctrl+{name}" if ctrl else name)
    if key is not None:
        key.does(controller)
    return key is not None


def keys_help() -> str:
    """What mouse and keys do, as HTML."""
    mouse = (
        ("left", "on the object"),
        ("right, or shift + left", "off the object; with the brush: erase"),
        ("drag a click", "move it; ctrl + click removes it"),
        ("wheel", "slices; with ctrl: zoom"),
        ("middle drag", "pan"),
        ("alt + drag", "window: right wider, down brighter level"),
    )
    others = [key for key in KEYS if not key.says.startswith("tool")]
    keys = [(" ".join(SIGNS.get(name, name) for name in key.keys), key.says) for key in others]
    tools = (" ".join(TOOLS.values()), f"tool: {', '.join(TOOLS)}")
    entries = (*mouse, tools, *keys, ("ctrl+s", "save"), ("?", "these keys, or the panels"))
    cell = "<td style='padding: 0 6px; vertical-align: top'>"
    rows = "".join(
        f"<tr>{cell}<b>{escape(what)}</b></td>{cell}{escape(says)}</td></tr>"
        for what, says in entries
    )
    return f"<table style='line-height: 16px; font-size: 12px'>{rows}</table>"
