import numpy as np
import pytest
from PIL import Image

from limnet.data.labelled_image import LabelledImage, one_instance, read_map, read_rgb

RED = np.full((4, 6, 3), (200, 10, 30), np.uint8)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def labelled(path, masks, split="training"):
    return LabelledImage("a", path, "iShape", split, False, lambda: masks)


def test_an_image_and_its_masks_are_read_when_they_are_loaded(tmp_path):
    masks = np.zeros((2, 4, 6), bool)
    image = labelled(tmp_path / "a.png", masks)
    save(tmp_path / "a.png", RED)
    pixels, read = image.load()
    assert np.array_equal(pixels, RED) and read is masks


def test_images_are_equal_whatever_reads_their_masks(tmp_path):
    assert labelled(tmp_path, None) == labelled(tmp_path, None)
    assert "read_masks" not in repr(labelled(tmp_path, None))


def test_masks_of_another_shape_are_refused_with_the_image(tmp_path):
    save(tmp_path / "a.png", RED)
    with pytest.raises(ValueError, match=r"masks of a of iShape .*a\.png, got \(6, 4\) and \(4, 6"):
        labelled(tmp_path / "a.png", np.zeros((1, 6, 4), bool)).load()


def test_a_split_is_training_or_test(tmp_path):
    assert labelled(tmp_path, None, "test").split == "test"
    with pytest.raises(ValueError, match=r"one of .*'training', 'test'.* got 'val'"):
        labelled(tmp_path, None, "val")


def test_grey_images_and_images_with_a_palette_become_colour(tmp_path):
    grey = save(tmp_path / "grey.png", RED[..., 0])
    assert np.array_equal(read_rgb(grey), np.full((4, 6, 3), 200))
    Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert np.array_equal(read_rgb(tmp_path / "p.png"), RED)


def test_an_image_with_16_bits_is_refused_as_colour_but_read_as_a_map(tmp_path):
    path = save(tmp_path / "map.png", np.full((4, 6), 1003, np.uint16))
    assert np.array_equal(read_map(path), np.full((4, 6), 1003))
    with pytest.raises(
        ValueError, match=r"map\.png must be an image with 8 bits .* its mode is I;"
    ):
        read_rgb(path)


def test_a_map_with_several_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png must be a map with one channel.*mode is RGB,"):
        read_map(save(tmp_path / "a.png", RED))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_truncated_image_is_refused_by_name(tmp_path, name, kept):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = save(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"{name} must be .* and whole, but: .* copy or export"):
        read_rgb(path)


def test_a_missing_image_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png must be"):
        read_rgb(tmp_path / "gone.png")


def test_one_instance_is_cut_out_with_what_surrounds_it():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    masks = np.zeros((2, 20, 30), bool)  # the first has no pixel
    masks[1, 8:12, 10:18] = True  # 4 x 8 pixels: a quarter of 8 is 2
    cut, mask = one_instance(image, masks, seed=0)
    assert np.array_equal(cut, image[6:14, 8:20])
    assert np.array_equal(mask, masks[1, 6:14, 8:20]) and mask.sum() == 32
    whole, mask = one_instance(image, masks, seed=0, margin=10)
    assert np.array_equal(whole, image) and np.array_equal(mask, masks[1])


def test_the_seed_says_which_instance():
    masks = np.eye(5, dtype=bool).reshape(5, 1, 5)
    image = np.arange(15, dtype=np.uint8).reshape(1, 5, 3)
    chosen = [one_instance(image, masks, seed, margin=0)[0][0, 0, 0] for seed in range(40)]
    assert set(chosen) == {0, 3, 6, 9, 12}
    again = [one_instance(image, masks, seed, margin=0)[0][0, 0, 0] for seed in range(40)]
    assert chosen == again


def test_an_image_without_instances_has_none_to_cut_out():
    with pytest.raises(ValueError, match="must have a pixel, got 2 masks"):
        one_instance(RED, np.zeros((2, 4, 6), bool), seed=0)
