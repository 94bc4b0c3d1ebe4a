"""A session: clicks, propagation and fusion, round after round (paper, section II)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from limnet.clicks import Click, check_inside
from limnet.close_up import CloseUp
from limnet.fusion import fuse_rounds
from limnet.networks.checkpoints import LimNet
from limnet.prompting import Prompt, ZoomIn, implied_click, predict_prompt
from limnet.propagation import PropagationOptions, propagate
from limnet.slice_features import SliceFeatures
from limnet.volume import Volume

Mask = Bool[np.ndarray, "height width"]
Masks = Bool[np.ndarray, "slices height width"]

# of one click, each with the mask of the one before: the first sees where the object is, the
# second looks closer (RITM predicts twice where it starts from a mask)
PREDICTIONS = 2

Progress = Callable[[int, int], None]  # slices done, slices in all
# (previous masks, current masks) -> per slice the probability that the previous one is better
Compare = Callable[[Masks, Masks], Float32[np.ndarray, " slices"]]


@dataclass(frozen=True, eq=False)
class Round:
    """One interaction: its clicks, the propagation they led to, and the fusion."""

    clicks: tuple[Click, ...]
    prompt_slice: int  # from which the masks were propagated: the last clicked with a mask
    masks: Masks  # after fusion
    propagated: Masks  # before fusion
    previous_better: Float32[np.ndarray, " slices"]  # P of Eq. 2; 0.5 if not compared
    kept_previous: Bool[np.ndarray, " slices"]  # where Eq. 4 kept the mask of the round before


@dataclass(frozen=True, eq=False)
class State:
    """All that a user has done; each action makes a new one, undo returns to the one before."""

    rounds: tuple[Round, ...] = ()
    clicks: tuple[Click, ...] = ()  # of the round that is not yet propagated
    # prompt masks of every clicked slice, in all rounds
    prompts: Mapping[int, Prompt] = field(default_factory=lambda: MappingProxyType({}))
    locked: Mapping[int, Mask] = field(default_factory=lambda: MappingProxyType({}))


class Session:
    """Segments one object of a volume."""

    def __init__(
        self,
        volume: Volume,
        networks: LimNet,
        *,
        fuse: bool = True,
        threshold: float = 0.5,
        compare: Compare | None = None,
        options: PropagationOptions | None = None,
        features: SliceFeatures | None = None,
    ) -> None:
        """Start without clicks.

        Args:
            fuse: False keeps every mask of the latest round: the paper's "w/o MRF".
            threshold: tau of Eq. 4, which the paper leaves open.
            compare: who judges two rounds; by default the quality network.
            features: those of another session on the same volume, to be shared.

        Raises:
            ValueError: the features belong to another volume.
        """
        if features is not None and features.volume is not volume:
            raise ValueError("slice features must be those of this very volume; pass none instead")
        self.volume, self.networks = volume, networks
        self.fuse, self.threshold, self.options = fuse, threshold, options
        self.compare = compare
        self.features = features or SliceFeatures(
            volume, networks.propagation_net, working_size=networks.working_size
        )
        self._states = (State(),)

    @property
    def state(self) -> State:
        return self._states[-1]

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those that were propagated."""
        return self.state.rounds

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks in the order they were made, those of the open round included."""
        return sum((past.clicks for past in self.rounds), ()) + self.state.clicks

    @property
    def masks(self) -> Masks:
        """The latest masks (slices, height, width), prompt masks of the open round included."""
        shape = self.volume.images.shape[:3]
        masks = self.rounds[-1].masks.copy() if self.rounds else np.zeros(shape, dtype=bool)
        for slice_index, mask in self._given().items():
            masks[slice_index] = mask
        return masks

    def add_click(self, click: Click) -> Mask:
        """Add a click and return its slice's new prompt mask.

        Raises:
            ValueError: the click is outside the volume or its slice is locked.
        """
        self._check(click)
        index, state = click.slice_index, self.state
        clicks = [each for each in (*self.clicks, click) if each.slice_index == index]
        prompt = self._predict(clicks, state.prompts.get(index))
        prompts = MappingProxyType({**state.prompts, index: prompt})
        self._push(replace(state, clicks=(*state.clicks, click), prompts=prompts))
        return self._mask(index)

    def propagate(self, progress: Progress = lambda done, total: None) -> Round:
        """Close the round: propagate in both directions, then fuse with the round before.

        An exception raised by `progress` cancels; the session is then as it was.

        Raises:
            RuntimeError: there is no click since the last round.
        """
        state = self.state
        if not state.clicks:
            raise RuntimeError("a round needs at least one click; add one before propagating")
        given = self._given()
        clicked = [click.slice_index for click in reversed(self.clicks)]
        # an empty mask, left by negative clicks, is kept but has nothing to carry
        prompt_slice = next((index for index in clicked if given[index].any()), clicked[0])
        propagated = self._propagate(given, prompt_slice, progress)
        previous_better = np.full(len(propagated), 0.5, dtype=np.float32)
        masks = propagated
        if self.fuse and self.rounds:
            masks, previous_better = self._fuse(self.rounds[-1].masks, propagated, given)
        kept = (masks != propagated).any(axis=(1, 2))
        closed = Round(state.clicks, prompt_slice, masks, propagated, previous_better, kept)
        self._push(replace(state, rounds=(*state.rounds, closed), clicks=()))
        return closed

    def lock(self, slice_index: int) -> None:
        """Keep this slice's mask as it is now: no later round changes it.

        Raises:
            ValueError: there is no such slice.
        """
        slices = len(self.volume.images)
        if not 0 <= slice_index < slices:
            raise ValueError(f"a slice to lock must be one of 0 to {slices - 1}, got {slice_index}")
        locked = {**self.state.locked, slice_index: self._mask(slice_index)}
        self._push(replace(self.state, locked=MappingProxyType(locked)))

    def unlock(self, slice_index: int) -> None:
        """Let later rounds change this slice again.

        Raises:
            ValueError: the slice is not locked.
        """
        if slice_index not in self.state.locked:
            raise ValueError(
                f"slice {slice_index} must be locked to be unlocked, "
                f"locked are {sorted(self.state.locked)}"
            )
        others = {key: mask for key, mask in self.state.locked.items() if key != slice_index}
        self._push(replace(self.state, locked=MappingProxyType(others)))

    def undo(self) -> None:
        """Take back the last click, round, lock or unlock; nothing happens at the very start."""
        self._states = self._states[:-1] or self._states

    def save(self, path: str | Path) -> None:
        """Write the masks as NIfTI on the grid of the volume's file (see `Volume.save_masks`)."""
        self.volume.save_masks(self.masks, path)

    def _push(self, state: State) -> None:
        self._states = (*self._states, state)

    def _check(self, click: Click) -> None:
        check_inside(click, self.volume.images.shape[:3])
        if click.slice_index in self.state.locked:
            raise ValueError(f"slice {click.slice_index} is locked; unlock it before clicking")

    def _mask(self, slice_index: int) -> Mask:
        """One slice of `masks`, without copying the others: a click must answer at once."""
        state = self.state
        if slice_index in state.locked:
            return state.locked[slice_index]
        if slice_index in state.prompts:
            return _binary(state.prompts[slice_index])
        if state.rounds:
            return state.rounds[-1].masks[slice_index].copy()
        return np.zeros(self.volume.images.shape[1:3], dtype=bool)

    def _given(self) -> dict[int, Mask]:
        """Masks that the user vouches for: of clicked slices and, before them, of locked ones."""
        prompts = {index: _binary(prompt) for index, prompt in self.state.prompts.items()}
        return {**prompts, **self.state.locked}

    def _predict(self, clicks: list[Click], last: Prompt | None) -> Prompt:
        """The prompt of a slice: RITM's pipeline, zoomed in from the first click on."""
        index = clicks[0].slice_index
        image = self._images([index])[0]
        size = self.networks.zoom_size
        # RITM: crops of at least 200 pixels are enlarged to 400
        zoom = ZoomIn(target_size=size, min_crop_size=size // 2, skip_clicks=-1)
        if last is not None:
            previous = last.probability
        else:  # an earlier round's mask is there to be corrected, or nothing yet
            before = self._mask(index)
            previous = torch.from_numpy(before).to(image) if before.any() else None
        implied = implied_click(clicks, self._mask(index))
        clicks = [*clicks, implied] if implied else clicks
        for _ in range(PREDICTIONS):
            prompt = predict_prompt(self.networks.click_net, image, clicks, previous, zoom=zoom)
            previous = prompt.probability
        return prompt

    def _propagate(self, given: dict[int, Mask], prompt_slice: int, progress: Progress) -> Masks:
        """Masks of all slices, seen in a close-up of the object where the network has one.

        When the object comes near the border of its close-up, propagation starts again in a larger
        one, so that nothing is cut off.
        """
        slice_size = self.volume.images.shape[1:3]
        size, part = self.networks.propagation_net.config.close_up_size, CloseUp.whole(slice_size)
        if size:
            part = CloseUp.around(np.stack(list(given.values())))
        while part != CloseUp.whole(slice_size):
            features = self.features.within(part, size)
            masks = self._propagate_within(features, given, prompt_slice, progress)
            if masks is not None:
                return masks
            part = part.grown(slice_size)
        return self._propagate_within(self.features, given, prompt_slice, progress)

    def _propagate_within(
        self,
        features: SliceFeatures,
        given: dict[int, Mask],
        prompt_slice: int,
        progress: Progress,
    ) -> Masks | None:
        """Masks of all slices, or None as soon as the object comes near the border of the part."""
        frame, part, device = features.frame, features.part, self.networks.device
        masks = np.zeros(self.volume.images.shape[:3], dtype=bool)
        probabilities = {}
        for index, mask in given.items():
            masks[index] = mask
            mask = torch.from_numpy(mask[part.pixels]).to(device, torch.float32)
            probabilities[index] = frame.pad(frame.enter(mask))
        net, slices = self.networks.propagation_net, len(masks)
        passes = propagate(net, features, slices, prompt_slice, probabilities, self.options)
        progress(1, slices)
        for done, (index, probability) in enumerate(passes, start=2):
            if index not in given:
                mask = frame.leave(frame.unpad(probability)).cpu().numpy()
                if part.reached_by(mask, masks.shape[1:]):
                    return None
                masks[index][part.pixels] = mask
            progress(done, slices)
        return masks

    def _fuse(
        self, previous: Masks, current: Masks, given: dict[int, Mask]
    ) -> tuple[Masks, Float32[np.ndarray, " slices"]]:
        """Eqs. 2-4 wherever the user has not decided."""
        previous = previous.copy()
        for index in given:
            previous[index] = current[index]
        if self.compare is not None:
            previous_better = self.compare(previous, current)
            kept = (previous_better > self.threshold)[:, None, None]
            return np.where(kept, previous, current), previous_better
        device = self.networks.device
        masks, previous_better = fuse_rounds(
            self.networks.quality_net,
            self._images,
            *(torch.from_numpy(each).to(device) for each in (previous, current)),
            threshold=self.threshold,
        )
        return masks.cpu().numpy(), previous_better.float().cpu().numpy()

    def _images(self, slice_indices: list[int]) -> Tensor:
        """Slices in [0, 1] at the volume's own size (batch, 3, height, width)."""
        return torch.from_numpy(self.volume.rgb(slice_indices)).to(self.networks.device)


def _binary(prompt: Prompt) -> Mask:
    return (prompt.probability > 0.5).cpu().numpy()
