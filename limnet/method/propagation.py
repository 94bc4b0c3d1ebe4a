"""From the masks that the user gave to masks of all slices, in a close-up of the object (ours)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from limnet.method.close_up import CloseUp
from limnet.method.features import SliceFeatures
from limnet.method.passes import PropagationOptions, propagate
from limnet.networks.inference import parallel_map
from limnet.networks.propagation_net import PropagationNet
from limnet.volumes.masks import Mask, PackedMask, PackedMasks

Progress = Callable[[int, int], None]  # slices done, slices in all
Arrived = Callable[[int, Mask], None]  # slice index and its mask, before fusion
Ended = Callable[[int], None]  # slice index where a pass ended before the last slice
Probability = Float[Tensor, "height width"]  # of a slice of the volume
Again = Callable[[int, Probability], Probability]  # slice index and what is known -> better
Propagated = tuple[PackedMasks, Float32[np.ndarray, " slices"]]  # and the errors to expect

NEIGHBOUR = 0.2  # share of each of two neighbours in what is known of a slice


def nobody(*told: object) -> None:
    """Listens to nothing."""


def propagate_masks(
    network: PropagationNet,
    features: SliceFeatures,
    given: Mapping[int, Mask],
    prompt_slice: int,
    options: PropagationOptions | None = None,
    *,
    progress: Progress = nobody,
    arrived: Arrived = nobody,
    ended: Ended = nobody,
    again: Again | None = None,
) -> Propagated:
    """Masks of all slices, and how many pixels of each are expected to be wrong.

    The network sees a close-up of the object (`PropagationOptions.close_up`). When the object comes
    near the border of its close-up, propagation starts again in a larger one, so that nothing is
    cut off. Where the network says p, the mask is wrong with probability min(p, 1 - p).

    Args:
        features: of whole slices, at the volume's own size.
        given: masks that the user vouches for, which stay as they are.
        arrived: gets each mask when it is there; again, if the close-up had to grow.
        again: sees each slice once more before its mask is kept, and alone: what it says is then
            smoothed across slices. Memory keeps what was propagated. On a CPU it is called by
            several threads at once (`PropagationOptions.parallel_map`).
        ended: gets the last slice that a pass looked at, where the object ended before the volume.
    """
    options = options or PropagationOptions()
    heard = (progress, arrived, ended, again)
    inside = close_up(network, features, given, options)
    while True:
        found = _within(network, inside, given, prompt_slice, options, heard)
        if found is not None:
            return found
        part = inside.part.grown(features.part.size)
        inside = _at(network, features, part)


def close_up(
    network: PropagationNet,
    features: SliceFeatures,
    given: Mapping[int, Mask],
    options: PropagationOptions | None = None,
) -> SliceFeatures:
    """Where a propagation from these masks begins to look: features of a part, or those given."""
    options = options or PropagationOptions()
    wanted = bool(network.config.close_up_size) if options.close_up is None else options.close_up
    if not wanted:
        return features
    return _at(network, features, CloseUp.around(np.stack(list(given.values()))))


def _at(network: PropagationNet, features: SliceFeatures, part: CloseUp) -> SliceFeatures:
    if part == features.part:
        return features
    return features.within(part, network.config.close_up_size or None)


def _within(
    network: PropagationNet,
    features: SliceFeatures,
    given: Mapping[int, Mask],
    prompt_slice: int,
    options: PropagationOptions,
    heard: tuple[Progress, Arrived, Ended, Again | None],
) -> Propagated | None:
    """As `propagate_masks`, or None once the object comes near the border of the part."""
    progress, arrived, ended, again = heard
    features.kept.begin_sweep()
    frame, part = features.frame, features.part
    shape = features.volume.images.shape[:3]
    masks, errors = dict(given), np.zeros(shape[0], dtype=np.float32)
    pixels = np.prod(part.size) / np.prod(frame.size)  # of the slice, for one of the frame
    probabilities = {index: features.mask(mask) for index, mask in given.items()}
    passes = propagate(network, features, shape[0], prompt_slice, probabilities, options)
    near_border = False

    def seen() -> Iterator[tuple[int, Probability]]:
        nonlocal near_border
        for index, probability in passes:
            inside = frame.unpad(probability)
            whole = probability.new_zeros(shape[1:])
            whole[part.pixels] = frame.to_slice(inside)
            if index not in given:
                errors[index] = pixels * torch.minimum(inside, 1 - inside).sum().item()
                mask = (whole > 0.5).cpu().numpy()
                near_border = part.reached_by(mask[part.pixels], shape[1:])
                if near_border:
                    return
            yield index, whole

    def look(found: tuple[int, Probability]) -> tuple[int, Probability]:
        index, whole = found
        looked_at = index not in given and bool((whole > 0.5).any())
        return index, again(index, whole) if looked_at else whole

    progress(1, shape[0])
    reached = {prompt_slice}
    found = seen()
    if again is not None:
        each = partial(parallel_map, device=features.device) if options.parallel_map else map
        found = smooth_across_slices(each(look, found), given, prompt_slice)
    with closing(found):  # at once where a listener raises
        for index, probability in found:
            reached.add(index)
            if index not in given:
                mask = (probability > 0.5).cpu().numpy()
                masks[index] = PackedMask.pack(mask)
                arrived(index, mask)
            progress(len(reached), shape[0])
    if near_border:
        return None
    for end in sorted({min(reached), max(reached)} - {0, shape[0] - 1}):
        ended(end)
    if len(reached) < shape[0]:
        progress(shape[0], shape[0])
    return PackedMasks.empty(shape).replaced(masks), errors


def smooth_across_slices(
    found: Iterable[tuple[int, Probability]], given: Mapping[int, Mask], prompt_slice: int
) -> Iterator[tuple[int, Probability]]:
    """Each slice with a share of both its neighbours in it, one slice late (ours).

    Args:
        found: slice index and probability, in one direction from the prompt slice, then the other.
    """
    window: list[tuple[int, Probability]] = []  # a slice whose mean is still to come, after another
    for index, probability in found:
        if window and abs(index - window[-1][0]) == 1:
            yield from _middle(window, probability)
        else:
            yield from _middle(window)
            window = [(prompt_slice, torch.from_numpy(given[prompt_slice]).to(probability))]
        window = [window[-1], (index, probability)]
    yield from _middle(window)


def _middle(
    window: Sequence[tuple[int, Probability]], after: Probability | None = None
) -> Iterator[tuple[int, Probability]]:
    """The second of two slices with its neighbours' share in it; none after it: its own."""
    if window:
        (_, before), (index, own) = window
        after = own if after is None else after
        yield index, own + NEIGHBOUR * (before + after - 2 * own)
