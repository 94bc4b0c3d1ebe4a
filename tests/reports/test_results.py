import json
import math
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from limnet.files import sha256_of
from limnet.reports import results
from limnet.reports.results import (
    comparison,
    markdown,
    provenance,
    published,
    published_claims,
    published_counts,
    report_folder,
    write_results,
)

SIX_ORGANS = {
    "Left Kidney": 0.9,
    "Right Kidney": 0.8,
    "Aorta": 0.7,
    "Spleen": 0.6,
    "Esophagus": 0.5,
    "Liver": 0.4,
}


def test_table_4_stands_as_printed():
    table = published("table_4")
    assert list(table.rows.columns) == list(SIX_ORGANS)
    assert table.rows.loc["SAM-B (N points)"].tolist() == [4.3, 4.4, 5.4, 8.4, 2.3, 22.9]
    assert table.rows.loc["SAM-B (6 N points)"].tolist() == [39.9, 22.6, 54.5, 56.3, 33.2, 49.2]
    assert table.rows.loc["SAM-Med3D (6 points)"].tolist() == [78.5, 61.6, 37.3, 55.9, 36.0, 52.4]
    assert table.rows.loc[table.limnet].tolist() == [70.2, 68.7, 56.4, 58.3, 52.9, 42.4]


@pytest.mark.parametrize(
    ("name", "methods", "targets"),
    [
        ("table_1", 5, 4),
        ("table_2", 2, 4),
        ("table_4", 4, 6),
        ("table_5", 10, 2),
        ("table_6", 6, 16),
    ],
)
def test_every_table_is_complete_and_names_its_place(name, methods, targets):
    table = published(name)
    assert table.rows.shape == (methods, targets)
    assert table.rows.notna().all(axis=None)
    assert table.limnet in table.rows.index
    assert table.source.startswith("Table ")


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("table_1", 1693.6),
        ("table_2", 692.9),
        ("table_4", 974.0),
        ("table_5", 760.9),
        ("table_6", 4154.2),
    ],
)
def test_the_cells_of_every_table_add_up_to_those_of_the_paper(name, total):
    assert published(name).rows.to_numpy().sum() == pytest.approx(total)  # added up by its text


def test_table_3_counts_images_and_leaves_open_what_the_paper_does():
    table = published_counts()
    assert list(table.columns) == ["Type", "Training Set", "Test Set"] and len(table) == 11
    assert table.sum(numeric_only=True).tolist() == [136_639, 17_797]
    assert table.loc["KiTS19"].tolist() == ["CT", 14_072, 1_753]
    assert table.index[table["Training Set"].isna()].tolist() == ["BTCV", "EndoVis18"]
    assert table.index[table["Test Set"].isna()].tolist() == ["In-house CT dataset"]
    with pytest.raises(ValueError, match="got 'table_3'"):
        published("table_3")  # it has no DSC


def test_the_gains_of_the_ablation_are_the_relative_percent_of_table_2():
    with_fusion, without = published("table_2").rows.loc[["Ours-MRF", "Ours w/o MRF"]].to_numpy()
    claims = published_claims().loc[
        ["mrf_gain_kidney_organ", "mrf_gain_kidney_tumor", "mrf_gain_lung", "mrf_gain_colon"]
    ]
    gains = 100 * (with_fusion / without - 1)
    assert gains.round(2).tolist() == claims["value"].tolist()


def test_an_unknown_table_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"table_1, table_2, table_4.*got 'table_9'"):
        published("table_9")


def test_published_is_found_from_the_notebooks_folder_without_a_checkout(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "reports" / "published.yaml").write_text(
        "claims: {speed: {value: 1.0, unit: frames/s, source: here}}"
    )
    module = tmp_path / "site/limnet/reports/results.py"
    monkeypatch.setattr(results, "__file__", str(module))
    monkeypatch.chdir(tmp_path / "notebooks")
    assert published_claims().loc["speed", "source"] == "here"
    monkeypatch.chdir(Path(tmp_path.anchor))
    with pytest.raises(FileNotFoundError, match=r"published\.yaml"):
        published_claims()


def test_comparison_puts_ours_beside_the_paper_in_percent():
    frame = comparison(published("table_4"), SIX_ORGANS)
    assert list(frame.columns) == [
        "organ",
        "SAM-B (N points)",
        "SAM-B (6 N points)",
        "SAM-Med3D (6 points)",
        "paper (LIM-Net)",
        "ours",
        "difference",
    ]
    assert frame["organ"].tolist() == [*SIX_ORGANS, "mean"]
    assert frame["ours"].tolist() == pytest.approx([90, 80, 70, 60, 50, 40, 65])
    assert frame["paper (LIM-Net)"].tolist() == pytest.approx(
        [70.2, 68.7, 56.4, 58.3, 52.9, 42.4, (70.2 + 68.7 + 56.4 + 58.3 + 52.9 + 42.4) / 6]
    )
    assert frame["difference"].tolist()[:2] == pytest.approx([90 - 70.2, 80 - 68.7])


