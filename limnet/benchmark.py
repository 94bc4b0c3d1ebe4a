"""What clicks and rounds cost: seconds, memory, parameters and GFLOP (paper, section III-C).

A setting is measured in a process of its own, so that nothing else counts: `measure_alone` starts
`python -m limnet.benchmark FOLDER`, which reads the setting and its slices there and prints a row.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int16
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from limnet.clicks import Click
from limnet.fusion import CROP_SIZE, fuse_rounds
from limnet.mask_propagation import propagate_masks
from limnet.memory import Memory, MemoryConfig
from limnet.networks.checkpoints import LimNet, load_networks, paper
from limnet.peak_memory import peak_memory
from limnet.phantoms import ORGANS, abdomen
from limnet.session import Session
from limnet.slice_features import Frame, SliceFeatures
from limnet.volume import CT_WINDOWS, Volume

GIGABYTE = 2**30  # as nvidia-smi counts
NETWORKS = ("lite", "paper")
WARM_UP_SLICES = 3  # a memory is read in both directions
# the most that are read before consolidation makes fewer of them
MEMORIZED_SLICES = MemoryConfig().max_work_slices - 1  # 9

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
    cache_gb: float | int = 2.0  # of slice features kept for later rounds, as in a session

    def __post_init__(self) -> None:
        if self.networks not in NETWORKS or self.organ not in ORGANS:
            raise ValueError(
                f"networks must be one of {', '.join(NETWORKS)} and the organ one of "
                f"{', '.join(ORGANS)}, got {self.networks!r} and {self.organ!r}"
            )
        least = {"slices": WARM_UP_SLICES, "size": 32, "clicks": 1, "repeats": 1, "cache_gb": 0}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")


class Times(NamedTuple):
    """Seconds, one entry a repeat."""

    click: list[float]  # from a click to its mask
    propagation: list[float]  # first round: every slice is seen for the first time
    later_propagation: list[float]  # from another slice, with the features that were kept
    fusion: list[float]  # of two rounds that differ on every slice


def measure_alone(setting: Setting) -> dict[str, Any]:
    """The row of `measure` from a process of its own, with its peak memory.

    Columns more: `memory_gb` (of the GPU, if it ran there; else of the process), and of the process
    `memory_before_gb`, with Python, its libraries and the volume, before there was any network.

    Raises:
        RuntimeError: the process failed.
    """
    images, target = phantom_slices(setting)
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with TemporaryDirectory() as folder:
        Path(folder, "setting.json").write_text(json.dumps(asdict(setting)), encoding="utf-8")
        np.save(Path(folder, "images.npy"), images, allow_pickle=False)
        np.save(Path(folder, "target.npy"), target, allow_pickle=False)
        command = [sys.executable, "-m", "limnet.benchmark", folder]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(
            f"a measurement must end with a row, but {setting} ended with {done.returncode} and "
            f"said: {said}; if it was killed for want of memory, take fewer slices"
        )
    return json.loads(done.stdout.splitlines()[-1])


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


def measure(setting: Setting, networks: LimNet, images: Images, target: Masks) -> dict[str, Any]:
    """What the setting costs here, as a flat row: the setting, seconds, frames a second and more.

    `frames_per_second` is of the first round's propagation alone, `_with_prompt` with a click's
    prompt mask too, `_with_fusion` with a fusion of all slices on top; `later_frames_per_second` is
    of a later round, all three of them. Seconds are medians, `click_seconds_95` is a percentile.
    GFLOP are of whole slices; a memory read is one of MEMORIZED_SLICES slices.
    """
    volume = Volume.from_array(images, modality="CT", window=CT_WINDOWS["abdomen"])
    times = _times(setting, networks, volume, target)
    click, propagation, later, fusion = (float(np.median(each)) for each in times)
    frame = Frame.fit(images.shape[1:], networks.working_size)
    left, right, top, bottom = frame.padding
    padded = (frame.size[0] + top + bottom, frame.size[1] + left + right)
    return {
        **asdict(setting),
        "threads": torch.get_num_threads(),
        "working_size": networks.working_size,
        "frames_per_second": len(images) / propagation,
        "frames_per_second_with_prompt": len(images) / (click + propagation),
        "frames_per_second_with_fusion": len(images) / (click + propagation + fusion),
        "later_frames_per_second": len(images) / (click + later + fusion),
        "click_seconds": click,
        "click_seconds_95": float(np.percentile(times.click, 95)),
        "propagation_seconds": propagation,
        "later_propagation_seconds": later,
        "fusion_seconds": fusion,
        "first_round_seconds": click + propagation,
        "later_round_seconds": click + later + fusion,
        **{f"parameters_{name}": count for name, count in parameters(networks).items()},
        **{f"gflop_{name}": count for name, count in gigaflop(networks, padded).items()},
    }


def _times(setting: Setting, networks: LimNet, volume: Volume, target: Masks) -> Times:
    """Propagation starts from the truth, so that its work does not depend on the clicks."""
    few = slice(0, WARM_UP_SLICES)
    start = Volume.from_array(volume.images[few], modality="CT", window=volume.window)
    _propagation_seconds(setting, networks, start, target[few])
    _fuse(networks, start, target[few])
    click = _click_seconds(setting, networks, volume, target)
    rounds = [
        _propagation_seconds(setting, networks, volume, target) for _ in range(setting.repeats)
    ]
    fuse = partial(_fuse, networks, volume, target)
    fusion = [_seconds(networks, fuse) for _ in range(setting.repeats)]
    return Times(click, *map(list, zip(*rounds, strict=True)), fusion)


def _propagation_seconds(
    setting: Setting, networks: LimNet, volume: Volume, target: Masks
) -> tuple[float, float]:
    """Of a first round from the middle, and of a second one from a quarter of the way."""
    features = SliceFeatures(
        volume,
        networks.propagation_net,
        working_size=networks.working_size,
        max_bytes=int(setting.cache_gb * GIGABYTE),
    )
    given, seconds = {}, []
    for index in (len(target) // 2, len(target) // 4):
        given[index] = target[index]
        propagate = partial(propagate_masks, networks.propagation_net, features, given, index)
        seconds.append(_seconds(networks, propagate))
    return tuple(seconds)


def _click_seconds(
    setting: Setting, networks: LimNet, volume: Volume, target: Masks
) -> list[float]:
    """Of clicks in a session, one after another on the middle slice, spread over the organ."""
    middle = len(target) // 2
    inside = np.argwhere(target[middle])
    chosen = inside[np.linspace(0, len(inside) - 1, setting.clicks + 1).round().astype(int)]
    session = Session(volume, networks)
    seconds = [
        _seconds(networks, partial(session.add_click, Click(middle, row, column)))
        for row, column in chosen.tolist()
    ]
    return seconds[1:]  # the first one is the warm-up


def _fuse(networks: LimNet, volume: Volume, previous: Masks) -> None:
    """Compare all slices: their masks with the same ones, moved a little to the left."""

    def images(slice_indices: list[int]) -> Tensor:
        return torch.from_numpy(volume.rgb(slice_indices)).to(networks.device)

    current = np.roll(previous, -max(1, previous.shape[2] // 40), axis=2)
    both = (torch.from_numpy(each).to(networks.device) for each in (previous, current))
    fuse_rounds(networks.quality_net, images, *both)[0].cpu()


def _seconds(networks: LimNet, work: Callable[[], Any]) -> float:
    _wait(networks.device)
    start = time.perf_counter()
    work()
    _wait(networks.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """A GPU works on while Python goes ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parameters(networks: LimNet) -> dict[str, int]:
    """Numbers that were learnt, by network."""
    by_name = {
        "click_net": networks.click_net,
        "propagation_net": networks.propagation_net,
        "quality_net": networks.quality_net,
    }
    return {
        name: sum(parameter.numel() for parameter in network.parameters())
        for name, network in by_name.items()
    }


