import json

import numpy as np
import pytest
import torch
from fakes import Recorder, disk_where_clicked, rectangle
from parity import FOLDER, answers, uniform

from limnet.method.prompts import Click, click_maps
from limnet.method.refinement import (
    Region,
    ZoomIn,
    crop_and_resize,
    paste_back,
    predict_from_mask,
    predict_prompt,
    region_iou,
    region_of_object,
)

GEOMETRY = json.loads((FOLDER / "ritm_geometry.json").read_text())
SIZES = [(case["H"], case["W"]) for case in GEOMETRY["next_click"]]
IMAGE = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
SMALL = ZoomIn(target_size=32, min_crop_size=10)


@pytest.mark.parametrize("case", GEOMETRY["roi"], ids=lambda case: f"{case['i']}-{case['roi']}")
def test_regions_are_those_of_ritm(case):
    height, width = SIZES[case["i"]]
    packed = answers("ritm_geometry")[f"{case['which']}{case['i']}"].numpy()
    mask = torch.from_numpy(np.unpackbits(packed, count=height * width).reshape(height, width))
    zoom = ZoomIn(expansion_ratio=case["expansion"], min_crop_size=case["min_crop"])
    clicks = [Click(0, *case["positive_click"]), Click(0, 1, 1, positive=False)]
    assert list(region_of_object(mask.bool(), clicks, zoom)) == case["roi"]


@pytest.mark.parametrize(("first", "second", "expected"), GEOMETRY["iou"])
def test_the_iou_of_regions_is_that_of_ritm(first, second, expected):
    assert region_iou(Region(*first), Region(*second)) == pytest.approx(expected, abs=1e-12)


def test_the_crop_is_that_of_ritm():
    crop = crop_and_resize(uniform("ritm.image", 1, 3, 96, 128), Region(10, 70, 20, 110), 64)
    torch.testing.assert_close(crop, answers("ritm_geometry")["roi_image"], atol=1e-6, rtol=0)


def test_a_region_without_an_object_is_refused():
    with pytest.raises(ValueError, match="needs an object"):
        region_of_object(rectangle(0, 0, 0, 0), [Click(0, 3, 3, positive=False)], ZoomIn())


def test_a_crop_at_its_own_size_goes_back_where_it_came_from():
    region = Region(5, 24, 10, 29)
    crop = crop_and_resize(IMAGE[None], region, 20)[0, 0]
    slowly = torch.zeros(40, 50)
    slowly[5:25, 10:30] = IMAGE[0, 5:25, 10:30]
    torch.testing.assert_close(paste_back(crop, region, 40, 50), slowly)


def test_without_zoom_and_flip_the_network_sees_the_slice_as_it_is():
    net = Recorder(lambda images, maps, previous: images[:, :1] + maps[:, 1:] + previous)
    clicks = [Click(2, 7, 9), Click(2, 30, 40, positive=False)]
    previous = IMAGE[1]
    prompt = predict_prompt(net, IMAGE, clicks, previous)
    maps = click_maps(clicks, 40, 50)
    torch.testing.assert_close(prompt.probability, (IMAGE[0] + maps[1] + previous).sigmoid())
    assert prompt.region is None
    assert torch.equal(net.seen[0][1][0], maps)


def test_the_first_click_has_an_empty_previous_probability():
    net = Recorder(disk_where_clicked)
    predict_prompt(net, IMAGE, [Click(0, 7, 9)])
    assert not net.seen[0][2].any()


def test_flip_averages_the_logits_of_the_slice_and_its_mirror_image():
    def logits(images, maps, previous):  # grows to the right, in whichever image
        return torch.arange(50.0) * images[:, :1] + 3 * maps[:, :1] + previous

    net, clicks, previous = Recorder(logits), [Click(0, 7, 9)], IMAGE[2]
    prompt = predict_prompt(net, IMAGE, clicks, previous, flip=True)
    grows, falls = torch.arange(50.0), torch.arange(49.0, -1, -1)
    clicked = 3 * click_maps(clicks, 40, 50)[0] + previous
    expected = 0.5 * ((grows * IMAGE[0] + clicked) + (falls * IMAGE[0] + clicked))
    torch.testing.assert_close(prompt.probability, expected.sigmoid())
    assert len(net.seen) == 1
    assert len(net.seen[0][0]) == 2


def test_the_first_click_sees_the_whole_slice_and_the_second_its_object():
    net = Recorder(disk_where_clicked)
    clicks = [Click(0, 10, 12), Click(0, 14, 12)]
    first = predict_prompt(net, IMAGE, clicks[:1], zoom=SMALL)
    assert first.region is None
    second = predict_prompt(net, IMAGE, clicks, first.probability, zoom=SMALL)
    region = region_of_object(first.probability > 0.5, clicks, SMALL)
    assert second.region == region == Region(2, 18, 4, 20)
    images, maps, previous = net.seen[-1]
    stacked = torch.cat([IMAGE, first.probability[None]])[None]
    expected = crop_and_resize(stacked, region, 32)
    torch.testing.assert_close(torch.cat([images, previous], dim=1), expected)
    rows, columns = [32 * (r - 2) / 17 for r in (10, 14)], [32 * (12 - 4) / 17] * 2
    centres = [Click(0, *centre) for centre in zip(rows, columns, strict=True)]
    assert torch.equal(maps[0], click_maps(centres, 32, 32))
    assert not second.probability[rectangle(2, 19, 4, 21) == 0].any()
    assert second.probability[10, 12] > 0.5


