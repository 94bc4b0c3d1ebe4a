from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_sam import tiny_sam2
from torch import nn

from limnet.evaluation.comparators import Sam2
from limnet.method.prompts import Click
from limnet.networks.normalisation import MEAN, STANDARD_DEVIATION
from limnet.volumes import Volume

SHAPE = (5, 32, 48)  # stretched to SAM 2's square of 64 x 64 pixels


class AnswersAtTheClick(nn.Module):
    """Shows on every frame a square around the last positive click on any; notes what it is asked.

    Its square has 64 pixels, its logits 16.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config, self.asked = SimpleNamespace(image_size=64), []

    def forward(self, session, frame_idx, reverse):
        points = session.point_inputs_per_obj[0][frame_idx]
        self.asked.append((frame_idx, points["point_labels"][0, 0].tolist(), reverse))
        kind = "cond" if 1 in points["point_labels"] else "non_cond"
        session.output_dict_per_obj[0][f"{kind}_frame_outputs"][frame_idx] = {}
        for point, label in zip(
            points["point_coords"][0, 0], points["point_labels"][0, 0], strict=True
        ):
            if label == 1:
                self.column, self.row = (int(value) // 4 for value in point)

    def propagate_in_video_iterator(self, session, start_frame_idx, reverse):
        prompts = sorted(session.output_dict_per_obj[0]["cond_frame_outputs"])
        self.asked.append(("propagate", start_frame_idx, reverse, prompts))
        frames = (
            range(start_frame_idx, -1, -1)
            if reverse
            else range(start_frame_idx, len(session.processed_frames))
        )
        logits = -torch.ones(1, 1, 16, 16)
        logits[..., self.row - 1 : self.row + 2, self.column - 1 : self.column + 2] = 1
        for index in frames:
            yield SimpleNamespace(frame_idx=index, pred_masks=logits)


@pytest.fixture
def model():
    return AnswersAtTheClick()


def volume(shape=SHAPE):
    return Volume.from_array(np.zeros(shape, dtype=np.float32), window=(0, 1))


@pytest.mark.parametrize("shape", [SHAPE, (5, 48, 32), (5, 100, 100)])
@pytest.mark.parametrize(("down", "right"), [(0.2, 0.8), (0.5, 0.2), (0.8, 0.5)])
def test_the_object_is_found_where_the_click_is_on_every_slice(model, shape, down, right):
    click = Click(2, int(down * shape[1]), int(right * shape[2]))
    masks = Sam2(model)(volume(shape), [click])
    assert masks[:, click.row, click.column].all()
    _, rows, columns = np.nonzero(masks)
    assert abs(rows - click.row).max() <= 2.5 * shape[1] / 16
    assert abs(columns - click.column).max() <= 2.5 * shape[2] / 16


def test_slices_with_a_positive_click_prompt_and_masks_run_both_ways(model):
    Sam2(model)(volume(), [Click(3, 9, 9), Click(1, 9, 9), Click(3, 2, 2, False)])
    assert model.asked == [
        (3, [1, 0], False),
        (1, [1], False),
        ("propagate", 1, False, [1, 3]),
        ("propagate", 1, True, [1, 3]),
    ]


def test_slices_with_negative_clicks_only_correct_what_was_propagated(model):
    Sam2(model)(volume(), [Click(2, 9, 9), Click(4, 5, 5, False), Click(0, 5, 5, False)])
    assert model.asked == [
        (2, [1], False),
        ("propagate", 2, False, [2]),
        ("propagate", 2, True, [2]),
        (4, [0], False),
        (0, [0], True),  # it was reached backward
        ("propagate", 2, False, [0, 2, 4]),
        ("propagate", 2, True, [0, 2, 4]),
    ]


def test_frames_are_slices_stretched_to_the_square_and_normalised(model):
    images = np.full((2, 20, 30), 100, dtype=np.uint8)
    session = Sam2(model)._session(Volume.from_array(images, window=(0, 200)))
    frame = session.get_frame(1)
    assert frame.shape == (3, 64, 64) and session.num_frames == 2
    for channel, mean, deviation in zip(frame, MEAN, STANDARD_DEVIATION, strict=True):
        torch.testing.assert_close(channel, torch.full((64, 64), (0.5 - mean) / deviation))


def test_transformers_keeps_corrected_slices_as_prompts():
    images = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    noisy, segment = Volume.from_array(images, window=(0, 1)), Sam2(tiny_sam2())
    clicks = [Click(2, 9, 9), Click(4, 5, 5, False)]
    first, both = segment(noisy, clicks[:1]), segment(noisy, clicks)
    assert np.array_equal(first[2], both[2])  # a prompt's mask stays
    assert (first != both).any(axis=(1, 2))[[3, 4]].any()
    assert np.array_equal(both, segment(noisy, clicks))
