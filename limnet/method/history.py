"""States that one can go back to and forth again."""

from typing import Generic, TypeVar

State = TypeVar("State")


class UndoStack(Generic[State]):
    """The state as it is now, those before it, and those that were undone."""

    def __init__(self, state: State) -> None:
        """Begin with a state that cannot be undone."""
        self._past: tuple[State, ...] = (state,)
        self._undone: tuple[State, ...] = ()

    @property
    def now(self) -> State:
        return self._past[-1]

    @property
    def can_undo(self) -> bool:
        return len(self._past) > 1

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def push(self, state: State) -> None:
        """Something was done: what was undone before cannot be done again."""
        self._past, self._undone = (*self._past, state), ()

    def amend(self, state: State) -> None:
        """What was done last came out otherwise."""
        self._past = (*self._past[:-1], state)

    def undo(self) -> None:
        """Go back by one; nothing happens at the very start."""
        if self.can_undo:
            self._undone = (*self._undone, self.now)
            self._past = self._past[:-1]

    def redo(self) -> None:
        """Go forth by one; nothing happens if nothing was undone, or anything done since."""
        if self.can_redo:
            self._past = (*self._past, self._undone[-1])
            self._undone = self._undone[:-1]
