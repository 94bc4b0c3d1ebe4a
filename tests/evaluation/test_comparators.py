"""One contract for all comparators, with tiny random networks and fakes of ten lines."""

import pickle
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_sam import tiny_sam, tiny_sam2
from torch import nn
from transformers import SamImageProcessorPil

from limnet.evaluation import comparators
from limnet.evaluation.comparators import (
    CHECKPOINTS_VARIABLE,
    COMPARATORS,
    Mem3D,
    Sam,
    Sam2,
    SamMed3D,
    comparator,
    measured_beside,
    on_every_slice,
)
from limnet.evaluation.comparators.base import Square
from limnet.evaluation.comparators.mem3d import KEEP_EVERY, _frame, _from_square, _square
from limnet.evaluation.comparators.sam import CACHED_SLICES
from limnet.evaluation.comparators.sam_med3d import SIDE, cube_affine, cube_of, in_cube
from limnet.method.prompts import Click
from limnet.networks.layers import MEAN, STANDARD_DEVIATION
from limnet.volumes import Volume

every = pytest.mark.parametrize("name", COMPARATORS)
SHAPE = (4, 20, 30)


def black(shape=SHAPE, spacing_mm=(3, 1, 1)):
    return Volume.from_array(np.zeros(shape, dtype=np.float32), spacing_mm, window=(0, 1))


class Med3D(nn.Module):
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

    def mask_decoder(self, *, sparse_prompt_embeddings, dense_prompt_embeddings, **_):
        (position, label), logits = sparse_prompt_embeddings, dense_prompt_embeddings.clone()
        logits[logits == 0] = -5
        first = ((position - 1.5) / 4).floor().long()
        if label:
            logits[0, 0, *(slice(at, at + 2) for at in first.tolist())] = 5
        return logits, None


class NnSession:
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


class Copies(nn.Module):
    """Gives the mask that it memorised last; notes how many slices its memory holds."""

    def __init__(self, key_dim=128, value_dim=512):
        super().__init__()
        assert (key_dim, value_dim) == (128, 512)
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


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """The packages of all comparators; of some, fakes."""
    monkeypatch.delenv(CHECKPOINTS_VARIABLE, raising=False)
    for name, members in {
        "medim": {"create_model": lambda name: print("creating") or {"SAM-Med3D": Med3D}[name]()},
        "nnInteractive": {},
        "nnInteractive.inference": {},
        "nnInteractive.inference.inference_session": {"nnInteractiveInferenceSession": NnSession},
        "models_STM": {},
        "models_STM.models_SAQ": {"STM": Copies},
    }.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def write_checkpoint(name, path, seed=0):
    """What `comparator(name, path)` reads."""
    if name in ("sam", "sam2"):
        {"sam": tiny_sam, "sam2": tiny_sam2}[name](seed).save_pretrained(path)
    elif name == "sam_med3d":
        state = {"model_state_dict": {"weight": torch.tensor([seed])}, "args": Namespace(seed=1)}
        torch.save(state, path)
    else:
        path.mkdir(exist_ok=True)
        (path / "plans.json").write_text(str(seed))
    if name == "mem3d":
        torch.save({"state_dict": {"module.weight": torch.tensor([0.0])}}, path / "memory.pth")
        tiny_sam(seed).save_pretrained(path / "sam")


@pytest.fixture
def folder(tmp_path):
    """Checkpoints as LIMNET_COMPARATORS has them."""
    for name in COMPARATORS:
        write_checkpoint(name, tmp_path / name)
    return tmp_path


@every
def test_every_comparator_is_a_function_of_volume_and_clicks(name, folder, capsys):
    segment = comparator(name, folder / name)
    assert capsys.readouterr().out == ""
    colours = Volume.from_array(np.zeros((2, 20, 30, 3), dtype=np.uint8))
    for volume in (black(), black((1, 20, 30)), colours):
        slices = len(volume.images)
        masks = segment(volume, [Click(0, 5, 6), Click(slices - 1, 2, 3, positive=False)])
        assert masks.shape == (slices, 20, 30) and masks.dtype == bool
        assert not segment(volume, []).any()
        assert not segment(volume, [Click(0, 2, 3, positive=False)]).any()
        with pytest.raises(ValueError, match=rf"{slices}, 20, 30"):
            segment(volume, [Click(slices, 5, 6)])


