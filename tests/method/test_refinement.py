import numpy as np
import pytest
import torch
from fakes import Recorder, disk_where_clicked, rectangle
from parity import answers, uniform
from scipy import ndimage

from limnet.method.prompts import Click, Crop, ZoomIn, click_maps
from limnet.method.refinement import (
    BINS,
    IntensityModel,
    Refiner,
    add_intensity_prior,
    blend_with_previous,
    crop_and_resize,
    implicit_positive_click,
    predict_prompt,
    rejects_object,
)
from limnet.method.state import Recipe

IMAGE = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))


SMALL = ZoomIn(target_size=32, min_crop_size=10)


def maps_of(clicks, height, width):
    centres = [(click.row, click.column) for click in clicks]
    return click_maps(centres, [click.positive for click in clicks], height, width)


def test_the_crop_is_that_of_ritm():
    crop = crop_and_resize(uniform("ritm.image", 1, 3, 96, 128), Crop(10, 71, 20, 111), 64)
    torch.testing.assert_close(crop, answers("ritm_geometry")["roi_image"], atol=1e-6, rtol=0)


def test_without_zoom_and_flip_the_network_sees_the_slice_as_it_is():
    net = Recorder(lambda images, maps, previous: images[:, :1] + maps[:, 1:] + previous)
    clicks = [Click(2, 7, 9), Click(2, 30, 40, positive=False)]
    previous = IMAGE[1]
    prompt = predict_prompt(net, IMAGE, clicks, previous)
    maps = maps_of(clicks, 40, 50)
    torch.testing.assert_close(prompt, (IMAGE[0] + maps[1] + previous).sigmoid())
    assert torch.equal(net.seen[0][1][0], maps)


def test_flip_averages_the_logits_of_the_slice_and_its_mirror_image():
    def logits(images, maps, previous):  # grows to the right, in whichever image
        return torch.arange(50.0) * images[:, :1] + 3 * maps[:, :1] + previous

    net, clicks, previous = Recorder(logits), [Click(0, 7, 9)], IMAGE[2]
    prompt = predict_prompt(net, IMAGE, clicks, previous, flip=True)
    grows, falls = torch.arange(50.0), torch.arange(49.0, -1, -1)
    clicked = 3 * maps_of(clicks, 40, 50)[0] + previous
    expected = 0.5 * ((grows * IMAGE[0] + clicked) + (falls * IMAGE[0] + clicked))
    torch.testing.assert_close(prompt, expected.sigmoid())
    assert len(net.seen) == 1
    assert len(net.seen[0][0]) == 2


def test_the_first_click_sees_the_whole_slice_and_the_second_its_object():
    net = Recorder(disk_where_clicked)
    clicks = [Click(0, 10, 12), Click(0, 14, 12)]
    first = predict_prompt(net, IMAGE, clicks[:1], zoom=SMALL)
    second = predict_prompt(net, IMAGE, clicks, first, zoom=SMALL)
    crop = SMALL.around(first > 0.5, clicks)
    assert crop == Crop(2, 19, 4, 21)
    images, maps, previous = net.seen[-1]
    stacked = torch.cat([IMAGE, first[None]])[None]
    expected = crop_and_resize(stacked, crop, 32)
    torch.testing.assert_close(torch.cat([images, previous], dim=1), expected)
    rows, columns = [32 * (r - 2) / 17 for r in (10, 14)], [32 * (12 - 4) / 17] * 2
    centres = [Click(0, *centre) for centre in zip(rows, columns, strict=True)]
    assert torch.equal(maps[0], maps_of(centres, 32, 32))
    assert not second[rectangle(2, 19, 4, 21) == 0].any()
    assert second[10, 12] > 0.5


def test_with_no_click_skipped_a_small_object_is_predicted_again_zoomed_in():
    net, zoom = Recorder(disk_where_clicked), ZoomIn(32, skip_clicks=0, min_crop_size=10)
    predict_prompt(net, IMAGE, [Click(0, 10, 12)], zoom=zoom)
    assert [images.shape[2:] for images, _, _ in net.seen] == [(40, 50), (32, 32)]
    assert not net.seen[1][2].any()  # the first output shows where to look, it is not fed back


