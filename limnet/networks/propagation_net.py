"""From memory features to the mask of a slice: the networks of propagation (paper, section II-D).

They are those of XMem (Cheng and Schwing, 2022): a key encoder sees the slice alone, a value
encoder sees it with its mask, and a decoder turns what was read from memory into a mask. Several
objects are the batch axis.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limnet.networks.layers import ResNet, convolution, initialise

STRIDE = 16  # of the grid on which memory is read

Images = Float[Tensor, "batch 3 height width"]
Maps = Float[Tensor, "batch 1 height width"]
Value = Float[Tensor, "batch value_dim height16 width16"]
Sensory = Float[Tensor, "batch hidden_dim height16 width16"]
Features = Float[Tensor, "batch channels height width"]
# both convolutions of a plain block, one after the other, summed over its first channels only
PartialSums = Float[Tensor, "batch twice_out_channels height width"]


@dataclass(frozen=True)
class PropagationNetConfig:
    """Sizes of a propagation net; the defaults are XMem's."""

    key_backbone: str = "resnet50"  # encodes the slice
    value_backbone: str = "resnet18"  # encodes the slice with its masks
    width: int = 64  # channels of both backbones' first convolution
    key_dim: int = 64  # channels of key and selection
    value_dim: int = 512  # channels of a memorised value
    hidden_dim: int = 64  # channels of sensory memory
    decoder_channels: int = 256  # at strides 8 and 4
    working_size: int = 480  # pixels of the shorter side of the slices it is trained for
    close_up_size: int = 0  # pixels a side of a close-up of the object; 0: always whole slices
    memorize_every: int = 5  # slices from one memorized slice to the next
    rgb: bool = True  # False: trained on grey slices, so colours are averaged
    # what goes into memory and the logits are made in float32 where the rest computes in 16 bits
    fp32_memory: bool = False


class KeyFeatures(NamedTuple):
    """What the key encoder says of each slice."""

    key: Float[Tensor, "batch key_dim height16 width16"]
    shrinkage: Float[Tensor, "batch 1 height16 width16"]  # s of XMem, at least 1
    selection: Float[Tensor, "batch key_dim height16 width16"]  # e of XMem, in [0, 1]
    f16: Float[Tensor, "batch channels16 height16 width16"]
    f8: Float[Tensor, "batch channels8 height8 width8"]
    f4: Float[Tensor, "batch channels4 height4 width4"]


class SliceEncoding(NamedTuple):
    """All that the network needs of a slice beside the slice, and that no mask changes."""

    key: Float[Tensor, "batch key_dim height16 width16"]
    shrinkage: Float[Tensor, "batch 1 height16 width16"]
    selection: Float[Tensor, "batch key_dim height16 width16"]
    value16: PartialSums  # for the fuser of the value encoder
    decoder16: PartialSums  # for that of the decoder
    decoder8: Float[Tensor, "batch value_dim height8 width8"]  # its skips
    decoder4: Float[Tensor, "batch decoder_channels height4 width4"]


