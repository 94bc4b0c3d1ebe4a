"""What is measured, and a row of it: seconds, frames a second and memory (paper, section III-C)."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int16
from torch.nn.functional import interpolate

from limnet.data.synthetic.abdomen import ORGANS, abdomen
from limnet.method.prompts import Crop

ROOT = Path(__file__).parents[2]
NETWORKS = ("lite", "paper")
LEAST = {"slices": 3, "size": 32, "clicks": 1, "repeats": 1, "rounds": 2, "cache_gb": 0}

Images = Int16[np.ndarray, "slices height width"]
Masks = Bool[np.ndarray, "slices height width"]


@dataclass(frozen=True)
class Setting:
    """What a row is about; the defaults are the paper's, as far as it says them."""

    networks: str = "lite"  # as shipped; or "paper": that size, with random weights
    slices: int = 100
    size: int = 480  # pixels a side of a slice
    device: str = "cpu"
    organ: str = "liver"  # of the phantom; of a smaller one the lite networks see a crop
    clicks: int = 20  # timed ones, after one that is not
    repeats: int = 3  # of the rounds and of fusion; medians count
    rounds: int = 2  # propagations one after another, each from one slice more
    cache_gb: float | int = 0.5  # of slice features kept, as in a session
    precision: str = "float32"  # or "bfloat16"
    crop: bool = False  # networks of paper size see the organ's crop alone; lite crop themselves

    def __post_init__(self) -> None:
        if self.networks not in NETWORKS or self.organ not in ORGANS:
            known = f"networks {NETWORKS} and organs {tuple(ORGANS)}"
            raise ValueError(f"known are {known}, got {self.networks!r} and {self.organ!r}")
        for name, limit in LEAST.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")


def phantom_slices(setting: Setting) -> tuple[Images, Masks]:
    """Slices of a phantom that show the organ, all of them, and its masks.

    The phantom is made on a coarse grid and resized: what it shows does not depend on the size.

    Raises:
        ValueError: a slice does not show the organ.
    """
    phantom = abdomen(0)
    organ = phantom.labels == ORGANS[setting.organ]
    shown = np.flatnonzero(organ.any(axis=(1, 2)))
    at = np.linspace(shown[0], shown[-1], setting.slices).round().astype(int)
    drawn, place = np.unique(at, return_inverse=True)  # two thousand slices repeat some thirty
    both = np.stack([phantom.images[drawn], organ[drawn]], axis=1).astype(np.float32)
    both = interpolate(torch.from_numpy(both), (setting.size,) * 2, mode="bilinear").numpy()
    images, target = both[:, 0].round().astype(np.int16)[place], (both[:, 1] > 0.5)[place]
    if not target.any(axis=(1, 2)).all():
        raise ValueError(
            f"every slice must show the {setting.organ}, take more than {setting.size}"
        )
    if setting.crop and setting.networks == "paper":
        rows, columns = Crop.from_masks(target).pixels
        images, target = images[:, rows, columns], target[:, rows, columns]
    return images, target


def probe(asked: dict[str, Any], images: Images, target: Masks, tree: Path = ROOT) -> Any:
    """What `probe.py` measures with the limnet of a tree.

    Raises:
        RuntimeError: the process failed.
    """
    with TemporaryDirectory() as folder:
        Path(folder, "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        np.save(Path(folder, "images.npy"), images, allow_pickle=False)
        np.save(Path(folder, "target.npy"), target, allow_pickle=False)
        command = [sys.executable, str(Path(__file__).with_name("probe.py")), folder]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"{asked} ended with {done.returncode}: {reason}; take fewer slices?")
    return json.loads(done.stdout.splitlines()[-1])


def in_subprocess(setting: Setting, tree: Path = ROOT) -> dict[str, Any]:
    """The row of a setting, measured in a process of its own, so that nothing else counts.

    Seconds are medians. `frames_per_second` is of the first round's propagation alone,
    `_with_prompt` with a click too, `_with_fusion` with a fusion of all slices on top;
    `later_frames_per_second` is of a later round, all three; `rounds_frames_per_second` of all
    propagations; `rounds_seconds` of everything. `memory_gb` is the peak, on a GPU of its memory.
    """
    found = probe(asdict(setting), *phantom_slices(setting), tree)
    click, fusion = float(np.median(found["click"])), float(np.median(found.pop("fusion")))
    first, *others = np.median(found.pop("propagation"), axis=0).tolist()
    later, slices = float(np.mean(others)), setting.slices
    return {
        **asdict(setting),
        "frames_per_second": slices / first,
        "frames_per_second_with_prompt": slices / (click + first),
        "frames_per_second_with_fusion": slices / (click + first + fusion),
        "later_frames_per_second": slices / (click + later + fusion),
        "rounds_frames_per_second": slices * setting.rounds / (first + sum(others)),
        "click_seconds": click,
        "click_seconds_95": float(np.percentile(found.pop("click"), 95)),
        "propagation_seconds": first,
        "later_propagation_seconds": later,
        "fusion_seconds": fusion,
        "first_round_seconds": click + first,
        "later_round_seconds": click + later + fusion,
        "rounds_seconds": setting.rounds * (click + fusion) - fusion + first + sum(others),
        **found,
    }
