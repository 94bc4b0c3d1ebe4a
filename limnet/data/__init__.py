"""Labelled cases on disk: published data sets in their official layout, twins, our collections."""

from functools import partial

from limnet.data.amos import amos_cases, find_amos, write_amos_twin
from limnet.data.cases import Case
from limnet.data.collections import collection_cases, example_case, scribbled_slices
from limnet.data.data_set import Chosen, DataSet
from limnet.data.davis585 import davis585_images, find_davis585, write_davis585_twin
from limnet.data.endovis18 import endovis18_cases, find_endovis18, write_endovis18_twin
from limnet.data.image_set import ChosenImages, ImageSet
from limnet.data.image_sets import coco_lvis_images, find_coco_lvis, write_coco_lvis_twin
from limnet.data.in_house import IN_HOUSE, find_in_house, in_house_images, write_in_house_twin
from limnet.data.ishape import find_ishape, ishape_images, write_ishape_twin
from limnet.data.kits19 import find_kits19, kits19_cases, write_kits19_twin
from limnet.data.labelled_image import LabelledImage
from limnet.data.msd import find_msd, msd_cases, write_msd_twin
from limnet.data.nifti_sets import BTCV_LABELS, btcv_cases, find_btcv, write_btcv_twin


def _msd(task: str, tested: int | None = None) -> DataSet:
    find, read, write = (
        partial(function, task=task) for function in (find_msd, msd_cases, write_msd_twin)
    )
    return DataSet(f"MSD {task.capitalize()}", find, read, write, tested)


def _in_house(modality: str) -> ImageSet:
    find, read, write = (
        partial(function, modality=modality)
        for function in (find_in_house, in_house_images, write_in_house_twin)
    )
    return ImageSet(IN_HOUSE[modality].name, find, read, write)


# how many cases the paper tests on: section III-A; its 32 of 96 lung cases are a third, of which
# 63 have labels
DATA_SETS = {
    "btcv": DataSet("BTCV", find_btcv, btcv_cases, write_btcv_twin),
    "kits19": DataSet("KiTS19", find_kits19, kits19_cases, write_kits19_twin, tested=42),
    "msd_lung": _msd("lung", tested=21),
    "msd_colon": _msd("colon", tested=26),
    "msd_pancreas": _msd("pancreas"),
    "amos": DataSet("AMOS", find_amos, amos_cases, write_amos_twin),
    "endovis18": DataSet("EndoVis 2018", find_endovis18, endovis18_cases, write_endovis18_twin),
}

# the 2D sets of Table III
IMAGE_SETS = {
    "ishape": ImageSet("iShape", find_ishape, ishape_images, write_ishape_twin),
    "davis585": ImageSet("DAVIS-585", find_davis585, davis585_images, write_davis585_twin),
    "coco_lvis": ImageSet("COCO + LVIS", find_coco_lvis, coco_lvis_images, write_coco_lvis_twin),
    "in_house_us": _in_house("us"),
    "in_house_ct": _in_house("ct"),
}

__all__ = [
    "BTCV_LABELS",
    "DATA_SETS",
    "IMAGE_SETS",
    "Case",
    "Chosen",
    "ChosenImages",
    "DataSet",
    "ImageSet",
    "LabelledImage",
    "btcv_cases",
    "collection_cases",
    "example_case",
    "find_btcv",
    "scribbled_slices",
    "write_btcv_twin",
]
