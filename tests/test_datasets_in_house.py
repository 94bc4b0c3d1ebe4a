import numpy as np
import pytest
from PIL import Image

from limnet.data.in_house import (
    IN_HOUSE,
    find_in_house,
    in_house_images,
    write_in_house_twin,
)
from limnet.data.synthetic.abdomen import ORGANS, abdomen
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin

MASKS = np.array([[0, 5, 5], [2, 0, 5]], np.uint8)


def write_in_house(root, splits=("training", "test"), names=("a", "b")):
    for split in splits:
        for part, pixels in (("images", np.full((2, 3), 90, np.uint8)), ("masks", MASKS)):
            (root / split / part).mkdir(parents=True)
            for name in names:
                Image.fromarray(pixels).save(root / split / part / f"{name}.png")


def test_ultrasound_has_both_splits_and_ct_trains_alone(tmp_path):
    write_in_house(tmp_path)
    splits = [(image.name, image.split) for image in in_house_images(tmp_path, "us")]
    assert splits == [("a", "training"), ("b", "training"), ("a", "test"), ("b", "test")]
    assert {image.split for image in in_house_images(tmp_path, "ct")} == {"training"}
    assert IN_HOUSE["us"].images == {"training": 683, "test": 171}


def test_each_value_of_a_mask_is_an_instance_and_grey_becomes_colour(tmp_path):
    write_in_house(tmp_path)
    image = in_house_images(tmp_path, "us")[0]
    pixels, masks = image.load()
    assert pixels.shape == (2, 3, 3) and np.array_equal(masks, [MASKS == 2, MASKS == 5])
    assert image.collection == "In-house US" and not image.trainable


def test_an_image_of_nothing_has_no_instances(tmp_path):
    write_in_house(tmp_path)
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "training/masks/a.png")
    assert in_house_images(tmp_path, "us")[0].load()[1].shape == (0, 2, 3)


def test_only_the_two_sets_of_the_paper_have_a_slot(tmp_path):
    with pytest.raises(ValueError, match=r"of \['us', 'ct'\], got 'mr'"):
        in_house_images(tmp_path, "mr")


def test_a_missing_or_empty_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="lacks training, test; see the layout"):
        in_house_images(tmp_path / "nowhere", "us")
    write_in_house(tmp_path, splits=["training"])
    with pytest.raises(ValueError, match="lacks test; see the layout"):
        in_house_images(tmp_path, "us")
    (tmp_path / "test/images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test.images must hold NAME.png, but holds none"):
        in_house_images(tmp_path, "us")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_that_is_missing_or_renamed_is_named(tmp_path, part):
    write_in_house(tmp_path)
    path = tmp_path / "test" / part / "b.png"
    path.rename(path.with_stem("c"))
    with pytest.raises(ValueError, match=r"test has only one of b, c; add"):
        in_house_images(tmp_path, "us")
    path.with_stem("c").unlink()
    with pytest.raises(ValueError, match=r"test has only one of b; add"):
        in_house_images(tmp_path, "us")


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_truncated_file_is_refused_when_it_is_loaded(tmp_path, part):
    write_in_house(tmp_path)
    path = tmp_path / "training" / part / "a.png"
    path.write_bytes(path.read_bytes()[:45])
    broken, whole = in_house_images(tmp_path, "us")[:2]
    whole.load()
    with pytest.raises(ValueError, match=rf"training.{part}.a.png must be .* and whole"):
        broken.load()


def test_masks_of_another_shape_than_their_image_are_refused(tmp_path):
    write_in_house(tmp_path)
    Image.fromarray(MASKS.T).save(tmp_path / "training/masks/a.png")
    with pytest.raises(ValueError, match="masks of a of In-house US must have the shape"):
        in_house_images(tmp_path, "us")[0].load()


def test_the_twin_of_the_ultrasound_shows_a_dark_lesion_in_brighter_tissue(tmp_path):
    images = write_in_house_twin(tmp_path, "us", side=64)
    assert [image.split for image in images] == ["training"] * 6 + ["test"] * 2
    assert images == in_house_images(tmp_path, "us") and is_twin(tmp_path)
    for image in images:
        pixels, [lesion] = image.load()
        assert 0.02 < lesion.mean() < 0.4
        assert pixels[lesion].mean() < 0.7 * pixels[~lesion].mean()


def test_the_twin_of_the_ct_shows_slices_of_a_phantom(tmp_path):
    images = write_in_house_twin(tmp_path, "ct", seed=3, side=40)
    assert len(images) == 6 and {image.split for image in images} == {"training"}
    phantom = abdomen(24 * TWIN_SEEDS + 3, shape=(6, 40, 40), spacing_mm=(22.0, 9.6, 9.6))
    pixels, masks = images[2].load()
    organs = [label for label in ORGANS.values() if (phantom.labels[2] == label).any()]
    assert np.array_equal(masks, [phantom.labels[2] == label for label in organs])
    assert pixels[phantom.images[2] < -160].max() == 0
    assert images[0].collection == "In-house CT twin (synthetic)"


def test_a_twin_is_written_once_and_again_for_another_seed(tmp_path):
    path = write_in_house_twin(tmp_path, "us", side=32)[0].image
    path.write_bytes(b"kept")
    write_in_house_twin(tmp_path, "us", side=32)
    assert path.read_bytes() == b"kept"
    write_in_house_twin(tmp_path, "us", side=32, seed=1)
    assert path.read_bytes() != b"kept"


def test_a_twin_never_overwrites_real_images(tmp_path):
    write_in_house(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_in_house_twin(tmp_path, "us")
    assert len(in_house_images(tmp_path, "us")) == 4


def test_the_slots_are_found_in_the_data_folder(tmp_path):
    assert find_in_house(None, "us") is None and find_in_house(tmp_path, "ct") is None
    write_in_house(tmp_path / "in_house_ct", splits=["training"])
    assert find_in_house(tmp_path, "ct") == tmp_path / "in_house_ct"
    assert find_in_house(tmp_path, "us") is None
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_in_house(tmp_path / "nowhere", "us")
