"""The three networks together, and how they are saved and loaded.

Our files are safetensors whose metadata name the network and its configuration, so that nothing
but the file is needed to rebuild it. Published RITM and XMem files are read through key maps.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limnet.networks.click_net import ClickNet, ClickNetConfig
from limnet.networks.hrnet import HRNetConfig
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig
from limnet.networks.published import ritm_state, xmem_state
from limnet.networks.quality_net import QualityNet, QualityNetConfig

Network = ClickNet | PropagationNet | QualityNet

KINDS = {
    "click": (ClickNet, ClickNetConfig),
    "propagation": (PropagationNet, PropagationNetConfig),
    "quality": (QualityNet, QualityNetConfig),
}
LITE_FOLDER = Path(__file__).parents[1] / "weights"
WEIGHTS_VARIABLE = "LIMNET_WEIGHTS"  # environment: the folder of the paper-size files
LARGEST_NUMBER = 4096  # of any whole number in a configuration; files are not trusted


@dataclass(frozen=True)
class LimNet:
    """The networks of one LIM-Net and the image sizes they are made for."""

    name: str
    click_net: ClickNet
    propagation_net: PropagationNet
    quality_net: QualityNet
    working_size: int  # pixels of a slice's shorter side during propagation
    zoom_size: int  # pixels of the longer side of the crop that the click net sees

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.click_net.parameters()).device

    def to(self, device: torch.device | str) -> "LimNet":
        """Move all three networks, in place."""
        for network in (self.click_net, self.propagation_net, self.quality_net):
            network.to(device)
        return self


def paper() -> LimNet:
    """Networks of the paper's size with random weights, in eval mode."""
    return LimNet(
        name="paper",
        click_net=ClickNet().eval(),
        propagation_net=PropagationNet().eval(),
        quality_net=QualityNet().eval(),
        working_size=480,
        zoom_size=400,
    )


def lite() -> LimNet:
    """Small networks for a CPU with random weights, in eval mode."""
    hrnet = HRNetConfig(
        width=16,
        stem_channels=32,
        bottlenecks=2,
        bottleneck_planes=32,
        stage_modules=(1, 1, 1),
        blocks=2,
        ocr_width=32,
    )
    propagation = PropagationNetConfig(
        key_backbone="resnet18",
        value_backbone="resnet10",
        width=32,
        key_dim=32,
        value_dim=128,
        hidden_dim=32,
        decoder_channels=64,
    )
    return LimNet(
        name="lite",
        click_net=ClickNet(ClickNetConfig(hrnet, maps_scale=1.0)).eval(),
        propagation_net=PropagationNet(propagation).eval(),
        quality_net=QualityNet(QualityNetConfig("resnet10", width=16)).eval(),
        working_size=192,
        zoom_size=192,
    )


def load_networks(source: str | Path = "lite") -> LimNet:
    """Trained networks, in eval mode on the CPU.

    Args:
        source: "lite", the small networks that come with the package; "paper", those of the
            paper's size from the folder that the environment variable LIMNET_WEIGHTS names; or
            a folder. A folder holds one file of each kind: `click*.safetensors`,
            `propagation*.safetensors` and `quality*.safetensors`.

    Raises:
        FileNotFoundError: the folder or one of its three files is missing.
        ValueError: a file is not what its name says.
    """
    sizes = {"working_size": 480, "zoom_size": 400}
    if source == "lite":
        folder, sizes = LITE_FOLDER, {"working_size": 192, "zoom_size": 192}
    elif source == "paper":
        folder = Path(os.environ.get(WEIGHTS_VARIABLE) or _no_paper_weights())
    else:
        folder = Path(source)
    paths = {kind: _find(folder, kind) for kind in KINDS}
    networks = {}
    for kind, path in paths.items():
        networks[f"{kind}_net"] = network = load_network(path)
        if not isinstance(network, KINDS[kind][0]):
            raise ValueError(f"{path} must hold a {kind} net, got a {type(network).__name__}")
        written = read_metadata(path)
        sizes |= {name: int(written[name]) for name in sizes if written.get(name, "").isdigit()}
    return LimNet(name=Path(source).name, **networks, **sizes)


