"""The rules that check claims: each looks at the paper's own numbers, or at our runs."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from limnet.metrics import bootstrap_interval
from limnet.reports.results import published

TOLERANCE = 2.0  # points of DSC within which a cell counts as reproduced
HALF_DIGIT = 0.5 + 1e-9  # of the last printed digit: what rounding may do

Number = float | int


class Status(StrEnum):
    """What a rule may find; the words that the ledger shows."""

    HOLDS = "holds in the paper's own numbers"
    CONTRADICTS = "contradicts the paper's own numbers"
    REPRODUCED = "reproduced within tolerance"
    OUTSIDE = "outside tolerance"
    WAITING = "waiting for a run"  # public data or hardware that were not at hand
    BLOCKED = "blocked"  # data, masks or weights that are not public
    UNDEFINED = "undefined"  # the paper does not say


@dataclass(frozen=True)
class Verdict:
    """What a rule found, and by what."""

    status: Status
    evidence: str


class Run(NamedTuple):
    """A result that a notebook wrote."""

    rows: pd.DataFrame
    ran_on: str  # the words about the data; empty where the run says nothing

    @property
    def real(self) -> bool:
        """Whether all it ran on are the published data, no phantoms."""
        return bool(self.ran_on) and "synthetic" not in self.ran_on


@dataclass(frozen=True)
class Runs:
    """The reports folder."""

    folder: Path

    def result(self, notebook: str, name: str) -> Run | None:
        """`<folder>/<notebook>/<name>.json`; None where it is missing or unreadable."""
        try:
            text = (self.folder / notebook / f"{name}.json").read_text(encoding="utf-8")
            content = json.loads(text)
            return Run(pd.DataFrame(content["rows"]), str(content["provenance"].get("ran_on", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def rows(self, notebook: str, name: str) -> pd.DataFrame:
        """The rows of a result; none where it is missing."""
        run = self.result(notebook, name)
        return pd.DataFrame() if run is None else run.rows


def verdict(holds: bool | np.bool, evidence: str) -> Verdict:
    """What the paper's own numbers say."""
    return Verdict(Status.HOLDS if holds else Status.CONTRADICTS, evidence)


def _reproduced(is_near: bool | np.bool, evidence: str) -> Verdict:
    """What our run says."""
    return Verdict(Status.REPRODUCED if is_near else Status.OUTSIDE, evidence)


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


def higher(runs: Runs, **about: Any) -> Verdict:
    """A row is above others in every one of some columns; above all others if none are named."""
    return _beside_others(1, "higher", **about)


def lower(runs: Runs, **about: Any) -> Verdict:
    """A row is below others in every one of some columns; below all others if none are named."""
    return _beside_others(-1, "lower", **about)


def _beside_others(
    sign: int,
    word: str,
    *,
    table: str,
    row: str,
    than: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Verdict:
    cells = published(table).rows
    than, columns = list(than or cells.index.drop(row)), list(columns or cells.columns)
    nearest = sign * (sign * cells.loc[than, columns]).max()
    lost = [name for name in columns if not sign * cells.loc[row, name] > sign * nearest[name]]
    said = ", ".join(f"{name} {cells.loc[row, name]:g} : {nearest[name]:g}" for name in columns)
    return verdict(not lost, said + (f"; not {word} in {', '.join(lost)}" if lost else ""))


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
        others = means["per case"].reindex([*moves]).dropna()
        if "per slice" in moves:
            others["per slice"] = means["per slice"].iloc[0]
        usual = means["per case"].iloc[0]
        said = ", ".join(f"{name} {value - usual:+.1f}" for name, value in others.items())
        if said:
            yield f"moves {collection} by {said} points"


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
    return _reproduced(near, said)


def run_count(runs: Runs, *, data_set: str, split: str, paper: Number, needs: str) -> Verdict:
    """A number of Table III is our count of all images or slices, or of those with a label."""
    at = {"data set": data_set, "split": split, "counted on": "the data set"}
    rows = _rows_at(runs.rows("53_table_3_datasets", "table_3"), at)
    if not len(rows):
        return Verdict(Status.WAITING, needs)
    counted, labelled = (int(rows.iloc[0][name]) for name in ("ours", "ours with a label"))
    said = f"ours {counted}, with a label {labelled}, paper {paper:g}"
    return _reproduced(paper in (counted, labelled), said)


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
    rows = _rows_at(runs.rows(notebook, result), at)
    values = rows[column].dropna() if column in rows else []
    if not len(values):
        return Verdict(Status.WAITING, needs)
    said = f"ours {', '.join(f'{value:.4g}' for value in values)}"
    return _reproduced(values.between(at_least, at_most).all(), said)


def _rows_at(rows: pd.DataFrame, at: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in at.items():
        rows = rows[rows[name] == value] if name in rows else rows.iloc[:0]
    return rows


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
    return _reproduced(claimed == (falls == 0), said)


PAPER_RULES = (same, total, product, gain, cell, higher, lower, lower_only_in, second, counted)
RUN_RULES = (undefined, blocked, waiting, run_cell, run_count, run_value, steady)
RULES: dict[str, Callable[..., Verdict]] = {
    rule.__name__: rule for rule in (*PAPER_RULES, *RUN_RULES)
}