def test_with_minus_one_the_first_click_sees_the_whole_slice_resized():
    net, zoom = Recorder(disk_where_clicked), ZoomIn(32, skip_clicks=-1, min_crop_size=10)
    predict_prompt(net, IMAGE, [Click(0, 10, 12)], zoom=zoom)
    assert [images.shape[2:] for images, _, _ in net.seen] == [(26, 32)]


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([], "at least one click"),
        ([Click(0, 40, 3)], "must lie in the 40 x 50 slice"),
        ([Click(0, 3, 3), Click(1, 3, 3)], "all on one slice"),
    ],
)
def test_clicks_that_cannot_be_are_refused(clicks, message):
    with pytest.raises(ValueError, match=message):
        predict_prompt(Recorder(disk_where_clicked), IMAGE, clicks)


def refine_prompt(net, image, clicks, probability, size, new_clicks=1, **options):
    zoom = ZoomIn(size, skip_clicks=-1, min_crop_size=size // 2)
    recipe = Recipe(zoom, flip=False, predictions=2, implicit_clicks=True, **options)
    return Refiner(net, recipe).refine_prompt(image, clicks, probability, new_clicks)


def test_the_papers_recipe_predicts_once_on_the_whole_slice_at_its_own_size():
    net, clicks = Recorder(disk_where_clicked), [Click(0, 10, 12, positive=False)]
    refiner = Refiner(net, Recipe.paper())
    refiner.refine_prompt(IMAGE, clicks, rectangle(5, 15, 5, 20).float())
    [(images, maps, previous)] = net.seen
    assert images.shape == (2, 3, 40, 50)  # and its mirror image
    assert previous.any() and not maps[0, 0].any()


def test_lone_negative_clicks_agree_with_the_rest_of_the_mask():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:31, 10:31] = True  # deepest at (20, 20)
    aside = Click(3, 12, 28, positive=False)
    assert implicit_positive_click([aside], mask) == Click(3, 20, 20, positive=True)
    off_it = Click(3, 5, 50, positive=False)
    assert implicit_positive_click([aside, off_it], mask) == Click(3, 20, 20, positive=True)


def test_a_negative_click_in_the_middle_of_the_mask_rejects_all_of_it():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:31, 10:31] = True
    assert rejects_object([Click(0, 20, 21, positive=False)], mask)
    assert not rejects_object([Click(0, 20, 21, positive=False), Click(0, 15, 15)], mask)
    assert not rejects_object([Click(0, 12, 28, positive=False)], mask)


NOTHING = torch.zeros(40, 50)


def test_a_click_at_several_sizes_averages_what_each_crop_shows():
    def surer_in_larger_crops(images, maps, previous):
        return disk_where_clicked(images, maps, previous) + images.shape[3] / 40

    net, clicks = Recorder(surer_in_larger_crops), [Click(0, 20, 25)]
    probability = refine_prompt(net, IMAGE, clicks, NOTHING, 40, multi_scale=True)
    sizes = [max(images.shape[2:]) for images, _, _ in net.seen]
    assert [*sorted(sizes[:2]), *sorted(sizes[2:])] == [40, 56, 32, 44]
    assert not net.seen[0][2].any() and not net.seen[1][2].any()
    smaller, larger = (torch.sigmoid(torch.tensor(4 + size / 40)) for size in (32, 44))
    assert probability[20, 25].item() == pytest.approx(((smaller + larger) / 2).item(), abs=1e-4)


def test_a_click_adds_the_click_that_lone_negative_ones_imply():
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


