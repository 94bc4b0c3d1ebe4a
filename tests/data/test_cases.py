from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from limnet.data import DATA_SETS, Case, DataSet, LabelledImage
from limnet.data.cases import hash_split, one_instance, read_map, read_rgb

RED = np.full((4, 6, 3), (200, 10, 30), np.uint8)
COLOURS = {(0, 0, 0): 0, (0, 255, 0): 1, (12, 255, 141): 11}


def case(name, image=None):
    return Case(name, image, Path(f"{name}.nii.gz"), {"kidney": 1}, "KiTS19", False)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def labelled(path, masks, split="training"):
    return LabelledImage("a", path, "iShape", split, False, lambda: masks)


FIVE = tuple(case(f"case_0000{number}") for number in range(5))


def data_set(found=None, tested=None):
    def write_twin(root, *, cases, seed):
        return tuple(case(f"{root.name}-{seed}-{number}") for number in range(cases))

    return DataSet("KiTS19", lambda root: found, lambda root: FIVE, write_twin, tested)


def test_without_the_data_a_twin_of_two_cases_is_chosen(tmp_path):
    chosen = data_set().choose(None, tmp_path / "twin", seed=4)
    assert [each.name for each in chosen.cases] == ["twin-4-0", "twin-4-1"] and chosen.synthetic
    assert "NOT on KiTS19" in chosen.ran_on
    assert len(data_set().choose(None, tmp_path / "twin", cases=1).cases) == 1


def test_of_the_real_set_the_papers_number_of_cases_tests(tmp_path):
    kits = data_set(tmp_path, tested=3)
    chosen = kits.choose(tmp_path, tmp_path / "twin")
    assert chosen.cases == hash_split(FIVE, 3) and not chosen.synthetic
    assert chosen.ran_on == "KiTS19, 3 of its 5 cases"
    assert kits.choose(tmp_path, tmp_path, cases=1).cases == hash_split(FIVE, 3)[:1]
    assert data_set(tmp_path).choose(tmp_path, tmp_path).cases == FIVE
    tested = {key: known.tested for key, known in DATA_SETS.items()}
    assert tested["kits19"] == 42 and tested["msd_colon"] == 26 and tested["btcv"] is None


def test_the_split_by_hash_depends_on_names_alone():
    names = sorted((each.name for each in FIVE), key=lambda name: sha256(name.encode()).hexdigest())
    assert [each.name for each in hash_split(FIVE, 2)] == names[:2]
    assert hash_split(FIVE[::-1], 2) == hash_split(FIVE, 2)
    split = data_set(tested=2).split(FIVE)
    assert split.test == tuple(names[:2])
    assert sorted(split.training + split.test) == [each.name for each in FIVE]


def test_where_the_publishers_split_a_set_their_split_counts():
    cases = [case("a", Path("imagesTr/a.nii.gz")), case("b", Path("imagesVa/b.nii.gz"))]
    split = data_set().split(cases)
    assert (split.training, split.test) == (("a",), ("b",)) and "publishers" in split.rule
    assert data_set().split(FIVE).training == ()


def test_a_target_is_all_that_its_name_stands_for():
    labels = np.array([[[0, 1, 2, 3]]])
    kits = Case("a", None, Path("a"), {"kidney": (1, 2), "tumour": 2}, "KiTS19", False)
    assert kits.target(labels, "kidney").tolist() == [[[False, True, True, False]]]
    assert kits.target(labels, "tumour").tolist() == [[[False, False, True, False]]]
    with pytest.raises(ValueError, match="liver"):
        kits.target(labels, "liver")


def test_held_out_cases_stand_in_a_file():
    def of(name, collection):
        return Case(name, None, Path("label.nii.gz"), {"cord": 1, "PTV56": 2}, collection, True)

    assert of("a", "abdomen_ct").held_out and of("pt_5", "headneck_ct").held_out
    assert not of("pt_8", "headneck_ct").held_out and not of("a", "mine").held_out
    assert of("a", "mine").anatomy == ("cord",)


