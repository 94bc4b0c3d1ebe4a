"""BTCV, KiTS19, AMOS and three tasks of the Decathlon: one layout, one reader, one twin writer.

* BTCV: "Multi-Atlas Labeling Beyond the Cranial Vault", abdomen, doi:10.7303/syn3193805.
* KiTS19: Heller et al., arXiv:1904.00445; github.com/neheller/kits19.
* AMOS 2022: Ji et al., arXiv:2206.08023; amos22.zip of zenodo.org/records/7155725.
* MSD, the Decathlon: Simpson et al., arXiv:1902.09063; medicaldecathlon.com.
"""

import numpy as np

from limnet.data.nifti_layout import Layout, Pairs, TwinFile
from limnet.data.synthetic.abdomen import ORGANS, STRUCTURES
from limnet.data.synthetic.twins import TWIN_SEEDS

BTCV_LABELS = ORGANS  # name -> id
BTCV_NUMBERS = (*range(1, 11), *range(21, 41))  # of the 30 training cases
_BTCV = Pairs("img/img{}.nii.gz", "label/label{}.nii.gz")
BTCV = Layout(
    name="BTCV",
    folders=("btcv", "BTCV", "Abdomen", "."),
    inside=("RawData/Training", ".", "Training", "Abdomen/RawData/Training"),
    marks=("img",),
    source="RawData.zip",
    pairs=(_BTCV,),
    case="img{}",
    labels=BTCV_LABELS,
    ids=(0, *BTCV_LABELS.values()),
    most=len(BTCV_NUMBERS),
    seeds=(TWIN_SEEDS, len(BTCV_NUMBERS)),
    twin_files=lambda cases: [
        TwinFile(index, f"{number:04d}", _BTCV) for index, number in enumerate(BTCV_NUMBERS[:cases])
    ],
    structures=ORGANS,
)

_KITS19 = Pairs("case_{}/imaging.nii.gz", "case_{}/segmentation.nii.gz")
_KITS19_TEST = _KITS19._replace(label=None)
KITS19 = Layout(
    name="KiTS19",
    folders=("kits19", "KiTS19", "kits19-master", "."),
    inside=("data", "."),
    marks=("case_*/",),
    source="github.com/neheller/kits19, with the images that starter_code.get_imaging fetches",
    pairs=(_KITS19, _KITS19_TEST),
    case="case_{}",
    digits=5,
    known=range(300),
    optional=range(210, 300),  # the test cases have no segmentation (#77)
    labels={"kidney": (1, 2), "tumour": 2},
    ids=(0, 1, 2),
    slice_axis=0,
    most=210,
    seeds=(2 * TWIN_SEEDS, 300),
    twin_files=lambda cases: [
        *(TwinFile(number, f"{number:05d}", _KITS19) for number in range(cases)),
        TwinFile(210, "00210", _KITS19_TEST),
    ],
    structures={"left kidney": 1, "right kidney": 1},
    lesion_in=("left kidney", "right kidney"),
    lesion=2,
    stored=(np.float32, np.uint8),
)

_NAMES = (  # the id is the index and one more, by the dataset.json of the archive
    "spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, "
    "inferior vena cava, pancreas, right adrenal gland, left adrenal gland, duodenum, bladder, "
    "prostate or uterus"
)
AMOS_LABELS = {name: index for index, name in enumerate(_NAMES.split(", "), start=1)}
_AMOS = tuple(
    Pairs(f"images{part}/amos_{{}}.nii.gz", f"labels{part}/amos_{{}}.nii.gz", key)
    for part, key in (("Va", "validation"), ("Tr", "training"))
)
_AMOS_TEST = Pairs("imagesTs/amos_{}.nii.gz", None, "test")
AMOS = Layout(  # for us imagesVa tests and imagesTr trains
    name="AMOS",
    folders=("amos", "AMOS", "amos22", "."),
    inside=("amos22", "."),
    marks=("imagesTr/amos_*.nii.gz",),
    source="amos22.zip of October 2022",
    pairs=(*_AMOS, _AMOS_TEST),
    writes_list=True,
    case="amos_{}",
    known=range(1, 601),
    skipped=range(501, 601),  # MR (its readme.md); the paper counts CT alone
    labels=AMOS_LABELS,
    ids=(0, *AMOS_LABELS.values()),
    slice_axis=2,
    most=100,
    seeds=(6 * TWIN_SEEDS, 600),
    twin_files=lambda cases: [
        *(TwinFile(100 + n, f"{100 + n:04d}", _AMOS[0]) for n in range(1, cases + 1)),
        *(TwinFile(n, f"{n:04d}", _AMOS[1]) for n in range(1, cases + 1)),
        TwinFile(201, "0201", _AMOS_TEST),
    ],
    # bladder and prostate lie below the phantoms
    structures={name: AMOS_LABELS[name] for name in AMOS_LABELS.keys() & STRUCTURES.keys()},
)


def _msd(
    number: int,
    task: str,
    names: tuple[str, ...],
    labels: dict[str, int | tuple[int, ...]],
    cases: int,
    seed: int,
) -> Layout:
    """One task of the Decathlon, `cases` of which its dataset.json lists for training."""
    folder = f"Task{number:02d}_{task.capitalize()}"
    pairs = Pairs("imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz")
    return Layout(
        name=f"MSD {task.capitalize()}",
        folders=tuple(f"{holder}/{folder}" for holder in ("msd", "MSD", "decathlon", ".")),
        inside=(folder, "."),
        marks=("dataset.json",),
        source=f"{folder}.tar",
        pairs=(pairs,),
        case="{}",
        names=names,
        writes_list=True,
        labels=labels,
        ids=tuple(range(len(names))),
        slice_axis=2,
        most=cases,
        seeds=(seed * TWIN_SEEDS, cases),
        twin_files=lambda count: [
            TwinFile(index, f"{task}_{index + 1:03d}", pairs) for index in range(count)
        ],
        structures={task: 1} if task in labels else {},
        lesion_in=(task,),
        lesion=labels["tumour"],
        stored=(np.float32, np.float32),
    )


# the paper counts 64 cases of the lung; the list in dataset.json has 63
MSD_LUNG = _msd(6, "lung", ("background", "cancer"), {"tumour": 1}, 63, 3)
MSD_PANCREAS = _msd(
    7, "pancreas", ("background", "pancreas", "cancer"), {"pancreas": (1, 2), "tumour": 2}, 281, 4
)
MSD_COLON = _msd(10, "colon", ("background", "colon cancer primaries"), {"tumour": 1}, 126, 5)
