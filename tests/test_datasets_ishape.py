import numpy as np
import pytest
from PIL import Image

from limnet.data.ishape import (
    ISHAPE_IMAGES,
    ISHAPE_SUBSETS,
    find_ishape,
    ishape_images,
    write_ishape_twin,
)
from limnet.data.labelled_image import one_instance
from limnet.data.synthetic.twins import is_twin

# values below 1000 are no instance, nor is 0
MAP = np.array([[0, 1000, 1000, 7], [0, 1001, 0, 7], [1001, 1001, 0, 7]], np.uint16)


def write_ishape(root, names=("0", "1"), shape=MAP.shape):
    for subset in ISHAPE_SUBSETS:
        for split in ("train", "val"):
            part = root / "ishape_dataset" / subset / split
            for folder in ("image", "instance_map", "coco_format"):
                (part / folder).mkdir(parents=True)
            for name in names:
                Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(
                    part / "image" / f"{name}.jpg"
                )
                Image.fromarray(MAP).save(part / "instance_map" / f"{name}.png")
            (part / "coco_format-mask_encoding=rle-instances_2017.json").write_text("{}")


def test_train_trains_and_val_tests(tmp_path):
    write_ishape(tmp_path)
    images = ishape_images(tmp_path)
    assert len(images) == 6 * 2 * 2 and images == ishape_images(tmp_path / "ishape_dataset")
    assert {image.name.split("/")[1]: image.split for image in images} == {
        "train": "training",
        "val": "test",
    }
    assert images[0].name == "antenna/train/0" and images[-1].name == "wire/val/1"
    assert {image.collection for image in images} == {"iShape"}
    assert sum(ISHAPE_IMAGES.values()) == 12_870  # README of the data set


def test_ishape_is_in_the_public_domain_and_may_train(tmp_path):
    write_ishape(tmp_path)
    assert all(image.trainable for image in ishape_images(tmp_path))


def test_images_come_in_the_order_of_their_numbers(tmp_path):
    write_ishape(tmp_path, names=("10", "9", "100"))
    names = [image.name for image in ishape_images(tmp_path)[:3]]
    assert names == ["antenna/train/9", "antenna/train/10", "antenna/train/100"]


def test_each_value_from_1000_on_is_an_instance(tmp_path):
    write_ishape(tmp_path)
    pixels, masks = ishape_images(tmp_path)[0].load()
    assert pixels.shape == (3, 4, 3)
    assert np.array_equal(masks, [MAP == 1000, MAP == 1001])


def test_one_instance_is_cut_out_of_each_image_as_the_paper_does(tmp_path):
    write_ishape(tmp_path)
    cut, mask = one_instance(*ishape_images(tmp_path)[0].load(), seed=0)
    assert cut.shape[:2] == mask.shape and mask.sum() in (2, 3)


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        ishape_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must hold antenna/train/instance_map .*another layout"):
        ishape_images(tmp_path)


@pytest.mark.parametrize("file", ["image/1.jpg", "instance_map/1.png"])
@pytest.mark.parametrize("renamed", [True, False])
def test_a_file_that_is_missing_or_renamed_is_named(tmp_path, file, renamed):
    write_ishape(tmp_path)
    path = tmp_path / "ishape_dataset/log/val" / file
    path.rename(path.with_stem("other")) if renamed else path.unlink()
    with pytest.raises(ValueError, match=r"log.val has only one of 1(, other)?; unpack"):
        ishape_images(tmp_path)


def test_a_subset_that_is_missing_is_named(tmp_path):
    write_ishape(tmp_path)
    (tmp_path / "ishape_dataset/log").rename(tmp_path / "ishape_dataset/logs")
    with pytest.raises(ValueError, match=r"log.train must hold image and instance_map"):
        ishape_images(tmp_path)


@pytest.mark.parametrize("file", ["image/1.jpg", "instance_map/1.png"])
def test_a_truncated_file_is_refused_when_it_is_loaded(tmp_path, file):
    write_ishape(tmp_path)
    path = tmp_path / "ishape_dataset/antenna/train" / file
    path.write_bytes(path.read_bytes()[:45])
    whole, broken = ishape_images(tmp_path)[:2]
    whole.load()
    with pytest.raises(ValueError, match=rf"train.{file} must be .* and whole"):
        broken.load()


def test_a_map_of_another_shape_than_its_image_is_refused(tmp_path):
    write_ishape(tmp_path, shape=(4, 4))
    with pytest.raises(ValueError, match=r"masks of antenna/train/0 of iShape must have the shape"):
        ishape_images(tmp_path)[0].load()


def test_a_map_in_colour_is_refused(tmp_path):
    write_ishape(tmp_path)
    path = tmp_path / "ishape_dataset/antenna/train/instance_map/0.png"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="a map with one channel"):
        ishape_images(tmp_path)[0].load()


def test_the_twin_has_the_layout_of_the_real_files(tmp_path):
    images = write_ishape_twin(tmp_path, side=48)
    assert images == ishape_images(tmp_path) and is_twin(tmp_path / "ishape_dataset")
    assert {image.name.split("/")[0] for image in images} == set(ISHAPE_SUBSETS)
    path = tmp_path / "ishape_dataset/fence/val/instance_map/0.png"
    with Image.open(path) as file:
        assert file.mode == "I;16" and file.size == (48, 48)
        values = np.unique(np.array(file)).tolist()
    assert values == [0, *range(1000, 999 + len(values))]
    assert {image.collection for image in images} == {"iShape twin (synthetic)"}


def test_instances_of_the_twin_hide_each_other_and_do_not_overlap(tmp_path):
    for image in write_ishape_twin(tmp_path, side=48):
        _, masks = image.load()
        assert masks.sum(axis=0).max() == 1 and len(masks) >= 2


def test_a_twin_is_written_once_and_again_for_another_seed(tmp_path):
    path = write_ishape_twin(tmp_path, side=32)[0].image
    path.write_bytes(b"kept")
    write_ishape_twin(tmp_path, side=32)
    assert path.read_bytes() == b"kept"
    write_ishape_twin(tmp_path, seed=1, side=32)
    assert path.read_bytes() != b"kept"


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_ishape(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_ishape_twin(tmp_path)
    assert len(ishape_images(tmp_path)) == 24


def test_ishape_is_found_in_the_data_folder(tmp_path):
    assert find_ishape(None) is None and find_ishape(tmp_path) is None
    write_ishape(tmp_path)
    assert find_ishape(tmp_path) == tmp_path / "ishape_dataset"
    write_ishape(tmp_path / "other/ishape")
    assert find_ishape(tmp_path / "other") == tmp_path / "other/ishape"
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_ishape(tmp_path / "nowhere")
