import numpy as np
import pytest
from measure import ladder
from measure.ladder import LADDER, LOOKS, Step, run_ablation
from measure.setting import Setting

STEPS = (Step("plain", {"fold": False}), Step("folded", {"fold": True}, 2.0, 3.0, "why"))


@pytest.fixture
def seconds(monkeypatch):
    """Rounds take 8 and 4 seconds plain, 4 and 1 folded, whoever asks; who asked is noted."""
    asked = []

    def propagation_seconds(setting, networks, volume, target):
        asked.append((setting.fold, len(volume.images)))
        return (4.0, 1.0, 1.0) if setting.fold else (8.0, 4.0, 4.0)

    monkeypatch.setattr(ladder, "propagation_seconds", propagation_seconds)
    monkeypatch.setattr(Setting, "load", lambda setting: None)
    slices = np.zeros((5, 32, 32), np.int16), np.ones((5, 32, 32), dtype=bool)
    monkeypatch.setattr(ladder, "phantom_slices", lambda setting: slices)
    return asked


def test_steps_take_turns_after_a_warm_up_of_each(seconds):
    run_ablation(Setting(slices=5, size=32, repeats=2), STEPS)
    assert seconds == [(False, 3), (True, 3), (False, 5), (True, 5), (False, 5), (True, 5)]


def test_gains_are_over_the_step_before_and_over_the_first(seconds):
    rows = run_ablation(Setting(slices=5, size=32, repeats=1), (*STEPS, Step("again", {})))
    assert [row["step"] for row in rows] == ["plain", "folded", "again"]
    assert [row["gain_first"] for row in rows] == [1, 2, 1]
    assert [row["gain_later"] for row in rows] == [1, 4, 1]
    assert [row["total_later"] for row in rows] == [1, 4, 4]
    assert [row["total_all_rounds"] for row in rows] == pytest.approx([1, 16 / 6, 16 / 6])
    assert rows[1]["slices_per_second_first"] == 5 / 4
    assert (rows[1]["predicted_first"], rows[1]["predicted_later"]) == (2.0, 3.0)


def test_every_step_of_the_ladder_is_a_setting_and_has_a_reason():
    changes = {}
    for step in (*LADDER, *LOOKS[1:]):
        changes |= step.changes
        Setting(**changes)
        assert step.reason


def test_looks_are_taken_in_turn_then_side_by_side_then_with_less_work(seconds, monkeypatch):
    taken = []

    def propagation_seconds(setting, *_):
        taken.append((setting.options.parallel_map, setting.coarse_first))
        return 2.0, 1.0

    monkeypatch.setattr(ladder, "propagation_seconds", propagation_seconds)
    run_ablation(Setting(slices=5, size=32, repeats=1), LOOKS)
    assert taken == 2 * [(False, False), (True, False), (True, True)]


def test_kept_features_make_later_rounds_faster():
    setting = Setting(slices=8, size=192, rounds=3, repeats=3)
    _, kept = run_ablation(setting, LADDER[:2])
    # alone on two cores about 2; anything near 1 means that nothing was kept
    assert kept["total_later"] > 1.2
