"""Where a data set lies: in which folder of the data folder, and in which folder of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SetFolder:
    """A data set's folder and what shows that it holds the set."""

    name: str  # of the set
    folders: tuple[str, ...]  # where a data folder may hold it
    inside: tuple[str, ...]  # where these may hold the files; a twin goes into the first
    marks: tuple[str, ...]  # glob patterns, one of which shows that a folder holds the set
    source: str  # what holds the set where it comes from

    def find(self, data_root: str | Path | None) -> Path | None:
        """The folder for `read` in the data folder (`LIMNET_DATA`), None where there is none.

        Raises:
            ValueError: there is no such data folder.
        """
        return find_folder(data_root, self.folders, self.holder)

    def holder(self, root: str | Path) -> Path | None:
        """The folder of the files in another one, None where there is none."""
        return first_folder(
            Path(root), self.inside, lambda each: any(any(each.glob(m)) for m in self.marks)
        )

    def require(self, root: str | Path) -> Path:
        """The folder of the files in another one.

        Raises:
            ValueError: the folder is missing or has another layout.
        """
        holder = self.holder(root)
        if holder is None:
            raise ValueError(
                f"a folder of {self.name} must hold {self.marks[0]}, got {root}"
                f" ({'another layout' if Path(root).is_dir() else 'no such folder'});"
                f" point at the folder of {self.source}"
            )
        return holder


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