def zoomed(previous, clicks, region, zoom=SMALL):
    net = Recorder(disk_where_clicked)
    return predict_prompt(net, IMAGE, clicks, previous.float(), zoom=zoom, region=region).region


def test_a_region_is_kept_until_the_object_is_elsewhere():
    clicks = [Click(0, 12, 12), Click(0, 13, 13)]
    kept = Region(2, 22, 2, 22)
    assert zoomed(rectangle(5, 19, 5, 19), clicks, kept) == kept
    assert zoomed(rectangle(10, 15, 10, 15), clicks, kept) == Region(7, 17, 7, 17)  # IoU 0.27


@pytest.mark.parametrize(
    ("row", "positive", "kept"), [(21, True, True), (22, True, False), (30, False, True)]
)
def test_a_region_is_left_when_a_positive_click_is_not_before_its_last_row(row, positive, kept):
    region = Region(2, 22, 2, 22)
    clicks = [Click(0, 12, 12), Click(0, row, 12, positive)]
    assert (zoomed(rectangle(5, 19, 5, 19), clicks, region) == region) is kept


def test_the_whole_slice_is_seen_again_when_the_object_is_gone():
    clicks = [Click(0, 12, 12), Click(0, 13, 13)]
    assert zoomed(rectangle(0, 0, 0, 0), clicks, Region(2, 22, 2, 22)) is None


def test_with_no_click_skipped_a_small_object_is_predicted_again_zoomed_in():
    net, zoom = Recorder(disk_where_clicked), ZoomIn(32, skip_clicks=0, min_crop_size=10)
    prompt = predict_prompt(net, IMAGE, [Click(0, 10, 12)], zoom=zoom)
    assert [images.shape[2:] for images, _, _ in net.seen] == [(40, 50), (32, 32)]
    assert prompt.region == Region(2, 18, 4, 20)
    assert not net.seen[1][2].any()  # the first output shows where to look, it is not fed back


def test_a_large_object_is_not_predicted_again():
    net = Recorder(lambda images, maps, previous: torch.ones_like(previous))
    prompt = predict_prompt(net, IMAGE, [Click(0, 10, 12)], zoom=ZoomIn(32, skip_clicks=0))
    assert len(net.seen) == 1
    assert prompt.region is None


def test_with_minus_one_the_first_click_sees_the_whole_slice_resized():
    net, zoom = Recorder(disk_where_clicked), ZoomIn(32, skip_clicks=-1, min_crop_size=10)
    prompt = predict_prompt(net, IMAGE, [Click(0, 10, 12)], zoom=zoom)
    assert prompt.region == Region(0, 39, 0, 49)
    assert [images.shape[2:] for images, _, _ in net.seen] == [(26, 32)]


def test_a_negative_click_above_and_left_of_the_region_is_ignored():
    net, region = Recorder(disk_where_clicked), Region(2, 22, 2, 22)
    for row, drawn in ((1, False), (3, True)):  # each disk reaches into the region
        clicks = [Click(0, 12, 12), Click(0, row, 1, positive=False)]
        previous = rectangle(5, 19, 5, 19).float()
        predict_prompt(net, IMAGE, clicks, previous, zoom=SMALL, region=region)
        assert net.seen[-1][1][0, 1].any() == drawn


def test_a_mask_from_elsewhere_is_refined_twice_and_not_zoomed_in_on_at_first():
    net, zoom = Recorder(disk_where_clicked), ZoomIn(32, skip_clicks=-1, min_crop_size=10)
    mask, clicks = rectangle(20, 30, 20, 30), [Click(0, 10, 12)]
    prompt = predict_from_mask(net, IMAGE, clicks, mask, zoom=zoom)
    (first, _, previous), (second, _, _) = net.seen
    assert first.shape[2:] == (26, 32)
    assert previous.any()
    assert prompt.region.bottom < 39  # around the click, as the first prediction was
    assert second.shape[2:] == crop_and_resize(IMAGE[None], prompt.region, 32).shape[2:]


def test_no_gradient_is_kept():
    weight = torch.ones(1, requires_grad=True)
    net = Recorder(lambda images, maps, previous: weight * previous)
    assert not predict_prompt(net, IMAGE, [Click(0, 1, 1)]).probability.requires_grad


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([], "at least one click"),
        ([Click(0, 40, 3)], "must lie in the 40 x 50 slice"),
        ([Click(0, 3, 50)], "must lie in the 40 x 50 slice"),
        ([Click(0, 3, 3), Click(1, 3, 3)], "all on one slice"),
    ],
)
def test_clicks_that_cannot_be_are_refused(clicks, message):
    with pytest.raises(ValueError, match=message):
        predict_prompt(Recorder(disk_where_clicked), IMAGE, clicks)


def test_a_previous_probability_of_another_size_is_refused():
    with pytest.raises(Exception, match=r"image's size|height width"):
        predict_prompt(Recorder(disk_where_clicked), IMAGE, [Click(0, 1, 1)], torch.zeros(4, 4))
