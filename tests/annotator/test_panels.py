import json
import zipfile

import ipywidgets
import numpy as np
import pytest
from fake_mouse import happens, push, the
from fakes import SHAPE, fakes, ramp

from limnet.annotator.annotation import Annotation
from limnet.annotator.widget.controller import Controller
from limnet.annotator.widget.keys import press_key
from limnet.annotator.widget.panels import COLOURS, FilePanel, LookPanel, ObjectPanel
from limnet.annotator.widget.timeline import SlicePanel
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume


def panel(kind, *options, names=("liver",)):
    """A panel that follows a controller, as in the widget."""
    made = Controller(Annotation(ramp(), fakes()), canvas=(480, 320))
    for name, colour in zip(names, COLOURS, strict=False):
        made.add_object(name, colour)
    shown = kind(made, *options)
    made.changed = shown.refresh
    shown.refresh()
    return made, shown


def listed(shown):
    """Colour picker, name, and the buttons up and remove of every object."""
    _, rows, _ = shown.box.children
    return [row.children for row in rows.children]


def names(made):
    return [each.name for each in made.annotation.objects]


def test_objects_are_added_recoloured_moved_up_and_removed():
    made, shown = panel(ObjectPanel)
    the(ipywidgets.Text, shown.box).value = " vena cava "
    push(shown.box, "Add")
    push(shown.box, "Add")  # without a name
    assert names(made) == ["liver", "vena cava", "object 3"] and made.active == "object 3"
    colours = [picker.value for picker, *_ in listed(shown)]
    assert colours == [each.colour for each in made.annotation.objects] == list(COLOURS[:3])
    listed(shown)[0][0].value = "#123456"
    assert made.annotation.objects[0].colour == "#123456"
    listed(shown)[2][2].click()
    assert names(made) == ["liver", "object 3", "vena cava"]
    listed(shown)[0][2].click()  # nothing is above
    assert names(made) == ["liver", "object 3", "vena cava"]
    listed(shown)[0][1].click()
    assert made.active == "liver"
    assert [choose.button_style for _, choose, *_ in listed(shown)] == ["info", "", ""]
    listed(shown)[0][3].click()
    made.perform("undo")
    made.perform("undo")  # moved up
    assert names(made) == ["liver", "vena cava", "object 3"] and len(listed(shown)) == 3


def two_rounds(made):
    for row in (5, 25):
        made.perform("click", object="liver", click=[2, row, 10, True])
        made.perform("propagate", object="liver")


def parts(shown):
    plane, *rows = shown.box.children
    return plane, *(row.children[1] for row in rows)


def test_what_is_chosen_is_looked_at():
    made, shown = panel(LookPanel)
    two_rounds(made)
    plane, window, opacity, earlier = parts(shown)
    plane.value, opacity.value, earlier.value = 1, 0.7, 0
    assert (made.look.axis, made.look.opacity, made.shown_round) == (1, 0.7, 0)
    made.look.window = (0.2, 0.4)
    made.changed()
    window.value = window.options[0][1]
    assert made.look.window == (0, 1)


def test_what_keys_and_mouse_change_is_told():
    made, shown = panel(LookPanel)
    two_rounds(made)
    plane, window, opacity, earlier = parts(shown)
    for name in "3o,":
        press_key(made, name)
    assert plane.value == made.look.axis == 2
    assert opacity.value == made.look.opacity == 0.3
    assert earlier.value == made.shown_round == 1
    press_key(made, ".")
    assert earlier.label == "now" and made.shown_round is None
    assert [name for name, _ in earlier.options] == ["now", "1", "2"]
    assert window.value == window.options[0][1]
    made.look.window = (0.2, 0.4)
    made.changed()
    assert window.value == "" and made.look.window == (0.2, 0.4)


