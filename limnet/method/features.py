"""Image features of the slices of a volume (paper, section II-D, Eq. 7).

Image features do not depend on the mask, so each slice is encoded once and cached (512 MB). Both
directions, all rounds and all objects share one `SliceFeatures`.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from limnet.method.prompts import Crop
from limnet.networks.layers import normalise
from limnet.networks.propagation_net import STRIDE, PropagationNet, SliceEncoding
from limnet.volumes import Volume

MAX_BYTES = 512 << 20  # of kept features: some 500 close-ups of the lite network
AHEAD = 8  # slices that a GPU encodes at once: one alone leaves most of it idle
MAX_ASPECT = 3.0  # longer side over shorter side beyond which a slice is not enlarged any more


@dataclass(frozen=True)
class SliceFeature:
    """One slice, padded to multiples of the stride, and its parts; batch size 1."""

    frame: Float[Tensor, "1 3 height width"]  # ImageNet-normalised
    parts: SliceEncoding

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.frame, *self.parts))

    def stored_as(self, dtype: torch.dtype | None) -> "SliceFeature":
        """The same with all but frame and keys in `dtype`, if that is smaller; None: as it is."""
        if dtype is None or self.parts.decoder4.dtype != torch.float32:
            return self
        key, shrinkage, selection, *others = self.parts
        most = torch.finfo(dtype).max
        others = (each.clamp(-most, most).to(dtype) for each in others)
        return SliceFeature(self.frame, SliceEncoding(key, shrinkage, selection, *others))


@dataclass(frozen=True)
class Resizer:
    """The size at which propagation sees a slice, and the way there and back."""

    slice_size: tuple[int, int]  # of the volume's slices
    size: tuple[int, int]  # resized
    padding: tuple[int, int, int, int]  # left, right, top, bottom: zeros to a multiple of STRIDE

    @classmethod
    def fit(cls, slice_size: tuple[int, int], working_size: int) -> "Resizer":
        """The slice with `working_size` pixels on its shorter side."""
        shorter, longer = min(slice_size), max(slice_size)
        scale = min(working_size / shorter, MAX_ASPECT * working_size / longer)
        size = tuple(max(1, round(side * scale)) for side in slice_size)
        missing = (-side % STRIDE for side in size)
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in missing)
        return cls(slice_size, size, (left, right, top, bottom))

    def to_network(
        self, slices: Float[Tensor, "*batch height width"]
    ) -> Float[Tensor, "*batch _ _"]:
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

    def to_slice(self, probability: Float[Tensor, "height width"]) -> Float[Tensor, "_ _"]:
        """A slice of the volume; its mask is where the resized probability is above one half."""
        batch = probability[None, None]
        return functional.interpolate(batch, self.slice_size, mode="bilinear")[0, 0]


class FeatureCache:
    """Features of slices within a number of bytes; the least recently used ones leave.

    But what this sweep through the slices or the one before has used stays, and what is new then
    finds no room: a sweep through more slices than there is room for would otherwise drop each
    one shortly before the next sweep comes to it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        # with the last sweep that used each
        self._features: OrderedDict[Hashable, tuple[SliceFeature, int]] = OrderedDict()
        self._sweep = 0
        self._lock = Lock()  # a background thread may fill what a propagation reads

    def __contains__(self, key: Hashable) -> bool:
        return key in self._features

    def begin_sweep(self) -> None:
        """From now on slices are asked for one after another, once or twice each."""
        with self._lock:
            self._sweep += 1

    def get(self, key: Hashable) -> SliceFeature | None:
        with self._lock:
            if key not in self._features:
                return None
            feature, _ = self._features[key]
            self._features[key] = feature, self._sweep
            self._features.move_to_end(key)
            return feature

    def put(self, key: Hashable, feature: SliceFeature) -> None:
        with self._lock:
            if key in self._features:
                return
            while self._features and self.num_bytes + feature.num_bytes > self.max_bytes:
                oldest, (leaving, last_sweep) = next(iter(self._features.items()))
                if self._sweep and last_sweep >= self._sweep - 1:
                    return
                del self._features[oldest]
                self.num_bytes -= leaving.num_bytes
            self._features[key] = feature, self._sweep
            self.num_bytes += feature.num_bytes


