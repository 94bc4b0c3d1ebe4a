"""Other people's interactive segmenters behind one protocol: a volume and clicks in, masks out.

They are what the paper compares with (SAM, SAM-Med3D, Mem3D) and what has come since (SAM 2,
nnInteractive). Each is used when its user has installed it; a message says how where not.
"""

from pathlib import Path

import torch

from limnet.evaluation.comparators.base import CHECKPOINTS_VARIABLE, HUB, About, Comparator
from limnet.evaluation.comparators.mem3d import Mem3D
from limnet.evaluation.comparators.nninteractive import NnInteractive
from limnet.evaluation.comparators.sam import Sam, on_every_slice
from limnet.evaluation.comparators.sam2 import Sam2
from limnet.evaluation.comparators.sam_med3d import SamMed3D

__all__ = [
    "CHECKPOINTS_VARIABLE",
    "COMPARATORS",
    "HUB",
    "Comparator",
    "Mem3D",
    "NnInteractive",
    "Sam",
    "Sam2",
    "SamMed3D",
    "comparator",
    "measured_beside",
    "on_every_slice",
]

_CLASSES = {each.about.key: each for each in (Sam, Sam2, SamMed3D, NnInteractive, Mem3D)}
COMPARATORS: dict[str, About] = {key: kind.about for key, kind in _CLASSES.items()}


def comparator(
    name: str, checkpoint: str | Path | None = None, *, device: torch.device | str = "cpu"
) -> Comparator:
    """One of COMPARATORS, ready to segment.

    Args:
        checkpoint: see each one's `About`; by default the entry of that name in the folder that
            the environment variable LIMNET_COMPARATORS names.

    Raises:
        ValueError: there is none of this name, or the checkpoint is not its own.
        ModuleNotFoundError: its package is not installed.
        FileNotFoundError: there is no checkpoint.
    """
    if name not in COMPARATORS:
        raise ValueError(f"a comparator must be one of {', '.join(COMPARATORS)}, got {name!r}")
    COMPARATORS[name].import_package()
    return _CLASSES[name].load(COMPARATORS[name].checkpoint_path(checkpoint), device)


def measured_beside(names: str, device: torch.device | str = "cpu") -> dict[str, Comparator]:
    """Comparators by the heading of their row in a table, which says that we measured it.

    Args:
        names: "sam2,nninteractive", each with its checkpoint where LIMNET_COMPARATORS has none:
            "sam2=folder"; "" for none.
    """
    chosen = [name.strip().partition("=") for name in names.split(",") if name.strip()]
    loaded = [comparator(name, path or None, device=device) for name, _, path in chosen]
    return {f"{each.name} (measured by us)": each for each in loaded}
