"""One file of somebody else's, fetched whole or not at all, and checked."""

import errno
import hashlib
import ipaddress
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from fetching one file at a time
    fcntl = None

ALGORITHMS = {"md5": 32, "sha256": 64}  # hexadecimal digits
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
GONE = (401, 403, 404, 410, 451)  # what servers say where there is no file, or none for us
PAUSES = (1, 2, 4, 8, 16)  # seconds before another try, after tries that brought nothing

Progress = Callable[[int, int | None], None]  # bytes so far, and of all if that is known


@dataclass(frozen=True)
class Download:
    """One file that somebody else offers, and what it must turn out to be."""

    url: str
    file: str  # the name that it gets here; may have folders: "data/case_00000/imaging.nii.gz"
    size: int | None  # bytes; None: nobody states it
    digest: str | None  # "md5:..." or "sha256:..."; None: nobody states it


class DownloadError(RuntimeError):
    """A file could not be fetched or unpacked; the message says why and what to do."""


class GoneError(DownloadError):
    """The server has the file no longer, or not for us."""


class _Broken(Exception):
    """The connection failed; what came is kept."""


def fetch(download: Download, folder: str | Path, *, progress: Progress | None = None) -> Path:
    """The file in the folder, fetched if it is not there yet.

    What came before a connection broke, or the process was killed, stays in `<file>.part` and is
    gone on from, as long as the server still offers the same file. The name without `.part` is
    there only when size and digest, as far as they are known, are right.

    Args:
        progress: called after each piece with the bytes so far and those of the whole file.

    Raises:
        ValueError: the download is not one that can be fetched safely.
        DownloadError: no network, no such file, another file than promised, or a full disk.
    """
    check(download)
    target = Path(folder, download.file)
    if _is_right(target, download):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.part")
    with _locked(path) as file:
        part = _Part(path, file, download)
        _receive_all(download, part, progress or (lambda done, total: None))
        wrong = _wrong(download, part)
        os.fsync(file.fileno())
    if not wrong:
        path.replace(target)
    path.unlink(missing_ok=True)
    _notes(path).unlink(missing_ok=True)
    if wrong:
        raise DownloadError(wrong)
    return target


class _Part:
    """What has come so far, its hash, and what is known of the file that it is a part of."""

    def __init__(self, path: Path, file: IO[bytes], download: Download):
        self.path, self._file = path, file
        self._algorithm = (download.digest or "sha256").partition(":")[0]
        self.notes: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.notes = dict(json.loads(_notes(self.path).read_text(encoding="utf-8")))
        known = download.digest or self.notes.get("validator")
        if self.notes.get("url") == download.url and known:
            self._begin()
            while chunk := file.read(CHUNK):
                self._count(chunk)
        else:  # nothing says that the rest of today's file fits to it
            self.restart()

    @property
    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def append(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            self._file.truncate(self.size)
            what = "the disk is full" if error.errno == errno.ENOSPC else error
            raise DownloadError(
                f"{self.path} cannot be written: {what}; make room and fetch again, "
                f"it goes on after {self.size:,} bytes"
            ) from error
        self._count(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self._begin()

    def note(self, **notes: Any) -> None:
        self.notes = notes
        _notes(self.path).write_text(json.dumps(notes), encoding="utf-8")

    def _begin(self) -> None:
        self._file.seek(0)
        self._hash, self.size = hashlib.new(self._algorithm, usedforsecurity=False), 0

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)


def check(download: Download) -> None:
    """Nothing, if the download can be fetched safely.

    Raises:
        ValueError: its file is no name below a folder, its digest has no known form, or its address
            is neither https nor http with a digest.
    """
    name, windows = download.file, PureWindowsPath(download.file)
    if (
        "\\" in name
        or windows.drive
        or any(part in ("", "/") or part.startswith(".") for part in name.split("/"))
    ):
        raise ValueError(f"file must be a name below its folder, got {name!r}")
    algorithm, _, digits = (download.digest or "").partition(":")
    if download.digest is not None and not (
        re.fullmatch(r"[0-9a-f]+", digits) and ALGORITHMS.get(algorithm) == len(digits)
    ):
        raise ValueError(f"digest must be md5:... or sha256:... in hex, got {download.digest!r}")
    if not _is_safe(download.url, download.digest):
        raise ValueError(
            f"url must be https, or http where a digest is known, got {download.url!r}"
        )


def _is_safe(url: str, digest: str | None) -> bool:
    """Whether nobody between here and the server can exchange the file."""
    address = urlsplit(url)
    host = address.hostname or ""
    loopback = host == "localhost"
    with suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    return bool(host) and (
        address.scheme == "https" or (address.scheme == "http" and bool(digest or loopback))
    )


def _is_right(path: Path, download: Download) -> bool:
    """Whether a file is there and is the promised one, as far as that is known."""
    if not path.is_file() or path.stat().st_size != (download.size or path.stat().st_size):
        return False
    if download.digest is None:
        return True
    algorithm, _, digits = download.digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digits


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, which this process alone writes; an empty one is not left behind."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"another process is fetching {path}; wait for it") from error
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)
                _notes(path).unlink(missing_ok=True)


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _wrong(download: Download, part: _Part) -> str | None:
    """What the whole file lacks; None: nothing."""
    if download.digest in (None, part.digest):
        return None
    return (
        f"{download.url} must have {download.digest}, got {part.digest}; it was damaged on the "
        "way or its publisher has changed it, so nothing was kept. Fetch it again; if that does "
        "not help, look at the publisher's page"
    )


