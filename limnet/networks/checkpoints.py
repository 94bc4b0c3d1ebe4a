"""The three networks together, and how they are saved and loaded.

Our files are safetensors whose metadata name the network and its configuration, so that nothing
but the file is needed to rebuild it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from limnet.files import atomic_write
from limnet.networks.click_net import ClickNet, ClickNetConfig
from limnet.networks.hrnet import HRNetConfig
from limnet.networks.inference import fuse_batchnorm
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig
from limnet.networks.quality_net import QualityNet, QualityNetConfig

Network = ClickNet | PropagationNet | QualityNet

KINDS = {
    "click": (ClickNet, ClickNetConfig),
    "propagation": (PropagationNet, PropagationNetConfig),
    "quality": (QualityNet, QualityNetConfig),
}
LITE_FOLDER = Path(__file__).parents[1] / "weights"
WEIGHTS_VARIABLE = "LIMNET_WEIGHTS"  # environment: the folder of the paper-size files
# fields that may be missing, or 0 for what is not there
OPTIONAL = {
    "detail_channels",
    "close_up_size",
    "multi_scale",
    "postprocess",
    "memorize_every",
    "refinements",
    "rgb",
    "fp32_memory",
    "evidence",
}
# what files of earlier versions call a field
EARLIER_NAMES = {
    "several_sizes": "multi_scale",
    "refined": "postprocess",
    "looks": "refinements",
    "colour": "rgb",
    "exact_keys": "fp32_memory",
}
LARGEST_NUMBER = 4096  # of any whole number in a configuration; files are not trusted


@dataclass(frozen=True)
class LimNet:
    """The networks of one LIM-Net; their configs say what images they are made for."""

    name: str
    click_net: ClickNet
    propagation_net: PropagationNet
    quality_net: QualityNet

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.click_net.parameters()).device

    @property
    def digest(self) -> str:
        """SHA-256 of all parameters and sizes: what a result depends on."""
        click, working_size = self.click_net.config, self.propagation_net.config.working_size
        refinement = f"{click.refinements} {click.multi_scale} {click.postprocess}"
        sha256 = hashlib.sha256(f"{working_size} {click.zoom_size} {refinement}".encode())
        for network in (self.click_net, self.propagation_net, self.quality_net):
            sha256.update(_as_earlier(network.config).encode())
            for tensor in network.state_dict().values():
                sha256.update(tensor.cpu().float().numpy().tobytes())
        return sha256.hexdigest()

    def fuse_batchnorm(self, dtype: torch.dtype = torch.float32) -> "LimNet":
        """The same networks made for inference (`inference.fuse_batchnorm`)."""
        names = ("click_net", "propagation_net", "quality_net")
        return replace(self, **{name: fuse_batchnorm(getattr(self, name), dtype) for name in names})

    def to(self, device: torch.device | str) -> "LimNet":
        """Move all three networks, in place."""
        for network in (self.click_net, self.propagation_net, self.quality_net):
            network.to(device)
        return self


def paper() -> LimNet:
    """Networks of the paper's size with random weights, in eval mode."""
    return _bundle("paper", ClickNet(), PropagationNet(), QualityNet())


def lite() -> LimNet:
    """Small networks for a CPU with random weights, in eval mode."""
    hrnet = HRNetConfig(
        width=24,
        stem_channels=32,
        bottlenecks=2,
        bottleneck_planes=32,
        stage_modules=(1, 1, 1),
        blocks=2,
        ocr_width=48,
    )
    propagation = PropagationNetConfig(
        key_backbone="resnet18",
        value_backbone="resnet10",
        width=32,
        key_dim=32,
        value_dim=128,
        hidden_dim=32,
        decoder_channels=64,
        working_size=256,
        close_up_size=192,
        memorize_every=2,
        rgb=False,
        fp32_memory=True,
    )
    return _bundle(
        "lite",
        ClickNet(
            ClickNetConfig(
                hrnet,
                maps_scale=1.0,
                detail_channels=24,
                zoom_size=160,
                multi_scale=True,
                postprocess=True,
                refinements=1,
                rgb=False,
            )
        ),
        PropagationNet(propagation),
        QualityNet(QualityNetConfig("resnet10", width=16, rgb=False, evidence=True)),
    )


def _bundle(
    name: str, click_net: ClickNet, propagation_net: PropagationNet, quality_net: QualityNet
) -> LimNet:
    return LimNet(name, click_net.eval(), propagation_net.eval(), quality_net.eval())


