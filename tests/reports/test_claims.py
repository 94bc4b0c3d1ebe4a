import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from limnet.reports.claim_rules import RULES, Runs, Status, Verdict
from limnet.reports.claims import Claim, Judged, changes, judge, read_ledger, summary
from limnet.reports.results import published

ROOT = Path(__file__).parents[2]
NO_RUNS = Runs(Path("no such folder"))


def claim(rule, recorded=Status.HOLDS, **about):
    return Claim("name", "Table I", "says", rule, about, recorded)


def status(rule, runs=NO_RUNS, **about):
    return RULES[rule](runs, **about).status


def write(folder, name, rows, ran_on):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "provenance": {"ran_on": ran_on}, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content))


def rounds(method, *dice, case="a", column="Lung"):
    return [
        {"column": column, "method": method, "case": case, "round": i + 1, "dice": each}
        for i, each in enumerate(dice)
    ]


@pytest.fixture(scope="module")
def ledger():
    return read_ledger()


def test_the_ledger_has_a_claim_for_every_cell_and_more(ledger):
    cells = sum(published(f"table_{i}").rows.size for i in (1, 2, 4, 5, 6))
    names = [each.name for each in ledger]
    assert len(names) == len(set(names)) and len(names) > max(120, cells + 90)
    assert all(re.fullmatch(r"\w+", name) for name in names)
    assert all(each.rule in RULES and each.where and each.says for each in ledger)


def test_no_status_has_changed_without_a_recorded_reason(ledger):
    moved = [
        f"{each.claim.name}: {each.claim.recorded.name} -> {each.verdict.status.name}"
        for each in changes(judge(ledger, NO_RUNS))
    ]
    assert not moved, f"write status and reason into reports/claims.yaml: {moved}"


def test_what_the_paper_leaves_open_names_what_we_take(ledger):
    undefined = [each for each in ledger if each.recorded is Status.UNDEFINED]
    assert len(undefined) >= 20
    assert all(each.about["chosen"] for each in undefined)


def test_an_open_choice_says_how_far_another_one_moves_our_result(tmp_path):
    def row(choice, per_case, per_slice, collection="twin"):
        named = {"choice": choice, "collection": collection}
        return named | {"per case": per_case, "per slice": per_slice}

    rows = [row("as elsewhere", 80.0, 70.0), row("as elsewhere", 90.0, 80.0)]
    rows += [
        row("tau 0.3", 84.0, 0.0),
        row("tau 0.3", 80.0, 0.0),
        row("as elsewhere", 5.0, 5.0, "ct"),
    ]
    write(tmp_path / "61_protocol_sensitivity", "sensitivity", rows, "twin and CT")
    found = RULES["undefined"](Runs(tmp_path), chosen="0.5", parameter="tau", moves=["tau 0.3"])
    assert found.status == Status.UNDEFINED
    assert found.evidence == "we take 0.5 (parameter `tau`); moves twin by tau 0.3 -3.0 points"
    found = RULES["undefined"](Runs(tmp_path), chosen="cases", moves=["per slice"])
    said = "we take cases; moves twin by per slice -10.0 points; moves ct by per slice +0.0 points"
    assert found.evidence == said
    assert RULES["undefined"](NO_RUNS, chosen="0.5", moves=["x"]).evidence == "we take 0.5"


def test_places_that_differ_contradict_each_other():
    assert status("same", values={"II-C": "ResNet-50", "III-B": "ResNet-18"}) == Status.CONTRADICTS
    assert status("same", values={"II-B": 32, "III-B": "32"}) == Status.HOLDS


def test_numbers_add_up_and_multiply():
    assert status("total", terms=[168, 42], equals=210) == Status.HOLDS
    assert status("total", terms=[683, 171], equals=845) == Status.CONTRADICTS
    assert status("total", terms=[99354, 4751], equals=104000, within=500) == Status.HOLDS
    assert status("product", factors=[30, 10], equals=585) == Status.CONTRADICTS


@pytest.mark.parametrize(
    ("equals", "unit", "expected"),
    [
        (5.19, "relative %", Status.HOLDS),  # 100 (89.2 - 84.8) / 84.8 = 5.1887
        (5.2, "relative %", Status.HOLDS),
        (5.18, "relative %", Status.CONTRADICTS),
        (4.4, "points", Status.HOLDS),
        (5.19, "points", Status.CONTRADICTS),
    ],
)
def test_a_gain_is_checked_to_its_last_printed_digit(equals, unit, expected):
    cells = {"table": "table_2", "row": "Ours-MRF", "over": "Ours w/o MRF"}
    assert status("gain", **cells, column="KIDNEY (Tumor)", equals=equals, unit=unit) == expected


