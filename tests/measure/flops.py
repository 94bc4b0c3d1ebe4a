"""What the networks are made of and do: parameters and GFLOP."""

from copy import deepcopy

import torch
from torch.utils.flop_counter import FlopCounterMode

from limnet.method.fusion import CROP_SIZE
from limnet.method.memory import Memory, MemoryConfig
from limnet.networks.checkpoints import LimNet

NETWORKS = ("click_net", "propagation_net", "quality_net")


def parameters(networks: LimNet) -> dict[str, int]:
    """Numbers that were learnt, by network."""
    return {
        name: sum(each.numel() for each in getattr(networks, name).parameters())
        for name in NETWORKS
    }


@torch.inference_mode()
def flops(networks: LimNet, side: int) -> dict[str, float]:
    """GFLOP of one call of each part; of most nothing is computed, shapes alone are followed.

    A multiplication and its addition count as two; only convolutions and matrix products count.
    A read of memory is one of as many slices as there are before consolidation. `slice` is what a
    slice of a first round takes: key, affinity, decoder and its share of values.

    Args:
        side: pixels a side of what the propagation net sees, a multiple of its stride.
    """
    click_net, net = (deepcopy(getattr(networks, name)).to("meta") for name in NETWORKS[:2])
    quality_net = networks.quality_net  # computes: how much it does depends on its weights
    images = torch.zeros(1, 3, side, side, device="meta")
    zoom_size = networks.click_net.config.zoom_size
    crop = torch.zeros(1, 3, zoom_size, zoom_size, device="meta")
    pair = torch.zeros(1, 3, CROP_SIZE, CROP_SIZE, device=networks.device)
    key, mask = net.encode_key(images), images[:, :1]
    sensory = images.new_zeros(1, net.config.hidden_dim, *key.f16.shape[2:])
    parts = net.precompute(key)
    value, _ = net.encode_value(images, parts, sensory, mask, mask, update_sensory=True)
    memory = Memory(MemoryConfig(long_term=False))
    for _ in range(MemoryConfig().max_work_slices - 1):
        memory.memorize(key.key[0], key.shrinkage[0], key.selection[0], value[0])
    calls = {
        "key_encoder": lambda: net.encode_key(images),
        "parts_of_slice": lambda: net.precompute(key),
        "value_encoder": lambda: net.encode_value(
            images, parts, sensory, mask, mask, update_sensory=True
        ),
        "affinity": lambda: memory.read(key.key[0], key.selection[0]),
        "decoder": lambda: net.decode(parts, value, sensory, update_sensory=True),
        "click_net": lambda: click_net(crop, crop[:, :2], crop[:, :1]),
        "quality_net": lambda: quality_net(pair, pair[:, :1], pair[:, :1]),
    }
    counted = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        counted[name] = counter.get_total_flops() / 1e9
    alone = sum(counted[n] for n in ("key_encoder", "parts_of_slice", "affinity", "decoder"))
    return {**counted, "slice": alone + counted["value_encoder"] / net.config.memorize_every}
