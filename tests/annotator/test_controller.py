import threading

import nibabel
import numpy as np
import pytest
from fakes import SHAPE, fakes, ramp

from limnet.annotator.annotation import Annotation
from limnet.annotator.widget.controller import LEFT, MIDDLE, RIGHT, Controller
from limnet.annotator.widget.keys import KEYS, press_key
from limnet.method.prompts import Click
from limnet.method.propagation import Stopped
from limnet.volumes import Volume

# slices of 32 x 48 pixels on a canvas of 480 x 320: ten canvas pixels a pixel


def controller(*names, **options):
    annotation = Annotation(ramp(), fakes())
    made = Controller(annotation, canvas=(480, 320), **options)
    for name in names or ("liver",):
        made.add_object(name, "#ff0000")
    made.look.go_to(2)
    return made


def at(row, column):
    """The canvas position of a pixel's middle."""
    return 10 * column + 5, 10 * row + 5


def click(made, row, column, button=LEFT, **held):
    made.press(*at(row, column), button, **held)
    made.release(*at(row, column))


def drag(made, *places, button=LEFT, **held):
    made.press(*at(*places[0]), button, **held)
    for place in places[1:]:
        made.move(*at(*place))
    made.release(*at(*places[-1]))


def test_a_left_click_is_positive_and_a_right_or_shifted_one_negative():
    made = controller()
    click(made, 16, 10)
    click(made, 5, 40, RIGHT)
    click(made, 30, 5, shift=True)
    assert made.object.session.clicks == (
        Click(2, 16, 10, True),
        Click(2, 5, 40, False),
        Click(2, 30, 5, False),
    )
    assert made.mask(made.object, 0)[16, 10] and made.look.cross == [2, 30, 5]


def test_a_dragged_click_moves_and_one_with_ctrl_goes():
    made = controller()
    click(made, 16, 10)
    drag(made, (16, 10), (10, 20), (5, 40))
    assert made.object.session.clicks == (Click(2, 5, 40),)
    click(made, 5, 40)  # neither moved nor made twice
    assert made.object.session.clicks == (Click(2, 5, 40),)
    click(made, 5, 40, ctrl=True)
    assert made.object.session.clicks == ()


def test_a_click_in_another_plane_is_on_the_slice_that_it_hits():
    made = controller()
    made.show_plane(1)
    plane = made.look.plane
    index, v, u = plane.place((4, made.look.cross[1], 30))
    made.press(*made.look.view.to_canvas(v, u))
    assert made.object.session.clicks == (Click(4, made.look.cross[1], 30),)
    assert index == made.look.index()


def test_the_brush_adds_and_the_eraser_takes_away():
    made = controller()
    made.choose_tool("brush")
    made.brush_radius = 1
    drag(made, (16, 10), (16, 20))
    mask = made.object.session.mask(2)
    assert mask[15:18, 10:21].all() and not mask[16, 23] and not mask[19].any()
    drag(made, (16, 10), (16, 12), button=RIGHT)
    assert not made.object.session.mask(2)[16, 10] and made.object.session.mask(2)[16, 20]
    made.choose_tool("eraser")
    drag(made, (16, 10), (16, 20))
    assert not made.object.session.mask(2)[16].any()


def test_a_box_is_drawn_from_corner_to_corner():
    made = controller()
    made.choose_tool("box")
    drag(made, (24, 40), (4, 10))
    assert made.object.session.clicks == (Click(2, 14.0, 25.0),)
    drag(made, (4, 4), (4, 4))  # no box
    assert len(made.object.session.clicks) == 1


def test_a_scribble_is_a_row_of_clicks():
    made = controller()
    made.choose_tool("scribble")
    drag(made, (16, 4), (16, 40))
    clicks = made.object.session.clicks
    assert len(clicks) == 4 and {each.row for each in clicks} == {16}
    assert clicks[0].column == 4 and clicks[-1].column == 40 and all(c.positive for c in clicks)
    drag(made, (3, 4), (3, 40), button=RIGHT)
    assert not any(each.positive for each in made.object.session.clicks[4:])


def test_drawing_tools_work_on_the_own_slices_only():
    made = controller()
    made.choose_tool("brush")
    made.show_plane(1)
    made.press(240, 160)
    assert made.is_error and "press 1" in made.message and made.gesture is None


def test_the_middle_button_pans_and_alt_changes_the_window():
    made = controller()
    made.zoom(2)
    before = made.look.view.to_canvas(16, 16)
    drag(made, (16, 10), (16, 12), button=MIDDLE)
    x, y = made.look.view.to_canvas(16, 16)
    assert (x - before[0], y - before[1]) == pytest.approx((20, 0))
    window = made.look.window
    drag(made, (16, 10), (16, 20), alt=True)
    assert made.look.window[1] - made.look.window[0] > window[1] - window[0]
    assert made.object.session.clicks == ()


def test_the_wheel_goes_through_slices_and_with_ctrl_zooms():
    made = controller()
    made.wheel(100, 5, 5)
    assert made.look.slice_index == 3
    made.wheel(-3, 5, 5)
    made.wheel(-3, 5, 5)
    assert made.look.slice_index == 1
    made.go_to(99)
    assert made.look.slice_index == 4
    made.wheel(-100, 240, 160, ctrl=True)
    assert made.look.view.zoom == 1.25


def test_what_cannot_be_done_is_told_and_nothing_changes():
    made = controller()
    made.lock_or_unlock()
    click(made, 16, 10)
    assert made.is_error and "slice 2 is locked" in made.message
    made.lock_or_unlock()
    click(made, 16, 10)
    assert not made.is_error and len(made.object.session.clicks) == 1


