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


class _BrokenError(Exception):
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
    part = _Part(target.with_name(f"{target.name}.part"), download)
    with part.opened():
        _receive_all(part, progress or (lambda done, total: None))
    right = _is_right(part.path, download)
    got = "" if right else _digest(part.path, download)
    if right:
        part.path.replace(target)
    part.remove()
    if not right:
        raise DownloadError(
            f"{download.url} must have {download.digest}, got {got}; it was damaged on the way or"
            " its publisher has changed it, so nothing was kept. Fetch it again; if that does not"
            " help, look at the publisher's page"
        )
    return target


def check(download: Download) -> None:
    """Nothing, if the download can be fetched safely.

    Raises:
        ValueError: its file is no name below a folder, its digest has no known form, or its address
            is neither https nor http with a digest.
    """
    name, windows = download.file, PureWindowsPath(download.file)
    hidden = any(part in ("", "/") or part.startswith(".") for part in name.split("/"))
    if "\\" in name or windows.drive or hidden:
        raise ValueError(f"file must be a name below its folder, got {name!r}")
    algorithm, _, digits = (download.digest or "").partition(":")
    known = re.fullmatch(r"[0-9a-f]+", digits) and ALGORITHMS.get(algorithm) == len(digits)
    if download.digest is not None and not known:
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
    is_http = address.scheme == "http" and bool(digest or loopback)
    return bool(host) and (address.scheme == "https" or is_http)


def _is_right(path: Path, download: Download) -> bool:
    """Whether a file is there and is the promised one, as far as that is known."""
    return (
        path.is_file()
        and download.size in (None, path.stat().st_size)
        and (download.digest is None or _digest(path, download) == download.digest)
    )


def _digest(path: Path, download: Download) -> str:
    algorithm = (download.digest or "sha256").partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


class _Part:
    """What has come so far, and notes on the file that it is a part of."""

    def __init__(self, path: Path, download: Download):
        self.path, self.download = path, download
        self._notes = path.with_name(f"{path.name}.json")
        self.notes: dict[str, Any] = {}
        self._file: IO[bytes]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The file, which this process alone writes; an empty one is not left behind."""
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as self._file:
            try:
                if fcntl:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DownloadError(f"another process fetches {self.path}; wait for it") from error
            with suppress(OSError, ValueError):
                self.notes = dict(json.loads(self._notes.read_text(encoding="utf-8")))
            known = self.download.digest or self.notes.get("validator")
            self._file.seek(0, os.SEEK_END)
            if self.notes.get("url") != self.download.url or not known:
                self.restart()  # nothing says that the rest of today's file fits to it
            try:
                yield
                os.fsync(self._file.fileno())
            finally:
                if not self.size:
                    self.remove()

    @property
    def size(self) -> int:
        return self._file.tell()

    def append(self, chunk: bytes) -> None:
        size = self.size
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            self._file.truncate(size)
            what = "the disk is full" if error.errno == errno.ENOSPC else error
            raise DownloadError(
                f"{self.path} cannot be written: {what}; make room and fetch again, it goes on"
                f" after {size:,} bytes"
            ) from error

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def note(self, **notes: Any) -> None:
        self.notes = notes
        self._notes.write_text(json.dumps(notes), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


def _receive_all(part: _Part, progress: Progress) -> None:
    """All bytes, in as many connections as it takes while some bring something."""
    failures, arrived = 0, False
    while True:
        before = part.size
        try:
            _receive(part, progress)
            return
        except _BrokenError as error:
            failures = 1 if part.size != before else failures + 1
            arrived = arrived or part.size != before
            if not arrived or failures > len(PAUSES):
                goes_on = f", it goes on after {part.size:,} bytes" if part.size else ""
                raise DownloadError(
                    f"{part.download.url} could not be fetched: {error}; check the network and"
                    f" fetch again{goes_on}"
                ) from error
            time.sleep(PAUSES[failures - 1])


def _receive(part: _Part, progress: Progress) -> None:
    """The bytes that are still missing, in one connection."""
    if part.size and part.size == part.notes.get("total"):
        return  # killed between the last byte and the new name
    try:
        with _open(part) as response:
            start, total = _offer(response, part)
            if start != part.size:
                part.restart()
            _accept(part, total)
            part.note(url=part.download.url, validator=_validator(response), total=total)
            while chunk := response.read(CHUNK):
                part.append(chunk)
                progress(part.size, total)
    except URLError as error:
        host = urlsplit(part.download.url).hostname
        raise _BrokenError(f"no connection to {host} ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _BrokenError(f"the connection broke ({error!r})") from error
    if total is not None and part.size != total:
        raise _BrokenError(f"the connection ended after {part.size:,} of {total:,} bytes")
    _accept(part, part.size)


def _open(part: _Part) -> HTTPResponse:
    url = part.download.url
    headers = {"User-Agent": "limnet", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.notes.get("validator"):
            headers["If-Range"] = part.notes["validator"]
    opener = build_opener(_Redirects(part.download))
    try:
        return opener.open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the file has become shorter than what is here
            part.restart()
        if error.code in (416, 429) or error.code >= 500:
            raise _BrokenError(f"the server says {error.code} {error.reason}") from error
        kind = GoneError if error.code in GONE else DownloadError
        raise kind(
            f"{url} must be there, the server says {error.code} {error.reason}; look at the"
            " publisher's page for where it has gone"
        ) from error


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
        raise _BrokenError("the file has changed since its first part came")
    return start, total


def _validator(response: HTTPResponse) -> str | None:
    """What the server calls this version of the file, in the words of `If-Range`."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _accept(part: _Part, total: int | None) -> None:
    """Nothing, if the file is the promised one as far as its size says, and there is room."""
    url, size, digest = part.download.url, part.download.size, part.download.digest
    if total is not None and size not in (None, total):
        part.restart()
        raise DownloadError(
            f"{url} must have {size:,} bytes, got {total:,}; its publisher has changed it, so"
            " nothing was kept; look at the publisher's page"
        )
    if total is None and size is None and digest is None:
        raise DownloadError(f"{url} must say how long it is, or nothing can be checked")
    check_room(part.path.parent, (total or size or 0) - part.size)


def check_room(folder: Path, needed: int) -> None:
    """Nothing, if so many bytes are free.

    Raises:
        DownloadError: there are fewer.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder} must have {needed:,} bytes free, has {free:,}; make room and fetch again"
        )
