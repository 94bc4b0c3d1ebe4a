"""The paper's tables I, II, IV, V and VI: what their columns are, and the runs that fill them."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tqdm import tqdm

from limnet.data import DATA_SETS, Case, Chosen
from limnet.evaluation.comparators import measured_beside
from limnet.evaluation.evaluate import CaseEvaluation, Segmenter, evaluate_cases
from limnet.metrics import bootstrap_interval, dice
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.reports.figures import INK, bare_axes, new_figure, show_slices
from limnet.reports.results import comparison, provenance, published


class Column(NamedTuple):
    """What a column of a table is about."""

    heading: str  # as the paper prints it
    data_set: str  # a key of DATA_SETS
    target: str  # a label there
    case: str | None = None  # the name of the one that it is about; None: all


KITS_AND_MSD = (
    Column("KIDNEY (Organ)", "kits19", "kidney"),
    Column("KIDNEY (Tumor)", "kits19", "tumour"),
    Column("Lung", "msd_lung", "tumour"),
    Column("Colon", "msd_colon", "tumour"),
)
SCENES = {  # by case, what Table VI has of it
    "seq_1": ("Clips", "Needle", "Intestine", "US Probe"),
    "seq_2": ("Intestine", "Shaft", "Wrist", "Clasper"),
    "seq_3": ("Intestine", "Wrist", "Shaft", "Clasper"),
    "seq_4": ("US Probe", "Shaft", "Parenchyma", "Wrist"),
}
SCENE_TARGETS = {
    "Clips": "clamps",
    "Needle": "suturing needle",
    "Intestine": "small intestine",
    "US Probe": "ultrasound probe",
    "Shaft": "instrument shaft",
    "Wrist": "instrument wrist",
    "Clasper": "instrument clasper",
    "Parenchyma": "kidney parenchyma",  # uncovered alone: what fascia covers is a class of its own
}
CLASS_COLOURS = dict(  # Okabe and Ito's
    zip(
        SCENE_TARGETS.values(),
        ("#F0E442", "#000000", "#E69F00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00"),
        strict=True,
    )
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
    "table_6": tuple(
        Column(f"Seq {case[-1]} {heading}", "endovis18", SCENE_TARGETS[heading], case)
        for case, headings in SCENES.items()
        for heading in headings
    ),
}


class TableRun(NamedTuple):
    """A table's run: what it ran on, every evaluation, and the frames that a notebook shows."""

    label: str  # the heading of our numbers
    chosen: dict[str, Chosen]
    runs: dict[str, list[tuple[Column, CaseEvaluation]]]  # by method, ours first
    rows: pd.DataFrame  # a row a round of every case and method
    scores: pd.DataFrame  # as `final_scores`
    table: pd.DataFrame  # as `results.comparison`
    facts: dict[str, Any]  # `results.provenance`, what it ran on and the weights' digest

    @property
    def ours(self) -> list[tuple[Column, CaseEvaluation]]:
        """The evaluations of our networks, with fusion as the options say."""
        return self.runs[self.label]


