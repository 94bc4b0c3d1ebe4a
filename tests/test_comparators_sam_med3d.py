import pickle
import sys
from argparse import Namespace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limnet.evaluation.comparators import SamMed3D, comparator
from limnet.evaluation.comparators.sam_med3d import SIDE, cube_affine, cube_of, in_cube
from limnet.method.prompts import Click
from limnet.volumes import Volume

SHAPE = (20, 60, 80)  # of 3 x 1 x 1 mm


class AnswersAtTheClick(nn.Module):
    """In logits of 32 x 32 x 32, the 2 x 2 x 2 around each positive click become 5, others stay."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.embedded, self.asked = 0, []
        self.prompt_encoder = self.encode_prompt
        self.encode_prompt.__func__.get_dense_pe = lambda: None

    def image_encoder(self, images):
        assert images.shape == (1, 1, SIDE, SIDE, SIDE)
        self.embedded += 1
        return torch.zeros(1, 1, 8, 8, 8)

    def encode_prompt(self, *, points, boxes, masks):
        (position,), (label,) = points[0][0], points[1][0]
        self.asked.append(([round(value, 2) for value in position.tolist()], int(label)))
        return (position, label), masks

    def mask_decoder(
        self,
        *,
        image_embeddings,
        image_pe,
        sparse_prompt_embeddings,
        dense_prompt_embeddings,
        multimask_output,
    ):
        (position, label), logits = sparse_prompt_embeddings, dense_prompt_embeddings.clone()
        logits[logits == 0] = -5
        first = ((position - 1.5) / 4).floor().long()
        if label:
            logits[0, 0, *(slice(at, at + 2) for at in first.tolist())] = 5
        return logits, None


@pytest.fixture
def model():
    return AnswersAtTheClick()


def volume(images=None, **options):
    images = np.zeros(SHAPE, dtype=np.float32) if images is None else images
    return Volume.from_array(images, (3, 1, 1), **options)


def test_the_object_is_found_where_the_clicks_are(model):
    clicks = [Click(10, 30, 40), Click(10, 30, 60)]
    masks = SamMed3D(model)(volume(), clicks)
    assert masks.shape == SHAPE
    for click in clicks:
        assert masks[click.slice_index, click.row, click.column]
    assert masks.sum() < 2 * 16**3 / 3  # two cubes of 12 mm, of voxels of 3 mm3, and their rims
    assert not masks[10, 30, 50] and not masks[10, 10, 40] and not masks[3, 30, 40]


def test_the_cube_has_the_first_positive_click_in_its_middle_and_points_to_the_head(model):
    clicks = [Click(10, 30, 40, False), Click(10, 30, 43), Click(11, 30, 43), Click(10, 33, 40)]
    SamMed3D(model)(volume(), clicks)
    # right, front, head; columns run to the left, rows to the back, 1.5 mm a voxel
    assert model.asked == [
        ([64, 64, 64], 1),
        ([66, 64, 64], 0),
        ([64, 64, 66], 1),
        ([66, 62, 64], 1),
    ]


def test_what_lies_beyond_the_cube_stays_empty_and_is_not_asked_for(model):
    images = np.zeros((3, 20, 300), dtype=np.float32)
    masks = SamMed3D(model)(volume(images), [Click(1, 10, 20), Click(1, 10, 250)])
    assert len(model.asked) == 1 and masks[1, 10, 20] and not masks[:, :, 120:].any()


def test_a_cube_is_embedded_once(model):
    segment, same = SamMed3D(model), volume()
    segment(same, [Click(10, 30, 40)])
    segment(same, [Click(10, 30, 40), Click(11, 30, 40)])
    assert model.embedded == 1
    segment(same, [Click(12, 30, 40)])
    assert model.embedded == 2


def test_without_a_positive_click_there_is_nothing(model):
    assert not SamMed3D(model)(volume(), [Click(1, 2, 3, positive=False)]).any()
    assert model.embedded == 0


def test_grey_values_are_normalised_over_what_is_above_zero():
    images = np.random.default_rng(0).normal(50, 100, SHAPE).astype(np.float32)
    images[0, 0, 0] = -5000
    patient = volume(images, modality="CT")
    cube = cube_of(patient, cube_affine(patient, Click(10, 30, 40)))
    assert cube.shape == (SIDE,) * 3 and cube.dtype == np.float32
    zero = cube[0, 0, 0]  # beyond the volume
    above = cube[cube > zero]
    assert above.mean() == pytest.approx(0, abs=1e-3) and above.std() == pytest.approx(1, abs=1e-3)
    assert not cube_of(volume(), cube_affine(volume(), Click(10, 30, 40))).any()  # nothing above


def test_a_position_in_the_cube_shows_the_click_s_voxel():
    images = np.zeros(SHAPE, dtype=np.float32)
    images[8, 20, 50], click = 1000, Click(8, 20, 50)
    patient = volume(images, window=(0, 1))
    cube = cube_affine(patient, Click(10, 30, 41))
    brightest = np.unravel_index(cube_of(patient, cube).argmax(), (SIDE,) * 3)
    assert abs(in_cube(patient, cube, click) - brightest).max() <= 1


class OneWeight(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)


@pytest.fixture
def medim(monkeypatch):
    module = ModuleType("medim")
    module.create_model = lambda name: print("creating") or {"SAM-Med3D": OneWeight}[name]()
    monkeypatch.setitem(sys.modules, "medim", module)


def test_checkpoints_are_read_without_unpickling_code(medim, tmp_path, capsys):
    state = OneWeight().state_dict()
    torch.save({"model_state_dict": state, "args": Namespace(seed=1)}, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    loaded = [comparator("sam_med3d", tmp_path / name) for name in ("a.pth", "b.safetensors")]
    for each in loaded:
        assert torch.equal(each.model.weight, state["weight"]) and not each.model.training
    assert loaded[0].digest == loaded[1].digest
    other = {name: tensor + 1 for name, tensor in state.items()}
    save_file(other, tmp_path / "c.safetensors")
    assert comparator("sam_med3d", tmp_path / "c.safetensors").digest != loaded[0].digest
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content", [{"model_state_dict": {}, "args": SimpleNamespace(code=1)}, {"state_dict": {}}]
)
def test_other_files_are_refused(medim, tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="tensors under model_state_dict and nothing that runs"):
        comparator("sam_med3d", tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="nothing that runs code"):
        comparator("sam_med3d", tmp_path / "a.pth")
