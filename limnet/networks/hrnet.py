"""HRNet with an OCR head, the two-dimensional network behind the click net (paper, section II-B).

HRNet (Wang et al., 2019) keeps a high-resolution branch all the way through and adds coarser ones
beside it; OCR (Yuan et al., 2020) refines its features with a description of the whole object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limnet.networks.layers import (
    BasicBlock,
    Bottleneck,
    activated_convolution,
    block_chain,
    convolution,
)

Features = Float[Tensor, "batch channels height width"]
Branches = Sequence[Float[Tensor, "batch _ _ _"]]  # from fine to coarse

COARSE = 2  # times: what is to be enlarged more than that is convolved first


@dataclass(frozen=True)
class HRNetConfig:
    """Sizes of an HRNet; the defaults are HRNetV2-W32 as RITM uses it."""

    width: int = 32  # channels of the finest branch; each coarser one has twice as many
    stem_channels: int = 64  # channels at strides 2 and 4, before the branches
    bottlenecks: int = 4  # blocks between stem and branches
    bottleneck_planes: int = 64  # their inner channels; four times as many come out
    stage_modules: tuple[int, int, int] = (1, 4, 3)  # exchange modules with 2, 3 and 4 branches
    blocks: int = 4  # basic blocks of each branch in each module
    ocr_width: int = 128  # channels of the object's context; the head works on twice as many
    dropout: float = 0.05  # probability that the head drops a channel in training


class HeadOutput(NamedTuple):
    """What the head finds, on the stride-4 grid."""

    mask: Float[Tensor, "batch 1 height width"]  # logits
    auxiliary: Float[Tensor, "batch 1 height width"]  # logits before the object's context is known
    context: Float[Tensor, "batch channels height width"]  # the features that are classified


class HRNetOutput(NamedTuple):
    """What the head finds, and the features that went in at stride 2."""

    head: HeadOutput
    stem: Float[Tensor, "batch stem half_height half_width"]


class HRNet(nn.Module):
    """The logits of one object on the stride-4 grid, from an image and features added to it."""

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__()
        stem, planes = config.stem_channels, config.bottleneck_planes
        widths = [config.width * 2**branch for branch in range(4)]
        self.conv1 = convolution(3, stem, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = convolution(stem, stem, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(stem)
        self.layer1 = block_chain(Bottleneck, stem, planes, config.bottlenecks)

        self.transitions = nn.ModuleList()
        self.stages = nn.ModuleList()
        previous = [planes * Bottleneck.expansion]
        for branches, modules in zip((2, 3, 4), config.stage_modules, strict=True):
            current = widths[:branches]
            self.transitions.append(_transition(previous, current))
            exchanges = (Exchange(current, config.blocks) for _ in range(modules))
            self.stages.append(nn.Sequential(*exchanges))
            previous = current
        self.head = OCRHead(sum(widths), config.ocr_width, config.dropout)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        additions: Float[Tensor, "batch stem half_height half_width"],
    ) -> HRNetOutput:
        """The object's logits and the features around them.

        Args:
            images: normalised as for ImageNet; any size.
            additions: features added after the first convolution (stride 2): the clicks.
        """
        stem = F.relu(self.bn1(self.conv1(images)), inplace=True) + additions
        features = F.relu(self.bn2(self.conv2(stem)), inplace=True)
        branches = [self.layer1(features)]
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            # the new, coarsest branch starts from the coarsest one so far
            branches = [
                enter(branch)
                for enter, branch in zip(transition, [*branches, branches[-1]], strict=True)
            ]
            branches = stage(branches)
        return HRNetOutput(self.head(branches), stem)


class Exchange(nn.Module):
    """Residual blocks on each branch, then every branch adds up what all branches say."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            block_chain(BasicBlock, width, width, blocks) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_layer(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, features: Branches) -> Branches:
        branches = [
            branch(feature) for branch, feature in zip(self.branches, features, strict=True)
        ]
        fused = []
        for layers, target in zip(self.fuse_layers, branches, strict=True):
            terms = (layer(branch) for layer, branch in zip(layers, branches, strict=True))
            total = reduce(torch.add, (resize(term, target.shape[-2:]) for term in terms))
            fused.append(F.relu(total, inplace=True))
        return fused


class OCRHead(nn.Module):
    """Object-contextual representations (Yuan et al., 2020) of a single class.

    The attention over classes has one class to choose from and is 1 everywhere. So the pixel and
    object queries, which published weights hold, say nothing: `f_pixel` and `f_object` never run,
    and the context is one vector per image instead of a map.
    """

    def __init__(self, in_channels: int, ocr_width: int, dropout: float) -> None:
        super().__init__()
        channels = 2 * ocr_width
        self.convolve = convolve_and_resize  # or `resize_and_convolve`, as published
        self.auxiliary = nn.Sequential(
            convolution(in_channels, in_channels, 1, bias=True),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            convolution(in_channels, 1, 1, bias=True),
        )
        self.features = nn.Sequential(
            convolution(in_channels, channels, 3, bias=True),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.f_pixel = _convolutions(channels, ocr_width, ocr_width)
        self.f_object = _convolutions(channels, ocr_width, ocr_width)
        self.f_down = _convolutions(channels, ocr_width)
        self.f_up = _convolutions(ocr_width, channels)
        self.join = _convolutions(2 * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = convolution(channels, 1, 1, bias=True)

    def forward(self, branches: Branches) -> HeadOutput:
        """What the head finds on the grid of the first branch, to which all are resized."""
        auxiliary = self.auxiliary[1:](self.convolve(branches, self.auxiliary[0]))
        features = self.features[1:](self.convolve(branches, self.features[0]))
        attention = auxiliary.flatten(2).softmax(dim=2)  # of each position, in the object
        context = torch.einsum("bip,bcp->bc", attention, features.flatten(2))[:, :, None, None]
        context = self.f_up(self.f_down(context))

        # the convolution of [context, features] in two halves: the first is the same everywhere
        join, *activation = self.join
        of_context, of_features = join.weight.chunk(2, dim=1)
        joined = F.conv2d(features, of_features, join.bias) + F.conv2d(context, of_context)
        for layer in activation:
            joined = layer(joined)
        return HeadOutput(self.classify(self.dropout(joined)), auxiliary, joined)


def _convolutions(*channels: int) -> nn.Sequential:
    """1 x 1 convolutions, each followed by batch norm and ReLU (nested as in published files)."""
    layers = []
    for in_channels, out_channels in pairwise(channels):
        activation = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
        layers += [convolution(in_channels, out_channels, 1), activation]
    return nn.Sequential(*layers)


def _transition(previous: list[int], current: list[int]) -> nn.ModuleList:
    """How each branch of a stage is entered: as it is, or by a convolution to its width."""
    enter = [
        nn.Identity() if source == target else activated_convolution(source, target)
        for source, target in zip(previous, current, strict=False)
    ]
    new = nn.Sequential(activated_convolution(previous[-1], current[-1], stride=2))
    return nn.ModuleList([*enter, new])


def _fuse_layer(widths: list[int], source: int, target: int) -> nn.Module:
    """From the source branch to the channels of the target branch; its grid, if that is coarser."""
    if source == target:
        return nn.Identity()
    if source > target:
        return activated_convolution(widths[source], widths[target], size=1)[:2]
    steps = [
        activated_convolution(widths[source], widths[source], stride=2)
        for _ in range(target - source - 1)
    ]
    return nn.Sequential(
        *steps, activated_convolution(widths[source], widths[target], stride=2)[:2]
    )


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
