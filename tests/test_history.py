from limnet.method.history import UndoStack


def test_a_history_goes_back_and_forth():
    history = UndoStack(0)
    for state in (1, 2, 3):
        history.push(state)
    history.undo()
    history.undo()
    assert history.now == 1 and history.can_undo and history.can_redo
    history.redo()
    assert history.now == 2


def test_at_its_ends_nothing_happens():
    history = UndoStack(0)
    history.undo()
    history.redo()
    assert history.now == 0 and not history.can_undo and not history.can_redo


def test_what_is_done_anew_forgets_what_was_undone():
    history = UndoStack(0)
    history.push(1)
    history.undo()
    history.push(2)
    history.redo()
    assert history.now == 2
    history.undo()
    assert history.now == 0


def test_what_is_amended_takes_the_place_of_the_last_state():
    history = UndoStack(0)
    history.push(1)
    history.amend(5)
    assert history.now == 5
    history.undo()
    assert history.now == 0
