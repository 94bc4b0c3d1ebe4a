"""Presses, turns and types on the parts of a widget, as ipyevents tells of it."""

import ipywidgets
from ipyevents import Event
from ipywidgets.widgets.widget import _instances

KEYS_HELD = {f"{name}Key": False for name in ("shift", "ctrl", "alt", "meta")}


def within(widget):
    """A widget and all its parts."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from within(child)


def the(kind, widget, **traits):
    """The one part of a widget that is such."""
    alike = [each for each in within(widget) if type(each) is kind]
    [found] = [
        each for each in alike if all(getattr(each, name) == traits[name] for name in traits)
    ]
    return found


def push(widget, description):
    """The button that says so."""
    the(ipywidgets.Button, widget, description=description).click()


def happens(source, kind, x=0.0, y=0.0, width=0.0, **event):
    """What ipyevents makes of a browser's event on a widget."""
    values = {"type": kind, "relativeX": x, "relativeY": y, "boundingRectWidth": width}
    values |= {"button": 0, "buttons": 1, "deltaY": 0, **KEYS_HELD, **event}
    for each in list(_instances.values()):
        if isinstance(each, Event) and each.source is source and kind in each.watched_events:
            each._dom_handlers(values)
