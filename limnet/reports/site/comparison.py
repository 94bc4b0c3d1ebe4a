"""A table's run beside the paper's numbers: what the pages of Tables I to VI show."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pandas as pd
import yaml

from limnet.metrics import bootstrap_interval
from limnet.reports.results import PublishedTable, published, published_counts
from limnet.reports.site.cells import GAP, Cell, Grid, average, grid_of_rows, is_number, number
from limnet.reports.site.contents import GAINS, NOTES
from limnet.reports.site.runs import Ground, Result

PAPER, DIFFERENCE, MEAN = "paper (LIM-Net)", "difference", "mean"
WITHOUT = "w/o MRF"
CASE_COLUMNS = {"column", "method", "case", "round", "dice"}


@dataclass(frozen=True)
class Measured:
    """What a run has in a table's columns, in percent."""

    heading: str  # of our numbers, as the run calls them
    ours: dict[str, float | None]
    beside: dict[str, dict[str, float | None]]  # other methods that were run
    paper: dict[str, float | None]  # the paper's, as the run has them
    ground: Ground
    twins: frozenset[str] | None = None  # columns whose numbers are of twins; None: all or none

    def mean(self, table: PublishedTable) -> float | None:
        """Of the paper's columns; none where one is missing."""
        return average([self.ours.get(name) for name in table.rows.columns])

    def mark(self, column: str | None = None) -> str:
        """The class of a column's numbers, or of any: "twin" unless they are the data set's."""
        if column is None or self.twins is None:
            return "twin" if self.ground.synthetic else ""
        return "twin" if column in self.twins else ""


@cache  # the file is long, and every page asks
def paper_table(name: str) -> PublishedTable | None:
    """The paper's numbers; none where there are no DSC to compare, as of Table III."""
    try:
        return published(name)
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def counts_grid() -> Grid | None:
    """The paper's Table III, which counts data and has no DSC."""
    try:
        counts = published_counts().reset_index(names="data set")
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    rows = counts.astype(object).where(counts.notna(), None).to_dict("records")
    return grid_of_rows("2D images or slices, as printed", rows)


def measured(result: Result, cases: Result | None = None) -> Measured:
    """A table's result as `limnet.reports.results.comparison` makes it.

    Args:
        cases: every round of every case, by which a run on some real data sets knows its columns.

    Raises:
        ValueError: it has other columns.
    """
    names = list(result.rows[0])
    if not {PAPER, DIFFERENCE} <= set(names) or names.index(DIFFERENCE) < 2:
        raise ValueError(f"of another version: a row must have {PAPER!r}, ours, {DIFFERENCE!r}")
    target, heading = names[0], names[names.index(DIFFERENCE) - 1]
    rows = {str(row.get(target)): row for row in result.rows if row.get(target) != MEAN}

    def of(column: str) -> dict[str, float | None]:
        values = {name: row.get(column) for name, row in rows.items()}
        if not all(value is None or is_number(value) for value in values.values()):
            raise ValueError(f"of another version: {column!r} must be numbers")
        return {name: None if value is None else float(value) for name, value in values.items()}

    beside = {name: of(name) for name in names[names.index(DIFFERENCE) + 1 :]}
    ground = result.ground
    if "synthetic" in heading and not ground.synthetic:
        ground = Ground.TWINS  # whatever else it says
    twins = _twin_columns(cases) if ground is Ground.PART and cases else None
    return Measured(heading, of(heading), beside, of(PAPER), ground, twins)


def _twin_columns(cases: Result) -> frozenset[str] | None:
    """Columns with a case of a twin; none where the cases do not say their collection."""
    if not all({"collection", "column"} <= row.keys() for row in cases.rows):
        return None
    twins = [row for row in cases.rows if "synthetic" in str(row["collection"])]
    return frozenset(str(row["column"]) for row in twins) or None


def digits(table: PublishedTable) -> int:
    """As many decimals as the paper prints: one, two in Table V."""
    return 1 if (table.rows.round(1) == table.rows).all(axis=None) else 2


def differs_from_paper(table: PublishedTable, run: Measured) -> list[str]:
    """Columns in which the run held other numbers for the paper's than `published.yaml` does."""
    printed = table.rows.loc[table.limnet]
    return [
        name
        for name, value in printed.items()
        if run.paper.get(name) is None or abs(run.paper[name] - value) > 1e-6
    ]


