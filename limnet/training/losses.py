"""What training minimises: for clicks as RITM does, for propagation as XMem does, per sample."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Maps = Float[Tensor, "batch 1 height width"]


def normalised_focal_loss(
    logits: Maps, labels: Maps, *, alpha: float = 0.5, gamma: float = 2.0
) -> Float[Tensor, " batch"]:
    """Focal loss whose weights are rescaled to mean 1, so that it does not fade (RITM).

    Args:
        alpha: weight of the object's pixels; those of the background weigh 1 - alpha.
        gamma: how much easy pixels are played down.
    """
    small = 1e-12
    right = 1 - (labels - logits.sigmoid()).abs()  # probability that the network gives the label
    focus = (1 - right) ** gamma
    count = labels[0].numel()
    # part of the weights, not of what is minimised: no gradient
    scale = (count / (focus.sum(dim=(1, 2, 3)) + small)).detach()[:, None, None, None]
    balance = torch.where(labels > 0.5, alpha, 1 - alpha)
    losses = -balance * scale * focus * (right + small).clamp(max=1).log()
    return losses.sum(dim=(1, 2, 3)) / count


def hard_example_fraction(
    step: int, *, start: int = 20_000, end: int = 70_000, least: float = 0.15
) -> float:
    """Part of the pixels that a training step counts: all until `start`, `least` from `end` on.

    In between it falls linearly (XMem).
    """
    progress = min(max((step - start) / (end - start), 0.0), 1.0)
    return 1 - (1 - least) * progress


def bootstrapped_cross_entropy(
    logits: Float[Tensor, "batch classes height width"],
    labels: Int[Tensor, "batch height width"],
    *,
    fraction: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Cross entropy of each sample's hardest pixels, `fraction` of them (XMem).

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    losses = F.cross_entropy(logits, labels, reduction="none").flatten(1)
    hardest = max(1, int(losses.shape[1] * fraction))
    return losses.topk(hardest, dim=1, sorted=False).values.mean(dim=1)


def dice_loss(
    probabilities: Float[Tensor, "batch objects height width"],
    labels: Float[Tensor, "batch objects height width"],
) -> Float[Tensor, " batch"]:
    """1 - (2 |A and B| + 1) / (|A| + |B| + 1), the mean over objects (XMem's smoothing)."""
    intersection = (probabilities * labels).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + labels.sum(dim=(2, 3))
    return (1 - (2 * intersection + 1) / (total + 1)).mean(dim=1)
