import numpy as np
import pytest
import torch
from tiny_sam import tiny_sam
from torch import nn

from limnet.evaluation.comparators import Mem3D, comparator
from limnet.evaluation.comparators.mem3d import KEEP_EVERY, _frame, _from_square, _square
from limnet.method.prompts import Click
from limnet.volumes import Volume

SHAPE = (14, 20, 30)
CHECKOUT = """
import torch
from torch import nn

class STM(nn.Module):
    def __init__(self, key_dim, value_dim):
        super().__init__()
        assert (key_dim, value_dim) == (128, 512)
        self.layer = nn.Linear(1, 1)
"""


class Copies(nn.Module):
    """Gives the mask that it memorised last; notes how many slices its memory holds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.remembered = []

    def forward(self, frame, mask=None, keys=None, values=None, num_objects=None, max_obj=None):
        assert frame.shape == (1, 3, 512, 512) and num_objects == 1
        if mask is not None:
            assert mask.shape == (1, 2, 512, 512)
            self.last = mask[:, 1:]
            return torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), None
        assert keys.shape == values.shape and max_obj == 1
        self.remembered.append(keys.shape[1])
        return torch.cat([5 - 10 * self.last, 10 * self.last - 5], dim=1), None, None


def square_at_the_clicks(volume, clicks):
    masks = np.zeros(volume.images.shape[:3], dtype=bool)
    for click in clicks:
        around = slice(click.row - 2, click.row + 3), slice(click.column - 2, click.column + 3)
        masks[click.slice_index][around] = click.positive
    return masks


@pytest.fixture
def volume():
    return Volume.from_array(np.zeros(SHAPE, dtype=np.float32), (3, 1, 1), window=(0, 1))


def test_masks_run_from_each_clicked_slice_half_way_to_the_next(volume):
    segment = Mem3D(Copies(), square_at_the_clicks, "")
    masks = segment(volume, [Click(3, 10, 10), Click(10, 10, 20), Click(0, 5, 5, False)])
    left, right = masks[:, 10, 10], masks[:, 10, 20]
    assert left.tolist() == [True] * 7 + [False] * 7  # slices 0 to 6
    assert right.tolist() == [False] * 7 + [True] * 7
    assert (masks.sum(axis=(1, 2)) == 25).all()


def test_the_memory_keeps_every_fifth_slice_and_the_last(volume):
    memory = Copies()
    Mem3D(memory, square_at_the_clicks, "")(volume, [Click(0, 10, 10)])
    kept = [1 + -(-step // KEEP_EVERY) for step in range(SHAPE[0] - 1)]
    assert memory.remembered == kept == [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4]


def test_without_a_positive_click_or_a_prompt_there_is_nothing(volume):
    segment = Mem3D(Copies(), lambda volume, clicks: np.zeros(SHAPE, dtype=bool), "")
    assert not segment(volume, [Click(1, 2, 3, positive=False)]).any()
    assert not segment(volume, [Click(1, 2, 3)]).any()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (25, 25)])
def test_slices_lie_in_the_middle_of_the_square_and_come_back(shape):
    mask = np.random.default_rng(0).random(shape) > 0.5
    square = _square(torch.from_numpy(mask).float()[None, None], "nearest")
    assert square.shape == (1, 1, 512, 512)
    assert np.array_equal(_from_square(square, shape), mask)
    image = Volume.from_array(np.ones((1, *shape), dtype=np.float32), window=(0, 2))
    assert _frame(image, 0).shape == (1, 3, 512, 512)


@pytest.fixture
def checkpoint(monkeypatch, tmp_path):
    """A checkout on the path, and the user's weights."""
    (tmp_path / "checkout" / "models_STM").mkdir(parents=True)
    (tmp_path / "checkout" / "models_STM" / "models_SAQ.py").write_text(CHECKOUT)
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    tiny_sam().save_pretrained(tmp_path / "sam")
    state = {"module.layer.weight": torch.ones(1, 1), "module.layer.bias": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "memory.pth")
    return tmp_path


def test_a_checkout_is_called_with_the_users_weights(checkpoint):
    segment = comparator("mem3d", checkpoint)
    assert segment.memory.layer.weight.item() == 1
    state = {"layer.weight": torch.zeros(1, 1), "layer.bias": torch.ones(1)}
    torch.save({"state_dict": state}, checkpoint / "memory.pth")
    other = comparator("mem3d", checkpoint)
    tiny_sam(seed=1).save_pretrained(checkpoint / "sam")
    digests = {segment.digest, other.digest, comparator("mem3d", checkpoint).digest}
    assert len(digests) == 3


def test_weights_that_are_not_there_say_where_they_come_from(checkpoint):
    torch.save({"net": 1}, checkpoint / "memory.pth")
    with pytest.raises(
        ValueError, match=r"memory\.pth must hold a state_dict, .*none is published"
    ):
        comparator("mem3d", checkpoint)
    (checkpoint / "memory.pth").unlink()
    with pytest.raises(ValueError, match="must hold a state_dict"):
        comparator("mem3d", checkpoint)
