"""The same network, made to answer faster on what it has learnt: for inference alone (ours)."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_batchnorm(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """A copy whose batch norms are part of the convolutions before them, channels last.

    It cannot be trained or saved. In float32 it differs by rounding only.

    Args:
        dtype: of weights and features; bfloat16 halves both and is fast on some processors.
            Parts that the network names in `float32_parts` stay so.
    """
    copy = deepcopy(network).eval()
    for module in list(copy.modules()):
        for convolution, norm in _neighbours(module):
            fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
            setattr(module, convolution, fused)
            setattr(module, norm, nn.Identity())
    copy.requires_grad_(False).to(memory_format=torch.channels_last)
    exact = {
        name: deepcopy(copy.get_submodule(name)) for name in getattr(copy, "float32_parts", ())
    }
    copy.to(dtype=dtype)
    for name, part in exact.items():
        copy.set_submodule(name, part)
    return copy


def _neighbours(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of convolutions and of the batch norms that follow them at once.

    Residual blocks and stems register each norm after its convolution, as a chain does.
    """
    for (name, first), (next_name, second) in pairwise(module.named_children()):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            yield name, next_name