@every
def test_the_digest_changes_with_the_weights_only(name, folder):
    first, again = (comparator(name, folder / name).digest for _ in range(2))
    write_checkpoint(name, folder / name, seed=1)
    assert first == again != comparator(name, folder / name).digest


@every
def test_what_is_not_installed_says_how_to_install_it(name, monkeypatch):
    about = COMPARATORS[name]
    for module in [about.package, about.package.split(".")[0]]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as raised:
        comparator(name)
    for part in (about.install, about.checkpoint, about.licence, about.paper, about.key):
        assert part in str(raised.value)


@every
def test_a_checkpoint_that_is_not_there_is_named(name, monkeypatch, tmp_path):
    for checkpoint in (None, tmp_path / "nowhere", *([] if "sam" in name else ["hub:a/b"])):
        with pytest.raises(FileNotFoundError, match=str(checkpoint)):
            comparator(name, checkpoint)
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / name)):
        comparator(name)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_a_folder_is_read_without_network_and_a_name_on_the_hub_with(name, folder, monkeypatch):
    asked, tiny = [], {"sam": tiny_sam, "sam2": tiny_sam2}[name]()

    def from_pretrained(source, *, local_files_only, use_safetensors, **_):
        asked.append((source, local_files_only, use_safetensors))
        return tiny, {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(type(tiny), "from_pretrained", from_pretrained)
    comparator(name, folder / name)
    comparator(name, "hub:somebody/something")
    assert asked == [(str(folder / name), True, True), ("somebody/something", False, True)]


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_pickled_weights_and_those_of_another_network_are_refused(name, folder):
    config = folder / name / "config.json"
    config.write_text(config.read_text().replace('"mlp_dim": 16', '"mlp_dim": 8'))
    with pytest.raises(ValueError, match="of another size"):
        comparator(name, folder / name)
    (folder / name / "model.safetensors").rename(folder / name / "pytorch_model.bin")
    with pytest.raises(ValueError, match=str(folder / name)):
        comparator(name, folder / name)


@pytest.mark.parametrize(
    "content", [{"model_state_dict": {}, "args": SimpleNamespace(code=1)}, {"net": {}}, b"cut"]
)
@pytest.mark.parametrize("file", ["sam_med3d", "mem3d/memory.pth"])
def test_files_that_hold_code_or_no_weights_are_refused(folder, file, content):
    name, path = file.split("/")[0], folder / file
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))):
        write(content, path)
        with pytest.raises(ValueError, match=str(path)):
            comparator(name, folder / name)


def test_weights_may_be_safetensors(folder):
    save_file({"weight": torch.zeros(1)}, folder / "a.safetensors")
    digests = [comparator("sam_med3d", folder / each).digest for each in ("a.safetensors",)]
    assert digests == [comparator("sam_med3d", folder / "sam_med3d").digest]


def test_rows_beside_ours_say_that_we_measured_them(monkeypatch, folder):
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(folder))
    assert measured_beside("") == {}
    rows = measured_beside(f"sam2, sam={folder / 'sam'}")
    headings = ["SAM 2 (measured by us)", "SAM, clicked slices only (measured by us)"]
    assert list(rows) == headings
    assert [type(each) for each in rows.values()] == [Sam2, Sam]
    with pytest.raises(ValueError, match="'sam3'"):
        comparator("sam3")


def test_nothing_of_the_others_is_imported_before_it_is_asked_for():
    for path in Path(comparators.__file__).parent.glob("*.py"):
        for name in ("transformers", "medim", "nnInteractive", "models_STM"):
            assert f"import {name}" not in path.read_text(encoding="utf-8")
            assert f"from {name}" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
