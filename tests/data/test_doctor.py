import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from limnet.data import Case, DataSet, LabelledImage
from limnet.data.catalogue import catalogue
from limnet.data.doctor import (
    LOOKED_AT,
    Finding,
    changes,
    faults,
    inspect,
    instructions,
    overview,
    own_collections,
    shapes,
    thumbnail,
)


def write(path, value=1, shape=(4, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.full(shape, value, np.uint8)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 5.0, 1.0])), path)
    return path


def volumes(root):
    """A set with one case a file `<name>_image.nii.gz`, which `root/set` holds."""

    def find(data_root):
        folder = data_root and Path(data_root) / "set"
        return folder if folder and folder.is_dir() else None

    def read(folder):
        images = sorted(folder.glob("*_image.nii.gz"))
        if not images:
            raise ValueError("it must hold images")
        return tuple(
            Case(
                image.name[0],
                image,
                image.with_name(image.name.replace("image", "label")),
                {"organ": (1, 2), "tumour": 2},
                "Set",
                False,
            )
            for image in images
        )

    return DataSet("Set", find, read, lambda root, *, cases, seed: (), tested=1)


def pictures(count):
    def masks(value):
        return np.full((1, 4, 6), value)

    def read(folder):
        return tuple(
            LabelledImage(str(i), folder / "a.png", "Set", "test", False, lambda i=i: masks(i != 1))
            for i in range(count)
        )

    return DataSet("Set", Path, read, lambda root, *, seed: (), of_images=True)


@pytest.fixture
def two(tmp_path):
    for name in "ab":
        write(tmp_path / f"set/{name}_image.nii.gz")
        write(tmp_path / f"set/{name}_label.nii.gz")
    return tmp_path


def test_a_set_that_is_not_there_is_absent(tmp_path):
    found = inspect("set", volumes(tmp_path), tmp_path)
    assert (found.state, found.folder, found.rows) == ("absent", None, ())
    assert inspect("set", volumes(tmp_path), None).state == "absent"
    assert found.against({"cases": 30, "organs": 13}) == "0 / 30 cases"


def test_headers_give_shape_and_spacing_and_no_pixel_is_read(two):
    found = inspect("set", volumes(two), two)
    assert found.state == "there" and found.counts == {"cases": 2} and not found.hashes
    assert found.rows[0] == {
        "name": "a",
        "shape": "4 x 5 x 3",
        "spacing_mm": "2 x 2 x 5",
        "labels": "",
        "problem": "",
    }
    files = [path.stat().st_size for path in (two / "set").iterdir()]
    assert found.megabytes == pytest.approx(sum(files) / 1e6)
    assert set(found.split.training + found.split.test) == {"a", "b"}


def test_a_broken_case_is_named_with_its_reason_and_the_others_are_looked_at(two):
    (two / "set/a_image.nii.gz").write_bytes(b"no image")
    found = inspect("set", volumes(two), two)
    assert found.state == "1 broken"
    [row] = found.broken
    assert row["name"] == "a" and "a_image.nii.gz" in row["problem"]
    assert found.rows[1]["shape"] == "4 x 5 x 3"


def test_a_label_of_another_shape_is_a_problem(two):
    write(two / "set/a_label.nii.gz", shape=(4, 5, 4))
    assert inspect("set", volumes(two), two).broken[0]["problem"] == (
        "the image has the shape (4, 5, 3), its label (4, 5, 4)"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [(0, "no voxel has a label"), (7, "the labels [7] are none of the data set's")],
)
def test_a_thorough_look_finds_what_headers_do_not_say(two, value, problem):
    write(two / "set/a_label.nii.gz", value)
    assert not inspect("set", volumes(two), two).broken
    found = inspect("set", volumes(two), two, thorough=True)
    assert [(row["name"], row["problem"]) for row in found.broken] == [("a", problem)]
    assert found.rows[1]["labels"] == "1 of 2, not tumour"


def test_a_thorough_look_reads_to_the_end_of_a_file(two):
    whole = (two / "set/a_image.nii.gz").read_bytes()
    (two / "set/a_image.nii.gz").write_bytes(whole[:-9])
    assert inspect("set", volumes(two), two, thorough=True).broken[0]["name"] == "a"


def test_hashes_are_those_of_every_file_and_a_changed_file_is_seen(two):
    before = inspect("set", volumes(two), two, thorough=True).hashes
    assert set(before) == {f"{name}_{what}.nii.gz" for name in "ab" for what in ("image", "label")}
    write(two / "set/a_label.nii.gz", 2)
    (two / "set/b_label.nii.gz").rename(two / "set/c.nii.gz")
    assert changes(before, inspect("set", volumes(two), two, thorough=True).hashes) == [
        {"file": "a_label.nii.gz", "what": "changed"},
        {"file": "b_label.nii.gz", "what": "gone"},
        {"file": "c.nii.gz", "what": "new"},
    ]
    assert changes(before, before) == []


def test_a_set_that_its_adapter_refuses_is_refused_with_the_reason(tmp_path):
    (tmp_path / "set").mkdir()
    found = inspect("set", volumes(tmp_path), tmp_path)
    assert (found.state, found.problem) == ("refused", "it must hold images")


def test_of_many_images_some_are_looked_at_and_all_if_thorough(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    many = pictures(2 * LOOKED_AT)
    found = inspect("set", many, tmp_path)
    assert found.counts == {"test": 2 * LOOKED_AT} and len(found.rows) == LOOKED_AT
    assert found.rows[0]["shape"] == "4 x 6" and found.rows[-1]["name"] == str(2 * LOOKED_AT - 1)
    few = inspect("set", pictures(3), tmp_path, thorough=True)
    assert [row["problem"] for row in few.rows] == ["", "1 of 1 masks show nothing", ""]


def test_a_set_in_the_data_folder_itself_is_its_own_files_only(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "other").write_text("of another set")
    assert set(inspect("set", pictures(2), tmp_path, thorough=True).hashes) == {"a.png"}


def test_a_collection_is_a_row_also_where_it_cannot_be_read(tmp_path):
    about = {
        "title": "Kidneys",
        "labels": {"1": "kidney"},
        "licence": "MIT",
        "may_train_weights": True,
    }
    write(tmp_path / "a/one/image.nii.gz")
    write(tmp_path / "a/one/label.nii.gz")
    (tmp_path / "a/collection.json").write_text(json.dumps(about))
    for folder, text in (("b", "{"), ("c", json.dumps(about))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "collection.json").write_text(text)
    first, second, third = own_collections(tmp_path)
    assert (first["collection"], first["cases"], first["licence"]) == ("a", 1, "MIT")
    assert first["trainable"] and first["what"] == "Kidneys" and not first["note"]
    assert second["note"] and third["note"] and third["cases"] == 0
    assert own_collections(None) == []


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


def test_a_thumbnail_is_a_square_with_the_whole_image_in_it(tmp_path):
    Image.fromarray(np.full((20, 40, 3), 255, np.uint8)).save(tmp_path / "a.png")
    masks = np.zeros((2, 20, 40), bool)
    masks[0, :, :20] = True
    image = LabelledImage("a", tmp_path / "a.png", "Set", "test", False, lambda: masks)
    picture, shown = thumbnail(image, side=16)
    assert picture.shape == (3, 16, 16) and shown.shape == (16, 16)
    assert picture[:, 4:12].min() == pytest.approx(1) and not picture[:, :4].any()
    assert shown[4:12, :8].all() and shown.sum() == 64
