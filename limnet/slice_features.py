"""What the key encoder says of each slice, computed once per volume (paper, Eq. 7).

Both directions, all rounds and all objects share one `SliceFeatures`.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from limnet.close_up import CloseUp
from limnet.networks.normalisation import normalise
from limnet.networks.propagation_net import STRIDE, KeyFeatures, PropagationNet
from limnet.volume import Volume

KEPT_PARTS = 4  # close-ups whose features are kept
MAX_ASPECT = 3.0  # longer side over shorter side beyond which a slice is not enlarged any more


@dataclass(frozen=True)
class SliceFeature:
    """One slice, padded to multiples of the stride, and its key features; batch size 1."""

    frame: Float[Tensor, "1 3 height width"]  # ImageNet-normalised
    encoded: KeyFeatures

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.frame, *self.encoded))


@dataclass(frozen=True)
class Frame:
    """The size at which propagation sees a slice, and the way there and back."""

    slice_size: tuple[int, int]  # of the volume's slices
    size: tuple[int, int]  # resized
    padding: tuple[int, int, int, int]  # left, right, top, bottom: zeros up to the stride

    @classmethod
    def fit(cls, slice_size: tuple[int, int], working_size: int) -> "Frame":
        """The slice with `working_size` pixels on its shorter side."""
        shorter, longer = min(slice_size), max(slice_size)
        scale = min(working_size / shorter, MAX_ASPECT * working_size / longer)
        size = tuple(max(1, round(side * scale)) for side in slice_size)
        return cls(slice_size, size, symmetric_padding(size))

    def enter(self, slices: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch _ _"]:
        """Slices at the working size, not padded."""
        batch = slices.flatten(0, -3)[None] if slices.ndim > 2 else slices[None, None]
        smaller = self.size[0] < self.slice_size[0]
        resized = functional.interpolate(batch, self.size, mode="bilinear", antialias=smaller)
        return resized.reshape(*slices.shape[:-2], *self.size)

    def pad(self, slices: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch _ _"]:
        return functional.pad(slices, self.padding)

    def unpad(self, slices: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch _ _"]:
        left, _, top, _ = self.padding
        height, width = self.size
        return slices[..., top : top + height, left : left + width]

    def leave(self, probability: Float[Tensor, "height width"]) -> Bool[Tensor, "_ _"]:
        """The mask of a slice of the volume: where the resized probability is above one half."""
        batch = probability[None, None]
        return functional.interpolate(batch, self.slice_size, mode="bilinear")[0, 0] > 0.5


def symmetric_padding(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, right, top and bottom padding to multiples of the stride, the smaller half first."""
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in (-side % STRIDE for side in size))
    return left, right, top, bottom


class SliceFeatures:
    """Features of a volume's slices, computed when first asked for; least recently used leave."""

    def __init__(
        self,
        volume: Volume,
        network: PropagationNet,
        *,
        working_size: int,
        part: CloseUp | None = None,
        max_bytes: int = 2 << 30,
    ) -> None:
        """Nothing is computed yet.

        Args:
            working_size: pixels of the shorter side of what the network sees.
            part: of every slice; None: all of it.
        """
        self.volume, self.network, self.max_bytes = volume, network, max_bytes
        self.part = part or CloseUp.whole(volume.images.shape[1:3])
        self.frame = Frame.fit(self.part.size, working_size)
        self._stored: OrderedDict[int, SliceFeature] = OrderedDict()
        self._bytes = 0
        self._parts: OrderedDict[tuple[CloseUp, int], SliceFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self.volume.images)

    def __getitem__(self, slice_index: int) -> SliceFeature:
        if slice_index in self._stored:
            self._stored.move_to_end(slice_index)
            return self._stored[slice_index]
        image = normalise(self.images([slice_index]), colour=self.network.config.colour)
        feature = encode_slice(self.network, self.frame.pad(image))
        self._stored[slice_index] = feature
        self._bytes += feature.num_bytes
        while self._bytes > self.max_bytes and len(self._stored) > 1:
            self._bytes -= self._stored.popitem(last=False)[1].num_bytes
        return feature

    def images(self, slice_indices: list[int]) -> Float[Tensor, "batch 3 height width"]:
        """Slices in [0, 1] at the working size, on the network's device."""
        device = next(self.network.parameters()).device
        rows, columns = self.part.pixels
        shown = self.volume.rgb(slice_indices)[..., rows, columns]
        return self.frame.enter(torch.from_numpy(shown).to(device))

    def within(self, part: CloseUp, working_size: int) -> "SliceFeatures":
        """Features of a part of the same slices; the last few parts asked for are kept."""
        features = self._parts.pop((part, working_size), None) or SliceFeatures(
            self.volume,
            self.network,
            working_size=working_size,
            part=part,
            max_bytes=self.max_bytes // KEPT_PARTS,
        )
        self._parts[part, working_size] = features
        if len(self._parts) > KEPT_PARTS:
            self._parts.popitem(last=False)
        return features


@torch.inference_mode()
def encode_slice(network: PropagationNet, frame: Float[Tensor, "1 3 height width"]) -> SliceFeature:
    """The features of one padded slice."""
    return SliceFeature(frame, network.encode_key(frame))
