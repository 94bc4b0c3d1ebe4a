"""Archives of others, unpacked whole or not at all, with nothing in them that leads out."""

import errno
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from limnet.data.fetching import DownloadError, check_room

UNIX_KINDS = (0, 0o100000, 0o040000)  # in a zip: not said, file, folder
UNIX_LINK = 0o120000
MACOSX = "__MACOSX"  # what Apple's zip adds: no data
# NotImplementedError: a way to compress that zipfile does not know
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError)


def unpack(archive: str | Path, folder: str | Path) -> tuple[Path, ...]:
    """What lies on top of a tar, tar.gz or zip, now in the folder and whole.

    It is unpacked beside its place and moved when all of it is there; what a killed process left
    is removed, or moved if only that was missing. Symbolic links are left out: they could lead
    anywhere, and the data that they stand for is in the archive anyway.

    Raises:
        DownloadError: it is no archive or truncated, holds what no data set needs (absolute
            paths, `..`, hard links, devices, passwords), finds its place taken, or the disk is
            full.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / f".unpacked-{archive.name}"
    if not ready.is_dir():
        _unpack_to(archive, ready)
    names = sorted(path.name for path in ready.iterdir())
    for name in names:
        _check_free(archive, folder / name)
        (ready / name).rename(folder / name)
    ready.rmdir()
    return tuple(folder / name for name in names)


def _unpack_to(archive: Path, ready: Path) -> None:
    """All of the archive in a folder that is there only when it is whole."""
    for left in ready.parent.glob(f".unpacking-{archive.name}-*"):
        shutil.rmtree(left)
    partial = Path(tempfile.mkdtemp(prefix=f".unpacking-{archive.name}-", dir=ready.parent))
    try:
        partial.chmod(0o755)
        with archive.open("rb") as file:
            is_zip = file.read(2) == b"PK"  # every zip begins with it, no tar does
        (_extract_zip if is_zip else _extract_tar)(archive, partial)
        shutil.rmtree(partial / MACOSX, ignore_errors=True)
        partial.rename(ready)
    except DAMAGES as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise DownloadError(
            f"{archive} cannot be unpacked ({reason}), nothing of it was kept; "
            + ("make room" if full else "if it is damaged, remove it and fetch it again")
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        kinds = {member: member.external_attr >> 16 & 0o170000 for member in file.infolist()}
        members = [member for member, kind in kinds.items() if kind != UNIX_LINK]
        check_room(folder, sum(member.file_size for member in members))
        for member in members:
            _check_member(archive, member.filename, folder, allowed=kinds[member] in UNIX_KINDS)
            if member.flag_bits & 1:
                raise DownloadError(f"{archive} must have no password, has one")
        for member in members:
            file.extract(member, folder)


class _LastBlock(tarfile.TarInfo):
    """Keeps the last block: tarfile takes a file that ends anywhere for one that is whole."""

    last = b""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        _LastBlock.last = buf
        return super().frombuf(buf, encoding, errors)


def _extract_tar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise DownloadError("unpacking a tar safely needs Python 3.11.4 or newer; update Python")
    with tarfile.open(archive, tarinfo=_LastBlock) as file:
        for member in file:
            if member.issym():
                continue
            allowed = member.isreg() or member.isdir()
            _check_member(archive, member.name, folder, allowed=allowed)
            check_room(folder, member.size)
            file.extract(member, folder, filter="data")
        if _LastBlock.last != bytes(tarfile.BLOCKSIZE):  # a tar ends with zeros
            raise tarfile.ReadError("it ends in the middle")
        while file.fileobj.read(1 << 20):  # a gz has a checksum at its end
            pass


def _check_member(archive: Path, name: str, folder: Path, *, allowed: bool) -> None:
    """Nothing, if a member leads to below the folder on every system, and to a free place."""
    parts, windows = PurePosixPath(name.replace("\\", "/")).parts, PureWindowsPath(name)
    if not allowed or windows.drive or windows.root or ".." in parts:
        raise DownloadError(
            f"{archive} must hold files and folders below its own, got {name!r}: a hard link, a "
            "device or a path that leads out; nothing of it was kept"
        )
    if parts and parts[0] != MACOSX:
        _check_free(archive, folder.parent / parts[0])


def _check_free(archive: Path, path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise DownloadError(
            f"{archive.name} must not overwrite {path}; move or remove what is there"
        )
