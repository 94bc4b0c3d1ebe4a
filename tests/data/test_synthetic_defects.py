import numpy as np
import pytest

from limnet.data.synthetic.defects import (
    DEFECTS,
    PROBABILITIES,
    boundary,
    corrupt,
    morphology,
)


def disk(side=96, radius=20, centre=(48, 40)):
    rows, columns = np.mgrid[:side, :side]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


every_defect = pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)


@every_defect
def test_a_corruption_depends_on_its_seed_only(defect):
    mask = disk()
    first, again = (defect(mask, np.random.default_rng(3), scale=0.3) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.array_equal(mask, disk())


@every_defect
def test_a_corruption_changes_the_mask_but_not_beyond_recognition(defect):
    mask = disk() & ~disk(radius=5, centre=(48, 58))  # with a notch, for smoothing
    rng = np.random.default_rng(0)
    scores = [dice(mask, defect(mask, rng, scale=0.2)) for _ in range(50)]
    assert 0.6 < np.mean(scores) < 0.999
    assert min(scores) > 0.1


@every_defect
@pytest.mark.parametrize("shape", [(1, 1), (33, 64)])
@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_pass_through_every_corruption(defect, shape, value):
    rng = np.random.default_rng(1)
    for _ in range(5):
        defective = defect(np.full(shape, value), rng, scale=0.2)
        assert defective.shape == shape and defective.dtype == bool


@pytest.mark.parametrize("name", ["add_shapes", "merge_shapes"])
def test_shapes_are_only_added(name):
    mask, rng = disk(), np.random.default_rng(0)
    assert all((DEFECTS[name](mask, rng) >= mask).all() for _ in range(20))
    assert DEFECTS[name](np.zeros((64, 64), bool), np.random.default_rng(4)).any()


def test_parts_are_only_removed_and_one_of_two_shapes_can_go_whole():
    one, two = disk(radius=12, centre=(20, 20)), disk(radius=12, centre=(70, 70))
    rng = np.random.default_rng(0)
    results = [DEFECTS["remove_parts"](one | two, rng) for _ in range(30)]
    assert all((result <= (one | two)).all() for result in results)
    assert any(np.array_equal(result, one) for result in results)
    assert any(np.array_equal(result, two) for result in results)


def test_dilation_reaches_ten_to_thirty_and_erosion_ten_of_the_papers_pixels():
    mask = disk(side=200, radius=50, centre=(100, 100))
    rng = np.random.default_rng(0)
    radii = [np.sqrt(morphology(mask, rng, scale=1.0).sum() / np.pi) for _ in range(60)]
    grown, shrunk = [r for r in radii if r > 50], [r for r in radii if r < 50]
    assert 59 < min(grown) < 63 and 77 < max(grown) < 81
    assert shrunk and np.allclose(shrunk, 40, atol=1)
    assert all(morphology(disk(radius=3), rng, scale=1.0).any() for _ in range(20))


def test_the_displaced_boundary_stays_within_thirty_pixels():
    mask = disk(side=200, radius=50, centre=(100, 100))
    for seed in range(5):
        defective = DEFECTS["displace_boundary"](mask, np.random.default_rng(seed), scale=1.0)
        assert disk(200, 18, (100, 100))[defective == 0].sum() == 0
        assert not defective[~disk(200, 81, (100, 100))].any()
        assert boundary(defective).sum() > 1.2 * boundary(mask).sum()  # jagged


def test_the_mixture_draws_by_the_papers_probabilities():
    rng, draws = np.random.default_rng(0), 800
    names = [corrupt(disk(24, 6, (12, 12)), rng)[1] for _ in range(draws)]
    assert list(PROBABILITIES.values()) == [0.1, 0.1, 0.3, 0.2, 0.1, 0.2]
    for name, probability in PROBABILITIES.items():
        assert abs(names.count(name) / draws - probability) < 0.05
    assert {corrupt(disk(), rng, probabilities={"smooth": 1.0})[1] for _ in range(5)} == {"smooth"}


@pytest.mark.parametrize(
    "probabilities", [{"blur": 1.0}, {"smooth": 0.5}, {"smooth": 2.0, "morphology": -1.0}]
)
def test_a_mixture_that_cannot_be_is_refused(probabilities):
    with pytest.raises(ValueError, match=r"corruptions are|sum to 1"):
        corrupt(disk(), np.random.default_rng(0), probabilities=probabilities)


@pytest.mark.parametrize("mask", [np.zeros((4, 4)), np.zeros((2, 4, 4), bool)])
def test_a_mask_that_is_no_bool_slice_is_refused(mask):
    with pytest.raises(Exception, match=r"height width|must be bool"):
        corrupt(mask, np.random.default_rng(0))