@torch.inference_mode()
def gigaflop(networks: LimNet, size: Sequence[int]) -> dict[str, float]:
    """GFLOP of one call of each part; nothing is computed, shapes alone are followed.

    A multiplication and its addition count as two; only convolutions and matrix products count.
    `slice` is what a slice of a first round takes: key, affinity, decoder and its share of values.

    Args:
        size: height and width of what the propagation net sees, multiples of its stride.
    """
    click_net, propagation_net, quality_net = (
        deepcopy(network).to("meta")
        for network in (networks.click_net, networks.propagation_net, networks.quality_net)
    )
    images = torch.zeros(1, 3, *size, device="meta")
    crop = torch.zeros(1, 3, networks.zoom_size, networks.zoom_size, device="meta")
    pair = torch.zeros(1, 3, CROP_SIZE, CROP_SIZE, device="meta")
    mask, one = images[:, :1], crop[:, :1]
    key = propagation_net.encode_key(images)
    sensory = images.new_zeros(1, propagation_net.config.hidden_dim, *key.f16.shape[2:])
    encode_value = partial(propagation_net.encode_value, update_sensory=True)
    value, _ = encode_value(images, key.f16, sensory, mask, mask)
    memory = Memory(MemoryConfig(long_term=False))
    for _ in range(MEMORIZED_SLICES):
        memory.memorize(key.key[0], key.shrinkage[0], key.selection[0], value[0])
    decode = partial(propagation_net.decode, update_sensory=True)
    calls = {
        "key_encoder": lambda: propagation_net.encode_key(images),
        "value_encoder": lambda: encode_value(images, key.f16, sensory, mask, mask),
        "affinity": lambda: memory.read(key.key[0], key.selection[0]),
        "decoder": lambda: decode(key.f16, key.f8, key.f4, value, sensory),
        "click_net": lambda: click_net(crop, crop[:, :2], one),
        "quality_net": lambda: quality_net(pair, pair[:, :1], pair[:, :1]),
    }
    done = {name: _counted(call) for name, call in calls.items()}
    values = done["value_encoder"] / propagation_net.config.memorize_every
    return {**done, "slice": done["key_encoder"] + done["affinity"] + done["decoder"] + values}


def _counted(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def main(folder: Path) -> None:
    """Print the row of the setting in a folder, as JSON."""
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    images, target = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("images", "target")
    )
    before = peak_memory()
    torch.manual_seed(0)  # of the random weights; no seed of anything else in this process
    networks = load_networks("lite") if setting.networks == "lite" else paper()
    row = measure(setting, networks.to(setting.device), images, target)
    memory = {"memory_gb": peak_memory() / GIGABYTE, "memory_before_gb": before / GIGABYTE}
    if networks.device.type == "cuda":
        memory["memory_gb"] = torch.cuda.max_memory_allocated(networks.device) / GIGABYTE
        memory["memory_reserved_gb"] = torch.cuda.max_memory_reserved(networks.device) / GIGABYTE
    print(json.dumps({**row, **memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
