import asyncio
import threading

import ipywidgets
import nibabel
import numpy as np
import pytest
from fake_browser import FakeBrowser
from fake_mouse import happens, push, the, within
from fakes import fakes, ramp
from ipycanvas import Canvas

from limnet.annotator.journal import read_journal
from limnet.annotator.widget import ClickWidget
from limnet.annotator.widget.keys import keys_help
from limnet.annotator.widget.widget import OPEN, SIZE, SMALL
from limnet.method.prompts import Click
from limnet.networks.checkpoints import LimNet


@pytest.fixture
def browser(monkeypatch):
    return FakeBrowser.instead_of_a_kernel(monkeypatch)


@pytest.fixture
def image(tmp_path):
    """`ramp` in a file: 5 slices of 32 x 48 pixels."""
    path, to_mm = tmp_path / "ct.nii.gz", np.diag([-1.0, -1.0, 3.0, 1.0])
    nibabel.Nifti1Image(np.ascontiguousarray(ramp().images.T), to_mm).to_filename(path)
    return path


@pytest.fixture
def opened(image, monkeypatch):
    monkeypatch.setattr(LimNet, "digest", "ab" * 32)  # fakes have no configuration
    yield lambda **options: ClickWidget(image, fakes(), **options)
    for widget in list(OPEN.values()):
        widget.close()


def mouse(widget, kind, row, column, size=SIZE, **event):
    """On a pixel of the main canvas, which is shown in that size."""
    x, y = widget.controller.look.view.to_canvas(row, column)
    happens(widget.glass, kind, x * size / SIZE, y * size / SIZE, size, **event)


def click(widget, row, column, **event):
    mouse(widget, "mousedown", row, column, **event)
    mouse(widget, "mouseup", row, column, **event)


def key(widget, name, **event):
    happens(widget.glass, "keydown", key=name, **event)


def clicks(widget):
    return widget.annotation.objects[0].session.clicks


def test_the_mouse_clicks_and_what_comes_of_it_is_seen(opened, browser):
    widget = opened()
    click(widget, 16, 10)
    click(widget, 5, 40, button=2)
    click(widget, 30, 5, shiftKey=True)
    expected = Click(2, 16, 10), Click(2, 5, 40, False), Click(2, 30, 5, False)
    assert clicks(widget) == expected
    canvas = the(Canvas, widget, width=SIZE, height=SIZE)
    blue = [
        int(browser.colour(canvas, *widget.controller.look.view.to_canvas(row, 10))[5:], 16)
        for row in (13, 25)  # on the mask, which is yellow, and off it
    ]
    assert blue[0] < 0.7 * blue[1]


@pytest.mark.parametrize("size", [SIZE / 2, 333, 2 * SIZE])
def test_however_large_the_canvas_is_shown_the_same_pixel_is_hit(opened, size):
    widget = opened()
    for row, column in [(0, 0), (16, 10), (31, 47)]:
        click(widget, row, column, size=size)
    assert clicks(widget) == (Click(2, 0, 0), Click(2, 16, 10), Click(2, 31, 47))


def test_a_stroke_released_outside_ends_with_its_last_move(opened):
    widget = opened()
    key(widget, "b")
    assert the(ipywidgets.ToggleButtons, widget, value="brush")
    mouse(widget, "mousedown", 16, 10)
    mouse(widget, "mousemove", 16, 20)
    mouse(widget, "mouseleave", 16, 30)
    assert widget.controller.pointer is None
    mouse(widget, "mousemove", 3, 30, buttons=0)
    mask = widget.annotation.objects[0].session.mask(2)
    assert mask[16, 10:21].all() and not mask[:8].any() and widget.controller.gesture is None


def test_keys_work_over_the_canvas(opened, tmp_path):
    widget = opened()
    click(widget, 16, 10)
    key(widget, "z", ctrlKey=True)
    assert clicks(widget) == ()
    key(widget, "Z", metaKey=True)
    assert clicks(widget) == (Click(2, 16, 10),)
    key(widget, "ArrowUp")
    assert widget.controller.look.slice_index == 3
    key(widget, "s", ctrlKey=True)
    assert (tmp_path / "ct.limnet.nii.gz").exists() and widget.controller.tool == "click"


def test_a_question_mark_shows_the_help_and_hides_it(opened):
    widget = opened()
    shown = the(ipywidgets.HTML, widget, value=keys_help())
    for display in ("", "none", ""):
        key(widget, "?")
        assert shown.layout.display == display


