"""Where a data set's folder is, and how to name what it lacks."""

from collections.abc import Callable, Sequence
from pathlib import Path


def find_folder(
    data_root: str | Path | None, names: Sequence[str], holds: Callable[[Path], object]
) -> Path | None:
    """The folder with one of these names in the data folder that holds a data set; None: none.

    Args:
        data_root: `LIMNET_DATA`; None where there is no data folder.

    Raises:
        ValueError: there is no such data folder.
    """
    if data_root is None:
        return None
    if not Path(data_root).is_dir():
        raise ValueError(f"the data folder must exist, got {data_root}; correct LIMNET_DATA")
    return first_folder(Path(data_root), names, holds)


def first_folder(root: Path, names: Sequence[str], holds: Callable[[Path], object]) -> Path | None:
    """The first of some folders in another one of which something is true."""
    return next((root / name for name in names if holds(root / name)), None)


def few(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
