from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limnet.data import LabelledImage
from limnet.data.catalogue import catalogue
from limnet.data.data_page import faults, instructions, overview, shapes, thumbnail
from limnet.data.doctor import Finding

ROWS = tuple(
    {"name": shape, "shape": shape, "spacing_mm": spacing, "labels": "", "problem": ""}
    for shape, spacing in (("10 x 9 x 8", "1 x 1 x 5"), ("10 x 9 x 12", "2 x 2 x 1"))
)
BTCV = Finding("btcv", "BTCV", Path("b"), False, {"cases": 2}, 2500.0, "", ROWS, {}, None)
NOTHING = (None, False, {}, 0.0, "", (), {}, None)


def test_the_overview_says_of_each_set_whether_it_is_there():
    absent = Finding("kits19", "KiTS19", *NOTHING)
    blocked = Finding("in_house_ct", "In-house CT", *NOTHING)
    table = overview([BTCV, absent, blocked], catalogue()).set_index("key")
    assert table["state"].tolist() == ["there", "absent", "not public"]
    assert table.loc["btcv", "found / expected"] == "2 / 30 cases"
    assert table.loc["btcv", "on disk, GB"] == "2.50" and table.loc["kits19", "on disk, GB"] == "-"
    assert table["open to all"].tolist() == ["no", "yes", "no"]


def test_instructions_are_numbered_and_end_with_the_command_where_there_is_one():
    text = instructions(catalogue()["msd_colon"])
    assert "1. Fetch Task10_Colon.tar" in text and "3. Or let `make data-msd_colon`" in text
    assert "make data" not in instructions(catalogue()["btcv"])


def test_only_sets_with_known_faults_are_listed():
    text = faults(catalogue().values())
    assert "**DAVIS-585**" in text and "**In-house CT**" not in text


def test_shapes_are_the_smallest_and_the_largest():
    row = shapes(BTCV)
    assert (row["smallest shape"], row["largest shape"]) == ("10 x 9 x 8", "10 x 9 x 12")
    assert (row["smallest spacing_mm"], row["largest spacing_mm"]) == ("2 x 2 x 1", "1 x 1 x 5")
    assert (row["looked at"], row["broken"]) == (2, 0)


def test_a_portrait_is_a_square_with_the_whole_image_in_it(tmp_path):
    Image.fromarray(np.full((20, 40, 3), 255, np.uint8)).save(tmp_path / "a.png")
    masks = np.zeros((2, 20, 40), bool)
    masks[0, :, :20] = True
    image = LabelledImage("a", tmp_path / "a.png", "Set", "test", False, lambda: masks)
    picture, shown = thumbnail(image, side=16)
    assert picture.shape == (3, 16, 16) and shown.shape == (16, 16)
    assert picture[:, 4:12].min() == pytest.approx(1) and not picture[:, :4].any()
    assert shown[4:12, :8].all() and shown.sum() == 64
