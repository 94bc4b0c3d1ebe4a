"""A session: clicks, propagation and fusion, round after round (paper, section II)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from limnet.method.features import SliceFeatures
from limnet.method.fusion import FusionFeatures, fuse
from limnet.method.prompts import Box, Click, check_inside
from limnet.method.propagation import SliceDone, Stopped, first_crop, propagate_masks
from limnet.method.refinement import Refiner
from limnet.method.state import Mask, Masks, PromptedSlice, Recipe, Round, State, UndoStack
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume
from limnet.volumes.masks import PackedMasks

PerSlice = Float32[np.ndarray, " slices"]
# (previous masks, current masks) -> per slice the probability that the previous one is better
Compare = Callable[[Masks, Masks], PerSlice]


class Session:
    """Segments one object of a volume.

    An action raises ValueError and changes nothing if it names a slice or a pixel outside the
    volume, a slice that is locked, or a mask of another shape or type.
    """

    def __init__(
        self,
        volume: Volume,
        networks: LimNet,
        recipe: Recipe | str | None = None,
        *,
        compare: Compare | None = None,
        features: SliceFeatures | None = None,
    ) -> None:
        """Start without clicks.

        Args:
            recipe: how the networks are used, "paper" or "lite"; None: what their files ask for.
            compare: judges two rounds; by default the quality network.
            features: those of another session on the same volume, to be shared.

        Raises:
            ValueError: the features belong to another volume, or there is no such recipe.
        """
        if features is not None and features.volume is not volume:
            raise ValueError("slice features must be those of this very volume; pass none instead")
        self.volume, self.networks, self.compare = volume, networks, compare
        self.recipe = Recipe.of(networks, recipe)
        self.refiner = Refiner(networks.click_net, self.recipe)
        self.features = features or SliceFeatures(volume, networks.propagation_net)
        self._history = UndoStack(State())

    @property
    def state(self) -> State:
        return self._history.now

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those that were propagated or started from."""
        return self.state.rounds

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks in the order they were made, those of the open round included."""
        return sum((past.clicks for past in self.rounds), ()) + self.state.clicks

    @property
    def masks(self) -> Masks:
        """The latest masks (slices, height, width), prompt masks of the open round included."""
        return np.asarray(self.packed_masks)

    @property
    def packed_masks(self) -> PackedMasks:
        """`masks` as long volumes want them: read slice by slice, in little memory."""
        return self._masks_of_round().replaced(self.state.user_masks)

    def mask(self, slice_index: int) -> Mask:
        """One slice of `masks`, without copying the others: a click must answer at once."""
        state = self.state
        if slice_index in state.locked:
            return state.locked[slice_index]
        if slice_index in state.prompts:
            return state.prompts[slice_index].mask
        return self._masks_of_round()[slice_index]

    def add_click(self, click: Click) -> Mask:
        """Add a click and return its slice's new prompt mask."""
        return self.add_clicks([click])

    def add_clicks(self, clicks: Sequence[Click]) -> Mask:
        """Add clicks on one slice at once, as of a scribble; the slice's new prompt mask.

        Raises:
            ValueError: there is none, or they are on several slices.
        """
        self._check(clicks)
        at = clicks[0].slice_index
        return self._add(self.state.prompts.get(at) or PromptedSlice(self._start(at)), clicks)

    def add_box(self, slice_index: int, box: Box) -> Mask:
        """Begin a slice anew with a box around the object; the slice's prompt mask.

        The network takes the box's ellipse for a mask to be corrected and a click in its middle.
        """
        click = Click(slice_index, *box.middle)
        self._check([click])
        ellipse = self._tensor(box.ellipse(self.volume.images.shape[1:3]))
        return self._add(PromptedSlice(ellipse, self._clicks_on(slice_index)).commit(), [click])

    def move_click(self, old: Click, new: Click) -> Mask:
        """Put a click elsewhere on its slice and return the slice's new prompt mask.

        Raises:
            ValueError: the click was made before the slice was last propagated from or painted,
                or the new one is on another slice.
        """
        self._check([new])
        if new.slice_index != old.slice_index:
            moved = f"{old.slice_index}, got {new.slice_index}"
            raise ValueError(f"a click must stay on its slice {moved}; remove it and click there")
        return self._exchange(old, [new])

    def remove_click(self, click: Click) -> Mask:
        """Take a click away and return the slice's new mask; errors as of `move_click`."""
        return self._exchange(click, [])

    def paint(self, slice_index: int, mask: np.ndarray) -> Mask:
        """Give a slice the mask that the user drew; like a clicked slice, it is then kept."""
        self._check_slice(slice_index, "painted")
        self._check_shape(mask, self.volume.images.shape[1:3])
        clicks = self._clicks_on(slice_index)
        prompt = PromptedSlice(self._tensor(mask), clicks, painted=True).commit()
        self._history.push(self.state.with_prompt(slice_index, prompt))
        return prompt.mask

    def show(self, slice_index: int, mask: Mask) -> None:
        """Let a slice that was edited have this mask, as part of the action that came last."""
        prompt = self.state.prompts.get(slice_index)
        if prompt is not None:  # else its last click was taken away: nothing was predicted
            prompt = replace(prompt, probability=self._tensor(mask))
            shown = self.state.with_prompt(slice_index, prompt)
            self._history.amend(replace(shown, edited=self.state.edited))

    def start_from(self, masks: np.ndarray | PackedMasks) -> Round:
        """Go on from masks that were made before or elsewhere, as if a round had led to them."""
        self._check_shape(masks, self.volume.images.shape[:3])
        first = Round.from_masks(masks)
        self._history.push(replace(self.state, rounds=(*self.rounds, first)))
        return first

    def propagate(self) -> Round:
        """Close the round: propagate in both directions, then fuse with the round before."""
        closed = deque(self.propagate_events(), maxlen=1).pop()
        self.close(closed)
        return closed

    def propagate_events(self) -> Iterator[SliceDone | Stopped | Round]:
        """What `propagate` does, slice by slice; the last event is the round, which is not closed.

        The session stays as it is: `close` the round to go on, or close this generator to cancel.

        Raises:
            RuntimeError: nothing was clicked or painted since the last round.
        """
        state = self.state
        if not state.changed:
            raise RuntimeError("a round needs at least one click; add one before propagating")
        user_masks, prompt_slice = self.state.user_masks, self.state.prompt_slice
        net, features = self.networks.propagation_net, self.features
        propagated, errors = yield from propagate_masks(
            net, features, user_masks, prompt_slice, self.recipe, self.refiner
        )
        masks, previous_better = propagated, np.full(len(propagated), 0.5, dtype=np.float32)
        if self.recipe.fuse and self.rounds:
            masks, previous_better = self._fuse(propagated)
        kept = masks.differs(propagated)
        if kept.any():
            errors = np.where(kept, self.rounds[-1].expected_errors, errors)
        yield Round(state.clicks, prompt_slice, masks, propagated, previous_better, kept, errors)

    def expected_features(self) -> tuple[SliceFeatures, int]:
        """What `propagate` needs first, and from which slice on; something must be clicked."""
        net, masks = self.networks.propagation_net, self.state.user_masks
        return first_crop(net, self.features, masks, self.recipe), self.state.prompt_slice

    def close(self, closed: Round) -> None:
        """Close the open round with the last event of `propagate_events`.

        Raises:
            ValueError: its clicks are not the open round's.
        """
        for masks in (closed.masks, closed.propagated):
            self._check_shape(masks, self.volume.images.shape[:3])
        if closed.clicks != self.state.clicks or not self.state.changed:
            raise ValueError("a round must have the clicks of the open one; propagate again")
        self._history.push(self.state.with_round(closed))

    def take_other(self, slice_index: int) -> Mask:
        """Overrule fusion on a slice: take the other one of the last two rounds' masks.

        Raises:
            ValueError: there is no other, or the user has given the slice a mask.
        """
        self._check_slice(slice_index, "chosen")
        if len(self.rounds) < 2 or slice_index in self.state.prompts:
            asked = f"slice {slice_index} must have masks of two rounds and no click of its own"
            raise ValueError(f"{asked}, got {len(self.rounds)} rounds; undo or click there instead")
        chosen = self.rounds[-1].with_other(slice_index, self.rounds[-2])
        self._history.push(replace(self.state, rounds=(*self.rounds[:-1], chosen)))
        return chosen.masks[slice_index]

    def most_doubtful(self) -> int | None:
        """The slice with the largest expected error, none of the user's; None if there is none.

        It is the simulated user's rule (section III-C) without the truth.
        """
        if not self.rounds:
            return None
        errors = self.rounds[-1].expected_errors.copy()
        errors[list(self.state.user_masks)] = 0
        return int(errors.argmax()) if errors.any() else None

    def lock(self, slice_index: int) -> None:
        """Keep this slice's mask as it is now: no later round changes it."""
        self._check_slice(slice_index, "locked", unlocked=False)
        locked = {**self.state.locked, slice_index: self.mask(slice_index)}
        self._history.push(replace(self.state, locked=MappingProxyType(locked)))

    def unlock(self, slice_index: int) -> None:
        """Let later rounds change this slice, which must be locked, again."""
        if slice_index not in self.state.locked:
            locked = sorted(self.state.locked)
            raise ValueError(f"slice {slice_index} must be locked to be unlocked, got {locked}")
        locked = {at: mask for at, mask in self.state.locked.items() if at != slice_index}
        self._history.push(replace(self.state, locked=MappingProxyType(locked)))

    def undo(self) -> None:
        """Take back the last action, if there is one."""
        self._history.undo()

    def redo(self) -> None:
        """Do again what was last undone, unless something else was done since."""
        self._history.redo()

    def restore(self, state: State) -> None:
        """Be as a `state` that this session had before, and forget all others."""
        self._history = UndoStack(state)

    def save(self, path: str | Path) -> None:
        """Write the masks as NIfTI on the grid of the volume's file (`Volume.save_masks`)."""
        self.volume.save_masks(self.masks, path)

    def _check(self, clicks: Sequence[Click]) -> None:
        if len({click.slice_index for click in clicks}) != 1:
            raise ValueError(f"clicks must be on one slice, at least one, got {list(clicks)}")
        for click in clicks:
            check_inside(click, self.volume.images.shape[:3])
        self._check_slice(clicks[0].slice_index, "clicked")

    def _check_slice(self, slice_index: int, verb: str, *, unlocked: bool = True) -> None:
        last = len(self.volume.images) - 1
        if not 0 <= slice_index <= last:
            raise ValueError(f"a slice to be {verb} must be one of 0 to {last}, got {slice_index}")
        if unlocked and slice_index in self.state.locked:
            raise ValueError(f"slice {slice_index} is locked; unlock it before it can be {verb}")

    def _check_shape(self, mask: np.ndarray | PackedMasks, shape: tuple[int, ...]) -> None:
        if mask.shape != shape or mask.dtype != bool:
            got = f"{mask.dtype} of shape {mask.shape}"
            raise ValueError(f"a mask must be bool of shape {shape}, got {got}")

    def _add(self, last: PromptedSlice, clicks: Sequence[Click]) -> Mask:
        every = (*last.clicks, *clicks)
        probability = self._predict(every, last.probability, len(clicks))
        prompt = replace(last, clicks=every, probability=probability, painted=False)
        state = replace(self.state, clicks=(*self.state.clicks, *clicks))
        self._history.push(state.with_prompt(clicks[0].slice_index, prompt))
        return prompt.mask

    def _exchange(self, click: Click, others: list[Click]) -> Mask:
        """Predict a slice again, click by click, with others in place of one."""
        index, state = click.slice_index, self.state
        last = state.prompts.get(index)
        if last is None or click not in last.pending_clicks:
            since = f"made since slice {index} was last propagated from or painted"
            raise ValueError(f"a click must be {since}, got {click}; undo goes further back")
        self._check_slice(index, "clicked")
        every = _exchanged(last.clicks, click, others)
        state = replace(state, clicks=_exchanged(state.clicks, click, others))
        probability = self._start(index) if last.committed is None else last.committed
        if not every and last.committed is None:
            self._history.push(state.without_prompt(index))
            return self.mask(index)
        for count in range(last.committed_clicks + 1, len(every) + 1):
            probability = self._predict(every[:count], probability)
        prompt = replace(last, clicks=every, probability=probability)
        self._history.push(state.with_prompt(index, prompt))
        return prompt.mask

    def _clicks_on(self, slice_index: int) -> tuple[Click, ...]:
        last = self.state.prompts.get(slice_index)
        return last.clicks if last else ()

    def _start(self, slice_index: int) -> Tensor:
        """What a first click on a slice corrects: an earlier round's mask, or nothing yet."""
        return self._tensor(self._masks_of_round()[slice_index])

    def _tensor(self, mask: Mask) -> Tensor:
        return torch.from_numpy(mask.astype(np.float32)).to(self.networks.device)

    def _masks_of_round(self) -> PackedMasks:
        shape = self.volume.images.shape[:3]
        return self.rounds[-1].masks if self.rounds else PackedMasks.empty(shape)

    def _predict(self, clicks: Sequence[Click], probability: Tensor, new: int = 1) -> Tensor:
        image = self.features.full_size([clicks[0].slice_index])[0]
        return self.refiner.refine_prompt(image, clicks, probability, new)

    def _fuse(self, current: PackedMasks) -> tuple[PackedMasks, PerSlice]:
        """Eqs. 1-4 wherever the user has not decided."""
        previous, threshold = self.rounds[-1].masks, self.recipe.threshold
        user_masks = self.state.user_masks
        if self.compare is not None:
            decided = np.isin(np.arange(len(current)), list(user_masks))
            previous = previous.where(~decided, current)
            previous_better = self.compare(np.asarray(previous), np.asarray(current))
            return previous.where(previous_better > threshold, current), previous_better
        images, features = self.features.full_size, None
        if self.recipe.fusion_features:
            features = FusionFeatures.of(previous, current, user_masks, images)
        net, shown = self.networks.quality_net, (user_masks, features)
        return fuse(net, images, previous, current, *shown, threshold=threshold)


def _exchanged(clicks: Sequence[Click], click: Click, others: Sequence[Click]) -> tuple[Click, ...]:
    """The clicks with others in place of one; of equal ones, the last."""
    at = len(clicks) - 1 - clicks[::-1].index(click)
    return (*clicks[:at], *others, *clicks[at + 1 :])
