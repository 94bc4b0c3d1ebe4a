import json

import numpy as np
import pytest
from PIL import Image

from limnet.data.coco_lvis import COCO_LVIS
from limnet.data.synthetic.scenes_2d import instance_mask

HEIGHT, WIDTH = 6, 8
SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]  # columns and rows 1 to 3
TALL = [5.0, 0.0, 7.0, 0.0, 7.0, 6.0, 5.0, 6.0]  # columns 5 and 6
LEFT = [0, 0, 4, 0, 4, 6, 0, 6]


def url(number, folder="train2017"):
    return f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"


def listed(number, folder="train2017", **changed):
    about = {"id": number, "coco_url": url(number, folder), "height": HEIGHT, "width": WIDTH}
    return {**about, **changed}


def instance(number, *outlines, **more):
    return {"id": 1, "image_id": number, "segmentation": list(outlines), "category_id": 3, **more}


LVIS = {
    "lvis_v1_train.json": {
        "images": [listed(9), listed(7), listed(8)],  # 8 has no instance
        "annotations": [instance(9, SQUARE, TALL), instance(7, SQUARE), instance(7, TALL)],
    },
    "lvis_v1_val.json": {
        "images": [listed(20, "val2017"), listed(10)],  # 10 is of COCO's training images
        "annotations": [instance(20, TALL), instance(10, SQUARE)],
    },
}
CROWD = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
COCO = {
    "instances_train2017.json": {
        "images": [listed(7)],
        "annotations": [
            instance(7, [1.1, 1, 4, 1, 4, 4, 1, 4], iscrowd=0),  # LVIS has it
            instance(7, LEFT, iscrowd=0),
            {**instance(7, iscrowd=1), "segmentation": CROWD},
        ],
    },
    "instances_val2017.json": {"images": [], "annotations": []},
}


def write_coco_lvis(root, files=LVIS, images=("train2017/7", "train2017/9", "val2017/20")):
    (root / "annotations").mkdir(parents=True)
    for name, content in files.items():
        (root / "annotations" / name).write_text(json.dumps(content))
    for folder in ("train2017", "val2017"):
        (root / folder).mkdir()
    for image in images:
        folder, number = image.split("/")
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        Image.fromarray(pixels).save(root / folder / f"{int(number):012d}.jpg")


def changed(name, **parts):
    return {**LVIS, name: {**LVIS[name], **parts}}


def area(columns, rows):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


def test_images_with_instances_come_by_split_and_number(tmp_path):
    write_coco_lvis(tmp_path)
    images = COCO_LVIS.read(tmp_path)
    assert [(int(image.name), image.split) for image in images] == [
        (7, "training"),
        (9, "training"),
        (20, "test"),
    ]
    assert images[0].image == tmp_path / "train2017/000000000007.jpg"
    assert {image.collection for image in images} == {"LVIS"}
    assert not any(image.trainable for image in images)


def test_the_polygons_of_an_instance_are_one_mask(tmp_path):
    write_coco_lvis(tmp_path)
    pixels, masks = COCO_LVIS.read(tmp_path)[1].load()
    square, tall = area(slice(1, 4), slice(1, 4)), area(slice(5, 7), slice(None))
    assert pixels.shape == (HEIGHT, WIDTH, 3) and np.array_equal(masks, [square | tall])


def test_of_coco_the_instances_are_added_that_lvis_lacks_and_no_crowd(tmp_path):
    write_coco_lvis(tmp_path, {**LVIS, **COCO})
    image = COCO_LVIS.read(tmp_path)[0]
    square, tall = area(slice(1, 4), slice(1, 4)), area(slice(5, 7), slice(None))
    left = area(slice(0, 4), slice(None))
    assert np.array_equal(image.load()[1], [square, tall, left])
    assert image.collection == "COCO + LVIS"


def test_an_instance_that_covers_no_pixel_is_left_out(tmp_path):
    dot = [2.6, 2.6, 2.9, 2.6, 2.9, 2.9]
    files = changed("lvis_v1_val.json", annotations=[instance(20, dot), instance(20, SQUARE)])
    write_coco_lvis(tmp_path, files)
    assert COCO_LVIS.read(tmp_path)[2].load()[1].shape == (1, HEIGHT, WIDTH)
    alone = {**LVIS["lvis_v1_val.json"], "annotations": [instance(20, dot)]}
    (tmp_path / "annotations/lvis_v1_val.json").write_text(json.dumps(alone))
    assert COCO_LVIS.read(tmp_path)[2].load()[1].shape == (0, HEIGHT, WIDTH)


def test_annotations_may_lie_beside_the_images(tmp_path):
    write_coco_lvis(tmp_path)
    for path in (tmp_path / "annotations").iterdir():
        path.rename(tmp_path / path.name)
    assert len(COCO_LVIS.read(tmp_path)) == 3


@pytest.mark.parametrize("name", ["lvis_v1_val.json", "instances_val2017.json"])
def test_a_missing_annotation_file_is_named(tmp_path, name):
    write_coco_lvis(tmp_path, {**LVIS, **COCO})
    (tmp_path / "annotations" / name).rename(tmp_path / "annotations/renamed.json")
    with pytest.raises(ValueError, match=f"lacks {name}; unpack"):
        COCO_LVIS.read(tmp_path)


def test_a_missing_folder_of_images_is_named(tmp_path):
    write_coco_lvis(tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "train2014")
    with pytest.raises(ValueError, match="train2017"):
        COCO_LVIS.read(tmp_path)


