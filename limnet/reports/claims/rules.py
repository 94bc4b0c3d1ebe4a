"""The rules that check claims: each looks at the paper's own numbers, or at our runs."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from limnet.metrics import bootstrap_interval
from limnet.reports.claims.claim import Status, Verdict
from limnet.reports.claims.runs import Runs
from limnet.reports.results import published

TOLERANCE = 2.0  # points of DSC within which a cell counts as reproduced
HALF_DIGIT = 0.5 + 1e-9  # of the last printed digit: what rounding may do

Rule = Callable[..., Verdict]
Number = float | int


def verdict(holds: bool | np.bool, evidence: str) -> Verdict:
    """What the paper's own numbers say."""
    return Verdict(Status.HOLDS if holds else Status.CONTRADICTS, evidence)


def same(runs: Runs, *, values: dict[str, Any]) -> Verdict:
    """All the places give one value."""
    said = "; ".join(f"{place}: {value}" for place, value in values.items())
    return verdict(len(set(map(str, values.values()))) == 1, said)


def total(runs: Runs, *, terms: list[Number], equals: Number, within: Number = 0) -> Verdict:
    """Some numbers add up to another, up to what "about" may mean."""
    found = math.fsum(terms)
    said = f"{' + '.join(f'{term:g}' for term in terms)} = {found:g}, printed {equals:g}"
    return verdict(abs(found - equals) <= within + 1e-9, said)


def product(runs: Runs, *, factors: list[Number], equals: Number) -> Verdict:
    """Some numbers multiplied give another."""
    found = math.prod(factors)
    said = f"{' x '.join(f'{factor:g}' for factor in factors)} = {found:g}, printed {equals:g}"
    return verdict(abs(found - equals) < 1e-9, said)


def gain(
    runs: Runs, *, table: str, row: str, over: str, column: str, equals: Number, unit: str
) -> Verdict:
    """The difference of two cells, in points or relative, rounds to what the text gives."""
    cells = published(table).rows
    ours, theirs = cells.loc[row, column], cells.loc[over, column]
    found = ours - theirs if unit == "points" else 100 * (ours - theirs) / theirs
    digit = 10.0 ** -len(str(equals).partition(".")[2])
    said = f"{ours:g} against {theirs:g}: {found:.3f} {unit}, printed {equals:g}"
    return verdict(abs(found - equals) <= HALF_DIGIT * digit, said)


def cell(runs: Runs, *, table: str, row: str, column: str, equals: Number) -> Verdict:
    """The text repeats a cell of a table."""
    found = published(table).rows.loc[row, column]
    return verdict(found == equals, f"the table has {found:g}, the text {equals:g}")


def higher(
    runs: Runs, *, table: str, row: str, than: list[str] | None = None, columns: Sequence[str] = ()
) -> Verdict:
    """A row is above others in every one of some columns; above all others if none are named."""
    cells = published(table).rows
    than, columns = list(than or cells.index.drop(row)), list(columns or cells.columns)
    best = cells.loc[than, columns].max()
    lost = [name for name in columns if not cells.loc[row, name] > best[name]]
    said = ", ".join(f"{name} {cells.loc[row, name]:g} : {best[name]:g}" for name in columns)
    return verdict(not lost, said + (f"; not higher in {', '.join(lost)}" if lost else ""))


def lower(
    runs: Runs, *, table: str, row: str, than: list[str] | None = None, columns: Sequence[str] = ()
) -> Verdict:
    """A row is below others in every one of some columns."""
    cells = published(table).rows
    than, columns = list(than or cells.index.drop(row)), list(columns or cells.columns)
    worst = cells.loc[than, columns].min()
    won = [name for name in columns if not cells.loc[row, name] < worst[name]]
    said = ", ".join(f"{name} {cells.loc[row, name]:g} : {worst[name]:g}" for name in columns)
    return verdict(not won, said + (f"; not lower in {', '.join(won)}" if won else ""))


def lower_only_in(runs: Runs, *, table: str, row: str, than: str, columns: list[str]) -> Verdict:
    """The columns in which a row is below another are these and no others."""
    cells = published(table).rows
    found = [name for name in cells.columns if cells.loc[row, name] < cells.loc[than, name]]
    said = f"lower in {', '.join(found) or 'none'}; the text names {', '.join(columns)}"
    return verdict(set(found) == set(columns), said)


def second(runs: Runs, *, table: str, column: str, rows: list[str]) -> Verdict:
    """The cells that are underlined in a column are its second highest."""
    values = published(table).rows[column]
    distinct = sorted(set(values), reverse=True)
    found = list(values.index[values == distinct[1]])
    said = f"second is {', '.join(found)} ({distinct[1]:g}); underlined {', '.join(rows)}"
    return verdict(set(found) == set(rows), said)


def counted(runs: Runs, *, table: str, rows: list[str], equals: int) -> Verdict:
    """A table has as many such rows as the text says."""
    known = published(table).rows.index
    missing = [name for name in rows if name not in known]
    said = f"{', '.join(rows)}: {len(rows)}, the text says {equals}"
    return verdict(not missing and len(rows) == equals, said)


def undefined(
    runs: Runs, *, chosen: str, parameter: str = "", moves: Sequence[str] = ()
) -> Verdict:
    """The paper leaves it open; what we take, and how far another choice moves DSC in our runs.

    Args:
        moves: choices of notebook 61, or "per slice" for the mean over slices.
    """
    where = f" (parameter `{parameter}`)" if parameter else ""
    run = runs.result("61_protocol_sensitivity", "sensitivity") if moves else None
    moved = "" if run is None else "".join(f"; {each}" for each in _moved(run.rows, moves))
    return Verdict(Status.UNDEFINED, f"we take {chosen}{where}{moved}")


