"""What a run would take, from what earlier ones took; nothing is computed and no image is read."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
from nibabel.affines import voxel_sizes
from PIL import Image

from limnet.data import Case
from limnet.evaluation.large_run.playing import device_here
from limnet.evaluation.large_run.records import (
    COSTS,
    FOLDER,
    Options,
    Recipe,
    Source,
    bytes_of,
    read_record,
)
from limnet.evaluation.large_run.running import Task, by_case, done_and_left, recipe_of
from limnet.evaluation.large_run.workers import local_workers

ALIKE = 2.0  # pixels a slice and slices: between half and twice as many


@dataclass(frozen=True)
class Plan:
    """What a run has before it; None where nothing like it was ever measured."""

    cases: int
    targets: int  # at most: which of them a case shows is only known once it is read
    done: int  # targets
    cases_left: int
    gigabytes: float  # to read
    memory_gb: float | None  # peak of a worker
    seconds: float | None  # by the clock
    unmeasured: int  # cases left that are like none whose costs are on record
    workers: int

    def table(self) -> pd.DataFrame:
        """Two columns of words."""
        unknown = f"unknown: {self.unmeasured} of the cases are like none that was measured"
        minutes = unknown if self.seconds is None else f"{self.seconds / 60:.1f}"
        memory = unknown if self.memory_gb is None else f"{self.memory_gb:.1f}"
        clock = f"minutes with {self.workers} workers, were all shown"
        rows = {
            "cases": self.cases,
            "targets, at most": self.targets,
            "of these done": self.done,
            "cases left": self.cases_left,
            "GB to read": f"{self.gigabytes:.3f}",
            "peak memory of a worker, GB": memory if self.cases_left else "-",
            clock: minutes if self.cases_left else "-",
        }
        return pd.DataFrame({"what": rows.keys(), "value": map(str, rows.values())})


def plan(
    tasks: Iterable[Task],
    networks: Source,
    cache: Path,
    *,
    options: Options = Options(),  # noqa: B008 - it is frozen
    workers: int = 0,
    threads: int = 1,
    scheduler: str = "local",
) -> Plan:
    """What `run` would take with the same arguments.

    Time is the median of the seconds that a target took for a slice and a round, of cases of like
    size, with the same weights, rounds, threads and device; memory is the most that one of them
    took. Where a case is like none of them, neither is said: run one such case first.
    """
    recipe = recipe_of(networks, cache, options, threads)
    if scheduler == "local":
        workers = local_workers(workers, threads)
    jobs, left, done = by_case(tasks), [], 0
    for job in jobs:
        known, missing = done_and_left(job, recipe)
        done += len(known)
        left += [(job[0], missing)] if missing else []
    measured = _measured(recipe)
    costs = [_cost(case, len(organs), measured, recipe) for case, organs in left]
    known = [cost for cost in costs if cost is not None]
    all_known = len(known) == len(left)
    seconds, memory = zip(*known, strict=True) if known else ((0.0,), (0.0,))
    # no case is cut in two
    by_the_clock = max(sum(seconds) / max(workers, 1), max(seconds))
    return Plan(
        cases=len(jobs),
        targets=sum(len(organs) for _, organs in jobs),
        done=done,
        cases_left=len(left),
        gigabytes=sum(bytes_of(case) for case, _ in left) / 1e9,
        memory_gb=max(memory) if all_known else None,
        seconds=by_the_clock if all_known else None,
        unmeasured=len(left) - len(known),
        workers=workers,
    )


def _measured(recipe: Recipe) -> list[dict[str, Any]]:
    """One entry a target that was computed: COSTS, "seconds" and "memory_gb"."""
    wanted = {"networks": recipe.networks, "rounds": recipe.options.rounds}
    wanted |= {"threads": recipe.threads, "device": device_here()}
    entries = []
    for file in sorted((recipe.cache / FOLDER).glob("*.json")):
        record = read_record(file)
        if all(record.get(name) == value for name, value in wanted.items()):
            costs = {name: record.get(name) for name in COSTS}
            organs = record["organs"].values()
            entries += [costs | entry for entry in organs if "seconds" in entry]
    return entries


def _cost(
    case: Case, organs: int, measured: list[dict[str, Any]], recipe: Recipe
) -> tuple[float, float] | None:
    """Seconds and GB of memory; None where no case of like size was measured."""
    size = _size(case)
    if size is None:
        return None
    like = [
        each
        for each in measured
        if all(
            1 / ALIKE <= length / each[name] <= ALIKE
            for name, length in zip(("slices", "pixels"), size, strict=True)
        )
    ]
    if not like:
        return None
    rate = median(each["seconds"] / (each["slices"] * each["rounds"]) for each in like)
    return rate * size[0] * recipe.options.rounds * organs, max(each["memory_gb"] for each in like)


def _size(case: Case) -> tuple[int, int] | None:
    """Slices and pixels of each, from headers; None where these do not say it."""
    path = case.image
    with suppress(Exception):  # an image that cannot be read fails in the run, not in the plan
        if path.is_file():
            image = nibabel.load(path)
            shape, spacing = image.shape[:3], voxel_sizes(image.affine)
            axis = int(np.flatnonzero(spacing >= 0.999 * spacing.max())[-1])
            slices = shape[axis if case.slice_axis is None else case.slice_axis]
            return slices, int(np.prod(shape)) // slices
        files = sorted(each for each in path.iterdir() if each.name[0] != ".")
        return len(files), _pixels(files[0])
    return None


def _pixels(file: Path) -> int:
    with suppress(OSError), Image.open(file) as image:
        return image.width * image.height
    header = pydicom.dcmread(file, stop_before_pixels=True)
    return header.Rows * header.Columns
