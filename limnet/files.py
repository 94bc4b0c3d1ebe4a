"""Files that are there in full or not at all, their SHA-256, and the memory of this process."""

import hashlib
import os
import re
import resource
import sys
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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is there in full or not at all; text becomes UTF-8."""
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"only a file or folder that exists has a hash, got {path}")
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def peak_memory() -> int:
    """The most bytes that this process has held in memory.

    On Linux `getrusage` will not do: its peak may be that of the process which started this one
    (getrusage(2): usage is preserved across an execve).
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "")
    if found:
        return 1024 * int(found[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used  # macOS counts bytes
