"""Measures speed, memory and exactness: `make measure-speed`, some 25 minutes.

Prints what the README states and leaves it in reports/measure_speed/. It means something only where
nothing else runs. The parts can be asked for alone:
`PYTHONPATH=tests python -m measure.speed measure_rounds`.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from limnet.data import Case, collection_cases
from limnet.evaluation.users import next_click_on_slice
from limnet.method.prompts import Click
from limnet.method.propagation import propagate_masks
from limnet.method.session import Session
from limnet.metrics import dice
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.peak_memory import peak_memory
from limnet.volumes import CT_WINDOWS, Volume
from measure import LADDER, Setting, agreement, measure_alone
from measure.report import report
from measure.setting import GIGABYTE, Masks, phantom_slices

STARTS, REPEATS = 5, 5
SIX_ROUNDS = Setting(organ="left kidney", rounds=6, repeats=1)  # 100 slices of 480 x 480
PAPER = replace(SIX_ROUNDS, networks="paper", precision="bfloat16", cache_gb=3)
ROUNDS = {
    "lite": SIX_ROUNDS,
    "lite, bfloat16": replace(SIX_ROUNDS, precision="bfloat16"),
    "lite, looks in turn": replace(SIX_ROUNDS, parallel_map=False),
    "paper size": PAPER,
    "paper size, close-up": replace(PAPER, close_up="yes"),
}
OFFICIAL = 0.88  # slices a second of XMem's own code: float32, two threads of an AMD EPYC
PROMPTS = (1 / 2, 1 / 4, 3 / 4)  # of the way through the slices, one a round
LIMIT = 0.002  # of DSC, that 16 bits may be from float32
START = "import time; started = time.perf_counter(); import limnet; limnet.load_networks('lite')"


def measure_start(folder: Path) -> dict[str, object]:
    """Seconds until the shipped networks are there."""
    command = [sys.executable, "-c", f"{START}; print(time.perf_counter() - started)"]
    seconds = [float(subprocess.check_output(command)) for _ in range(STARTS)]
    return {"import limnet and load_networks, s": statistics.median(seconds)}


def measure_rounds(folder: Path) -> dict[str, object]:
    """Clicks and rounds: medians of the shipped networks, in turn; the paper's size once."""
    rows = {name: [] for name in ROUNDS}
    for turn in range(REPEATS):
        for name, setting in ROUNDS.items():
            if turn == 0 or setting.networks == "lite":
                rows[name].append(measure_alone(setting))
    return {
        f"{name}: {what}": value
        for name, measured in rows.items()
        for what, value in _of_rounds(measured).items()
    }


def _of_rounds(rows: list[dict[str, float]]) -> dict[str, object]:
    """Median, least and most of each."""
    first = [row["frames_per_second"] for row in rows]
    later = [row["slices"] / row["later_propagation_seconds"] for row in rows]
    values = {
        "a click, s": [row["click_seconds"] for row in rows],
        "propagation of round 1, slices a second": first,
        "propagation of later rounds, slices a second": later,
        "later rounds with a click and fusion": [row["later_frames_per_second"] for row in rows],
        "peak memory, GB": [row["memory_gb"] for row in rows],
    }
    if rows[0]["networks"] == "paper":
        values["round 1, times the official speed"] = [each / OFFICIAL for each in first]
        values["later rounds, times the official speed"] = [each / OFFICIAL for each in later]
    return {
        what: f"{statistics.median(each):.3g} ({min(each):.3g} to {max(each):.3g})"
        for what, each in values.items()
    }


