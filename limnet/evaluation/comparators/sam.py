"""SAM with its ViT-B (Kirillov et al., 2023), which knows slices only (tables IV and V).

Behind our protocol it can do no more than segment the slices that were clicked: between them there
is nothing, so its DSC over a volume is low with six clicks. The paper's rows are another protocol,
with clicks on every one of the N slices that show the target: `on_every_slice`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from limnet.evaluation.comparators.base import About, Comparator, Masks, Square
from limnet.evaluation.users import next_click_on_slice
from limnet.method.prompts import Click
from limnet.volumes import Volume

ABOUT = About(
    key="sam",
    title="SAM",
    package="transformers",
    install='pip install "limnet[comparators]"',
    checkpoint=(
        "a folder with config.json and model.safetensors of facebook/sam-vit-base, or "
        '"hub:facebook/sam-vit-base" to download 0.4 GB from the Hugging Face Hub'
    ),
    licence="Apache 2.0, code and weights",
    paper=(
        "SAM-B clicked on every one of N slices that show the target, once (N points), 6 times "
        "(6 N) or 10 times (10 N): far more than our six clicks a volume"
    ),
)
CACHED_SLICES = 16  # whose embeddings are cached from click to click; 4 MB each

Logits = Float32[Tensor, "1 1 low low"]


class Sam(Comparator):
    """Segments the slices that were clicked on, each for itself."""

    about, name = ABOUT, "SAM, clicked slices only"

    def __init__(self, model: Any) -> None:
        """`model`: a SamModel in eval mode."""
        super().__init__(ABOUT.version(), model)
        self.model = model
        self.square = Square(model.config.vision_config.image_size, keep_aspect=True)
        self._embeddings: dict[tuple[Any, ...], Tensor] = {}

    @classmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "Sam":
        """With the weights of a checkpoint."""
        return cls(ABOUT.pretrained("SamModel", checkpoint, device))

    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on the clicked slices; a slice without a positive click stays empty."""
        masks = np.zeros(volume.images.shape[:3], dtype=bool)
        for index in {click.slice_index for click in clicks}:
            on_slice, logits = [], None
            for click in clicks:
                if click.slice_index == index:
                    on_slice.append(click)
                    if any(each.positive for each in on_slice):
                        logits = self.predict(volume, index, on_slice, logits)
            if logits is not None:
                masks[index] = self.mask(logits, volume)
        return masks

    @torch.inference_mode()
    def predict(
        self, volume: Volume, index: int, clicks: Sequence[Click], previous: Logits | None = None
    ) -> Logits:
        """Logits of the object on a slice; `previous`: those of the clicks before the last."""
        embedding = self._embedding(volume, index)
        points, labels = self.square.points(clicks, volume.images.shape[1:3])
        # one click is ambiguous: the best of three masks; then SAM's paper shows it the last logits
        ambiguous = len(clicks) == 1
        output = self.model(
            image_embeddings=embedding,
            input_points=points.to(embedding.device),
            input_labels=labels.long().to(embedding.device),
            input_masks=previous,
            multimask_output=ambiguous,
        )
        best = int(output.iou_scores[0, 0].argmax())
        return output.pred_masks[:, :, best].float()

    def mask(self, logits: Logits, volume: Volume) -> Bool[np.ndarray, "height width"]:
        """The logits' mask on the pixels of the volume's slices."""
        return self.square.mask(logits, volume.images.shape[1:3])

    def _embedding(self, volume: Volume, index: int) -> Tensor:
        key = (volume.digest, volume.window, index)
        if key not in self._embeddings:
            device = next(self.model.parameters()).device
            image = self.square.image(volume, index).to(device)
            self._embeddings[key] = self.model.get_image_embeddings(image)
            if len(self._embeddings) > CACHED_SLICES:
                self._embeddings.pop(next(iter(self._embeddings)))
        return self._embeddings[key]


def on_every_slice(
    sam: Sam, volume: Volume, target: Masks, *, clicks: int = 1
) -> tuple[Masks, tuple[Click, ...]]:
    """The paper's "N points" (or 6 N, 10 N): SAM's masks and all clicks, some on every slice.

    No `Comparator`: the simulated user sees the truth and clicks on each of the N slices that show
    the target, so that SAM cannot be wrong on the other slices.

    Args:
        target: the true masks.
        clicks: on each slice, at most; fewer where nothing is left to correct.

    Raises:
        ValueError: the target is not on the volume's grid, or there is no click.
    """
    if target.shape != volume.images.shape[:3] or clicks < 1:
        raise ValueError(
            f"the target must be of shape {volume.images.shape[:3]} and clicks at least 1, "
            f"got {target.shape} and {clicks}"
        )
    masks, made = np.zeros_like(target), []
    for index in np.flatnonzero(target.any(axis=(1, 2))).tolist():
        on_slice, logits, not_clicked = [], None, np.ones(target.shape[1:], dtype=bool)
        for _ in range(clicks):
            found = next_click_on_slice(target[index], masks[index], not_clicked)
            if found is None:
                break
            positive, row, column = found
            not_clicked[row, column] = False
            on_slice.append(Click(index, row, column, positive))
            logits = sam.predict(volume, index, on_slice, logits)
            masks[index] = sam.mask(logits, volume)
        made += on_slice
    return masks, tuple(made)
