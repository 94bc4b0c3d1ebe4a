from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SamImageProcessorPil

from limnet.evaluation.comparators import Sam, on_every_slice
from limnet.evaluation.comparators.pretrained import shown
from limnet.evaluation.comparators.sam import KEPT_SLICES
from limnet.method.prompts import Click
from limnet.volumes import Volume

SHAPE = (3, 32, 48)  # of which SAM's square of 64 pixels shows 43 rows


class AnswersAtTheClick(nn.Module):
    """Its square has 64 pixels, its logits 16; around a positive click, 3 x 3 of them are 1.

    The second of three masks is the best.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64))
        self.embedded, self.calls = 0, []

    def get_image_embeddings(self, pixel_values):
        assert pixel_values.shape == (1, 3, 64, 64)
        self.embedded += 1
        return torch.zeros(1, 4, 4, 4)

    def forward(
        self, *, image_embeddings, input_points, input_labels, input_masks, multimask_output
    ):
        self.calls.append((input_labels[0, 0].tolist(), input_masks is not None, multimask_output))
        masks = -torch.ones(1, 1, 3 if multimask_output else 1, 16, 16)
        best = masks[0, 0, masks.shape[2] // 2]
        for (column, row), label in zip(input_points[0, 0] / 4, input_labels[0, 0], strict=True):
            row, column = int(row), int(column)
            best[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 2 * label - 1
        scores = torch.tensor([[[0.1, 0.9, 0.3]]])[..., : 3 if multimask_output else 1]
        return SimpleNamespace(pred_masks=masks, iou_scores=scores)


@pytest.fixture
def model():
    return AnswersAtTheClick()


def volume(shape=SHAPE):
    return Volume.from_array(np.zeros(shape, dtype=np.float32), window=(0, 1))


@pytest.mark.parametrize("shape", [SHAPE, (3, 48, 32), (3, 100, 100)])
@pytest.mark.parametrize(("down", "right"), [(0.1, 0.9), (0.5, 0.2), (0.9, 0.5)])
def test_the_object_is_found_where_the_click_is(model, shape, down, right):
    click = Click(1, int(down * shape[1]), int(right * shape[2]))
    masks = Sam(model)(volume(shape), [click])
    assert not masks[[0, 2]].any() and masks[1, click.row, click.column]
    rows, columns = np.nonzero(masks[1])
    pixel = max(shape) / 16  # a logit's
    assert abs(rows - click.row).max() <= 2.5 * pixel and np.ptp(rows) > pixel
    assert abs(columns - click.column).max() <= 2.5 * pixel and np.ptp(columns) > pixel


def test_only_slices_with_a_positive_click_are_segmented(model):
    clicks = [Click(0, 5, 5, False), Click(2, 9, 9), Click(1, 20, 30, False), Click(1, 9, 9)]
    masks = Sam(model)(volume(), clicks)
    assert masks.any(axis=(1, 2)).tolist() == [False, True, True]


def test_one_click_has_three_answers_and_the_next_sees_the_last(model):
    Sam(model)(volume(), [Click(1, 5, 5), Click(1, 9, 9, False), Click(1, 7, 7)])
    assert model.calls == [
        ([1], False, True),
        ([1, 0], True, False),
        ([1, 0, 1], True, False),
    ]


def test_a_slice_is_embedded_once_for_all_its_clicks(model):
    segment = Sam(model)
    for clicks in ([Click(1, 5, 5)], [Click(1, 5, 5), Click(1, 9, 9)]):
        segment(volume(), clicks)
    assert model.embedded == 1
    segment(volume().with_window((0, 2)), [Click(1, 5, 5)])
    assert model.embedded == 2  # another window is another image
    on_every_slice(segment, volume((20, 32, 48)), np.ones((20, 32, 48), dtype=bool))
    assert len(segment._kept) == KEPT_SLICES


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
def test_a_slice_is_shown_as_sams_own_processor_shows_it(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    ours = shown(Volume.from_array(image[None]), 0, 64, keep_aspect=True)
    assert (ours == 0).sum() == (expected == 0).sum() or size[0] == size[1]
    assert (ours - expected).abs().max() < 0.02  # it rounds to whole grey values


def test_every_slice_that_shows_the_target_is_clicked_as_often_as_said(model):
    target = np.zeros(SHAPE, dtype=bool)
    target[1, 10:22, 20:32] = True
    target[2, 2:20, 3:40] = True
    one, first = on_every_slice(Sam(model), volume(), target, clicks=1)
    assert first == (Click(1, 15, 25), Click(2, 10, 11))  # the deepest points
    assert one.any(axis=(1, 2)).tolist() == [False, True, True]
    three, clicks = on_every_slice(Sam(model), volume(), target, clicks=3)
    assert [click.slice_index for click in clicks] == [1, 1, 1, 2, 2, 2]
    assert (three & target).sum() > (one & target).sum()


def test_nobody_clicks_where_nothing_is_left_to_correct(model):
    found = Sam(model)(volume(), [Click(1, 16, 24)])
    masks, clicks = on_every_slice(Sam(model), volume(), found, clicks=6)
    assert np.array_equal(masks, found) and len(clicks) == 1


def test_a_target_on_another_grid_or_no_click_is_refused(model):
    with pytest.raises(ValueError, match=r"shape \(3, 32, 48\) and clicks at least 1, got \(2"):
        on_every_slice(Sam(model), volume(), np.ones((2, 32, 48), dtype=bool))
    with pytest.raises(ValueError, match="and 0"):
        on_every_slice(Sam(model), volume(), np.ones(SHAPE, dtype=bool), clicks=0)
