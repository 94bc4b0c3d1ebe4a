"""What the three networks share: residual blocks and ResNets (He et al., 2016), ImageNet's colours.

The encoders of the propagation net and the quality net are ResNets; HRNet shares their blocks.
Stride is on the 3 x 3 convolution.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# colour statistics of ImageNet, which every pretrained backbone expects
MEAN = (0.485, 0.456, 0.406)  # red, green, blue of images in [0, 1]
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, *, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the grid, apart from its stride."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=bias)


def activated_convolution(
    in_channels: int, out_channels: int, *, size: int = 3, stride: int = 1
) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    return nn.Sequential(
        convolution(in_channels, out_channels, size, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(in_channels, planes, stride)

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        residual = F.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(features), inplace=True)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; four times `planes` come out."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = convolution(in_channels, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = convolution(planes, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        residual = F.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.downsample(features), inplace=True)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
    )


Block = type[BasicBlock] | type[Bottleneck]

# name -> kind of block, and how many of them at strides 4, 8, 16 and 32
RESNETS: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


def block_chain(
    block: Block, in_channels: int, planes: int, depth: int, stride: int = 1
) -> nn.Sequential:
    """`depth` blocks in a row, the first of which strides and changes the width."""
    first = block(in_channels, planes, stride)
    others = (block(planes * block.expansion, planes) for _ in range(depth - 1))
    return nn.Sequential(first, *others)


class ResNet(nn.Module):
    """The trunk of a ResNet: feature maps at strides 4, 8, 16, ...

    Raises:
        ValueError: no ResNet has that name.
    """

    def __init__(
        self, name: str, *, width: int = 64, stages: int = 4, in_channels: int = 3
    ) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"backbone must be one of {', '.join(RESNETS)}, got {name!r}")
        block, depths = RESNETS[name]
        self.conv1 = convolution(in_channels, width, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = nn.ModuleList()
        self.channels: list[int] = []  # of each feature map
        previous = width
        for stage, depth in enumerate(depths[:stages]):
            planes = width * 2**stage
            stride = 1 if stage == 0 else 2
            self.layers.append(block_chain(block, previous, planes, depth, stride))
            previous = planes * block.expansion
            self.channels.append(previous)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Sequence[Float[Tensor, "batch _ _ _"]]:
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        features = F.max_pool2d(features, 3, stride=2, padding=1)
        maps = []
        for layer in self.layers:
            features = layer(features)
            maps.append(features)
        return maps


def initialise(network: nn.Module) -> None:
    """Draw every convolution and linear layer anew (He et al., 2015, fan in), biases zero."""
    for module in network.modules():
        # where nothing is drawn, drawing would still load PyTorch's compiler, which takes 3 s
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normalise(
    images: Float[Tensor, "batch 3 height width"], *, rgb: bool = True
) -> Float[Tensor, "batch 3 height width"]:
    """Shift and scale images in [0, 1] to ImageNet's mean 0 and standard deviation 1.

    Args:
        rgb: False for networks that have seen grey slices only: colours become their mean.
    """
    if not rgb:
        images = images.mean(dim=1, keepdim=True).expand_as(images)
    mean, deviation = images.new_tensor((MEAN, STANDARD_DEVIATION))[:, :, None, None]
    return (images - mean) / deviation
