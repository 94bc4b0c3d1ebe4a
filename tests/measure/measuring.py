"""What clicks and rounds cost: seconds and memory (paper, section III-C)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limnet.method.features import Resizer, SliceFeatures
from limnet.method.fusion import fuse_rounds
from limnet.method.looks import refine_propagated
from limnet.method.passes import PropagationOptions, propagate
from limnet.method.prompts import Click
from limnet.method.propagation import close_up, propagate_masks
from limnet.method.session import Session
from limnet.networks.checkpoints import LimNet
from limnet.volumes import CT_WINDOWS, Volume
from limnet.volumes.masks import Mask
from measure.setting import WARM_UP_SLICES, Images, Masks, Setting
from measure.work import gigaflop, parameters

PROMPTS = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8)  # of the way through the slices


class Times(NamedTuple):
    """Seconds, one entry a repeat."""

    click: list[float]  # from a click to its mask
    # of each round, every one from another slice; in the first all slices are new
    propagation: list[tuple[float, ...]]
    fusion: list[float]  # of two rounds that differ on every slice


def measure(setting: Setting, networks: LimNet, images: Images, target: Masks) -> dict[str, Any]:
    """What the setting costs here, as a flat row: the setting, seconds, frames a second and more.

    `frames_per_second` is of the first round's propagation alone, `_with_prompt` with a click's
    prompt mask too, `_with_fusion` with a fusion of all slices on top; `later_frames_per_second` is
    of a later round, all three of them; `rounds_frames_per_second` is of all rounds' propagations.
    `rounds_seconds` is all of it: clicks, propagations and fusions. Seconds are medians,
    `click_seconds_95` is a percentile. GFLOP are of whole slices; a memory read is one of
    MEMORIZED_SLICES slices.
    """
    volume = Volume.from_array(images, modality="CT", window=CT_WINDOWS["abdomen"])
    times = _times(setting, networks, volume, target)
    click, fusion = float(np.median(times.click)), float(np.median(times.fusion))
    propagation, *others = np.median(times.propagation, axis=0).tolist()
    later = float(np.mean(others))
    every = setting.rounds * (click + fusion) - fusion + propagation + sum(others)
    frame = Resizer.fit(images.shape[1:], networks.working_size)
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
        "rounds_frames_per_second": len(images) * setting.rounds / (propagation + sum(others)),
        "click_seconds": click,
        "click_seconds_95": float(np.percentile(times.click, 95)),
        "propagation_seconds": propagation,
        "later_propagation_seconds": later,
        "fusion_seconds": fusion,
        "first_round_seconds": click + propagation,
        "later_round_seconds": click + later + fusion,
        "rounds_seconds": every,
        **{f"parameters_{name}": count for name, count in parameters(networks).items()},
        **{f"gflop_{name}": count for name, count in gigaflop(networks, padded).items()},
    }


def _times(setting: Setting, networks: LimNet, volume: Volume, target: Masks) -> Times:
    """Propagation starts from the truth, so that its work does not depend on the clicks."""
    few = slice(0, WARM_UP_SLICES)
    start = Volume.from_array(volume.images[few], modality="CT", window=volume.window)
    propagation_seconds(setting, networks, start, target[few])
    _fuse(networks, start, target[few])
    click = _click_seconds(setting, networks, volume, target)
    repeats = range(setting.repeats)
    rounds = [propagation_seconds(setting, networks, volume, target) for _ in repeats]
    fusion = [_seconds(networks, partial(_fuse, networks, volume, target)) for _ in repeats]
    return Times(click, rounds, fusion)


def propagation_seconds(
    setting: Setting, networks: LimNet, volume: Volume, target: Masks
) -> tuple[float, ...]:
    """Of every round; the first is from the middle, the others from slices between.

    Networks of paper size have random weights, so that a close-up would follow nothing: theirs is
    the one that holds the object on all slices, into which that of a trained network grows.
    """
    features, given, seconds = setting.features(volume, networks), {}, []
    net, options = networks.propagation_net, setting.options
    refinements = setting.refinements and networks.refinements > 0
    for number in range(setting.rounds):
        index = int(len(target) * PROMPTS[number % len(PROMPTS)])
        given[index] = target[index]
        if setting.networks == "lite":
            heard = {"again": partial(_look_again, networks, volume)} if refinements else {}
            carry = partial(propagate_masks, net, features, given, index, options, **heard)
        else:
            inside = close_up(net, features, dict(enumerate(target)), options)
            carry = partial(_carry, networks, inside, given, index, options)
        seconds.append(_seconds(networks, carry))
    return tuple(seconds)


def _look_again(networks: LimNet, volume: Volume, slice_index: int, probability: Tensor) -> Tensor:
    image = _images(networks, volume, [slice_index])[0]
    return refine_propagated(
        networks.click_net, image, probability, networks.zoom_size, networks.refinements
    )


def _carry(
    networks: LimNet,
    inside: SliceFeatures,
    given: Mapping[int, Mask],
    prompt_slice: int,
    options: PropagationOptions,
) -> None:
    frame, masks = inside.frame, {index: inside.mask(mask) for index, mask in given.items()}
    net, slices = networks.propagation_net, len(inside)
    inside.kept.begin_sweep()
    for _, probability in propagate(net, inside, slices, prompt_slice, masks, options):
        (frame.to_slice(frame.unpad(probability)) > 0.5).cpu()


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
    current = np.roll(previous, -max(1, previous.shape[2] // 40), axis=2)
    both = (torch.from_numpy(each).to(networks.device) for each in (previous, current))
    fuse_rounds(networks.quality_net, partial(_images, networks, volume), *both)[0].cpu()


def _images(networks: LimNet, volume: Volume, slice_indices: list[int]) -> Tensor:
    return torch.from_numpy(volume.rgb(slice_indices)).to(networks.device)


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
