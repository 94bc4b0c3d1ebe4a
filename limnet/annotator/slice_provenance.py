"""Where the mask of each slice comes from: a round, or the user's clicks, brush or lock."""

from dataclasses import dataclass

from limnet.method.session import Session


@dataclass(frozen=True)
class SliceProvenance:
    """How one slice of an object came to its mask."""

    area_pixels: int
    # "painted", "clicked" or "locked" by the user; else "propagated", or "empty" without a pixel
    source: str
    round: int | None  # from 1: whose propagation it was; None if the user's, or no round did
    # P of Eq. 2 in the last round, 0.5 where both rounds agreed; None before the second round
    previous_better: float | None
    clicked: bool
    locked: bool


def slice_provenance(session: Session) -> tuple[SliceProvenance, ...]:
    """One record a slice of the session's volume, from slice 0 on, of the masks as they are now."""
    clicked = {click.slice_index for click in session.clicks}
    areas = session.packed_masks.areas.tolist()
    return tuple(
        _slice_provenance(session, index, area, index in clicked)
        for index, area in enumerate(areas)
    )


def _slice_provenance(
    session: Session, slice_index: int, area: int, clicked: bool
) -> SliceProvenance:
    state, rounds = session.state, session.rounds
    locked = slice_index in state.locked
    source = "propagated" if area else "empty"
    if slice_index in state.painted:
        source = "painted"
    elif slice_index in state.prompts:
        source = "clicked"
    elif locked:
        source = "locked"
    # Fusion that keeps a mask keeps it with its origin: look further back.
    made = [
        number
        for number, closed in enumerate(rounds, start=1)
        if not closed.kept_previous[slice_index]
    ]
    return SliceProvenance(
        area_pixels=area,
        source=source,
        round=made[-1] if made and source in ("propagated", "empty") else None,
        previous_better=float(rounds[-1].previous_better[slice_index]) if rounds[1:] else None,
        clicked=clicked,
        locked=locked,
    )
