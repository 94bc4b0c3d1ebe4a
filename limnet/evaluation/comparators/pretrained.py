"""SAM and SAM 2 as `transformers` has them: how weights are loaded and slices shown to them.

Their processors need torchvision, or warn of it; what they do to a slice are the few lines here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import interpolate, pad

from limnet.evaluation.comparators.base import HUB, About
from limnet.networks.normalisation import normalise
from limnet.volumes import Volume


def load_pretrained(about: About, kind: str, checkpoint: str, device: torch.device | str) -> Any:
    """A network of `transformers` from safetensors, in eval mode.

    Args:
        kind: the class of `transformers`.
        checkpoint: a folder, which is read without network, or "hub:" and a name on the Hub.

    Raises:
        ValueError: there are no such weights, or they are another network's.
    """
    transformers = about.imported()
    on_hub = checkpoint.startswith(HUB)
    source = checkpoint.removeprefix(HUB) if on_hub else str(Path(checkpoint).resolve())
    only = {"local_files_only": not on_hub, "use_safetensors": True, "dtype": torch.float32}
    bar = transformers.utils.logging.is_progress_bar_enabled()
    try:
        transformers.utils.logging.disable_progress_bar()
        # sizes that differ are reported like names, below
        model, report = getattr(transformers, kind).from_pretrained(
            source, **only, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise ValueError(
            f"{about.title} needs a folder with config.json and model.safetensors, got {source}: "
            f"{error}. {about.guide}"
        ) from error
    finally:
        if bar:
            transformers.utils.logging.enable_progress_bar()
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:  # transformers would go on with random weights in their place
        raise ValueError(
            f"{source} must hold all weights of a {kind}, but {len(wrong)} are missing or of "
            f"another size, first {wrong[0]}. {about.guide}"
        )
    return model.eval().to(device)


def shown(
    volume: Volume, slice_index: int, size: int, *, keep_aspect: bool
) -> Float32[Tensor, "1 3 size size"]:
    """A slice in the volume's window as the network takes it.

    Args:
        size: pixels of the network's square.
        keep_aspect: the longer side fills the square and black follows below or right (SAM); else
            the slice is stretched to it (SAM 2).
    """
    image = torch.from_numpy(volume.rgb([slice_index])).float()
    height, width = shown_size(volume.images.shape[1:3], size, keep_aspect=keep_aspect)
    image = interpolate(image, (height, width), mode="bilinear", antialias=True)
    # ImageNet's statistics, as both processors have them
    return pad(normalise(image), (0, size - width, 0, size - height))


def shown_size(shape: tuple[int, ...], size: int, *, keep_aspect: bool) -> tuple[int, int]:
    """(height, width) of a slice within the network's square."""
    if not keep_aspect:
        return size, size
    height, width = (int(side * size / max(shape) + 0.5) for side in shape)
    return height, width


def enlarged(
    logits: Float[Tensor, "1 1 low low"],
    shape: tuple[int, ...],
    size: int,
    *,
    keep_aspect: bool,
) -> np.ndarray:
    """The mask on the slice's own pixels, from logits on the network's square."""
    height, width = shown_size(shape, size, keep_aspect=keep_aspect)
    if keep_aspect:
        logits = interpolate(logits.float(), (size, size), mode="bilinear")
        logits = logits[..., :height, :width]
    return (interpolate(logits.float(), tuple(shape), mode="bilinear")[0, 0] > 0).cpu().numpy()
