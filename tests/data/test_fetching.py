import errno
import hashlib
import io
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from limnet.data import fetching
from limnet.data.fetching import Download, DownloadError, GoneError, fetch

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
PIECE = 1000


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `offer` says, and counts what it sends."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        offer, content = self.server.offer, self.server.offer.content
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=")[:-1])
        self.server.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        if offer.status != 200:
            return self.answer(offer.status, {"Location": offer.location}, b"")
        fits = self.headers.get("If-Range") in (None, offer.etag) or offer.forgetful
        headers = {"ETag": offer.etag} if offer.etag else {}
        headers |= {"Content-Encoding": offer.encoding} if offer.encoding else {}
        if offer.ranges and start and fits:
            if start >= len(content):
                return self.answer(416, headers, b"")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, headers, content[start:])
        return self.answer(200, headers, content)

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        if self.server.offer.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            if self.server.offer.cuts and self.server.sent >= self.server.offer.cuts[0]:
                self.server.offer.cuts.pop(0)
                break
            self.wfile.write(piece)
            self.server.sent += len(piece)
            if self.server.offer.hold:
                self.wfile.flush()
                self.server.offer.hold.wait(10)
        self.close_connection = True

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    """`offer` is what is served; `sent` and `asked` are what was."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.sent, server.asked = 0, []
    server.offer = SimpleNamespace(
        content=CONTENT,
        etag='"1"',
        ranges=True,
        forgetful=False,
        length=True,
        encoding=None,
        status=200,
        location="",
        cuts=[],
        hold=None,
    )
    server.url = f"http://127.0.0.1:{server.server_port}/file.bin"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSES", (0, 0))
    monkeypatch.setattr(fetching, "CHUNK", PIECE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def sha256(content=CONTENT):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def wanted(server, *, size=10240, digest="right"):
    return Download(server.url, "file.bin", size, sha256() if digest == "right" else digest)


def interrupted(server, folder, download=None):
    """What is left after the connection broke in the middle for good."""
    server.offer.cuts = [5000, 5000, 5000, 5000]
    server.offer.ranges, ranges = True, server.offer.ranges
    with pytest.raises(DownloadError, match=r"goes on after 5,000 bytes"):
        fetch(download or wanted(server), folder)
    server.offer.cuts, server.offer.ranges = [], ranges
    assert (folder / "file.bin.part").stat().st_size == 5000 == server.sent
    server.sent, server.asked = 0, []


def only_the_file(folder):
    assert [path.name for path in folder.iterdir()] == ["file.bin"]
    return (folder / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "digest", [None, sha256(), f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"]
)
def test_a_file_is_fetched_whole_and_its_progress_told(server, tmp_path, digest):
    told = []
    path = fetch(
        wanted(server, digest=digest), tmp_path / "new", progress=lambda *now: told.append(now)
    )
    assert path == tmp_path / "new" / "file.bin" and only_the_file(tmp_path / "new")
    assert told[0] == (1000, 10240) and told[-1] == (10240, 10240)


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    fetch(wanted(server), tmp_path)
    server.offer.status = 404
    for size, digest in ((None, "right"), (len(CONTENT), None), (None, None)):
        fetch(wanted(server, size=size, digest=digest), tmp_path)
    assert server.sent == len(CONTENT)


def test_another_file_of_that_name_is_replaced_when_the_right_one_is_whole(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"other")
    server.offer.status = 404
    with pytest.raises(DownloadError):
        fetch(wanted(server), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"other"
    server.offer.status = 200
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path)


@pytest.mark.parametrize("digest", ["right", None])
def test_a_broken_connection_is_gone_on_from_where_it_broke(server, tmp_path, digest):
    server.offer.cuts = [3000, 7000]
    fetch(wanted(server, digest=digest), tmp_path)
    assert only_the_file(tmp_path) and server.sent == len(CONTENT)
    assert server.asked == [(None, None), ("bytes=3000-", '"1"'), ("bytes=7000-", '"1"')]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    interrupted(server, tmp_path)
    server.offer.ranges = False
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path) and server.sent == len(CONTENT)


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_file_that_changed_starts_over(server, tmp_path, forgetful):
    server.offer.content = CONTENT[::-1]
    before = Download(server.url, "file.bin", len(CONTENT), None)
    interrupted(server, tmp_path, before)
    server.offer.content, server.offer.etag, server.offer.forgetful = CONTENT, '"2"', forgetful
    fetch(before, tmp_path)
    assert only_the_file(tmp_path)


def test_a_file_that_became_shorter_starts_over(server, tmp_path):
    server.offer.content = CONTENT * 2
    longer = Download(server.url, "file.bin", None, None)
    interrupted(server, tmp_path, longer)
    server.offer.content, server.offer.forgetful = CONTENT[:4000], True
    assert fetch(longer, tmp_path).read_bytes() == CONTENT[:4000]


def test_a_part_of_unknown_version_is_gone_on_from_only_if_a_digest_will_tell(server, tmp_path):
    server.offer.etag = None
    interrupted(server, tmp_path)
    fetch(wanted(server), tmp_path)
    assert server.sent == len(CONTENT) - 5000
    (tmp_path / "file.bin").unlink()
    server.sent, unknown = 0, wanted(server, digest=None)
    interrupted(server, tmp_path, unknown)
    fetch(unknown, tmp_path)
    assert only_the_file(tmp_path) and server.sent == len(CONTENT)


def test_a_part_from_another_address_is_not_gone_on_from(server, tmp_path):
    interrupted(server, tmp_path)
    fetch(Download(server.url.replace("file.bin", "other"), "file.bin", None, sha256()), tmp_path)
    assert only_the_file(tmp_path) and server.sent == len(CONTENT)


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"url": 3}'])
def test_notes_that_are_damaged_start_over(server, tmp_path, notes):
    interrupted(server, tmp_path)
    (tmp_path / "file.bin.part.json").write_text(notes)
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path) and server.sent == len(CONTENT)


def test_a_file_may_lie_in_folders_of_its_own(server, tmp_path):
    path = fetch(Download(server.url, "data/case_1/image.nii", None, sha256()), tmp_path)
    assert path == tmp_path / "data" / "case_1" / "image.nii"
    assert [file.name for file in path.parent.iterdir()] == ["image.nii"]


def test_a_wrong_digest_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError, match=r"must have sha256:00.*, got sha256:.* nothing was"):
        fetch(wanted(server, digest=f"sha256:{'0' * 64}"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_first_part_is_found_out(server, tmp_path):
    interrupted(server, tmp_path)
    (tmp_path / "file.bin.part").write_bytes(bytes(5000))
    with pytest.raises(DownloadError, match="damaged on the way"):
        fetch(wanted(server), tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_size_than_promised_is_refused_before_a_byte_is_kept(server, tmp_path):
    with pytest.raises(DownloadError, match="must have 10,241 bytes, got 10,240"):
        fetch(wanted(server, size=10241), tmp_path)
    assert not list(tmp_path.iterdir())
    server.offer.length = False
    with pytest.raises(DownloadError, match="must have 10,241 bytes, got 10,240"):
        fetch(wanted(server, size=10241), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_of_unknown_length_must_be_known_otherwise(server, tmp_path):
    server.offer.length = False
    with pytest.raises(DownloadError, match="must say how long it is"):
        fetch(wanted(server, size=None, digest=None), tmp_path)
    fetch(wanted(server, size=None), tmp_path)
    assert only_the_file(tmp_path)


def test_a_file_that_is_gone_is_said_so(server, tmp_path):
    server.offer.status = 404
    with pytest.raises(GoneError, match=r"file.bin must be there, the server says 404 Not Found"):
        fetch(wanted(server), tmp_path)
    assert len(server.asked) == 1


def test_no_network_is_said_so(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
    with pytest.raises(DownloadError, match=r"no connection to 127.0.0.1 .*refused"):
        fetch(Download(url, "file.bin", None, None), tmp_path)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/file", "file:///etc/hosts"])
def test_no_other_kind_of_address_is_followed(server, tmp_path, location):
    server.offer.status, server.offer.location = 302, location
    with pytest.raises(DownloadError, match=r"another kind of address|is not allowed"):
        fetch(wanted(server), tmp_path)


def test_an_address_in_the_open_is_followed_only_with_a_digest(server, tmp_path, monkeypatch):
    server.offer.status, server.offer.location = 302, "http://example.invalid/file.bin"
    with pytest.raises(DownloadError, match="must not lead to another kind of address"):
        fetch(wanted(server, digest=None), tmp_path)
    redirects = fetching._Redirects(Download("https://a.invalid/f", "f", None, sha256()))
    request = fetching.Request("https://a.invalid/f", headers={"Range": "bytes=5-"})
    with pytest.raises(DownloadError, match=r"leads to http://b.invalid"):
        redirects.redirect_request(request, None, 302, "", {}, "http://b.invalid/f")
    followed = redirects.redirect_request(request, None, 302, "", {}, "https://b.invalid/f")
    assert followed.get_header("Range") == "bytes=5-"


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://example.org/f"},
        {"url": "ftp://example.org/f"},
        {"url": "file:///etc/hosts"},
        {"url": "https:///f"},
        {"file": "../f"},
        {"file": "/f"},
        {"file": "a//f"},
        {"file": "a/../f"},
        {"file": "a/.f"},
        {"file": "C:f"},
        {"file": "a\\f"},
        {"file": ".f"},
        {"file": ""},
        {"digest": "sha1:" + "0" * 40},
        {"digest": "md5:" + "0" * 64},
        {"digest": "sha256:" + "X" * 64},
        {"digest": ""},
    ],
)
def test_a_download_that_is_not_safe_is_refused(tmp_path, change):
    download = {"url": "https://example.org/f", "file": "f", "size": None, "digest": None}
    with pytest.raises(ValueError, match="must be"):
        fetch(Download(**{**download, **change}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_compressed_on_the_way_is_refused(server, tmp_path):
    server.offer.encoding = "gzip"
    with pytest.raises(DownloadError, match="the server compresses it"):
        fetch(wanted(server), tmp_path)


def test_too_little_room_is_found_before_a_byte_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=10239))
    with pytest.raises(DownloadError, match="must have 10,240 bytes free, has 10,239; make room"):
        fetch(wanted(server), tmp_path)
    assert not list(tmp_path.iterdir())


class SmallDisk(io.FileIO):
    def write(self, chunk):
        if self.tell() + len(chunk) > 3000:
            super().write(chunk[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(chunk)


def test_a_disk_that_fills_up_keeps_what_was_whole(server, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching.os, "fdopen", SmallDisk)
        with pytest.raises(DownloadError, match=r"disk is full; make room .* after 3,000 bytes"):
            fetch(wanted(server), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 3000
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path) and server.asked[-1] == ("bytes=3000-", '"1"')


def test_two_processes_do_not_write_one_file(server, tmp_path):
    with (
        fetching._Part(tmp_path / "file.bin.part", wanted(server)).opened(),
        pytest.raises(DownloadError, match="another process fetches"),
    ):
        fetch(wanted(server), tmp_path)


def test_a_process_that_is_killed_in_the_middle_is_gone_on_from(server, tmp_path):
    server.offer.hold = threading.Event()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(fetching.__file__).parent)!r}); "
        f"import fetching; fetching.CHUNK = {PIECE}; "  # alone: it loads in no time
        "wanted = fetching.Download(sys.argv[1], 'file.bin', None, sys.argv[2]); "
        "fetching.fetch(wanted, sys.argv[3], "
        "progress=lambda *now: print(*now, flush=True))"
    )
    command = [sys.executable, "-c", code, server.url, sha256(), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "1000 10240\n"
        child.send_signal(signal.SIGKILL)
    server.offer.hold.set()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "file.bin.part",
        "file.bin.part.json",
    ]
    before = (tmp_path / "file.bin.part").stat().st_size
    server.asked.clear()
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path) and server.asked == [(f"bytes={before}-", '"1"')]


def test_a_process_that_was_killed_after_the_last_byte_asks_for_nothing(server, tmp_path):
    def killed(path, target):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(tmp_path), "replace", killed)
        fetch(wanted(server), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    fetch(wanted(server), tmp_path)
    assert only_the_file(tmp_path) and len(server.asked) == 1
