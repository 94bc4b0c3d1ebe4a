from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import fakes

from limnet import tables
from limnet.datasets import DATA_SETS, Case
from limnet.evaluation import CaseEvaluation, Evaluation
from limnet.results import published
from limnet.tables import (
    TABLES,
    Column,
    choose_cases,
    final_scores,
    our_label,
    ran_on,
    rows_of,
    run_columns,
    scores_by_column,
)

KIDNEY, TUMOUR = Column("KIDNEY (Organ)", "kits19", "kidney"), Column("Lung", "msd_lung", "tumour")


CASE = Case("case_00000", None, Path("nowhere"), {"kidney": (1, 2), "tumour": 2}, "KiTS19", False)


def done(name, *dice):
    """An evaluation with these DSC, one a round."""
    nothing = (0,) * len(dice)
    seconds, clicks = (0.1,) * len(dice), (None,) * len(dice)
    masks, comparisons = np.zeros((1, 2, 2), bool), np.zeros((0, 4), np.float32)
    result = Evaluation(dice, dice, seconds, clicks, nothing, masks, comparisons)
    return CaseEvaluation(replace(CASE, name=name), "kidney", result)


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_headed_as_the_paper_heads_them(table):
    assert [column.heading for column in TABLES[table]] == list(published(table).rows.columns)
    assert {column.data_set for column in TABLES[table]} <= DATA_SETS.keys()


def test_each_data_set_of_a_table_is_chosen_once(monkeypatch, tmp_path):
    asked = []

    class Known:
        def __init__(self, name):
            self.name = name

        def choose(self, data_root, twin, *, cases, seed):
            asked.append((self.name, data_root, twin, cases, seed))
            return tables.Chosen((), f"{self.name}, no case", False)

    monkeypatch.setattr(tables, "DATA_SETS", {name: Known(name) for name in DATA_SETS})
    chosen = choose_cases("table_1", "data", tmp_path, cases=3, seed=7)
    assert asked == [
        (name, "data", tmp_path / name, 3, 7) for name in ("kits19", "msd_lung", "msd_colon")
    ]
    assert ran_on(chosen) == "kits19, no case; msd_lung, no case; msd_colon, no case"


def test_every_column_is_run_on_the_cases_of_its_data_set(monkeypatch, tmp_path):
    calls = []

    def evaluate_cases(cases, organs, networks, cache, **options):
        calls.append((cases, [*organs], cache, options))
        for organ in organs:
            yield replace(done("case_00000", 0.5), organ=organ)

    monkeypatch.setattr(tables, "evaluate_cases", evaluate_cases)
    everywhere = tables.Chosen((CASE,), "here", True)
    chosen = dict.fromkeys(("kits19", "msd_lung", "msd_colon"), everywhere)
    found = list(run_columns("table_1", chosen, fakes(), tmp_path, rounds=2))
    assert [column for column, _ in found] == list(TABLES["table_1"])
    # a case is loaded once for all its columns
    assert [organs for _, organs, _, _ in calls] == [["kidney", "tumour"], ["tumour"], ["tumour"]]
    assert all(options == {"rounds": 2} for *_, options in calls)


def test_scores_are_means_over_cases_after_the_last_round():
    rows = pd.concat(
        [
            rows_of([(KIDNEY, done("a", 0.1, 0.8)), (KIDNEY, done("b", 0.2, 0.6))], "ours"),
            rows_of([(TUMOUR, done("c", 0.3, 0.4))], "ours"),
            rows_of([(TUMOUR, done("c", 0.3, 0.2))], "w/o MRF"),
        ]
    )
    scores = final_scores(rows)
    assert scores[["column", "method", "cases"]].values.tolist() == [
        ["KIDNEY (Organ)", "ours", 2],
        ["Lung", "ours", 1],
        ["Lung", "w/o MRF", 1],
    ]
    assert scores["dice"].tolist() == pytest.approx([0.7, 0.4, 0.2])
    assert (scores["low"][0], scores["high"][0]) == pytest.approx((0.6, 0.8))
    assert scores_by_column(scores, "ours") == pytest.approx({"KIDNEY (Organ)": 0.7, "Lung": 0.4})
    assert scores_by_column(scores, "w/o MRF") == pytest.approx({"Lung": 0.2})


def test_our_heading_says_when_numbers_are_of_phantoms():
    twin, real = tables.Chosen((), "a twin", True), tables.Chosen((), "patients", False)
    assert our_label({"kits19": real}) == "ours"
    assert our_label({"kits19": twin, "msd_lung": twin}) == "ours (synthetic twins)"
    assert our_label({"kits19": twin, "msd_lung": real}) == "ours (in part synthetic twins)"
