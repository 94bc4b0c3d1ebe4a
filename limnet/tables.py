"""The paper's tables I, II, IV and V: what their columns are, and the runs that fill them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from limnet.datasets import DATA_SETS, Chosen
from limnet.evaluation import CaseEvaluation, evaluate_cases
from limnet.metrics import bootstrap_interval
from limnet.networks.checkpoints import LimNet


class Column(NamedTuple):
    """What a column of a table is about."""

    heading: str  # as the paper prints it
    data_set: str  # a key of DATA_SETS
    target: str  # a label there


KITS_AND_MSD = (
    Column("KIDNEY (Organ)", "kits19", "kidney"),
    Column("KIDNEY (Tumor)", "kits19", "tumour"),
    Column("Lung", "msd_lung", "tumour"),
    Column("Colon", "msd_colon", "tumour"),
)
TABLES = {
    "table_1": KITS_AND_MSD,
    "table_2": KITS_AND_MSD,
    "table_4": tuple(
        Column(heading, "btcv", target)
        for heading, target in (
            ("Left Kidney", "left kidney"),
            ("Right Kidney", "right kidney"),
            ("Aorta", "aorta"),
            ("Spleen", "spleen"),
            ("Esophagus", "oesophagus"),
            ("Liver", "liver"),
        )
    ),
    "table_5": (
        Column("Colon Cancer", "msd_colon", "tumour"),
        Column("Pancreas Tumor", "msd_pancreas", "tumour"),
    ),
}


def choose_cases(
    table: str, data_root: str | Path | None, twins: Path, *, cases: int = 0, seed: int = 0
) -> dict[str, Chosen]:
    """The cases of each data set that a table needs, by its key.

    Args:
        table: a key of TABLES.
        data_root, cases, seed: as `DataSet.choose`.
        twins: folder for the twins, each in a folder of its own.
    """
    keys = dict.fromkeys(column.data_set for column in TABLES[table])
    return {
        key: DATA_SETS[key].choose(data_root, twins / key, cases=cases, seed=seed) for key in keys
    }


def ran_on(chosen: Mapping[str, Chosen]) -> str:
    """What the first line of a report says."""
    return "; ".join(each.ran_on for each in chosen.values())


def run_columns(
    table: str,
    chosen: Mapping[str, Chosen],
    networks: LimNet,
    cache: Path,
    **options: Any,
) -> Iterator[tuple[Column, CaseEvaluation]]:
    """Evaluate every case of every column, as `evaluate_cases` does with these options."""
    for column in TABLES[table]:
        cases = chosen[column.data_set].cases
        for done in evaluate_cases(cases, [column.target], networks, cache, **options):
            yield column, done


def rows_of(done: list[tuple[Column, CaseEvaluation]], method: str) -> pd.DataFrame:
    """A row a round of every case, with the columns `column` (its heading) and `method` first."""
    return pd.DataFrame(
        [
            {"column": column.heading, "method": method, **row}
            for column, each in done
            for row in each.rows()
        ]
    )


def final_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC after the last round, a row a column of the table and method, in [0, 1].

    Columns: column, method, cases, dice, and the bootstrap interval's low and high.
    """
    last = rows[rows["round"] == rows["round"].max()]
    scores = []
    for (column, method), part in last.groupby(["column", "method"], sort=False):
        low, high = bootstrap_interval(part["dice"].tolist())
        named = {"column": column, "method": method, "cases": len(part)}
        scores.append({**named, "dice": part["dice"].mean(), "low": low, "high": high})
    return pd.DataFrame(scores)


def scores_by_column(scores: pd.DataFrame, method: str) -> dict[str, float]:
    """{heading: mean DSC} of one method of `final_scores`, for `results.comparison`."""
    of_method = scores[scores["method"] == method]
    return dict(zip(of_method["column"], of_method["dice"], strict=True))
