"""What a session is made of, all frozen: its recipe, its rounds, its clicked and locked slices."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from limnet.method.memory import MemoryConfig
from limnet.method.prompts import Click, ZoomIn
from limnet.networks.checkpoints import LimNet
from limnet.volumes.masks import Mask, Masks, PackedMasks

Step = TypeVar("Step")


@dataclass(frozen=True)
class Recipe:
    """How the parts of the pipeline are put together; the defaults are the paper's.

    "Beyond the paper" marks what the shipped lite networks use and the paper does not have.
    """

    # from clicks to a prompt mask (section II-B)
    zoom: ZoomIn = field(default_factory=ZoomIn)  # the crop that the click network sees (RITM)
    flip: bool = True  # average the logits of the slice and its mirror image (RITM); lite: False
    predictions: int = 1  # of one click, each with the mask of the one before; beyond the paper: 2
    # lone negative clicks on a mask accept the rest of it, or reject it all; beyond the paper
    implicit_clicks: bool = False
    multi_scale: bool = False  # average predictions of crops of two sizes; beyond the paper
    postprocess: bool = False  # intensity prior, blend with the previous mask; beyond the paper
    # from a prompt mask to all slices (section II-D)
    close_up: bool = False  # propagation sees a crop around the object; beyond the paper
    memorize_every: int | None = None  # slices; 5 in XMem; None: as the network was trained
    # slices between updates of sensory memory from the value; None: whenever one is memorized
    update_sensory_every: int | None = None
    permanent_prompt_memory: bool = True  # working memory keeps all prompt slices (section II-D)
    memory: MemoryConfig = field(default_factory=MemoryConfig)  # T_min, T_max and so on (Eq. 9)
    # a pass ends after so many slices without the object, unless a prompt mask beyond them shows
    # it; None: never, as in the paper; beyond the paper
    end_after: int | None = None
    refinements: int = 0  # predictions of the click network on a propagated mask; beyond the paper
    smoothing: float = 0.0  # share of each neighbour in a slice's probability; beyond the paper
    # multi-round fusion (section II-C)
    fuse: bool = True  # False: the latest masks stay, the paper's "w/o MRF"
    threshold: float = 0.5  # tau of Eq. 4, which the paper leaves open
    fusion_features: bool = False  # the quality network sees `FusionFeatures`; beyond the paper
    # speed; neither changes a mask
    cuda_graphs: bool = True  # a GPU replays decoder and value encoder as CUDA graphs
    parallel_map: bool = True  # a CPU refines propagated masks in other threads

    @classmethod
    def paper(cls) -> "Recipe":
        """The paper's pipeline: RITM, XMem in both directions, and fusion by the network."""
        return cls(memorize_every=5)

    @classmethod
    def lite(cls) -> "Recipe":
        """The pipeline that the shipped lite networks are trained for."""
        return cls(
            zoom=ZoomIn(160, skip_clicks=-1, min_crop_size=80),
            flip=False,
            predictions=2,
            implicit_clicks=True,
            multi_scale=True,
            postprocess=True,
            close_up=True,
            memorize_every=2,
            refinements=1,
            smoothing=0.2,
            fusion_features=True,
        )

    @classmethod
    def of(cls, networks: LimNet, recipe: "Recipe | str | None" = None) -> "Recipe":
        """A recipe by its name, "paper" or "lite"; None: what the networks' files ask for.

        Raises:
            ValueError: there is no recipe of this name.
        """
        if isinstance(recipe, cls):
            return recipe
        if recipe is not None:
            if recipe not in ("paper", "lite"):
                raise ValueError(f'a recipe must be "paper", "lite" or a Recipe, got {recipe!r}')
            return getattr(cls, recipe)()
        click, propagation = networks.click_net.config, networks.propagation_net.config
        return replace(
            cls.lite(),
            # RITM enlarges crops of at least 200 pixels to 400
            zoom=ZoomIn(click.zoom_size, skip_clicks=-1, min_crop_size=click.zoom_size // 2),
            multi_scale=click.multi_scale,
            postprocess=click.postprocess,
            close_up=propagation.close_up_size > 0,
            memorize_every=propagation.memorize_every,
            refinements=click.refinements,
            smoothing=cls.lite().smoothing if click.refinements else 0.0,
        )


@dataclass(frozen=True, eq=False)
class Round:
    """One interaction: its clicks, the propagation they led to, and the fusion."""

    clicks: tuple[Click, ...]
    prompt_slice: int  # from which the masks were propagated: the last clicked with a mask
    masks: PackedMasks  # after fusion
    propagated: PackedMasks  # before fusion
    previous_better: Float32[np.ndarray, " slices"]  # P of Eq. 2; 0.5 if not compared
    kept_previous: Bool[np.ndarray, " slices"]  # where Eq. 4 kept the mask of the round before
    # pixels of each mask that are wrong if the network's probabilities are right (beyond the paper)
    expected_errors: Float32[np.ndarray, " slices"]

    @classmethod
    def from_masks(cls, masks: Masks | PackedMasks) -> "Round":
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


@dataclass(frozen=True, eq=False)
class PromptedSlice:
    """A slice that the user clicked or painted on, and the prompt mask that came of it."""

    probability: Float[Tensor, "height width"]
    clicks: tuple[Click, ...] = ()  # on this slice, in all rounds
    committed: Float[Tensor, "height width"] | None = None  # what later clicks start from
    committed_clicks: int = 0  # the first so many made it so; the others can still be moved
    painted: bool = False  # the last thing was the brush, not a click

    @property
    def mask(self) -> Mask:
        return (self.probability > 0.5).cpu().numpy()

    @property
    def pending_clicks(self) -> tuple[Click, ...]:
        """Clicks since the slice was last propagated from or painted on."""
        return self.clicks[self.committed_clicks :]

    def commit(self) -> "PromptedSlice":
        """The same, with clicks that cannot be moved any more."""
        return replace(self, committed=self.probability, committed_clicks=len(self.clicks))


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
    def user_masks(self) -> dict[int, Mask]:
        """Masks that the user vouches for: of edited slices and, before them, of locked ones."""
        prompts = {index: prompt.mask for index, prompt in self.prompts.items()}
        return {**prompts, **self.locked}

    @property
    def prompt_slice(self) -> int:
        """The last edited; an empty mask, left by negative clicks, has nothing to carry."""
        edited, masks = self.edited[::-1], self.user_masks
        return next((index for index in edited if masks[index].any()), edited[0])

    @property
    def painted(self) -> frozenset[int]:
        """Slices whose masks the user last painted."""
        return frozenset(index for index, prompt in self.prompts.items() if prompt.painted)

    def with_prompt(self, slice_index: int, prompt: PromptedSlice) -> "State":
        """This slice was edited and has now that prompt."""
        prompts = MappingProxyType({**self.prompts, slice_index: prompt})
        return replace(self, prompts=prompts, edited=(*self.edited, slice_index))

    def without_prompt(self, slice_index: int) -> "State":
        """This slice, first edited in the open round, is as it was before."""
        others = {key: prompt for key, prompt in self.prompts.items() if key != slice_index}
        edited = tuple(index for index in self.edited if index != slice_index)
        return replace(self, prompts=MappingProxyType(others), edited=edited)

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


class UndoStack(Generic[Step]):
    """The steps up to now, and those that were undone."""

    def __init__(self, first: Step) -> None:
        """Begin with a step that cannot be undone."""
        self._done: list[Step] = [first]
        self._undone: list[Step] = []

    @property
    def now(self) -> Step:
        return self._done[-1]

    @property
    def can_undo(self) -> bool:
        return len(self._done) > 1

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def push(self, step: Step) -> None:
        """Something was done: what was undone before cannot be done again."""
        self._done.append(step)
        self._undone.clear()

    def amend(self, step: Step) -> None:
        """Replace the last step."""
        self._done[-1] = step

    def undo(self) -> None:
        """Go back by one; nothing happens at the very start."""
        if self.can_undo:
            self._undone.append(self._done.pop())

    def redo(self) -> None:
        """Go forward by one; nothing happens if nothing was undone, or anything done since."""
        if self.can_redo:
            self._done.append(self._undone.pop())
