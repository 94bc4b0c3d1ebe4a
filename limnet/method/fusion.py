"""Multi-round fusion: keep, slice by slice, the better of two rounds (paper, II-C, Eqs. 1-4)."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from limnet.method.prompts import Crop
from limnet.method.refinement import Grey, IntensityModel
from limnet.metrics import dice
from limnet.volumes.masks import Mask, PackedMasks

Images = Float[Tensor, "batch 3 height width"]  # in [0, 1]
# gives the slices of the indices it is asked for, at the size of the masks
ImagesOf = Callable[[list[int]], Images]

# (images, previous masks, current masks) -> probability that the previous mask is the better one;
# the last two may be followed by `FusionFeatures`
QualityNet = Callable[..., Float[Tensor, " batch"]]

CROP_SIZE = 96  # pixels a side of what the quality net sees
MARGIN = 1.4  # side of the crop over that of the box around both masks
MOST_PIXELS = 1 << 20  # of a batch of slices: 4 of 512 x 512
MIN_CROP = 32  # pixels of the slice: smaller boxes are not enlarged further
FEW_PIXELS = 5  # added to areas, so that small ones say little
LARGEST_RATIO = 3.0  # of the logarithms of areas: a mask of a twentieth is as good as none
LARGEST_AGREEMENT = 1.0  # of intensities: histograms of little overlap would decide alone


@torch.inference_mode()
def fuse(
    quality_net: QualityNet,
    images: ImagesOf,
    previous: PackedMasks,
    current: PackedMasks,
    user_masks: Collection[int] = (),
    features: "FusionFeatures | None" = None,
    *,
    threshold: float = 0.5,
    batch_size: int = 16,
) -> tuple[PackedMasks, Float32[np.ndarray, " slices"]]:
    """The better mask of two consecutive rounds for every slice: the argmax of Eq. 1.

    Args:
        user_masks: slices whose mask the user gave: the current mask stays, nothing is compared.
        features: of these rounds, for networks that weigh them.
        threshold: tau of Eq. 4; the previous mask stays where its probability is above it.
        batch_size: slices compared at once (Eq. 3); changes memory and speed, not the result.

    Returns:
        The fused masks, and per slice the probability that the previous mask is better: one half
        where nothing was compared.

    Raises:
        ValueError: the rounds do not cover the same slices.
    """
    if previous.shape != current.shape:
        raise ValueError(
            "previous and current masks must cover the same slices, got "
            f"{previous.shape} and {current.shape}"
        )
    height, width = current.slice_shape
    batch_size = max(1, min(batch_size, MOST_PIXELS // (height * width)))
    differs = previous.differs(current)
    differs[list(user_masks)] = False
    changed = np.flatnonzero(differs).tolist()
    previous_better = np.full(len(current), 0.5, dtype=np.float32)
    for start in range(0, len(changed), batch_size):
        batch = changed[start : start + batch_size]
        shown = images(batch)
        masks = (torch.from_numpy(each[batch]).to(shown.device) for each in (previous, current))
        seen = crop_to_masks(shown, *masks)
        if features is not None:
            seen = *seen, torch.from_numpy(features.on(batch, shown)).to(shown.device)
        previous_better[batch] = quality_net(*seen).float().cpu().numpy()  # Eqs. 2 and 3
    keep = differs & (previous_better > threshold)
    return previous.where(keep, current), previous_better  # Eq. 4


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
    either = (previous | current).cpu().numpy()
    whole = Crop.whole((height, width))
    crops = [Crop.bounding(mask) if mask.any() else whole for mask in either]
    top, bottom, left, right = torch.tensor(crops).to(images).unbind(dim=1)
    side = torch.maximum(bottom - top, right - left)
    side = (side * MARGIN).clamp(min=MIN_CROP)
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2] = 2 * ((left + right) / 2) / width - 1
    theta[:, 1, 2] = 2 * ((top + bottom) / 2) / height - 1
    size = [len(images), 1, CROP_SIZE, CROP_SIZE]
    grid = functional.affine_grid(theta, size, align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    masks = torch.stack([previous, current], dim=1).to(images)
    masks = functional.grid_sample(masks, grid, padding_mode="zeros", align_corners=False)
    return images, masks[:, :1], masks[:, 1:]


@dataclass(frozen=True, eq=False)
class FusionFeatures:
    """What two rounds say of which mask is better, beside the picture (beyond the paper).

    The quality network of the paper looks at one slice and two masks (Eq. 2). Rounds know more:
    the user's masks on other slices, and what was wrong where the user corrected last.
    """

    previous: PackedMasks
    current: PackedMasks
    user_masks: Mapping[int, Mask]
    corrections: Mapping[int, Mask]  # pixels on which a user's mask differs from the previous round
    intensities: IntensityModel  # of the object on the user's slices

    @classmethod
    def of(
        cls,
        previous: PackedMasks,
        current: PackedMasks,
        user_masks: Mapping[int, Mask],
        images: ImagesOf,
    ) -> "FusionFeatures":
        """Of two rounds and the masks that the user gave by then."""
        examples = (
            (_grey(images([index]))[0], mask) for index, mask in user_masks.items() if mask.any()
        )
        changed = {index: previous[index] ^ mask for index, mask in user_masks.items()}
        corrections = {index: pixels for index, pixels in changed.items() if pixels.any()}
        return cls(previous, current, user_masks, corrections, IntensityModel.of(examples))

    def on(self, slice_indices: Sequence[int], images: Images) -> Float32[np.ndarray, "asked 5"]:
        """Five features of each slice asked for, of the previous mask less the current.

        They are log_area_ratio, dice_to_nearest_prompt, intensity_agreement, last_correction and
        distance_beyond_prompts. If rounds change places, so do the signs, where the same was
        corrected. A feature that needs a mask of the user is 0 where there is none.

        Args:
            images: these slices.
        """
        asked = zip(slice_indices, _grey(images), strict=True)
        rows = [self._on_one(index, grey) for index, grey in asked]
        return np.array(rows, dtype=np.float32).reshape(-1, 5)

    def _on_one(self, index: int, grey: Grey) -> tuple[float, ...]:
        first, second = self.previous[index], self.current[index]
        areas = (each.slices[index].area + FEW_PIXELS for each in (self.previous, self.current))
        ratio = np.log(np.divide(*areas))
        log_area_ratio = float(np.clip(ratio, -LARGEST_RATIO, LARGEST_RATIO))
        agreement = self.intensities.prefers(grey, first, second)
        return (
            log_area_ratio,
            self._dice_to_nearest_prompt(index, first, second),
            float(np.clip(agreement, -LARGEST_AGREEMENT, LARGEST_AGREEMENT)),
            self._last_correction(index, first, second),
            -log_area_ratio * self._distance_beyond_prompts(index),
        )

    def _dice_to_nearest_prompt(self, index: int, first: Mask, second: Mask) -> float:
        if not self.user_masks:
            return 0.0
        nearest = self.user_masks[_nearest(self.user_masks, index)]
        return dice(first, nearest) - dice(second, nearest)

    def _last_correction(self, index: int, first: Mask, second: Mask) -> float:
        """Pixels of the nearest correction that are right in the first mask, less in the second.

        As a share of those that differ. What was wrong on a slice is wrong on its neighbours.
        """
        if not self.corrections:
            return 0.0
        nearest = _nearest(self.corrections, index)
        differs = first ^ second
        decided = differs & self.corrections[nearest]
        right = (first == self.user_masks[nearest])[decided].sum()
        return float((2 * right - decided.sum()) / (differs.sum() + FEW_PIXELS))

    def _distance_beyond_prompts(self, index: int) -> float:
        """Logarithm of how far from the user's slices with the object; 0 between two of them."""
        shown = [other for other, mask in self.user_masks.items() if mask.any()]
        if not shown or min(shown) < index < max(shown):
            return 0.0
        return float(np.log1p(abs(_nearest(shown, index) - index)))


def _nearest(slices: Iterable[int], index: int) -> int:
    return min(slices, key=lambda other: abs(other - index))


def _grey(images: Images) -> Float[np.ndarray, "batch height width"]:
    return images.float().mean(dim=1).cpu().numpy()
