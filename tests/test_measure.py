import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import fakes
from measure import (
    LADDER,
    LOOKS,
    PLAIN,
    Optimisations,
    Setting,
    flops,
    in_subprocess,
    ladder,
    numerical_agreement,
    run_ablation,
    speed,
)
from measure import __main__ as command
from measure.ladder import ON_GPU, Step
from measure.rows import ROOT, phantom_slices

from limnet.networks.checkpoints import lite, load_networks
from limnet.volumes import Volume

SMALL = Setting(slices=4, size=64, organ="left kidney", clicks=2, repeats=1)


@pytest.mark.parametrize(
    "changes", [{"networks": "large"}, {"organ": "tail"}, {"slices": 2}, {"rounds": 1}]
)
def test_what_cannot_be_measured_is_refused(changes):
    with pytest.raises(ValueError, match=str(*changes.values())):
        Setting(**changes)


def test_slices_of_any_number_and_size_all_show_the_organ():
    for slices, size in ((3, 64), (40, 96)):
        images, target = phantom_slices(replace(SMALL, slices=slices, size=size))
        assert images.shape == target.shape == (slices, size, size)
        assert target.any(axis=(1, 2)).all()
    cropped, _ = phantom_slices(Setting("paper", 4, 96, organ="left kidney", crop=True))
    assert max(cropped.shape[1:]) < 96
    with pytest.raises(ValueError, match="oesophagus"):
        phantom_slices(Setting(slices=30, size=32, organ="oesophagus"))


def test_a_row_holds_its_setting_and_rates_that_follow_from_the_seconds():
    row = in_subprocess(SMALL)
    assert vars(SMALL).items() <= row.items()
    assert all(type(value) in (str, int, float, bool) for value in row.values())
    click, first, fusion = (row[f"{n}_seconds"] for n in ("click", "propagation", "fusion"))
    assert row["frames_per_second"] == pytest.approx(4 / first)
    assert row["frames_per_second_with_prompt"] == pytest.approx(4 / (click + first))
    assert row["frames_per_second_with_fusion"] == pytest.approx(4 / (click + first + fusion))
    assert row["rounds_seconds"] > row["first_round_seconds"] > row["propagation_seconds"] > 0
    assert row["click_seconds"] <= row["click_seconds_95"]
    assert 0 < row["memory_before_gb"] <= row["memory_gb"]


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="nothing"):
        in_subprocess(replace(SMALL, device="nothing"))


def test_two_trees_are_measured_in_turn_and_the_ratio_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "TREES", [ROOT, tmp_path])
    measured = []

    def seconds(tree, what):
        measured.append(tree)
        return {what: 2.0 if tree == ROOT else 4.0}

    found = speed.in_turn(1, seconds, "a click, s")
    assert found["a click, s"].endswith("ratio 0.500")
    assert measured == 3 * [ROOT, tmp_path]


def test_steps_take_turns_after_a_warm_up_of_each_and_gains_are_over_the_step_before(monkeypatch):
    measured = []

    def rounds(setting, way):
        def seconds(slices):
            measured.append((way.fuse_batchnorm, slices))
            return [4.0, 1.0, 1.0] if way.fuse_batchnorm else [8.0, 4.0, 4.0]

        return seconds

    monkeypatch.setattr(ladder, "_rounds", rounds)
    steps = (Step("plain", vars(PLAIN)), Step("fused", {"fuse_batchnorm": True}), Step("same", {}))
    rows = run_ablation(Setting(slices=5, repeats=2), steps)
    assert measured[:4] == [(False, 3), (True, 3), (True, 3), (False, 5)]
    assert [row["gain_first"] for row in rows] == [1, 2, 1]
    assert [row["gain_later"] for row in rows] == [1, 4, 1]
    assert [row["total_all_rounds"] for row in rows] == pytest.approx([1, 16 / 6, 16 / 6])
    assert rows[1]["slices_per_second_first"] == 5 / 4


def test_the_whole_ladder_is_what_a_session_has():
    way = Optimisations()
    for step in (*LADDER, *ON_GPU, *LOOKS[1:]):
        way = replace(way, **step.changes)
        assert step.reason
    assert replace(way, precision="float32", cache_gb=0.5) == Optimisations()


def test_the_ladder_runs():
    assert all(row["gain_first"] > 0 for row in run_ablation(SMALL, LADDER[::5]))


def test_two_ways_that_differ_in_one_column_are_counted():
    images = np.zeros((4, 32, 48), dtype=np.float32)
    images[:, :, 10:16], images[:, :, 30:32] = 1.0, 0.6
    volume, target = Volume.from_array(images, window=(0, 1)), images > 0.9
    one, other = (Optimisations(), fakes()), (Optimisations(), fakes())
    assert numerical_agreement(volume, target, one, one)[:3] == (0, 0, 0)
    other[1].propagation_net.level = 0.7  # does not paint the darker one
    found = numerical_agreement(volume, target, one, other)
    assert found.pixels == 3 * 32 * 2 / target.size  # not on the prompt slice
    assert found.object_pixels == 3 * 32 * 2 / target.sum()
    assert (found.probability, found.dice_fast) == (pytest.approx(1), 1)


def test_what_makes_it_fast_changes_next_to_nothing():
    rng = np.random.default_rng(0)
    volume = Volume.from_array(rng.random((5, 48, 48), dtype=np.float32), window=(0, 1))
    target = np.zeros((5, 48, 48), dtype=bool)
    target[:, 10:30, 12:32] = True
    networks = load_networks("lite", fold=False)
    fast = Optimisations(crop=False), load_networks("lite")
    found = numerical_agreement(volume, target, (PLAIN, networks), fast)
    assert found.pixels <= 1e-3 and found.probability < 1e-2


def test_flops_are_those_counted_by_hand():
    networks = lite()
    config, work = networks.propagation_net.config, flops(networks, 64)
    tokens, memorised = (64 // 16) ** 2, 9
    products = 2 * config.key_dim + 1  # one for similarities; of the values only a few are summed
    by_hand = 2 * products * tokens * memorised * tokens / 1e9
    assert work["affinity"] == pytest.approx(by_hand)
    assert flops(networks, 128)["key_encoder"] == pytest.approx(4 * work["key_encoder"])
    assert next(networks.quality_net.parameters()).device == torch.device("cpu")


def test_a_benchmark_that_was_stopped_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMNET_REPORTS", str(tmp_path))
    monkeypatch.setattr(command, "in_subprocess", lambda s: done.append(s.size) or vars(s))
    monkeypatch.setattr(command, "run_ablation", lambda s, *_, **__: done.append(s.networks) or [])
    done = []
    command.main(["--networks", "lite", "--sizes", "32", "--slices", "3"])
    command.main(["--networks", "lite", "--sizes", "32", "48", "--slices", "3"])
    assert done == [32, "paper", "lite", 48]
    [path] = tmp_path.glob("*/benchmark.json")
    assert [row["size"] for row in json.loads(path.read_text())["rows"]] == [32, 48]
