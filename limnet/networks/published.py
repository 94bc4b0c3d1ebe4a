"""The files that RITM and XMem publish, in the names of our networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def ritm_state(source: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    """The tensors of RITM's `coco_lvis_h32_itermask`, and where they came from.

    Args:
        source: the file or what is in it; a bare state dict or one under "state_dict", with or
            without the prefix "module." that parallel training leaves.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict.
    """
    state, origin = _read(source)
    return _rename(state, ritm_key_map), origin


def xmem_state(source: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    """The tensors of an XMem file such as `XMem.pth`, and where they came from.

    The first stage of XMem's training (`XMem-s0.pth`) knows one object only; the channel of the
    other objects' masks is added with zero weights.

    Args:
        source: as for `ritm_state`; a training checkpoint ("network") will do as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict, or one without sensory memory.
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
    return _rename(state, xmem_key_map), origin


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