def load_networks(
    source: str | Path = "lite", *, dtype: torch.dtype = torch.float32, fold: bool = True
) -> LimNet:
    """Trained networks for inference, on the CPU.

    Args:
        source: "lite", the small networks that come with the package; "paper", those of the
            paper's size from the folder that the environment variable LIMNET_WEIGHTS names; or
            a folder. A folder holds one file of each kind: `click*.safetensors`,
            `propagation*.safetensors` and `quality*.safetensors`.
        dtype: what folded networks compute in; bfloat16 is faster on some processors.
        fold: False leaves them as they were trained (`fuse_batchnorm`), in float32.

    Raises:
        FileNotFoundError: the folder or one of its three files is missing.
        ValueError: a file is not what its name says.
    """
    if source == "paper" and not os.environ.get(WEIGHTS_VARIABLE):
        raise FileNotFoundError(
            f"paper-size weights do not come with the package; set {WEIGHTS_VARIABLE} to a folder "
            "with click*.safetensors, propagation*.safetensors and quality*.safetensors. Published "
            "RITM and XMem files become the first two by load_ritm or load_xmem and save_network"
        )
    folders = {"lite": LITE_FOLDER, "paper": os.environ.get(WEIGHTS_VARIABLE)}
    folder = Path(folders.get(str(source)) or source)
    networks = _bundle(Path(source).name, *(_load_kind(folder, kind) for kind in KINDS))
    return networks.fuse_batchnorm(dtype) if fold else networks


def _load_kind(folder: Path, kind: str) -> Any:
    found = sorted(folder.glob(f"{kind}*.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{folder} must hold exactly one file {kind}*.safetensors, "
            f"got {', '.join(path.name for path in found) or 'none'}"
        )
    network = load_network(found[0])
    if not isinstance(network, KINDS[kind][0]):
        raise ValueError(f"{found[0]} must hold a {kind} net, got a {type(network).__name__}")
    return network


def save_network(
    network: Network,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a network, its kind and its configuration to one safetensors file.

    The file appears whole or not at all.

    Args:
        metadata: more to write into the file, such as how the network was trained.
        half: store matrices in 16 bits, half the size; they are loaded in 32.
    """
    path = Path(path)
    [kind] = [kind for kind, (network_class, _) in KINDS.items() if type(network) is network_class]
    described = {**(metadata or {}), "kind": kind, "config": json.dumps(asdict(network.config))}
    tensors = {
        # vectors (norms, biases) stay: they are small, and variances may exceed 16 bits
        key: (tensor.half() if half and tensor.ndim > 1 else tensor).cpu().contiguous()
        for key, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, described)
        partial.chmod(mode)  # what safetensors writes is for its owner alone


def load_network(path: str | Path) -> Network:
    """The network of a file that `save_network` wrote, in eval mode on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not one of ours, or does not fit its own description.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") not in KINDS or "config" not in metadata:
        raise ValueError(
            f"{path} must name its kind of network ({', '.join(KINDS)}) and its config, "
            f"got kind {metadata.get('kind')!r}; write such files with save_network"
        )
    network_class, config_class = KINDS[metadata["kind"]]
    try:
        config = _read(json.loads(metadata["config"]), config_class(), "config")
        return fill(network_class, config, load_file(path), str(path))
    except RecursionError as error:
        raise ValueError(f"{path} has a config that is nested too deeply") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file: {error}") from error


def _as_earlier(config: Any) -> str:
    """A configuration in its earlier names, so that journals of earlier versions know it."""
    text = str(config)
    for earlier, name in EARLIER_NAMES.items():
        text = text.replace(f"{name}=", f"{earlier}=")
    return text


def fill(network_class: type, config: Any, tensors: Mapping[str, Tensor], origin: str) -> Any:
    """The network of a configuration with these tensors, if they are exactly those it needs."""
    with torch.device("meta"):  # no memory is spent before the tensors have proved to fit
        network = network_class(config)
    types = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    types = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    state = {  # the caller's tensors stay the caller's
        key: tensor.to(types.get(key, tensor.dtype), copy=True) for key, tensor in tensors.items()
    }
    try:
        if missing := types.keys() - state.keys():  # PyTorch forgives some of batch norms
            raise RuntimeError(f"missing {', '.join(sorted(missing))}")
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{origin} must hold exactly the tensors of a {network_class.__name__}: {error!s:.1000}"
        ) from error
    return network.eval()


def _read(value: Any, default: Any, name: str) -> Any:
    """A value from JSON of the kind of the default. Files are not trusted: numbers are bounded."""
    if is_dataclass(default) and isinstance(value, dict):
        defaults = vars(default)
        value = {EARLIER_NAMES.get(field, field): each for field, each in value.items()}
        if not defaults.keys() - OPTIONAL <= value.keys() <= defaults.keys():
            raise ValueError(f"{name} must have the fields {[*defaults]}, got {value!r:.200}")
        read = {field: _read(each, defaults[field], field) for field, each in value.items()}
        return replace(default, **read)
    if type(default) is tuple and isinstance(value, list) and len(value) == len(default):
        return tuple(_read(*each, name) for each in zip(value, default, strict=True))
    kinds = (int, float) if type(default) is float else (type(default),)
    least = {int: int(name not in OPTIONAL), float: -LARGEST_NUMBER}.get(type(default))
    if type(value) in kinds and (least is None or least <= value <= LARGEST_NUMBER):
        return type(default)(value)
    raise ValueError(f"{name} must be a {type(default).__name__} in range, got {value!r:.200}")