def test_a_quarter_of_the_log_odds_is_added_to_the_logits():
    probability = 0.6 * rectangle(10, 30, 10, 20) + 0.1
    found = add_intensity_prior(IMAGE, probability)
    padded = np.pad(IMAGE.mean(dim=0).numpy(), 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    grey = np.nanmean(windows, axis=(2, 3)).astype(np.float32)
    log_odds = IntensityModel.of([(grey, probability.numpy() > 0.5)]).on(grey)
    odds = probability.numpy() / (1 - probability.numpy()) * np.exp(log_odds / 4)
    np.testing.assert_allclose(found.numpy(), odds / (1 + odds), rtol=1e-4)


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


def test_answers_are_postprocessed_where_asked_for_and_blended_from_the_third_click_on():
    clicks = [Click(0, 12, 12), Click(0, 28, 12), Click(0, 20, 38)]
    before, net = 0.9 * rectangle(10, 30, 8, 18).float(), Recorder(disk_where_clicked)
    for count in (2, 3):
        seen = refine_prompt(net, IMAGE, clicks[:count], before, 32)
        expected = add_intensity_prior(IMAGE, seen)
        if count == 3:
            expected = blend_with_previous(expected, before, clicks[1:])
        found = refine_prompt(net, IMAGE, clicks[:count], before, 32, 2, postprocess=True)
        torch.testing.assert_close(found, expected)


def look(logits, probability, refinements=1):
    net, zoom = Recorder(logits), ZoomIn(40, skip_clicks=-1, min_crop_size=20)
    refiner = Refiner(net, Recipe(zoom, flip=False, refinements=refinements))
    return refiner.refine_propagated(IMAGE, probability), net.seen


def test_refinement_shows_the_mask_and_clicks_its_deepest_pixel():
    _, [(image, maps, previous)] = look(disk_where_clicked, 0.7 * rectangle(10, 21, 20, 31))
    assert max(image.shape[2:]) == 40
    assert previous.max() == 1 and not maps[:, 1].any()
    rows, columns = np.nonzero(maps[0, 0].numpy())
    middle = (maps.shape[2] - 1) / 2, (maps.shape[3] - 1) / 2
    assert (rows.mean(), columns.mean()) == pytest.approx(middle, abs=2.5)


def test_the_click_network_counts_three_times_what_was_propagated():
    propagated = 0.6 * rectangle(10, 30, 15, 35) + 0.2
    found, _ = look(lambda images, maps, previous: 0 * previous + 1, propagated)
    inside = torch.sigmoid(torch.tensor(1.0)).item()
    assert found[20, 20].item() == pytest.approx((0.8 + 3 * inside) / 4)
    assert found[0, 0].item() == pytest.approx(0.05)  # outside of what was looked at


def test_masks_that_would_be_lost_stay_as_they_are():
    mask = 0.6 * rectangle(15, 25, 20, 30)
    found, _ = look(lambda images, maps, previous: 0 * previous - 5, mask)
    assert torch.equal(found, mask)


INSIDE, AROUND = 0.8, 0.2


def square(first=8, last=16, size=24):
    mask = np.zeros((size, size), dtype=bool)
    mask[first:last, first:last] = True
    return mask


def picture(mask):
    return np.where(mask, INSIDE, AROUND).astype(np.float32)


def vote(model, intensity):
    return model.log_odds[min(int(intensity * BINS), BINS - 1)]


def slow_log_odds(inside, around):
    """The slow form: two histograms of pixels, as shares, blurred."""
    shares = (counts / counts.sum() for counts in (inside, around))
    inside, around = (ndimage.gaussian_filter1d(each, 1.0, mode="nearest") for each in shares)
    return np.log((inside + 0.002) / (around + 0.002))


def test_log_odds_are_the_logarithm_of_two_histograms():
    rng = np.random.default_rng(0)
    mask, grey = square(), rng.random((24, 24)).astype(np.float32)
    grey[mask] **= 2
    off = ndimage.distance_transform_edt(~mask)
    counts = [np.zeros(BINS), np.zeros(BINS)]
    for row in range(24):
        for column in range(24):
            place = int(grey[row, column] * BINS)
            counts[0][place] += mask[row, column]
            counts[1][place] += 0 < off[row, column] <= 6  # three quarters of sqrt(64) pixels
    np.testing.assert_allclose(
        IntensityModel.of([(grey, mask)]).log_odds, slow_log_odds(*counts), rtol=1e-5
    )


def test_the_mask_that_adds_pixels_of_the_object_is_preferred():
    grey = picture(square(4, 20))
    known = IntensityModel.of([(grey, square(4, 20))])
    whole, part, too_much = square(4, 20), square(4, 14), square(1, 23)
    assert known.prefers(grey, whole, part) > 1
    assert known.prefers(grey, whole, too_much) > 1
    assert known.prefers(grey, part, whole) == -known.prefers(grey, whole, part)
