import parity
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limnet.networks.hrnet import (
    HRNet,
    HRNetConfig,
    OCRHead,
    convolve_and_resize,
    resize,
    resize_and_convolve,
)
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


CHANNELS = (3, 4, 5, 6)
GRIDS = [(16, 24), (8, 12), (4, 6), (2, 3)]
ODD_GRIDS = [(13, 18), (7, 9), (4, 5), (2, 3)]  # as an HRNet makes of a slice of 50 x 70
LINE_GRIDS = [(9, 5), (5, 3), (3, 2), (2, 1)]  # the coarsest is a single column


def branches(grids, generator, batch=2):
    return [
        torch.randn(batch, channels, *grid, generator=generator)
        for channels, grid in zip(CHANNELS, grids, strict=False)
    ]


def test_resizing_aligns_the_corners(generator):
    features = torch.rand(1, 2, 3, 4, generator=generator)
    larger = resize(features, torch.Size((9, 8)))
    torch.testing.assert_close(larger[..., 0, 0], features[..., 0, 0])
    torch.testing.assert_close(larger[..., -1, -1], features[..., -1, -1])
    expected = F.interpolate(features, (9, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(larger, expected)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("grids", [GRIDS, ODD_GRIDS, LINE_GRIDS, GRIDS[:2], GRIDS[:1]])
def test_coarse_branches_are_convolved_before_they_are_resized_and_nothing_changes(
    grids, side, generator
):
    features = branches(grids, generator)
    convolution = nn.Conv2d(sum(CHANNELS[: len(grids)]), 7, side, padding=side // 2)
    together, expected = (
        each(features, convolution) for each in (convolve_and_resize, resize_and_convolve)
    )
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def test_it_teaches_the_same(generator):
    features, convolution = branches(GRIDS, generator), nn.Conv2d(18, 2, 3, padding=1)
    learning = [each.requires_grad_() for each in features] + list(convolution.parameters())
    gradients = [
        torch.autograd.grad(way(features, convolution).square().sum(), learning)
        for way in (convolve_and_resize, resize_and_convolve)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits_are_kept(autocast, generator):
    features, convolution = branches(GRIDS, generator), nn.Conv2d(18, 2, 3, padding=1)
    expected = resize_and_convolve(features, convolution)
    if not autocast:
        features, convolution = [each.bfloat16() for each in features], convolution.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        together = convolve_and_resize(features, convolution)
    assert together.dtype == torch.bfloat16
    torch.testing.assert_close(together.float(), expected, rtol=0.02, atol=0.02)
