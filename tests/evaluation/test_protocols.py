import numpy as np
import pytest
from fakes import SHAPE

from limnet.evaluation.protocols import (
    Challenge,
    Jittered,
    RandomError,
    SliceBySlice,
    challenge_area,
    challenge_surface,
)
from limnet.evaluation.users import next_click
from limnet.method.prompts import Click


def boxes(*places, shape=(7, 12, 12)):
    """Masks of boxes, each (slices, rows, columns)."""
    masks = np.zeros(shape, dtype=bool)
    for place in places:
        masks[place] = True
    return masks


def made(count):
    """Clicks so far, of which the users at hand look at the number only."""
    return [Click(0, 0, 0, True)] * count


CUBE = np.s_[1:6, 2:7, 3:8]  # 5 x 5 x 5, its middle voxel at 3, 4, 5
SMALL = np.s_[0:2, 9:11, 9:11]
FROZEN = (
    (Click(1, 4, 5, True), Click(1, 4, 5, True)),
    (Click(1, 4, 5, True), Click(1, 4, 5, True)),
    (Click(4, 4, 5, True), Click(1, 4, 5, True)),
    (Click(3, 4, 5, True), Click(3, 4, 5, True)),
    (Click(3, 2, 7, True), Click(3, 4, 3, True)),
    (Click(3, 5, 7, True), Click(3, 5, 7, True)),
)


def test_the_challenge_clicks_the_middle_of_the_largest_error():
    assert Challenge()(boxes(CUBE, SMALL)) == Click(3, 4, 5, True)
    assert Challenge()(boxes(SMALL), boxes(SMALL, CUBE)) == Click(3, 4, 5, False)
    assert Challenge()(boxes(CUBE), boxes(CUBE)) is None


def test_the_challenge_joins_errors_of_both_kinds_that_touch_at_a_corner():
    missing, surplus = np.s_[0:1, 0:1, 0:1], np.s_[1:3, 1:3, 1:3]  # 1 and 8 voxels, one component
    alone = np.s_[4:7, 6:9, 6:7]  # 9 voxels in a sheet: as many, and later in order
    click = Challenge()(boxes(missing, alone), boxes(surplus))
    # all are one voxel deep: the seeded choice among the nine of the first component
    assert click.slice_index <= 2 and click.row <= 2 and click.column <= 2
    assert click == Challenge()(boxes(missing, alone), boxes(surplus))


def test_the_challenges_depth_counts_voxels_beyond_the_border_as_correct():
    whole = boxes(np.s_[:, :, :], shape=(3, 9, 9))
    assert Challenge()(whole).slice_index == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_challenges_choice_by_hand(seed):
    """Written out: every voxel's distance to the nearest one that is not of the component."""
    rng = np.random.default_rng(seed)
    target = rng.random((4, 6, 6)) > 0.4
    click = Challenge()(target)
    seen, best = np.zeros(target.shape, bool), []
    for start in map(tuple, np.argwhere(target)):
        part, todo = set(), [start] if not seen[start] else []
        while todo:
            at = todo.pop()
            if min(at) < 0 or any(a >= b for a, b in zip(at, target.shape, strict=True)):
                continue
            if seen[at] or not target[at]:
                continue
            seen[at] = True
            part.add(at)
            steps = np.argwhere(np.ones((3, 3, 3))) - 1
            todo += [tuple(np.add(at, step).tolist()) for step in steps]
        best = max(best, sorted(part), key=len)
    off = [at for at in np.ndindex(6, 8, 8) if tuple(np.subtract(at, 1).tolist()) not in set(best)]
    off = np.subtract(off, 1)
    depth = {at: np.sqrt(np.square(off - at).sum(axis=1).min()) for at in best}
    deepest = [at for at in best if np.isclose(depth[at], max(depth.values()))]
    place = deepest[np.random.RandomState(42).randint(len(deepest))]
    assert (click.slice_index, click.row, click.column) == tuple(map(int, place))


def test_the_random_user_clicks_wrong_voxels_only_and_each_of_them():
    target, masks = boxes(SMALL), boxes(np.s_[0:1, 9:11, 9:11], np.s_[5:6, 0:1, 0:2])
    user, wrong = RandomError(seed=3), target ^ masks
    clicks = [user(target, masks, made(count)) for count in range(60)]
    places = {(each.slice_index, each.row, each.column) for each in clicks}
    assert places == set(map(tuple, np.argwhere(wrong).tolist()))
    assert all(each.positive == (each.slice_index == 1) for each in clicks)
    assert user(target, target, ()) is None
    assert RandomError(seed=3)(target, masks, ()) == clicks[0]


def test_an_unsteady_hand_keeps_slice_and_sign_and_stays_inside():
    target = boxes(CUBE, shape=SHAPE)
    steady = SliceBySlice()
    user = Jittered(lambda target, masks, _: steady(target, masks, ()), pixels=30, seed=1)
    clicks = [user(target, None, made(count)) for count in range(50)]
    assert {each.slice_index for each in clicks} == {steady(target, None, ()).slice_index}
    assert all(each.positive for each in clicks)
    assert all(0 <= each.row < SHAPE[1] and 0 <= each.column < SHAPE[2] for each in clicks)
    assert len(set(clicks)) > 20
    assert Jittered(steady, pixels=0)(target, None, ()) == next_click(target)
    wide = Jittered(lambda *_: Click(0, 200, 200, True), pixels=5, seed=0)
    rows = [wide(np.ones((1, 401, 401), bool), None, made(count)).row for count in range(20)]
    assert abs(np.mean(rows) - 200) < 5 and 2 < np.std(rows) < 8
    assert user(target, target, ()) is None


def test_the_challenges_area_is_written_out():
    scores = [0.2, 0.4, 0.6, 0.8, 1.0, 0.0]
    by_hand = (0.2 + 0.4) / 2 + (0.4 + 0.6) / 2 + (0.6 + 0.8) / 2 + (0.8 + 1.0) / 2
    assert challenge_area(scores) == pytest.approx(by_hand)
    assert challenge_area([1.0] * 5) == 4.0
    with pytest.raises(ValueError, match="got 4 scores"):
        challenge_area([1.0] * 4)


def test_the_challenge_counts_no_surface_of_a_bad_mask():
    assert challenge_surface([0.2, 0.21, 0.9], [0.5, 0.4, 0.95]) == (0.0, 0.4, 0.95)


def test_chance_depends_on_the_seed_and_the_number_of_clicks_alone():
    target = boxes(CUBE)
    for make in (RandomError, lambda seed: SliceBySlice(slice_rule="random", seed=seed)):
        user = make(seed=5)
        first = [user(target, boxes(SMALL), made(count)) for count in range(4)]
        assert [user(target, boxes(SMALL), made(count)) for count in range(4)] == first
        assert len(set(first)) > 1


def test_frozen_clicks_of_every_user():
    """What later versions must give too: target and masks are the cube and the small box."""
    target, masks = boxes(CUBE), boxes(SMALL)
    frozen = {
        SliceBySlice(): FROZEN[0],
        SliceBySlice(slice_rule="worst_dice"): FROZEN[1],
        SliceBySlice(slice_rule="random", seed=1): FROZEN[2],
        Challenge(): FROZEN[3],
        RandomError(seed=1): FROZEN[4],
        Jittered(Challenge(), pixels=2, seed=1): FROZEN[5],
    }
    for user, expected in frozen.items():
        assert tuple(user(target, masks, made(count)) for count in range(2)) == expected
    name = "Jittered(user=Challenge(), pixels=2, seed=1)"
    assert repr(Jittered(Challenge(), pixels=2, seed=1)) == name  # it finds a cached result
