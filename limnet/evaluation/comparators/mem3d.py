"""Mem3D (Zhou et al., MICCAI 2021): memory of slices, the paper's nearest relative (table I).

Its code has no licence: nothing of it is here, a checkout on the Python path is called. What its
authors published cannot be run from clicks: the trained weights are missing, and its network for
the prompt slice takes extreme points in a crop around the true mask. So this is half of it: its
memory network with quality assessment, trained by the user with the checkout's `train_SAQ.py`, and
SAM for the masks of clicked slices. From each of those the memory runs up and down, half-way to
the next; every fifth slice is kept in memory, and always the last, as in the checkout's evaluation.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn.functional import interpolate, one_hot, pad

from limnet.evaluation.comparators.base import About, Comparator, Masks
from limnet.evaluation.comparators.sam import Sam
from limnet.method.prompts import Click
from limnet.networks.layers import normalise
from limnet.volumes import Volume

ABOUT = About(
    key="mem3d",
    title="Mem3D",
    package="models_STM.models_SAQ",
    install=(
        "git clone https://github.com/lingorX/Mem3D, its folder on PYTHONPATH, and torchvision "
        'beside; pip install "limnet[comparators]" for SAM'
    ),
    checkpoint=(
        "a folder with memory.pth, trained by you with the checkout's train_SAQ.py (none is "
        "published), and sam, a folder with the weights of SAM"
    ),
    licence="none is given, so all rights are its authors'",
    paper=(
        "Mem3D with 6 points, taken over from Mem3D's own paper, whose released evaluation prompts "
        "with extreme points in a crop around the true mask; this is its memory network with SAM's "
        "masks on the clicked slices, another method"
    ),
)
KEY_DIM, VALUE_DIM = 128, 512  # of the checkout's options.py
SIZE = 512  # pixels of its square; the quality head allows no other
KEEP_EVERY = 5  # slices


class Mem3D(Comparator):
    """Segments the whole volume from masks of the clicked slices."""

    about, name = ABOUT, "Mem3D's memory, prompted by SAM"

    def __init__(
        self, memory: Any, prompt: Callable[[Volume, Sequence[Click]], Masks], prompt_digest: str
    ) -> None:
        """`memory`: the checkout's STM; `prompt`: what segments the clicked slices."""
        super().__init__(prompt_digest, memory)
        self.memory, self.prompt = memory, prompt

    @classmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "Mem3D":
        """With the user's weights for the memory, and SAM."""
        memory = ABOUT.import_package().STM(KEY_DIM, VALUE_DIM)
        state = ABOUT.state(Path(checkpoint, "memory.pth"), "state_dict")
        memory.load_state_dict({name.removeprefix("module."): each for name, each in state.items()})
        prompt = Sam.load(str(Path(checkpoint, "sam")), device)
        return cls(memory.eval().to(device), prompt, prompt.digest)

    @torch.inference_mode()
    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on all slices."""
        masks = np.zeros(volume.images.shape[:3], dtype=bool)
        prompts = self.prompt(volume, clicks)
        starts = np.flatnonzero(prompts.any(axis=(1, 2))).tolist()
        for place, start in enumerate(starts):
            first = 0 if place == 0 else (starts[place - 1] + start) // 2 + 1
            last = len(masks) - 1 if place == len(starts) - 1 else (start + starts[place + 1]) // 2
            masks[start] = prompts[start]
            for way in (range(start, last + 1), range(start, first - 1, -1)):
                for index, mask in self._pass(volume, prompts[start], way):
                    masks[index] = mask
        return masks

    def _pass(self, volume: Volume, mask: Bool[np.ndarray, "height width"], way: range) -> Any:
        """(slice index, mask) of each slice of the way after its first, which shows `mask`."""
        shape, device = mask.shape, next(self.memory.parameters()).device
        labels = one_hot(torch.from_numpy(mask).long(), 2).movedim(-1, 0)[None].float()
        probability = _square(labels, "nearest").to(device)
        keys, values = [], []
        for step, (before, index) in enumerate(pairwise(way)):
            frame, objects = _frame(volume, before).to(device), {"num_objects": 1}
            key, value, _ = self.memory(frame=frame, mask=probability, **objects)
            seen = {"keys": torch.cat([*keys, key], 1), "values": torch.cat([*values, value], 1)}
            frame = _frame(volume, index).to(device)
            logits, *_ = self.memory(frame=frame, **seen, **objects, max_obj=1)
            probability = torch.softmax(logits, dim=1)
            if step % KEEP_EVERY == 0:
                keys.append(key)
                values.append(value)
            yield index, _from_square(probability[:, 1:2], shape)


def _frame(volume: Volume, index: int) -> Float32[Tensor, "1 3 512 512"]:
    image = _square(torch.from_numpy(volume.rgb([index])).float(), "bilinear")
    return normalise(image)


def _place(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a slice in the middle of the square."""
    height, width = (int(side * SIZE / max(shape)) for side in shape)
    return (SIZE - height) // 2, (SIZE - width) // 2, height, width


def _square(image: Float32[Tensor, "1 c height width"], mode: str) -> Tensor:
    top, left, height, width = _place(tuple(image.shape[2:]))
    image = interpolate(image, (height, width), mode=mode)
    return pad(image, (left, SIZE - width - left, top, SIZE - height - top))


def _from_square(
    probability: Float32[Tensor, "1 1 512 512"], shape: tuple[int, ...]
) -> Bool[np.ndarray, "height width"]:
    top, left, height, width = _place(shape)
    inside = probability[..., top : top + height, left : left + width]
    return (interpolate(inside, tuple(shape), mode="bilinear")[0, 0] > 0.5).cpu().numpy()
