import numpy as np
import pytest
import torch
from fakes import Recorder, disk_where_clicked, rectangle

from limnet.method.appearance import IntensityModel
from limnet.method.looks import (
    add_intensity_prior,
    blend_with_previous,
    implicit_positive_click,
    refine_prompt,
    refine_propagated,
    rejects_object,
)
from limnet.method.prompts import Click
from limnet.method.refinement import (
    ZoomIn,
    crop_and_resize,
    paste_back,
    predict_prompt,
    region_of_object,
)

IMAGE = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))


def test_lone_negative_clicks_agree_with_the_rest_of_the_mask():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:31, 10:31] = True  # deepest at (20, 20)
    aside = Click(3, 12, 28, positive=False)
    assert implicit_positive_click([aside], mask) == Click(3, 20, 20, positive=True)
    off_it = Click(3, 5, 50, positive=False)
    assert implicit_positive_click([aside, off_it], mask) == Click(3, 20, 20, positive=True)


def test_a_negative_click_in_the_heart_of_the_mask_denies_all_of_it():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:31, 10:31] = True
    assert implicit_positive_click([Click(0, 20, 21, positive=False)], mask) is None
    assert rejects_object([Click(0, 20, 21, positive=False)], mask)
    assert not rejects_object([Click(0, 20, 21, positive=False), Click(0, 15, 15)], mask)
    assert not rejects_object([Click(0, 12, 28, positive=False)], mask)


def test_where_all_is_denied_nothing_is_left_and_no_network_is_asked():
    mask, network = rectangle(10, 31, 10, 31).float(), Recorder(disk_where_clicked)
    seen = refine_prompt(network, IMAGE, [Click(0, 20, 21, positive=False)], mask, 32)
    assert seen.shape == mask.shape and not seen.any() and not network.seen


def test_nothing_is_implied_where_a_click_is_positive_or_there_is_no_mask():
    mask = np.zeros((40, 60), dtype=bool)
    assert implicit_positive_click([Click(0, 12, 28, positive=False)], mask) is None
    mask[10:31, 10:31] = True
    clicks = [Click(0, 12, 28, positive=False), Click(0, 15, 15)]
    assert implicit_positive_click(clicks, mask) is None


NOTHING = torch.zeros(40, 50)


def test_looking_closer_sees_the_whole_slice_and_then_the_object():
    net, clicks = Recorder(disk_where_clicked), [Click(0, 10, 12)]
    probability = refine_prompt(net, IMAGE, clicks, NOTHING, 32)
    (first, _, before), (second, maps, previous) = net.seen
    assert first.shape[2:] == (26, 32) and not before.any()  # its longer side has the zoom size
    zoom = ZoomIn(target_size=32, min_crop_size=16, skip_clicks=-1)
    found = predict_prompt(Recorder(disk_where_clicked), IMAGE, clicks, zoom=zoom).probability
    region = region_of_object(found > 0.5, clicks, zoom)
    stacked = torch.cat([IMAGE, found[None]])[None]
    expected = crop_and_resize(stacked, region, 32)
    torch.testing.assert_close(torch.cat([second, previous], dim=1), expected)
    inside = disk_where_clicked(None, maps, None).sigmoid()[0, 0]
    torch.testing.assert_close(probability, paste_back(inside, region, 40, 50))


def test_looking_closer_corrects_the_probability_that_there_is():
    net, before = Recorder(disk_where_clicked), 0.9 * rectangle(10, 20, 10, 20).float()
    refine_prompt(net, IMAGE, [Click(0, 22, 22)], before, 32)
    zoom = ZoomIn(target_size=32, min_crop_size=16, skip_clicks=-1)
    region = region_of_object(before > 0.5, [Click(0, 22, 22)], zoom)
    expected = crop_and_resize(before[None, None], region, 32)
    torch.testing.assert_close(net.seen[0][2], expected)
    assert len(net.seen) == 2


