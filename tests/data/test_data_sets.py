"""The contract of all data sets: what is written is found, read, split, checked."""

import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from limnet.data import DATA_SETS, IMAGE_SETS, Case
from limnet.data.catalogue import catalogue
from limnet.data.coco_lvis import COCO_LVIS
from limnet.data.doctor import inspect
from limnet.data.image_sets import DAVIS585, IN_HOUSE_US, ISHAPE, initial_mask

SETS = DATA_SETS | IMAGE_SETS
SMALL = {"shape": (10, 24, 24), "spacing_mm": (22.0, 16.0, 16.0)}
MAPS = ["ishape", "in_house_us", "in_house_ct", "davis585"]


def write_twin(key, root, seed=0, cases=2):
    if key in IMAGE_SETS:
        return SETS[key].write_twin(root, seed=seed)
    size = {"frames": 3, "size": (64, 80)} if key == "endovis18" else SMALL
    return SETS[key].write_twin(root, cases=cases, seed=seed, **size)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The twin of each set, written once, in the folder that the catalogue names."""
    roots = {}

    def twin(key):
        if key not in roots:
            roots[key] = tmp_path_factory.mktemp(key)
            write_twin(key, roots[key] / catalogue()[key].folder)
        return roots[key]

    return twin


@pytest.fixture(params=SETS)
def key(request):
    return request.param


@pytest.fixture
def root(key, twins, tmp_path):
    """A data folder with the twin of the set, to break."""
    return shutil.copytree(twins(key), tmp_path / "data")


def read(key, root):
    return SETS[key].read(SETS[key].find(root))


def files_of(item):
    """The image and the label of a case, or a frame and its label; of images the image alone."""
    paths = [item.image, item.label] if isinstance(item, Case) else [item.image]
    return [sorted(path.iterdir())[0] if path.is_dir() else path for path in paths]


def test_a_twin_is_found_and_read_in_a_fixed_order(key, root):
    items = read(key, root)
    assert items == read(key, root) and len({item.name for item in items}) == len(items)
    assert all(item.trainable and item.collection.endswith("(synthetic)") for item in items)
    for item in items:
        pixels, labels = item.load()
        if isinstance(item, Case):
            assert pixels.images.shape[:3] == labels.shape and labels.any()
            assert set(np.unique(labels)) <= set(item.ids)
            assert any(item.target(labels, name).any() for name in item.labels)
            if key != "endovis18":
                assert pixels.spacing_mm == pytest.approx(SMALL["spacing_mm"])
            with pytest.raises(ValueError, match="'liver lobe'"):
                item.target(labels, "liver lobe")
        else:
            assert pixels.shape[:2] == labels.shape[1:] and pixels.std() > 10
            assert len(labels) and labels.any(axis=(1, 2)).all()


def test_the_split_adds_up(key, root):
    items = read(key, root)
    rule, training, test = SETS[key].split(items)
    assert rule and (test or key == "in_house_ct") and not set(training) & set(test)
    assert sorted(training + test) == sorted(item.name for item in items)


def test_without_its_marker_a_twin_is_the_set_itself(key, root, tmp_path):
    for marker in root.rglob("twin.json"):
        marker.unlink()
    items = read(key, root)
    assert not any("twin" in item.collection for item in items)
    assert all(item.trainable == (key == "ishape") for item in items)
    chosen = SETS[key].choose(root, tmp_path / "twin", cases=1)
    assert not chosen.synthetic and SETS[key].name in chosen.ran_on
    assert chosen.cases == items if key in IMAGE_SETS else len(chosen.cases) == 1
    with pytest.raises(ValueError, match="no twin"):
        write_twin(key, SETS[key].find(root))


def test_without_the_set_the_twin_is_chosen_and_said(key, tmp_path):
    if key in IMAGE_SETS:
        chosen = SETS[key].choose(None, tmp_path / "twin")
        assert chosen.synthetic and f"NOT on {SETS[key].name}" in chosen.ran_on


def test_a_missing_image_or_label_is_named(key, root):
    for path in files_of(read(key, root)[-1]):
        moved = path.rename(root / "away")
        with pytest.raises(ValueError, match=path.stem.split(".")[0]):
            read(key, root)
        moved.rename(path)


def test_a_truncated_file_is_named_and_the_doctor_finds_it(key, root):
    item = read(key, root)[0]
    for path in files_of(item):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=path.name):
            item.load()
        path.write_bytes(whole)
    path.write_bytes(whole[: len(whole) // 2])
    broken = inspect(key, SETS[key], root, thorough=True).broken
    assert item.name in [row["name"] for row in broken]


@pytest.mark.parametrize("key", DATA_SETS)
def test_a_label_that_the_set_does_not_define_is_named(key, root):
    item = read(key, root)[0]
    if key == "endovis18":
        path = sorted(item.label.iterdir())[0]
        pixels = np.array(Image.open(path))
        pixels[0, 0] = 1, 2, 3
        Image.fromarray(pixels).save(path)
        value = r"\(1, 2, 3\)"
    else:
        stored = nibabel.load(item.label)
        slices = np.asarray(stored.dataobj).copy()
        slices[0, 0, 0] = 77
        nibabel.save(nibabel.Nifti1Image(slices, stored.affine), item.label)
        value = "77"
    for load in (item.load, item.load_labels):
        with pytest.raises(ValueError, match=value):
            load()


@pytest.mark.parametrize("key", MAPS)
def test_a_mask_file_that_stands_alone_is_named(key, root):
    image = read(key, root)[0].image
    extra = {"ishape": "../instance_map/77.png", "davis585": "object1_00077.png"}
    path = (image.parent / extra.get(key, "../masks/77.png")).resolve()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="77"):
        read(key, root)


def test_where_no_set_is_there_is_said(key, tmp_path):
    assert SETS[key].find(None) is None and SETS[key].find(tmp_path) is None
    with pytest.raises(ValueError, match="nowhere"):
        SETS[key].find(tmp_path / "nowhere")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=str(root)):
            SETS[key].read(root)


def test_a_twin_is_written_once_and_anew_for_another_seed(key, root):
    where = root / catalogue()[key].folder
    marked = [path for item in read(key, root) for path in files_of(item)]
    times = [path.stat().st_mtime_ns for path in marked]
    write_twin(key, where)
    assert [path.stat().st_mtime_ns for path in marked] == times
    first = marked[0].read_bytes()
    marked[0].unlink()
    write_twin(key, where)
    assert marked[0].read_bytes() == first  # the same picture, or whole file, is written anew
    write_twin(key, where, seed=1)
    assert marked[0].read_bytes() != first


@pytest.mark.parametrize("key", DATA_SETS)
@pytest.mark.parametrize("cases", [0, 1_000])
def test_a_twin_has_no_more_cases_than_the_set(key, cases, tmp_path):
    with pytest.raises(ValueError, match=str(cases)):
        write_twin(key, tmp_path, cases=cases)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "layout", [ISHAPE, DAVIS585, COCO_LVIS, IN_HOUSE_US], ids=lambda each: each.name
)
def test_a_whole_twin_is_not_drawn_again(layout, tmp_path):
    assert len(layout.write_twin(tmp_path)) == layout.twin_images


def test_the_initial_masks_of_davis_have_defects(twins):
    image = read("davis585", twins("davis585"))[0]
    for kind in ("sp", "stm"):
        mask = initial_mask(image, kind)
        assert mask.shape == image.load()[1][0].shape and (mask != image.load()[1][0]).any()
    with pytest.raises(ValueError, match="'superpixel'"):
        initial_mask(image, "superpixel")
