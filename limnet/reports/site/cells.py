"""Numbers as a page prints them, in grids of cells."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

GAP = "–"


class Cell(NamedTuple):
    """One cell; `kind` are the classes of style.css."""

    text: str
    kind: str = ""
    href: str = ""
    note: str = ""  # said when asked, and below the grid
    points: tuple[float | None, float | None] | None = None  # paper and ours on 0 to 100


class Grid(NamedTuple):
    """A table of a page: its first column names the rows."""

    caption: str
    head: list[Cell]
    rows: list[list[Cell]]
    notes: tuple[str, ...] = ()


def is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 1, *, signed: bool = False) -> str:
    """With so many decimals and a true minus; a dash for a gap."""
    if not is_number(value):
        return GAP
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def plain(value: Any) -> str:
    """Any value of a result in few characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isfinite(value) and value.is_integer():
            return plain(int(value))
        return number(value, 3)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return GAP if value is None or value == "" else str(value)


def duration(seconds: Any) -> str:
    """As a person says it: 46 s, 12 min, 1 h 5 min."""
    if not is_number(seconds):
        return GAP
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def moment(utc: Any) -> str:
    """Date and minute of an ISO time; what is none stays as it is."""
    try:
        when = datetime.fromisoformat(utc)
    except (TypeError, ValueError):
        return plain(utc)
    if when.tzinfo is not None:
        when = when.astimezone(UTC)
    return f"{when:%Y-%m-%d %H:%M}"


def average(values: Sequence[float | None]) -> float | None:
    """The mean; none where one is missing."""
    if not values or not all(is_number(value) for value in values):
        return None
    return sum(values) / len(values)


def grid_of_rows(caption: str, rows: Sequence[dict[str, Any]], most: int = 60) -> Grid:
    """Any result as a grid: columns as in its rows, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {
        name
        for name in names
        if all(row.get(name) is None or is_number(row.get(name)) for row in rows)
    }
    long = {name for name in names if any(len(plain(row.get(name))) > 40 for row in rows)}
    kinds = {name: "n" if name in numeric else "long" if name in long else "" for name in names}
    head = [Cell(name.replace("_", " "), kinds[name]) for name in names]
    cells = [[Cell(plain(row.get(name)), kinds[name]) for name in names] for row in rows[:most]]
    left = len(rows) - most
    notes = (f"{left} more rows stand in the CSV file.",) if left > 0 else ()
    return Grid(caption, head, cells, notes)
