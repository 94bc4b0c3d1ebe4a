"""One measurement in a process of its own: `python probe.py FOLDER` prints what it took, as JSON.

The folder holds the slices, the true masks and what is asked. Beside limnet's front door a few
names are needed, of which older trees have other places: so any two trees can be compared.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limnet import Click, Session, Volume, load_networks

WINDOW = (-160.0, 240.0)  # HU
PROMPTS = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8)  # of the way through, one a round
WARM_UP_SLICES = 3  # a memory is read in both directions


def from_first(name: str, *modules: str) -> Any:
    """The object of that name in the first of the modules that has it."""
    for module in modules:
        with suppress(ImportError, AttributeError):
            return getattr(import_module(module), name)
    raise ImportError(f"{name} must be in one of {', '.join(modules)}")


def timed(device: torch.device, work: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of a call; a GPU works on while Python goes ahead, so it is waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work(*arguments)
    wait()
    return time.perf_counter() - start


def round_seconds(session: Session, target: np.ndarray, rounds: int) -> list[float]:
    """Propagation of each round; it starts from the truth, so its work depends on no click."""
    seconds = []
    for share in (PROMPTS * rounds)[:rounds]:
        index = int(len(target) * share)
        session.paint(index, target[index])
        seconds.append(timed(session.networks.device, session.propagate))
    return seconds


def click_seconds(session: Session, target: np.ndarray, clicks: int) -> list[float]:
    """Clicks one after another on the middle slice, spread over the organ, after a warm-up."""
    middle = len(target) // 2
    inside = np.argwhere(target[middle])
    chosen = inside[np.linspace(0, len(inside) - 1, clicks + 1).round().astype(int)].tolist()
    device = session.networks.device
    return [timed(device, session.add_click, Click(middle, *place)) for place in chosen][1:]


def fusion_seconds(session: Session, previous: np.ndarray) -> float:
    """Fusion of masks with the same ones, moved a little to the left on every slice."""
    with suppress(ImportError):
        fuse = from_first("fuse_packed", "limnet.method.fusion", "limnet.fusion")
        return timed_fusion(fuse, session, previous)
    return timed_fusion(from_first("fuse", "limnet.method.fusion"), session, previous)


def timed_fusion(fuse: Callable[..., Any], session: Session, previous: np.ndarray) -> float:
    """Seconds of a tree's own fusion."""
    packed = from_first("PackedMasks", "limnet.volumes.masks", "limnet.packed_masks")
    current = np.roll(previous, -max(1, previous.shape[2] // 40), axis=2)
    networks = session.networks

    def images(indices: Sequence[int]) -> torch.Tensor:
        slices = torch.from_numpy(session.volume.images[indices]).to(networks.device).float()
        return session.volume.windowed(slices)[:, None].expand(-1, 3, -1, -1)

    both = packed.pack(previous), packed.pack(current)
    return timed(networks.device, fuse, networks.quality_net, images, *both)


def load(asked: dict[str, Any]) -> Any:
    """The networks: as shipped, or of the paper's size with random weights."""
    dtype = getattr(torch, asked["precision"])
    if asked["networks"] == "lite":
        return load_networks("lite", dtype=dtype).to(asked["device"])
    torch.manual_seed(0)
    networks = from_first("paper", "limnet.networks.checkpoints")()
    fuse = "fuse_batchnorm" if hasattr(networks, "fuse_batchnorm") else "folded"
    return getattr(networks, fuse)(dtype).to(asked["device"])


def begin(asked: dict[str, Any], networks: Any, images: np.ndarray) -> Session:
    """A session without fusion; features of a crop keep the scale of whole slices."""
    volume = Volume.from_array(images, modality="CT", window=WINDOW)
    features = from_first("SliceFeatures", "limnet.method.features", "limnet.slice_features")
    size = max(1, round(working_size(networks) * min(images.shape[1:]) / asked["size"]))
    most = int(asked["cache_gb"] * 2**30)
    cached = features(volume, networks.propagation_net, working_size=size, max_bytes=most)
    options = {"fuse": False}  # of older trees
    with suppress(ImportError):
        recipe = from_first("Recipe", "limnet.method.state")
        options = {"recipe": replace(recipe.of(networks), fuse=False)}
    return Session(volume, networks, features=cached, **options)


def working_size(networks: Any) -> int:
    """Pixels of the shorter side of what the propagation network sees."""
    return networks.propagation_net.config.working_size


def measure(asked: dict[str, Any], images: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Seconds by what took them, one entry a repeat, after a warm-up of each."""
    networks, few = load(asked), slice(0, WARM_UP_SLICES)
    round_seconds(begin(asked, networks, images[few]), target[few], 1)
    fusion_seconds(begin(asked, networks, images[few]), target[few])
    repeats = range(asked["repeats"])
    return {
        "click": click_seconds(begin(asked, networks, images), target, asked["clicks"]),
        "propagation": [
            round_seconds(begin(asked, networks, images), target, asked["rounds"]) for _ in repeats
        ],
        "fusion": [fusion_seconds(begin(asked, networks, images), target) for _ in repeats],
        "threads": torch.get_num_threads(),
        "working_size": working_size(networks),
    }


def play(clicks: Sequence[Sequence[Any]], images: np.ndarray) -> dict[str, Any]:
    """A user's session: rounds of one click (slice, positive, row, column) each."""
    volume = Volume.from_array(images, modality="CT", window=WINDOW)
    session = Session(volume, load_networks("lite"))
    for index, positive, row, column in clicks:
        session.add_click(Click(index, row, column, positive))
        session.propagate()
    return {}


def main(folder: Path) -> None:
    """Print the seconds and the peak memory, in GB of 2^30 bytes."""
    peak_memory = from_first("peak_memory", "limnet.files", "limnet.peak_memory")
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", allow_pickle=False)
    before = peak_memory()
    if "played" in asked:
        found = play(asked["played"], images)
    else:
        found = measure(asked, images, np.load(folder / "target.npy", allow_pickle=False))
    # the kernel counts a process of many threads roughly, so that its peak can even fall a little
    found |= {"memory_gb": max(before, peak_memory()) / 2**30, "memory_before_gb": before / 2**30}
    if asked.get("device", "cpu") != "cpu":
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        found["memory_reserved_gb"] = torch.cuda.max_memory_reserved() / 2**30
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
