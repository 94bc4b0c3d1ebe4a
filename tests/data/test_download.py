import hashlib
import io
import json
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from limnet.data import download as command
from limnet.data.catalogue import Entry
from limnet.data.fetching import Download
from limnet.networks.official import OFFICIAL

ENTRY = Entry(
    key="fake",
    name="Fake CT",
    reference="Nobody et al.",
    licence="CC0",
    licence_source="its README",
    home="https://example.org",
    gigabytes=0.1,
    unlocks=("Table I",),
    folder="fake",
    steps=("Register.", "Fetch it."),
    expected={"cases": 1},
    faults=(),
)


@pytest.fixture
def server(tmp_path):
    """A folder that is served, and what was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            asked.append((self.path, int(code)))

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield SimpleNamespace(folder=folder, asked=asked, url=url)
    server.shutdown()
    server.server_close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data folder; the fake set is found in it where it has a dataset.json."""

    def find(data_root):
        found = sorted(data_root.glob("fake/**/dataset.json"))
        return found[0].parent if found else None

    monkeypatch.setitem(command.DATA_SETS, "fake", SimpleNamespace(find=find))
    monkeypatch.setenv("LIMNET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "data"


def offer(server, monkeypatch, files=("a.tar",), **about):
    """An entry whose files are served: archives of `<stem>/dataset.json`, or plain files."""
    downloads = []
    for file in files:
        path = server.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo(f"{path.stem}/dataset.json")
                member.size = 2
                archive.addfile(member, io.BytesIO(b"{}"))
        else:
            path.write_text(file)
        content = path.read_bytes()
        digest = f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
        downloads.append(Download(f"{server.url}/{file}", file, len(content), digest))
    entry = replace(ENTRY, downloads=tuple(downloads), **about)
    monkeypatch.setattr(command, "catalogue", lambda: {"fake": entry})


def test_an_open_data_set_is_fetched_and_unpacked(server, root, monkeypatch, capsys):
    offer(server, monkeypatch)
    assert command.main(["data", "fake"]) == 0
    assert (root / "fake" / "a" / "dataset.json").read_text() == "{}"
    assert not (root / "fake" / "a.tar").exists()
    said = capsys.readouterr().out
    for word in ("Fake CT", "CC0", "https://example.org", f"{server.url}/a.tar", "GB free", "md5:"):
        assert word in said
    assert "10,240 bytes" in said and f"Fake CT is in {root / 'fake' / 'a'}" in said


def test_a_second_call_fetches_nothing_and_says_so(server, root, monkeypatch, capsys):
    offer(server, monkeypatch, ["a.tar", "b.tar"])
    assert command.main(["data", "fake"]) == 0
    assert command.main(["data", "fake"]) == 0
    assert len(server.asked) == 2
    assert capsys.readouterr().out.endswith(f"already there: {root / 'fake'}; nothing is fetched\n")


def test_what_is_missing_of_several_archives_is_fetched(server, root, monkeypatch):
    offer(server, monkeypatch, ["a.tar", "b.tar"])
    (server.folder / "b.tar").rename(server.folder / "later")
    assert command.main(["data", "fake"]) == 1
    (server.folder / "later").rename(server.folder / "b.tar")
    assert command.main(["data", "fake"]) == 0
    assert server.asked == [("/a.tar", 200), ("/b.tar", 404), ("/b.tar", 200)]
    assert sorted(path.name for path in (root / "fake").iterdir()) == ["a", "b"]


def test_what_was_removed_is_fetched_again(server, root, monkeypatch):
    offer(server, monkeypatch)
    command.main(["data", "fake"])
    (root / "fake" / "a" / "dataset.json").unlink()
    (root / "fake" / "a").rmdir()
    assert command.main(["data", "fake"]) == 0
    assert (root / "fake" / "a" / "dataset.json").exists() and len(server.asked) == 2


def test_a_set_that_was_put_there_by_hand_is_left_alone(server, root, monkeypatch, capsys):
    offer(server, monkeypatch)
    (root / "fake" / "mine").mkdir(parents=True)
    (root / "fake" / "mine" / "dataset.json").write_text("mine")
    assert command.main(["data", "fake"]) == 0
    assert not server.asked and "nothing is fetched" in capsys.readouterr().out


def test_a_twin_is_not_taken_for_the_set(server, root, monkeypatch):
    offer(server, monkeypatch)
    (root / "fake" / "twin").mkdir(parents=True)
    for name in ("dataset.json", "twin.json"):
        (root / "fake" / "twin" / name).write_text("{}")
    command.main(["data", "fake"])
    assert server.asked and (root / "fake" / "a").is_dir()


def test_files_that_are_no_archives_go_to_their_folders(server, root, monkeypatch, capsys):
    files = [f"data/case_{number}/dataset.json" for number in range(8)]
    offer(server, monkeypatch, files)
    assert command.main(["data", "fake"]) == 0
    assert all((root / "fake" / file).read_text() == file for file in files)
    assert "and 2 more such files" in capsys.readouterr().out
    assert command.main(["data", "fake"]) == 0 and len(server.asked) == 8


def test_archives_may_be_kept_and_the_folder_named(server, root, monkeypatch, tmp_path):
    offer(server, monkeypatch)
    monkeypatch.delenv("LIMNET_DATA")
    assert command.main(["data", "fake", "--to", str(tmp_path / "there"), "--keep"]) == 0
    there = sorted(path.name for path in (tmp_path / "there" / "fake").iterdir())
    assert there == ["a", "a.tar"] and not root.exists()


def test_nowhere_to_put_it_is_said_so(server, root, monkeypatch, capsys):
    offer(server, monkeypatch)
    monkeypatch.delenv("LIMNET_DATA")
    assert command.main(["data", "fake"]) == 1
    assert "set LIMNET_DATA to a folder, or pass --to" in capsys.readouterr().err


def test_a_set_that_is_not_open_is_explained_and_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(command, "catalogue", lambda: {"fake": ENTRY})
    assert command.main(["data", "fake"]) == 2
    assert "It is not open to all:\n1. Register.\n2. Fetch it.\n" in capsys.readouterr().out
    blocked = replace(ENTRY, blocked="never released")
    monkeypatch.setattr(command, "catalogue", lambda: {"fake": blocked})
    assert command.main(["data", "fake"]) == 2
    assert "never released" in capsys.readouterr().out


def test_without_a_key_all_sets_are_listed(capsys):
    assert command.main(["data"]) == 0
    said = capsys.readouterr().out
    assert "msd_lung" in said and "by hand" in said and "blocked" in said


def test_a_wrong_file_is_one_sentence_and_leaves_nothing(server, root, monkeypatch, capsys):
    offer(server, monkeypatch)
    content = (server.folder / "a.tar").read_bytes()
    (server.folder / "a.tar").write_bytes(content[::-1])
    assert command.main(["data", "fake"]) == 1
    said = capsys.readouterr().err
    assert "limnet.data.download: " in said and "must have md5:" in said
    assert "Traceback" not in said and not list((root / "fake").iterdir())


@pytest.fixture
def weights(server, monkeypatch, tmp_path):
    """Published weights of one byte each; the click net's is gone from its first place."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    converted = []
    for name, about in OFFICIAL.items():
        url = f"{server.url}/official/{about.file}"
        copy = about.copy and f"{server.url}/copies/{about.file}"
        monkeypatch.setitem(OFFICIAL, name, replace(about, url=url, copy=copy))
        for folder in ("copies",) if copy else ("official",):
            (server.folder / folder).mkdir(exist_ok=True)
            (server.folder / folder / about.file).write_text(name)
    monkeypatch.setattr(command, "convert_official", converted.append)
    monkeypatch.setattr(command, "is_converted", lambda folder: bool(converted))
    return tmp_path / "weights"


def fetched(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_weights_come_from_their_authors_or_where_they_are_gone_from_a_copy(weights, capsys):
    assert command.main(["weights", "--to", str(weights)]) == 0
    assert fetched(weights / "published") == {
        "copies/coco_lvis_h32_itermask.pth": "click",
        "XMem.pth": "propagation",
        "XMem-s012.pth": "propagation-s012",
    }
    said = capsys.readouterr().out
    assert "404" in said and "somebody else's copy is taken: " in said
    assert "MIT" in said and "no digest published" in said


def test_weights_that_are_there_are_not_fetched_again(weights, server, capsys):
    command.main(["weights", "--to", str(weights)])
    before = len(server.asked)
    assert command.main(["weights", "--to", str(weights)]) == 0
    assert len(server.asked) == before and "already there" in capsys.readouterr().out


def test_weights_that_are_gone_everywhere_can_be_put_there_by_hand(weights, server, capsys):
    (server.folder / "copies" / "coco_lvis_h32_itermask.pth").unlink()
    assert command.main(["weights", "--to", str(weights)]) == 1
    assert "gone from both places; if you have it, put it into" in capsys.readouterr().err
    (weights / "published" / "coco_lvis_h32_itermask.pth").write_text("mine")
    assert command.main(["weights", "--to", str(weights)]) == 0
    assert fetched(weights / "published")["coco_lvis_h32_itermask.pth"] == "mine"


def test_marks_that_are_damaged_are_no_marks(server, root, monkeypatch):
    offer(server, monkeypatch)
    (root / ".fetched").mkdir(parents=True)
    for damaged in ("{", "[]", '{"a.tar": 3}', json.dumps({"a.tar": ["../../x"]})):
        (root / ".fetched" / "fake.json").write_text(damaged)
        assert command._unpacked(command.catalogue()["fake"], root) == {}
