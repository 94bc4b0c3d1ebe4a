"""`python -m measure`: all sizes, slices and networks, and the ladders, into one JSON.

Every row is on disk as soon as it is measured; a run that was stopped goes on behind the last one.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from limnet.files import write_whole
from limnet.reports.results import provenance, report_folder
from measure.alone import measure_alone
from measure.ladder import LOOKS, run_ablation
from measure.setting import NETWORKS, Setting

REPORT = "57_runtime_and_memory"  # the notebook that shows it


def run(settings: Sequence[Setting], ladder: Setting, path: Path) -> dict[str, Any]:
    """Rows of all settings and of both ladders; those that a file at `path` has are not made again.

    Rows of other code, told by the commit, are dropped.
    """
    facts = provenance({})
    known = _read(path)
    if known.get("commit") != facts["commit"]:
        known = {}
    told = {"commit": facts["commit"], "device": facts["device"], "rows": []}
    told["rows"] = [row for row in known.get("rows", []) if _setting_of(row) in settings]
    for setting in tqdm(settings):
        if setting not in [_setting_of(row) for row in told["rows"]]:
            told["rows"].append(measure_alone(setting))
            write_whole(path, json.dumps(told, indent=1))
    told["ladder_setting"] = asdict(ladder)
    same = known.get("ladder_setting") == told["ladder_setting"]
    ladders = {"ladder": (ladder, None), "looks": (replace(ladder, networks="lite"), LOOKS)}
    for name, (setting, steps) in ladders.items():
        told[name] = (same and known.get(name)) or run_ablation(setting, steps, quiet=False)
        write_whole(path, json.dumps(told, indent=1))
    return told


def _read(path: Path) -> dict[str, Any]:
    """Nothing where there is no whole file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _setting_of(row: dict[str, Any]) -> Setting | None:
    try:
        return Setting(**{name: row[name] for name in asdict(Setting())})
    except (KeyError, TypeError, ValueError):
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for; by default what an hour on two cores allows."""
    parser = argparse.ArgumentParser(prog="python -m measure", description=main.__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 480, 512])
    parser.add_argument("--slices", nargs="+", type=int, default=[100])
    parser.add_argument("--organ", default="left kidney", help="of the phantom")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ladder-slices", type=int, default=30)
    parser.add_argument("--ladder-repeats", type=int, default=3)
    parser.add_argument("--ladder-networks", default="paper", choices=NETWORKS)
    parser.add_argument("--device", default=device)
    asked = parser.parse_args(arguments)
    shared = {"organ": asked.organ, "device": asked.device, "rounds": asked.rounds}
    settings = [
        Setting(networks=networks, size=size, slices=slices, repeats=asked.repeats, **shared)
        for networks, size, slices in product(asked.networks, asked.sizes, asked.slices)
    ]
    ladder = Setting(
        networks=asked.ladder_networks,
        slices=asked.ladder_slices,
        repeats=asked.ladder_repeats,
        **shared,
    )
    path = report_folder(REPORT) / "benchmark.json"
    run(settings, ladder, path)
    print(path)


if __name__ == "__main__":
    main()
