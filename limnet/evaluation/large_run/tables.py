"""What a run gave, as tables in which a failure is a row."""

from collections.abc import Iterable

import pandas as pd

from limnet.evaluation.evaluate import ROUND_COLUMNS
from limnet.evaluation.large_run.records import Done

NAMES = ["collection", "case", "organ"]
ALL = "all that were left"  # organs of a case that failed as a whole


def all_rows(done: Iterable[Done]) -> pd.DataFrame:
    """A row a round of every organ, and a row with an error for what failed; sorted by name."""
    rows = []
    for each in done:
        rows += [{**row, "result": each.result, "error": None} for row in each.rows]
        if each.error:
            named = (each.case.collection, each.case.name, each.organ or ALL)
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
