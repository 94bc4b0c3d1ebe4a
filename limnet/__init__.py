"""limnet: interactive 3D medical image segmentation with multi-round fusion, after LIM-Net."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# How long PyTorch's threads (GNU OpenMP) spin before they sleep, read when torch is imported. With
# GNU's own choice a busy core makes three rounds on two cores take 9 s, or 53 s with several busy
# ones, for 2.7 s on idle ones; with this one 6, 6 and 2.6 s. On idle cores propagation alone loses
# a tenth to a fifth of its speed by it (44 and 48 slices a second for 54 and 53): who has the
# machine for themselves sets GOMP_SPINCOUNT=300000.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from limnet.clicks import Click
    from limnet.networks.checkpoints import LimNet, load_networks
    from limnet.session import Session
    from limnet.volume import Volume

__all__ = ["Click", "LimNet", "Session", "Volume", "load_networks"]

WHERE = {
    "Click": "limnet.clicks",
    "LimNet": "limnet.networks.checkpoints",
    "Session": "limnet.session",
    "Volume": "limnet.volume",
    "load_networks": "limnet.networks.checkpoints",
}


def __getattr__(name: str) -> Any:
    """One of `__all__`, imported when first asked for: readers of files take half a second."""
    if name not in WHERE:
        raise AttributeError(f"module 'limnet' has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)
