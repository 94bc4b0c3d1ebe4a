import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fakes import SHAPE, fakes, ramp

from limnet.method.prompts import Box, Click
from limnet.method.session import Session
from limnet.method.state import Recipe
from limnet.volumes import Volume


def new_session(previous_better=0.25, **options):
    networks = fakes(previous_better)
    return Session(ramp(), networks, replace(Recipe.of(networks), **options))


def painted(session, level):
    """The next propagation paints the columns from 48 * level on."""
    session.networks.propagation_net.level = level - 0.5 / 48
    return session


def first_columns(masks):
    """The first painted column of each slice; 48 for an empty one."""
    return [int(np.flatnonzero([*mask.any(axis=0), True])[0]) for mask in masks]


def test_a_click_updates_the_prompt_mask_of_its_slice_at_once():
    session = new_session()
    mask = session.add_click(Click(2, 16, 10))
    assert mask[16, 10] and not mask[16, 30]
    assert np.array_equal(session.masks[2], mask)
    assert not session.masks[[0, 1, 3, 4]].any() and session.rounds == ()


def test_propagating_reaches_every_slice_and_closes_the_round():
    session = painted(new_session(), 0.5)
    clicks = (Click(1, 16, 10), Click(2, 16, 10))
    prompts = [session.add_click(click) for click in clicks]
    closed = session.propagate()
    assert session.rounds == (closed,) and session.clicks == closed.clicks == clicks
    assert closed.prompt_slice == 2
    assert np.array_equal(session.masks[[1, 2]], prompts)
    assert [first_columns(session.masks)[i] for i in (0, 3, 4)] == [24, 24, 24]
    assert session.masks[0, :, 24:].all()
    with pytest.raises(RuntimeError, match="at least one click"):
        session.propagate()
    with pytest.raises(ValueError, match="undo goes further back"):
        session.remove_click(clicks[0])


def test_an_empty_prompt_mask_is_kept_but_not_carried():
    session = painted(new_session(), 1.5)  # no column is that bright
    session.add_click(Click(2, 16, 10))
    session.propagate()
    session.add_click(Click(4, 16, 10, positive=False))
    closed = session.propagate()
    assert closed.prompt_slice == 2 and not session.masks[4].any()


