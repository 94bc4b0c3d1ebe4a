import numpy as np
import pytest
from PIL import Image

from limnet.data.davis585 import (
    davis585_images,
    find_davis585,
    initial_mask,
    write_davis585_twin,
)
from limnet.data.synthetic.twins import is_twin

TRUE = np.array([[0, 255, 255], [0, 255, 129]], np.uint8)  # 128 and less is background
SP = np.array([[255, 0, 0], [0, 0, 0]], np.uint8)
STM = np.array([[0, 0, 0], [0, 0, 255]], np.uint8)
KINDS = {"": TRUE, "init_sp_": SP, "init_stm_": STM}


def write_davis585(
    root, samples=("bear/object1_00009", "bear/object2_00009", "dogs/object1_00000")
):
    for sample in samples:
        folder, name = root / sample.split("/")[0], sample.split("/")[1]
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / f"{name.split('_')[1]}.jpg"
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(image)
        for kind, mask in KINDS.items():
            Image.fromarray(mask).save(folder / f"{kind}{name}.png")


def test_a_sample_is_one_object_in_one_frame(tmp_path):
    write_davis585(tmp_path)
    images = davis585_images(tmp_path)
    names = ["bear/object1_00009", "bear/object2_00009", "dogs/object1_00000"]
    assert [image.name for image in images] == names
    assert [image.image.name for image in images] == ["00009.jpg", "00009.jpg", "00000.jpg"]
    pixels, masks = images[0].load()
    assert pixels.shape == (2, 3, 3) and np.array_equal(masks, [TRUE > 128])
    assert {image.collection for image in images} == {"DAVIS-585"}
    assert not any(image.trainable for image in images)


def test_all_samples_test_since_the_set_was_made_for_that(tmp_path):
    write_davis585(tmp_path)
    assert {image.split for image in davis585_images(tmp_path)} == {"test"}


def test_both_initial_masks_of_a_sample_can_be_read(tmp_path):
    write_davis585(tmp_path)
    image = davis585_images(tmp_path)[1]
    assert np.array_equal(initial_mask(image), SP > 0)
    assert np.array_equal(initial_mask(image, "stm"), STM > 0)
    with pytest.raises(ValueError, match=r"of \('sp', 'stm'\), got 'zero'"):
        initial_mask(image, "zero")


def test_masks_stored_in_colour_are_read_as_well(tmp_path):
    write_davis585(tmp_path)
    path = tmp_path / "bear/object1_00009.png"
    Image.fromarray(np.repeat(TRUE[..., None], 3, axis=2)).save(path)
    assert np.array_equal(davis585_images(tmp_path)[0].load()[1], [TRUE > 128])


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        davis585_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"init_sp_object1_00009.png .*another layout"):
        davis585_images(tmp_path)


FILES = [
    "00009.jpg",
    "object1_00009.png",
    "init_sp_object1_00009.png",
    "init_stm_object1_00009.png",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    write_davis585(tmp_path)
    (tmp_path / "bear" / name).unlink()
    with pytest.raises(ValueError, match=f"lacks bear/{name}; unpack the archive again"):
        davis585_images(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_renamed_file_is_refused(tmp_path, name):
    write_davis585(tmp_path)
    path = tmp_path / "bear" / name
    path.rename(path.with_stem("renamed"))
    with pytest.raises(ValueError, match=r"lacks bear/00009.jpg|holds bear/renamed.png; rename"):
        davis585_images(tmp_path)


@pytest.mark.parametrize("name", FILES[:2])
def test_a_truncated_file_is_refused_when_it_is_loaded(tmp_path, name):
    write_davis585(tmp_path)
    path = tmp_path / "bear" / name
    path.write_bytes(path.read_bytes()[:45])
    image = davis585_images(tmp_path)[0]
    with pytest.raises(ValueError, match=rf"bear.{name} must be an image .* and whole"):
        image.load()


def test_a_truncated_initial_mask_is_refused_when_it_is_read(tmp_path):
    write_davis585(tmp_path)
    path = tmp_path / "bear/init_sp_object1_00009.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match=r"init_sp_object1_00009.png must be"):
        initial_mask(davis585_images(tmp_path)[0])


def test_a_mask_of_another_shape_than_its_image_is_refused(tmp_path):
    write_davis585(tmp_path)
    Image.fromarray(TRUE.T).save(tmp_path / "bear/object1_00009.png")
    with pytest.raises(ValueError, match=r"bear/object1_00009 of DAVIS-585 must have the shape"):
        davis585_images(tmp_path)[0].load()


def test_the_twin_shows_moving_animals_with_defective_masks(tmp_path):
    images = write_davis585_twin(tmp_path, shape=(60, 104))
    assert images == davis585_images(tmp_path) and is_twin(tmp_path / "DAVIS585")
    names = [image.name for image in images]
    assert len(names) == 9 and names[0] == "video1/object1_00000"
    assert {image.collection for image in images} == {"DAVIS-585 twin (synthetic)"}
    columns = [np.nonzero(image.load()[1])[2].mean() for image in images[:3]]
    assert columns == sorted(columns) and columns[0] < columns[2] - 5
    defective = [(initial_mask(image) != image.load()[1][0]).any() for image in images]
    assert sum(defective) >= 6  # a defect can happen to change nothing
    assert any((initial_mask(image) != initial_mask(image, "stm")).any() for image in images)


def test_a_twin_is_written_once_and_again_for_another_seed(tmp_path):
    path = write_davis585_twin(tmp_path, shape=(30, 52))[0].image
    path.write_bytes(b"kept")
    write_davis585_twin(tmp_path, shape=(30, 52))
    assert path.read_bytes() == b"kept"
    write_davis585_twin(tmp_path, shape=(30, 52), seed=1)
    assert path.read_bytes() != b"kept"


def test_a_twin_never_overwrites_the_real_set(tmp_path):
    write_davis585(tmp_path)
    with pytest.raises(ValueError, match="is no twin"):
        write_davis585_twin(tmp_path)
    assert len(davis585_images(tmp_path)) == 3


def test_davis585_is_found_in_the_data_folder(tmp_path):
    assert find_davis585(None) is None and find_davis585(tmp_path) is None
    write_davis585(tmp_path / "DAVIS585/data")
    assert find_davis585(tmp_path) == tmp_path / "DAVIS585"
    assert len(davis585_images(find_davis585(tmp_path))) == 3
    with pytest.raises(ValueError, match="LIMNET_DATA"):
        find_davis585(tmp_path / "nowhere")