def test_looking_closer_at_several_sizes_averages_what_each_crop_shows():
    def surer_in_larger_crops(images, maps, previous):
        return disk_where_clicked(images, maps, previous) + images.shape[3] / 40

    net, clicks = Recorder(surer_in_larger_crops), [Click(0, 20, 25)]
    probability = refine_prompt(net, IMAGE, clicks, NOTHING, 40, multi_scale=True)
    sizes = [max(images.shape[2:]) for images, _, _ in net.seen]
    assert [*sorted(sizes[:2]), *sorted(sizes[2:])] == [40, 56, 32, 44]
    assert not net.seen[0][2].any() and not net.seen[1][2].any()
    smaller, larger = (torch.sigmoid(torch.tensor(4 + size / 40)) for size in (32, 44))
    assert probability[20, 25].item() == pytest.approx(((smaller + larger) / 2).item(), abs=1e-4)


def test_looking_closer_at_several_sizes_corrects_a_mask_at_one_size_first():
    net, before = Recorder(disk_where_clicked), rectangle(10, 20, 10, 20).float()
    refine_prompt(net, IMAGE, [Click(0, 22, 22)], before, 40, multi_scale=True)
    first, *others = [max(images.shape[2:]) for images, _, _ in net.seen]
    assert first == 40 and sorted(others) == [32, 44]


def test_looking_closer_adds_the_click_that_lone_negative_ones_imply():
    net, before = Recorder(disk_where_clicked), rectangle(10, 31, 10, 31).float()
    clicks = [Click(0, 12, 28, positive=False)]
    probability = refine_prompt(net, IMAGE, clicks, before, 32)
    assert all(maps[0, 0].any() and maps[0, 1].any() for _, maps, _ in net.seen)
    assert probability[20, 20] > 0.5 > probability[12, 28]
    assert clicks == [Click(0, 12, 28, positive=False)]


BRIGHT = rectangle(10, 30, 10, 40).float()  # an object on a dark slice
PART = torch.where(rectangle(10, 30, 10, 32), 0.9, 0.4 * BRIGHT)  # what was found of it


def test_what_looks_like_the_mask_becomes_likelier():
    found = add_intensity_prior((0.2 + 0.6 * BRIGHT).expand(3, -1, -1), PART)
    assert found[20, 35] > 0.5 > PART[20, 35]


def test_what_looks_like_its_surroundings_becomes_less_likely():
    too_much = torch.where(rectangle(8, 32, 8, 42), 0.55, 0.0) + 0.4 * BRIGHT
    found = add_intensity_prior((0.2 + 0.6 * BRIGHT).expand(3, -1, -1), too_much)
    assert found[8, 25] < 0.5 < found[20, 25]


