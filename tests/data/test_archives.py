import gzip
import io
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from limnet.data import fetching
from limnet.data.archives import unpack
from limnet.data.fetching import DownloadError

FILES = {"Task/a.txt": b"a" * 3000, "Task/deep/b.txt": b"b", "readme.txt": b"r"}


def entry(name, content=b"", **about):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in about.items():
        setattr(member, key, value)
    return member, io.BytesIO(content)


def tar(path, *extra, mode="w", files=FILES):
    with tarfile.open(path, mode) as archive:
        for member, content in [*(entry(*file) for file in files.items()), *extra]:
            archive.addfile(member, content)
    return path


def zipped(path, files=FILES, **about):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = about.get("kind", 0o100644) << 16
            archive.writestr(member, content)
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tar", tar),
        ("a.tar.gz", lambda path: tar(path, mode="w:gz")),
        ("a.tgz", lambda path: tar(path, mode="w:gz")),
        ("a.zip", zipped),
        ("a.zip", lambda path: zipped(path, {**FILES, "__MACOSX/._a": b"icon"})),
    ],
)
def test_an_archive_is_unpacked_whole(tmp_path, name, write):
    archive, folder = write(tmp_path / name), tmp_path / "data"
    assert unpack(archive, folder) == (folder / "Task", folder / "readme.txt")
    assert contents(folder) == FILES and archive.exists()


@pytest.mark.parametrize(
    "attack",
    [
        entry("../out.txt", b"out"),
        entry("Task/../../out.txt", b"out"),
        entry("/tmp/out.txt", b"out"),
        entry("C:\\out.txt", b"out"),
        entry("..\\out.txt", b"out"),
        entry("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        entry("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("pipe", type=tarfile.FIFOTYPE),
    ],
    ids=lambda attack: f"{attack[0].name} {attack[0].linkname}",
)
def test_what_leads_out_of_a_tar_is_refused_and_nothing_kept(tmp_path, attack):
    with pytest.raises(DownloadError, match="nothing of it was kept"):
        unpack(tar(tmp_path / "a.tar", attack), tmp_path / "data")
    assert not contents(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] in (["a.tar", "data"], ["data", "a.tar"])


@pytest.mark.parametrize("name", ["../out", "/out", "Task/../../out", "..\\out", "C:/out"])
def test_what_leads_out_of_a_zip_is_refused_and_nothing_kept(tmp_path, name):
    with pytest.raises(DownloadError, match="nothing of it was kept"):
        unpack(zipped(tmp_path / "a.zip", {**FILES, name: b"out"}), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_device_in_a_zip_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"device": b""}, kind=0o020666)
    with pytest.raises(DownloadError, match="got 'device': a hard link, a device"):
        unpack(archive, tmp_path / "data")


@pytest.mark.parametrize("target", ["..", "../..", "/etc", "Task"])
def test_symbolic_links_are_left_out_and_nothing_goes_through_them(tmp_path, target):
    link = entry("link", type=tarfile.SYMTYPE, linkname=target)
    unpack(tar(tmp_path / "a.tar", link, entry("link/new", b"new")), tmp_path / "data")
    assert contents(tmp_path / "data") == {**FILES, "link/new": b"new"}
    assert not (tmp_path / "data" / "link").is_symlink() and not (tmp_path / "new").exists()
    zipped_link = zipped(tmp_path / "b.zip", {"link": target.encode()}, kind=0o120777)
    assert unpack(zipped_link, tmp_path / "empty") == ()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_archive_is_refused_and_nothing_kept(tmp_path, name, kept):
    archive = {"a.tar": tar, "a.zip": zipped}.get(name, lambda path: tar(path, mode="w:gz"))(
        tmp_path / name
    )
    content = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DownloadError, match=r"cannot be unpacked \(.*\), nothing of it was kept"):
        unpack(archive, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_tar_that_ends_between_two_files_is_truncated(tmp_path):
    archive = tar(tmp_path / "a.tar")
    for end in (512 + 3072, 512 + 3072 + 100):  # tarfile takes either for whole
        (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:end])
        with pytest.raises(DownloadError, match="it ends in the middle"):
            unpack(tmp_path / "cut.tar", tmp_path / "data")


def test_a_compressed_tar_without_its_checksum_is_truncated(tmp_path):
    content = gzip.compress(tar(tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(content[:-4])
    with pytest.raises(DownloadError, match="end-of-stream marker"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "data")


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "data" / "Task").mkdir(parents=True)
    (tmp_path / "data" / "Task" / "mine").write_text("mine")
    for archive in (tar(tmp_path / "a.tar"), zipped(tmp_path / "a.zip")):
        with pytest.raises(DownloadError, match=r"must not overwrite .*Task; move or remove"):
            unpack(archive, tmp_path / "data")
    assert contents(tmp_path / "data") == {"Task/mine": b"mine"}


def test_too_little_room_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=2999))
    for archive in (tar(tmp_path / "a.tar"), zipped(tmp_path / "a.zip")):
        with pytest.raises(DownloadError, match="bytes free, has 2,999"):
            unpack(archive, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_what_a_killed_unpacking_left_is_cleared_away(tmp_path):
    archive, folder = tar(tmp_path / "a.tar"), tmp_path / "data"
    (folder / ".unpacking-a.tar-1234" / "Task").mkdir(parents=True)
    unpack(archive, folder)
    assert contents(folder) == FILES and len(list(folder.iterdir())) == 2


def test_an_unpacking_that_was_killed_while_it_moved_goes_on(tmp_path):
    archive, folder = tar(tmp_path / "a.tar"), tmp_path / "data"
    unpack(archive, folder)
    (folder / ".unpacked-a.tar").mkdir()
    (folder / "readme.txt").rename(folder / ".unpacked-a.tar" / "readme.txt")
    assert unpack(archive, folder) == (folder / "readme.txt",)
    assert contents(folder) == FILES and len(list(folder.iterdir())) == 2