def _receive_all(download: Download, part: _Part, progress: Progress) -> None:
    """All bytes, in as many connections as it takes while some bring something."""
    failures, arrived = 0, False
    while True:
        before = part.size
        try:
            _receive(download, part, progress)
            return
        except _Broken as error:
            failures = 1 if part.size != before else failures + 1
            arrived = arrived or part.size != before
            if not arrived or failures > len(PAUSES):
                goes_on = f", it goes on after {part.size:,} bytes" if part.size else ""
                raise DownloadError(
                    f"{download.url} could not be fetched: {error}; check the network and fetch "
                    f"again{goes_on}"
                ) from error
            time.sleep(PAUSES[failures - 1])


def _receive(download: Download, part: _Part, progress: Progress) -> None:
    """The bytes that are still missing, in one connection."""
    if part.size and part.size == part.notes.get("total"):
        return  # killed between the last byte and the new name
    with _open(download, part) as response:
        start, total = _offer(response, part)
        if start != part.size:
            part.restart()
        _accept(download, part, total)
        part.note(url=download.url, validator=_validator(response), total=total)
        while chunk := _read(response):
            part.append(chunk)
            progress(part.size, total)
    if total is not None and part.size != total:
        raise _Broken(f"the connection ended after {part.size:,} of {total:,} bytes")
    if download.size not in (None, part.size):
        _refuse(download, part, part.size)


def _open(download: Download, part: _Part) -> HTTPResponse:
    headers = {"User-Agent": "limnet", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.notes.get("validator"):
            headers["If-Range"] = part.notes["validator"]
    opener = build_opener(_Redirects(download))
    try:
        return opener.open(Request(download.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the file has become shorter than what is here
            part.restart()
        if error.code in (416, 429) or error.code >= 500:
            raise _Broken(f"the server says {error.code} {error.reason}") from error
        kind = GoneError if error.code in GONE else DownloadError
        raise kind(
            f"{download.url} must be there, the server says {error.code} {error.reason}; "
            "look at the publisher's page for where it has gone"
        ) from error
    except URLError as error:
        host = urlsplit(download.url).hostname
        raise _Broken(f"no connection to {host} ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection failed ({error!r})") from error


class _Redirects(HTTPRedirectHandler):
    """Follows to where the file is as safe as promised, and never to another kind of address."""

    def __init__(self, download: Download):
        self._download = download

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        schemes = {req.type, "https"}  # from http to https nothing is lost
        if urlsplit(newurl).scheme not in schemes or not _is_safe(newurl, self._download.digest):
            raise DownloadError(
                f"{self._download.url} must not lead to another kind of address, leads to {newurl}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _offer(response: HTTPResponse, part: _Part) -> tuple[int, int | None]:
    """Where the server's bytes begin, and how many the whole file has."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{response.url} must come as it is, the server compresses it")
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    start, total = (int(found[1]), int(found[2])) if found else (-1, -1)
    noted = part.notes.get("validator")
    same = start == part.size and total == part.notes.get("total")
    if not same or (noted and noted != _validator(response)):
        part.restart()  # the next try asks for all of it
        raise _Broken("the file has changed since its first part came")
    return start, total


def _validator(response: HTTPResponse) -> str | None:
    """What the server calls this version of the file, in the words of `If-Range`."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _accept(download: Download, part: _Part, total: int | None) -> None:
    """Nothing, if the file is the promised one as far as the server says, and there is room."""
    if total is not None and download.size not in (None, total):
        _refuse(download, part, total)
    if total is None and download.size is None and download.digest is None:
        raise DownloadError(f"{download.url} must say how long it is, or nothing can be checked")
    needed = (total or download.size or 0) - part.size
    free = shutil.disk_usage(part.path.parent).free
    if needed > free:
        raise DownloadError(
            f"{part.path.parent} must have {needed:,} bytes free, has {free:,}; make room and "
            "fetch again"
        )


def _refuse(download: Download, part: _Part, size: int) -> None:
    part.restart()
    raise DownloadError(
        f"{download.url} must have {download.size:,} bytes, got {size:,}; its publisher has "
        "changed it, so nothing was kept; look at the publisher's page"
    )


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke ({error!r})") from error