def test_a_slice_is_shown_as_sams_own_processor_shows_it(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    ours = Square(64, keep_aspect=True).image(Volume.from_array(image[None]), 0)
    assert (ours == 0).sum() == (expected == 0).sum() or size[0] == size[1]
    assert (ours - expected).abs().max() < 0.02  # it rounds to whole grey values


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (100, 100)])
def test_what_is_found_at_a_point_of_the_square_lies_at_the_click(shape, keep_aspect):
    square = Square(64, keep_aspect)
    for click in (Click(0, shape[0] // 5, shape[1] - 5), Click(0, shape[0] - 6, 7, False)):
        points, labels = square.points([click], shape)
        column, row = (points[0, 0, 0] / 4).int().tolist()
        assert labels.tolist() == [[[int(click.positive)]]]
        logits = -torch.ones(1, 1, 16, 16)
        logits[0, 0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 1
        mask = square.mask(logits, shape)
        rows, columns = np.nonzero(mask)
        assert mask.shape == shape and mask[click.row, click.column]
        for places, at, side in ((rows, click.row, 0), (columns, click.column, 1)):
            pixel = (max(shape) if keep_aspect else shape[side]) / 16  # a logit's
            assert abs(places - at).max() <= 2.5 * pixel and np.ptp(places) > pixel


class AnswersAtTheClick(nn.Module):
    """SAM on a square of 64 pixels: around a positive click, 3 x 3 of 16 x 16 logits are 1.

    The second of three masks is the best.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64))
        self.embedded, self.calls = 0, []

    def get_image_embeddings(self, pixel_values):
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


FLAT = (3, 32, 48)


def test_sam_segments_slices_with_a_positive_click_and_shows_the_next_click_the_last_answer():
    model = AnswersAtTheClick()
    clicks = [Click(0, 5, 5, False), Click(1, 20, 30, False), Click(1, 9, 9), Click(1, 7, 7)]
    masks = Sam(model)(black(FLAT), clicks)
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False] and masks[1, 9, 9]
    assert model.calls == [([0, 1], False, False), ([0, 1, 1], True, False)]
    Sam(model)(black(FLAT), [Click(1, 5, 5)])
    assert model.calls[2:] == [([1], False, True)]  # one click has three answers


def test_sam_embeds_a_slice_once_for_all_its_clicks():
    model = AnswersAtTheClick()
    segment = Sam(model)
    for clicks in ([Click(1, 5, 5)], [Click(1, 5, 5), Click(1, 9, 9)]):
        segment(black(FLAT), clicks)
    assert model.embedded == 1
    other = Volume.from_array(np.zeros(FLAT, dtype=np.float32), (3, 1, 1), window=(0, 2))
    segment(other, [Click(1, 5, 5)])
    assert model.embedded == 2  # another window is another image
    on_every_slice(segment, black((20, 32, 48)), np.ones((20, 32, 48), dtype=bool))
    assert len(segment._embeddings) == CACHED_SLICES


def test_every_slice_that_shows_the_target_is_clicked_as_often_as_said():
    sam, target = Sam(AnswersAtTheClick()), np.zeros(FLAT, dtype=bool)
    target[1, 10:22, 20:32] = True
    target[2, 2:20, 3:40] = True
    one, first = on_every_slice(sam, black(FLAT), target, clicks=1)
    assert first == (Click(1, 15, 25), Click(2, 10, 11))  # the deepest points
    assert one.any(axis=(1, 2)).tolist() == [False, True, True]
    three, clicks = on_every_slice(sam, black(FLAT), target, clicks=3)
    assert [click.slice_index for click in clicks] == [1, 1, 1, 2, 2, 2]
    assert (three & target).sum() > (one & target).sum()
    found = sam(black(FLAT), [Click(1, 16, 24)])
    masks, clicks = on_every_slice(sam, black(FLAT), found, clicks=6)
    assert np.array_equal(masks, found) and len(clicks) == 1  # nothing is left to correct
    for wrong, asked in ((target[:2], 1), (target, 0)):
        with pytest.raises(ValueError, match=f"got .* and {asked}"):
            on_every_slice(sam, black(FLAT), wrong, clicks=asked)


class ShowsEverywhere(nn.Module):
    """SAM 2 that shows on every frame a square around the last positive click on any."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config, self.asked = SimpleNamespace(image_size=64), []

    def forward(self, session, frame_idx, reverse):
        points = session.point_inputs_per_obj[0][frame_idx]
        self.asked.append((frame_idx, points["point_labels"][0, 0].tolist(), reverse))
        kind = "cond" if 1 in points["point_labels"] else "non_cond"
        session.output_dict_per_obj[0][f"{kind}_frame_outputs"][frame_idx] = {}

    def propagate_in_video_iterator(self, session, start_frame_idx, reverse):
        prompts = sorted(session.output_dict_per_obj[0]["cond_frame_outputs"])
        self.asked.append(("propagate", start_frame_idx, reverse, prompts))
        for index in range(start_frame_idx, len(session.processed_frames)):
            yield SimpleNamespace(frame_idx=index, pred_masks=torch.ones(1, 1, 16, 16))


def test_sam2_prompts_with_positive_slices_and_corrects_with_the_negative_ones():
    model, volume = ShowsEverywhere(), black((5, 32, 48))
    masks = Sam2(model)(volume, [Click(3, 9, 9), Click(1, 9, 9), Click(3, 2, 2, False)])
    assert masks.all(axis=(1, 2)).tolist() == [False, True, True, True, True]
    assert model.asked == [
        (3, [1, 0], False),
        (1, [1], False),
        ("propagate", 1, False, [1, 3]),
        ("propagate", 1, True, [1, 3]),
    ]
    model.asked.clear()
    Sam2(model)(volume, [Click(2, 9, 9), Click(4, 5, 5, False), Click(0, 5, 5, False)])
    assert model.asked == [
        (2, [1], False),
        ("propagate", 2, False, [2]),
        ("propagate", 2, True, [2]),
        (4, [0], False),
        (0, [0], True),  # it was reached backward
        ("propagate", 2, False, [0, 2, 4]),
        ("propagate", 2, True, [0, 2, 4]),
    ]


def test_sam2_takes_slices_stretched_to_the_square_and_normalised():
    images = np.full((2, 20, 30), 100, dtype=np.uint8)
    session = Sam2(ShowsEverywhere())._session(Volume.from_array(images, window=(0, 200)))
    frame = session.get_frame(1)
    assert frame.shape == (3, 64, 64) and session.num_frames == 2
    for channel, mean, deviation in zip(frame, MEAN, STANDARD_DEVIATION, strict=True):
        torch.testing.assert_close(channel, torch.full((64, 64), (0.5 - mean) / deviation))


def test_transformers_keeps_corrected_slices_as_prompts():
    images = np.random.default_rng(0).random((5, 32, 48), dtype=np.float32)
    noisy, segment = Volume.from_array(images, window=(0, 1)), Sam2(tiny_sam2())
    clicks = [Click(2, 9, 9), Click(4, 5, 5, False)]
    first, both = segment(noisy, clicks[:1]), segment(noisy, clicks)
    assert np.array_equal(first[2], both[2])  # a prompt's mask stays
    assert (first != both).any(axis=(1, 2))[[3, 4]].any()


BODY = (20, 60, 80)  # of 3 x 1 x 1 mm


def test_sam_med3d_finds_the_object_in_a_cube_around_the_first_positive_click():
    model = Med3D()
    clicks = [Click(10, 30, 40, False), Click(10, 30, 43), Click(11, 30, 43), Click(10, 33, 40)]
    masks = SamMed3D(model)(black(BODY), clicks)
    # right, front, head; columns run to the left, rows to the back, 1.5 mm a voxel
    positions = [([64, 64, 64], 1), ([66, 64, 64], 0), ([64, 64, 66], 1), ([66, 62, 64], 1)]
    assert model.asked == positions
    for click in clicks[1:]:
        assert masks[click.slice_index, click.row, click.column]
    assert not masks[10, 30, 60] and not masks[10, 10, 40] and not masks[3, 30, 40]
    far = [Click(1, 10, 20), Click(1, 10, 250)]
    masks = SamMed3D(model)(black((3, 20, 300)), far)
    assert len(model.asked) == 5 and masks[1, 10, 20] and not masks[:, :, 120:].any()


def test_sam_med3d_embeds_a_cube_once():
    model, same = Med3D(), black(BODY)
    segment = SamMed3D(model)
    for clicks in ([Click(10, 30, 40)], [Click(10, 30, 40), Click(11, 30, 40)]):
        segment(same, clicks)
    assert model.embedded == 1
    segment(same, [Click(12, 30, 40)])
    assert model.embedded == 2


def test_sam_med3d_normalises_grey_values_over_what_is_above_zero():
    images = np.random.default_rng(0).normal(50, 100, BODY).astype(np.float32)
    images[0, 0, 0] = -5000
    patient = Volume.from_array(images, (3, 1, 1), modality="CT")
    cube = cube_of(patient, cube_affine(patient, Click(10, 30, 40)))
    assert cube.shape == (SIDE,) * 3 and cube.dtype == np.float32
    above = cube[cube > cube[0, 0, 0]]  # that is beyond the volume
    assert above.mean() == pytest.approx(0, abs=1e-3) and above.std() == pytest.approx(1, abs=1e-3)
    assert not cube_of(black(BODY), cube_affine(black(BODY), Click(10, 30, 40))).any()


def test_a_position_in_the_cube_shows_the_clicks_voxel():
    images = np.zeros(BODY, dtype=np.float32)
    images[8, 20, 50], click = 1000, Click(8, 20, 50)
    patient = Volume.from_array(images, (3, 1, 1), window=(0, 1))
    cube = cube_affine(patient, Click(10, 30, 41))
    brightest = np.unravel_index(cube_of(patient, cube).argmax(), (SIDE,) * 3)
    assert abs(in_cube(patient, cube, click) - brightest).max() <= 1


def test_nninteractive_gets_raw_images_and_points_in_the_order_of_the_volumes_axes(folder):
    segment = comparator("nninteractive", folder / "nninteractive")
    assert segment.session.folder == str(folder / "nninteractive")
    assert segment.session.threads == torch.get_num_threads()
    images = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    volume = Volume.from_array(images, (3, 1, 1), window=(0, 5))
    masks = segment(volume, [Click(2, 10.7, 25), Click(3, 5, 5), Click(3, 5, 5, False)])
    expected = np.zeros(SHAPE, dtype=bool)
    expected[1:4, 9:12, 24:27] = True
    assert np.array_equal(masks, expected)
    assert np.array_equal(segment.session.image[0], images)  # no window
    colours = Volume.from_array(np.full((*SHAPE, 3), [0, 30, 60], dtype=np.uint8))
    assert not (masks & segment(colours, [Click(0, 3, 3)])).any()  # every call starts anew
    assert (segment.session.image == 30).all()


def square_at_the_clicks(volume, clicks):
    masks = np.zeros(volume.images.shape[:3], dtype=bool)
    for click in clicks:
        around = slice(click.row - 2, click.row + 3), slice(click.column - 2, click.column + 3)
        masks[click.slice_index][around] = click.positive
    return masks


def test_mem3d_runs_from_each_clicked_slice_half_way_to_the_next_and_keeps_every_fifth():
    segment = Mem3D(Copies(), square_at_the_clicks, "")
    volume = black((14, 20, 30))
    masks = segment(volume, [Click(3, 10, 10), Click(10, 10, 20), Click(0, 5, 5, False)])
    left, right = masks[:, 10, 10], masks[:, 10, 20]
    assert left.tolist() == [True] * 7 + [False] * 7  # slices 0 to 6
    assert right.tolist() == [False] * 7 + [True] * 7
    assert (masks.sum(axis=(1, 2)) == 25).all()
    segment.memory.remembered.clear()
    segment(volume, [Click(0, 10, 10)])
    kept = [1 + -(-step // KEEP_EVERY) for step in range(13)]
    assert segment.memory.remembered == kept == [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4]
    nothing = Mem3D(Copies(), lambda volume, clicks: np.zeros((14, 20, 30), dtype=bool), "")
    assert not nothing(volume, [Click(1, 2, 3)]).any()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (25, 25)])
def test_mem3d_shows_slices_in_the_middle_of_the_square_and_brings_them_back(shape):
    mask = np.random.default_rng(0).random(shape) > 0.5
    square = _square(torch.from_numpy(mask).float()[None, None], "nearest")
    assert square.shape == (1, 1, 512, 512)
    assert np.array_equal(_from_square(square, shape), mask)
    image = Volume.from_array(np.ones((1, *shape), dtype=np.float32), window=(0, 2))
    assert _frame(image, 0).shape == (1, 3, 512, 512)
