"""From clicks on one slice to its prompt mask (paper, section II-B).

The network is that of RITM (Sofiiuk et al., 2021): clicks and the previous mask pass through two
convolutions and are added to the first features of an HRNet.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limnet.networks.hrnet import HRNet, HRNetConfig, resize
from limnet.networks.layers import activated_convolution, convolution, initialise, normalise


@dataclass(frozen=True)
class ClickNetConfig:
    """Sizes of a click net; the defaults are RITM's `coco_lvis_h32_itermask`."""

    hrnet: HRNetConfig = field(default_factory=HRNetConfig)
    maps_channels: int = 16  # of the first convolution of the click maps
    maps_scale: float = 0.05  # first value of the learnt weight of clicks beside image features
    detail_channels: int = 0  # of a head on finer grids than stride 4; RITM has none
    zoom_size: int = 400  # pixels of the longer side of the crops it is trained for
    multi_scale: bool = False  # of crops, whose mean a click's mask is; RITM has one (ours)
    postprocess: bool = False  # a click's mask, by its appearance and by the mask before (ours)
    refinements: int = 0  # at each mask that propagation makes, none in the paper (ours)
    rgb: bool = True  # False: trained on grey slices, so colours are averaged


class ClickLogits(NamedTuple):
    """Logits at the size of the images."""

    mask: Float[Tensor, "batch 1 height width"]
    auxiliary: Float[Tensor, "batch 1 height width"]  # of the head's first guess, for training


class ClickNet(nn.Module):
    """The mask of the object that was clicked on."""

    def __init__(self, config: ClickNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or ClickNetConfig()
        stem, inner = self.config.hrnet.stem_channels, self.config.maps_channels
        self.hrnet = HRNet(self.config.hrnet)
        self.maps_transform = nn.Sequential(
            convolution(3, inner, 1, bias=True),
            nn.LeakyReLU(0.2, inplace=True),
            convolution(inner, stem, 3, stride=2, bias=True),
        )
        self.maps_scale = nn.Parameter(torch.tensor([self.config.maps_scale]))
        self.detail = None
        if self.config.detail_channels:
            context = 2 * self.config.hrnet.ocr_width
            self.detail = DetailHead(context, stem, self.config.detail_channels)
        initialise(self)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        click_maps: Float[Tensor, "batch 2 height width"],
        previous: Float[Tensor, "batch 1 height width"],
    ) -> ClickLogits:
        """The object's logits; any image size works.

        Args:
            images: red, green, blue in [0, 1]; ImageNet normalisation happens inside.
            click_maps: disks of the positive and of the negative clicks.
            previous: probability of the previous mask, zeros before the first click.
        """
        dtype, size = self.maps_scale.dtype, images.shape[-2:]
        maps = torch.cat([previous, click_maps], dim=1).to(dtype)
        images = normalise(images, rgb=self.config.rgb).to(dtype)
        head, stem = self.hrnet(images, self.maps_transform(maps) * self.maps_scale.abs())
        mask, auxiliary = (resize(logits, size) for logits in (head.mask, head.auxiliary))
        if self.detail is not None:
            mask = mask + self.detail(head.context, stem, torch.cat([images, maps], dim=1))
        return ClickLogits(mask.float(), auxiliary.float())


class DetailHead(nn.Module):
    """A correction to the logits, found on half and then on all of the slice's pixels.

    The stride-4 grid of an HRNet cannot show thin walls and the exact border. RITM answers on this
    grid, which is enough at 400 pixels and too coarse for the small crops that a CPU can afford.
    """

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
