"""SAM-Med3D (Wang et al., 2023): SAM in 3D for medical volumes (table IV, "6 points").

Asked as its authors do it: 1.5 mm voxels toward right, front and head, CT clamped, grey values
normalised over what is above 0, a cube of 128 voxels, one click at a time on top of the last
logits. But their cube is centred on the true object, and so, as far as one can tell, was the one
of the paper's row; here nobody knows it, and the cube's middle is the first positive click. What
lies beyond 96 mm from there stays empty.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn.functional import interpolate

from limnet.evaluation.comparators.base import About, Comparator, Masks
from limnet.method.prompts import Click
from limnet.volumes import Volume

ABOUT = About(
    key="sam_med3d",
    title="SAM-Med3D",
    package="medim",
    install="pip install medim (0.1.2 was looked at; github.com/uni-medical/SAM-Med3D)",
    checkpoint=(
        "sam_med3d_turbo.pth of huggingface.co/blueyo0/SAM-Med3D, or the same weights as "
        ".safetensors"
    ),
    licence="Apache 2.0, code and weights",
    paper=(
        "SAM-Med3D with 6 points; its authors' procedure crops around the true organ, which this "
        "is not given"
    ),
)
SIDE = 128  # voxels of the cube
SPACING_MM = 1.5
CT_RANGE = (-1000, 1000)  # HU; the authors clamp to it
OUTSIDE = -30.0  # logit beyond the cube

Affine = Float[np.ndarray, "4 4"]


class SamMed3D(Comparator):
    """Segments a cube of 192 mm around the first positive click."""

    about, name = ABOUT, "SAM-Med3D, cube at the first click"

    def __init__(self, model: Any) -> None:
        """`model`: that of `medim.create_model("SAM-Med3D")`, in eval mode."""
        super().__init__(ABOUT.version(), model)
        self.model = model
        self._last: tuple[Any, Tensor] | None = None  # cube and its embedding

    @classmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "SamMed3D":
        """With the weights of a checkpoint, which is read without unpickling code."""
        medim = ABOUT.import_package()
        with redirect_stdout(io.StringIO()):  # it prints
            model = medim.create_model("SAM-Med3D")
        model.load_state_dict(ABOUT.state(checkpoint, "model_state_dict"))
        return cls(model.eval().to(device))

    @torch.inference_mode()
    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on all slices; what lies outside the cube is empty."""
        first = next(click for click in clicks if click.positive)
        cube = cube_affine(volume, first)
        embedding, encoder = self._embedding(volume, cube), self.model.prompt_encoder
        device = embedding.device
        logits = torch.zeros(1, 1, *[SIDE // 4] * 3, device=device)
        for click in [first, *(click for click in clicks if click is not first)]:
            position = in_cube(volume, cube, click)
            if (position <= -0.5).any() or (position >= SIDE - 0.5).any():
                continue
            point = torch.from_numpy(position).float()[None, None].to(device)
            label = torch.tensor([[int(click.positive)]], device=device)
            sparse, dense = encoder(points=[point, label], boxes=None, masks=logits)
            logits, _ = self.model.mask_decoder(
                image_embeddings=embedding,
                image_pe=encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
        large = interpolate(logits, [SIDE] * 3, mode="trilinear")[0, 0].cpu().numpy()
        to_cube, shape = np.linalg.inv(cube) @ volume.affine, volume.images.shape[:3]
        return affine_transform(large, to_cube, output_shape=shape, order=1, cval=OUTSIDE) > 0

    def _embedding(self, volume: Volume, cube: Affine) -> Tensor:
        key = (volume.digest, volume.modality, volume.affine.tobytes(), cube.tobytes())
        if self._last is None or self._last[0] != key:
            images = torch.from_numpy(cube_of(volume, cube))[None, None]
            device = next(self.model.parameters()).device
            self._last = key, self.model.image_encoder(images.to(device))
        return self._last[1]


def cube_affine(volume: Volume, centre: Click) -> Affine:
    """Voxels of the cube -> mm (RAS+), with a click in the middle."""
    middle_mm = volume.position_mm(centre.slice_index, centre.row, centre.column)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = middle_mm - SPACING_MM * SIDE / 2
    return affine


def in_cube(volume: Volume, cube: Affine, click: Click) -> Float[np.ndarray, " 3"]:
    """Where a click is, in voxels of the cube."""
    position_mm = volume.position_mm(click.slice_index, click.row, click.column)
    return (position_mm - cube[:3, 3]) / SPACING_MM


def cube_of(volume: Volume, cube: Affine) -> Float32[np.ndarray, "side side side"]:
    """Normalised grey values of the cube; 0 before that beyond the volume, as TorchIO pads."""
    images = np.asarray(volume.images, dtype=np.float32)
    if images.ndim == 4:
        images = images.mean(axis=-1)
    if volume.modality == "CT":
        images = images.clip(*CT_RANGE)
    to_volume = np.linalg.inv(volume.affine) @ cube
    values = affine_transform(images, to_volume, output_shape=(SIDE,) * 3, order=1)
    above = values[values > 0]
    if above.size < 2 or above.std() == 0:
        return np.zeros_like(values)
    return ((values - above.mean()) / above.std(ddof=1)).astype(np.float32)
