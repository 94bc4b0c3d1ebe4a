import json

import numpy as np
import pytest
from fakes import SHAPE, fakes, ramp

from limnet.annotator.annotation import Annotation

LIVER = {"action": "add_object", "object": "liver", "colour": "#e6194b"}
AORTA = {"action": "add_object", "object": "aorta", "colour": "#3cb44b"}


def click(name, slice_index, row, column, positive=True):
    return {"action": "click", "object": name, "click": [slice_index, row, column, positive]}


def annotated(*actions):
    annotation = Annotation(ramp(), fakes())
    for action in (LIVER, AORTA, *actions):
        annotation.perform(action)
    return annotation


def test_objects_share_the_features_of_the_slices():
    annotation = annotated()
    assert [each.name for each in annotation.objects] == ["liver", "aorta"]
    assert {each.session.features for each in annotation.objects} == {annotation.features}


def test_where_objects_overlap_the_first_wins():
    annotation = annotated(click("liver", 2, 16, 10), click("aorta", 2, 16, 13))
    labels = annotation.labels()
    assert labels.dtype == np.uint8 and labels.shape == SHAPE
    assert labels[2, 16, 10] == labels[2, 16, 12] == 1 and labels[2, 16, 18] == 2
    assert annotation.overlap(2)[16, 12] and not annotation.overlap(2)[16, 18]
    annotation.perform({"action": "reorder_objects", "objects": ["aorta", "liver"]})
    assert annotation.labels()[2, 16, 12] == 1 and annotation.labels()[2, 16, 6] == 2
    assert not annotation.overlap(0).any()


ACTS = [
    click("liver", 2, 16, 10),
    {"action": "clicks", "object": "aorta", "clicks": [[3, 5, 5, True], [3, 5, 9, False]]},
    {"action": "move_click", "object": "liver", "click": [2, 16, 10, True], "to": [2, 9, 9, True]},
    click("liver", 2, 20, 20),
    {"action": "remove_click", "object": "liver", "click": [2, 20, 20, True]},
    {"action": "paint", "object": "aorta", "slice_index": 1, "mask": np.eye(32, 48, dtype=bool)},
    {"action": "box", "object": "aorta", "slice_index": 0, "box": [4, 4, 20, 30]},
    {"action": "propagate", "object": "liver"},
    {"action": "lock", "object": "liver", "slice_index": 4},
    click("liver", 0, 9, 9),
    {"action": "propagate", "object": "liver"},
    {"action": "unlock", "object": "liver", "slice_index": 4},
    {"action": "take_other", "object": "liver", "slice_index": 3},
    {"action": "start_from", "object": "aorta", "masks": np.ones(SHAPE, dtype=bool)},
    {"action": "rename_object", "object": "aorta", "to": "vena cava"},
    {"action": "recolour_object", "object": "liver", "colour": "#ffffff"},
    {"action": "reorder_objects", "objects": ["vena cava", "liver"]},
    {"action": "remove_object", "object": "liver"},
]


def seen(annotation):
    objects = [(each.name, each.colour, each.session.clicks) for each in annotation.objects]
    return objects, [each.session.masks.tolist() for each in annotation.objects]


def test_every_action_can_be_undone_and_done_again():
    annotation = annotated()
    before = []
    for action in ACTS:
        before.append(seen(annotation))
        assert annotation.perform(action)
    last = seen(annotation)
    for expected in reversed(before):
        assert annotation.perform({"action": "undo"})
        assert seen(annotation) == expected
    for _ in ACTS:
        assert annotation.can_redo and annotation.perform({"action": "redo"})
    assert seen(annotation) == last and not annotation.can_redo
    assert not annotation.perform({"action": "redo"})


def test_a_round_that_is_given_is_not_computed():
    annotation = annotated(click("liver", 2, 16, 10))
    *_, round_ = annotation.session("liver").propagate_events()
    values = {name: value for name, value in vars(round_).items() if name != "clicks"}
    encoded = annotation.networks.propagation_net.encoded
    annotation.perform({"action": "propagate", "object": "liver", "round": values})
    assert annotation.networks.propagation_net.encoded == encoded
    assert np.array_equal(annotation.session("liver").masks, round_.masks)
    assert annotation.session("liver").rounds[0].clicks == round_.clicks


def test_what_was_seen_is_shown_where_it_comes_out_otherwise():
    annotation = annotated(click("liver", 2, 16, 10))
    mask = annotation.session("liver").mask(2)
    line = {"action": "seen", "object": "liver", "slice_index": 2, "mask": mask}
    assert not annotation.perform(line)
    assert annotation.perform({**line, "mask": ~mask})
    assert np.array_equal(annotation.session("liver").mask(2), ~mask)
    annotation.perform({"action": "undo"})  # one step: the click with what was seen of it
    assert not annotation.session("liver").masks.any()
    annotation.perform({"action": "redo"})
    assert np.array_equal(annotation.session("liver").mask(2), ~mask)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"action": "explode"}, "must be one of .*got 'explode'"),
        ({}, "must be one of .*got None"),
        ({"action": "_snapshot"}, "must be one of"),
        ({"action": "click", "object": "liver"}, "missing"),
        (click("spleen", 2, 16, 10), r"\(liver, aorta\), got 'spleen'"),
        (click("liver", 9, 16, 10), "inside the volume"),
        ({"action": "click", "object": "liver", "click": [2, 16]}, "wrong value|unpack"),
        ({"action": "lock", "object": "liver", "slice_index": "x"}, "wrong value"),
        (LIVER, "an object 'liver' already"),
        ({**LIVER, "object": " "}, "1 to 64"),
        ({**LIVER, "object": "a\nb"}, "printable"),
        ({**LIVER, "object": "lung", "colour": "red"}, '"#rrggbb"'),
        ({"action": "rename_object", "object": "liver", "to": "aorta"}, "already"),
        ({"action": "reorder_objects", "objects": ["liver"]}, "every object once"),
    ],
)
def test_a_wrong_action_says_why_and_changes_nothing(action, message):
    annotation = annotated(click("liver", 2, 16, 10))
    before = json.dumps(seen(annotation), default=str)
    with pytest.raises(ValueError, match=message):
        annotation.perform(action)
    assert json.dumps(seen(annotation), default=str) == before