def test_each_slice_keeps_the_better_of_two_rounds():
    session = new_session(previous_better=0.75)
    session.add_click(Click(2, 16, 10))
    painted(session, 0.5).propagate()
    session.add_click(Click(0, 16, 10))
    closed = painted(session, 0.25).propagate()
    assert first_columns(closed.propagated)[1:] == [12, first_columns(session.masks)[2], 12, 12]
    assert [first_columns(session.masks)[i] for i in (1, 3, 4)] == [24, 24, 24]
    assert closed.kept_previous.tolist() == [False, True, False, True, True]
    # what the user has decided is not compared
    assert closed.previous_better.tolist() == [0.5, 0.75, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(("threshold", "column"), [(0.7, 24), (0.75, 12), (0.8, 12)])
def test_the_threshold_is_that_of_equation_4(threshold, column):
    session = new_session(previous_better=0.75, threshold=threshold)
    session.add_click(Click(2, 16, 10))
    painted(session, 0.5).propagate()
    session.add_click(Click(2, 16, 5))
    painted(session, 0.25).propagate()
    assert first_columns(session.masks)[4] == column


def test_without_fusion_the_masks_are_those_that_were_propagated():
    session = new_session(previous_better=0.75, fuse=False)
    for slice_index, level in [(2, 0.5), (0, 0.25), (4, 0.75)]:
        session.add_click(Click(slice_index, 16, 10))
        closed = painted(session, level).propagate()
        assert np.array_equal(closed.masks, closed.propagated)
        assert np.array_equal(session.masks, closed.propagated)
        assert not closed.kept_previous.any()
    assert first_columns(session.masks)[1] == 36


@pytest.mark.parametrize("previous_better", [0.0, 1.0])
@pytest.mark.parametrize("fuse", [True, False])
def test_clicked_slices_are_never_overwritten(previous_better, fuse):
    session = new_session(previous_better, fuse=fuse)
    prompts = {}
    for slice_index, level in [(2, 0.5), (0, 0.25), (3, 0.75), (0, 0.1)]:
        click = Click(slice_index, 16, 5 + 10 * len(session.rounds))
        prompts[slice_index] = session.add_click(click)
        painted(session, level).propagate()
        for index, prompt in prompts.items():
            assert np.array_equal(session.masks[index], prompt)


def test_clicked_and_locked_slices_are_given_to_every_later_round(monkeypatch):
    seen = []

    def records(network, features, slices, prompt_slice, given, recipe):
        seen.append((prompt_slice, {index: bool(mask[16, 10]) for index, mask in given.items()}))
        return iter(())

    monkeypatch.setattr("limnet.method.propagation.propagate", records)
    session = new_session()
    session.lock(3)  # without a mask: the object is not there
    for slice_index in (2, 0, 4):
        session.add_click(Click(slice_index, 16, 10))
        session.propagate()
    assert seen == [
        (2, {2: True, 3: False}),
        (0, {0: True, 2: True, 3: False}),
        (4, {0: True, 2: True, 3: False, 4: True}),
    ]


def random_action(session, rng):
    """A click, a propagation, a lock or an unlock, whichever is possible."""
    index = int(rng.integers(5))
    action = rng.choice(["click", "click", "propagate", "lock"])
    if action == "propagate" and session.state.clicks:
        painted(session, rng.uniform(0.1, 0.9)).propagate()
    elif index in session.state.locked:
        session.unlock(index)
    elif action == "lock":
        session.lock(index)
    else:
        click = Click(index, int(rng.integers(32)), int(rng.integers(48)), bool(rng.random() < 0.7))
        session.add_click(click)


@pytest.mark.parametrize("seed", range(6))
def test_undoing_any_actions_one_by_one_gives_back_every_earlier_state(seed):
    rng = np.random.default_rng(seed)
    session = new_session(previous_better=0.75)
    before = []
    for _ in range(20):
        before.append((session.masks, session.clicks, session.rounds, set(session.state.locked)))
        random_action(session, rng)
    assert session.rounds and session.masks.any()
    for masks, clicks, rounds, locked in reversed(before):
        session.undo()
        assert np.array_equal(session.masks, masks)
        assert (session.clicks, session.rounds) == (clicks, rounds)
        assert set(session.state.locked) == locked
    assert not session.masks.any() and session.clicks == ()


@pytest.mark.parametrize("seed", range(3))
def test_what_was_undone_can_be_done_again_until_something_else_is_done(seed):
    rng = np.random.default_rng(seed)
    session, states = new_session(previous_better=0.75), []
    for _ in range(12):
        random_action(session, rng)
        states.append(session.state)
    for _ in range(20):
        session.undo()
    for state in states:
        session.redo()
        assert session.state is state
    session.undo()
    session.lock(0) if 0 not in session.state.locked else session.unlock(0)
    last = session.state
    session.redo()
    assert session.state is last


def test_clicks_made_at_once_are_predicted_at_once():
    session = new_session()
    mask = session.add_clicks([Click(2, 16, 10), Click(2, 16, 30)])
    assert mask[16, 10] and mask[16, 30] and len(session.clicks) == 2
    session.undo()
    assert session.clicks == ()
    with pytest.raises(ValueError, match="clicks must be on one slice"):
        session.add_clicks([Click(2, 16, 10), Click(3, 16, 10)])
    with pytest.raises(ValueError, match="at least one"):
        session.add_clicks([])


def test_a_box_is_its_ellipse_and_a_click_in_the_middle():
    session = new_session()
    mask = session.add_box(2, Box(4, 10, 24, 40))
    assert session.clicks == (Click(2, 14.0, 25.0),)
    assert mask[5, 25] and mask[14, 11] and mask[14, 39] and not mask[5, 11] and not mask[2, 25]
    session.add_click(Click(2, 30, 5))
    assert np.array_equal(session.remove_click(Click(2, 30, 5)), mask)
    assert not session.remove_click(Click(2, 14.0, 25.0))[2, 25]
    with pytest.raises(ValueError, match="a box must have top <= bottom < 32"):
        session.add_box(2, Box(4, 10, 4, 48))


def test_a_removed_click_leaves_no_trace():
    session, other = new_session(), new_session()
    session.add_click(Click(2, 16, 10))
    session.add_click(Click(2, 5, 40))
    mask = session.remove_click(Click(2, 5, 40))
    assert np.array_equal(mask, other.add_click(Click(2, 16, 10)))
    assert session.clicks == other.clicks
    assert not session.remove_click(Click(2, 16, 10)).any()
    assert not session.state.prompts and not session.state.changed


def test_a_moved_click_is_as_if_it_had_been_made_there():
    session, other = new_session(), new_session()
    session.add_click(Click(2, 16, 10))
    session.add_click(Click(2, 16, 20))
    moved = session.move_click(Click(2, 16, 10), Click(2, 5, 40))
    other.add_click(Click(2, 5, 40))
    assert np.array_equal(moved, other.add_click(Click(2, 16, 20)))
    assert session.clicks == other.clicks
    with pytest.raises(ValueError, match="stay on its slice 2"):
        session.move_click(Click(2, 5, 40), Click(3, 5, 40))


def test_a_painted_mask_is_kept_carried_and_corrected_by_clicks():
    drawn = np.zeros(SHAPE[1:], dtype=bool)
    drawn[4:8, 4:8] = True
    session = painted(new_session(), 0.5)
    session.paint(3, drawn)
    assert session.state.painted == {3} and np.array_equal(session.mask(3), drawn)
    closed = session.propagate()
    assert closed.prompt_slice == 3 and np.array_equal(closed.masks[3], drawn)
    mask = session.add_click(Click(3, 20, 40))
    assert mask[4:8, 4:8].all() and mask[20, 40] and not session.state.painted
    assert np.array_equal(session.remove_click(Click(3, 20, 40)), drawn)


def test_masks_from_elsewhere_are_a_round_to_go_on_from():
    masks = np.zeros(SHAPE, dtype=bool)
    masks[:, 4:8, 4:8] = True
    session = new_session()
    session.start_from(masks)
    assert np.array_equal(session.masks, masks) and len(session.rounds) == 1
    assert session.add_click(Click(1, 20, 40))[4:8, 4:8].all()
    with pytest.raises(ValueError, match=r"bool of shape \(5, 32, 48\)"):
        session.start_from(masks[1:])


MEMORY = """
import sys
import numpy as np
from fakes import fakes
from limnet.method.prompts import Click
from limnet.files import peak_memory
from limnet.method.session import Session
from limnet.volumes import Volume

slices = int(sys.argv[1])
images = np.empty((slices, 256, 256), dtype=np.int16)
images[...] = np.arange(256)
session = Session(Volume.from_array(images, window=(0, 256)), fakes(previous_better=0.75))
for number in range(3):
    session.networks.propagation_net.level = 0.5 - 0.1 * number
    session.add_click(Click(number, 128, 100))
    session.propagate()
print(peak_memory())
"""


def test_a_round_of_a_long_volume_costs_little_beside_the_volume():
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    peaks = []
    for slices in (100, 400):
        command = [sys.executable, "-c", MEMORY, str(slices)]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(int(done.stdout))
    volume, masks = 300 * 256 * 256 * 2, 300 * 256 * 256  # bytes that the longer one has more
    # the masks as propagation makes them, once; a bit a pixel of all rounds; features of the fakes
    assert peaks[1] - peaks[0] < volume + 2.5 * masks


def test_the_user_overrules_fusion_on_a_slice():
    session = painted(new_session(previous_better=0.9), 0.5)
    session.add_click(Click(2, 16, 10))
    session.propagate()
    with pytest.raises(ValueError, match="masks of two rounds"):
        session.take_other(1)
    session.add_click(Click(4, 16, 10))
    painted(session, 0.25).propagate()
    assert first_columns(session.masks)[1] == 24  # fusion kept the round before
    assert first_columns(session.take_other(1)[None]) == [12]
    assert first_columns(session.masks)[:2] == [24, 12]
    session.take_other(1)
    assert first_columns(session.masks)[:2] == [24, 24]
    with pytest.raises(ValueError, match="no click of its own"):
        session.take_other(4)


def test_a_round_that_is_computed_changes_nothing_until_it_is_closed():
    session = painted(new_session(), 0.5)
    session.add_click(Click(2, 16, 10))
    before = session.state
    *done, closed = session.propagate_events()
    assert session.state is before and [each.index for each in done] == [2, 3, 4, 1, 0]
    assert all(np.array_equal(closed.propagated[each.index], each.mask) for each in done)
    session.close(closed)
    assert session.rounds == (closed,)
    with pytest.raises(ValueError, match="the clicks of the open one"):
        session.close(closed)


def test_the_most_doubtful_slice_has_the_largest_expected_error():
    session = painted(new_session(), 0.5)
    assert session.most_doubtful() is None
    session.add_click(Click(2, 16, 10))
    *_, round_ = session.propagate_events()
    errors = np.array([1, 5, 9, 2, 0], dtype=np.float32)  # slice 2 was clicked
    session.close(replace(round_, expected_errors=errors))
    assert session.most_doubtful() == 1


def test_the_key_encoder_sees_each_slice_once_in_all_rounds_of_two_sessions():
    first = new_session()
    second = Session(first.volume, first.networks, features=first.features)
    for session in (first, second):
        for slice_index in (2, 0):
            session.add_click(Click(slice_index, 16, 10))
            session.propagate()
    assert first.networks.propagation_net.encoded == 5


@pytest.mark.parametrize("position", [(5, 16, 10), (2, 32, 10), (2, 16, 48)])
def test_a_click_outside_the_volume_is_refused(position):
    session = new_session()
    with pytest.raises(ValueError, match=r"inside the volume of \(5, 32, 48\)"):
        session.add_click(Click(*position))
    assert session.clicks == ()


def test_a_click_on_a_locked_slice_is_refused():
    session = new_session()
    session.lock(2)
    with pytest.raises(ValueError, match="slice 2 is locked; unlock it"):
        session.add_click(Click(2, 16, 10))


def test_masks_are_saved_on_the_grid_of_the_file(tmp_path):
    affine = np.array([[0, 0, -5, 40], [-0.7, 0, 0, 20], [0, 0.7, 0, -30], [0, 0, 0, 1.0]])
    data = np.random.default_rng(0).random((48, 32, 5), dtype=np.float32)  # sagittal slices
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "image.nii.gz")
    volume = Volume.read(tmp_path / "image.nii.gz")
    session = Session(volume, fakes())
    session.add_click(Click(1, 8, 40))
    session.propagate()
    session.save(tmp_path / "mask.nii.gz")
    saved = nibabel.load(tmp_path / "mask.nii.gz")
    assert saved.shape == data.shape
    np.testing.assert_allclose(saved.affine, affine, atol=1e-6)
    assert np.array_equal(volume.read_labels(tmp_path / "mask.nii.gz") == 1, session.masks)
    voxel = np.linalg.inv(affine) @ [*volume.position_mm(1, 8, 40), 1]
    assert saved.get_fdata()[tuple(np.rint(voxel[:3]).astype(int))] == 1


@pytest.mark.parametrize("events", [1, 3, 5])
def test_a_cancelled_propagation_leaves_the_session_as_it_was(events):
    session, undisturbed = new_session(), new_session()
    session.add_click(Click(2, 16, 10))
    before, masks = session.state, session.masks
    found = session.propagate_events()
    for _ in range(events):
        next(found)
    found.close()
    assert session.state is before and np.array_equal(session.masks, masks)
    undisturbed.add_click(Click(2, 16, 10))
    assert np.array_equal(session.propagate().masks, undisturbed.propagate().masks)
