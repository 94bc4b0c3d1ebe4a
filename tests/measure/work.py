"""What the networks are made of and do: parameters and GFLOP."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from limnet.method.fusion import CROP_SIZE
from limnet.method.memory import Memory, MemoryConfig
from limnet.networks.checkpoints import LimNet

# the most that are read before consolidation makes fewer of them
MEMORIZED_SLICES = MemoryConfig().max_work_slices - 1  # 9


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
    parts = propagation_net.prepare(key)
    value, _ = encode_value(images, parts, sensory, mask, mask)
    memory = Memory(MemoryConfig(long_term=False))
    for _ in range(MEMORIZED_SLICES):
        memory.memorize(key.key[0], key.shrinkage[0], key.selection[0], value[0])
    decode = partial(propagation_net.decode, update_sensory=True)
    calls = {
        "key_encoder": lambda: propagation_net.encode_key(images),
        "parts_of_slice": lambda: propagation_net.prepare(key),
        "value_encoder": lambda: encode_value(images, parts, sensory, mask, mask),
        "affinity": lambda: memory.read(key.key[0], key.selection[0]),
        "decoder": lambda: decode(parts, value, sensory),
        "click_net": lambda: click_net(crop, crop[:, :2], one),
        "quality_net": lambda: quality_net(pair, pair[:, :1], pair[:, :1]),
    }
    done = {name: _counted(call) for name, call in calls.items()}
    values = done["value_encoder"] / propagation_net.config.memorize_every
    alone = ("key_encoder", "parts_of_slice", "affinity", "decoder")
    return {**done, "slice": values + sum(done[name] for name in alone)}


def _counted(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9