class SliceFeatures:
    """Features of a volume's slices (Eq. 7), computed when first asked for, kept in a budget."""

    def __init__(
        self,
        volume: Volume,
        network: PropagationNet,
        *,
        working_size: int | None = None,
        max_bytes: int = MAX_BYTES,
        stored_as: torch.dtype | None = torch.float16,
        crop: Crop | None = None,
        cache: FeatureCache | None = None,
        ahead: int = AHEAD,
    ) -> None:
        """Nothing is computed yet.

        Args:
            working_size: pixels of the shorter side of what the network sees; None: as trained.
            max_bytes: of all cached features, those of crops included.
            stored_as: float16 and bfloat16 keep nearly twice as many features, rounded, but for
                keys. None: as they are computed.
            crop: of every slice; None: all of it.
            cache: shared with features of other crops; None: a new one.
            ahead: slices that a GPU encodes at once; a CPU encodes one at a time.
        """
        self.volume, self.network, self.stored_as = volume, network, stored_as
        self.crop = crop or Crop.whole(volume.images.shape[1:3])
        self.resizer = Resizer.fit(self.crop.size, working_size or network.config.working_size)
        self.cache = cache or FeatureCache(max_bytes)
        self.ahead = ahead
        self._encoded: dict[int, SliceFeature] = {}  # ahead of the slice last asked for
        self._last_asked = -1

    def __len__(self) -> int:
        return len(self.volume.images)

    def __getitem__(self, slice_index: int) -> SliceFeature:
        feature = self.cache.get(self._key(slice_index)) or self._encoded.pop(slice_index, None)
        if feature is None:
            indices = self._next(slice_index)
            images = normalise(self.images(indices), rgb=self.network.config.rgb)
            found = encode_slices(self.network, self.resizer.pad(images))
            found = [each.stored_as(self.stored_as) for each in found]
            feature = found[0]
            self._encoded = dict(zip(indices[1:], found[1:], strict=True))
        self._last_asked = slice_index
        self.cache.put(self._key(slice_index), feature)
        return feature

    def _next(self, slice_index: int) -> list[int]:
        """The slice and those that are likely to be asked for after it."""
        step = 1 if slice_index >= self._last_asked else -1
        ahead = self.ahead if self.device.type == "cuda" else 1
        following = (slice_index + step * n for n in range(1, ahead))
        return [slice_index, *(n for n in following if 0 <= n < len(self) and n not in self)]

    @property
    def device(self) -> torch.device:
        """Of the network, and so of the features."""
        return next(self.network.parameters()).device

    def __contains__(self, slice_index: int) -> bool:
        return self._key(slice_index) in self.cache

    def full_size(self, slice_indices: list[int]) -> Float[Tensor, "batch 3 height width"]:
        """Whole slices in [0, 1] at the volume's own size, on the network's device."""
        return torch.from_numpy(self.volume.rgb(slice_indices)).to(self.device)

    def images(self, slice_indices: list[int]) -> Float[Tensor, "batch 3 height width"]:
        """The crop of slices in [0, 1] at the working size, on the network's device."""
        rows, columns = self.crop.pixels
        slices = np.array(self.volume.images[slice_indices][:, rows, columns], dtype=np.float32)
        images = self.volume.windowed(torch.from_numpy(slices).to(self.device))
        images = (
            images[:, None].expand(-1, 3, -1, -1) if images.ndim == 3 else images.movedim(-1, 1)
        )
        return self.resizer.to_network(images)

    def mask(self, mask: Bool[np.ndarray, "height width"]) -> Float[Tensor, "_ _"]:
        """A mask of a whole slice as the network sees it: the crop, resized and padded."""
        inside = torch.from_numpy(mask[self.crop.pixels]).to(self.device, torch.float32)
        return self.resizer.pad(self.resizer.to_network(inside))

    def within(self, crop: Crop, working_size: int = 0) -> "SliceFeatures":
        """Features of a crop of the same slices, in the same cache; these if it is their own crop.

        Args:
            working_size: 0: the crop is as large as it is within these.
        """
        if crop == self.crop:
            return self
        scale = self.resizer.size[0] / self.resizer.slice_size[0]
        return SliceFeatures(
            self.volume,
            self.network,
            working_size=working_size or max(1, round(min(crop.size) * scale)),
            stored_as=self.stored_as,
            crop=crop,
            cache=self.cache,
            ahead=self.ahead,
        )

    def _key(self, slice_index: int) -> Hashable:
        return self.crop, self.resizer, slice_index


@torch.inference_mode()
def encode_slices(
    network: PropagationNet, frames: Float[Tensor, "batch 3 height width"]
) -> list[SliceFeature]:
    """The features of each of some padded slices."""
    parts = network.precompute(network.encode_key(frames))
    if len(frames) == 1:
        return [SliceFeature(frames, parts)]
    # cloned: a view would keep all slices in memory for as long as one of them stays
    return [
        SliceFeature(frame.clone(), SliceEncoding(*(each.clone() for each in part)))
        for frame, *part in zip(*(each.split(1) for each in (frames, *parts)), strict=True)
    ]


class FeaturePrefetcher:
    """A thread that computes features while the user looks for the next place to click.

    It leaves the processor to whoever asks for it (`paused`) and ends when the cache is full.
    """

    def __init__(self) -> None:
        self._turn = Lock()  # held while a slice is computed
        self._go, self._stop = Event(), Event()
        self._thread: Thread | None = None

    def start(self, features: SliceFeatures, around: int) -> None:
        """Fill these features from a slice outward, instead of those that were being filled."""
        self.stop()
        self._stop = stop = Event()
        arguments = features, around, stop
        self._thread = Thread(target=self._fill, args=arguments, name="prefetcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the slice under way."""
        self._stop.set()
        self._go.set()
        self.wait()

    def wait(self, seconds: float | int | None = None) -> None:
        """Until all is filled or the cache is full."""
        if self._thread is not None:
            self._thread.join(seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is computed meanwhile; begins when the slice under way is done."""
        self._go.clear()
        try:
            with self._turn:
                yield
        finally:
            self._go.set()

    def _fill(self, features: SliceFeatures, around: int, stop: Event) -> None:
        cache = features.cache
        for index in sorted(range(len(features)), key=lambda index: abs(index - around)):
            self._go.wait()
            if stop.is_set():
                return
            if index not in features:
                with self._turn:
                    size = features[index].num_bytes
                if cache.num_bytes + size > cache.max_bytes:
                    return