def comparison_grid(
    key: str, table: PublishedTable, run: Measured, cases: pd.DataFrame | None
) -> Grid:
    """A row a target: paper, ours, difference, the interval over cases, and both on a line."""
    places, printed = digits(table), table.rows.loc[table.limnet]
    several = bool(cases is not None and cases.groupby(["method", "column"]).size().max() > 1)
    pairs = {str(name): (value, run.ours.get(name)) for name, value in printed.items()}
    pairs[MEAN] = (average(list(printed)), run.mean(table))
    pairs |= {name: (None, value) for name, value in run.ours.items() if name not in pairs}
    all_mark = run.mark() if run.twins is None else ""  # else their rows have it
    head = [Cell(table.target), Cell("paper", "n paper"), Cell("ours", f"n ours {all_mark}")]
    head += [Cell("difference", "n")] + [Cell("relative, %", "n")] * (key in GAINS)
    head += [Cell("95 % interval", "n")] * several
    head += [Cell("cases", "n"), Cell("0 to 100", "chart")]
    rows = []
    for name, (paper, ours) in pairs.items():
        mark = run.mark(None if name == MEAN else name)
        kind = "" if run.twins is None else mark
        row = [Cell(name, "total " * (name == MEAN) + kind)]
        row += [Cell(number(paper, places), "n paper")]
        row += [Cell(number(ours, places), f"n ours {mark}")]
        row += _distances(paper, ours, places, mark)[: 1 + (key in GAINS)]
        row += _interval(cases, run.heading, name, places, mark)[not several :]
        rows.append([*row, Cell("", f"chart {mark}", points=(paper, ours))])
    return Grid(f"{table.unit}; the mean is over the rows above it", head, rows)


def _distances(paper: float | None, ours: float | None, places: int, mark: str) -> list[Cell]:
    """Ours less the paper's in points, then in relative percent."""
    if not is_number(paper) or not is_number(ours):
        return [Cell(GAP, "n"), Cell(GAP, "n")]
    kind = f"n {mark}" if mark else f"n {'up' if ours > paper else 'down' if ours < paper else ''}"
    share = 100 * (ours / paper - 1) if paper else None
    return [
        Cell(number(ours - paper, places, signed=True), kind),
        Cell(number(share, 1, signed=True), kind),
    ]


def _interval(
    cases: pd.DataFrame | None, heading: str, column: str, places: int, mark: str
) -> list[Cell]:
    """The bootstrap interval of the mean over cases, and how many cases there are."""
    if cases is None:
        return [Cell(GAP, "n"), Cell(GAP, "n")]
    scores = cases[(cases["method"] == heading) & (cases["column"] == column)]["dice"]
    if len(scores) < 2:
        return [Cell(GAP, "n"), Cell(str(len(scores) or GAP), "n")]
    low, high = (number(100 * bound, places) for bound in bootstrap_interval(scores.tolist()))
    return [Cell(f"{low} to {high}", f"n {mark}"), Cell(str(len(scores)), "n")]


def gains_grid(key: str, table: PublishedTable, run: Measured | None) -> Grid | None:
    """The gain in relative percent that the paper's text speaks of, the paper's and ours.

    Ours stands there only where both sides of it were measured on the same data.
    """
    if key not in GAINS or GAINS[key] not in table.rows.index:
        return None
    base = table.rows.loc[GAINS[key]]
    ours = {}
    if run and key == "table_2":
        ours = next((run.beside[name] for name in run.beside if name.endswith(WITHOUT)), {})
    elif run and run.ground is Ground.REAL:
        ours = dict(base)
    head = [Cell(table.target), Cell("paper", "n paper"), Cell("ours", "n ours")]
    rows = []
    for name, value in table.rows.loc[table.limnet].items():
        gain = None
        if run and is_number(run.ours.get(name)) and ours.get(name):
            gain = 100 * (run.ours[name] / ours[name] - 1)
        printed = number(100 * (value / base[name] - 1), 2, signed=True)
        row = [Cell(str(name)), Cell(printed, "n paper")]
        mark = run.mark(str(name)) if run and gain is not None else ""
        rows.append([*row, Cell(number(gain, 2, signed=True), f"n ours {mark}")])
    said = "" if ours or not run else " Ours was run on twins, the other row was not: no gain."
    return Grid(f"Gain over “{GAINS[key]}”, relative %.{said}", head, rows)