def test_removing_the_active_object_makes_another_one_active():
    made = controller("liver", "aorta")
    assert made.active == "aorta"
    made.perform("remove_object", object="aorta")
    assert made.active == "liver"
    made.perform("undo")
    made.choose("aorta")
    made.perform("undo")
    assert made.active == "liver"


class Gate:
    """Lets a propagation go on slice by slice."""

    def __init__(self, made):
        self.calls, self.made = [], made
        self.arrived = threading.Semaphore(0)

    def post(self, call):
        self.calls.append(call)
        self.arrived.release()

    def until_finished(self):
        """Do what was posted, as the main thread would."""
        self.made.run.wait(10)
        while self.calls:
            self.calls.pop(0)()


def running(*names):
    made = controller(*names)
    made.annotation.networks.propagation_net.level = 0.5 - 0.5 / 48
    click(made, 16, 10)
    gate = Gate(made)
    made.post = gate.post
    made.propagate()
    return made, gate


def test_a_propagation_runs_in_a_thread_and_its_round_is_closed_in_the_callers():
    made, gate = running()
    assert made.object.session.rounds == ()
    gate.until_finished()
    assert made.run is None and len(made.object.session.rounds) == 1
    assert "liver, round 1: 5 slices" in made.message
    assert made.annotation.can_undo


def test_slices_are_seen_as_they_arrive():
    made, gate = running()
    made.run.wait(10)
    assert set(made.run.arrived) == {0, 1, 2, 3, 4}
    made.go_to(4)
    assert made.mask(made.object, 0)[:, 24:].all() and not made.object.session.masks[4].any()
    gate.until_finished()
    assert made.mask(made.object, 0)[:, 24:].all()


def test_a_cancelled_propagation_leaves_the_round_before():
    made = controller()
    click(made, 16, 10)
    calls = []

    def post(call):
        made.cancel()  # at the first slice
        calls.append(call)

    made.post = post
    made.propagate()
    made.run.wait(10)
    for call in calls:
        call()
    assert made.run is None and made.object.session.rounds == () and "Cancelled" in made.message
    assert len(made.object.session.clicks) == 1


def test_while_an_object_is_propagated_others_can_be_clicked_but_not_that_one():
    made, gate = running("liver", "aorta")  # the aorta is propagated
    click(made, 5, 5)
    assert made.is_error and "aorta is being propagated" in made.message
    made.perform("undo")
    assert made.is_error
    made.choose("liver")
    click(made, 5, 5)
    assert not made.is_error and len(made.object.session.clicks) == 1
    gate.until_finished()
    assert len(made.annotation.session("aorta").rounds) == 1


def test_a_propagation_that_fails_says_why():
    made = controller()
    click(made, 16, 10)
    made.object.session.propagate_events = lambda: 1 / 0
    made.propagate()
    assert made.run is None or made.run.wait(5) is None
    assert made.is_error and "Propagation failed" in made.message


def test_where_propagation_ended_before_the_volume_is_said():
    made = controller()
    click(made, 16, 10)
    session, ends = made.object.session, [3, 1]
    whole = session.propagate_events

    def ended_early():
        yield from map(Stopped, ends)
        yield from whole()

    session.propagate_events = ended_early
    made.propagate()
    made.wait()
    assert "Nothing was looked for beyond slice 1 and 3" in made.message


def test_after_a_click_the_features_that_propagation_needs_are_filled():
    made = controller()
    assert made.annotation.networks.propagation_net.encoded == 0
    click(made, 16, 10)
    made.prefetcher.wait(10)
    slices = len(made.annotation.volume.images)
    assert made.annotation.networks.propagation_net.encoded == slices
    made.propagate()
    made.wait()
    assert made.annotation.networks.propagation_net.encoded == slices


def test_one_can_look_at_earlier_rounds():
    made, gate = running()
    gate.until_finished()
    made.post = lambda call: call()
    made.go_to(0)
    click(made, 30, 2)
    press_key(made, ",")
    assert made.shown_round == 0 and not made.mask(made.object, 0)[30, 2]
    assert np.array_equal(
        made.mask(made.object, 1),
        made.look.planes[1].image(made.object.session.rounds[0].masks, made.look.index(1)),
    )
    press_key(made, ".")
    assert made.shown_round is None and made.mask(made.object, 0)[30, 2]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.says)
def test_every_key_does_something_and_harms_nothing(key):
    made = controller("liver", "aorta")
    click(made, 16, 10)
    made.pointer = at(16, 10)
    seen = []
    made.changed = lambda: seen.append(made.message)
    for name in key.keys:
        held = name.startswith("ctrl+")
        assert press_key(made, name.removeprefix("ctrl+"), ctrl=held)
        if made.run:
            made.run.wait(10)
    assert seen or key.says.startswith("cancel")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_a_volume_in_its_file_looks_as_in_memory(dtype, tmp_path):
    images = (np.arange(5 * 32 * 48) % 251).reshape(SHAPE).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(images.T, np.diag([-1, -1, 1, 1])), tmp_path / "image.nii")
    refinements = []
    for in_memory in (True, False):
        volume = Volume.read(tmp_path / "image.nii", window=(0, 250), in_memory=in_memory)
        refinements.append(Controller(Annotation(volume, fakes())).look)
    for axis in range(3):
        images = [look.image(axis) for look in refinements]
        assert np.array_equal(*images) and images[0].shape == refinements[0].planes[axis].shape
    assert refinements[0].reading() == refinements[1].reading()
