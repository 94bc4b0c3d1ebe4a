"""The paper's tables I, II, IV and V: what their columns are, and the runs that fill them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from limnet.datasets import DATA_SETS, Chosen
from limnet.evaluation import CaseEvaluation, evaluate_cases
from limnet.figures import show_slices
from limnet.metrics import bootstrap_interval
from limnet.networks.checkpoints import LimNet
from limnet.results import provenance


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


def our_label(chosen: Mapping[str, Chosen]) -> str:
    """The heading of our numbers: whether any of them are of phantoms."""
    synthetic = [each.synthetic for each in chosen.values()]
    if not any(synthetic):
        return "ours"
    return "ours (synthetic twins)" if all(synthetic) else "ours (in part synthetic twins)"


def run_columns(
    table: str,
    chosen: Mapping[str, Chosen],
    networks: LimNet,
    cache: Path,
    **options: Any,
) -> Iterator[tuple[Column, CaseEvaluation]]:
    """Evaluate every case of every column, as `evaluate_cases` does with these options.

    Columns about the same data set share each case and the features of its slices.
    """
    for key, data_set in chosen.items():
        columns = {column.target: column for column in TABLES[table] if column.data_set == key}
        for done in evaluate_cases(data_set.cases, columns, networks, cache, **options):
            yield columns[done.organ], done


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


def show_target(column: Column, done: CaseEvaluation) -> Figure:
    """The slice that shows most of the target, with truth, last mask and the clicks on it."""
    volume, label_map = done.case.load()
    target = done.case.target(label_map, column.target)
    at = int(target.sum(axis=(1, 2)).argmax())
    return show_slices(
        volume.rgb([at]),
        masks=done.evaluation.masks[at : at + 1],
        target=target[at : at + 1],
        clicks=[click for click in done.evaluation.clicks if click and click.slice_index == at],
        slice_indices=[at],
        titles=[f"{column.heading}: {done.case.name}, slice {at}"],
        panel_inches=3.2,
    )


def table_facts(
    chosen: Mapping[str, Chosen], networks: LimNet, parameters: Mapping[str, Any], **about: Any
) -> dict[str, Any]:
    """`results.provenance` of a table's run, with what it ran on and the weights' digest."""
    images = {
        f"{key} {case.name}": case.image for key, each in chosen.items() for case in each.cases
    }
    facts = provenance(dict(parameters), data=images, device=networks.device, **about)
    return {**facts, "ran_on": ran_on(chosen), "weights_digest": networks.digest}
