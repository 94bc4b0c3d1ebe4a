"""What a large run has before it and what it gave, as tables in which a failure is a row."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from limnet.data import Case
from limnet.evaluation.evaluate import ROUND_COLUMNS

NAMES = ["collection", "case", "organ"]
ALL_LEFT = "all that were left"  # labels of a case that failed as a whole


@dataclass(frozen=True)
class TaskResult:
    """What became of one label of a case."""

    case: Case
    organ: str | None  # None: all labels that were left of a case that failed as a whole
    rows: tuple[dict[str, Any], ...] = ()  # a round each; none where the case does not show it
    error: str | None = None  # type and message
    result: str | None = None  # its file in the cache


@dataclass(frozen=True)
class Plan:
    """What a run has before it; None where nothing like it was ever measured."""

    cases: int
    targets: int  # at most: which labels a case shows is only known once it was read
    done: int  # targets
    cases_left: int
    gigabytes: float  # to read
    memory_gb: float | None  # peak of a worker
    seconds: float | None  # wall time
    unmeasured: int  # cases left of collections of which none was measured
    workers: int

    def table(self) -> pd.DataFrame:
        """Two columns of words."""
        unknown = f"unknown: {self.unmeasured} of the cases are like none that was measured"
        rows = {
            "cases": self.cases,
            "targets, at most": self.targets,
            "of these done": self.done,
            "cases left": self.cases_left,
            "GB to read": f"{self.gigabytes:.3f}",
            "peak memory of a worker, GB": unknown,
            f"minutes with {self.workers} workers": unknown,
        }
        if self.seconds is not None:
            costs = [f"{self.memory_gb:.1f}", f"{self.seconds / 60:.1f}"]
            rows |= zip([*rows][-2:], costs if self.cases_left else "--", strict=True)
        return pd.DataFrame({"what": rows.keys(), "value": map(str, rows.values())})


def all_rows(done: Iterable[TaskResult]) -> pd.DataFrame:
    """A row a round of every organ, and a row with an error for what failed; sorted by name."""
    rows = []
    for each in done:
        rows += [{**row, "result": each.result, "error": None} for row in each.rows]
        if each.error:
            named = (each.case.collection, each.case.name, each.organ or ALL_LEFT)
            rows.append({**dict(zip(NAMES, named, strict=True)), "error": each.error})
    frame = pd.DataFrame(rows, columns=[*NAMES, "round", *ROUND_COLUMNS, "result", "error"])
    return frame.sort_values([*NAMES, "round"], ignore_index=True)


def by_label(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC after the first and the last round, a row a collection and label.

    Columns: collection, label, cases, "round 1" and so on, seconds (of all rounds of a case, the
    median), and failed: a label on which a case failed, though none went through, has its row too.

    Args:
        rows: those of `all_rows`.
    """
    went = rows[rows["error"].isna()]
    marks = sorted({1, int(went["round"].max())}) if len(went) else []
    table = []
    for (collection, label), part in rows.groupby(["collection", "organ"]):
        means = part.groupby("round")["dice"].mean()
        seconds = part[part["error"].isna()].groupby("case")["seconds"].sum()
        row = {"collection": collection, "label": label, "cases": len(seconds)}
        row |= {f"round {mark}": means.get(mark, float("nan")) for mark in marks}
        table.append(row | {"seconds": seconds.median(), "failed": int(part["error"].count())})
    return pd.DataFrame(table)


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """What failed, and how, for a table in Markdown."""
    failed = rows.loc[rows["error"].notna(), [*NAMES, "error"]].reset_index(drop=True)
    return failed.assign(error=failed["error"].astype(str).str.replace("|", r"\|"))
