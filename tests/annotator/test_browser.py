"""Notebook 40 in JupyterLab, from the first click to the kernel's death and on."""

import os
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, jupyterlab, opened, until

from limnet.annotator.widget.view import View
from limnet.annotator.widget.widget import SIZE
from limnet.data import example_case
from limnet.evaluation.users import next_click_on_slice
from limnet.reports.results import report_folder
from limnet.volumes import Volume

pytestmark = [
    pytest.mark.skipif(
        chromium() is None,
        reason="needs Chromium; on Debian and Ubuntu: apt install chromium",
    ),
    pytest.mark.timeout(400),
]
DIGEST = "import hashlib; print(hashlib.sha256(widget.annotation.labels().tobytes()).hexdigest())"
CLICKS = "print([len(each.session.clicks) for each in widget.annotation.objects])"
SLOWLY = """
import time
session = widget.controller.object.session
at_once = session.propagate_events
def slowly():
    for event in at_once():
        time.sleep(0.2)
        yield event
session.propagate_events = slowly
"""  # so that there is time to cancel, however fast the machine
LOOKED_AT = "print(widget.controller.look.slice_index)"


@pytest.fixture(scope="module")
def pictures():
    """Where screenshots stay to be looked at."""
    return report_folder("browser")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return example_case(os.environ.get("LIMNET_DATA"), tmp_path_factory.mktemp("twin"))


def test_a_day_of_clicking_survives_the_kernels_death(tmp_path, pictures, case):
    volume = Volume.read(case.image)
    truth = case.target(volume.read_labels(case.label), "liver")
    view = View(volume.images.shape[1:3], volume.spacing_mm[1:], (SIZE, SIZE))
    with jupyterlab(tmp_path) as address, opened(address) as annotator:
        mouse, keyboard = annotator.page.mouse, annotator.page.keyboard

        def go_to(wanted):
            mouse.move(*annotator.place(view, 20, 20))
            while (now := int(annotator.execute(LOOKED_AT))) != wanted:
                before = annotator.commit()
                mouse.wheel(0, 100 if wanted > now else -100)
                annotator.repainted(before, "another slice")

        def click(row, column, button="left"):
            before = annotator.commit()
            mouse.click(*annotator.place(view, row, column), button=button)
            return annotator.repainted(before, f"a {button} click's mask")

        annotator.run_all()
        annotator.shoot(pictures / "opened.png")
        largest = int(truth.sum(axis=(1, 2)).argmax())
        go_to(largest)

        # a left click: the liver turns yellow
        _, row, column = next_click_on_slice(truth[largest], np.zeros_like(truth[largest]))
        before = annotator.commit()
        after = click(row, column)
        inside = yellow(after) & ~yellow(before)
        assert overlap(inside, truth[largest], view) > 0.5
        annotator.shoot(pictures / "clicked.png")

        # a right click where it has spread, or else in its middle: there it is yellow no more
        mask = kernel_labels(annotator, tmp_path)[largest] == 1
        wrong = np.argwhere(mask & ~truth[largest])
        off = wrong[len(wrong) // 2] if len(wrong) else np.argwhere(mask)[0]
        click(*off.tolist(), button="right")
        assert annotator.execute(CLICKS).startswith("[2")

        # undo and redo by keys
        before = annotator.commit()
        keyboard.press("z")
        annotator.repainted(before, "what was before")
        assert annotator.execute(CLICKS).startswith("[1")
        keyboard.press("y")
        until(lambda: annotator.execute(CLICKS).startswith("[2"), "the click again")
        keyboard.press("z")
        until(lambda: annotator.execute(CLICKS).startswith("[1"), "undo again")

        # a key with a meaning for notebooks has only ours here: x would cut the cell
        keyboard.press("x")
        keyboard.press("c")
        cells = "window.jupyterapp.shell.currentWidget.content.widgets.length"
        assert annotator.page.evaluate(cells) == 13

        # one round; then one that is cancelled
        keyboard.press("p")
        annotator.told("liver, round 1")
        annotator.shoot(pictures / "propagated.png")
        far = int(np.flatnonzero(truth.any(axis=(1, 2)))[0])
        go_to(far)
        _, row, column = next_click_on_slice(truth[far], np.zeros_like(truth[far]))
        click(row, column)
        digest = annotator.execute(DIGEST)
        annotator.execute(SLOWLY)
        annotator.button("Propagate")
        annotator.button("Cancel")
        annotator.told("Cancelled")
        assert annotator.execute(DIGEST) == digest

        # lock (keys are heard over buttons too), save, and die
        keyboard.press("l")
        annotator.page.locator(".limnet button", has_text="Unlock").wait_for()
        annotator.button("Save")
        annotator.told("Saved")
        [saved] = tmp_path.glob("**/*.limnet.nii.gz")
        assert annotator.errors == []
        annotator.kill_kernel()
        annotator.open()
        annotator.run_all()
        annotator.told("Going on")
        assert annotator.execute(DIGEST) == digest
        assert annotator.execute(CLICKS).startswith("[2")
        labels = volume.read_labels(saved)
        assert np.array_equal(labels, kernel_labels(annotator, tmp_path))
        annotator.shoot(pictures / "opened_again.png")

        # and on: the locked slice stays
        mouse.move(*annotator.place(view, 20, 20))
        keyboard.press("p")
        annotator.told("liver, round 2")
        assert np.array_equal(kernel_labels(annotator, tmp_path)[far], labels[far])

        # a second object, which the first one's masks do not mind
        annotator.button("aorta")
        go_to(largest)
        liver = kernel_labels(annotator, tmp_path) == 1
        aorta = case.target(volume.read_labels(case.label), "aorta")[largest]
        click(*next_click_on_slice(aorta, np.zeros_like(aorta))[1:])
        keyboard.press("p")
        annotator.told("aorta, round 1")
        both = kernel_labels(annotator, tmp_path)
        assert np.array_equal(both == 1, liver) and (both == 2).any()
        annotator.shoot(pictures / "two_objects.png")


@pytest.mark.parametrize(
    ("theme", "width"),
    [("JupyterLab Dark", 1280), ("JupyterLab Light", 800)],
    ids=["dark", "narrow"],
)
def test_it_fits_any_window(tmp_path, pictures, theme, width):
    with jupyterlab(tmp_path, theme=theme) as address, opened(address, width) as annotator:
        annotator.page.evaluate(
            "window.jupyterapp.commands.execute('application:toggle-left-area')"
        )
        annotator.run_all()
        box = annotator.page.locator(".limnet").first.bounding_box()
        parts = annotator.page.locator(".limnet canvas, .limnet button").all()
        for part in parts:
            if (inside := part.bounding_box()) is not None:
                assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
        annotator.shoot(pictures / f"{theme.split()[-1].lower()}_{width}.png")


def yellow(pixels):
    """Where the first object's colour lies over grey."""
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    return (red - blue > 40) & (green - blue > 25)


def overlap(shown, target, view):
    """Dice of what the canvas shows and a slice's mask."""
    places = [view.to_canvas(*place) for place in np.ndindex(target.shape)]
    x, y = np.array(places).round().astype(int).clip(0, SIZE - 1).T
    found = shown[y, x].reshape(target.shape)
    return 2 * (found & target).sum() / (found.sum() + target.sum())


def kernel_labels(annotator, folder: Path):
    """The label map in the kernel."""
    path = folder / "labels.npy"
    annotator.execute(f"import numpy; numpy.save({str(path)!r}, widget.annotation.labels())")
    return np.load(path)