def measure_memory(folder: Path) -> dict[str, object]:
    """Peak of a process with a session of three rounds, by the number of slices."""
    found = {}
    for slices in (100, 500, 2000):
        images, target = phantom_slices(Setting(size=512, slices=slices))
        prompted = [int(slices * share) for share in PROMPTS]
        nothing = np.zeros_like(target[0])
        clicks = [(at, *next_click_on_slice(target[at], nothing)) for at in prompted]
        np.save(folder / "images.npy", images, allow_pickle=False)
        (folder / "clicks.json").write_text(json.dumps(clicks))
        volume, size = images.nbytes / GIGABYTE, images.shape[1]
        del images, target
        command = [sys.executable, "-m", "measure.speed", "session", str(folder)]
        peak = int(subprocess.check_output(command)) / GIGABYTE
        found[f"{slices} slices of {size} x {size}, GB"] = peak
        found[f"{slices} slices, of that the volume, GB"] = volume
    return found


def session(folder: Path) -> None:
    """The process whose memory is measured."""
    images = np.load(folder / "images.npy", allow_pickle=False)
    volume = Volume.from_array(images, modality="CT", window=CT_WINDOWS["abdomen"])
    one = Session(volume, load_networks("lite"))
    for at, positive, row, column in json.loads((folder / "clicks.json").read_text()):
        one.add_click(Click(at, row, column, positive))
        one.propagate()
    print(peak_memory())


def measure_exactness(folder: Path) -> dict[str, object]:
    """Fast and 16-bit masks of the largest label of every real case, against float32."""
    root = os.environ.get("LIMNET_DATA")
    if not root:
        return {"LIMNET_DATA names no data": "exactness is not measured"}
    plain = replace(Setting(**LADDER[0].changes), close_up="as trained")
    fast = (plain, plain.load()), (Setting(), Setting().load())
    bits = [load_networks("lite", dtype=each) for each in (torch.float32, torch.bfloat16)]
    pixels, distances, alone, looked = [], [], [], []
    for case in tqdm([each for each in collection_cases(root) if each.image], disable=None):
        volume, target = _largest(case)
        told = agreement(volume, target, *fast)
        pixels.append(told.pixels)
        distances.append(abs(told.dice_fast - told.dice_plain))
        alone.append(_apart([_propagated(each, volume, target) for each in bits], target))
        looked.append(_apart([_round_of(each, volume, target) for each in bits], target))
    return {
        "real cases": len(pixels),
        "fast against plain, float32: pixels that differ, most of a case": max(pixels),
        "fast against plain, float32: DSC, most": max(distances),
        **_of_bits("16 bits, propagation", alone),
        **_of_bits("16 bits, a session's round", looked),
    }


def _of_bits(name: str, apart: list[float]) -> dict[str, object]:
    return {
        f"{name}: DSC from float32, mean": statistics.mean(apart),
        f"{name}: DSC from float32, most": max(apart),
        f"{name}: cases nearer than {LIMIT}": sum(each < LIMIT for each in apart),
    }


def _largest(case: Case) -> tuple[Volume, Masks]:
    """The volume and where its largest label is."""
    volume, labels = case.load()
    targets = (case.target(labels, name) for name in case.anatomy)
    return volume, max(targets, key=np.count_nonzero)


def _prompt(target: Masks) -> int:
    """The slice that shows most of it."""
    return int(np.count_nonzero(target, axis=(1, 2)).argmax())


def _propagated(networks: LimNet, volume: Volume, target: Masks) -> Masks:
    """What propagation alone makes of one slice's true mask."""
    net, at = networks.propagation_net, _prompt(target)
    features = Setting().features(volume, networks)
    return np.asarray(propagate_masks(net, features, {at: target[at]}, at)[0])


def _round_of(networks: LimNet, volume: Volume, target: Masks) -> Masks:
    """What a session makes of it: with looks at the propagated masks."""
    one, at = Session(volume, networks), _prompt(target)
    one.paint(at, target[at])
    one.propagate()
    return one.masks


def _apart(both: list[Masks], target: Masks) -> float:
    before, now = (dice(target, each) for each in both)
    return abs(now - before)


if __name__ == "__main__":
    if sys.argv[1:2] == ["session"]:
        session(Path(sys.argv[2]))
    else:
        parts = (measure_start, measure_rounds, measure_memory, measure_exactness)
        report("measure_speed", parts)
