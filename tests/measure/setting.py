"""What a benchmark is about: networks, slices, and what makes it fast."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int16
from torch.nn.functional import interpolate

from limnet.data.synthetic.abdomen import ORGANS, abdomen
from limnet.method.features import AHEAD, MAX_BYTES, SliceFeatures
from limnet.method.memory import MemoryConfig
from limnet.method.passes import PropagationOptions
from limnet.networks.checkpoints import LimNet, load_networks, paper
from limnet.networks.resizing import resize_and_convolve
from limnet.volumes import Volume

GIGABYTE = 2**30  # as nvidia-smi counts
NETWORKS = ("lite", "paper")
WARM_UP_SLICES = 3  # a memory is read in both directions
CHOICES = {
    "precision": ("float32", "bfloat16"),
    "stored_as": ("", "float16", "bfloat16"),
    "close_up": ("as trained", "yes", "no"),
}

Images = Int16[np.ndarray, "slices height width"]
Masks = Bool[np.ndarray, "slices height width"]


@dataclass(frozen=True)
class Setting:
    """What a row is about; the defaults are the paper's, as far as it says them.

    Raises:
        ValueError: there are no such networks, no such organ, or too little to measure.
    """

    networks: str = "lite"  # as shipped; or "paper": that size, with random weights
    slices: int = 100
    size: int = 480  # pixels a side of a slice
    device: str = "cpu"
    organ: str = "liver"  # of the phantom; of a smaller one the lite networks see a close-up
    clicks: int = 20  # timed ones, after one that is not
    repeats: int = 3  # of both propagations and of fusion; medians count
    rounds: int = 2  # propagations one after another, each from one slice more
    cache_gb: float | int = MAX_BYTES / GIGABYTE  # of slice features kept, as in a session
    # what makes it fast, and can be switched off
    fold: bool = True  # batch norms within the convolutions, channels last
    precision: str = "float32"  # or "bfloat16": what folded networks compute in
    stored_as: str = "float16"  # or "bfloat16": what features are kept in; "": as computed
    dense_read: bool = False  # True: memory is read as the equations are written
    refinements: bool = True  # of the click net at propagated masks, where the networks have them
    coarse_first: bool = True  # the click net convolves coarse features before it resizes them
    parallel_map: bool = True  # these looks, on a CPU, on threads of their own
    ahead: int = AHEAD  # slices that a GPU encodes at once
    recorded: bool = True  # decoder and value encoder as CUDA graphs, on a GPU
    close_up: str = "as trained"  # whether propagation sees one of the object; or "yes", "no"

    def __post_init__(self) -> None:
        if self.networks not in NETWORKS or self.organ not in ORGANS:
            raise ValueError(
                f"networks must be one of {', '.join(NETWORKS)} and the organ one of "
                f"{', '.join(ORGANS)}, got {self.networks!r} and {self.organ!r}"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        least = {"slices": WARM_UP_SLICES, "size": 32, "clicks": 1, "repeats": 1, "rounds": 2}
        least |= {"cache_gb": 0, "ahead": 1}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")

    @property
    def options(self) -> PropagationOptions:
        """How propagation goes."""
        memory = MemoryConfig(dense_read=self.dense_read)
        close_up = {"yes": True, "no": False}.get(self.close_up)
        how = {"recorded": self.recorded, "parallel_map": self.parallel_map}
        return PropagationOptions(memory=memory, close_up=close_up, **how)

    def load(self) -> LimNet:
        """The networks, where and as the setting has them."""
        dtype = getattr(torch, self.precision)
        if self.networks == "lite":
            networks = load_networks("lite", dtype=dtype, fold=self.fold)
        else:
            torch.manual_seed(0)  # of the random weights
            networks = paper().fuse_batchnorm(dtype) if self.fold else paper()
        if not self.coarse_first:
            networks.click_net.hrnet.head.convolve = resize_and_convolve
        return networks.to(self.device)

    def features(self, volume: Volume, networks: LimNet) -> SliceFeatures:
        """Features of a volume, none computed yet."""
        return SliceFeatures(
            volume,
            networks.propagation_net,
            working_size=networks.working_size,
            max_bytes=int(self.cache_gb * GIGABYTE),
            stored_as=getattr(torch, self.stored_as) if self.stored_as else None,
            ahead=self.ahead,
        )


def phantom_slices(setting: Setting) -> tuple[Images, Masks]:
    """Slices of a phantom that show the organ, all of them, and its masks.

    The phantom is made on a coarse grid and resized: what it shows does not depend on the setting's
    size, and two thousand slices take no longer to draw.

    Raises:
        ValueError: a slice does not show the organ.
    """
    phantom = abdomen(0)
    organ = phantom.labels == ORGANS[setting.organ]
    shown = np.flatnonzero(organ.any(axis=(1, 2)))
    at = np.linspace(shown[0], shown[-1], setting.slices).round().astype(int)
    drawn, place = np.unique(at, return_inverse=True)  # two thousand slices repeat some thirty
    size = (setting.size, setting.size)
    both = np.stack([phantom.images[drawn], organ[drawn]], axis=1).astype(np.float32)
    both = interpolate(torch.from_numpy(both), size, mode="bilinear").numpy()
    images, target = both[:, 0].round().astype(np.int16)[place], (both[:, 1] > 0.5)[place]
    if not target.any(axis=(1, 2)).all():
        raise ValueError(
            f"every slice must show the {setting.organ}, but of {setting.size} pixels a side some "
            "do not; take larger slices or a larger organ"
        )
    return images, target
