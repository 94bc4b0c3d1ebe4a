"""Features on another grid, and what convolutions make of them there."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Features = Float[Tensor, "batch channels height width"]
Branches = Sequence[Float[Tensor, "batch _ _ _"]]  # from fine to coarse

COARSE = 2  # times: what is to be enlarged more than that is convolved first


def resize(features: Features, grid: torch.Size) -> Float[Tensor, "batch channels _ _"]:
    """Features on another grid, the corners of both aligned (as RITM does)."""
    if features.shape[-2:] == grid:
        return features
    return F.interpolate(features, grid, mode="bilinear", align_corners=True)


def resize_and_convolve(
    branches: Branches, convolution: nn.Conv2d
) -> Float[Tensor, "batch out_channels height width"]:
    """What a convolution makes of all branches, each resized to the grid of the first."""
    return convolution(_resized(branches))


def convolve_and_resize(
    branches: Branches, convolution: nn.Conv2d
) -> Float[Tensor, "batch out_channels height width"]:
    """The same but for rounding, of four branches in a quarter of the operations (ours).

    Convolving and resizing are both linear, so that they can change places: the convolution then
    has small grids to work on.

    Args:
        convolution: keeps the grid; its side is odd.
    """
    grid, sizes = branches[0].shape[-2:], [branch.shape[1] for branch in branches]
    fine = sum(COARSE * branch.shape[-1] >= grid[1] for branch in branches)
    if fine == len(branches):
        return resize_and_convolve(branches, convolution)
    weight, *weights = convolution.weight.split([sum(sizes[:fine]), *sizes[fine:]], dim=1)
    total = F.conv2d(_resized(branches[:fine]), weight, convolution.bias, padding="same")
    parts = [
        _convolve_coarse(branch, weight, grid)
        for branch, weight in zip(branches[fine:], weights, strict=True)
    ]
    down = torch.cat([down for down, _ in parts], dim=2).expand(len(total), -1, -1)
    across = torch.cat([across for _, across in parts], dim=1)
    total = total.permute(0, 2, 3, 1).contiguous()  # channels last, as all of it comes out
    total.flatten(2).baddbmm_(down.to(total), across.to(total))
    return total.permute(0, 3, 1, 2)


def _resized(branches: Branches) -> Features:
    """All channels on the grid of the first branch."""
    grid = branches[0].shape[-2:]
    return torch.cat([resize(branch, grid) for branch in branches], dim=1)


def _convolve_coarse(
    features: Features, weight: Float[Tensor, "out channels side side"], grid: torch.Size
) -> tuple[Float[Tensor, "1 rows steps"], Float[Tensor, "batch steps columns_out"]]:
    """Two matrices whose product is the convolution of the resized features, channels last.

    Each cell says what it adds to the convolution wherever the kernel meets it; the second matrix
    has that spread along rows already, the first spreads it over rows.
    """
    (batch, _, height, width), (out, _, side, _) = features.shape, weight.shape
    each = torch.einsum("bchw,ocij->bhiwjo", features, weight)
    each = each.reshape(batch, height * side, width * side, out)
    across = _spread(width, grid[1], side, features) @ each
    return _spread(height, grid[0], side, features)[None], across.flatten(2)


def _spread(length: int, target: int, side: int, like: Tensor) -> Float[Tensor, "target _"]:
    """How much cell and kernel position, in this order, add to each place of the target line."""
    line = torch.eye(length, dtype=like.dtype, device=like.device)[None]
    line = F.interpolate(line, target, mode="linear", align_corners=True)[0]
    met = F.pad(line, (side // 2, side // 2)).unfold(1, side, 1)  # cell, place, position
    return met.transpose(0, 1).flatten(1)
