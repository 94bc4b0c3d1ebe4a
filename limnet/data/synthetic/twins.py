"""Twins: phantoms under the folder and file names of a data set, so that one adapter reads both.

A `twin.json` beside them says that they are synthetic and how they were made; what another recipe
has made is replaced, and what is no twin is never touched.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from limnet.files import atomic_write

MARKER = "twin.json"
TWIN_SEEDS = 1_000_000  # the twins' patients are none of those that networks are trained on


def is_twin(folder: str | Path) -> bool:
    """Whether a folder holds phantoms in place of patients."""
    return (Path(folder) / MARKER).is_file()


def begin_twin(folder: Path, recipe: dict[str, Any], files: Iterable[Path]) -> None:
    """Make a folder ready for a recipe's files: those of another recipe are removed.

    Args:
        files: all that lie where the twin's will.

    Raises:
        ValueError: the folder holds such files and is no twin.
    """
    marker, files = folder / MARKER, list(files)
    if files and not marker.is_file():
        raise ValueError(f"a twin must not overwrite {folder}, which is no twin; choose another")
    if not marker.is_file() or json.loads(marker.read_text()) != recipe:
        for path in files:
            path.unlink(missing_ok=True)
        inside = {parent for path in files for parent in path.parents if folder in parent.parents}
        for emptied in sorted(inside, reverse=True):  # the inner ones first
            if emptied.is_dir() and not any(emptied.iterdir()):
                emptied.rmdir()
        folder.mkdir(parents=True, exist_ok=True)
        write_first(marker, lambda path: path.write_text(json.dumps(recipe, indent=1)))


def write_slices(path: Path, slices: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Saves slices (upwards, rows to the back, columns to the left) in the LAS+ order of BTCV."""
    data = slices[:, ::-1].transpose(2, 1, 0)
    steps = np.array(spacing_mm[::-1]) * (-1, 1, 1)
    affine = nibabel.affines.from_matvec(np.diag(steps), -steps * (np.array(data.shape) - 1) / 2)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_first(path, lambda partial: nibabel.save(image, partial))


def write_first(path: Path, save: Callable[[Path], Any]) -> None:
    """Saves under another name first, so that a file that exists is whole."""
    with atomic_write(path) as partial:
        save(partial)
