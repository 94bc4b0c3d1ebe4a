import numpy as np
import torch

from limnet.method.prompts import Click
from limnet.method.state import PromptedSlice, Round, State

CLICK = Click(1, 2, 3)


def prompt(value, **more):
    return PromptedSlice(torch.full((2, 2), value), **more)


def test_a_round_from_elsewhere_has_its_masks_and_no_doubt():
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[1] = True
    given = Round.given(masks)
    assert np.array_equal(given.masks, masks) and given.propagated is given.masks
    assert given.prompt_slice == 1
    assert given.clicks == () and not given.kept_previous.any() and not given.expected_errors.any()


def test_the_mask_of_a_prompt_is_where_it_is_above_one_half():
    probability = torch.tensor([[0.5, 0.51]])
    assert PromptedSlice(probability).mask.tolist() == [[False, True]]


def test_clicks_are_settled_once_they_were_propagated_from():
    state = State().with_prompt(1, prompt(0.9, clicks=(CLICK,)))
    assert state.changed and state.prompts[1].pending_clicks == (CLICK,)
    closed = state.with_round(Round.given(np.zeros((3, 2, 2), dtype=bool)))
    assert not closed.changed and closed.prompts[1].pending_clicks == ()
    assert closed.prompts[1].settled is state.prompts[1].probability
    assert state.changed  # the one before is as it was


def test_a_slice_without_its_prompt_was_never_edited():
    state = State().with_prompt(1, prompt(0.9)).with_prompt(2, prompt(0.8))
    state = state.with_prompt(1, prompt(0.7)).without_prompt(1)
    assert set(state.prompts) == {2} and state.edited == (2,) and state.changed
    assert not state.without_prompt(2).changed


def test_painted_slices_are_told_from_clicked_ones():
    state = State().with_prompt(1, prompt(0.9)).with_prompt(2, prompt(0.8, painted=True))
    assert state.painted == {2}


def test_the_other_mask_of_a_slice_is_the_propagations_or_the_round_befores():
    empty, full = np.zeros((3, 2, 2), dtype=bool), np.ones((3, 2, 2), dtype=bool)
    before, last = Round.given(empty), Round.given(full)
    once = last.with_other(1, before)
    assert [mask.all() for mask in once.masks] == [True, False, True]
    assert once.kept_previous.tolist() == [False, True, False]
    assert [mask.all() for mask in once.with_other(1, before).masks] == [True, True, True]
    assert np.array_equal(last.masks, full)  # the one before is as it was
