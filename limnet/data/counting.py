"""Table III from the data on disk: how many 2D images or slices each data set has."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from limnet.data.cases import Case, DataSet, LabelledImage

TABLE_3 = {  # the paper's row -> key of DATA_SETS or IMAGE_SETS
    "Ishape": "ishape",
    "AMOS": "amos",
    "MSD-Colon": "msd_colon",
    "MSD-Lung": "msd_lung",
    "KiTS19": "kits19",
    "COCO-LVIS": "coco_lvis",
    "DAVIS-585": "davis585",
    "In-house US dataset": "in_house_us",
    "In-house CT dataset": "in_house_ct",
    "BTCV": "btcv",
    "EndoVis18": "endovis18",
}


class Counted(NamedTuple):
    """2D images or slices, and those of them which show a label."""

    images: int
    labelled: int


def count(items: Iterable[Case | LabelledImage]) -> Counted:
    """The slices of some cases, or some images. All their labels are read.

    Raises:
        ValueError: a label map or a mask cannot be read.
    """
    shown = [
        item.load_labels().any(axis=(1, 2))
        if isinstance(item, Case)
        else np.array([item.read_masks().any()])
        for item in items
    ]
    return Counted(sum(map(len, shown)), int(sum(each.sum() for each in shown)))


def count_set(
    data_set: DataSet, data_root: str | Path | None, twin: Path, *, seed: int = 0
) -> tuple[dict[str, Counted], bool]:
    """What a data set, or its twin, has for "training" and for "test"; whether it is the twin.

    Of a twin's volumes one tests in place of the paper's number.

    Args:
        data_root: `LIMNET_DATA`; None where there is no data folder.
        twin: folder for the twin, written if needed.
        seed: of the twin.

    Raises:
        ValueError: as the adapter says, or a label cannot be read.
    """
    root = data_set.find(data_root)
    if root is None:
        data_set.choose(None, twin, seed=seed)
        data_set = replace(data_set, tested=data_set.tested and 1)
    items = data_set.read(root or twin)  # of both splits
    _, training, test = data_set.split(items)
    parts = {"training": set(training), "test": set(test)}
    counted = {
        split: count(item for item in items if item.name in names) for split, names in parts.items()
    }
    return counted, root is None


def beside_paper(
    counted: Mapping[str, tuple[Mapping[str, Counted], bool]], paper: pd.DataFrame
) -> pd.DataFrame:
    """Table III: a row a data set and split, the paper's number, ours and the differences.

    A twin has no difference: how many phantoms there are says nothing about the data set.

    Args:
        counted: what `count_set` gives, by the paper's names of the rows.
        paper: `results.published_counts`.
    """
    rows = []
    for name, (splits, synthetic) in counted.items():
        for split, column in (("training", "Training Set"), ("test", "Test Set")):
            ours, printed = splits[split], paper.loc[name, column]
            if not ours.images and np.isnan(printed):
                continue
            differences = [math.nan if synthetic else float(n - printed) for n in ours]
            rows.append(
                {
                    "data set": name,
                    "split": split,
                    "paper": printed,
                    "ours": ours.images,
                    "ours with a label": ours.labelled,
                    "difference": differences[0],
                    "difference with a label": differences[1],
                    "counted on": "synthetic twin" if synthetic else "the data set",
                }
            )
    return pd.DataFrame(rows)
