"""Multi-round fusion: keep, slice by slice, the better of two rounds (paper, section II-C)."""

from collections.abc import Callable, Collection

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn import functional

from limnet.method.evidence import FusionFeatures
from limnet.volumes.masks import PackedMasks

Images = Float[Tensor, "batch 3 height width"]  # in [0, 1]
Masks = Bool[Tensor, "slices height width"]

# (images, previous masks, current masks) -> probability that the previous mask is the better one;
# the last two may be followed by evidence
QualityNet = Callable[..., Float[Tensor, " batch"]]

CROP_SIZE = 96  # pixels a side of what the quality net sees
MARGIN = 1.4  # side of the crop over that of the box around both masks
MOST_PIXELS = 1 << 20  # of a batch of slices: 4 of 512 x 512
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
    _check(tuple(previous.shape), tuple(current.shape))
    batches = zip(previous.split(batch_size), current.split(batch_size), strict=True)
    differs = torch.cat([(first != second).flatten(1).any(dim=1) for first, second in batches])
    changed = differs.nonzero()[:, 0].tolist()
    answers = _compare(
        quality_net,
        images,
        lambda batch: (previous[batch], current[batch]),
        changed,
        batch_size,
    )
    fused, previous_better = current.clone(), torch.full((len(current),), 0.5)
    previous_better[changed] = answers
    for index in changed:
        if previous_better[index] > threshold:
            fused[index] = previous[index]
    return fused, previous_better.to(previous.device)


@torch.inference_mode()
def fuse_packed(
    quality_net: QualityNet,
    images: Callable[[list[int]], Images],
    previous: PackedMasks,
    current: PackedMasks,
    *,
    given: Collection[int] = (),
    evidence: FusionFeatures | None = None,
    threshold: float = 0.5,
    batch_size: int = 16,
) -> tuple[PackedMasks, Float32[np.ndarray, " slices"]]:
    """As `fuse_rounds`, but no more than a batch of masks is ever unpacked.

    Args:
        given: slices that the user has shown: there the current mask stays and nothing is asked.
        evidence: of these rounds, for networks that weigh it.

    Raises:
        ValueError: the rounds do not cover the same slices.
    """
    _check(previous.shape, current.shape)
    height, width = current.slice_shape
    batch_size = max(1, min(batch_size, MOST_PIXELS // (height * width)))
    differs = previous.differs(current)
    differs[list(given)] = False
    changed = np.flatnonzero(differs).tolist()

    def masks(batch: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(previous[batch]), torch.from_numpy(current[batch])

    answers = _compare(quality_net, images, masks, changed, batch_size, evidence)
    previous_better = np.full(len(current), 0.5, dtype=np.float32)
    previous_better[changed] = answers.numpy()
    keep = np.zeros(len(current), dtype=bool)
    keep[changed] = (answers > threshold).numpy()
    return previous.where(keep, current), previous_better


def _check(previous: tuple[int, ...], current: tuple[int, ...]) -> None:
    if previous != current:
        raise ValueError(
            f"previous and current masks must cover the same slices, got {previous} and {current}"
        )


def _compare(
    quality_net: QualityNet,
    images: Callable[[list[int]], Images],
    rounds: Callable[[list[int]], tuple[Masks, Masks]],
    changed: list[int],
    batch_size: int,
    evidence: FusionFeatures | None = None,
) -> Float32[Tensor, " changed"]:
    """The probability that the previous mask is better, of the slices that changed (Eq. 2).

    Args:
        rounds: previous and current masks of a batch of slices.
    """
    answers = torch.empty(len(changed))
    for start in range(0, len(changed), batch_size):
        batch = changed[start : start + batch_size]
        shown = images(batch)
        previous, current = (each.to(shown.device) for each in rounds(batch))
        seen = crop_to_masks(shown, previous, current)
        if evidence is not None:
            told = torch.from_numpy(evidence.on(batch, shown))
            seen = *seen, told.to(shown.device)
        answers[start : start + len(batch)] = quality_net(*seen).to(answers)
    return answers


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
