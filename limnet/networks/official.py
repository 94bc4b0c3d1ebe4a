"""The weights that RITM and XMem publish, as networks of ours (section III-B).

Nobody published LIM-Net's own. Its click net began from RITM's, and its Table VI used XMem-s012 for
propagation. The third network, the quality net, is the small one of `limnet/weights`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limnet.files import sha256_of, write_whole
from limnet.networks.checkpoints import KINDS, LITE_FOLDER, fill, save_network
from limnet.networks.click_net import ClickNet, ClickNetConfig
from limnet.networks.propagation_net import PropagationNet, PropagationNetConfig

PUBLISHED = "published"  # folder of the files as they were fetched
COPIES = "copies"  # below it: files that are somebody else's copies of the published ones
XMEM_RELEASE = "https://github.com/hkchengrex/XMem/releases/download/v1.0/"
README = Path(__file__).with_suffix(".md")  # of what was converted, with the licence
LARGEST = 1.05  # a file's bytes over its tensors' bytes; names and padding are less than 1 %


@dataclass(frozen=True)
class PublishedWeights:
    """One published file. No publisher states its digest or its exact size."""

    file: str
    kind: str  # which of our networks it becomes
    trained_on: str
    url: str
    licence: str
    tensor_bytes: int  # of the tensors that the network must have; the file is a little larger
    copy: str = ""  # somebody else's, for when the file is gone from there; "": none is known


State = dict[str, Tensor]

# (published, ours): parts of parameter names, replaced in this order
ritm_key_map = (
    ("feature_extractor.ocr_distri_head.object_context_block.", "hrnet.head."),
    ("feature_extractor.ocr_distri_head.conv_bn_dropout.", "hrnet.head.join."),
    ("feature_extractor.conv3x3_ocr.", "hrnet.head.features."),
    ("feature_extractor.aux_head.", "hrnet.head.auxiliary."),
    ("feature_extractor.cls_head.", "hrnet.head.classify."),
    ("feature_extractor.transition1.", "hrnet.transitions.0."),
    ("feature_extractor.transition2.", "hrnet.transitions.1."),
    ("feature_extractor.transition3.", "hrnet.transitions.2."),
    ("feature_extractor.stage2.", "hrnet.stages.0."),
    ("feature_extractor.stage3.", "hrnet.stages.1."),
    ("feature_extractor.stage4.", "hrnet.stages.2."),
    ("feature_extractor.", "hrnet."),
    ("maps_transform.3.scale", "maps_scale"),
)
xmem_key_map = (
    ("key_proj.key_proj.", "key_projection."),
    ("key_proj.d_proj.", "shrinkage_projection."),
    ("key_proj.e_proj.", "selection_projection."),
    ("key_encoder.res2.", "key_encoder.layers.0."),
    ("value_encoder.layer1.", "value_encoder.layers.0."),
    ("_encoder.layer2.", "_encoder.layers.1."),
    ("_encoder.layer3.", "_encoder.layers.2."),
    ("value_encoder.fuser.", "value_fuser."),
    ("value_encoder.hidden_reinforce.", "value_gate."),
    ("attention.ChannelGate.mlp.1.", "attention.channels.0."),
    ("attention.ChannelGate.mlp.3.", "attention.channels.2."),
    ("attention.SpatialGate.spatial.conv.", "attention.positions."),
    ("decoder.up_16_8.skip_conv.", "decoder.skip8."),
    ("decoder.up_16_8.out_conv.", "decoder.block8."),
    ("decoder.up_8_4.skip_conv.", "decoder.skip4."),
    ("decoder.up_8_4.out_conv.", "decoder.block4."),
    ("decoder.pred.", "decoder.predict."),
    ("decoder.hidden_update.g16_conv.", "decoder.sensory16."),
    ("decoder.hidden_update.g8_conv.", "decoder.sensory8."),
    ("decoder.hidden_update.g4_conv.", "decoder.sensory4."),
    ("decoder.hidden_update.", "decoder.gate."),
)

OFFICIAL = {
    "click": PublishedWeights(
        file="coco_lvis_h32_itermask.pth",
        kind="click",
        trained_on="COCO and LVIS (README of RITM)",
        # README of RITM. Gone since July 2025 (rai-opensource/embodied_gaussians #7, SegNext #10)
        url="https://github.com/saic-vul/ritm_interactive_segmentation/releases/download/v1.0/"
        "coco_lvis_h32_itermask.pth",
        # what Supervisely's application for RITM loads
        copy="https://github.com/supervisely-ecosystem/ritm-interactive-segmentation/releases/"
        "download/v0.1/coco_lvis_h32_itermask.pth",
        licence="MIT, Copyright (c) 2021 Samsung Electronics Co., Ltd.",
        tensor_bytes=124_052_444,
    ),
    "propagation": PublishedWeights(
        file="XMem.pth",
        kind="propagation",
        trained_on="static images, YouTubeVOS and DAVIS (docs/TRAINING.md of XMem)",
        url=f"{XMEM_RELEASE}XMem.pth",
        licence="MIT, Copyright (c) 2024 Ho Kei Cheng",
        tensor_bytes=248_881_648,
    ),
}
OFFICIAL["propagation-s012"] = replace(
    OFFICIAL["propagation"],
    file="XMem-s012.pth",
    trained_on="static images, BL30K, YouTubeVOS and DAVIS (docs/TRAINING.md of XMem)",
    url=f"{XMEM_RELEASE}XMem-s012.pth",
)
SETS = {  # folder -> its click net and propagation net
    "official": ("click", "propagation"),
    "official-s012": ("click", "propagation-s012"),
}


def convert_official(folder: str | Path) -> None:
    """Write `official` and `official-s012` for `load_networks` into the folder.

    What was fetched lies in `published`, or in `published/copies` if it is somebody else's copy. A
    .pth file is a pickle and could run code, so it is read with PyTorch's `weights_only`, which
    builds tensors, plain containers, numbers and text and nothing else. That is enough: XMem's
    files are a bare state dict (its model/trainer.py), RITM's are a state dict beside a `config` of
    text, numbers and truth values, in which even classes stand by their names (its
    isegm/utils/serialization.py and misc.py). So no other type is allowed; a file that asks for one
    is not the published one. With no digest to go by, a file proves itself by its size and by
    having every tensor of the network with its name and shape, and no other.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the published one.
    """
    folder = Path(folder)
    found = {name: _find(folder / PUBLISHED, weights) for name, weights in OFFICIAL.items()}
    quality = next(LITE_FOLDER.glob("quality*.safetensors"))
    for target, names in SETS.items():
        (folder / target / "README.md").unlink(missing_ok=True)
        for name in names:
            _convert(OFFICIAL[name], found[name], folder / target)
        write_whole(folder / target / quality.name, quality.read_bytes())
        readme = _readme(target, {name: found[name] for name in names})
        write_whole(folder / target / "README.md", readme)  # last: all is there


def is_converted(folder: str | Path) -> bool:
    """Whether `convert_official` has written everything into the folder."""
    return all(
        (Path(folder) / name / "README.md").is_file()
        and all(len([*(Path(folder) / name).glob(f"{kind}*.safetensors")]) == 1 for kind in KINDS)
        for name in SETS
    )


def _find(published: Path, weights: PublishedWeights) -> Path:
    """The fetched file, if its size can be that of the published one."""
    paths = [published / weights.file, published / COPIES / weights.file]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{weights.file} must lie in {published}; make weights-official fetches it"
        )
    size = path.stat().st_size
    if not weights.tensor_bytes < size < LARGEST * weights.tensor_bytes:
        raise ValueError(
            f"{path} must have a little more than {weights.tensor_bytes:,} bytes, has {size:,}; "
            "it is not the published file; remove it, then make weights-official"
        )
    return path


def _convert(weights: PublishedWeights, path: Path, target: Path) -> None:
    network = {"click": load_ritm, "propagation": load_xmem}[weights.kind](path)
    about = {
        "source": _source(weights, path),
        "source_sha256": sha256_of(path),
        "licence": weights.licence,
        "trained_on": weights.trained_on,
    }
    save_network(network, target / f"{weights.kind}.safetensors", about)


def _source(weights: PublishedWeights, path: Path) -> str:
    return weights.copy if path.parent.name == COPIES else weights.url


def _readme(target: str, found: dict[str, Path]) -> str:
    rows = [
        f"| `{weights.kind}.safetensors` | `{weights.file}` | {_source(weights, path)} "
        f"| {path.stat().st_size:,} | `{sha256_of(path)}` | {weights.trained_on} "
        f"| {weights.licence} |"
        for weights, path in ((OFFICIAL[name], path) for name, path in found.items())
    ]
    copied = [
        f"`{path.name}` is a copy that somebody else keeps, for the authors have removed theirs "
        "(July 2025). Nothing proves that it is the same to the bit.\n\n"
        for path in found.values()
        if path.parent.name == COPIES
    ]
    return README.read_text(encoding="utf-8").format(
        target=target, rows="\n".join(rows), copied="".join(copied)
    )


def load_ritm(source: str | Path | Mapping[str, Any]) -> ClickNet:
    """A click net with the weights of RITM's `coco_lvis_h32_itermask`, in eval mode.

    Args:
        source: the file or what is in it; a bare state dict or one under "state_dict", with or
            without the prefix "module." that parallel training leaves.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys or shapes are not those of the published network.
    """
    state, origin = _read(source)
    return fill(ClickNet, ClickNetConfig(), _rename(state, ritm_key_map), origin)


def load_xmem(source: str | Path | Mapping[str, Any]) -> PropagationNet:
    """A propagation net with the weights of an XMem file such as `XMem.pth`, in eval mode.

    The first stage of XMem's training (`XMem-s0.pth`) knows one object only; the channel of the
    other objects' masks is added with zero weights.

    Args:
        source: as for `load_ritm`; a training checkpoint ("network") will do as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys or shapes are not those of the published network, or it was trained
            without sensory memory.
    """
    state, origin = _read(source)
    if state and not any(key.startswith("decoder.hidden_update.") for key in state):
        raise ValueError(
            f"{origin} must have sensory memory (keys decoder.hidden_update.*), got none; "
            "use XMem.pth rather than XMem-no-sensory.pth"
        )
    first = state.get("value_encoder.conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[1] == 4:
        others = torch.zeros_like(first[:, :1])
        state["value_encoder.conv1.weight"] = torch.cat([first, others], dim=1)
    return fill(PropagationNet, PropagationNetConfig(), _rename(state, xmem_key_map), origin)


def _read(source: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    if not isinstance(source, Mapping):
        if not Path(source).is_file():
            raise FileNotFoundError(f"no weights at {source}")
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise half a dozen kinds
            raise ValueError(f"{origin} must be a PyTorch file of weights: {error}") from error
    for wrapper in ("state_dict", "network"):
        if isinstance(source, Mapping) and isinstance(source.get(wrapper), Mapping):
            source = source[wrapper]
    if not isinstance(source, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in source.items()
    ):
        raise ValueError(f"{origin} must hold a state dict: tensors by name, and nothing else")
    return {key.removeprefix("module."): tensor for key, tensor in source.items()}, origin


def _rename(state: State, key_map: tuple[tuple[str, str], ...]) -> State:
    renamed = {}
    for key, tensor in state.items():
        for published, ours in key_map:
            key = key.replace(published, ours)
        renamed[key] = tensor
    return renamed
