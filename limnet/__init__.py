"""limnet: interactive 3D medical image segmentation with multi-round fusion, after LIM-Net."""

from limnet.clicks import Click
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.session import Session
from limnet.volume import Volume

__all__ = ["Click", "LimNet", "Session", "Volume", "load_networks"]
