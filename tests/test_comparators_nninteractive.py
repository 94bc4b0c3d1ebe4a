import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from limnet.evaluation.comparators import COMPARATORS, comparator
from limnet.method.prompts import Click
from limnet.volumes import Volume

SHAPE = (4, 20, 30)


class Session:
    """A 3 x 3 x 3 cube around each positive point is object; a negative one takes it away."""

    def __init__(self, *, device, torch_n_threads, verbose):
        print("session initialized")
        self.threads = torch_n_threads

    def initialize_from_trained_model_folder(self, folder):
        self.folder = folder

    def set_image(self, image):
        assert image.ndim == 4 and image.dtype == np.float32
        self.image = image

    def set_target_buffer(self, buffer):
        assert buffer.shape == self.image.shape[1:]
        self.buffer = buffer

    def add_point_interaction(self, point, *, include_interaction):
        around = tuple(slice(max(at - 1, 0), at + 2) for at in point)
        self.buffer[around] = include_interaction


@pytest.fixture
def segment(monkeypatch, tmp_path):
    about = COMPARATORS["nninteractive"]
    module = ModuleType(about.package)
    module.nnInteractiveInferenceSession = Session
    monkeypatch.setitem(sys.modules, "nnInteractive", ModuleType("nnInteractive"))
    monkeypatch.setitem(sys.modules, "nnInteractive.inference", ModuleType("inference"))
    monkeypatch.setitem(sys.modules, about.package, module)
    (tmp_path / "plans.json").write_text("{}")
    return comparator("nninteractive", tmp_path)


def test_points_are_given_in_the_order_of_the_volumes_axes(segment):
    images = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    volume = Volume.from_array(images, (3, 1, 1), window=(0, 5))
    masks = segment(volume, [Click(2, 10.7, 25), Click(3, 5, 5), Click(3, 5, 5, False)])
    expected = np.zeros(SHAPE, dtype=bool)
    expected[1:4, 9:12, 24:27] = True
    assert masks.dtype == bool and np.array_equal(masks, expected)
    assert np.array_equal(segment.session.image[0], images)  # raw, no window


def test_every_call_starts_anew_and_colours_are_their_mean(segment):
    colours = Volume.from_array(np.full((*SHAPE, 3), [0, 30, 60], dtype=np.uint8))
    first = segment(colours, [Click(0, 3, 3)])
    assert (segment.session.image == 30).all()
    assert not (first & segment(colours, [Click(3, 10, 10)])).any()


def test_without_a_positive_click_there_is_nothing(segment):
    volume = Volume.from_array(np.zeros(SHAPE, dtype=np.float32))
    assert not segment(volume, [Click(1, 2, 3, positive=False)]).any()
    with pytest.raises(ValueError, match="inside the volume"):
        segment(volume, [Click(1, 2, 30)])


def test_it_loads_the_folder_quietly_and_leaves_our_threads_alone(segment, tmp_path, capsys):
    assert segment.session.folder == str(tmp_path)
    assert segment.session.threads == torch.get_num_threads()
    assert capsys.readouterr().out == ""


def test_the_digest_is_that_of_the_folder(segment, tmp_path):
    again = comparator("nninteractive", tmp_path)
    (tmp_path / "plans.json").write_text("other")
    assert again.digest == segment.digest != comparator("nninteractive", tmp_path).digest
