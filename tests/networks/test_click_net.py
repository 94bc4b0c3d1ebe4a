from dataclasses import replace

import parity
import pytest
import torch

from limnet.networks.click_net import ClickNet, ClickNetConfig
from limnet.networks.hrnet import HRNetConfig
from limnet.networks.layers import normalise
from limnet.networks.official import load_ritm

TINY = ClickNetConfig(
    HRNetConfig(
        width=4,
        stem_channels=8,
        bottlenecks=1,
        bottleneck_planes=4,
        stage_modules=(1, 1, 1),
        blocks=1,
        ocr_width=8,
    )
)


@pytest.fixture(autouse=True)
def the_same_random_weights():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def official():
    return parity.answers("ritm_small")


@pytest.fixture(scope="module")
def ritm():
    return load_ritm(parity.ritm_weights())


def inputs(official, case):
    """The official image and maps; RITM's maps are [previous, positive, negative]."""
    previous, *clicks = official[f"{case}_coord"].float().split(1, dim=1)
    if case != "a":  # case a starts from nothing
        previous = official["prev"]
    return official["image"], torch.cat(clicks, dim=1), previous


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
@torch.inference_mode()
def test_logits_are_those_of_ritm(ritm, official, case):
    logits = ritm(*inputs(official, case))
    torch.testing.assert_close(logits.mask, official[f"{case}_instances"], rtol=0, atol=5e-4)
    torch.testing.assert_close(logits.auxiliary, official[f"{case}_aux"], rtol=0, atol=5e-4)


@torch.inference_mode()
def test_what_lies_between_is_that_of_ritm(ritm, official):
    image, click_maps, previous = inputs(official, "b")
    seen = normalise(image)
    torch.testing.assert_close(seen[..., ::4, ::4], official["b_normalized_sub"])
    maps = ritm.maps_transform(torch.cat([previous, click_maps], dim=1)) * ritm.maps_scale.abs()
    torch.testing.assert_close(maps[:, ::8], official["b_maps_transform"], rtol=0, atol=5e-4)
    quarter = ritm.hrnet(seen, maps).head
    torch.testing.assert_close(quarter.mask, official["b_out_q"], rtol=0, atol=5e-4)
    torch.testing.assert_close(quarter.auxiliary, official["b_aux_q"], rtol=0, atol=5e-4)


@pytest.mark.parametrize("size", [(32, 32), (45, 67)])
def test_any_size_of_image_gives_logits_of_that_size(size):
    net = ClickNet(TINY).eval()
    logits = net(torch.rand(2, 3, *size), torch.zeros(2, 2, *size), torch.zeros(2, 1, *size))
    assert logits.mask.shape == logits.auxiliary.shape == (2, 1, *size)


@torch.inference_mode()
def test_a_slice_is_segmented_alike_alone_and_in_a_batch(generator):
    net = ClickNet(TINY).eval()
    batch = [torch.rand(3, channels, 32, 32, generator=generator) for channels in (3, 2, 1)]
    alone = net(*(tensor[1:2] for tensor in batch)).mask
    torch.testing.assert_close(net(*batch).mask[1:2], alone, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_clicks_and_the_previous_mask_matter(generator):
    net = ClickNet(TINY).eval()
    image = torch.rand(1, 3, 32, 32, generator=generator)
    nothing, click = torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32)
    click[:, 0, 10:20, 10:20] = 1
    neither = net(image, nothing, nothing[:, :1]).mask
    assert not torch.equal(net(image, click, nothing[:, :1]).mask, neither)
    assert not torch.equal(net(image, nothing, click[:, :1]).mask, neither)


@pytest.mark.parametrize("rgb", [True, False])
@torch.inference_mode()
def test_a_network_of_grey_slices_does_not_see_colours(generator, rgb):
    net = ClickNet(replace(TINY, rgb=rgb)).eval()
    image, nothing = torch.rand(1, 3, 32, 32, generator=generator), torch.zeros(1, 2, 32, 32)
    both = [net(each, nothing, nothing[:, :1]).mask for each in (image, image.flip(1))]
    assert torch.allclose(*both, atol=1e-4) != rgb


def test_it_is_added_to_the_logits_of_the_coarse_grid():
    torch.manual_seed(0)
    net = ClickNet(replace(TINY, detail_channels=4)).eval()
    inputs = torch.rand(1, 3, 32, 32), torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 32, 32)
    with torch.no_grad():
        net.detail.correct.weight.zero_()
        net.detail.correct.bias.fill_(2)
        raised = net(*inputs).mask
        net.detail.correct.bias.zero_()
        torch.testing.assert_close(raised, net(*inputs).mask + 2)


def test_it_tells_neighbouring_pixels_apart_that_the_coarse_grid_cannot():
    torch.manual_seed(0)
    images = torch.zeros(1, 3, 32, 32)
    images[..., 16] = 1  # a line of one pixel
    nothing = torch.zeros(1, 2, 32, 32)
    steps = []
    for channels in (0, 4):
        net = ClickNet(replace(TINY, detail_channels=channels)).eval()
        row = net(images, nothing, nothing[:, :1]).mask[0, 0, 15]
        steps.append((row.diff().diff().abs().max() / row.std()).item())
    assert steps[1] > 2 * steps[0]
