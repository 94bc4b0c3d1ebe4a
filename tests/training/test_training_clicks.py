import numpy as np
import pytest
import torch
from scipy import ndimage

from limnet.method.prompts import click_maps
from limnet.training.clicks import (
    BatchedClicks,
    corrective_clicks,
    depths,
    first_clicks,
    separable_edt,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def box(top, bottom, left, right):
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def blobs(count=6):
    noise = torch.rand(count, 1, 5, 6, generator=generator())
    return torch.nn.functional.interpolate(noise, (24, 31), mode="bilinear")[:, 0] > 0.5


@pytest.mark.parametrize("bordered", [True, False])
def test_depths_are_distances_to_the_nearest_pixel_off_the_region_on_any_device(bordered):
    margin = int(bordered)
    for region, depth in zip(blobs().numpy(), depths(blobs(), bordered=bordered), strict=True):
        padded = ndimage.distance_transform_edt(np.pad(region, margin))
        slow = padded[margin : margin + 24, margin : margin + 31]
        np.testing.assert_allclose(depth, slow, atol=1e-5)
    torch.testing.assert_close(separable_edt(blobs(), bordered), depths(blobs(), bordered=bordered))


def test_maps_are_those_of_the_clicks_one_by_one():
    clicks = BatchedClicks(
        torch.tensor([[3, 20, 9], [0, 5, 5]]),
        torch.tensor([[4, 11, 30], [31, 6, 7]]),
        torch.tensor([[1, -1, 0], [-1, 1, 1]]),
    )
    for maps, *sample in zip(clicks.maps(24, 32), *clicks, strict=True):
        listed = [each for each in torch.stack(sample, 1).tolist() if each[2]]
        centres, positive = [each[:2] for each in listed], [each[2] > 0 for each in listed]
        assert torch.equal(maps, click_maps(centres, positive, 24, 32))


def test_a_correcting_click_lies_deep_in_the_larger_error():
    target, mask = box(4, 20, 4, 15), box(4, 20, 10, 19)  # 6 columns are missing, 4 too many
    both = torch.stack([target, mask] * 20), torch.stack([mask, target] * 20)
    rows, columns, signs = corrective_clicks(*both, generator())
    assert signs[:, 0].tolist() == [1, -1] * 20
    assert ((rows >= 5) & (rows < 19) & (columns >= 5) & (columns < 9)).all()
    assert len(columns.unique()) > 1
    equal = box(4, 10, 4, 10)[None], box(14, 20, 14, 20)[None]
    assert corrective_clicks(*equal, generator()).signs.tolist() == [[-1]]
    assert corrective_clicks(*equal[:1] * 2, generator()).signs.tolist() == [[0]]


def test_first_clicks_are_positive_on_the_target_and_negative_off_it():
    target = box(8, 20, 10, 24)
    clicks = first_clicks(target.expand(60, -1, -1), generator(), decay=0.8, most=4)
    assert (clicks.signs[:, 0] == 1).all()
    hit = target[clicks.rows, clicks.columns]
    assert hit[clicks.signs == 1].all() and not hit[clicks.signs == -1].any()
    for sign, least, most in ((1, 1, 4), (-1, 0, 3)):
        counts = (clicks.signs == sign).sum(dim=1)
        assert counts.min() == least and counts.max() == most


def test_further_clicks_are_as_likely_as_the_decay_says():
    targets = box(8, 20, 10, 24).expand(2000, -1, -1)
    counts = (first_clicks(targets, generator(), decay=0.25, most=24).signs == 1).sum(dim=1)
    shares = [(counts == number).float().mean().item() for number in (1, 2, 3)]
    assert shares == pytest.approx([0.75, 0.1875, 0.047], abs=0.03)


def test_a_target_that_fills_its_slice_gets_no_negative_clicks_and_an_empty_one_no_positive_ones():
    full = torch.ones(10, 16, 16, dtype=torch.bool)
    assert (first_clicks(full, generator(), decay=0.5, most=24).signs >= 0).all()
    assert (first_clicks(~full, generator(), decay=0.5, most=24).signs <= 0).all()
