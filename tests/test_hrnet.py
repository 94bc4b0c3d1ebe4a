import parity
import pytest
import torch

from limnet.networks.hrnet import HRNet, HRNetConfig, OCRHead, resize
from limnet.networks.official import load_ritm

TINY = HRNetConfig(
    width=4,
    stem_channels=8,
    bottlenecks=1,
    bottleneck_planes=4,
    stage_modules=(1, 2, 1),
    blocks=1,
    ocr_width=8,
)


@torch.inference_mode()
def test_features_of_all_branches_are_those_of_ritm():
    official = parity.answers("ritm_small")
    net = load_ritm(parity.ritm_weights())
    seen = []
    net.hrnet.head.register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0]))
    clicks = official["b_coord"][:, 1:].float()
    net(official["image"], clicks, official["prev"])
    features = torch.cat([resize(branch, seen[0][0].shape[-2:]) for branch in seen[0]], dim=1)
    torch.testing.assert_close(features[:, ::15], official["b_feats_sub"], rtol=1e-5, atol=2e-4)


def test_logits_come_out_at_a_quarter_of_the_size():
    net = HRNet(TINY).eval()
    logits = net(torch.rand(2, 3, 50, 70), torch.zeros(2, 8, 25, 35)).head
    assert logits.mask.shape == logits.auxiliary.shape == (2, 1, 13, 18)


@torch.inference_mode()
def test_the_head_is_ocr_written_out(generator):
    """With the attention over (one) class and the context map that the head leaves out."""
    head = OCRHead(in_channels=6, ocr_width=4, dropout=0.05).eval()
    features = torch.randn(2, 6, 5, 7, generator=generator)
    auxiliary = head.auxiliary(features)
    pixels = head.features(features)
    of_position = auxiliary.flatten(2).softmax(dim=2)
    object_vector = (of_position @ pixels.flatten(2).transpose(1, 2)).transpose(1, 2)[..., None]

    query = head.f_pixel(pixels).flatten(2).transpose(1, 2)
    attention = (query @ head.f_object(object_vector).flatten(2) * 4**-0.5).softmax(dim=-1)
    context = (attention @ head.f_down(object_vector).flatten(2).transpose(1, 2)).transpose(1, 2)
    context = head.f_up(context.unflatten(2, (5, 7)))
    expected = head.classify(head.join(torch.cat([context, pixels], dim=1)))
    torch.testing.assert_close(head([features]).mask, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [4, 8])
def test_width_sets_the_channels_of_the_branches(width):
    net = HRNet(HRNetConfig(width=width, stem_channels=8, stage_modules=(1, 1, 1)))
    assert net.head.features[0].in_channels == width * (1 + 2 + 4 + 8)
