"""Several named objects in one volume, changed by actions only: what a journal can hold.

The objects are sessions that share the features of the slices. An action is a dictionary of plain
values and arrays, so that the same one can come from a mouse, a notebook or a file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from limnet.method.features import SliceFeatures
from limnet.method.prompts import Box, Click
from limnet.method.session import Session
from limnet.method.state import Recipe, Round, State, UndoStack
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume
from limnet.volumes.masks import PackedMasks

END_AFTER = 10  # slices without the object; a click beyond has propagation go on to there
MOST_OBJECTS = 255  # a label map is of uint8

Action = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """One thing to be segmented."""

    name: str
    colour: str  # "#rrggbb"
    session: Session


Snapshot = tuple[tuple[SegmentedObject, State], ...]


class Annotation:
    """Objects in the order in which they win where they overlap."""

    def __init__(self, volume: Volume, networks: LimNet) -> None:
        """Start without objects."""
        self.volume, self.networks = volume, networks
        self.features = SliceFeatures(volume, networks.propagation_net)
        self.objects: tuple[SegmentedObject, ...] = ()
        self._history: UndoStack[Snapshot] = UndoStack(())

    def perform(self, action: Action) -> bool:
        """Apply one action; whether it changed anything.

        `{"action": "click", "object": "liver", "click": [slice_index, row, column, positive]}`;
        `ACTIONS` below holds the others.

        Raises:
            ValueError, RuntimeError: what the action needs is missing or wrong, or as the method
                of `Session`; nothing has changed then.
        """
        values = dict(action)
        kind = values.pop("action", None)
        if kind not in [*ACTIONS]:  # it may be no text, in a damaged file
            raise ValueError(f"an action must be one of {', '.join(ACTIONS)}, got {kind!r}")
        try:
            changed = ACTIONS[kind](self, **values)
        except (TypeError, IndexError, KeyError) as error:
            raise ValueError(f"action {kind!r} has a missing or wrong value: {error}") from error
        if kind in ("undo", "redo", "seen"):
            return changed
        self._history.push(self._snapshot())
        return True

    def session(self, name: str) -> Session:
        """The session of an object.

        Raises:
            ValueError: there is no such object.
        """
        return self._object(name).session

    def labels(self) -> UInt8[np.ndarray, "slices height width"]:
        """1 for voxels of the first object, 2 for those of the second, and so on; the first wins.

        Zero where there is none.
        """
        masks = [each.session.packed_masks for each in self.objects]
        return label_map(masks, self.volume.images.shape[:3])

    def overlap(self, slice_index: int) -> Bool[np.ndarray, "height width"]:
        """Pixels of a slice that more than one object claims."""
        claims = [each.session.mask(slice_index) for each in self.objects]
        return (
            np.sum(claims, axis=0) > 1
            if claims
            else np.zeros(self.volume.images.shape[1:3], dtype=bool)
        )

    @property
    def can_undo(self) -> bool:
        return self._history.can_undo

    @property
    def can_redo(self) -> bool:
        return self._history.can_redo

    def _add_object(self, object: str, colour: str) -> None:
        self._check_name(object)
        _check_colour(colour)
        if len(self.objects) == MOST_OBJECTS:
            raise ValueError(f"a label map holds {MOST_OBJECTS} objects; remove one first")
        recipe = replace(Recipe.of(self.networks), end_after=END_AFTER)
        session = Session(self.volume, self.networks, recipe, features=self.features)
        self.objects = (*self.objects, SegmentedObject(object, colour, session))

    def _remove_object(self, object: str) -> None:
        gone = self._object(object)
        self.objects = tuple(each for each in self.objects if each is not gone)

    def _rename_object(self, object: str, to: str) -> None:
        self._check_name(to)
        self._change(self._object(object), name=to)

    def _recolour_object(self, object: str, colour: str) -> None:
        _check_colour(colour)
        self._change(self._object(object), colour=colour)

    def _reorder_objects(self, objects: Sequence[str]) -> None:
        if sorted(objects) != sorted(each.name for each in self.objects):
            raise ValueError(f"an order must name every object once, got {list(objects)}")
        self.objects = tuple(self._object(name) for name in objects)

    def _propagate(self, object: str, round: Mapping[str, Any] | None = None) -> None:
        session = self.session(object)
        if round is None:
            session.propagate()
        else:
            packed = {name: PackedMasks.pack(round[name]) for name in ("masks", "propagated")}
            session.close(Round(clicks=session.state.clicks, **{**round, **packed}))

    def _seen(self, object: str, slice_index: int, mask: np.ndarray) -> bool:
        """What a slice showed after the last action: taken as it was, if it comes out otherwise.

        No step of its own: it is undone with the action that led to it.
        """
        session = self.session(object)
        if np.array_equal(session.mask(slice_index), mask):
            return False
        session.show(slice_index, mask)
        self._history.amend(self._snapshot())
        return True

    def _move(self, move: Callable[[], None]) -> bool:
        """Undo or redo; whether there was anything to."""
        before = self._history.now
        move()
        self.objects = tuple(each for each, _ in self._history.now)
        for each, state in self._history.now:
            if each.session.state is not state:
                each.session.restore(state)
        return self._history.now is not before

    def _object(self, name: str) -> SegmentedObject:
        found = [each for each in self.objects if each.name == name]
        if not found:
            names = ", ".join(each.name for each in self.objects) or "none yet"
            raise ValueError(f"an object must be one of those there are ({names}), got {name!r}")
        return found[0]

    def _change(self, changed: SegmentedObject, **values: str) -> None:
        others = [replace(each, **values) if each is changed else each for each in self.objects]
        self.objects = tuple(others)

    def _check_name(self, name: str) -> None:
        if not name.strip() or len(name) > 64 or not name.isprintable():
            raise ValueError(f"a name must be 1 to 64 printable characters, got {name!r}")
        if any(each.name == name for each in self.objects):
            raise ValueError(f"a name must be new, but there is an object {name!r} already")

    def _snapshot(self) -> Snapshot:
        return tuple((each, each.session.state) for each in self.objects)


def label_map(
    masks: Sequence[np.ndarray | PackedMasks], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "slices height width"]:
    """1 for voxels of the first object's masks, 2 for the second's; the first wins."""
    labels = np.zeros(shape, dtype=np.uint8)
    for number in range(len(masks), 0, -1):
        for label, mask in zip(labels, masks[number - 1], strict=True):
            label[mask] = number
    return labels


def _click(values: Sequence[Any]) -> Click:
    slice_index, row, column, positive = values
    return Click(int(slice_index), float(row), float(column), bool(positive))


def _check_colour(colour: str) -> None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise ValueError(f'a colour must be "#rrggbb", got {colour!r}')


# What `Annotation.perform` can do, and what each action needs, in the order of the arguments.
ACTIONS: dict[str, Callable[..., Any]] = {
    "add_object": Annotation._add_object,
    "remove_object": Annotation._remove_object,
    "rename_object": Annotation._rename_object,
    "recolour_object": Annotation._recolour_object,
    "reorder_objects": Annotation._reorder_objects,
    "click": lambda self, object, click: self.session(object).add_click(_click(click)),
    "clicks": lambda self, object, clicks: self.session(object).add_clicks([*map(_click, clicks)]),
    "box": lambda self, object, slice_index, box: self.session(object).add_box(
        slice_index, Box(*box)
    ),
    "move_click": lambda self, object, click, to: self.session(object).move_click(
        _click(click), _click(to)
    ),
    "remove_click": lambda self, object, click: self.session(object).remove_click(_click(click)),
    "paint": lambda self, object, slice_index, mask: self.session(object).paint(slice_index, mask),
    "start_from": lambda self, object, masks: self.session(object).start_from(masks),
    "propagate": Annotation._propagate,
    "take_other": lambda self, object, slice_index: self.session(object).take_other(slice_index),
    "lock": lambda self, object, slice_index: self.session(object).lock(slice_index),
    "unlock": lambda self, object, slice_index: self.session(object).unlock(slice_index),
    "seen": Annotation._seen,
    "undo": lambda self: self._move(self._history.undo),
    "redo": lambda self: self._move(self._history.redo),
}
