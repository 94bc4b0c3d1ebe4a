"""limnet: interactive 3D medical image segmentation with multi-round fusion, after LIM-Net."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# How long PyTorch's threads (GNU OpenMP) spin before they sleep, read when torch is imported. On
# two cores of a Xeon a click's mask is there after 104 ms; after 198 ms where something else keeps
# one of them busy, and 350 ms where three processes do. With a third of it: 128, 172 and 344 ms;
# with GNU's own choice 115, 184 and 587 ms.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from limnet.annotator.journal import replay
    from limnet.evaluation.evaluate import evaluate
    from limnet.method.prompts import Click
    from limnet.method.session import Session
    from limnet.networks.checkpoints import LimNet, load_networks
    from limnet.volumes import Volume

__all__ = ["Click", "LimNet", "Session", "Volume", "evaluate", "load_networks", "replay"]

WHERE = {
    "Click": "limnet.method.prompts",
    "LimNet": "limnet.networks.checkpoints",
    "Session": "limnet.method.session",
    "Volume": "limnet.volumes",
    "evaluate": "limnet.evaluation.evaluate",
    "load_networks": "limnet.networks.checkpoints",
    "replay": "limnet.annotator.journal",
}


def __getattr__(name: str) -> Any:
    """One of `__all__`, imported when first asked for: readers of files take half a second."""
    if name not in WHERE:
        raise AttributeError(f"module 'limnet' has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)