def test_higher_and_lower_look_at_every_column():
    ours = {"table": "table_4", "row": "Ours-MRF (6 points)"}
    assert status("higher", **ours, columns=["Spleen", "Aorta"]) == Status.HOLDS
    found = RULES["higher"](NO_RUNS, **ours, columns=["Spleen", "Liver"])
    assert found == Verdict(
        Status.CONTRADICTS, "Spleen 58.3 : 56.3, Liver 42.4 : 52.4; not higher in Liver"
    )
    assert status("lower", table="table_4", row="SAM-B (N points)") == Status.HOLDS
    assert status("lower", **ours, than=["SAM-B (6 N points)"]) == Status.CONTRADICTS


def test_the_columns_that_a_text_excepts_are_these_and_no_others():
    cells = {"table": "table_4", "row": "Ours-MRF (6 points)", "than": "SAM-B (6 N points)"}
    assert status("lower_only_in", **cells, columns=["Liver"]) == Status.HOLDS
    both = ["Liver", "Left Kidney"]
    assert status("lower_only_in", **cells, columns=both) == Status.CONTRADICTS


def test_second_best_knows_ties():
    shaft = {"table": "table_6", "column": "Seq 4 Shaft"}
    assert status("second", **shaft, rows=["OTH", "UNC"]) == Status.HOLDS
    assert status("second", **shaft, rows=["OTH"]) == Status.CONTRADICTS


def test_a_repeated_cell_and_a_count_are_checked():
    cell = {"table": "table_5", "row": "Ours (6 clicks/volume)", "column": "Pancreas Tumor"}
    assert status("cell", **cell, equals=63.76) == Status.HOLDS
    assert status("cell", **cell, equals=63.8) == Status.CONTRADICTS
    assert status("counted", table="table_6", rows=["NUS", "UNC"], equals=2) == Status.HOLDS
    assert status("counted", table="table_6", rows=["NUS", "me"], equals=2) == Status.CONTRADICTS


CELL = {"notebook": "51_x", "table": "table_1", "column": "Lung", "needs": "MSD Lung"}


@pytest.mark.parametrize(
    ("dice", "paper", "expected"),
    [
        ((0.82, 0.84), 83.0, Status.REPRODUCED),  # the mean
        ((0.82, 0.82), 83.9, Status.REPRODUCED),  # 1.9 points away
        ((0.82, 0.82), 84.1, Status.OUTSIDE),
        ((0.60, 1.00), 90.0, Status.REPRODUCED),  # far from the mean, inside our interval
    ],
)
def test_a_cell_is_reproduced_within_two_points_or_inside_our_interval(
    tmp_path, dice, paper, expected
):
    rows = [row for i, each in enumerate(dice) for row in rounds("ours", 0.1, each, case=f"c{i}")]
    write(tmp_path / "51_x", "table_1_cases", rows, "MSD Lung, 2 of its 63 cases")
    assert status("run_cell", Runs(tmp_path), **CELL, method="", paper=paper) == expected
    assert status("run_cell", Runs(tmp_path), **CELL, method=" w/o MRF", paper=paper) == (
        Status.WAITING
    )


def test_phantoms_reproduce_no_cell(tmp_path):
    rows = rounds("ours (synthetic twins)", 0.9)
    write(tmp_path / "51_x", "table_1_cases", rows, "the synthetic twin of MSD Lung")
    found = RULES["run_cell"](Runs(tmp_path), **CELL, method="", paper=90.0)
    assert found.status == Status.WAITING and "synthetic twin" in found.evidence


def test_a_broken_result_is_one_that_is_not_there(tmp_path):
    write(tmp_path / "51_x", "table_1_cases", rounds("ours", 0.9), "MSD Lung")
    path = tmp_path / "51_x/table_1_cases.json"
    path.write_text(path.read_text()[:-20])
    assert Runs(tmp_path).result("51_x", "table_1_cases") is None
    assert status("run_cell", Runs(tmp_path), **CELL, method="", paper=90.0) == Status.WAITING


def test_a_count_is_reproduced_by_all_slices_or_by_those_with_a_label(tmp_path):
    row = {"data set": "BTCV", "split": "test", "ours": 3779, "ours with a label": 2210}
    rows = [row | {"counted on": "the data set"}]
    rows += [row | {"data set": "AMOS", "counted on": "synthetic twin"}]
    write(tmp_path / "53_table_3_datasets", "table_3", rows, "the data sets BTCV")
    given, runs = {"data_set": "BTCV", "split": "test", "needs": "BTCV"}, Runs(tmp_path)
    assert status("run_count", runs, **given, paper=2210.0) == Status.REPRODUCED
    assert status("run_count", runs, **given, paper=3779.0) == Status.REPRODUCED
    assert status("run_count", runs, **given, paper=2212.0) == Status.OUTSIDE
    twin = given | {"data_set": "AMOS"}
    assert status("run_count", runs, **twin, paper=2210.0) == Status.WAITING
    assert status("run_count", NO_RUNS, **given, paper=2210.0) == Status.WAITING