def _moved(rows: pd.DataFrame, moves: Sequence[str]) -> Iterator[str]:
    """Points of DSC between the usual choice and others, for each collection."""
    for collection, part in rows.groupby("collection", sort=False):
        means = part.groupby("choice", sort=False)[["per case", "per slice"]].mean()
        usual = means.iloc[0]
        others = {
            choice: means.loc[choice, "per case"] for choice in moves if choice in means.index
        }
        others |= {"per slice": usual["per slice"]} if "per slice" in moves else {}
        said = [f"{name} {value - usual['per case']:+.1f}" for name, value in others.items()]
        if said:
            yield f"moves {collection} by {', '.join(said)} points"


def blocked(runs: Runs, *, because: str) -> Verdict:
    """It needs what is not public."""
    return Verdict(Status.BLOCKED, because)


def waiting(runs: Runs, *, needs: str) -> Verdict:
    """It needs what is public, and no run of ours shows it yet."""
    return Verdict(Status.WAITING, needs)


def run_cell(
    runs: Runs, *, notebook: str, table: str, column: str, method: str, paper: Number, needs: str
) -> Verdict:
    """A cell of a table against our own run: within two points, or inside our interval.

    Args:
        method: the end of our rows' names, "" or " w/o MRF".
    """
    run = runs.result(notebook, f"{table}_cases")
    if run is None or not run.real:
        return Verdict(Status.WAITING, needs if run is None else f"{needs}; so far {run.ran_on}")
    rows = run.rows
    ours = [name for name in rows["method"].unique() if name.startswith("ours")]
    name = next((each for each in ours if each.removeprefix("ours") == method), None)
    last = rows[(rows["column"] == column) & (rows["method"] == name)]
    last = last[last["round"] == rows["round"].max()]
    if not len(last):
        return Verdict(Status.WAITING, f"{needs}; the run has no such row")
    scores = (100 * last["dice"]).tolist()
    low, high = bootstrap_interval(scores)
    mean = sum(scores) / len(scores)
    near = abs(mean - paper) <= TOLERANCE or low <= paper <= high
    said = f"ours {mean:.1f} ({low:.1f} to {high:.1f}, {len(scores)} cases), paper {paper:g}"
    return Verdict(Status.REPRODUCED if near else Status.OUTSIDE, said)


def run_count(runs: Runs, *, data_set: str, split: str, paper: Number, needs: str) -> Verdict:
    """A number of Table III is our count of all images or slices, or of those with a label."""
    run = runs.result("53_table_3_datasets", "table_3")
    rows = pd.DataFrame() if run is None else run.rows
    if len(rows):
        of_set = (rows["data set"] == data_set) & (rows["split"] == split)
        rows = rows[of_set & (rows["counted on"] == "the data set")]
    if not len(rows):
        return Verdict(Status.WAITING, needs)
    counted, labelled = (int(rows.iloc[0][name]) for name in ("ours", "ours with a label"))
    said = f"ours {counted}, with a label {labelled}, paper {paper:g}"
    return Verdict(Status.REPRODUCED if paper in (counted, labelled) else Status.OUTSIDE, said)


def run_value(
    runs: Runs,
    *,
    notebook: str,
    result: str,
    column: str,
    at: dict[str, Any],
    needs: str,
    at_least: Number = -math.inf,
    at_most: Number = math.inf,
) -> Verdict:
    """A number of a run of ours lies where the claim has it.

    Args:
        at: the values that other columns have in the row that is meant.
    """
    run = runs.result(notebook, result)
    rows = pd.DataFrame() if run is None else run.rows
    for name, value in at.items():
        rows = rows[rows[name] == value] if name in rows else rows.iloc[:0]
    if column not in rows or not rows[column].notna().any():
        return Verdict(Status.WAITING, needs)
    values = rows[column].dropna()
    inside = values.between(at_least, at_most).all()
    said = f"ours {', '.join(f'{value:.4g}' for value in values)}"
    return Verdict(Status.REPRODUCED if inside else Status.OUTSIDE, said)


def steady(
    runs: Runs, *, notebook: str, result: str, fused: bool, claimed: bool, needs: str
) -> Verdict:
    """DSC of no case falls from one round to the next, in our rounds with or without fusion.

    One fall refutes it, also on phantoms; that it holds is shown by the published data only.

    Args:
        claimed: False where the paper says that it does fall.
    """
    run = runs.result(notebook, result)
    if run is None:
        return Verdict(Status.WAITING, needs)
    methods = run.rows["method"].astype(str)
    ours = methods.str.startswith("ours") & (methods.str.endswith("w/o MRF") != fused)
    rows = run.rows[ours].sort_values("round")
    steps = rows.groupby(["column", "case"])["dice"].diff().dropna()
    falls = int((steps < 0).sum())
    said = f"DSC fell after {falls} of {len(steps)} rounds; ran on {run.ran_on}"
    if claimed and falls:
        return Verdict(Status.OUTSIDE, said)
    if not run.real or not len(steps):
        return Verdict(Status.WAITING, f"{needs}; so far {said}")
    return Verdict(Status.REPRODUCED if claimed == (falls == 0) else Status.OUTSIDE, said)


def _rules(functions: Iterable[Rule]) -> dict[str, Rule]:
    return {function.__name__: function for function in functions}


RULES = _rules(
    [
        same,
        total,
        product,
        gain,
        cell,
        higher,
        lower,
        lower_only_in,
        second,
        counted,
        undefined,
        blocked,
        waiting,
        run_cell,
        run_count,
        run_value,
        steady,
    ]
)