def save_networks(
    networks: LimNet,
    folder: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a folder that `load_networks` reads; see `save_network`."""
    sizes = {"working_size": networks.working_size, "zoom_size": networks.zoom_size}
    metadata = {**(metadata or {}), **{name: str(size) for name, size in sizes.items()}}
    for kind in KINDS:
        path = Path(folder) / f"{kind}_{networks.name}.safetensors"
        save_network(getattr(networks, f"{kind}_net"), path, metadata, half=half)


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, described)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        config = _read_config(config_class, json.loads(metadata["config"]))
        with torch.device("meta"):  # nothing is allocated before the file has shown its shapes
            network = network_class(config)
    except (ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{path} has a config that makes no network: {error}") from error
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
    return _fill(network, tensors, str(path))


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


def load_ritm(source: str | Path | Mapping[str, Any]) -> ClickNet:
    """A click net with published weights of RITM, in eval mode; see `published.ritm_state`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys or shapes are not those of the published network.
    """
    return _load_published(ClickNet, *ritm_state(source))


def load_xmem(source: str | Path | Mapping[str, Any]) -> PropagationNet:
    """A propagation net with published weights of XMem, in eval mode; see `published.xmem_state`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys or shapes are not those of the published network, or it was trained
            without sensory memory.
    """
    return _load_published(PropagationNet, *xmem_state(source))


def _load_published(network_class: type, tensors: Mapping[str, Tensor], origin: str) -> Any:
    with torch.device("meta"):
        network = network_class()
    return _fill(network, tensors, origin)


def _fill(network: Network, tensors: Mapping[str, Tensor], origin: str) -> Any:
    """Give a network without memory its tensors, if they are exactly the ones it needs."""
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in {
            "missing": expected.keys() - found.keys(),
            "unexpected": found.keys() - expected.keys(),
            "of another shape": {
                k for k in expected.keys() & found.keys() if expected[k] != found[k]
            },
        }.items()
        if keys
    ]
    if wrong:
        raise ValueError(
            f"{origin} must hold the tensors of a {type(network).__name__} of its size, "
            f"got {'; '.join(wrong)}"
        )
    # clones: the caller's tensors stay the caller's
    kept = {
        key: tensors[key].to(tensor.dtype, copy=True)
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(kept, assign=True)
    return network.eval()


def _read_config(config_class: type, values: Any) -> Any:
    """A configuration from JSON, every field of the right kind."""
    kinds = {field.name: field.type for field in fields(config_class)}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"{config_class.__name__} needs {', '.join(kinds)}, got {values!r:.200}")
    return config_class(**{name: _read_value(kinds[name], values[name], name) for name in kinds})


def _read_value(kind: Any, value: Any, name: str) -> Any:
    if is_dataclass(kind):
        return _read_config(kind, value)
    if get_origin(kind) is tuple and isinstance(value, list) and len(value) == len(get_args(kind)):
        return tuple(_read_value(*pair, name) for pair in zip(get_args(kind), value, strict=True))
    if kind is int and type(value) is int and 1 <= value <= LARGEST_NUMBER:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise ValueError(f"{name} must be a {kind} in range, got {value!r:.200}")


def _find(folder: Path, kind: str) -> Path:
    found = sorted(folder.glob(f"{kind}*.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{folder} must hold exactly one file {kind}*.safetensors, "
            f"got {', '.join(path.name for path in found) or 'none'}"
        )
    return found[0]


def _no_paper_weights() -> str:
    raise FileNotFoundError(
        f"paper-size weights do not come with the package; set {WEIGHTS_VARIABLE} to a folder "
        "with click*.safetensors, propagation*.safetensors and quality*.safetensors. Published "
        "RITM and XMem files become the first two by load_ritm or load_xmem and save_network"
    )
