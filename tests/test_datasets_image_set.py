import re
from pathlib import Path

import pytest

from limnet.data import DATA_SETS, IMAGE_SETS
from limnet.data.image_set import ImageSet
from limnet.data.labelled_image import LabelledImage


def image(name, split, collection="iShape"):
    return LabelledImage(name, Path(f"{name}.png"), collection, split, False, list)


REAL = (image("a", "training"), image("b", "training"), image("c", "test"))


def image_set(found=None, real=REAL):
    def write_twin(root, *, seed):
        return (image(f"{root.name}-{seed}", "test"),)

    return ImageSet("iShape", lambda root: found, lambda root: real, write_twin)


def test_without_the_data_a_twin_is_written_and_the_report_says_so(tmp_path):
    images, ran_on, synthetic = image_set().choose(None, tmp_path / "twin", seed=4)
    assert [each.name for each in images] == ["twin-4"] and synthetic
    said = "the synthetic twin of iShape (0 training and 1 test images), NOT on iShape"
    assert ran_on == said


def test_of_real_data_all_images_of_both_splits_are_chosen(tmp_path):
    images, ran_on, synthetic = image_set(tmp_path).choose(tmp_path, tmp_path / "twin")
    assert images == REAL and not synthetic
    assert ran_on == "iShape, 2 training and 1 test images"


def test_a_report_says_where_a_part_of_the_data_is_missing(tmp_path):
    lvis_alone = (image("a", "test", "LVIS"),)
    chosen = image_set(tmp_path, lvis_alone).choose(tmp_path, tmp_path / "twin")
    assert chosen.ran_on == "LVIS, 0 training and 1 test images"


def test_the_image_sets_of_table_3_are_known_under_keys_of_their_own():
    keys = {"ishape", "davis585", "coco_lvis", "in_house_us", "in_house_ct"}
    assert set(IMAGE_SETS) == keys and not keys & set(DATA_SETS)


@pytest.mark.parametrize("key", IMAGE_SETS)
def test_every_image_set_has_a_twin_that_loads_and_may_train(tmp_path, key):
    images, ran_on, synthetic = IMAGE_SETS[key].choose(None, tmp_path / key)
    assert synthetic and 6 <= len(images) <= 12 and re.search("synthetic .* NOT on", ran_on)
    assert all(each.trainable and "synthetic" in each.collection for each in images)
    for each in images:
        pixels, masks = each.load()
        assert pixels.shape[:2] == masks.shape[1:] and masks.any(axis=(1, 2)).all() and len(masks)
        assert not masks.all(axis=(1, 2)).any() and pixels.std() > 10
    assert len({each.name for each in images}) == len(images)
    assert IMAGE_SETS[key].choose(None, tmp_path / key).images == images


@pytest.mark.parametrize("key", IMAGE_SETS)
def test_another_seed_gives_another_twin_and_the_same_seed_the_same(tmp_path, key):
    def content(folder, seed):
        images = IMAGE_SETS[key].choose(None, tmp_path / folder, seed=seed).images
        return [each.image.read_bytes() for each in images]

    first = content("a", 0)
    assert content("b", 0) == first
    assert not set(content("a", 1)) & set(first)  # in the place of the first
