"""The file of a journal: held by one process at a time, never overwritten.

An action is on the disk when `append` returns.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from limnet.annotator.journal_lines import OWN_KEYS, VERSION, Action, Header, read_lines, seal
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume


class Journal:
    """An append-only file of actions. Made by `Journal.open`.

    Has `path`, `header`, `actions` (that were in it when opened) and `notices` for the user.
    """

    @classmethod
    def open(cls, path: str | Path, volume: Volume, networks: LimNet) -> "Journal":
        """The journal at a path, begun or continued; nobody else can open it until it is closed.

        From the first damaged line on, the file is moved to `<journal>.damaged-1` (-2, ...).

        Raises:
            ValueError: the file is no journal, or one of another image or of a newer limnet; it is
                left as it is.
            RuntimeError: it is open elsewhere or cannot be written.
        """
        self = cls()
        self.path, self.notices = Path(path).absolute(), []
        self._lock = FileLock(
            f"{self.path}.lock", blocking=False, thread_local=False, fallback_to_soft=False
        )
        with _writing(self.path):
            self._file = self.path.open("a+b", buffering=0)
            try:
                self._acquire()
                self._start(_new_header(volume, networks), volume)
            except BaseException:
                self.close()
                raise
        return self

    def append(self, action: Action, *, durable: bool = True) -> None:
        """Write an action; it is on the disk when this returns.

        Args:
            durable: False leaves it to the system when to write; only a power cut can lose it.

        Raises:
            ValueError: the action holds what a journal cannot.
            RuntimeError: it could not be written; the journal ends with the action before.
        """
        if type(action.get("action")) is not str or OWN_KEYS & action.keys():
            raise ValueError(f"an action must have a name, and no n, utc or crc, got {[*action]}")
        entry = {"n": self._entries + 1, "utc": _now(), **action}
        line, checksum = seal(entry, self._checksum, self.header["shape"])
        self._check_untouched()
        self._write(line, durable=durable)
        self._checksum, self._entries = checksum, self._entries + 1

    def close(self) -> None:
        """Let others open the journal."""
        self._file.close()
        if self._lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                Path(self._lock.lock_file).unlink()
            self._lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _acquire(self) -> None:
        """Hold the lock, in whose file stands who holds it."""
        owner = Path(self._lock.lock_file)
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = "an unknown process"
            with suppress(OSError):
                holder = owner.read_text("utf-8", "replace")[:200]
            raise RuntimeError(
                f"a journal must be open in one notebook at a time, but {self.path} is open in"
                f" {holder} (this is {_process()}): close the annotator there or shut down its"
                " kernel, then try again"
            ) from error
        except (OSError, NotImplementedError) as error:  # a file system without locks
            self.notices.append(f"{self.path} cannot be locked ({error}): open it only once")
            return
        with suppress(OSError):
            owner.write_text(_process(), "utf-8")

    def _start(self, new: Header, volume: Volume) -> None:
        """Go on with what the file holds, or begin it."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise ValueError(f"a journal must be a file, got {self.path}; choose another path")
        lines = read_lines(self.path)
        self.header, self.actions = lines.header or new, lines.actions
        self._size, self._checksum, self._entries = lines.size, lines.checksum, len(lines.actions)
        is_shape = self.header["shape"] == new["shape"]
        # in this order: an older journal's digest may need all voxels of a file
        is_image = is_shape and volume.has_digest(self.header["image_sha256"])
        if not is_image:
            raise ValueError(
                f"{self.path} must be the journal of this image, got that of"
                f" {self.header['image']!r}: image_sha256 is {self.header['image_sha256']} there"
                f" and {new['image_sha256']} here; open that image, or move the journal away to"
                " begin anew"
            )
        for key in ("weights_sha256", "window"):
            if self.header[key] != new[key]:
                self.notices.append(
                    f"{self.path.name} was begun with another {key}, {self.header[key]}, now it is"
                    f" {new[key]}: new masks may differ from those it would have led to"
                )
        if lines.header is None:
            self._file.truncate(0)
            line, self._checksum = seal(new, 0)
            self._write(line)
        elif lines.damage:
            self._set_aside(lines.damage)
        _sync_folder(self.path)

    def _set_aside(self, damage: str) -> None:
        """Copy all behind the actions to a new file, then cut it off."""
        names = (self.path.with_name(f"{self.path.name}.damaged-{number}") for number in count(1))
        target = next(name for name in names if not os.path.lexists(name))
        rest = self.path.read_bytes()[self._size :]
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                file.write(rest)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(target)
        self._file.truncate(self._size)
        os.fsync(self._file.fileno())
        kept = sum(action["action"] != "seen" for action in self.actions)
        self.notices.append(
            f"{damage}: the {kept} actions before it are kept, the {len(rest)} bytes from there on"
            f" were set aside in {target.name}"
        )

    def _check_untouched(self) -> None:
        with suppress(OSError):
            there = None if self._file.closed else self.path.stat()
            ours = there and os.path.samestat(there, os.fstat(self._file.fileno()))
            if ours and there.st_size == self._size:
                return
        raise RuntimeError(
            f"{self.path} must be open here and changed by nobody else to be written, but it was"
            " closed, moved, removed or changed; nothing was done: open it again"
        )

    def _write(self, line: bytes, *, durable: bool = True) -> None:
        """Append a line in full or not at all."""
        try:
            with _writing(self.path):
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                if durable:
                    os.fsync(self._file.fileno())
        except BaseException:  # an interrupted kernel too
            with suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(line)


def _new_header(volume: Volume, networks: LimNet) -> Header:
    source, version = volume.grid.source, "unknown"
    with suppress(metadata.PackageNotFoundError):  # not installed
        version = metadata.version("limnet")
    return {
        "limnet_journal": VERSION,
        "image": source.name if source else "",
        "image_sha256": volume.digest,
        "shape": list(volume.images.shape[:3]),
        "slice_axis": volume.grid.axes[0],
        "window": list(volume.window),
        "weights_sha256": networks.digest,
        "threads": torch.get_num_threads(),
        "utc": _now(),
        "version": version,
    }


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f"{path} must be writable, got {error}; what it held before is safe: make room on the"
            " disk, or choose another folder"
        ) from error


def _sync_folder(path: Path) -> None:
    """Have the name of a new file on the disk, where the system can."""
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