def test_ct_windows_can_be_chosen():
    volume = Volume.from_array(np.zeros((3, 16, 16), np.int16), modality="CT", window="lung")
    made = Controller(Annotation(volume, fakes()), canvas=(480, 320))
    shown = LookPanel(made)
    parts(shown)[1].value = "bone"
    assert made.look.window == (-500, 1300)


def test_slider_and_strip_go_to_slices_and_follow():
    made, shown = panel(SlicePanel, 500)
    slider, strip, described = shown.box.children
    assert (slider.value, slider.max) == (2, 4)
    slider.value = 4
    assert made.look.slice_index == 4
    made.go_to(1)
    assert slider.value == 1
    happens(strip, "mousedown", x=160, width=250)  # shown half as large: 320 of 500
    assert made.look.slice_index == slider.value == 3
    made.perform("click", object="liver", click=[3, 16, 10, True])
    assert "slice 3: clicked" in described.value


def test_a_press_on_the_strip_leads_back_to_the_own_slices():
    made, shown = panel(SlicePanel, 500)
    made.show_plane(2)
    assert shown.box.children[0].max == 47
    happens(shown.box.children[1], "mousedown", x=499, width=500)
    assert made.look.axis == 0 and made.look.slice_index == shown.box.children[0].value == 4


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The panel of two objects, of which the first was clicked on."""
    monkeypatch.setattr(LimNet, "digest", "ab" * 32)  # fakes have no configuration
    journal = tmp_path / "ct.limnet.jsonl"
    journal.touch()
    more = tmp_path / "ct.limnet", journal, lambda: None
    made, shown = panel(FilePanel, *more, names=("liver", "aorta"))
    made.perform("click", object="liver", click=[2, 16, 10, True])
    return made, shown


def start_from(shown, name):
    the(ipywidgets.Text, shown.box, placeholder="saved mask to start from").value = str(name)
    push(shown.box, "Start from it")


def test_masks_are_saved_beside_the_journal(files, tmp_path):
    made, shown = files
    for description in ("Save", "One file each", "All as .zip"):
        push(shown.box, description)
        assert "Saved" in made.message and not made.is_error
    saved = made.look.volume.read_labels(tmp_path / "ct.limnet.nii.gz")
    assert np.array_equal(saved, made.annotation.labels()) and saved.any()
    provenance = json.loads((tmp_path / "ct.limnet.json").read_text())
    assert [each["name"] for each in provenance["objects"]] == names(made)
    masks = {path.name for path in (tmp_path / "ct.limnet-masks").iterdir()}
    assert masks == {"liver.nii.gz", "aorta.nii.gz"}
    with zipfile.ZipFile(tmp_path / "ct.limnet.zip") as bundle:
        assert {"label_map.nii.gz", "journal.jsonl"} <= set(bundle.namelist())


def test_the_active_object_starts_from_a_saved_mask(files, tmp_path):
    made, shown = files
    liver, aorta = (each.session for each in made.annotation.objects)
    made.look.volume.save_masks(liver.masks, tmp_path / "liver.nii.gz")
    start_from(shown, "nothing.nii.gz")
    assert made.is_error and "Not opened" in made.message and not aorta.masks.any()
    start_from(shown, "liver.nii.gz")
    assert not made.is_error and np.array_equal(aorta.masks, liver.masks)
    made.perform("undo")
    assert not aorta.masks.any()


def test_of_a_label_map_every_object_starts_from_its_own_label(files, tmp_path):
    made, shown = files
    made.add_object("spleen", "#ffffff")
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3], labels[4] = 1, 2
    made.look.volume.save_masks(labels, tmp_path / "labels.nii.gz")
    for number, segmented in enumerate(made.annotation.objects, start=1):
        made.choose(segmented.name)
        start_from(shown, "labels.nii.gz")
        assert made.is_error == (number == 3)  # no label is left for it
    assert np.array_equal(made.annotation.session("aorta").masks, labels == 2)
    assert not made.annotation.session("spleen").masks.any()
