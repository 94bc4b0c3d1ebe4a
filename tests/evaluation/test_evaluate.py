from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from fakes import Prefers
from torch import nn

from limnet.data import Case
from limnet.evaluation.evaluate import (
    COMPARISON_COLUMNS,
    ROUND_COLUMNS,
    _slices_made_worse,
    evaluate,
    evaluate_cases,
    largest_slice,
    replay,
    scores_by_collection,
)
from limnet.evaluation.protocols import Challenge, RandomError
from limnet.method.prompts import Click
from limnet.method.session import Session
from limnet.metrics import dice, surface_dice
from limnet.networks.checkpoints import LimNet, lite
from limnet.networks.click_net import ClickLogits, ClickNet, ClickNetConfig
from limnet.volumes import Volume


class PaintsTheTruth(ClickNet):
    """The volumes below are white on the target and black elsewhere."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config = ClickNetConfig(zoom_size=48)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images, click_maps, previous):
        logits = 20 * images[:, :1] - 10
        return ClickLogits(logits, logits)


def small():
    """Lite networks for slices of 32 pixels."""
    networks = lite()
    click_net, propagation_net = networks.click_net, networks.propagation_net
    click_net.config = replace(click_net.config, zoom_size=48)
    propagation_net.config = replace(propagation_net.config, working_size=32)
    return networks


def paints_and_prefers(previous_better):
    torch.manual_seed(0)
    quality_net = Prefers(previous_better)
    quality_net.config = None
    return LimNet("fake", PaintsTheTruth(), small().propagation_net, quality_net)


@pytest.fixture
def networks():
    return paints_and_prefers(0.25)


@pytest.fixture
def target():
    """Squares of 144, 64 and 16 pixels on slices 1, 3 and 5."""
    target = np.zeros((7, 32, 48), dtype=bool)
    for slice_index, side in [(1, 12), (3, 8), (5, 4)]:
        target[slice_index, 10 : 10 + side, 20 : 20 + side] = True
    return target


def white_on(target):
    return Volume.from_array(target.astype(np.float32), (3, 1, 1), window=(0, 1))


def propagates(monkeypatch, masks_of_round):
    """Let propagation give the masks of round 1, 2, ...; the prompt slices, one a pass."""
    calls = []

    def propagate(network, features, slices, prompt_slice, user_masks, options):
        calls.append(prompt_slice)
        masks = masks_of_round[len(user_masks) - 1]
        for index in set(range(slices)) - {prompt_slice}:
            yield index, torch.from_numpy(masks[index]).float()

    monkeypatch.setattr("limnet.method.propagation.propagate", propagate)
    return calls


def test_the_user_clicks_on_the_largest_errors_and_every_round_has_its_score(
    monkeypatch, networks, target
):
    propagates(monkeypatch, [np.zeros_like(target)] * 3)
    result = evaluate(white_on(target), target, networks, rounds=3)
    assert result.clicks == (Click(1, 15, 25), Click(3, 13, 23), Click(5, 11, 21))
    # of 224 target pixels the clicked slices are found
    expected = [2 * 144 / (144 + 224), 2 * 208 / (208 + 224), 1]
    assert result.dice == pytest.approx(expected)
    assert result.surface_dice[2] == 1 > result.surface_dice[1] > result.surface_dice[0] > 0
    assert len(result.seconds) == 3 and min(result.seconds) > 0
    assert result.slices_made_worse == (0, 0, 0)


def test_another_user_clicks_elsewhere(monkeypatch, networks, target):
    propagates(monkeypatch, [np.zeros_like(target)] * 3)
    clicks = evaluate(white_on(target), target, networks, rounds=2, user=Challenge()).clicks
    assert clicks == (Challenge()(target), Challenge()(target & (np.arange(7) != 1)[:, None, None]))


def test_when_nothing_is_left_to_correct_the_last_result_is_repeated(monkeypatch, networks, target):
    propagates(monkeypatch, [target])
    result = evaluate(white_on(target), target, networks, rounds=4)
    assert result.dice == result.surface_dice == (1, 1, 1, 1)
    assert result.clicks == (Click(1, 15, 25), None, None, None)
    assert max(result.seconds[1:]) < 0.01 and result.slices_made_worse == (0, 0, 0, 0)


@pytest.mark.parametrize(("fuse", "worse"), [(True, (0, 0, 0)), (False, (0, 2, 0))])
def test_slices_made_worse_are_counted_against_the_round_before(monkeypatch, target, fuse, worse):
    half, wrong = target.copy(), np.zeros_like(target)
    half[3, :, :24] = False  # the larger error, clicked next
    half[5, :, :21] = False
    half[6, 5, 5] = True  # there is no round before it
    wrong[0, 5, 5] = True  # an empty slice that is no longer empty, and slice 5 is lost
    propagates(monkeypatch, [half, wrong, wrong])
    networks = paints_and_prefers(0.75)
    result = evaluate(white_on(target), target, networks, rounds=3, fuse=fuse)
    assert [click.slice_index for click in result.clicks] == [1, 3, 5]
    assert result.slices_made_worse == worse


@pytest.mark.parametrize(("oracle", "last"), [(False, 0), (True, 12)])
def test_what_fusion_chose_between_is_kept_and_the_oracle_keeps_the_better_mask(
    monkeypatch, networks, target, oracle, last
):
    half, wrong = target.copy(), np.zeros_like(target)
    half[3, :, :24] = half[5, :, :21] = False
    propagates(monkeypatch, [half, wrong])
    result = evaluate(white_on(target), target, networks, rounds=2, oracle=oracle)
    assert result.masks[5].sum() == last
    # slices 1 and 3 were clicked; on slice 5 three columns of four stood against nothing
    assert COMPARISON_COLUMNS == ("round", "previous_better", "dice_previous", "dice_current")
    expected = [[2, 1.0 if oracle else 0.25, 2 * 12 / (12 + 16), 0]]
    np.testing.assert_allclose(result.comparisons, expected, rtol=1e-6)


def test_another_method_gets_the_same_clicks_one_by_one(target):
    clicks, seen = (Click(1, 15, 25), None, Click(3, 13, 23)), []

    def segment(volume, clicks):
        seen.append(tuple(clicks))
        return target & np.isin(np.arange(7), [c.slice_index for c in clicks])[:, None, None]

    result = replay(white_on(target), target, clicks, segment)
    assert seen == [clicks[:1], (clicks[0], clicks[2])]  # none without a new click
    found = [2 * pixels / (pixels + 224) for pixels in (144, 144, 208)]
    assert result.dice == pytest.approx(found) and result.clicks == clicks
    assert result.slices_made_worse == (0, 0, 0)


def test_the_largest_slice_is_resized_with_its_mask(target):
    volume, mask = largest_slice(white_on(target), target, size=64)
    assert volume.images.shape == (1, 64, 64, 3) and mask.shape == (1, 64, 64)
    # 12 x 12 of 32 x 48 pixels
    assert mask[0, 20:44].any(axis=1).all() and mask.sum() == pytest.approx(24 * 16, abs=40)
    assert volume.spacing_mm == (3, 0.5, 0.75)
    assert volume.images[mask].mean() > 0.9 and volume.images[~mask].mean() < 0.05


def test_a_slice_is_worse_when_its_dice_falls():
    target, before, after = np.zeros((3, 5, 4, 4), dtype=bool)
    target[:4, :2] = True
    before[0, :2] = after[0, :2] = True  # right, and still right
    before[1, :2], after[1, :1] = True, True  # loses half
    before[2, :1], after[2, :2] = True, True  # gains half
    before[3, :1], after[3, 1:2] = True, True  # another half: as good as before
    after[4, 0, 0] = True  # nothing was right
    assert _slices_made_worse(target, before, after) == 2


def test_the_scores_are_those_of_a_session_with_the_same_clicks():
    torch.manual_seed(0)
    networks = small()
    target = np.zeros((5, 32, 48), dtype=bool)
    target[1:4, 8:24, 10:40] = True
    images = np.random.default_rng(0).random(target.shape, dtype=np.float32) + 2 * target
    volume = Volume.from_array(images, (3, 1, 1))
    result = evaluate(volume, target, networks, rounds=3)
    session = Session(volume, networks)
    for click, *scores in zip(result.clicks, result.dice, result.surface_dice, strict=True):
        session.add_click(click)
        session.propagate()
        nsd = surface_dice(target, session.masks, volume.spacing_mm)
        assert [dice(target, session.masks), nsd] == scores
    assert np.array_equal(result.masks, session.masks)


def test_an_empty_target_or_one_of_another_grid_is_refused(networks, target):
    for wrong in (np.zeros_like(target), target[:6]):
        with pytest.raises(ValueError, match=rf"{len(wrong)}, 32, 48.* {wrong.sum()} voxels"):
            evaluate(white_on(target), wrong, networks)


@pytest.fixture
def case(tmp_path, target):
    """Target and image of a case on disk; it has a liver and no spleen."""
    data = target.astype(np.float32).T
    paths = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    for path, array in zip(paths, (data, 3 * data), strict=True):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 3, 1])), path)
    return Case("a", *paths, {"spleen": 1, "liver": 3}, "twin", True)


def test_cases_are_evaluated_organ_by_organ_where_there_is_one(
    monkeypatch, networks, target, case, tmp_path
):
    propagates(monkeypatch, [np.zeros_like(target)] * 2)
    organs = ["liver", "spleen"]
    [result] = evaluate_cases([case], organs, networks, tmp_path / "cache", rounds=2)
    assert (result.case, result.organ) == (case, "liver")
    expected = evaluate(case.load()[0], target, networks, rounds=2)
    for index, row in enumerate(result.rows()):
        assert row["dice"] == expected.dice[index] and row["round"] == index + 1
        assert [row[name] for name in ("collection", "case", "organ")] == ["twin", "a", "liver"]


def test_what_was_evaluated_before_is_not_computed_again(
    monkeypatch, networks, target, case, tmp_path
):
    def evaluated(**options):
        [result] = evaluate_cases([case], ["liver"], networks, tmp_path / "cache", **options)
        return result.evaluation

    calls = propagates(monkeypatch, [np.zeros_like(target)] * 2)
    first, again = evaluated(rounds=2), evaluated(rounds=2)
    assert len(calls) == 2
    for name in (*ROUND_COLUMNS, "clicks"):
        assert getattr(first, name) == getattr(again, name)
    assert np.array_equal(first.masks, again.masks)
    assert np.array_equal(first.comparisons, again.comparisons)
    evaluated(rounds=2, fuse=False)
    assert len(calls) == 4  # another option
    evaluated(rounds=2, user=RandomError(seed=1))
    evaluated(rounds=2, user=RandomError(seed=1))
    assert len(calls) == 6  # another user
    with torch.no_grad():
        networks.click_net.weight += 1
    evaluated(rounds=2)
    assert len(calls) == 8  # other weights


def test_another_method_is_evaluated_with_the_clicks_of_the_networks_and_found_by_its_digest(
    monkeypatch, networks, target, case, tmp_path
):
    calls, asked = propagates(monkeypatch, [np.zeros_like(target)] * 2), []

    class Nothing:
        def __init__(self, digest):
            self.digest = digest

        def __call__(self, volume, clicks):
            asked.append((self.digest, tuple(clicks)))
            return np.zeros(volume.images.shape[:3], dtype=bool)

    for digest in ("a", "b", "a"):
        options = {"rounds": 2, "segment": Nothing(digest)}
        [result] = evaluate_cases([case], None, networks, tmp_path / "cache", **options)
    assert result.evaluation.dice == (0, 0) and result.organ == "liver"
    clicks = evaluate(case.load()[0], target, networks, rounds=2).clicks
    assert asked == [(digest, clicks[:count]) for digest in "ab" for count in (1, 2)]
    assert len(calls) == 4  # two of them here


def test_only_the_largest_slice_is_evaluated_on_demand(networks, case, tmp_path):
    options = {"rounds": 2, "only_largest_slice": True}
    [result] = evaluate_cases([case], ["liver"], networks, tmp_path / "cache", **options)
    assert result.evaluation.masks.shape == (1, 256, 256)


def test_a_damaged_result_is_computed_again(monkeypatch, networks, target, case, tmp_path):
    calls = propagates(monkeypatch, [target])
    for _ in range(2):
        list(evaluate_cases([case], ["liver"], networks, tmp_path / "cache", rounds=1))
        [stored] = (tmp_path / "cache").iterdir()
        stored.write_bytes(stored.read_bytes()[:100])
    assert len(calls) == 2


def test_scores_are_means_of_labels_and_their_interval_is_over_cases():
    scores = {("a", "liver"): 0.8, ("a", "spleen"): 0.6, ("b", "liver"): 1.0}
    rows = [
        {"collection": "ct", "method": "ours", "case": case, "organ": organ}
        | {"round": n, "dice": d}
        for (case, organ), last in scores.items()
        for n, d in ((1, 0.5), (2, last))
    ]
    [row] = scores_by_collection(pd.DataFrame(rows)).to_dict("records")
    assert (row["cases"], row["labels"]) == (2, 3)
    assert row["round 1"] == 0.5 and row["round 2"] == pytest.approx(0.8)
    assert (row["low"], row["high"]) == pytest.approx((0.7, 1.0))