def run_table(
    table: str,
    report: Path,
    *,
    networks: str,
    cases: int,
    twin_seed: int,
    recipe: str = "",
    without_fusion: bool = False,
    baselines: Mapping[str, Segmenter] | None = None,
    comparators: str = "",
    **options: Any,
) -> TableRun:
    """Run a table of TABLES on the real data in LIMNET_DATA, or else on synthetic twins.

    Args:
        report: the notebook's report folder; twins and cached results lie beside it.
        networks: as `load_networks`.
        cases, twin_seed: as `choose_cases`.
        recipe: "paper" or "lite"; empty: what the networks' files ask for.
        without_fusion: our networks also run without multi-round fusion.
        baselines: other methods by name, which get our clicks.
        comparators: as `measured_beside`.
        options: of `evaluate_cases`, such as rounds, fuse and threshold.
    """
    started, device = time.perf_counter(), "cuda" if torch.cuda.is_available() else "cpu"
    twins, cache = report.parent / "twins", report.parent / "cache"
    chosen = choose_cases(table, os.environ.get("LIMNET_DATA"), twins, cases=cases, seed=twin_seed)
    nets, others = load_networks(networks).to(device), measured_beside(comparators, device)
    label = our_label(chosen)
    methods: dict[str, dict[str, Any]] = {label: {}}
    if without_fusion:
        methods[f"{label} w/o MRF"] = {"fuse": False}
    for name, segment in {**(baselines or {}), **others}.items():
        methods[name] = {"segment": segment}
    runs = {}
    for method, differs in methods.items():
        asked = {**options, **differs, "recipe": recipe or None}
        runs[method] = list(tqdm(run_columns(table, chosen, nets, cache, **asked), desc=method))
    rows = pd.concat([rows_of(each, method) for method, each in runs.items()], ignore_index=True)
    scores = final_scores(rows)
    beside = {method: scores_by_column(scores, method) for method in runs}
    beside_paper = comparison(published(table), beside.pop(label), label=label, beside=beside)
    parameters = {"networks": networks, "cases": cases, "twin_seed": twin_seed, "recipe": recipe}
    digests = {name: each.digest for name, each in others.items()}
    facts = provenance(
        {**parameters, **options, "comparators": digests},
        data={f"{key} {case.name}": case.image for key in chosen for case in chosen[key].cases},
        device=nets.device,
        seed=twin_seed,
        started=started,
    )
    facts |= {"ran_on": ran_on(chosen), "weights_digest": nets.digest}
    return TableRun(label, chosen, runs, rows, scores, beside_paper, facts)


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

    Columns about the same data set share each case and the features of its slices. A column that
    names a case is run on this one alone, and not at all where it was not chosen or lacks the
    target.
    """
    for key, data_set in chosen.items():
        of_set = [column for column in TABLES[table] if column.data_set == key]
        for name in dict.fromkeys(column.case for column in of_set):
            columns = {column.target: column for column in of_set if column.case == name}
            cases = tuple(case for case in data_set.cases if name in (None, case.name))
            for done in evaluate_cases(cases, columns, networks, cache, **options):
                yield columns[done.organ], done


def rows_of(done: list[tuple[Column, CaseEvaluation]], method: str) -> pd.DataFrame:
    """A row a round of every case; `column` (its heading) and `method` first, `slices` it has."""
    return pd.DataFrame(
        [
            {
                "column": column.heading,
                "method": method,
                **row,
                "slices": len(each.evaluation.masks),
            }
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


def slice_scores(done: list[tuple[Column, CaseEvaluation]], method: str) -> pd.DataFrame:
    """DSC of every slice that shows the target or the last mask, in [0, 1].

    Columns: column, method, slice_index and dice. The mean of these is the other thing that the
    DSC of a volume or video may mean; each slice counts the same in it.
    """
    scores = []
    for case, pairs in _by_case(done):
        labels = case.load()[1]
        for column, each in pairs:
            target, masks = case.target(labels, column.target), each.evaluation.masks
            for index in np.flatnonzero((target | masks).any(axis=(1, 2))).tolist():
                named = {"column": column.heading, "method": method, "slice_index": index}
                scores.append({**named, "dice": dice(target[index], masks[index])})
    return pd.DataFrame(scores, columns=["column", "method", "slice_index", "dice"])


def _by_case(
    done: list[tuple[Column, CaseEvaluation]],
) -> Iterator[tuple[Case, list[tuple[Column, CaseEvaluation]]]]:
    for name in dict.fromkeys((each.case.collection, each.case.name) for _, each in done):
        pairs = [pair for pair in done if (pair[1].case.collection, pair[1].case.name) == name]
        yield pairs[0][1].case, pairs


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


def show_scenes(done: list[tuple[Column, CaseEvaluation]], *, at: float = 0.5) -> Figure:
    """One frame of every case with all its columns' targets: the truth above, our masks below.

    Each is filled and outlined in the colour of its class, all on one scale.

    Args:
        at: which frame, from 0 (the first) to 1 (the last).
    """
    cases = list(_by_case(done))
    figure = new_figure(2.9 * len(cases) + 0.3, 5.4)
    axes = bare_axes(figure, 2, len(cases))
    for (case, pairs), (above, below) in zip(cases, axes.T, strict=True):
        volume, labels = case.load()
        index = round(at * (len(labels) - 1))
        image = volume.rgb([index])[0].transpose(1, 2, 0)
        for axis in (above, below):
            axis.imshow(image)
        for column, each in pairs:
            colour = CLASS_COLOURS[column.target]
            truth = case.target(labels[index : index + 1], column.target)[0]
            _outline(above, truth, colour)
            _outline(below, each.evaluation.masks[index], colour)
        above.set_title(f"{case.name}, frame {index}", fontsize=9, color=INK)
    for axis, name in zip(axes[:, 0], ("truth", "ours"), strict=True):
        axis.set_ylabel(name, fontsize=9, color=INK)
    shown = dict.fromkeys(column.target for column, _ in done)
    handles = [Patch(facecolor=CLASS_COLOURS[name], label=name) for name in shown]
    figure.legend(handles=handles, loc="outside lower left", ncols=8, fontsize=8, frameon=False)
    return figure


def _outline(axis: Axes, mask: Bool[np.ndarray, "height width"], colour: str) -> None:
    axis.imshow(np.where(mask[..., None], to_rgba(colour, 0.35), 0.0))
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