def methods_grid(key: str, table: PublishedTable, run: Measured | None) -> Grid:
    """All published rows as printed, then what was run here; the best of a column marked.

    Numbers of twins do not take part in what is best.
    """
    places, targets = digits(table), list(table.rows.columns)
    printed = table.rows.to_dict("index")
    ours = {run.heading: run.ours, **run.beside} if run else {}
    best = {}
    for name in targets:
        taking_part = list(printed.values())
        if run and run.ground in (Ground.REAL, Ground.PART) and not run.mark(name):
            taking_part += ours.values()
        best[name] = max(row[name] for row in taking_part if is_number(row.get(name)))
    head = [Cell("method"), *(Cell(name, "n") for name in targets), Cell(MEAN, "n")]
    rows, notes = [], []
    for method, row in [*printed.items(), *ours.items()]:
        here = method in ours
        marks = {name: run.mark(name) if here and run else "" for name in targets}
        kind = "here" if here else "own" if method == table.limnet else "paper"
        note = "" if here else NOTES.get(key, {}).get(method, "")
        if note and note not in notes:
            notes.append(note)
        mark = run.mark() if here and run else ""
        name_kind = f"{kind} {mark}"
        cells = [Cell(method, name_kind, note=str(notes.index(note) + 1) if note else "")]
        for name in targets:
            wins = not marks[name] and row.get(name) == best[name]
            words = f"n {kind} {marks[name]}" + " best" * wins
            cells.append(Cell(number(row.get(name), places), words))
        mean = average([row.get(name) for name in targets])
        rows.append([*cells, Cell(number(mean, places), f"n {kind} {mark}")])
    said = [f"{place}: {note}." for place, note in enumerate(notes, start=1)]
    said_first = "; as printed, then what was run here" if run else ", as printed"
    return Grid(f"{table.unit}{said_first}", head, rows, tuple(said))


def read_cases(result: Result | None) -> pd.DataFrame | None:
    """The rounds of every case of a table's run; none where they are not of this form."""
    if result is None:
        return None
    frame = pd.DataFrame(result.rows)
    if not CASE_COLUMNS.issubset(frame.columns):
        return None
    numbers = all(pd.api.types.is_numeric_dtype(frame[name]) for name in ("round", "dice"))
    names = all(
        isinstance(name, str) for name in frame[["column", "method", "case"]].to_numpy().flat
    )
    return frame.dropna(subset=["round", "dice"]) if numbers and names else None


def table_round(frame: pd.DataFrame, run: Measured) -> int | None:
    """The last round whose means over cases are the table's numbers; none: they do not belong."""
    ours = frame[frame["method"] == run.heading]
    means = 100 * ours.groupby(["round", "column"])["dice"].mean()
    for played in sorted(set(ours["round"]), reverse=True):
        here = means.loc[played]
        if all(is_number(run.ours.get(n)) and abs(run.ours[n] - v) < 1e-3 for n, v in here.items()):
            return int(played)
    return None


def cases_grid(frame: pd.DataFrame, run: Measured, played: int, places: int) -> Grid:
    """DSC of every case and method after one round, a column a target."""
    frame = frame[frame["round"] == played]
    columns = list(dict.fromkeys(frame["column"]))
    head = [Cell("case"), Cell("method"), *(Cell(str(name), "n") for name in columns)]
    rows = []
    methods = list(dict.fromkeys(frame["method"]))
    for case, method in product(dict.fromkeys(frame["case"]), methods):
        part = frame[(frame["case"] == case) & (frame["method"] == method)]
        scores: dict[Any, float] = dict(zip(part["column"], part["dice"], strict=True))
        if not scores:
            continue
        cells = [
            Cell(number(100 * scores[name], places), f"n {run.mark(str(name))}")
            if name in scores
            else Cell("")
            for name in columns
        ]
        mark = "twin" if any(run.mark(str(name)) for name in scores) else ""
        rows.append([Cell(str(case), mark), Cell(str(method)), *cells])
    return Grid(f"DSC in percent after round {played}, every case", head, rows)


def rounds_grid(frame: pd.DataFrame, run: Measured, places: int) -> Grid:
    """Ours after each round, the mean over cases, a row a target; then seconds."""
    ours = frame[frame["method"] == run.heading]
    played = sorted(set(ours["round"]))
    head = [Cell("round"), *(Cell(f"{number_:.0f}", "n") for number_ in played)]
    means, rows = ours.groupby(["column", "round"])["dice"].mean(), []
    for column in dict.fromkeys(ours["column"]):
        values = [100 * means[column].get(each, float("nan")) for each in played]
        mark = run.mark(str(column))
        cells = [Cell(number(value, places), f"n {mark}") for value in values]
        rows.append([Cell(str(column), mark), *cells])
    if "seconds" in ours and pd.api.types.is_numeric_dtype(ours["seconds"]):
        seconds = ours.groupby("round")["seconds"].mean()
        cells = [Cell(number(seconds[each], 2), "n paper") for each in played]
        rows.append([Cell("seconds", "total"), *cells])
    return Grid("Ours, DSC in percent after each round, mean over cases", head, rows)
