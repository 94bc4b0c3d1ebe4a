import json

import pytest
from measure import __main__ as command
from measure.setting import Setting

SETTINGS = [Setting(slices=number, size=32) for number in (3, 4)]
LADDER = Setting(networks="paper", slices=5, size=32)
LADDERS = ["ladder of paper", "ladder of lite"]


@pytest.fixture
def measured(monkeypatch):
    """What was measured, in turn; a row is its setting and a number."""
    done = []

    def measure_alone(setting):
        done.append(setting.slices)
        return {**vars(setting), "seconds": 1.5}

    monkeypatch.setattr(command, "measure_alone", measure_alone)

    def run_ablation(setting, steps, quiet):
        done.append(f"ladder of {setting.networks}")
        return [{"step": steps[0].name if steps else "plain"}]

    monkeypatch.setattr(command, "run_ablation", run_ablation)
    monkeypatch.setattr(command, "provenance", lambda _: {"commit": "abc", "device": "a machine"})
    return done


def test_rows_and_ladders_are_one_file(measured, tmp_path):
    told = command.run(SETTINGS, LADDER, tmp_path / "benchmark.json")
    assert measured == [3, 4, *LADDERS]
    assert json.loads((tmp_path / "benchmark.json").read_text()) == told
    assert [row["slices"] for row in told["rows"]] == [3, 4]
    assert (told["ladder"], told["ladder_setting"]["slices"]) == ([{"step": "plain"}], 5)
    assert told["looks"] == [{"step": "looks in turn"}]


def test_a_run_that_was_stopped_between_the_ladders_goes_on(measured, tmp_path):
    path = tmp_path / "benchmark.json"
    told = command.run(SETTINGS[:1], LADDER, path)
    del told["looks"]
    path.write_text(json.dumps(told))
    command.run(SETTINGS[:1], LADDER, path)
    assert measured == [3, *LADDERS, "ladder of lite"]


def test_a_run_that_was_stopped_goes_on(measured, tmp_path, monkeypatch):
    path = tmp_path / "benchmark.json"
    command.run(SETTINGS[:1], LADDER, path)
    command.run(SETTINGS, LADDER, path)
    assert measured == [3, *LADDERS, 4]


@pytest.mark.parametrize("damaged", ["", "[1, 2]", '{"commit": "abc", "rows": [{"slices": 3}]}'])
def test_a_file_that_says_nothing_useful_is_made_anew(measured, tmp_path, damaged):
    (tmp_path / "benchmark.json").write_text(damaged)
    command.run(SETTINGS, LADDER, tmp_path / "benchmark.json")
    assert measured == [3, 4, *LADDERS]


def test_rows_of_other_code_are_dropped(measured, tmp_path, monkeypatch):
    path = tmp_path / "benchmark.json"
    command.run(SETTINGS, LADDER, path)
    monkeypatch.setattr(command, "provenance", lambda _: {"commit": "new", "device": "a machine"})
    command.run(SETTINGS, LADDER, path)
    assert measured == [3, 4, *LADDERS] * 2


def test_the_command_line_names_sizes_lengths_and_networks(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMNET_REPORTS", str(tmp_path))
    command.main(["--networks", "lite", "--sizes", "32", "48", "--slices", "3", "--rounds", "2"])
    path = tmp_path / "57_runtime_and_memory" / "benchmark.json"
    assert capsys.readouterr().out == f"{path}\n"
    assert [row["size"] for row in json.loads(path.read_text())["rows"]] == [32, 48]