def test_a_quarter_of_a_vote_is_added_to_the_logits():
    probability = 0.6 * rectangle(10, 30, 10, 20) + 0.1
    found = add_intensity_prior(IMAGE, probability)
    padded = np.pad(IMAGE.mean(dim=0).numpy(), 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    grey = np.nanmean(windows, axis=(2, 3)).astype(np.float32)
    log_odds = IntensityModel.of([(grey, probability.numpy() > 0.5)]).on(grey)
    odds = probability.numpy() / (1 - probability.numpy()) * np.exp(log_odds / 4)
    np.testing.assert_allclose(found.numpy(), odds / (1 + odds), rtol=1e-4)


def test_appearance_finds_nothing_where_no_object_or_no_pixel_was_likely():
    image = (0.2 + 0.6 * BRIGHT).expand(3, -1, -1)
    assert torch.equal(add_intensity_prior(image, 0.4 * BRIGHT), 0.4 * BRIGHT)
    unlikely = torch.where(PART > 0.5, PART, 0.01 * BRIGHT)
    assert torch.equal(add_intensity_prior(image, unlikely)[:, 32:], unlikely[:, 32:])


def test_far_from_the_newest_clicks_the_answer_before_counts_more():
    before, new = rectangle(5, 35, 5, 25).float(), rectangle(5, 35, 5, 45).float()
    found = blend_with_previous(new, before, [Click(0, 10, 40), Click(0, 30, 40, positive=False)])
    assert found[10, 40] == found[30, 40] == 1  # the new answer alone
    near = np.exp(-(10**2) / (2 * 0.25**2 * 30 * 40))  # 10 pixels away; the object has 30 x 40
    assert found[20, 40].item() == pytest.approx(0.4 + 0.6 * near)
    assert found[20, 10] == 1 and found[0, 0] == 0  # where both agree


def test_an_answer_after_none_stays_as_it_is():
    new = rectangle(5, 35, 5, 45).float()
    assert torch.equal(blend_with_previous(new, 0.4 * new, [Click(0, 10, 40)]), new)


def test_an_answer_that_is_given_again_stays_as_it_is():
    again = 0.7 * rectangle(5, 35, 5, 45)
    assert torch.equal(blend_with_previous(again, again.clone(), [Click(0, 10, 40)]), again)


def test_answers_are_refined_where_asked_for_and_steady_from_the_third_click_on():
    clicks = [Click(0, 12, 12), Click(0, 28, 12), Click(0, 20, 38)]
    before, net = 0.9 * rectangle(10, 30, 8, 18).float(), Recorder(disk_where_clicked)
    for count in (2, 3):
        seen = refine_prompt(net, IMAGE, clicks[:count], before, 32)
        expected = add_intensity_prior(IMAGE, seen)
        if count == 3:
            expected = blend_with_previous(expected, before, clicks[1:])
        postprocess = {"postprocess": True, "new_clicks": 2}
        found = refine_prompt(net, IMAGE, clicks[:count], before, 32, **postprocess)
        torch.testing.assert_close(found, expected)


REFUSED = pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([], "at least one click"),
        ([Click(0, 40, 3, positive=False)], "must lie in the 40 x 50 slice"),
    ],
)


@REFUSED
def test_looking_closer_refuses_what_a_prompt_refuses(clicks, message):
    with pytest.raises(ValueError, match=message):
        refine_prompt(Recorder(disk_where_clicked), IMAGE, clicks, NOTHING, 32)


@REFUSED
def test_looking_closer_at_a_mask_refuses_the_same(clicks, message):
    with pytest.raises(ValueError, match=message):
        refine_prompt(Recorder(disk_where_clicked), IMAGE, clicks, IMAGE[0], 32)


def look(logits, probability, refinements=1):
    net = Recorder(logits)
    return refine_propagated(net, IMAGE, probability, 40, refinements), net.seen


def test_a_second_look_shows_the_mask_and_clicks_its_deepest_pixel():
    _, [(image, maps, previous)] = look(disk_where_clicked, 0.7 * rectangle(10, 21, 20, 31))
    assert max(image.shape[2:]) == 40
    assert previous.max() == 1 and not maps[:, 1].any()
    rows, columns = np.nonzero(maps[0, 0].numpy())
    middle = (maps.shape[2] - 1) / 2, (maps.shape[3] - 1) / 2
    assert (rows.mean(), columns.mean()) == pytest.approx(middle, abs=2.5)


def test_what_was_seen_counts_three_times_what_was_propagated():
    propagated = 0.6 * rectangle(10, 30, 15, 35) + 0.2
    found, _ = look(lambda images, maps, previous: 0 * previous + 1, propagated)
    inside = torch.sigmoid(torch.tensor(1.0)).item()
    assert found[20, 20].item() == pytest.approx((0.8 + 3 * inside) / 4)
    assert found[0, 0].item() == pytest.approx(0.05)  # outside of what was looked at


def test_looks_follow_each_other_and_each_sees_the_one_before():
    def grown(images, maps, previous):
        return 10 * torch.nn.functional.max_pool2d(previous, 3, 1, 1) - 5

    mask = rectangle(15, 25, 20, 30).float()
    areas = [(look(grown, mask, refinements)[0] > 0.2).sum() for refinements in (1, 2, 3)]
    assert mask.sum() < areas[0] < areas[1] < areas[2]


def test_masks_that_would_be_lost_stay_as_they_are():
    mask = 0.6 * rectangle(15, 25, 20, 30)
    found, _ = look(lambda images, maps, previous: 0 * previous - 5, mask)
    assert torch.equal(found, mask)
