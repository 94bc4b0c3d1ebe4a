"""The optimisations one on top of another: what was predicted of each, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from limnet.method.features import SliceFeatures
from limnet.method.memory import MemoryConfig, affinity, read_tokens, similarity
from limnet.method.session import Session
from limnet.method.state import Recipe
from limnet.networks.checkpoints import LimNet, load_networks, paper
from limnet.networks.hrnet import resize_and_convolve
from limnet.volumes import CT_WINDOWS, Volume
from measure.probe import WARM_UP_SLICES, round_seconds
from measure.rows import Setting, phantom_slices


@dataclass(frozen=True)
class Optimisations:
    """What makes it fast and can be switched off; the defaults are a session's."""

    cache_gb: float | int = 0.5  # of slice features kept for later rounds
    stored_as: str = "float16"  # or "bfloat16": what features are kept in; "": as computed
    dense_read: bool = False  # True: memory is read as the equations are written
    fuse_batchnorm: bool = True  # into the convolutions, channels last
    precision: str = "float32"  # or "bfloat16": what fused networks compute in
    crop: bool = True  # propagation sees a crop around the object
    parallel_map: bool = True  # refinements, on a CPU, on threads of their own
    coarse_first: bool = True  # the click net convolves coarse features before it resizes them
    ahead: int = 8  # slices that a GPU encodes at once
    recorded: bool = True  # decoder and value encoder as CUDA graphs, on a GPU
    refine: bool = True  # False, for comparisons: masks stay as they were propagated

    def load(self, networks: str = "lite", device: str = "cpu") -> LimNet:
        """The networks, as these optimisations have them."""
        dtype = getattr(torch, self.precision)
        if networks == "lite":
            found = load_networks("lite", dtype=dtype, fold=self.fuse_batchnorm)
        else:
            torch.manual_seed(0)  # of the random weights
            found = paper().fuse_batchnorm(dtype) if self.fuse_batchnorm else paper()
        if not self.coarse_first:
            found.click_net.hrnet.head.convolve = resize_and_convolve
        return found.to(device)

    def session(self, volume: Volume, networks: LimNet, working_size: int = 0) -> Session:
        """One without fusion, of which nothing is computed yet."""
        features = SliceFeatures(
            volume,
            networks.propagation_net,
            working_size=working_size or None,
            max_bytes=int(self.cache_gb * 2**30),
            stored_as=getattr(torch, self.stored_as) if self.stored_as else None,
            ahead=self.ahead,
        )
        trained = Recipe.of(networks)
        recipe = replace(
            trained,
            memory=MemoryConfig(reader=read_dense if self.dense_read else read_tokens),
            close_up=trained.close_up and self.crop,
            cuda_graphs=self.recorded,
            parallel_map=self.parallel_map,
            refinements=trained.refinements * self.refine,
            smoothing=trained.smoothing * self.refine,
            fuse=False,
        )
        return Session(volume, networks, recipe, features=features)


def read_dense(
    memory_key: Tensor,
    shrinkage: Tensor,
    value: Tensor,
    query_key: Tensor,
    selection: Tensor,
    top_k: int,
) -> tuple[Tensor, Tensor]:
    """As `limnet.method.memory.read_tokens`, but as the equations are written."""
    columns = (memory_key, shrinkage, query_key, selection)
    weights = affinity(similarity(*(each.mT for each in columns)), top_k)
    return weights.mT @ value, weights.sum(dim=1)


class Step(NamedTuple):
    """One optimisation, and how many times faster it was predicted to make a round at paper size.

    Predictions were written before whole rounds were measured: from operations counted by hand and
    from parts of the network timed alone on two cores.
    """

    name: str
    changes: dict[str, Any]  # of `Optimisations`
    first: float = 1.0  # predicted for the first round, against the step before
    later: float = 1.0  # and for later rounds
    reason: str = ""