def test_comparison_puts_what_was_run_beside_ours_behind_the_difference():
    beside = {"random walker": {"Liver": 0.5}}
    frame = comparison(published("table_4"), SIX_ORGANS, label="ours", beside=beside)
    assert list(frame.columns[-3:]) == ["ours", "difference", "random walker"]
    assert frame.set_index("organ").loc["Liver", "random walker"] == 50
    with pytest.raises(ValueError, match="not percent"):
        comparison(published("table_4"), SIX_ORGANS, beside={"random walker": {"Liver": 50.0}})


def test_comparison_leaves_gaps_open_and_puts_other_organs_below_the_mean():
    ours = {"Liver": 0.5, "Spleen": math.nan, "Stomach": 0.7}
    frame = comparison(published("table_4"), ours, label="ours (twin)").set_index("organ")
    assert list(frame.index) == [*SIX_ORGANS, "mean", "Stomach"]
    assert frame.loc["Liver", "ours (twin)"] == 50.0
    assert frame["ours (twin)"].isna().sum() == 6  # five organs and the mean
    assert frame.loc["Stomach", "ours (twin)"] == 70.0
    assert math.isnan(frame.loc["Stomach", "difference"])


def test_percent_where_a_fraction_is_wanted_is_an_error():
    with pytest.raises(ValueError, match="not percent"):
        comparison(published("table_4"), {"Liver": 87.0})


def test_markdown_has_one_line_a_row_and_a_dash_for_a_gap():
    frame = pd.DataFrame({"organ": ["Liver", "Aorta"], "ours": [70.04, math.nan], "cases": [3, 4]})
    assert markdown(frame) == (
        "| organ | ours | cases |\n| --- | --: | --: |\n| Liver | 70.0 | 3 |\n| Aorta | - | 4 |\n"
    )


def test_results_are_written_as_csv_and_json_that_read_back(tmp_path):
    rows = [
        {"case": "a", "dice": np.float32(0.5), "clicks": [1, 2]},
        {"case": "b", "dice": float("nan"), "clicks": []},
    ]
    csv_path, json_path = write_results(tmp_path / "new", "table_4", rows, {"seed": 3})
    assert pd.read_csv(csv_path)["dice"].tolist()[0] == 0.5
    content = json.loads(json_path.read_text())
    assert content["rows"] == [
        {"case": "a", "dice": 0.5, "clicks": [1, 2]},
        {"case": "b", "dice": None, "clicks": []},
    ]
    assert content["provenance"] == {"seed": 3}


def test_a_write_that_fails_leaves_the_old_result(tmp_path, monkeypatch):
    _, json_path = write_results(tmp_path, "table", [{"dice": 0.5}], {})
    old = json_path.read_text()

    def full(path, content):
        path.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_results(tmp_path, "table", [{"dice": 0.9}], {})
    assert json_path.read_text() == old
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.json"}


@pytest.mark.parametrize("name", ["", "../table", "a/b", ".hidden"])
def test_a_name_that_is_no_plain_file_name_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="name must be letters"):
        write_results(tmp_path, name, [{"dice": 0.5}], {})


def test_a_result_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        write_results(tmp_path, "table", [], {})


def test_provenance_names_everything_a_result_depends_on(tmp_path):
    weights = tmp_path / "lite.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "image.nii.gz").write_bytes(b"image")
    origin = provenance(
        {"cases": 4, "rate": np.float64(0.5), "folder": tmp_path},
        data={"case": tmp_path / "case"},
        weights={"lite": weights},
        seed=7,
        device=torch.device("cpu"),
        started=time.perf_counter() - 2.0,
    )
    assert origin["parameters"] == {"cases": 4, "rate": 0.5, "folder": str(tmp_path)}
    assert origin["weights_sha256"] == {"lite": sha256_of(weights)}
    assert origin["data_sha256"] == {"case": sha256_of(tmp_path / "case")}
    assert origin["seed"] == 7
    assert 2.0 <= origin["wall_seconds"] < 10.0
    assert origin["versions"]["torch"].startswith("2.")
    assert origin["utc"].endswith("+00:00")
    assert {"commit", "dirty", "python", "platform", "device", "threads"} <= origin.keys()
    assert json.loads(json.dumps(origin)) == origin


def test_the_commit_is_that_of_the_checkout_and_none_without_one(tmp_path, monkeypatch):
    package = tmp_path / "limnet"
    package.mkdir()
    (package / "results.py").write_text("")
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    assert provenance({})["commit"] is None

    def git(*words):
        author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True)

    git("init", "--quiet")
    assert provenance({})["commit"] is None  # the file is not of this git
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    origin = provenance({})
    assert len(origin["commit"]) == 40
    assert origin["dirty"] is False
    (package / "results.py").write_text("changed")
    assert provenance({})["dirty"] is True


def test_the_hash_of_a_folder_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256_of(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, sha256_of(tmp_path)}) == 3
    with pytest.raises(FileNotFoundError, match=r"got .*missing"):
        sha256_of(tmp_path / "missing")


def test_reports_go_to_the_checkout_unless_the_environment_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNET_REPORTS", str(tmp_path))
    assert report_folder("54_table_4_btcv") == tmp_path / "54_table_4_btcv"
    assert (tmp_path / "54_table_4_btcv").is_dir()
    monkeypatch.delenv("LIMNET_REPORTS")
    monkeypatch.setattr(results, "reports_file", lambda name: tmp_path / "reports" / name)
    assert report_folder("54_table_4_btcv") == tmp_path / "reports" / "54_table_4_btcv"
