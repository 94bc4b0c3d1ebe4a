"""nnInteractive (Isensee et al., 2025), the strongest open 3D rival; newer than the paper.

Raw intensities and clicks go to its own inference session, one point a click.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from limnet.evaluation.comparators.base import About, Comparator, Masks
from limnet.files import sha256_of
from limnet.method.prompts import Click
from limnet.volumes import Volume

ABOUT = About(
    key="nninteractive",
    title="nnInteractive",
    package="nnInteractive.inference.inference_session",
    install="pip install nnInteractive (2.6.0 was looked at), in practice with an NVIDIA GPU",
    checkpoint=(
        "the folder of a trained model of huggingface.co/MIC-DKFZ/nnInteractive (0.4 GB), with "
        "plans.json, dataset.json and fold_0; the package unpickles it, so take it from nobody else"
    ),
    licence="code Apache 2.0, weights CC BY-NC-SA 4.0: not for commercial use",
    paper="no row; it is newer",
)


class NnInteractive(Comparator):
    """Segments the whole volume."""

    about, name = ABOUT, "nnInteractive"

    def __init__(self, session: Any, model_hash: str) -> None:
        """`session`: an nnInteractiveInferenceSession with the model of that hash."""
        super().__init__(f"{ABOUT.version()} {model_hash}")
        self.session = session

    @classmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "NnInteractive":
        """With the model of a folder."""
        module = ABOUT.import_package()
        with redirect_stdout(io.StringIO()):  # it prints
            session = module.nnInteractiveInferenceSession(
                device=torch.device(device),
                torch_n_threads=torch.get_num_threads(),  # it would set 8 for the whole process
                verbose=False,
            )
            session.initialize_from_trained_model_folder(checkpoint)
        return cls(session, sha256_of(checkpoint))

    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on all slices."""
        masks = np.zeros(volume.images.shape[:3], dtype=np.uint8)
        images = volume.images if volume.images.ndim == 3 else volume.images.mean(axis=-1)
        self.session.set_image(images[None].astype(np.float32))
        self.session.set_target_buffer(masks)  # which it fills
        for click in clicks:
            point = (click.slice_index, int(click.row), int(click.column))
            self.session.add_point_interaction(point, include_interaction=click.positive)
        return masks > 0
