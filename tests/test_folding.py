from dataclasses import replace

import pytest
import torch
from torch import nn

from limnet.networks.checkpoints import lite
from limnet.networks.inference import fuse_batchnorm
from limnet.networks.propagation_net import PropagationNet


@pytest.fixture(scope="module")
def networks():
    """With statistics that are not those of a new batch norm."""
    torch.manual_seed(1)  # with 0 what the quality net adds up to a logit cancels
    networks = lite()
    for network in (networks.click_net, networks.propagation_net, networks.quality_net):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return networks


def slices(generator):
    """Images, and two masks."""
    return torch.rand(2, 3, 64, 48, generator=generator), *torch.rand(
        2, 2, 1, 64, 48, generator=generator
    )


def answers(networks, generator, fold):
    """Of all three networks to the same slices."""
    images, first, second = slices(generator.manual_seed(0))
    clicks, moving, quality = map(
        fold, (networks.click_net, networks.propagation_net, networks.quality_net)
    )
    with torch.inference_mode():
        parts = moving.precompute(moving.encode_key(images))
        sensory = images.new_zeros(2, moving.config.hidden_dim, 4, 3)
        value, sensory = moving.encode_value(
            images, parts, sensory, first, second, update_sensory=True
        )
        logits, sensory = moving.decode(parts, value, sensory, update_sensory=True)
        clicked = clicks(images, torch.cat([first, second], dim=1), first).mask
        return clicked, logits.float(), parts.key, quality.logits(images, first, second)


def test_a_folded_network_answers_the_same(networks, generator):
    plain = answers(networks, generator, lambda network: network)
    for one, other in zip(plain, answers(networks, generator, fuse_batchnorm), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_in_sixteen_bits_it_answers_nearly_the_same(networks, generator):
    plain = answers(networks, generator, lambda network: network)
    half = answers(networks, generator, lambda network: fuse_batchnorm(network, torch.bfloat16))
    for one, other in zip(plain, half, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).abs().max()) < 0.1 * float(one.abs().max())


def test_what_was_trained_stays_as_it_is(networks):
    network = networks.propagation_net
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy = fuse_batchnorm(network, torch.bfloat16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())


def test_keys_are_made_in_float32(networks):
    network = networks.propagation_net
    copy = fuse_batchnorm(network, torch.bfloat16)
    assert copy.dtype == torch.bfloat16
    assert torch.equal(copy.key_projection.weight, network.key_projection.weight)
    assert copy.selection_projection.bias.dtype == torch.float32


@pytest.mark.parametrize("exact", [True, False])
def test_what_goes_into_memory_is_as_exact_as_the_network_asks(networks, generator, exact):
    network = networks.propagation_net
    asked = PropagationNet(replace(network.config, fp32_memory=exact)).eval()
    asked.load_state_dict(network.state_dict())
    images, mask, others = slices(generator.manual_seed(0))
    memorized = []
    for net in (asked, fuse_batchnorm(asked, torch.bfloat16)):
        parts = net.precompute(net.encode_key(images))
        sensory = torch.zeros(2, net.config.hidden_dim, 4, 3)
        value, _ = net.encode_value(images, parts, sensory, mask, others, update_sensory=True)
        logits, sensory = net.decode(parts, value, sensory, update_sensory=True)
        memorized.append((parts.key, value.float(), logits))
    exact_type, fast = torch.float32 if exact else torch.bfloat16, torch.bfloat16
    assert (value.dtype, sensory.dtype, logits.dtype) == 3 * (exact_type,)
    assert parts.decoder8.dtype == net.dtype == fast
    rounding = 2**-16 if exact else 2**-8
    for plain, half in zip(*(each[:2] for each in memorized), strict=True):
        assert (plain - half).abs().max() < 20 * rounding * plain.abs().max()
        assert exact or not torch.allclose(plain, half, rtol=1e-4)


def test_a_norm_that_follows_no_convolution_stays():
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU())
    assert isinstance(fuse_batchnorm(network)[1], nn.BatchNorm2d)
