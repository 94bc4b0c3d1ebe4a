"""The optimisations one on top of another: what was predicted of each, and what it gives."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from limnet.volumes import CT_WINDOWS, Volume
from measure.measuring import propagation_seconds
from measure.setting import WARM_UP_SLICES, Setting, phantom_slices


class Step(NamedTuple):
    """One optimisation, and how many times faster it was predicted to make a round at paper size.

    Predictions were written before whole rounds were measured: from operations counted by hand and
    from parts of the network timed alone on two cores.
    """

    name: str
    changes: dict[str, Any]  # fields of a `Setting`
    first: float = 1.0  # predicted for the first round, against the step before
    later: float = 1.0  # and for later rounds
    reason: str = ""


LADDER = (
    Step(
        "plain",
        {
            "cache_gb": 0,
            "stored_as": "",
            "dense_read": True,
            "fold": False,
            "close_up": "no",
            "ahead": 1,
            "recorded": False,
        },
        reason="every round computes everything anew, as XMem does in a new pass",
    ),
    Step(
        "kept",
        {"cache_gb": 8, "stored_as": "float16"},
        later=1.8,
        reason="keys, skips and parts of the fusers, kept in 16 bits, are 100 of 188 GFLOP",
    ),
    Step(
        "sparse read",
        {"dense_read": False},
        first=1.08,
        later=1.16,
        reason="reading is a tenth of a slice's time and becomes five times as fast",
    ),
    Step(
        "folded",
        {"fold": True},
        first=1.2,
        later=1.2,
        reason="alone, the key encoder runs 1.5 times as fast, value encoder 1.3, decoder 1.2",
    ),
    Step(
        "bfloat16",
        {"precision": "bfloat16"},
        first=1.9,
        later=1.9,
        reason="every network alone runs 1.8 to 2 times as fast; reading memory stays float32",
    ),
    Step(
        "close-up",
        {"close_up": "yes"},
        first=3.5,
        later=3.5,
        reason="a kidney's close-up has a seventh of the pixels; small images are less efficient",
    ),
)

ON_GPU = (  # a CPU does the same with and without
    Step(
        "eight at once",
        {"ahead": 8},
        first=1.3,
        later=1.2,
        reason="slices are encoded eight at a time: fewer, larger kernels",
    ),
    Step(
        "recorded",
        {"recorded": True},
        first=1.5,
        later=2.0,
        reason="decoder and value encoder are some 150 kernels a slice, each called from Python",
    ),
)

LOOKS = (  # of small networks on a CPU; the paper's take none
    Step("looks in turn", {"parallel_map": False, "coarse_first": False}),
    Step(
        "looks side by side",
        {"parallel_map": True},
        first=2.4,
        later=2.8,
        reason="a look took 45 ms on one thread and 51 on two that wait for each other",
    ),
    Step(
        "coarse first",
        {"coarse_first": True},
        first=1.1,
        later=1.1,
        reason="on one thread the wide convolutions of a look's head take 6 ms in place of 12",
    ),
)


def run_ablation(
    setting: Setting, steps: Sequence[Step] | None = None, *, quiet: bool = True
) -> list[dict[str, Any]]:
    """A row a step, each with the changes of all steps before it: seconds, and gains over those.

    The steps take turns in one process, so that a busy moment of the machine hits all of them.

    Args:
        setting: the repeats of which every step gets, and whose other fields the steps change.
        steps: None: `LADDER`, on a GPU `ON_GPU` too.
    """
    if steps is None:
        steps = LADDER + ON_GPU if setting.device.startswith("cuda") else LADDER
    images, target = phantom_slices(setting)
    volume = Volume.from_array(images, modality="CT", window=CT_WINDOWS["abdomen"])
    few = Volume.from_array(images[:WARM_UP_SLICES], modality="CT", window=volume.window)
    settings, changes = [], {}
    for step in steps:
        changes |= step.changes
        settings.append(replace(setting, **changes))
    loaded = [each.load() for each in settings]
    for each, networks in zip(settings, loaded, strict=True):
        propagation_seconds(each, networks, few, target[:WARM_UP_SLICES])
    seconds = [[] for _ in steps]
    for turn in tqdm(range(setting.repeats * len(steps)), disable=quiet):
        at = turn % len(steps)
        seconds[at].append(propagation_seconds(settings[at], loaded[at], volume, target))
    medians = [np.median(each, axis=0) for each in seconds]
    return [_row(number, steps, medians, len(images)) for number in range(len(steps))]


def _row(
    number: int, steps: Sequence[Step], medians: Sequence[np.ndarray], slices: int
) -> dict[str, Any]:
    step, plain, now = steps[number], medians[0], medians[number]
    before = medians[max(number - 1, 0)]
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
