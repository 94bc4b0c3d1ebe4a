from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import fakes
from PIL import Image

from limnet.data import DATA_SETS, Case
from limnet.data.endovis18 import ENDOVIS18_SEQUENCES
from limnet.evaluation.evaluate import CaseEvaluation, Evaluation
from limnet.reports import tables
from limnet.reports.results import published
from limnet.reports.tables import (
    TABLES,
    Column,
    choose_cases,
    final_scores,
    our_label,
    ran_on,
    rows_of,
    run_columns,
    run_table,
    scores_by_column,
    show_scenes,
    slice_scores,
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


def test_a_table_is_run_by_every_method_and_stands_beside_the_papers(monkeypatch, tmp_path):
    calls = []

    def evaluate_cases(cases, organs, networks, cache, **options):
        calls.append((cache, options))
        for organ in organs:
            yield replace(done("case_00000", 0.25, 0.5), organ=organ)

    image = tmp_path / "image"
    image.write_text("grey")
    everywhere = tables.Chosen((replace(CASE, image=image),), "a twin, NOT on patients", True)
    chosen = dict.fromkeys(("kits19", "msd_lung", "msd_colon"), everywhere)
    monkeypatch.setattr(tables, "evaluate_cases", evaluate_cases)
    monkeypatch.setattr(tables, "choose_cases", lambda *args, **options: chosen)
    monkeypatch.setattr(tables, "load_networks", lambda name: fakes())
    monkeypatch.setattr(tables.LimNet, "digest", "d1")  # fakes have no weights
    how = {"networks": "lite", "cases": 1, "twin_seed": 3, "recipe": "paper"}
    run = run_table(
        "table_1", tmp_path / "51", **how, without_fusion=True, baselines={"walk": max}, rounds=2
    )
    assert list(run.runs) == [run.label, f"{run.label} w/o MRF", "walk"]
    assert [column for column, _ in run.ours] == list(TABLES["table_1"])
    assert len(run.rows) == 3 * 4 * 2
    assert (run.scores["dice"] == 0.5).all()
    assert (run.table[[run.label, "walk"]] == 50).all(axis=None)
    differ = [{}, {"fuse": False}, {"segment": max}]
    assert [options for _, options in calls[::3]] == [
        {"rounds": 2, "recipe": "paper", **each} for each in differ
    ]
    assert {cache for cache, _ in calls} == {tmp_path / "cache"}
    assert run.facts["parameters"] == {**how, "rounds": 2, "comparators": {}}
    assert (run.facts["ran_on"], run.facts["weights_digest"]) == (ran_on(chosen), "d1")


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


def test_a_column_of_table_vi_is_about_one_sequence_and_a_class_that_its_twin_shows():
    shown = {
        case: {column.target for column in TABLES["table_6"] if column.case == case}
        for case in ENDOVIS18_SEQUENCES
    }
    assert shown == {case: set(classes) for case, classes in ENDOVIS18_SEQUENCES.items()}
    assert {column.heading: column.target for column in TABLES["table_6"]}["Seq 4 Parenchyma"] == (
        "kidney parenchyma"
    )


def test_a_column_that_names_a_case_is_run_on_this_one_alone(monkeypatch, tmp_path):
    calls = []

    def evaluate_cases(cases, organs, networks, cache, **options):
        calls.append(([case.name for case in cases], [*organs]))
        for case in cases:
            for organ in organs:
                yield replace(done(case.name, 0.5), organ=organ)

    monkeypatch.setattr(tables, "evaluate_cases", evaluate_cases)
    sequences = tuple(replace(CASE, name=f"seq_{number}") for number in (1, 2))
    chosen = {"endovis18": tables.Chosen(sequences, "here", True)}
    found = list(run_columns("table_6", chosen, fakes(), tmp_path))
    assert [column.heading for column, _ in found] == [
        column.heading for column in TABLES["table_6"] if column.case in ("seq_1", "seq_2")
    ]
    assert all(each.case.name == column.case for column, each in found)
    assert calls[0] == (["seq_1"], [column.target for column in TABLES["table_6"][:4]])


def video_done(folder):
    """Two columns of a tiny video: the first one's mask is right in one of its two frames."""
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[:2, :3] = 1
    labels[3, 4:, 4:] = 2
    for part in ("frames", "masks"):
        (folder / part).mkdir()
        for index, label in enumerate(labels):
            image = label if part == "masks" else np.full((6, 8, 3), 90, np.uint8)
            Image.fromarray(image).save(folder / part / f"{index}.png")
    classes = {"clamps": 1, "suturing needle": 2}
    case = Case("seq_1", folder / "frames", folder / "masks", classes, "EndoVis 2018", False)
    masks = np.zeros(labels.shape, bool)
    masks[0, :3] = masks[2, 0, 0] = True
    pairs = []
    for column in TABLES["table_6"][:2]:
        each = replace(done("seq_1", 0.5), case=case, organ=column.target)
        pairs.append((column, replace(each, evaluation=replace(each.evaluation, masks=masks))))
    return pairs


def test_a_slice_counts_where_it_shows_the_target_or_the_mask(tmp_path):
    scores = slice_scores(video_done(tmp_path), "ours")
    assert scores.values.tolist() == [
        ["Seq 1 Clips", "ours", 0, 1.0],
        ["Seq 1 Clips", "ours", 1, 0.0],
        ["Seq 1 Clips", "ours", 2, 0.0],
        ["Seq 1 Needle", "ours", 0, 0.0],
        ["Seq 1 Needle", "ours", 2, 0.0],
        ["Seq 1 Needle", "ours", 3, 0.0],
    ]
    assert slice_scores([], "ours").columns.tolist() == ["column", "method", "slice_index", "dice"]


def test_a_scene_shows_the_truth_above_our_masks(tmp_path):
    figure = show_scenes(video_done(tmp_path), at=0.0)
    above, below = figure.axes
    assert above.get_title() == "seq_1, frame 0"
    assert [axis.get_ylabel() for axis in (above, below)] == ["truth", "ours"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["clamps", "suturing needle"]
    figure.draw_without_rendering()
