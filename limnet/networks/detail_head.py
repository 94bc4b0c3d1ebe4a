"""What the stride-4 grid of an HRNet cannot show: thin walls and the exact border (ours).

RITM answers on a quarter of the slice's size, which is enough at 400 pixels and too coarse for the
small crops that a CPU can afford.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limnet.networks.layers import activated_convolution, convolution


class DetailHead(nn.Module):
    """A correction to the logits, found on half and then on all of the slice's pixels."""

    def __init__(self, context_channels: int, stem_channels: int, channels: int) -> None:
        super().__init__()
        inputs = 6  # three colours, the previous mask, positive and negative clicks
        self.reduce = convolution(context_channels, channels, 1)
        self.on_half = activated_convolution(channels + stem_channels, channels)
        self.on_full = activated_convolution(channels + inputs, channels)
        self.correct = convolution(channels, 1, 3, bias=True)

    def forward(
        self,
        context: Float[Tensor, "batch context quarter_height quarter_width"],
        stem: Float[Tensor, "batch stem half_height half_width"],
        inputs: Float[Tensor, "batch 6 height width"],
    ) -> Float[Tensor, "batch 1 height width"]:
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # as folded weights have it
        features = self.on_half(torch.cat([_enlarge(self.reduce(context), stem), stem], dim=1))
        return self.correct(self.on_full(torch.cat([_enlarge(features, inputs), inputs], dim=1)))


def _enlarge(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
