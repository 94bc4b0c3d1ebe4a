"""What all comparators share: package, checkpoint, clicks and digest (sections III-C, III-D).

None of them comes with limnet. `LIMNET_COMPARATORS` names a folder with one entry for each that was
installed, named as in `comparator`; a checkpoint that the caller passes takes its place.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from limnet.method.prompts import Click, check_inside
from limnet.networks.layers import normalise
from limnet.volumes import Volume

Masks = Bool[np.ndarray, "slices height width"]

CHECKPOINTS_VARIABLE = "LIMNET_COMPARATORS"  # environment: the folder of the checkpoints
HUB = "hub:"  # before a name on the Hugging Face Hub: the only way to a download
# what a file raises that holds code, or something else than weights
NO_WEIGHTS = (LookupError, TypeError, RuntimeError, UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class About:
    """What a user must know to run a comparator."""

    key: str  # of `comparator`
    title: str
    package: str  # what is imported
    install: str
    checkpoint: str  # what `comparator` takes, and where it is found
    licence: str
    paper: str  # what the paper's row means

    @property
    def guide(self) -> str:
        """The sentences under every error about what is missing."""
        return (
            f"To install: {self.install}. Checkpoint: {self.checkpoint}; pass it, or put it into "
            f"the folder that {CHECKPOINTS_VARIABLE} names, as {self.key}. Licence: {self.licence}."
            f" In the paper: {self.paper}."
        )

    def import_package(self) -> ModuleType:
        """The package, or a ModuleNotFoundError that says how it is installed."""
        try:
            return import_module(self.package)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{self.title} needs the package {self.package}, got: {error}. {self.guide}"
            ) from error

    def version(self) -> str:
        """That of the package."""
        try:
            return version(self.package.split(".")[0])
        except PackageNotFoundError:
            return "a checkout"

    def checkpoint_path(self, checkpoint: str | Path | None = None) -> str:
        """The checkpoint that the caller passed, else that of the folder `LIMNET_COMPARATORS`.

        A FileNotFoundError says where one comes from.
        """
        if self.package == "transformers" and str(checkpoint).startswith(HUB):
            return str(checkpoint)
        if checkpoint is None and os.environ.get(CHECKPOINTS_VARIABLE):
            checkpoint = Path(os.environ[CHECKPOINTS_VARIABLE], self.key)
        if checkpoint is None or not Path(checkpoint).exists():
            raise FileNotFoundError(
                f"{self.title} needs a checkpoint that exists, got {checkpoint}. {self.guide}"
            )
        return str(checkpoint)

    def state(self, path: str | Path, key: str) -> dict[str, Tensor]:
        """Weights in safetensors, or under a key of a PyTorch file; no code in it is run."""
        try:
            if Path(path).suffix == ".safetensors":
                return load_file(path)
            with torch.serialization.safe_globals([Namespace]):  # training's arguments lie beside
                return torch.load(path, map_location="cpu", weights_only=True)[key]
        except (OSError, EOFError, *NO_WEIGHTS) as error:
            raise ValueError(
                f"{path} must hold tensors under {key} and nothing that runs code, got: {error}. "
                f"{self.guide}"
            ) from error

    def pretrained(self, kind: str, checkpoint: str, device: torch.device | str) -> Any:
        """A network of `transformers` of this class, from safetensors, in eval mode.

        A folder is read without network; only "hub:" and a name on the Hub downloads.
        """
        transformers = self.import_package()
        on_hub = checkpoint.startswith(HUB)
        source = checkpoint.removeprefix(HUB) if on_hub else str(Path(checkpoint).resolve())
        transformers.utils.logging.disable_progress_bar()
        try:
            model, report = getattr(transformers, kind).from_pretrained(
                source,
                local_files_only=not on_hub,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported like names, below
            )
        except OSError as error:
            raise ValueError(
                f"{self.title} needs a folder with config.json and model.safetensors, got "
                f"{source}: {error}. {self.guide}"
            ) from error
        wrong = [*report["missing_keys"], *report["mismatched_keys"]]
        if wrong:  # transformers would go on with random weights in their place
            raise ValueError(
                f"{source} must hold all weights of a {kind}, but {len(wrong)} are missing or of "
                f"another size, first {wrong[0]}. {self.guide}"
            )
        return model.eval().to(device)


class Comparator(ABC):
    """Another segmenter: a volume and all clicks so far in, masks out."""

    about: ClassVar[About]
    name: ClassVar[str]
    recipe: ClassVar[int] = 1  # raised when what is done here changes: results are computed again

    def __init__(self, source: str, *networks: nn.Module) -> None:
        """`source`: what results depend on beside networks, such as a version."""
        self.source, self.networks = source, networks

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: str, device: torch.device | str = "cpu") -> "Comparator":
        """With the weights of a checkpoint."""

    @abstractmethod
    def segment(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks from clicks inside the volume, one of which is positive at least."""

    def __call__(self, volume: Volume, clicks: Sequence[Click]) -> Masks:
        """Masks on all slices; empty while no click is positive.

        Raises:
            ValueError: a click is outside the volume.
        """
        for click in clicks:
            check_inside(click, volume.images.shape[:3])
        if not any(click.positive for click in clicks):
            return np.zeros(volume.images.shape[:3], dtype=bool)
        return self.segment(volume, clicks)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that results depend on beside volume and clicks."""
        sha256 = hashlib.sha256(f"{self.about.title} {self.recipe} {self.source}".encode())
        for network in self.networks:
            for name, tensor in network.state_dict().items():
                sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha256.hexdigest()


class Square(NamedTuple):
    """How SAM and SAM 2 see a slice; their own processors need torchvision, or warn of it."""

    size: int  # pixels
    keep_aspect: bool  # black fills the shorter side, below or right (SAM); else stretched (SAM 2)

    def side_lengths(self, shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) of a slice within the square."""
        if not self.keep_aspect:
            return self.size, self.size
        height, width = (int(side * self.size / max(shape) + 0.5) for side in shape)
        return height, width

    def image(self, volume: Volume, slice_index: int) -> Float32[Tensor, "1 3 size size"]:
        """A slice in the volume's window."""
        image = torch.from_numpy(volume.rgb([slice_index])).float()
        height, width = self.side_lengths(volume.images.shape[1:3])
        image = interpolate(image, (height, width), mode="bilinear", antialias=True)
        # ImageNet's statistics, as both processors have them
        return pad(normalise(image), (0, self.size - width, 0, self.size - height))

    def points(
        self, clicks: Sequence[Click], shape: Sequence[int]
    ) -> tuple[Float32[Tensor, "1 1 clicks 2"], Int[Tensor, "1 1 clicks"]]:
        """(column, row) of each click and its label, 1 if positive."""
        height, width = self.side_lengths(shape)
        scale = torch.tensor([width / shape[1], height / shape[0]])
        points = torch.tensor([[float(click.column), float(click.row)] for click in clicks])
        labels = torch.tensor([int(click.positive) for click in clicks], dtype=torch.int32)
        return (points * scale)[None, None], labels[None, None]

    def mask(
        self, logits: Float[Tensor, "1 1 low low"], shape: Sequence[int]
    ) -> Bool[np.ndarray, "height width"]:
        """The mask on the slice's own pixels."""
        logits, (height, width) = logits.float(), self.side_lengths(shape)
        if self.keep_aspect:
            logits = interpolate(logits, (self.size, self.size), mode="bilinear")
            logits = logits[..., :height, :width]
        return (interpolate(logits, tuple(shape), mode="bilinear")[0, 0] > 0).cpu().numpy()