class PropagationNet(nn.Module):
    """Key encoder, value encoder and decoder; what they remember is the caller's."""

    def __init__(self, config: PropagationNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PropagationNetConfig()
        self.key_encoder = ResNet(config.key_backbone, width=config.width, stages=3)
        f16_channels = self.key_encoder.channels[-1]
        self.key_projection = convolution(f16_channels, config.key_dim, 3, bias=True)
        self.shrinkage_projection = convolution(f16_channels, 1, 3, bias=True)
        self.selection_projection = convolution(f16_channels, config.key_dim, 3, bias=True)

        self.value_encoder = ResNet(
            config.value_backbone, width=config.width, stages=3, in_channels=5
        )
        self.value_fuser = Fuser(f16_channels + self.value_encoder.channels[-1], config.value_dim)
        self.value_gate = Gate(config.value_dim, config.hidden_dim)
        self.decoder = Decoder(config, self.key_encoder.channels)
        initialise(self)
        if not self.key_projection.weight.is_meta:  # as in `initialise`
            nn.init.orthogonal_(self.key_projection.weight)
            for gate in (self.value_gate, self.decoder.gate):
                nn.init.xavier_normal_(gate.transform.weight)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features, but for `float32_parts`."""
        return self.decoder.skip4.weight.dtype

    @property
    def sensory_dtype(self) -> torch.dtype:
        """Of sensory memory, from its beginning on: else a GPU would record some parts twice."""
        return self.value_gate.transform.weight.dtype

    @property
    def float32_parts(self) -> tuple[str, ...]:
        """What makes keys: they are compared by differences of near squares, which 16 bits lose.

        With `fp32_memory` also the rest of what goes into memory, and the logits: of a small object
        one or two pixels at the border are 0.002 of its DSC.
        """
        keys = ("key_projection", "shrinkage_projection", "selection_projection")
        if not self.config.fp32_memory:
            return keys
        values = ("key_encoder", "value_encoder", "value_fuser")
        return (*keys, *values, "value_gate", "decoder.gate", "decoder.predict")

    def encode_key(self, images: Images) -> KeyFeatures:
        """Keys and features of ImageNet-normalised slices.

        Raises:
            ValueError: height or width is not a multiple of 16.
        """
        _check_size(images)
        f4, f8, f16 = self.key_encoder(images.to(self.key_encoder.conv1.weight.dtype))
        seen = f16.to(self.key_projection.weight.dtype)
        return KeyFeatures(
            key=self.key_projection(seen).float(),
            shrinkage=self.shrinkage_projection(seen).float().square() + 1,
            selection=self.selection_projection(seen).float().sigmoid(),
            f16=f16,
            f8=f8,
            f4=f4,
        )

    def precompute(self, features: KeyFeatures) -> SliceEncoding:
        """Begin the work of value encoder and decoder: at XMem's size four tenths of it.

        Their first convolutions are sums over channels, of which the slice's own come first.
        """
        key, shrinkage, selection, f16, f8, f4 = features
        value16 = self.value_fuser.block1.partial_conv(f16)
        if self.key_encoder.conv1.weight.dtype != self.dtype:  # what autocast made smaller stays so
            f16, f8, f4 = (each.to(self.dtype) for each in (f16, f8, f4))
        return SliceEncoding(
            key,
            shrinkage,
            selection,
            value16=value16,
            decoder16=self.decoder.fuser.block1.partial_conv(f16),
            decoder8=self.decoder.skip8(f8),
            decoder4=self.decoder.skip4(f4),
        )

    def encode_value(
        self,
        images: Images,
        parts: SliceEncoding,
        sensory: Sensory,
        mask: Maps,
        others: Maps,
        *,
        update_sensory: bool,
    ) -> tuple[Value, Sensory]:
        """The value of slices under their masks, and the sensory memory after them.

        Args:
            images: ImageNet-normalised.
            parts: what `precompute` gave for them.
            mask: probability of the object.
            others: sum of the probabilities of the other objects.
            update_sensory: False hands `sensory` back as it came.

        Raises:
            ValueError: height or width is not a multiple of 16.
        """
        _check_size(images)
        seen = torch.cat([images, mask, others], dim=1)
        features = self.value_encoder(seen.to(self.value_encoder.conv1.weight.dtype))[-1]
        value = self.value_fuser(parts.value16, features)
        return value, self.value_gate(value, sensory) if update_sensory else sensory

    def decode(
        self, parts: SliceEncoding, readout: Value, sensory: Sensory, *, update_sensory: bool
    ) -> tuple[Maps, Sensory]:
        """Logits of the object at the size of the slices, and the sensory memory after them."""
        return self.decoder(parts, readout.to(self.dtype), sensory, update_sensory=update_sensory)


def aggregate(
    probabilities: Float[Tensor, "*batch objects height width"],
) -> Float[Tensor, "*batch objects+1 height width"]:
    """Logits of background and objects together; their softmax is the soft aggregation.

    One object's probability p becomes p^2 / (p^2 + (1 - p)^2), which is not p.
    """
    background = (1 - probabilities).prod(dim=-3, keepdim=True)
    together = torch.cat([background, probabilities], dim=-3)
    return together.clamp(1e-7, 1 - 1e-7).logit()


class Decoder(nn.Module):
    """Refines what was read from memory with the slice's finer features."""

    def __init__(self, config: PropagationNetConfig, channels: list[int]) -> None:
        super().__init__()
        f4, f8, f16 = channels
        value_dim, width = config.value_dim, config.decoder_channels
        self.fuser = Fuser(f16 + value_dim + config.hidden_dim, value_dim)
        self.skip8 = convolution(f8, value_dim, 3, bias=True)
        self.block8 = PlainBlock(value_dim, width)
        self.skip4 = convolution(f4, width, 3, bias=True)
        self.block4 = PlainBlock(width, width)
        self.predict = convolution(width, 1, 3, bias=True)
        self.sensory16 = convolution(value_dim, width, 1, bias=True)
        self.sensory8 = convolution(width, width, 1, bias=True)
        self.sensory4 = convolution(width + 1, width, 1, bias=True)
        self.gate = Gate(width, config.hidden_dim)

    def forward(
        self, parts: SliceEncoding, readout: Value, sensory: Sensory, *, update_sensory: bool
    ) -> tuple[Maps, Sensory]:
        g16 = self.fuser(parts.decoder16, torch.cat([readout, sensory.to(readout)], dim=1))
        g8 = self.block8(parts.decoder8.to(g16.dtype) + _enlarge(g16, 2))
        g4 = self.block4(parts.decoder4.to(g8.dtype) + _enlarge(g8, 2))
        border = F.relu(g4)
        if self.predict.weight.dtype != self.skip4.weight.dtype:  # as in `precompute`
            border = border.to(self.predict.weight.dtype)
        logits = self.predict(border)
        if update_sensory:
            seen = (
                self.sensory16(g16)
                + self.sensory8(F.avg_pool2d(g8, 2))
                + self.sensory4(F.avg_pool2d(torch.cat([g4, logits.to(g4)], dim=1), 4))
            )
            sensory = self.gate(seen, sensory)
        return _enlarge(logits, 4), sensory


class Gate(nn.Module):
    """How sensory memory changes with what was seen."""

    def __init__(self, in_channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.transform = convolution(in_channels + hidden_dim, 3 * hidden_dim, 3, bias=True)

    def forward(
        self, seen: Float[Tensor, "batch channels height16 width16"], sensory: Sensory
    ) -> Sensory:
        seen, sensory = (each.to(self.transform.weight.dtype) for each in (seen, sensory))
        gates = self.transform(torch.cat([seen, sensory], dim=1)).chunk(3, dim=1)
        forget, update, new = gates[0].sigmoid(), gates[1].sigmoid(), gates[2].tanh()
        # not the textbook's GRU: the forget gate scales the state itself (XMem, section 3.5)
        return forget * sensory * (1 - update) + update * new


class Fuser(nn.Module):
    """Two plain blocks with an attention between them; the first one was partial with the slice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block1 = PlainBlock(in_channels, out_channels)
        self.attention = Attention(out_channels)
        self.block2 = PlainBlock(out_channels, out_channels)

    def forward(
        self, partial: PartialSums, features: Features
    ) -> Float[Tensor, "batch out_channels height width"]:
        features = self.block1.complete_conv(partial, features)
        return self.block2(features + self.attention(features))


class PlainBlock(nn.Module):
    """A residual block without batch norm, activated before its convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, 3, bias=True)
        self.conv2 = convolution(out_channels, out_channels, 3, bias=True)
        self.downsample = (
            nn.Identity()
            if in_channels == out_channels
            else convolution(in_channels, out_channels, 3, bias=True)
        )

    def forward(self, features: Features) -> Float[Tensor, "batch out_channels height width"]:
        residual = self.conv2(F.relu(self.conv1(F.relu(features)), inplace=True))
        return residual + self.downsample(features)

    def partial_conv(self, features: Features) -> PartialSums:
        """What the first channels of a block that changes their number add to its convolutions."""
        first = slice(features.shape[1])
        residual = _partly(self.conv1, first, F.relu(features), self.conv1.bias)
        shortcut = _partly(self.downsample, first, features, self.downsample.bias)
        return torch.cat([residual, shortcut], dim=1)

    def complete_conv(
        self, partial: PartialSums, features: Features
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The block's answer to the first channels and these, the others."""
        residual, shortcut = partial.to(features.dtype).chunk(2, dim=1)
        others = slice(-features.shape[1], None)
        residual = residual + _partly(self.conv1, others, F.relu(features))
        residual = self.conv2(F.relu(residual, inplace=True))
        return residual + (shortcut + _partly(self.downsample, others, features))


class Attention(nn.Module):
    """Weighs channels, then positions (CBAM; Woo et al., 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
        )
        self.positions = convolution(2, 1, 7, bias=True)

    def forward(self, features: Features) -> Features:
        mean, largest = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))
        weights = self.channels(mean) + self.channels(largest)
        features = features * weights.sigmoid()[:, :, None, None]
        summary = torch.stack([features.amax(dim=1), features.mean(dim=1)], dim=1)
        return features * self.positions(summary).sigmoid()


def _partly(
    convolution: nn.Conv2d, channels: slice, features: Features, bias: Tensor | None = None
) -> Float[Tensor, "batch out_channels height width"]:
    """What some of its channels add to a convolution."""
    return F.conv2d(features, convolution.weight[:, channels], bias, padding="same")


def _enlarge(features: Features, times: int) -> Float[Tensor, "batch channels _ _"]:
    return F.interpolate(features, scale_factor=times, mode="bilinear", align_corners=False)


def _check_size(images: Images) -> None:
    height, width = images.shape[-2:]
    if height % STRIDE or width % STRIDE:
        raise ValueError(
            f"height and width must be multiples of {STRIDE}, got {height} x {width}; "
            "pad the images first"
        )
