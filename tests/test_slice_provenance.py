from dataclasses import astuple

import numpy as np
from fakes import SHAPE, fakes, ramp

from limnet.annotator.export import slice_provenance
from limnet.method.prompts import Click
from limnet.method.session import Session


def new_session(compare=None):
    return Session(ramp(), fakes(), compare=compare)


def sources(session):
    return [each.source for each in slice_provenance(session)]


def rounds(session):
    return [each.round for each in slice_provenance(session)]


def test_before_the_first_click_every_slice_is_empty():
    [first, *_] = records = slice_provenance(new_session())
    assert len(records) == 5 and set(records) == {first}
    assert astuple(first) == (0, "empty", None, None, False, False)


def test_a_slice_is_clicked_painted_or_propagated():
    session = new_session()
    session.add_click(Click(2, 16, 10))
    session.paint(4, np.eye(32, 48, dtype=bool))
    assert sources(session) == ["empty", "empty", "clicked", "empty", "painted"]
    session.propagate()
    assert sources(session) == ["propagated", "propagated", "clicked", "propagated", "painted"]
    assert rounds(session) == [1, 1, None, 1, None]
    records = slice_provenance(session)
    assert [each.clicked for each in records] == [False, False, True, False, False]
    assert [each.area_pixels for each in records] == session.masks.sum(axis=(1, 2)).tolist()
    assert {each.previous_better for each in records} == {None}  # nothing to compare with


def test_a_click_on_a_painted_slice_makes_it_clicked_and_the_brush_painted_again():
    session = new_session()
    session.paint(1, np.eye(32, 48, dtype=bool))
    session.add_click(Click(1, 16, 10))
    assert sources(session)[1] == "clicked"
    session.paint(1, np.eye(32, 48, dtype=bool))
    assert sources(session)[1] == "painted" and slice_provenance(session)[1].clicked


def test_a_lock_is_the_source_only_where_there_is_no_click():
    session = new_session()
    session.add_click(Click(2, 16, 10))
    session.propagate()
    session.lock(2)
    session.lock(3)
    assert sources(session)[2:4] == ["clicked", "locked"]
    assert rounds(session)[2:4] == [None, None]
    assert [each.locked for each in slice_provenance(session)] == [False, False, True, True, False]


def keeps(*slices):
    """Judges that the previous masks of these slices are better."""
    return lambda previous, current: np.isin(np.arange(SHAPE[0]), slices).astype(np.float32)


def test_a_kept_mask_comes_from_the_round_that_made_it():
    session = new_session()
    for level, kept in enumerate([(), (0, 1), (1,)], start=1):
        session.networks.propagation_net.level = level / 4
        session.compare = keeps(*kept)
        session.add_click(Click(2, 16, 10))
        session.propagate()
    assert rounds(session) == [3, 1, None, 3, 3]
    assert [each.previous_better for each in slice_provenance(session)] == [0, 1, 0, 0, 0]
    session.take_other(0)
    assert rounds(session) == [1, 1, None, 3, 3]
    session.take_other(1)
    assert rounds(session) == [1, 3, None, 3, 3]


def test_an_empty_slice_says_which_round_left_it_empty():
    session = new_session()
    session.networks.propagation_net.level = 2.0  # brighter than anything
    session.add_click(Click(2, 16, 10))
    session.propagate()
    assert sources(session) == ["empty", "empty", "clicked", "empty", "empty"]
    assert rounds(session) == [1, 1, None, 1, 1]
