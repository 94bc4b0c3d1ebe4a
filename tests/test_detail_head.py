from dataclasses import replace

import torch
from test_click_net import TINY

from limnet.networks.click_net import ClickNet, DetailHead


def test_every_pixel_of_any_size_gets_a_correction():
    head = DetailHead(context_channels=16, stem_channels=8, channels=4).eval()
    correction = head(torch.rand(2, 16, 12, 9), torch.rand(2, 8, 23, 18), torch.rand(2, 6, 45, 35))
    assert correction.shape == (2, 1, 45, 35)


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


def test_a_click_net_of_the_published_shape_has_none():
    assert not [key for key in ClickNet(TINY).state_dict() if "detail" in key]
