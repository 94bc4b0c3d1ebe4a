"""Labelled cases on disk: published data sets in their official layout, twins, our collections."""

from limnet.data.cases import Case, Chosen, DataSet, LabelledImage
from limnet.data.coco_lvis import COCO_LVIS
from limnet.data.collections import collection_cases, example_case, scribbled_slices
from limnet.data.endovis18 import PLACE, endovis18_cases, write_endovis18_twin
from limnet.data.image_sets import DAVIS585, IN_HOUSE_CT, IN_HOUSE_US, ISHAPE
from limnet.data.nifti_sets import AMOS, BTCV, KITS19, MSD_COLON, MSD_LUNG, MSD_PANCREAS

LAYOUTS = {
    "btcv": BTCV,
    "kits19": KITS19,
    "msd_lung": MSD_LUNG,
    "msd_colon": MSD_COLON,
    "msd_pancreas": MSD_PANCREAS,
    "amos": AMOS,
}
# how many cases the paper tests on: section III-A; its 32 of 96 lung cases are a third, of which
# 63 have labels
TESTED = {"kits19": 42, "msd_lung": 21, "msd_colon": 26}
DATA_SETS = {
    key: DataSet(each.name, each.find, each.read, each.write_twin, TESTED.get(key))
    for key, each in LAYOUTS.items()
}
DATA_SETS["endovis18"] = DataSet(PLACE.name, PLACE.find, endovis18_cases, write_endovis18_twin)

# the 2D sets of Table III
IMAGE_SETS = {
    key: DataSet(each.name, each.find, each.read, each.write_twin, of_images=True)
    for key, each in {
        "ishape": ISHAPE,
        "davis585": DAVIS585,
        "coco_lvis": COCO_LVIS,
        "in_house_us": IN_HOUSE_US,
        "in_house_ct": IN_HOUSE_CT,
    }.items()
}
write_btcv_twin = BTCV.write_twin

__all__ = [
    "DATA_SETS",
    "IMAGE_SETS",
    "Case",
    "Chosen",
    "DataSet",
    "LabelledImage",
    "collection_cases",
    "example_case",
    "scribbled_slices",
    "write_btcv_twin",
]