def test_buttons_know_what_can_be_done(opened):
    widget = opened()
    redo, lock = (
        the(ipywidgets.Button, widget, description=says) for says in ("Redo (y)", "Lock (l)")
    )
    assert redo.disabled
    lock.click()
    assert lock.description == "Unlock (l)"
    push(widget, "Undo (z)")
    assert lock.description == "Lock (l)" and not redo.disabled
    redo.click()
    assert lock.description == "Unlock (l)" and redo.disabled


def test_a_press_on_a_small_plane_puts_the_crosshair_there(opened):
    widget = opened()
    look = widget.controller.look
    small = [each for each in within(widget) if getattr(each, "height", 0) == SMALL]
    for canvas, plane in zip(small, look.planes[1:], strict=True):
        happens(canvas, "mousedown", SMALL / 2, SMALL / 2, SMALL)
        middle = [round((size - 1) / 2) for size in plane.shape]
        assert list(plane.place(look.cross)[1:]) == middle


def test_in_a_notebook_many_changes_are_drawn_once(opened, browser):
    async def notebook():
        widget, before = opened(), browser.messages
        for _ in range(5):
            widget.controller.zoom(1.1)
        assert browser.messages == before
        await asyncio.sleep(0.15)
        return browser.messages - before

    assert asyncio.run(notebook()) == 1


def test_in_a_notebook_a_propagation_is_shown_in_the_main_thread(opened):
    async def notebook():
        widget, threads = opened(), set()
        click(widget, 16, 10)
        widget.controller.changed = lambda: threads.add(threading.current_thread())
        push(widget, "Propagate (p)")
        while widget.controller.run:
            await asyncio.sleep(0.01)
        assert len(widget.annotation.objects[0].session.rounds) == 1
        return threads

    assert asyncio.run(notebook()) == {threading.main_thread()}


def test_a_journal_is_gone_on_with(opened):
    first = opened(objects=("liver", "aorta"))
    click(first, 16, 10)
    key(first, "p")
    first.controller.wait()
    key(first, "n")
    click(first, 5, 40)
    first.close()
    second = opened()
    assert "ct.limnet.jsonl ends: 2 clicks" in second.controller.message
    assert [each.name for each in second.annotation.objects] == ["liver", "aorta"]
    assert np.array_equal(second.annotation.labels(), first.annotation.labels())
    assert second.annotation.labels().any()


def test_a_cell_run_again_takes_the_journal_over(opened):
    first = opened()
    click(first, 16, 10)
    second = opened()
    assert clicks(second) == (Click(2, 16, 10),)
    click(first, 5, 40)
    assert first.controller.is_error and "closed" in first.controller.message
    assert len(clicks(first)) == 1


def test_beginning_anew_sets_the_journal_aside(opened, tmp_path):
    widget = opened()
    for number in (1, 2):
        click(widget, 16, 10 * number)
        push(widget, "Begin anew")
        assert clicks(widget) == () and not widget.annotation.labels().any()
        aside = tmp_path / f"ct.limnet.{number}.jsonl"
        assert aside.name in widget.controller.message
        assert [2, 16, 10 * number, True] in [each.get("click") for each in read_journal(aside)[1]]
    click(widget, 3, 3)
    widget.close()
    assert clicks(opened()) == (Click(2, 3, 3),)


def test_a_volume_in_memory_is_not_recorded():
    widget = ClickWidget(ramp(), fakes())
    assert "Nothing is recorded" in widget.controller.message
    click(widget, 16, 10)
    push(widget, "Begin anew")
    assert clicks(widget) == () and OPEN == {}


def test_messages_on_another_thread_reach_the_kernels_loop(opened):
    """As JupyterLab 4.4 and later sends them."""

    async def notebook():
        widget, threads = opened(), []
        press = widget.controller.press

        def watched(*at, **held):
            threads.append(threading.current_thread())
            press(*at, **held)

        widget.controller.press = watched
        for act in (lambda: click(widget, 16, 10), lambda: push(widget, "Undo (z)")):
            await asyncio.to_thread(act)
            await asyncio.sleep(0.15)
        return widget, threads

    widget, threads = asyncio.run(notebook())
    assert threads == [threading.main_thread()]
    assert clicks(widget) == () and widget.annotation.can_redo
