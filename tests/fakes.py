"""Ten-line networks with made-up minds, and a volume whose columns grow brighter."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from limnet.networks.checkpoints import LimNet
from limnet.networks.click_net import ClickLogits, ClickNet, ClickNetConfig
from limnet.networks.propagation_net import (
    KeyFeatures,
    PropagationNet,
    PropagationNetConfig,
    SliceEncoding,
)
from limnet.networks.quality_net import QualityNet
from limnet.volumes import Volume

SHAPE = (5, 32, 48)


class Recorder:
    """A click net that keeps what it was given and answers with logits of its own."""

    def __init__(self, logits):
        self.logits, self.seen = logits, []

    def __call__(self, images, maps, previous):
        self.seen.append((images, maps, previous))
        return SimpleNamespace(mask=self.logits(images, maps, previous))


def disk_where_clicked(images, maps, previous):
    return 8 * (maps[:, :1] - maps[:, 1:]) - 4


def rectangle(top, bottom, left, right, shape=(40, 50)):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


class Disks(ClickNet):
    """Adds the disks of positive clicks to the previous mask and takes the negative ones away."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config = ClickNetConfig(zoom_size=48)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images, click_maps, previous):
        positive, negative = click_maps.split(1, dim=1)
        logits = 10 * (previous + positive - 2 * negative) - 5
        return ClickLogits(logits, logits)


class Brighter(PropagationNet):
    """Paints every column whose brightness is above `level`, whatever it remembers."""

    sensory_dtype = torch.float32

    def __init__(self, working_size=32):
        nn.Module.__init__(self)
        self.config = PropagationNetConfig(hidden_dim=1, working_size=working_size)
        self.weight = nn.Parameter(torch.zeros(1))
        self.level, self.encoded = 0.5, 0

    def encode_key(self, images):
        self.encoded += len(images)
        one = images.new_ones(1, 1, *(side // 16 for side in images.shape[2:]))
        brightness = images[:, :1] * 0.229 + 0.485
        return KeyFeatures(one, one, one, one, one, functional.pixel_unshuffle(brightness, 4))

    def precompute(self, features):
        return SliceEncoding(*features[:4], *features[3:])

    def encode_value(self, images, parts, sensory, mask, others, *, update_sensory):
        return parts.value16, sensory

    def decode(self, parts, readout, sensory, *, update_sensory):
        return 1000 * (functional.pixel_shuffle(parts.decoder4, 4) - self.level), sensory


class Prefers(QualityNet):
    """Has made up its mind."""

    def __init__(self, previous_better):
        nn.Module.__init__(self)
        self.previous_better = previous_better

    def forward(self, images, previous, current, evidence=None):
        return torch.full((len(images),), self.previous_better)


def fakes(previous_better=0.25, working_size=32):
    return LimNet("fake", Disks(), Brighter(working_size), Prefers(previous_better))


def ramp():
    """Column c of every slice has the brightness c / 48."""
    images = np.broadcast_to(np.arange(48, dtype=np.float32) / 48, SHAPE)
    return Volume.from_array(images, window=(0, 1))
