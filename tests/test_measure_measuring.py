from dataclasses import replace

import numpy as np
import pytest
from fakes import fakes
from measure import measuring
from measure.measuring import Times, measure
from measure.setting import Setting

SMALL = Setting(slices=4, size=32, clicks=2, repeats=2, cache_gb=0)


@pytest.fixture
def slices():
    """Four slices with a bright square that is the organ."""
    target = np.zeros((4, 32, 32), dtype=bool)
    target[:, 10:20, 8:18] = True
    return np.where(target, 200, -100).astype(np.int16), target


def test_a_row_is_flat_and_holds_its_setting_and_rates_that_follow_from_the_seconds(slices):
    row = measure(SMALL, fakes(), *slices)
    assert all(type(value) in (str, int, float, bool) for value in row.values())
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
    times = Times([1.0, 2.0, 9.0], [(3.0, 2.0), (4.0, 2.0), (50.0, 8.0)], [0.5])
    monkeypatch.setattr(measuring, "_times", lambda *_: times)
    row = measure(SMALL, fakes(), *slices)
    assert (row["click_seconds"], row["propagation_seconds"], row["fusion_seconds"]) == (2, 4, 0.5)
    assert row["click_seconds_95"] == pytest.approx(8.3)
    assert (row["frames_per_second"], row["later_propagation_seconds"]) == (1, 2)
    assert row["rounds_seconds"] == 2 + 4 + 2 + 2 + 0.5
    assert row["rounds_frames_per_second"] == 8 / 6


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

    monkeypatch.setattr(measuring, "fuse_rounds", fuse)
    measure(SMALL, fakes(), *slices)
    assert compared[1:] == [[True] * 4] * 2


def test_looks_at_propagated_masks_are_timed_unless_switched_off(slices, monkeypatch):
    looked, networks = [], replace(fakes(), refinements=2)
    monkeypatch.setattr(
        measuring, "refine_propagated", lambda *given: looked.append(given[-1]) or given[2]
    )
    measure(replace(SMALL, refinements=False), networks, *slices)
    assert not looked
    measure(SMALL, networks, *slices)
    assert looked and set(looked) == {2}
