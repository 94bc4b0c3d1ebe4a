from dataclasses import replace

import pytest
import torch

from limnet.networks.quality_net import QualityNet, QualityNetConfig

TINY = QualityNetConfig("resnet10", width=4)


@pytest.fixture(autouse=True)
def the_same_random_weights():
    torch.manual_seed(0)


def inputs(generator, batch=3, size=(40, 56)):
    return [torch.rand(batch, channels, *size, generator=generator) for channels in (3, 1, 1)]


@torch.inference_mode()
def test_the_batch_size_does_not_change_the_result(generator):
    net = QualityNet(TINY).eval()
    batch = inputs(generator)
    alone = torch.cat([net(*(tensor[i : i + 1] for tensor in batch)) for i in range(3)])
    torch.testing.assert_close(net(*batch), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rgb", [True, False])
@torch.inference_mode()
def test_a_network_of_grey_slices_does_not_see_colours(generator, rgb):
    net = QualityNet(replace(TINY, rgb=rgb)).eval()
    images, *masks = inputs(generator)
    assert torch.allclose(net(images, *masks), net(images.flip(1), *masks), atol=1e-6) != rgb


@torch.inference_mode()
def test_the_order_of_the_masks_matters(generator):
    net = QualityNet(TINY).eval()
    images, previous, current = inputs(generator)
    assert not torch.equal(net(images, previous, current), net(images, current, previous))


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("resnet18", 11_689_512), ("resnet50", 25_557_032)],  # of torchvision, for 1,000 classes
)
def test_the_backbones_are_the_resnets_of_torchvision(backbone, parameters):
    with torch.device("meta"):
        net = QualityNet(QualityNetConfig(backbone))
    features = net.classify.in_features
    of_masks = 2 * 64 * 7 * 7  # two more channels in the first convolution
    of_classes = 999 * (features + 1)  # one logit instead of a thousand
    total = sum(parameter.numel() for parameter in net.parameters())
    assert total == parameters + of_masks - of_classes


@torch.inference_mode()
def test_evidence_adds_to_the_logit_of_a_network_that_weighs_it(generator):
    net, told = QualityNet(replace(TINY, evidence=True)).eval(), torch.eye(3, 5)
    before = net.logits(*inputs(generator.manual_seed(1)))
    torch.testing.assert_close(net.logits(*inputs(generator.manual_seed(1)), told), before)
    net.weigh.weight[:] = torch.tensor([[1.0, -2.0, 0.5, 9.0, 9.0]])
    added = net.logits(*inputs(generator.manual_seed(1)), told) - before
    torch.testing.assert_close(added, torch.tensor([1.0, -2.0, 0.5]))
    net.scale_temperature(2.0)
    after = net.logits(*inputs(generator.manual_seed(1)), told)
    torch.testing.assert_close(after, (before + added) / 2)


@torch.inference_mode()
def test_a_network_as_in_the_paper_looks_at_no_evidence(generator):
    net = QualityNet(TINY).eval()
    with_it, without = (
        net(*inputs(generator.manual_seed(1)), *told) for told in ([torch.ones(3, 5)], [])
    )
    assert torch.equal(with_it, without)


@torch.inference_mode()
def test_a_temperature_divides_the_logits_for_good():
    torch.manual_seed(0)
    network = QualityNet(QualityNetConfig("resnet10", width=4)).eval()
    network.classify.bias.fill_(0.5)
    inputs = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    before = network.logits(*inputs)
    network.scale_temperature(2.5)
    torch.testing.assert_close(network.logits(*inputs), before / 2.5)
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
        network.scale_temperature(0.0)


@torch.inference_mode()
def test_a_head_of_zeros_answers_without_the_encoder(generator, monkeypatch):
    net, told = QualityNet(replace(TINY, evidence=True)).eval(), torch.eye(3, 5)
    net.weigh.weight[:] = torch.tensor([[1.0, -2.0, 0.5, 9.0, 9.0]])
    net.classify.weight.zero_()
    net.classify.bias.fill_(0.3)
    batch = inputs(generator)
    with_encoder = net.train().logits(*batch, told)
    net.eval()
    monkeypatch.setattr(net.encoder, "forward", None)
    assert torch.equal(net.logits(*batch, told), with_encoder)
