"""What each comparator is, and where its package and checkpoint come from (sections III-C, III-D).

None of them comes with limnet. `LIMNET_COMPARATORS` names a folder with one entry for each that was
installed, named as in `comparator`; a checkpoint that was given takes its place.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool
from torch import nn

from limnet.method.prompts import Click, check_inside
from limnet.volumes import Volume

Masks = Bool[np.ndarray, "slices height width"]

CHECKPOINTS_VARIABLE = "LIMNET_COMPARATORS"  # environment: the folder of the checkpoints
HUB = "hub:"  # before a name on the Hugging Face Hub: the only way to a download


@runtime_checkable
class Comparator(Protocol):
    """Another segmenter behind our protocol: a volume and all clicks so far in, masks out."""

    name: str

    @property
    def digest(self) -> str:
        """What results depend on beside volume and clicks: code, versions and weights."""
        ...

    def __call__(self, volume: Volume, clicks: Sequence[Click]) -> Masks: ...


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

    def imported(self) -> ModuleType:
        """The package.

        Raises:
            ModuleNotFoundError: it is not installed; the message says how it is.
        """
        try:
            return import_module(self.package)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{self.title} needs the package {self.package}, got: {error}. {self.guide}"
            ) from error

    def found(self, checkpoint: str | Path | None = None) -> str:
        """The checkpoint that was given, else that of the folder `LIMNET_COMPARATORS`.

        Raises:
            FileNotFoundError: there is none; the message says where one comes from.
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


def has_positive(volume: Volume, clicks: Sequence[Click]) -> bool:
    """Whether there is anything to segment: without a positive click, masks are empty.

    Raises:
        ValueError: a click is outside the volume.
    """
    for click in clicks:
        check_inside(click, volume.images.shape[:3])
    return any(click.positive for click in clicks)


def digest_of(recipe: str, *networks: nn.Module) -> str:
    """SHA-256 of a recipe and of the names and values of all weights."""
    sha256 = hashlib.sha256(recipe.encode())
    for network in networks:
        for name, tensor in network.state_dict().items():
            sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
