import json

import numpy as np
import pytest
from PIL import Image

from limnet.data.endovis18 import (
    ENDOVIS18_COLOURS,
    ENDOVIS18_SEQUENCES,
    endovis18_cases,
    write_endovis18_twin,
)
from limnet.data.synthetic.scenes import CLASSES, surgical_scene
from limnet.data.synthetic.twins import TWIN_SEEDS, is_twin

SMALL = {"frames": 2, "size": (48, 60)}
OFFICIAL = [  # as a training release lists it
    {"name": name.replace(" ", "-"), "color": [*colour], "classid": CLASSES[name]}
    for name, colour in ENDOVIS18_COLOURS.items()
]
OF_TEST_DATA = {
    "classes": [
        {"name": each["name"], "color": [*each["color"], 128], "active": True} for each in OFFICIAL
    ]
}


def write_frame(path, colour, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), colour).save(path)


def write_sequence(folder, frames=3, colour=(124, 155, 5), mode="RGB"):
    """A sequence of small intestine alone, with the right frames that have no labels."""
    for index in range(frames):
        name = f"frame{index:03d}.png"
        write_frame(folder / "left_frames" / name, (90, 40, 30))
        write_frame(folder / "right_frames" / name, (90, 40, 30))
        write_frame(folder / "labels" / name, colour, mode)
    (folder / "camera_calibration.txt").write_text("")


def write_endovis18(root, sequences=(1, 2, 3, 4), listed=OF_TEST_DATA, **more):
    for number in sequences:
        write_sequence(root / "test_data" / f"seq_{number}", **more)
    (root / "test_data" / "labels.json").write_text(json.dumps(listed))


def test_a_case_is_a_test_sequence_and_its_colours_become_labels(tmp_path):
    write_endovis18(tmp_path)
    cases = endovis18_cases(tmp_path)
    assert [case.name for case in cases] == ["seq_1", "seq_2", "seq_3", "seq_4"]
    assert cases == endovis18_cases(tmp_path / "test_data")
    assert {case.collection for case in cases} == {"EndoVis 2018"}
    assert not any(case.trainable for case in cases) and not is_twin(tmp_path / "test_data")
    volume, labels = cases[0].load()
    assert volume.images.shape == (3, 4, 6, 3) and volume.modality == "RGB"
    assert cases[0].target(labels, "small intestine").all()


@pytest.mark.parametrize(
    ("listed", "mode"), [(OFFICIAL, "RGB"), (OFFICIAL, "RGBA"), (OF_TEST_DATA, "RGBA")]
)
def test_both_forms_of_the_list_and_frames_with_alpha_are_read(tmp_path, listed, mode):
    write_endovis18(tmp_path, [1], listed, colour=(12, 255, 141, 128)[: len(mode)], mode=mode)
    [case] = endovis18_cases(tmp_path)
    assert (case.load()[1] == CLASSES["ultrasound probe"]).all()


def test_colours_are_those_of_the_list_and_ids_ours(tmp_path):
    other = [{"name": "Suturing_Needle", "color": [1, 2, 3], "classid": 77}]
    write_endovis18(tmp_path, [1], other, colour=(1, 2, 3))
    [case] = endovis18_cases(tmp_path)
    assert (case.load()[1] == CLASSES["suturing needle"]).all()


def test_without_a_list_the_published_colours_count(tmp_path):
    write_endovis18(tmp_path, [1])
    (tmp_path / "test_data/labels.json").unlink()
    assert (endovis18_cases(tmp_path)[0].load()[1] == CLASSES["small intestine"]).all()


@pytest.mark.parametrize(
    "listed",
    [
        {},
        [{"name": "instrument-shaft"}],
        [{"name": "liver", "color": [1, 2, 3]}],
        [{"name": "thread", "color": [1, 2]}],
        [{"name": "thread", "color": [1, 2, 300]}],
        [{"name": "thread", "color": [1, 2, 3]}, {"name": "clamps", "color": [1, 2, 3]}],
    ],
)
def test_a_list_without_classes_or_colours_is_refused(tmp_path, listed):
    write_endovis18(tmp_path, [1], listed)
    with pytest.raises(ValueError, match=r"labels\.json must .*; unpack the test data again"):
        endovis18_cases(tmp_path)


def test_each_sequence_may_have_been_an_archive_of_its_own(tmp_path):
    outer = tmp_path / "test_data/test_data"
    write_sequence(outer / "seq_1-20181004T211014Z-001/seq_1")
    write_sequence(tmp_path / "test_data/__MACOSX/seq_2")
    (outer / "labels.json").write_text(json.dumps(OF_TEST_DATA))
    assert [case.name for case in endovis18_cases(tmp_path)] == ["seq_1"]


def test_training_sequences_of_the_same_names_are_not_taken_for_tests(tmp_path):
    write_sequence(tmp_path / "miccai_challenge_2018_release_1/seq_1")
    with pytest.raises(ValueError, match="another layout"):
        endovis18_cases(tmp_path)
    write_endovis18(tmp_path, [1, 2])
    assert len(endovis18_cases(tmp_path)) == 2
    write_sequence(tmp_path / "release/seq_1", frames=149)
    with pytest.raises(ValueError, match=r"has 149, as the training sequences .* at the test data"):
        endovis18_cases(tmp_path / "release")


def test_what_macos_left_is_no_frame(tmp_path):
    write_endovis18(tmp_path, [1])
    (tmp_path / "test_data/seq_1/labels/._frame000.png").write_bytes(b"\0\5\26\7")
    assert endovis18_cases(tmp_path)[0].load()[1].shape == (3, 4, 6)


def test_the_twin_reads_back_as_the_scenes_it_was_written_from(tmp_path):
    cases = write_endovis18_twin(tmp_path, cases=2, seed=3, **SMALL)
    assert cases == endovis18_cases(tmp_path) and is_twin(tmp_path / "test_data")
    assert cases[0].collection == "EndoVis 2018 twin (synthetic)" and cases[0].trainable
    shows = {*ENDOVIS18_SEQUENCES["seq_2"], "covered kidney"}
    scene = surgical_scene(7 * TWIN_SEEDS + 4 * 3 + 1, shows, **SMALL)
    volume, labels = cases[1].load()
    assert np.array_equal(volume.images, scene.frames)
    assert np.array_equal(labels, scene.labels)


def test_each_sequence_of_the_twin_shows_the_classes_that_table_vi_has_of_it(tmp_path):
    for case in write_endovis18_twin(tmp_path, frames=1, size=(96, 120)):
        _, labels = case.load()
        shown = {name for name in case.labels if case.target(labels, name).any()}
        assert shown - {"thread", "covered kidney"} == set(ENDOVIS18_SEQUENCES[case.name])


def test_a_twin_of_fewer_sequences_leaves_no_empty_folders_of_the_one_before(tmp_path):
    write_endovis18_twin(tmp_path, cases=2, frames=2, size=(32, 40))
    [case] = write_endovis18_twin(tmp_path, cases=1, frames=2, size=(32, 40), seed=1)
    assert endovis18_cases(tmp_path) == (case,)
