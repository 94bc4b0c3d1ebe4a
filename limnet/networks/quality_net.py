"""Which of two masks is the better one (paper, section II-C, Eq. 2).

The paper names a ResNet-50 in its method and a ResNet-18 in its experiments: `backbone`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limnet.networks.layers import ResNet, initialise, normalise

# numbers that compare two masks beside the picture, in this order: `method.fusion.FusionFeatures`
EVIDENCE = (
    "log_area_ratio",
    "dice_to_nearest_prompt",
    "intensity_agreement",
    "last_correction",
    "distance_beyond_prompts",
)


@dataclass(frozen=True)
class QualityNetConfig:
    """Sizes of a quality net; the defaults are those of the paper's experiments."""

    backbone: str = "resnet18"  # or "resnet50", or the small "resnet10"
    width: int = 64  # channels of the first convolution
    rgb: bool = True  # False: trained on grey slices, so colours are averaged
    evidence: bool = False  # weigh what the rounds tell of themselves too (ours)


class QualityNet(nn.Module):
    """Compares two masks of a slice."""

    def __init__(self, config: QualityNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or QualityNetConfig()
        # five channels: the slice's three colours, the previous and the current mask
        self.encoder = ResNet(self.config.backbone, width=self.config.width, in_channels=5)
        self.classify = nn.Linear(self.encoder.channels[-1], 1)
        initialise(self)
        if self.config.evidence:
            self.weigh = nn.Linear(len(EVIDENCE), 1, bias=False)
            nn.init.zeros_(self.weigh.weight)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        previous: Float[Tensor, "batch 1 height width"],
        current: Float[Tensor, "batch 1 height width"],
        evidence: Float[Tensor, "batch 5"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Probability that the previous mask is better than the current one.

        Args:
            images: red, green, blue in [0, 1]; ImageNet normalisation happens inside.
            evidence: of `method.fusion.FusionFeatures`; only networks that weigh it read it.
        """
        return self.logits(images, previous, current, evidence).sigmoid()

    def logits(
        self,
        images: Float[Tensor, "batch 3 height width"],
        previous: Float[Tensor, "batch 1 height width"],
        current: Float[Tensor, "batch 1 height width"],
        evidence: Float[Tensor, "batch 5"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The same before the sigmoid, for training."""
        if self.training or self.classify.weight.any():
            images = normalise(images, rgb=self.config.rgb)
            seen = torch.cat([images, previous, current], dim=1).to(self.classify.weight.dtype)
            features = self.encoder(seen)[-1]
            logits = self.classify(features.mean(dim=(2, 3)))[:, 0].float()
        else:  # of images the answer does not depend
            logits = self.classify.bias.float().expand(len(images))
        if self.config.evidence and evidence is not None:
            logits = logits + self.weigh(evidence.to(self.weigh.weight))[:, 0].float()
        return logits

    @torch.no_grad()
    def scale_temperature(self, temperature: float) -> None:
        """Make the answers less sure of themselves, or surer below 1, for good (Guo et al., 2017).

        Raises:
            ValueError: the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"a temperature must be positive, got {temperature}")
        self.classify.weight /= temperature
        self.classify.bias /= temperature
        if self.config.evidence:
            self.weigh.weight /= temperature
