"""Files that are there in full or not at all, whatever kills the process or the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A hidden name beside a path to write to, with the same ending.

    What was written there takes the path's place once it is on the disk; if writing it fails,
    nothing of it stays and the path is what it was.
    """
    partial = path.with_name(f".{uuid4().hex}-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # or a crash of the machine could leave the new name empty
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is there in full or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
