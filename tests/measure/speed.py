"""Measures speed, memory and exactness: `make measure-speed`, some 25 minutes.

Prints them and leaves them in reports/measure_speed/. They mean something only where nothing else
runs. Parts can be named: `PYTHONPATH=tests python -m measure.speed measure_rounds`. With
`--against FOLDER` another checkout is measured too, in turn with this one.
"""

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from limnet.data import collection_cases
from limnet.evaluation.users import next_click_on_slice
from measure.agreement import numerical_agreement
from measure.ladder import PLAIN, Optimisations
from measure.report import in_words, report
from measure.rows import ROOT, Setting, in_subprocess, phantom_slices, probe

KIDNEY = Setting(organ="left kidney", rounds=6, repeats=1)  # 100 slices of 480 x 480
PAPER = replace(KIDNEY, networks="paper", precision="bfloat16", cache_gb=3)
ROUNDS = {  # what is measured, and how often
    "lite": (KIDNEY, 5),
    "lite, bfloat16": (replace(KIDNEY, precision="bfloat16"), 5),
    "paper size": (PAPER, 1),
    "paper size, crop": (replace(PAPER, crop=True), 1),
}
OFFICIAL = 0.88  # slices a second of XMem's own code: float32, two threads of an AMD EPYC
LIMIT = 0.002  # of DSC, that 16 bits may be from float32
TREES = [ROOT]  # this one, and the one to compare with


def in_turn(times: int, measure: Callable[..., dict[str, float]], *about: Any) -> dict[str, str]:
    """What each tree gives, measured so often, one tree after the other."""
    values = {tree: defaultdict(list) for tree in TREES}
    for _ in range(max(times, 2 * len(TREES) - 1)):  # a ratio needs three
        for tree in TREES:
            for what, value in measure(tree, *about).items():
                values[tree][what].append(value)
    ours, *others = values.values()
    return {what: in_words(ours[what], *(each[what] for each in others)) for what in ours}


def measure_start(folder: Path) -> dict[str, object]:
    """Seconds until the shipped networks are there."""
    return in_turn(5, _start)


def _start(tree: Path) -> dict[str, float]:
    timer = "from timeit import timeit; print(timeit({!r}, number=1))"
    command = timer.format("import limnet; limnet.load_networks('lite')")
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    seconds = subprocess.check_output([sys.executable, "-P", "-c", command], env=environment)
    return {"import limnet and load_networks, s": float(seconds)}


def measure_rounds(folder: Path) -> dict[str, object]:
    """Clicks and rounds: of the shipped networks and of the paper's size."""
    found = {}
    for name, (setting, times) in ROUNDS.items():
        measured = in_turn(times, _rounds, setting)
        found |= {f"{name}: {what}": value for what, value in measured.items()}
    return found


def _rounds(tree: Path, setting: Setting) -> dict[str, float]:
    row = in_subprocess(setting, tree)
    first, later = (setting.slices / row[f"{n}propagation_seconds"] for n in ("", "later_"))
    values = {
        "a click, s": row["click_seconds"],
        "propagation of round 1, slices a second": first,
        "propagation of later rounds, slices a second": later,
        "fusion of all slices, s": row["fusion_seconds"],
        "later rounds with a click and fusion": row["later_frames_per_second"],
        "peak memory, GB": row["memory_gb"],
    }
    if setting.networks == "paper":
        values["round 1, times the official speed"] = first / OFFICIAL
        values["later rounds, times the official speed"] = later / OFFICIAL
    return values


def measure_memory(folder: Path) -> dict[str, object]:
    """Peak of a process with a session of three rounds, by the number of slices."""
    return {what: value for n in (100, 500, 2000) for what, value in in_turn(1, _memory, n).items()}


def _memory(tree: Path, slices: int) -> dict[str, float]:
    images, target = phantom_slices(Setting(size=512, slices=slices))
    nothing = np.zeros_like(target[0])
    prompted = [slices // 2, slices // 4, 3 * slices // 4]
    clicks = [(at, *next_click_on_slice(target[at], nothing)) for at in prompted]
    found, title = probe({"played": clicks}, images, target, tree), f"{slices} slices of 512 x 512"
    volume = images.nbytes / 2**30
    return {f"{title}, GB": found["memory_gb"], f"{title}, of that the volume, GB": volume}


def measure_exactness(folder: Path) -> dict[str, object]:
    """Fast and 16-bit masks of the largest label of every real case, against float32."""
    if not os.environ.get("LIMNET_DATA"):
        return {"LIMNET_DATA names no data": "exactness is not measured"}
    ways = {"plain": replace(PLAIN, crop=True), "fast": Optimisations()}
    ways["bfloat16"] = Optimisations(precision="bfloat16")
    loaded = {name: way.load() for name, way in ways.items()}
    whole = {name: (way, loaded[name]) for name, way in ways.items()}
    alone = {name: (replace(way, refine=False), loaded[name]) for name, way in ways.items()}
    pairs = {
        "fast against plain, float32": (alone["plain"], alone["fast"]),
        "16 bits, propagation": (alone["fast"], alone["bfloat16"]),
        "16 bits, a session's round": (whole["fast"], whole["bfloat16"]),
    }
    pixels, apart = defaultdict(list), defaultdict(list)
    cases = [case for case in collection_cases(os.environ["LIMNET_DATA"]) if case.image]
    for case in tqdm(cases, disable=None):
        volume, labels = case.load()
        target = max((case.target(labels, n) for n in case.anatomy), key=np.count_nonzero)
        for name, both in pairs.items():
            found = numerical_agreement(volume, target, *both)
            pixels[name].append(found.pixels)
            apart[name].append(abs(found.dice_fast - found.dice_plain))
    found = {"real cases": len(cases)}
    for name in pairs:
        found[f"{name}: pixels that differ, most of a case"] = max(pixels[name])
        found[f"{name}: DSC, mean"] = float(np.mean(apart[name]))
        found[f"{name}: DSC, most"] = max(apart[name])
        found[f"{name}: cases nearer than {LIMIT}"] = sum(d < LIMIT for d in apart[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure.speed")
    parts = (measure_start, measure_rounds, measure_memory, measure_exactness)
    parser.add_argument("parts", nargs="*", help=", ".join(each.__name__ for each in parts))
    parser.add_argument("--against", type=Path, help="another checkout of limnet")
    asked = parser.parse_args()
    if asked.against:
        TREES.append(asked.against.resolve(strict=True))
    report("measure_speed", parts, asked.parts)


if __name__ == "__main__":
    main()
