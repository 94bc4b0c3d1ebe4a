"""What a user has done with one object, frozen: clicked slices, closed rounds, locked slices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from limnet.method.prompts import Click
from limnet.volumes.masks import Mask, Masks, PackedMasks


@dataclass(frozen=True, eq=False)
class Round:
    """One interaction: its clicks, the propagation they led to, and the fusion."""

    clicks: tuple[Click, ...]
    prompt_slice: int  # from which the masks were propagated: the last clicked with a mask
    masks: PackedMasks  # after fusion
    propagated: PackedMasks  # before fusion
    previous_better: Float32[np.ndarray, " slices"]  # P of Eq. 2; 0.5 if not compared
    kept_previous: Bool[np.ndarray, " slices"]  # where Eq. 4 kept the mask of the round before
    # pixels of each mask that are wrong if the network's probabilities are right (ours)
    expected_errors: Float32[np.ndarray, " slices"]

    @classmethod
    def given(cls, masks: Masks | PackedMasks) -> "Round":
        """A round that came from elsewhere: a saved mask, another tool's."""
        packed = PackedMasks.pack(masks)
        half = np.full(len(packed), 0.5, dtype=np.float32)
        kept = np.zeros(len(packed), dtype=bool)
        largest = int(packed.areas.argmax())
        return cls((), largest, packed, packed, half, kept, np.zeros_like(half))

    def with_other(self, slice_index: int, before: "Round") -> "Round":
        """On this slice the mask that fusion did not choose, of the propagation or of `before`."""
        kept = self.kept_previous.copy()
        kept[slice_index] = not kept[slice_index]
        chosen = before.masks if kept[slice_index] else self.propagated
        elsewhere = np.arange(len(kept)) != slice_index
        return replace(self, masks=self.masks.where(elsewhere, chosen), kept_previous=kept)

    def most_doubtful(self, given: Iterable[int]) -> int | None:
        """The slice, none of those given, with the largest expected error; None if there is none.

        It is the simulated user's rule (section III-C) without the truth.
        """
        errors = self.expected_errors.copy()
        errors[list(given)] = 0
        return int(errors.argmax()) if errors.any() else None


@dataclass(frozen=True, eq=False)
class PromptedSlice:
    """A slice that the user clicked or painted on, and the prompt mask that came of it."""

    probability: Float[Tensor, "height width"]
    clicks: tuple[Click, ...] = ()  # on this slice, in all rounds
    settled: Float[Tensor, "height width"] | None = None  # what later clicks start from
    settled_clicks: int = 0  # the first so many made it so; the others can still be moved
    painted: bool = False  # the last thing was the brush, not a click

    @property
    def mask(self) -> Mask:
        return (self.probability > 0.5).cpu().numpy()

    @property
    def pending_clicks(self) -> tuple[Click, ...]:
        """Clicks since the slice was last propagated from or painted on."""
        return self.clicks[self.settled_clicks :]

    def commit(self) -> "PromptedSlice":
        """The same, with clicks that cannot be moved any more."""
        return replace(self, settled=self.probability, settled_clicks=len(self.clicks))


@dataclass(frozen=True, eq=False)
class State:
    """All that a user has done; each action makes a new one, undo returns to the one before."""

    rounds: tuple[Round, ...] = ()
    clicks: tuple[Click, ...] = ()  # of the round that is not yet propagated
    edited: tuple[int, ...] = ()  # slices clicked or painted on, in order, in all rounds
    edits_closed: int = 0  # the first so many of these belong to closed rounds
    # every slice that was clicked or painted on, in all rounds
    prompts: Mapping[int, PromptedSlice] = field(default_factory=lambda: MappingProxyType({}))
    locked: Mapping[int, Mask] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def changed(self) -> bool:
        """Whether anything was clicked or painted since the last round."""
        return len(self.edited) > self.edits_closed

    @property
    def painted(self) -> frozenset[int]:
        """Slices whose masks the user last painted."""
        return frozenset(index for index, prompt in self.prompts.items() if prompt.painted)

    def with_prompt(self, slice_index: int, prompt: PromptedSlice) -> "State":
        """This slice was edited and has now that prompt."""
        prompts = MappingProxyType({**self.prompts, slice_index: prompt})
        edited = (*self.edited, slice_index)
        return replace(self, prompts=prompts, edited=edited)

    def without_prompt(self, slice_index: int) -> "State":
        """This slice, first edited in the open round, is as it was before."""
        others = {key: prompt for key, prompt in self.prompts.items() if key != slice_index}
        edited = tuple(index for index in self.edited if index != slice_index)
        return replace(self, prompts=MappingProxyType(others), edited=edited)

    def with_lock(self, slice_index: int, mask: Mask) -> "State":
        """This slice keeps that mask."""
        return replace(self, locked=MappingProxyType({**self.locked, slice_index: mask}))

    def without_lock(self, slice_index: int) -> "State":
        """This slice may change again."""
        others = {key: mask for key, mask in self.locked.items() if key != slice_index}
        return replace(self, locked=MappingProxyType(others))

    def with_round(self, closed: Round) -> "State":
        """The open round is closed."""
        prompts = {index: prompt.commit() for index, prompt in self.prompts.items()}
        return replace(
            self,
            rounds=(*self.rounds, closed),
            clicks=(),
            edits_closed=len(self.edited),
            prompts=MappingProxyType(prompts),
        )


def exchanged(clicks: Sequence[Click], click: Click, others: Sequence[Click]) -> tuple[Click, ...]:
    """The clicks with others in place of one; of equal ones, the last."""
    at = len(clicks) - 1 - clicks[::-1].index(click)
    return (*clicks[:at], *others, *clicks[at + 1 :])
