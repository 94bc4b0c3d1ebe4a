"""From the mask of one slice to the masks of all, in both directions (paper, II-D, Eqs. 5-8).

`propagate` is one pass forward and one backward through features of slices. `propagate_masks` takes
and gives masks of a volume: it chooses the crop that the network sees, refines what was propagated,
and tells of each slice as it is done.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from limnet.method.features import SliceFeature, SliceFeatures
from limnet.method.memory import Memory
from limnet.method.prompts import Crop
from limnet.method.refinement import Refiner
from limnet.method.state import Recipe
from limnet.networks.inference import parallel_map, replay_graph
from limnet.networks.propagation_net import PropagationNet, SliceEncoding, aggregate
from limnet.volumes.masks import Mask, PackedMask, PackedMasks

Probability = Float[Tensor, "height width"]  # of a slice, as large and padded as its features are
Function = Callable[..., tuple[Tensor, ...]]
ExpectedErrors = Float32[np.ndarray, " slices"]  # pixels of each mask that are likely wrong


@dataclass(frozen=True, eq=False)
class SliceDone:
    """A slice has its mask, which fusion may still change.

    If the object outgrows its crop, propagation begins again: slices are done a second time.
    """

    index: int
    mask: Mask
    done: int  # slices so far, this one included
    total: int


@dataclass(frozen=True)
class Stopped:
    """A pass ended before the volume did: it found no object beyond this slice."""

    index: int


def propagate_masks(
    network: PropagationNet,
    features: SliceFeatures,
    user_masks: Mapping[int, Mask],
    prompt_slice: int,
    recipe: Recipe,
    refiner: Refiner | None = None,
) -> Generator[SliceDone | Stopped, None, tuple[PackedMasks, ExpectedErrors]]:
    """Masks of all slices, and how many pixels of each are expected to be wrong.

    With `Recipe.close_up`, the network sees a crop around the object. When the object comes near
    the border of the crop, propagation begins again in a larger one. Where the network says p, the
    mask is wrong with probability min(p, 1 - p). Memory keeps what was propagated, not what the
    refiner made of it.

    Args:
        features: of whole slices, at the volume's own size.
        user_masks: masks that the user gave, the prompt slice's among them; they stay as they are.
        refiner: for `Recipe.refinements`; on a CPU, several threads use it at once.

    Yields:
        `SliceDone` for every slice reached, the prompt slice first, then `Stopped`.

    Raises:
        ValueError: the prompt slice is not in the volume or has no mask.
    """
    inside = first_crop(network, features, user_masks, recipe)
    while True:
        masks = dict(user_masks)
        errors = yield from _within(network, inside, masks, prompt_slice, recipe, refiner)
        if errors is not None:
            return PackedMasks.empty(features.volume.images.shape[:3]).replaced(masks), errors
        crop = inside.crop.expanded(features.crop.size)
        inside = features.within(crop, network.config.close_up_size)


def first_crop(
    network: PropagationNet,
    features: SliceFeatures,
    user_masks: Mapping[int, Mask],
    recipe: Recipe,
) -> SliceFeatures:
    """Features of the crop in which a propagation from these masks begins."""
    if not recipe.close_up:
        return features
    crop = Crop.from_masks(np.stack(list(user_masks.values())))
    return features.within(crop, network.config.close_up_size)


def _within(
    network: PropagationNet,
    features: SliceFeatures,
    masks: dict[int, Mask | PackedMask],
    prompt_slice: int,
    recipe: Recipe,
    refiner: Refiner | None,
) -> Generator[SliceDone | Stopped, None, ExpectedErrors | None]:
    """Add the masks of one crop; the errors, or None once the object comes near its border."""
    features.cache.begin_sweep()
    resizer, crop, user_masks = features.resizer, features.crop, dict(masks)
    total, *slice_size = features.volume.images.shape[:3]
    errors = np.zeros(total, dtype=np.float32)
    area = np.prod(crop.size) / np.prod(resizer.size)  # pixels of the slice in one of the network's
    prompts = {index: features.mask(mask) for index, mask in user_masks.items()}
    passes = propagate(network, features, total, prompt_slice, prompts, recipe)
    outgrown = False

    def whole_slices() -> Iterator[tuple[int, Probability]]:
        nonlocal outgrown
        for index, probability in passes:
            inside = resizer.unpad(probability)
            whole = probability.new_zeros(slice_size)
            whole[crop.pixels] = resizer.to_slice(inside)
            if index not in user_masks:
                errors[index] = area * torch.minimum(inside, 1 - inside).sum().item()
                mask = (whole[crop.pixels] > 0.5).cpu().numpy()
                outgrown = crop.touches_border(mask, tuple(slice_size))
                if outgrown:
                    return
            yield index, whole

    def refine(found: tuple[int, Probability]) -> tuple[int, Probability]:
        index, whole = found
        if index in user_masks or not bool((whole > 0.5).any()):
            return found
        return index, refiner.refine_propagated(features.full_size([index])[0], whole)

    found = whole_slices()
    if refiner is not None and recipe.refinements:
        parallel = partial(parallel_map, device=features.device)
        found = (parallel if recipe.parallel_map else map)(refine, found)
    if recipe.smoothing:
        prompt = torch.from_numpy(user_masks[prompt_slice]).to(features.device, torch.float32)
        found = smooth_across_slices(found, prompt, recipe.smoothing)
    yield SliceDone(prompt_slice, user_masks[prompt_slice], 1, total)
    reached = {prompt_slice}
    for index, probability in found:
        reached.add(index)
        mask = user_masks.get(index)
        if mask is None:
            mask = (probability > 0.5).cpu().numpy()
            masks[index] = PackedMask.pack(mask)
        yield SliceDone(index, mask, len(reached), total)
    if outgrown:
        return None
    for end in sorted({min(reached), max(reached)} - {0, total - 1}):
        yield Stopped(end)
    return errors


def smooth_across_slices(
    slices: Iterable[tuple[int, Probability]], prompt: Probability, share: float
) -> Iterator[tuple[int, Probability]]:
    """Each slice with a share of both its neighbours in it, one slice late (beyond the paper).

    Args:
        slices: slice index and probability, in one direction from the prompt slice, then the other.
    """
    last: tuple[int, Probability, Probability] | None = None  # index, before it, its own

    def mean(after: Probability) -> tuple[int, Probability]:
        index, before, own = last
        return index, own + share * (before + after - 2 * own)

    for index, probability in slices:
        adjacent = last is not None and abs(index - last[0]) == 1
        if last is not None:
            yield mean(probability if adjacent else last[2])
        last = (index, last[2] if adjacent else prompt, probability)
    if last is not None:
        yield mean(last[2])


def propagate(
    network: PropagationNet,
    features: SliceFeatures | Sequence[SliceFeature],
    slices: int,
    prompt_slice: int,
    user_masks: Mapping[int, Probability],
    recipe: Recipe | None = None,
) -> Iterator[tuple[int, Probability]]:
    """Carry the prompt mask to both ends of a volume.

    Args:
        slices: number of slices in the volume.
        user_masks: masks that the user gave, by slice index, that of the prompt slice among them.
        recipe: by default the paper's, but for what the network was trained for.

    Yields:
        Slice index and probability of every slice but the prompt's, as they are computed; of none
        beyond the end of the object, where `Recipe.end_after` says so.

    Raises:
        ValueError: the prompt slice is not in the volume or has no mask.
    """
    if not 0 <= prompt_slice < slices or prompt_slice not in user_masks:
        raise ValueError(
            f"the prompt slice must be one of the {slices} slices and have a mask, "
            f"got slice {prompt_slice} and masks of slices {sorted(user_masks)}"
        )
    recipe = recipe or Recipe()
    forward, backward = range(prompt_slice, slices), range(prompt_slice, -1, -1)
    yield from propagate_pass(network, features, forward, user_masks, recipe)  # Eq. 5
    yield from propagate_pass(network, features, backward, user_masks, recipe)  # Eq. 6


def propagate_pass(
    network: PropagationNet,
    features: SliceFeatures | Sequence[SliceFeature],
    order: Sequence[int],
    user_masks: Mapping[int, Probability],
    recipe: Recipe,
    memory: Memory | None = None,
) -> Iterator[tuple[int, Probability]]:
    """One direction: slices in `order`, of which the first is the prompt slice and not yielded."""
    steps = _Steps(network, recipe, memory or Memory(recipe.memory), features[order[0]])
    memorize_every = recipe.memorize_every or network.config.memorize_every
    every, permanent = recipe.update_sensory_every, recipe.permanent_prompt_memory
    if permanent:
        for index in sorted(set(user_masks) - {order[0]}):
            # before the pass begins: nothing has led up to them, sensory memory is still empty
            value = steps.encode_value(features[index], user_masks[index], False)
            steps.memorize(features[index], value, keep=True)
    last_memory = last_update = 0
    last_shown = max(
        at for at, index in enumerate(order) if at == 0 or _shows_object(user_masks.get(index))
    )
    for position, index in enumerate(order):
        feature, last = features[index], position == len(order) - 1
        first, known = position == 0, index in user_masks
        memorable = not last and (first or known or position - last_memory >= memorize_every)
        from_value = memorable and (first or every is None or position - last_update >= every)
        # XMem lets the decoder update too where the two are not synchronised
        from_mask = not last and (every is not None or not from_value)
        if known:
            probability = soft_aggregate(user_masks[index])
        else:
            probability = steps.decode(feature, from_mask)
        if memorable:
            value = steps.encode_value(feature, probability, from_value)
            last_memory = position
            last_update = position if from_value else last_update
            if first or not (known and permanent):
                steps.memorize(feature, value, keep=first)
        if not first:
            yield index, probability
        if recipe.end_after is not None:
            last_shown = max(last_shown, position) if _shows_object(probability) else last_shown
            if position - last_shown >= recipe.end_after:
                return


class _Steps:
    """What the network does on each slice of one pass, with the pass's memories."""

    def __init__(
        self, network: PropagationNet, recipe: Recipe, memory: Memory, feature: SliceFeature
    ) -> None:
        self.network, self.memory = network, memory
        self.replayed = recipe.cuda_graphs and feature.frame.device.type == "cuda"
        height, width = feature.parts.key.shape[-2:]
        size = (1, network.config.hidden_dim, height, width)
        self.sensory = feature.frame.new_zeros(size, dtype=network.sensory_dtype)

    @torch.inference_mode()
    def decode(self, feature: SliceFeature, update_sensory: bool) -> Probability:
        """The probability of a slice from its features, sensory memory and what memory reads."""
        readout = self.memory.read(feature.parts.key[0], feature.parts.selection[0])[None]
        network_decode = partial(self.network.decode, update_sensory=update_sensory)

        def decode(readout: Tensor, sensory: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            logits, after = network_decode(SliceEncoding(*parts), readout, sensory)
            return soft_aggregate(logits[0, 0].float().sigmoid()), after

        inputs = (readout, self.sensory, *feature.parts)
        probability, self.sensory = self._run(("decode", update_sensory), decode, inputs)
        return probability

    @torch.inference_mode()
    def encode_value(
        self, feature: SliceFeature, probability: Probability, update_sensory: bool
    ) -> Tensor:
        """The value of a slice and its mask (Eq. 8)."""
        network_encode = partial(self.network.encode_value, update_sensory=update_sensory)

        def encode(image: Tensor, sensory: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            mask, parts = others[0][None, None], SliceEncoding(*others[1:])
            return network_encode(image, parts, sensory, mask, torch.zeros_like(mask))

        inputs = (feature.frame, self.sensory, probability, *feature.parts)
        value, self.sensory = self._run(("encode", update_sensory), encode, inputs)
        return value

    @torch.inference_mode()
    def memorize(self, feature: SliceFeature, value: Tensor, *, keep: bool) -> None:
        key, shrinkage, selection = feature.parts[:3]
        self.memory.memorize(key[0], shrinkage[0], selection[0], value[0], keep=keep)

    def _run(self, name: Hashable, function: Function, inputs: Sequence[Tensor]) -> Any:
        """`function(*inputs)`; a GPU replays it as a CUDA graph."""
        if self.replayed:
            return replay_graph(self.network, name, function, inputs)
        return function(*inputs)


@torch.inference_mode()
def soft_aggregate(probability: Probability) -> Probability:
    """Soft aggregation with the background: p^2 / (p^2 + (1 - p)^2) (XMem)."""
    return aggregate(probability[None]).softmax(dim=0)[1]


def _shows_object(probability: Probability | None) -> bool:
    return probability is not None and bool((probability > 0.5).any())
