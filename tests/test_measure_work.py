import pytest
import torch
from fakes import fakes
from measure.work import MEMORIZED_SLICES, gigaflop, parameters

from limnet.networks.checkpoints import lite


def test_work_is_counted_by_hand():
    networks = lite()
    config = networks.propagation_net.config
    work = gigaflop(networks, (64, 32))
    tokens = (64 // 16) * (32 // 16)
    products = 2 * config.key_dim + 1  # one for similarities; of the values only a few are summed
    by_hand = 2 * products * tokens * MEMORIZED_SLICES * tokens / 1e9
    assert work["affinity"] == pytest.approx(by_hand)
    share = work["value_encoder"] / config.memorize_every
    alone = ("key_encoder", "parts_of_slice", "affinity", "decoder")
    total = sum(work[name] for name in alone) + share
    assert work["slice"] == pytest.approx(total)
    double = gigaflop(networks, (64, 64))
    assert double["key_encoder"] == pytest.approx(2 * work["key_encoder"])
    assert double["click_net"] == work["click_net"]  # it sees a crop


def test_the_networks_stay_where_they_are():
    networks = lite()
    gigaflop(networks, (32, 32))
    assert networks.device.type == "cpu"
    assert next(networks.quality_net.parameters()).device.type == "cpu"


def test_parameters_are_counted_by_network():
    networks = fakes()
    networks.quality_net.weight = torch.nn.Parameter(torch.zeros(3, 4))
    assert parameters(networks) == {"click_net": 1, "propagation_net": 1, "quality_net": 12}
