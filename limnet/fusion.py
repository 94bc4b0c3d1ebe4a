"""Multi-round fusion: keep, slice by slice, the better of two rounds (paper, section II-C)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "batch 3 height width"]  # in [0, 1]
Masks = Bool[Tensor, "slices height width"]

# (images, previous masks, current masks) -> probability that the previous mask is the better one
QualityNet = Callable[[Images, Tensor, Tensor], Float[Tensor, " batch"]]

CROP_SIZE = 96  # pixels a side of what the quality net sees
MARGIN = 1.4  # side of the crop over that of the box around both masks
MIN_CROP = 32  # pixels of the slice: smaller boxes are not enlarged further


@torch.inference_mode()
def fuse_rounds(
    quality_net: QualityNet,
    images: Callable[[list[int]], Images],
    previous: Masks,
    current: Masks,
    *,
    threshold: float = 0.5,
    batch_size: int = 16,
) -> tuple[Masks, Float[Tensor, " slices"]]:
    """Fuse the masks of two consecutive rounds (paper, Eqs. 2-4).

    Args:
        images: gives the slices of the indices it is asked for, at the size of the masks.
        threshold: tau of Eq. 4; the previous mask stays where its probability is above it.
        batch_size: slices compared at once (Eq. 3); changes memory and speed, not the result.

    Returns:
        The fused masks, and per slice the probability that the previous mask is better: one half
        where both rounds agree, since nothing was asked there.

    Raises:
        ValueError: the rounds do not cover the same slices.
    """
    if previous.shape != current.shape:
        raise ValueError(
            "previous and current masks must cover the same slices, "
            f"got {tuple(previous.shape)} and {tuple(current.shape)}"
        )
    changed = (previous != current).flatten(1).any(dim=1).nonzero()[:, 0]
    previous_better = torch.full((len(previous),), 0.5, device=previous.device)
    # an empty tensor splits into one empty batch
    for batch in changed.split(batch_size) if len(changed) else ():
        crops = crop_to_masks(images(batch.tolist()), previous[batch], current[batch])
        previous_better[batch] = quality_net(*crops).to(previous_better)
    keep_previous = previous_better > threshold
    return torch.where(keep_previous[:, None, None], previous, current), previous_better


def crop_to_masks(
    images: Images,
    previous: Bool[Tensor, "batch height width"],
    current: Bool[Tensor, "batch height width"],
) -> tuple[
    Float[Tensor, "batch 3 _ _"], Float[Tensor, "batch 1 _ _"], Float[Tensor, "batch 1 _ _"]
]:
    """Square crops around both masks, resized, so that small objects are not lost in the mean.

    Masks come out as shares in [0, 1]; beyond the border the image's last pixels go on.
    """
    height, width = previous.shape[1:]
    boxes = torch.stack([_box(mask) for mask in previous | current]).to(images)
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    side = (side * MARGIN).clamp(min=MIN_CROP)
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2] = 2 * centre[:, 1] / width - 1
    theta[:, 1, 2] = 2 * centre[:, 0] / height - 1
    size = [len(images), 1, CROP_SIZE, CROP_SIZE]
    grid = functional.affine_grid(theta, size, align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    masks = torch.stack([previous, current], dim=1).to(images)
    masks = functional.grid_sample(masks, grid, padding_mode="zeros", align_corners=False)
    return images, masks[:, :1], masks[:, 1:]


def _box(mask: Bool[Tensor, "height width"]) -> Int[Tensor, "4"]:
    """Top, left, bottom and right of a mask, the last two exclusive; all of an empty slice."""
    if not mask.any():
        return torch.tensor([0, 0, *mask.shape])
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    return torch.stack([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]).cpu()
