import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_sam import tiny_sam, tiny_sam2

from limnet.evaluation import comparators
from limnet.evaluation.comparators import (
    CHECKPOINTS_VARIABLE,
    COMPARATORS,
    comparator,
    measured_beside,
)
from limnet.evaluation.comparators.base import digest_of
from limnet.method.prompts import Click
from limnet.volumes import Volume

TINY = {"sam": tiny_sam, "sam2": tiny_sam2}

both = pytest.mark.parametrize("name", TINY)
every = pytest.mark.parametrize("name", COMPARATORS)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv(CHECKPOINTS_VARIABLE, raising=False)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints as LIMNET_COMPARATORS has them."""
    for name, tiny in TINY.items():
        tiny().save_pretrained(tmp_path / name)
    return tmp_path


def volume(slices=4):
    images = np.random.default_rng(0).random((slices, 20, 30), dtype=np.float32)
    return Volume.from_array(images, (3, 1, 1), window=(0, 1))


@both
@pytest.mark.parametrize("slices", [1, 4])
def test_masks_have_the_volumes_shape(name, folder, slices):
    segment = comparator(name, folder / name)
    masks = segment(volume(slices), [Click(0, 5, 6), Click(slices - 1, 2, 3, positive=False)])
    assert masks.shape == (slices, 20, 30) and masks.dtype == bool


@both
def test_without_a_positive_click_there_is_nothing(name, folder):
    segment = comparator(name, folder / name)
    assert not segment(volume(), []).any()
    assert not segment(volume(), [Click(1, 2, 3, positive=False)]).any()


@both
def test_a_click_outside_the_volume_is_refused(name, folder):
    with pytest.raises(ValueError, match=r"inside the volume of \(4, 20, 30\)"):
        comparator(name, folder / name)(volume(), [Click(4, 5, 6)])


@both
def test_colours_and_an_empty_volume_are_volumes(name, folder):
    segment = comparator(name, folder / name)
    colours = np.zeros((2, 20, 30, 3), dtype=np.uint8)
    for images in (colours, colours[..., 0]):
        assert segment(Volume.from_array(images), [Click(1, 5, 6)]).shape == (2, 20, 30)


@both
def test_the_digest_changes_with_the_weights_only(name, folder):
    first, again = (comparator(name, folder / name).digest for _ in range(2))
    TINY[name](seed=1).save_pretrained(folder / name)
    assert first == again != comparator(name, folder / name).digest


@both
def test_a_folder_is_read_without_network_and_a_name_on_the_hub_with(name, folder, monkeypatch):
    asked = []
    kind = type(TINY[name]())

    def from_pretrained(source, **options):
        asked.append((source, options["local_files_only"], options["use_safetensors"]))
        return TINY[name](), {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(kind, "from_pretrained", from_pretrained)
    comparator(name, folder / name)
    comparator(name, "hub:somebody/something")
    assert asked == [(str(folder / name), True, True), ("somebody/something", False, True)]


@both
def test_pickled_weights_are_refused(name, tmp_path):
    TINY[name]().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"config\.json and model\.safetensors, got .* Licence: "):
        comparator(name, tmp_path)


def test_weights_of_another_network_are_refused(folder):
    config = (folder / "sam" / "config.json").read_text()
    (folder / "sam" / "config.json").write_text(
        config.replace('"mlp_dim": 16', '"mlp_dim": 8')  # other sizes
    )
    with pytest.raises(ValueError, match=r"weights of a SamModel, but .* of another size, first"):
        comparator("sam", folder / "sam")


def test_an_unknown_name_is_told_the_names():
    with pytest.raises(ValueError, match="one of sam, sam2, sam_med3d, nninteractive, mem3d, got"):
        comparator("sam3")


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
def test_a_checkpoint_that_is_not_there_says_where_it_comes_from(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, COMPARATORS[name].package, sys)  # any module
    with pytest.raises(FileNotFoundError, match=f"{CHECKPOINTS_VARIABLE} names, as {name}"):
        comparator(name)
    with pytest.raises(FileNotFoundError, match=r"got .*nowhere"):
        comparator(name, tmp_path / "nowhere")
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"got {tmp_path / name}"):
        comparator(name)


def test_only_what_transformers_loads_comes_from_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "medim", sys)
    with pytest.raises(FileNotFoundError, match="got hub:blueyo0/SAM-Med3D"):
        comparator("sam_med3d", "hub:blueyo0/SAM-Med3D")


def test_rows_beside_ours_say_that_we_measured_them(monkeypatch, folder):
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(folder))
    assert measured_beside("") == {}
    rows = measured_beside(f"sam2, sam={folder / 'sam'}")
    headings = ["SAM 2 (measured by us)", "SAM, clicked slices only (measured by us)"]
    assert list(rows) == headings
    assert [type(each) for each in rows.values()] == [comparators.Sam2, comparators.Sam]


def test_a_digest_tells_recipes_and_weights_apart():
    digests = {digest_of("a"), digest_of("b"), digest_of("a", tiny_sam()), digest_of("a")}
    assert len(digests) == 3


def test_nothing_of_the_others_is_imported_before_it_is_asked_for():
    folder = Path(comparators.__file__).parent
    for path in folder.glob("*.py"):
        for name in ("transformers", "medim", "nnInteractive", "models_STM"):
            assert f"import {name}" not in path.read_text(encoding="utf-8")
            assert f"from {name}" not in path.read_text(encoding="utf-8")