@pytest.mark.parametrize("name", [*LVIS, *COCO])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_annotation_file_is_named(tmp_path, name, kept):
    write_coco_lvis(tmp_path, {**LVIS, **COCO})
    path = tmp_path / "annotations" / name
    path.write_text(path.read_text()[: int(kept * len(path.read_text()))])
    with pytest.raises(ValueError, match=rf"{name} must be a whole JSON file .*JSONDecodeError"):
        COCO_LVIS.read(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        {"images": [listed(7, coco_url="http://x.org/train2017/../../etc/000000000007.jpg")]},
        {"images": [listed(7, coco_url="file:///train2017/000000000007.jpg")]},
        {"images": [listed(7, coco_url=url(8))]},
        {"images": [listed(7, coco_url=None)]},
        {"images": [{"id": 7, "file_name": "../7.jpg"}]},  # LVIS v0.5 has names
        {"images": 3},
        {"annotations": [{"image_id": 7}]},
        {"annotations": [instance(7, ["a", "b"])]},
        {"annotations": [instance(7, [10**400] * 6)]},
        {"annotations": [instance("seven", SQUARE)]},
    ],
)
def test_annotations_that_say_something_else_are_refused_with_their_file(tmp_path, parts):
    write_coco_lvis(tmp_path, changed("lvis_v1_train.json", **parts))
    with pytest.raises(ValueError, match=r"lvis_v1_train.json must be a whole JSON file"):
        COCO_LVIS.read(tmp_path)


def test_annotations_nested_without_end_are_refused(tmp_path):
    write_coco_lvis(tmp_path)
    (tmp_path / "annotations/lvis_v1_val.json").write_text("[" * 1_000_000)
    with pytest.raises(ValueError, match=r"lvis_v1_val.json must be .*RecursionError"):
        COCO_LVIS.read(tmp_path)


def test_a_file_without_images_of_its_split_is_refused(tmp_path):
    write_coco_lvis(tmp_path, changed("lvis_v1_val.json", images=[listed(10)]))
    with pytest.raises(ValueError, match=r"lvis_v1_val.json must list images of val2017"):
        COCO_LVIS.read(tmp_path)


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    write_coco_lvis(tmp_path, changed("lvis_v1_val.json", images=[listed(20, "val2017", width=9)]))
    with pytest.raises(ValueError, match=r"20.jpg must have the size .* got \(6, 8\) and \(6, 9\)"):
        COCO_LVIS.read(tmp_path)[2].load()


def test_the_twin_has_the_layout_of_the_real_files(tmp_path):
    images = COCO_LVIS.write_twin(tmp_path)
    assert images == COCO_LVIS.read(tmp_path)
    assert [image.split for image in images] == ["training"] * 5 + ["test"] * 3
    lvis, coco = (
        json.loads((tmp_path / "annotations" / name).read_text())
        for name in ("lvis_v1_val.json", "instances_val2017.json")
    )
    assert "file_name" not in lvis["images"][0] and "file_name" in coco["images"][0]
    assert {"neg_category_ids", "not_exhaustive_category_ids"} <= set(lvis["images"][0])
    assert any("train2017" in image["coco_url"] for image in lvis["images"])
    assert {each["iscrowd"] for each in coco["annotations"]} == {0, 1}


def test_both_files_of_the_twin_add_instances(tmp_path):
    images = COCO_LVIS.write_twin(tmp_path)
    joined = [len(image.load()[1]) for image in images]
    for name in COCO:
        (tmp_path / "annotations" / name).unlink()
    alone = [len(image.load()[1]) for image in COCO_LVIS.read(tmp_path)]
    assert [one - other for one, other in zip(joined, alone, strict=True)] == [1] * len(images)


def test_masks_hold_the_pixels_whose_centres_are_inside():
    shifted = [1.4, 1.4, 4.4, 1.4, 4.4, 4.4, 1.4, 4.4]  # rounds to the square
    beyond = [5, -3, 7, -3, 7, 60, 5, 60]
    square = area(slice(1, 4), slice(1, 4))
    assert np.array_equal(instance_mask([SQUARE], 6, 8), square)
    assert np.array_equal(instance_mask([shifted], 6, 8), square)
    assert np.array_equal(instance_mask([beyond], 6, 8), area(slice(5, 7), slice(None)))
    assert not instance_mask([[1, 1, 5, 5]], 6, 8).any()


@pytest.mark.parametrize("outline", [[1, 1, 4, 1, 4], [1, 1, float("nan"), 1, 4, 4], [[1, 2]]])
def test_a_polygon_that_is_none_is_refused(outline):
    with pytest.raises(ValueError, match="polygon"):
        instance_mask([outline], 6, 8)


RUNS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)


def test_run_lengths_go_down_the_columns():
    counts = [5, 1, 7, 3, 3, 1, 1, 1, 3, 1, 1, 1, 3, 3, 3, 3, 8]
    assert np.array_equal(instance_mask({"counts": counts, "size": [6, 8]}, 6, 8), RUNS)


def test_compressed_run_lengths_are_those_of_pycocotools():
    text = "5172LNN020N022005"  # what pycocotools.mask.encode says of RUNS
    assert np.array_equal(instance_mask({"counts": text, "size": [6, 8]}, 6, 8), RUNS)


@pytest.mark.parametrize(
    "runs",
    [
        {"counts": [40], "size": [6, 8]},
        {"counts": [48], "size": [8, 6]},
        {"counts": [50, -2], "size": [6, 8]},
        {"counts": [10**30], "size": [6, 8]},
        {"counts": "ooo", "size": [6, 8]},
        {"counts": [48]},
        {"counts": None, "size": [6, 8]},
    ],
)
def test_run_lengths_of_another_size_are_refused(runs):
    with pytest.raises(ValueError, match="run lengths must"):
        instance_mask(runs, 6, 8)
