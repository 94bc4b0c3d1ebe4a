"""`python -m measure`: all sizes, slices and networks, and the ladders, into one JSON.

Every row is on disk as soon as it is measured; a run that was stopped goes on behind the last one.
"""

import argparse
import json
from dataclasses import asdict, replace
from itertools import product

import torch
from tqdm import tqdm

from limnet.files import write_whole
from limnet.reports.results import provenance, report_folder
from measure.ladder import LOOKS, run_ablation
from measure.rows import NETWORKS, Setting, in_subprocess

REPORT = "57_runtime_and_memory"  # the notebook that shows it


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for; by default what an hour on two cores allows."""
    parser = argparse.ArgumentParser(prog="python -m measure", description=main.__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 480, 512])
    parser.add_argument("--slices", nargs="+", type=int, default=[100])
    parser.add_argument("--organ", default="left kidney", help="of the phantom")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ladder-slices", type=int, default=30)
    parser.add_argument("--ladder-repeats", type=int, default=3)
    parser.add_argument("--ladder-networks", default="paper", choices=NETWORKS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args(arguments)
    shared = Setting(organ=asked.organ, device=asked.device, rounds=asked.rounds)
    ladder = replace(
        shared,
        networks=asked.ladder_networks,
        slices=asked.ladder_slices,
        repeats=asked.ladder_repeats,
    )
    path, facts = report_folder(REPORT) / "benchmark.json", provenance({})
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (known.get("commit"), known.get("device")) != (facts["commit"], facts["device"]):
        known = {"commit": facts["commit"], "device": facts["device"], "rows": []}
    for networks, size, slices in tqdm([*product(asked.networks, asked.sizes, asked.slices)]):
        sizes = {"networks": networks, "size": size, "slices": slices}
        setting = replace(shared, repeats=asked.repeats, **sizes)
        if not any(asdict(setting).items() <= row.items() for row in known["rows"]):
            known["rows"].append(in_subprocess(setting))
            write_whole(path, json.dumps(known, indent=1))
    ladders = {"ladder": (ladder, None), "looks": (replace(ladder, networks="lite"), LOOKS)}
    for name, (setting, steps) in ladders.items():
        if known.get(f"{name}_setting") != asdict(setting):
            known[name] = run_ablation(setting, steps, quiet=False)
            known[f"{name}_setting"] = asdict(setting)
            write_whole(path, json.dumps(known, indent=1))
    print(path)


if __name__ == "__main__":
    main()