def test_one_fall_refutes_a_guarantee_even_on_phantoms(tmp_path):
    given = {"notebook": "52_x", "result": "r", "needs": "a run"}
    rows = rounds("ours (synthetic twins)", 0.5, 0.7, 0.6)
    rows += rounds("ours (synthetic twins) w/o MRF", 0.5, 0.6, 0.7)
    write(tmp_path / "52_x", "r", rows, "the synthetic twin of MSD Lung")
    runs = Runs(tmp_path)
    assert status("steady", runs, **given, fused=True, claimed=True) == Status.OUTSIDE
    assert status("steady", runs, **given, fused=False, claimed=True) == Status.WAITING
    write(tmp_path / "52_x", "r", rounds("ours w/o MRF", 0.5, 0.7, 0.6), "MSD Lung, 1 case")
    assert status("steady", runs, **given, fused=False, claimed=False) == Status.REPRODUCED
    assert status("steady", runs, **given, fused=False, claimed=True) == Status.OUTSIDE


def test_a_number_of_a_run_is_held_against_bounds(tmp_path):
    rows = [{"part": "a", "fps": 12.0}, {"part": "b", "fps": 40.0}]
    write(tmp_path / "57_x", "speed", rows, "phantoms")
    given = {"notebook": "57_x", "result": "speed", "column": "fps", "needs": "a GPU"}
    runs = Runs(tmp_path)
    assert status("run_value", runs, **given, at={"part": "b"}, at_least=31.25) == Status.REPRODUCED
    assert status("run_value", runs, **given, at={"part": "a"}, at_least=31.25) == Status.OUTSIDE
    assert status("run_value", runs, **given, at={"part": "c"}, at_least=31.25) == Status.WAITING
    assert status("run_value", NO_RUNS, **given, at={}, at_least=31.25) == Status.WAITING


def test_a_decided_status_changes_and_a_missing_run_changes_nothing():
    def judged(recorded, found):
        return Judged(claim("same", recorded, values={}), Verdict(found, ""))

    changed = judged(Status.HOLDS, Status.CONTRADICTS)
    decided = judged(Status.WAITING, Status.REPRODUCED)
    absent = judged(Status.OUTSIDE, Status.WAITING)
    assert changes([changed, decided, absent]) == [changed]


def test_the_summary_is_a_row_a_claim():
    table = summary(judge((claim("same", values={"a": 1}),), NO_RUNS))
    assert isinstance(table, pd.DataFrame) and table.loc[0, "status"] == str(Status.HOLDS)


GOOD = {"where": "II", "says": "x", "rule": {"same": {"values": {"a": 1}}}, "status": "HOLDS"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rule": {"guess": {}}}, "one rule of same, total"),
        ({"rule": {"same": {}, "cell": {}}}, "one rule of"),
        ({"where": None}, "must have"),
        ({"sttatus": "HOLDS"}, "sttatus"),
        ({"status": "MAYBE"}, "must be one of HOLDS, CONTRADICTS"),
    ],
)
def test_a_claim_that_is_not_whole_is_named(tmp_path, change, words):
    entry = {key: value for key, value in (GOOD | change).items() if value is not None}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": {"odd_one": entry}, "cells": {}}))
    with pytest.raises(ValueError, match=words) as error:
        read_ledger(path)
    assert "odd_one" in str(error.value)


def test_a_rule_that_lacks_what_it_needs_names_the_claim():
    with pytest.raises(ValueError, match="the claim name must give the rule cell what it needs"):
        judge((claim("cell", table="table_1"),), NO_RUNS)
    with pytest.raises(ValueError, match="no such row"):
        judge(
            (claim("cell", table="table_1", row="no such row", column="Lung", equals=1),), NO_RUNS
        )


def test_a_name_occurs_once(tmp_path):
    path = tmp_path / "claims.yaml"
    cells = {"where": "Table II", "notebook": "52", "rows": {"Ours-MRF": {"needs": "data"}}}
    content = {"claims": {"table_2_ours_mrf_lung": GOOD}, "cells": {"table_2": cells}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="table_2_ours_mrf_lung occur twice"):
        read_ledger(path)
