import numpy as np
import pytest
import torch

from limnet.method.prompts import Click
from limnet.method.state import PromptedSlice, Recipe, Round, State, UndoStack
from limnet.networks.checkpoints import lite, paper


def test_the_lite_networks_ask_for_the_lite_recipe():
    assert Recipe.of(lite()) == Recipe.lite() == Recipe.of(lite(), "lite")
    assert Recipe.of(lite(), "paper") == Recipe.paper()
    with torch.device("meta"):
        asked = Recipe.of(paper())
    assert asked.zoom.target_size == 400 and not asked.close_up and not asked.refinements
    with pytest.raises(ValueError, match="'other'"):
        Recipe.of(lite(), "other")


def test_a_history_goes_back_and_forth():
    history = UndoStack(0)
    for state in (1, 2, 3):
        history.push(state)
    history.undo()
    history.undo()
    assert history.now == 1 and history.can_undo and history.can_redo
    history.redo()
    assert history.now == 2


CLICK = Click(1, 2, 3)


def prompt(value, **more):
    return PromptedSlice(torch.full((2, 2), value), **more)


def test_a_round_from_elsewhere_has_its_masks_and_no_doubt():
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[1] = True
    given = Round.from_masks(masks)
    assert np.array_equal(given.masks, masks) and given.propagated is given.masks
    assert given.prompt_slice == 1
    assert given.clicks == () and not given.kept_previous.any() and not given.expected_errors.any()


def test_clicks_are_committed_once_they_were_propagated_from():
    state = State().with_prompt(1, prompt(0.9, clicks=(CLICK,)))
    assert state.changed and state.prompts[1].pending_clicks == (CLICK,)
    closed = state.with_round(Round.from_masks(np.zeros((3, 2, 2), dtype=bool)))
    assert not closed.changed and closed.prompts[1].pending_clicks == ()
    assert closed.prompts[1].committed is state.prompts[1].probability
    assert state.changed  # the one before is as it was


def test_the_other_mask_of_a_slice_is_the_propagations_or_the_round_befores():
    empty, full = np.zeros((3, 2, 2), dtype=bool), np.ones((3, 2, 2), dtype=bool)
    before, last = Round.from_masks(empty), Round.from_masks(full)
    once = last.with_other(1, before)
    assert [mask.all() for mask in once.masks] == [True, False, True]
    assert once.kept_previous.tolist() == [False, True, False]
    assert [mask.all() for mask in once.with_other(1, before).masks] == [True, True, True]
    assert np.array_equal(last.masks, full)  # the one before is as it was
