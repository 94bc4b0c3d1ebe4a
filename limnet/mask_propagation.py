"""From the masks that the user gave to masks of all slices, in a close-up of the object (ours)."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float32

from limnet.close_up import CloseUp
from limnet.networks.propagation_net import PropagationNet
from limnet.propagation import PropagationOptions, propagate
from limnet.rounds import Mask, Masks
from limnet.slice_features import SliceFeatures

Progress = Callable[[int, int], None]  # slices done, slices in all
Arrived = Callable[[int, Mask], None]  # slice index and its mask, before fusion
Propagated = tuple[Masks, Float32[np.ndarray, " slices"]]  # and the errors to expect


def propagate_masks(
    network: PropagationNet,
    features: SliceFeatures,
    given: Mapping[int, Mask],
    prompt_slice: int,
    options: PropagationOptions | None = None,
    *,
    progress: Progress = lambda done, total: None,
    arrived: Arrived = lambda slice_index, mask: None,
) -> Propagated:
    """Masks of all slices, and how many pixels of each are expected to be wrong.

    The network sees a close-up of the object if it has a size for one. When the object comes near
    the border of its close-up, propagation starts again in a larger one, so that nothing is cut
    off. Where the network says p, the mask is wrong with probability min(p, 1 - p).

    Args:
        features: of whole slices, at the volume's own size.
        given: masks that the user vouches for, which stay as they are.
        arrived: gets each mask when it is there; again, if the close-up had to grow.
    """
    slice_size = features.volume.images.shape[1:3]
    size, part = network.config.close_up_size, CloseUp.whole(slice_size)
    if size:
        part = CloseUp.around(np.stack(list(given.values())))
    while part != CloseUp.whole(slice_size):
        inside = features.within(part, size)
        found = _within(network, inside, given, prompt_slice, options, progress, arrived)
        if found is not None:
            return found
        part = part.grown(slice_size)
    return _within(network, features, given, prompt_slice, options, progress, arrived)


def _within(
    network: PropagationNet,
    features: SliceFeatures,
    given: Mapping[int, Mask],
    prompt_slice: int,
    options: PropagationOptions | None,
    progress: Progress,
    arrived: Arrived,
) -> Propagated | None:
    """As `propagate_masks`, or None once the object comes near the border of the part."""
    frame, part, device = features.frame, features.part, next(network.parameters()).device
    masks = np.zeros(features.volume.images.shape[:3], dtype=bool)
    errors = np.zeros(len(masks), dtype=np.float32)
    pixels = np.prod(part.size) / np.prod(frame.size)  # of the slice, for one of the frame
    probabilities = {}
    for index, mask in given.items():
        masks[index] = mask
        mask = torch.from_numpy(mask[part.pixels]).to(device, torch.float32)
        probabilities[index] = frame.pad(frame.enter(mask))
    passes = propagate(network, features, len(masks), prompt_slice, probabilities, options)
    progress(1, len(masks))
    for done, (index, probability) in enumerate(passes, start=2):
        if index not in given:
            inside = frame.unpad(probability)
            errors[index] = pixels * torch.minimum(inside, 1 - inside).sum().item()
            mask = frame.leave(inside).cpu().numpy()
            if part.reached_by(mask, masks.shape[1:]):
                return None
            masks[index][part.pixels] = mask
            arrived(index, masks[index])
        progress(done, len(masks))
    return masks, errors
