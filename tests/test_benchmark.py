import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import fakes

from limnet import benchmark
from limnet.benchmark import (
    MEMORIZED_SLICES,
    Setting,
    gigaflop,
    measure,
    measure_alone,
    parameters,
    phantom_slices,
)
from limnet.networks.checkpoints import lite
from limnet.phantoms import Phantom

SMALL = Setting(slices=4, size=32, clicks=2, repeats=2, cache_gb=0)


@pytest.fixture
def slices():
    """Four slices with a bright square that is the organ."""
    target = np.zeros((4, 32, 32), dtype=bool)
    target[:, 10:20, 8:18] = True
    return np.where(target, 200, -100).astype(np.int16), target


@pytest.fixture
def phantom(monkeypatch):
    """Five slices of 16 x 16, of which the middle three show the liver; each has its own grey."""
    labels = np.zeros((5, 16, 16), dtype=np.uint8)
    labels[1:4, 4:12, 4:12] = benchmark.ORGANS["liver"]
    images = np.broadcast_to(np.arange(0, 500, 100, dtype=np.int16)[:, None, None], labels.shape)
    made = Phantom(images.copy(), labels, labels, (5.0, 2.4, 2.4))
    monkeypatch.setattr(benchmark, "abdomen", lambda seed: made)


def test_a_row_is_flat_and_holds_its_setting_and_rates_that_follow_from_the_seconds(slices):
    row = measure(SMALL, fakes(), *slices)
    assert all(type(value) in (str, int, float) for value in row.values())
    assert {name: row[name] for name in vars(SMALL)} == vars(SMALL)
    click, first, fusion = (row[f"{n}_seconds"] for n in ("click", "propagation", "fusion"))
    assert row["frames_per_second"] == pytest.approx(4 / first)
    assert row["frames_per_second_with_prompt"] == pytest.approx(4 / (click + first))
    assert row["frames_per_second_with_fusion"] == pytest.approx(4 / (click + first + fusion))
    later = click + row["later_propagation_seconds"] + fusion
    assert row["later_round_seconds"] == pytest.approx(later)
    assert row["later_frames_per_second"] == pytest.approx(4 / later)
    assert row["click_seconds"] <= row["click_seconds_95"]


def test_seconds_are_medians_of_the_repeats(slices, monkeypatch):
    times = benchmark.Times([1.0, 2.0, 9.0], [3.0, 4.0, 50.0], [2.0, 2.0, 8.0], [0.5])
    monkeypatch.setattr(benchmark, "_times", lambda *_: times)
    row = measure(SMALL, fakes(), *slices)
    assert (row["click_seconds"], row["propagation_seconds"], row["fusion_seconds"]) == (2, 4, 0.5)
    assert row["click_seconds_95"] == pytest.approx(8.3)
    assert row["frames_per_second"] == 1


def test_the_features_of_the_first_round_are_there_in_the_second_if_they_fit(slices):
    kept, dropped = fakes(), fakes()
    measure(Setting(slices=4, size=32, clicks=1, repeats=1, cache_gb=1), kept, *slices)
    assert kept.propagation_net.encoded == 3 + 4  # warm-up and first round
    measure(Setting(slices=4, size=32, clicks=1, repeats=1, cache_gb=0), dropped, *slices)
    assert dropped.propagation_net.encoded > 2 * (3 + 4)  # and again in the other direction


def test_every_slice_is_fused(slices, monkeypatch):
    compared = []

    def fuse(quality_net, images, previous, current):
        compared.append((previous != current).flatten(1).any(dim=1).tolist())
        return current, previous

    monkeypatch.setattr(benchmark, "fuse_rounds", fuse)
    measure(SMALL, fakes(), *slices)
    assert compared[1:] == [[True] * 4] * 2


def test_slices_of_any_number_and_size_all_show_the_organ(phantom):
    for slices, size in ((3, 32), (7, 48)):
        images, target = phantom_slices(Setting(slices=slices, size=size))
        assert images.shape == target.shape == (slices, size, size)
        assert target.mean(axis=(1, 2)) == pytest.approx([0.25] * slices, abs=0.05)
        assert images[[0, -1], 0, 0].tolist() == [100, 300]  # the first and last that show it


def test_an_organ_too_small_for_the_slices_is_refused(phantom):
    benchmark.abdomen(0).labels[2] = 0
    with pytest.raises(ValueError, match="show the liver"):
        phantom_slices(Setting(slices=3, size=32))


def test_work_is_counted_by_hand():
    networks = lite()
    config = networks.propagation_net.config
    work = gigaflop(networks, (64, 32))
    tokens = (64 // 16) * (32 // 16)
    products = 2 * config.key_dim + config.value_dim  # two for similarities, one for the values
    by_hand = 2 * products * tokens * MEMORIZED_SLICES * tokens / 1e9
    assert work["affinity"] == pytest.approx(by_hand)
    share = work["value_encoder"] / config.memorize_every
    total = work["key_encoder"] + work["affinity"] + work["decoder"] + share
    assert work["slice"] == pytest.approx(total)
    double = gigaflop(networks, (64, 64))
    assert double["key_encoder"] == pytest.approx(2 * work["key_encoder"])
    assert double["click_net"] == work["click_net"]  # it sees a crop


def test_the_networks_stay_where_they_are():
    networks = lite()
    gigaflop(networks, (32, 32))
    assert networks.device.type == "cpu"
    assert next(networks.quality_net.parameters()).device.type == "cpu"


def test_parameters_are_counted_by_network():
    networks = fakes()
    networks.quality_net.weight = torch.nn.Parameter(torch.zeros(3, 4))
    assert parameters(networks) == {"click_net": 1, "propagation_net": 1, "quality_net": 12}


def test_the_process_reads_setting_and_slices_and_prints_a_row(phantom, monkeypatch, capsys):
    def run(command, *, env, **_):
        assert command[1:3] == ["-m", "limnet.benchmark"]
        assert (Path(env["PYTHONPATH"].split(os.pathsep)[0]) / "limnet").is_dir()
        benchmark.main(Path(command[3]))
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(benchmark, "load_networks", lambda name: fakes())
    row = measure_alone(SMALL)
    assert (row["networks"], row["slices"], row["working_size"]) == ("lite", 4, 32)
    assert 0 < row["memory_before_gb"] <= row["memory_gb"]


def test_a_process_that_fails_says_why(phantom, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(
            command, 1, "", "Traceback\nRuntimeError: no such device"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="ended with 1 and said: RuntimeError: no such device"):
        measure_alone(SMALL)


def test_the_row_is_the_last_line_that_the_process_prints(phantom, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, f"a word\n{json.dumps({'a': 1})}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert measure_alone(SMALL) == {"a": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"networks": "large"}, "one of lite, paper"),
        ({"organ": "tail"}, "'tail'"),
        ({"slices": 2}, "slices must be at least 3"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"cache_gb": -1}, "cache_gb must be at least 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Setting(**given)
