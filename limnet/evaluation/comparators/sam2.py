"""SAM 2 (Ravi et al., 2024): clicks on some slices, masks on all by its memory of video frames.

A rival of LIM-Net in kind, and newer than the paper, which has no row for it. It is asked as its
own video predictor asks it. Slices with a positive click are prompts, which every other slice
remembers; the masks run forward from the first of them to the last slice of the volume, and
backward to the first. Slices whose clicks are all negative say nothing of the object: they correct
what was propagated, become prompts too (SAM 2.1's setting), and all is propagated again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from limnet.evaluation.comparators.base import About, Comparator, Masks, Square
from limnet.method.prompts import Click
from limnet.volumes import Volume

ABOUT = About(
    key="sam2",
    title="SAM 2",
    package="transformers",
    install='pip install "limnet[comparators]"',
    checkpoint=(
        "a folder with config.json and model.safetensors of, say, facebook/sam2.1-hiera-tiny, or "
        '"hub:facebook/sam2.1-hiera-tiny" to download them from the Hugging Face Hub'
    ),
    licence="Apache 2.0, code and weights",
    paper="no row; it is the video successor of the paper's SAM-B",
)
OBJECT = 0  # the one object's id, and its index


class Sam2(Comparator):
    """Segments the whole volume, a slice a frame."""

    about, name = ABOUT, "SAM 2"

    def __init__(self, model: Any) -> None:
        """`model`: a Sam2VideoModel in eval mode."""
        super().__init__(ABOUT.version(), model)
        self.model, self.square = model, Square(model.config.image_size, keep_aspect=False)

    @classmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "Sam2":
        """With the weights of a checkpoint."""
        return cls(ABOUT.pretrained("Sam2VideoModel", checkpoint, device))

    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on all slices."""
        session = self._session(volume)
        by_slice: dict[int, list[Click]] = {}
        for click in clicks:
            by_slice.setdefault(click.slice_index, []).append(click)
        prompts = [i for i, each in by_slice.items() if any(click.positive for click in each)]
        for index in prompts:
            self._prompt(session, index, by_slice[index])
        masks = self._propagate(session, volume, min(prompts))
        corrections = [index for index in by_slice if index not in prompts]
        for index in corrections:
            self._prompt(session, index, by_slice[index], backward=index < min(prompts))
            outputs = session.output_dict_per_obj[OBJECT]
            corrected = outputs["non_cond_frame_outputs"].pop(index)
            outputs["cond_frame_outputs"][index] = corrected
        return self._propagate(session, volume, min(prompts)) if corrections else masks

    def _session(self, volume: Volume) -> Any:
        device = next(self.model.parameters()).device
        places = ("inference_device", "inference_state_device", "video_storage_device")
        session = ABOUT.import_package().Sam2VideoInferenceSession(
            video_height=volume.images.shape[1],
            video_width=volume.images.shape[2],
            dtype=torch.float32,
            **dict.fromkeys(places, device),
        )
        session.processed_frames = _Frames(volume, self.square, device)
        session.obj_id_to_idx(OBJECT)  # makes the object
        return session

    def _prompt(
        self, session: Any, index: int, clicks: Sequence[Click], *, backward: bool = False
    ) -> None:
        points, labels = self.square.points(clicks, (session.video_height, session.video_width))
        inputs = {"point_coords": points, "point_labels": labels}
        session.add_point_inputs(OBJECT, index, inputs)
        session.obj_with_new_inputs = [OBJECT]
        self.model(session, frame_idx=index, reverse=backward)

    def _propagate(self, session: Any, volume: Volume, first: int) -> Masks:
        masks = np.zeros(volume.images.shape[:3], dtype=bool)
        for backward in (False, True):
            for output in self.model.propagate_in_video_iterator(
                session, start_frame_idx=first, reverse=backward
            ):
                masks[output.frame_idx] = self.square.mask(output.pred_masks, masks.shape[1:])
        return masks


class _Frames:
    """The volume's slices as frames, made when they are looked at: 12 MB each at full size."""

    def __init__(self, volume: Volume, square: Square, device: torch.device) -> None:
        self.volume, self.square, self.device = volume, square, device

    def __len__(self) -> int:
        return len(self.volume.images)

    def __getitem__(self, index: int) -> Float32[Tensor, "3 size size"]:
        return self.square.image(self.volume, index)[0].to(self.device)