def test_a_label_map_alone_is_checked_and_has_no_volume(tmp_path):
    path = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), 5, np.uint8), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"mine .*has 5"):
        Case("a", None, path, {}, "mine", True, ids=(0, 1)).load_labels()
    with pytest.raises(ValueError, match="a of mine"):
        Case("a", None, path, {}, "mine", True).load()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_label_frames_become_ids(tmp_path, mode):
    for part in ("frames", "masks"):
        (tmp_path / part).mkdir()
    frames = np.zeros((2, 4, 6, len(mode)), np.uint8)
    frames[0, 1, 2, :3] = 0, 255, 0
    frames[1, 3, 5, :3] = 12, 255, 141
    for index, frame in enumerate(frames):
        save(tmp_path / f"frames/frame{index:03d}.png", frame[..., :3])
        save(tmp_path / f"masks/frame{index:03d}.png", frame)
    video = Case(
        "a", tmp_path / "frames", tmp_path / "masks", {"probe": 11}, "E", False, colours=COLOURS
    )
    volume, found = video.load()
    assert volume.images.shape == (2, 4, 6, 3) and np.count_nonzero(found) == 2
    assert found[0, 1, 2] == 1 and found[1, 3, 5] == 11
    frames[1, 0, 0, :3] = 12, 254, 141  # one off: as a frame that was saved with loss
    save(tmp_path / "masks/frame001.png", frames[1])
    with pytest.raises(ValueError, match=r"frame001\.png has \(12, 254, 141\)"):
        video.load()


def test_an_image_and_its_masks_must_have_one_shape_and_a_known_split(tmp_path):
    path = save(tmp_path / "a.png", RED)
    masks = np.zeros((2, 4, 6), bool)
    pixels, read = labelled(path, masks).load()
    assert np.array_equal(pixels, RED) and read is masks
    assert labelled(path, None) == labelled(path, masks)
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        labelled(path, np.zeros((1, 6, 4), bool)).load()
    with pytest.raises(ValueError, match="'val'"):
        labelled(path, None, "val")


def test_images_become_colour_and_maps_stay_numbers(tmp_path):
    grey = save(tmp_path / "grey.png", RED[..., 0])
    assert np.array_equal(read_rgb(grey), np.full((4, 6, 3), 200))
    Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert np.array_equal(read_rgb(tmp_path / "p.png"), RED)
    path = save(tmp_path / "map.png", np.full((4, 6), 1003, np.uint16))
    assert np.array_equal(read_map(path), np.full((4, 6), 1003))
    with pytest.raises(ValueError, match=r"map\.png"):
        read_rgb(path)
    with pytest.raises(ValueError, match=r"RGB"):
        read_map(save(tmp_path / "a.png", RED))
    with pytest.raises(ValueError, match=r"gone\.png"):
        read_rgb(tmp_path / "gone.png")


def test_one_instance_is_cut_out_with_what_surrounds_it():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    masks = np.zeros((2, 20, 30), bool)  # the first has no pixel
    masks[1, 8:12, 10:18] = True  # 4 x 8 pixels: a quarter of 8 is 2
    cut, mask = one_instance(image, masks, seed=0)
    assert np.array_equal(cut, image[6:14, 8:20]) and np.array_equal(mask, masks[1, 6:14, 8:20])
    assert np.array_equal(one_instance(image, masks, seed=0, margin=10)[0], image)
    with pytest.raises(ValueError, match="1 masks"):
        one_instance(image, masks[:1], seed=0)


def test_the_seed_says_which_instance():
    masks = np.eye(5, dtype=bool).reshape(5, 1, 5)
    image = np.arange(15, dtype=np.uint8).reshape(1, 5, 3)
    chosen = [one_instance(image, masks, seed, margin=0)[0][0, 0, 0] for seed in range(40)]
    assert set(chosen) == {0, 3, 6, 9, 12}
