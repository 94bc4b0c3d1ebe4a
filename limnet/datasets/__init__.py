"""Labelled cases on disk: published data sets in their official layout, twins, our collections."""

from functools import partial

from limnet.datasets.btcv import BTCV_LABELS, btcv_cases, find_btcv, write_btcv_twin
from limnet.datasets.case import Case
from limnet.datasets.collections import collection_cases, example_case, scribbled_slices
from limnet.datasets.data_set import Chosen, DataSet
from limnet.datasets.kits19 import find_kits19, kits19_cases, write_kits19_twin
from limnet.datasets.msd import find_msd, msd_cases, write_msd_twin


def _msd(task: str, tested: int | None = None) -> DataSet:
    find, read, write = (
        partial(function, task=task) for function in (find_msd, msd_cases, write_msd_twin)
    )
    return DataSet(f"MSD {task.capitalize()}", find, read, write, tested)


# how many cases the paper tests on: section III-A; its 32 of 96 lung cases are a third, of which
# 63 have labels
DATA_SETS = {
    "btcv": DataSet("BTCV", find_btcv, btcv_cases, write_btcv_twin),
    "kits19": DataSet("KiTS19", find_kits19, kits19_cases, write_kits19_twin, tested=42),
    "msd_lung": _msd("lung", tested=21),
    "msd_colon": _msd("colon", tested=26),
    "msd_pancreas": _msd("pancreas"),
}

__all__ = [
    "BTCV_LABELS",
    "DATA_SETS",
    "Case",
    "Chosen",
    "DataSet",
    "btcv_cases",
    "collection_cases",
    "example_case",
    "find_btcv",
    "scribbled_slices",
    "write_btcv_twin",
]
