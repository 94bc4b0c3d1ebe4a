"""Files that are there in full or not at all, whatever kills the process or the machine."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"only a file or folder that exists has a hash, got {path}")
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{content_hash(file)}\n".encode())
    return digest.hexdigest()