PLAIN = Optimisations(0, "", True, fuse_batchnorm=False, crop=False, ahead=1, recorded=False)
EVERY_ROUND = "every round computes everything anew, as XMem does in a new pass"
CACHED = "keys, skips and parts of the fusers, kept in 16 bits, are 100 of 188 GFLOP"
SPARSE = "reading is a tenth of a slice's time and becomes five times as fast"
FUSED = "alone, the key encoder runs 1.5 times as fast, value encoder 1.3, decoder 1.2"
BITS = "every network alone runs 1.8 to 2 times as fast; reading memory stays float32"
CROP = "a kidney's crop has a seventh of the pixels; small images are less efficient"
AHEAD = "slices are encoded eight at a time: fewer, larger kernels"
RECORDED = "decoder and value encoder are some 150 kernels a slice, each called from Python"
THREADS = "a refinement took 45 ms on one thread and 51 on two that wait for each other"
COARSE = "on one thread the wide convolutions of the head take 6 ms in place of 12"

LADDER = (
    Step("plain", vars(PLAIN), reason=EVERY_ROUND),
    Step("cached", {"cache_gb": 8, "stored_as": "float16"}, 1.0, 1.8, CACHED),
    Step("sparse read", {"dense_read": False}, 1.08, 1.16, SPARSE),
    Step("batch norm fused", {"fuse_batchnorm": True}, 1.2, 1.2, FUSED),
    Step("bfloat16", {"precision": "bfloat16"}, 1.9, 1.9, BITS),
    Step("crop", {"crop": True}, 3.5, 3.5, CROP),
)
ON_GPU = (  # a CPU does the same with and without
    Step("eight at once", {"ahead": 8}, 1.3, 1.2, AHEAD),
    Step("recorded", {"recorded": True}, 1.5, 2.0, RECORDED),
)
LOOKS = (  # refinements of small networks on a CPU; the paper's have none
    Step("one after the other", {"parallel_map": False, "coarse_first": False}),
    Step("on several threads", {"parallel_map": True}, 2.4, 2.8, THREADS),
    Step("coarse first", {"coarse_first": True}, 1.1, 1.1, COARSE),
)


def run_ablation(
    setting: Setting, steps: Sequence[Step] | None = None, *, quiet: bool = True
) -> list[dict[str, Any]]:
    """A row a step, each with the changes of all steps before it: seconds, and gains over those.

    The steps take turns in one process, so that a busy moment of the machine hits all of them.

    Args:
        steps: None: `LADDER`, on a GPU `ON_GPU` too.
    """
    steps = steps or (LADDER + ON_GPU * setting.device.startswith("cuda"))
    ways = [Optimisations()]
    for step in steps:
        ways.append(replace(ways[-1], **step.changes))
    rounds = [_rounds(setting, way) for way in ways[1:]]
    for each in rounds:
        each(WARM_UP_SLICES)
    seconds = [[] for _ in steps]
    for turn in tqdm(range(setting.repeats * len(steps)), disable=quiet):
        at = turn % len(steps)
        seconds[at].append(rounds[at](setting.slices))
    medians = [np.median(each, axis=0) for each in seconds]
    before = [medians[0], *medians]
    return [
        _row(step, now, last, medians[0], setting.slices)
        for step, now, last in zip(steps, medians, before[:-1], strict=True)
    ]


def _rounds(setting: Setting, way: Optimisations) -> Callable[[int], list[float]]:
    """Seconds of the rounds of a new session on so many slices."""
    images, target = phantom_slices(replace(setting, crop=way.crop))
    networks = way.load(setting.networks, setting.device)
    size = max(
        1,
        round(networks.propagation_net.config.working_size * min(images.shape[1:]) / setting.size),
    )

    def seconds(slices: int) -> list[float]:
        volume = Volume.from_array(images[:slices], window=CT_WINDOWS["abdomen"])
        session = way.session(volume, networks, size)
        return round_seconds(session, target[:slices], setting.rounds)

    return seconds


def _row(
    step: Step, now: np.ndarray, before: np.ndarray, plain: np.ndarray, slices: int
) -> dict[str, Any]:
    return {
        "step": step.name,
        "slices_per_second_first": slices / float(now[0]),
        "slices_per_second_later": slices / float(now[1:].mean()),
        "predicted_first": step.first,
        "gain_first": float(before[0] / now[0]),
        "predicted_later": step.later,
        "gain_later": float(before[1:].mean() / now[1:].mean()),
        "total_first": float(plain[0] / now[0]),
        "total_later": float(plain[1:].mean() / now[1:].mean()),
        "total_all_rounds": float(plain.sum() / now.sum()),
        "reason": step.reason,
    }
