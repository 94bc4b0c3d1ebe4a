import base64
import errno
import fcntl
import json
import multiprocessing
import os
import threading
import time
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
import torch
from fakes import fakes, ramp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limnet.annotator.annotation import Annotation
from limnet.annotator.journal import Journal, Recording, journal_path, read_journal, replay
from limnet.annotator.journal_lines import open_line, seal
from limnet.networks.checkpoints import LimNet
from limnet.volumes import Volume
from limnet.volumes.masks import PackedMasks

MASK = np.eye(3, 4, dtype=bool)
RENAME = {"action": "rename_object", "object": "liver", "to": "Leber, groß"}
PAINT = {"action": "paint", "object": "liver", "slice_index": 1, "mask": MASK}
UNDO = {"action": "undo"}


class Weights(LimNet):
    """Networks without parameters."""

    digest = "first weights"


class OtherWeights(LimNet):
    digest = "other weights"


class Notes(Annotation):
    """Notes what it is asked to do; a prompt mask has a pixel at every click on its slice."""

    def __init__(self, volume, networks):
        self.volume, self.networks = volume, networks
        self.done, self.prompts = [], {}

    def perform(self, action):
        if action["action"] == "impossible":
            raise ValueError("nobody can do this")
        self.done.append(action)
        if action["action"] == "seen":
            return not np.array_equal(self.mask(action["slice_index"]), action["mask"])
        clicks = [*action.get("clicks", ()), *(action[key] for key in ("click",) if key in action)]
        for slice_index, row, column, _ in clicks:
            self.prompts.setdefault(slice_index, set()).add((row, column))
        return True

    def session(self, name):
        return self

    def mask(self, slice_index):
        mask = np.zeros((3, 4), dtype=bool)
        for place in self.prompts.get(slice_index, ()):
            mask[place] = True
        return mask


def weights(kind=Weights):
    return kind(**vars(fakes()))


def volume(first=0):
    """Two slices of three rows and four columns."""
    return Volume.from_array(np.arange(first, first + 24, dtype=np.int16).reshape(2, 3, 4))


def open_journal(path, first=0, kind=Weights):
    return Journal.open(path, volume(first), weights(kind))


def written(path, *actions):
    """The bytes of a journal of these actions."""
    with open_journal(path) as journal:
        for action in actions:
            journal.append(action)
    return path.read_bytes()


def assert_same(actions, expected):
    np.testing.assert_equal(list(actions), list(expected))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ct.limnet.jsonl"


@pytest.fixture(scope="module")
def server():
    """Processes that start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["limnet.annotator.journal", "pytest"]
    )  # does nothing where one runs already
    return context


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("ct.nii.gz", "ct.limnet.jsonl"),
        ("CT.v2.NII", "CT.v2.limnet.jsonl"),
        ("series/", "series.limnet.jsonl"),
        ("series.1/../series.1", "series.1.limnet.jsonl"),
    ],
)
def test_a_journal_lies_beside_its_image(image, expected, tmp_path):
    assert journal_path(f"{tmp_path}/{image}") == tmp_path / expected


def test_every_kind_of_value_comes_back(path):
    rng = np.random.default_rng(0)
    vector, masks = rng.random(2, dtype=np.float32), rng.random((2, 3, 4)) < 0.5
    vector[0] = np.nan
    chosen = {"masks": masks, "propagated": ~masks, "previous_better": vector}
    actions = [
        {"action": "add_object", "object": 'a "b" \\ ü 肝 \n \udc80', "colour": "#e6194b"},
        {"action": "click", "object": "liver", "click": [1, 2.25, 1 / 3, True]},
        {"action": "paint", "object": "liver", "slice_index": 0, "mask": masks[0, ::-1].T[::-1].T},
        {"action": "start_from", "object": "liver", "masks": np.asfortranarray(masks)},
        {
            "action": "propagate",
            "round": {"prompt_slice": 1, "kept_previous": masks[:, 0, 0]} | chosen,
        },
        {"action": "anything", "values": [None, -1, 1e-300, {"deep": [[]]}, {"bits": "shape"}]},
        UNDO,
    ]
    written(path, *actions)
    with open_journal(path) as journal:
        assert_same(journal.actions, actions)
        kinds = [journal.actions[4]["round"][key].dtype for key in ("masks", "previous_better")]
        assert kinds == [bool, np.float32]
        assert isinstance(journal.actions[3]["masks"], PackedMasks)
        assert journal.notices == []
    assert_same(read_journal(path)[1], actions)


@pytest.mark.parametrize("slices", [1, 7, 8, 19])
def test_masks_of_a_volume_are_written_as_ever_and_read_packed(slices):
    shape = [slices, 3, 5]  # a slice is no whole number of bytes
    masks = np.random.default_rng(slices).random(shape) < 0.3
    for each in (masks, PackedMasks.pack(masks)):
        line, checksum = seal({"n": 1, "action": "start_from", "masks": each}, 7, shape)
        packed = json.loads(line)["masks"]
        assert packed["shape"] == shape
        assert zlib.decompress(base64.b64decode(packed["bits"])) == np.packbits(masks).tobytes()
        values, again = open_line(line, 7, shape)
        assert checksum == again and isinstance(values["masks"], PackedMasks)
        assert np.array_equal(values["masks"], masks)


def test_a_journal_begun_with_a_digest_of_all_voxels_is_continued(path, monkeypatch):
    written(path, UNDO)
    monkeypatch.setattr("limnet.volumes.volume.LARGE", 10)
    assert volume().digest != read_journal(path)[0]["image_sha256"]
    with open_journal(path) as journal:
        assert journal.actions == (UNDO,)
    with pytest.raises(ValueError, match="image_sha256 is"):
        open_journal(path, first=1)


def test_the_header_says_what_the_actions_depend_on(path):
    written(path)
    header, actions, damage = read_journal(path)
    assert header.pop("utc").endswith("+00:00") and header.pop("crc", None) is None
    assert header.pop("version")
    assert header == {
        "limnet_journal": 1,
        "image": "",
        "image_sha256": volume().digest,
        "shape": [2, 3, 4],
        "slice_axis": 2,
        "window": list(volume().window),
        "weights_sha256": "first weights",
        "threads": torch.get_num_threads(),
    }
    assert (actions, damage) == ((), None)


@pytest.mark.parametrize(
    "value",
    [
        {"mask": np.zeros((4, 3), dtype=bool)},
        {"mask": np.zeros((3, 4), dtype=np.uint8)},
        {"mask": np.zeros(2)},
        {"mask": torch.zeros(2)},
        {"click": [0, float("nan"), 1, True]},
        {(1, 2): "three"},
        {"n": 7},
        {"utc": "now"},
        {"crc": "00000000"},
        {"action": None},
    ],
)
def test_what_could_not_be_read_again_is_not_written(value, path):
    with open_journal(path) as journal:
        journal.append(UNDO)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"must|JSON"):
            journal.append({"action": "paint"} | value)
        assert path.read_bytes() == before
        journal.append(PAINT)
    assert_same(read_journal(path)[1], [UNDO, PAINT])


def test_an_action_is_on_the_disk_when_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with open_journal(path) as journal:
        assert path.stat().st_size in synced
        assert path.parent.stat().st_size in synced  # the name of the new file too
        journal.append(UNDO)
        assert synced[-1] == path.stat().st_size
        journal.append(UNDO, durable=False)
        assert synced[-1] < path.stat().st_size
        assert len(read_journal(path)[1]) == 2


def test_wherever_a_journal_is_cut_off_the_whole_actions_before_are_kept(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a thousand of them take long
    content = written(path, RENAME, PAINT, UNDO)
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        cut = path.with_name(f"{length}.jsonl")
        cut.write_bytes(content[:length])
        kept = sum(end <= length for end in ends)  # lines
        with open_journal(cut) as journal:
            assert_same(journal.actions, [RENAME, PAINT, UNDO][: max(kept - 1, 0)])
            journal.append(UNDO)
        assert_same(read_journal(cut)[1], [*[RENAME, PAINT, UNDO][: max(kept - 1, 0)], UNDO])
        aside = cut.with_name(f"{length}.jsonl.damaged-1")
        is_aside = kept > 0 and length not in ends
        assert aside.exists() == bool(journal.notices) == is_aside
        if is_aside:
            assert aside.read_bytes() == content[ends[kept - 1] : length]
            assert (
                f"the {kept - 1} actions before it are kept, the {length - ends[kept - 1]} byt"
                in (journal.notices[0])
            )
    assert not list(path.parent.glob("*.part"))


def test_any_flipped_bit_is_seen_and_nothing_is_thrown_away(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    content = written(path, RENAME, PAINT, UNDO)
    start = content.index(b"\n") + 1
    for at in range(start, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        kept = content[start:at].count(b"\n")
        _, actions, damage = read_journal(path)
        assert_same(actions, [RENAME, PAINT, UNDO][:kept])
        assert damage == f"line {kept + 2} of {path.name} is damaged or cut off"


def test_damage_that_cannot_be_set_aside_stays_in_the_journal(path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "no space left on device")

    damaged = written(path, UNDO) + b"half a li"
    path.write_bytes(damaged)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RuntimeError, match=r"no space left .*make room on the disk"):
        open_journal(path)
    assert path.read_bytes() == damaged
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b'{"limn', b'{"limnet_journal":1,"i\0\0\0'])
def test_a_file_killed_at_its_creation_begins_anew(content, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must begin with a header"):
        read_journal(path)
    written(path, UNDO)
    assert read_journal(path)[1:] == ((UNDO,), None)


def header_with(path, **values):
    """A whole journal whose header says something else."""
    header = json.loads(written(path, UNDO).splitlines()[0])
    path.unlink()
    del header["crc"]
    return seal(header | values, 0)[0] + b"\n"


FOREIGN = {
    "text": lambda path: b"hello\n",
    "no newline": lambda path: b"hello",
    "other JSON": lambda path: b'{"clicks": []}\n',
    "a list": lambda path: b"[1, 2]\n",
    "deep JSON": lambda path: b'{"limnet_journal":' + b"[" * 50_000 + b"\n",
    "an image": lambda path: bytes(range(256)) * 1000,
    "zeros": lambda path: b"\0" * 100_000,
    "a damaged header": lambda path: written(path, UNDO).replace(b"2,3,4", b"2,3,5", 1),
    "a half header and more": lambda path: b'{"limnet_journal":1,"ima\n' + written(path, UNDO),
    "huge shape": lambda path: header_with(path, shape=[2**20, 2**20, 2**20]),
    "odd shape": lambda path: header_with(path, shape=[2, 3, True]),
    "odd window": lambda path: header_with(path, window=["a", "b"]),
    "odd threads": lambda path: header_with(path, threads=10**9),
    "odd image": lambda path: header_with(path, image=["ct.nii"]),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(kind, path):
    content = FOREIGN[kind](path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a journal of limnet, .* move it away"):
        open_journal(path)
    with pytest.raises(ValueError, match="must be a journal of limnet"):
        read_journal(path)
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(path):
    content = b'{"limnet_journal":2,"more":"unknown"}\n{}\n'
    path.write_bytes(content)
    for read in (open_journal, read_journal):
        with pytest.raises(ValueError, match=r"version 2, .*reads up to 1; .*install a newer"):
            read(path)
    assert path.read_bytes() == content


def test_a_journal_of_another_image_is_refused_and_left_as_it_is(path):
    content = written(path, UNDO) + b"damage"
    path.write_bytes(content)
    other_shape = Volume.from_array(volume().images.reshape(3, 2, 4))
    for other in (volume(1), other_shape):
        with pytest.raises(ValueError, match="image_sha256 is"):
            Journal.open(path, other, weights())
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_other_weights_and_another_window_are_a_notice(path):
    written(path, UNDO)
    with Journal.open(path, replace(volume(), window=(0.0, 7.0)), weights(OtherWeights)) as journal:
        assert [notice.split(",")[0] for notice in journal.notices] == [
            f"{path.name} was begun with another {key}" for key in ("weights_sha256", "window")
        ]
        assert journal.header["weights_sha256"] == "first weights"
        assert journal.actions == (UNDO,)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_cannot_be_a_journal(make, path):
    make(path)
    with pytest.raises((ValueError, RuntimeError), match="must be"):
        open_journal(path)


def forged(path, **values):
    """A journal of one paint action with other values, its checksums right."""
    header, paint = (json.loads(line) for line in written(path, PAINT).splitlines())
    line, checksum = seal({key: header[key] for key in header if key != "crc"}, 0)
    del paint["crc"]
    path.write_bytes(line + seal(paint | values, checksum)[0])
    return path


def packed(data, shape, name="bits"):
    return {name: base64.b64encode(zlib.compress(data)).decode(), "shape": shape}


@pytest.mark.parametrize(
    "mask",
    [
        packed(b"\0" * 10**7, [3, 4]),  # a decompression bomb
        packed(b"\0" * 3, [3, 4]),
        packed(b"\0", [3, 4]),
        packed(b"\0" * 10**6, [8 * 10**6]),
        packed(b"", [0]),
        packed(b"", [0, 10**30]),
        packed(b"", []),
        packed(b"\0\0", [-3, -4]),
        packed(b"\0\0", "34"),
        packed(b"\0\0", None),
        packed(b"\0\0", {"bits": "", "shape": [3]}),
        packed(b"\0" * 9, [2], "float32"),
        packed(b"\0" * 7, [2], "float32"),
        {"bits": "!!!!", "shape": [3, 4]},
        {"bits": "AAAA", "shape": [3, 4]},
        {"bits": 7, "shape": [3, 4]},
        {"bits": base64.b64encode(zlib.compress(b"\0\0")[:-2]).decode(), "shape": [3, 4]},
        {"bits": base64.b64encode(zlib.compress(b"\0\0") + b"x").decode(), "shape": [3, 4]},
    ],
    ids=lambda mask: str(mask)[:60],
)
def test_an_array_that_is_not_what_it_says_is_damage(mask, path):
    assert read_journal(forged(path, mask=mask))[1:] == (
        (),
        f"line 2 of {path.name} is damaged or cut off",
    )


@pytest.mark.parametrize("values", [{"n": 2}, {"n": None}, {"action": None}, {"action": ["undo"]}])
def test_a_line_that_is_no_action_is_damage(values, path):
    _, actions, damage = read_journal(forged(path, **values))
    assert actions == () and damage


@pytest.mark.parametrize(
    "body",
    [b"[", b"[" * 10**5, b"1", b'{"n":1', b'{"n":1,"action":"a","x":NaN', b'{"n":' + b"1" * 5000],
)
def test_a_line_that_is_no_json_is_damage(body, path):
    header = written(path)
    checksum = zlib.crc32(body, int(header[-11:-3], 16))
    path.write_bytes(header + body + b',"crc":"%08x"}\n' % checksum)
    _, actions, damage = read_journal(path)
    assert actions == () and damage


def hold(path, connection):
    with open_journal(path):
        connection.send("open")
        connection.recv()


def test_a_second_opener_in_another_process_is_told_who_has_it(path, server):
    ours, theirs = server.Pipe()
    process = server.Process(target=hold, args=(path, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "open"
    with pytest.raises(RuntimeError, match=f"is open in process {process.pid} on"):
        open_journal(path)
    process.kill()
    process.join()
    with open_journal(path) as journal:  # its lock died with it, its name is ours now
        assert journal.notices == []
        with pytest.raises(RuntimeError, match=f"is open in process {os.getpid()} on"):
            open_journal(path)


def test_where_files_cannot_be_locked_the_user_is_told(path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with open_journal(path) as journal:
        assert (
            "cannot be locked" in journal.notices[0] and "open it only once" in journal.notices[0]
        )
        journal.append(UNDO)


@pytest.mark.parametrize("harm", ["removed", "replaced", "cut", "longer"])
def test_a_journal_changed_from_outside_is_not_written_to(harm, path):
    with open_journal(path) as journal:
        journal.append(UNDO)
        content = path.read_bytes()
        if harm in ("removed", "replaced"):
            path.rename(path.with_name("moved"))
        if harm != "removed":
            path.write_bytes({"cut": content[:-9], "longer": content + b"x"}.get(harm, content))
        before = path.exists() and path.read_bytes()
        with pytest.raises(RuntimeError, match=r"changed by nobody else .* nothing was done: open"):
            journal.append(UNDO)
        assert (path.exists() and path.read_bytes()) == before


def numbered(number):
    bits = number >> np.arange(12) & 1
    return {"action": "paint", "slice_index": number % 2, "mask": bits.astype(bool).reshape(3, 4)}


def write_for_ever(path, connection):
    with open_journal(path) as journal:
        number = len(journal.actions)
        while True:
            journal.append(numbered(number))
            connection.send(number)
            number += 1


def test_no_acknowledged_action_is_lost_in_20_kills(path, server):
    rng, damaged = np.random.default_rng(0), 0
    for _ in range(20):
        ours, theirs = server.Pipe()
        process = server.Process(target=write_for_ever, args=(path, theirs))
        process.start()
        theirs.close()
        acknowledged = ours.recv()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        with pytest.raises(EOFError):
            while True:
                acknowledged = ours.recv()
        process.join()
        _, actions, damage = read_journal(path)
        damaged += damage is not None
        assert len(actions) > acknowledged
        assert_same(actions, map(numbered, range(len(actions))))
    assert len(actions) >= 20
    assert len(list(path.parent.glob("*.damaged-*"))) <= damaged


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_write_that_fails_at_the_end_is_undone(failure, path, monkeypatch):
    def fail(file):
        raise failure

    with open_journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises((RuntimeError, KeyboardInterrupt)):
                journal.append(PAINT)
        journal.append(UNDO)
    assert read_journal(path)[1:] == ((UNDO,), None)


CLICK = {"action": "click", "object": "liver", "click": [0, 1, 2, True]}
CLICKS = {"action": "clicks", "object": "liver", "clicks": [[1, 0, 0, True], [1, 1, 1, True]]}


def seen(slice_index, *places):
    mask = np.zeros((3, 4), dtype=bool)
    for place in places:
        mask[place] = True
    return {"action": "seen", "object": "liver", "slice_index": slice_index, "mask": mask}


def record(path, *actions, kind=Weights):
    recording = Recording(Notes(volume(), weights(kind)), path)
    for action in actions:
        recording.perform(action)
    recording.close()
    return recording


def test_an_action_is_written_before_it_is_done(path):
    recording = Recording(Notes(volume(), weights()), path)
    on_disk = []
    recording.annotation.perform = lambda action: on_disk.append(read_journal(path)[1])
    recording.perform(UNDO)
    recording.perform(RENAME)
    recording.close()
    assert on_disk == [(UNDO,), (UNDO, RENAME)]


def test_actions_of_two_threads_are_written_in_the_order_in_which_they_are_done(path):
    recording, on_disk = Recording(Notes(volume(), weights()), path), []
    other = threading.Thread(target=recording.perform, args=(RENAME,))

    def perform(action):
        if action is UNDO:
            other.start()
            other.join(0.1)
        on_disk.append(read_journal(path)[1])

    recording.annotation.perform = perform
    recording.perform(UNDO)
    other.join()
    recording.close()
    assert on_disk == [(UNDO,), (UNDO, RENAME)]


def test_opening_does_again_what_was_done_and_says_how_far_it_is(path):
    first, steps = record(path, CLICK, RENAME, CLICKS), []
    again = Recording(Notes(volume(), weights()), path, lambda *step: steps.append(step))
    again.close()
    assert_same(
        again.annotation.done, [CLICK, seen(0, (1, 2)), RENAME, CLICKS, seen(1, (0, 0), (1, 1))]
    )
    assert again.annotation.prompts == first.annotation.prompts
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert again.notices == [] and again.journal.actions == ()


def test_prompt_masks_that_come_out_otherwise_are_told(path):
    record(path, CLICK, CLICKS)

    class Sees(Notes):
        def mask(self, slice_index):
            return ~super().mask(slice_index)

    again = Recording(Sees(volume(), weights(OtherWeights)), path)
    again.close()
    assert again.notices[0].startswith(f"{path.name} was begun with another weights_sha256")
    assert again.notices[1:] == [
        "2 prompt masks were taken as they were seen, since the weights or the machine differ"
    ]


def test_an_action_that_cannot_be_done_is_skipped_when_opened_again(path):
    impossible = {"action": "impossible"}
    recording = Recording(Notes(volume(), weights()), path)
    recording.perform(UNDO)
    with pytest.raises(ValueError, match="nobody can do this"):
        recording.perform(impossible)
    recording.perform(RENAME)
    recording.close()
    again = record(path)
    assert again.annotation.done == [UNDO, RENAME]
    assert again.notices == ["entry 2 (impossible) was skipped: nobody can do this"]
    assert read_journal(path)[1] == (UNDO, impossible, RENAME)


def test_a_full_disk_after_the_click_does_not_undo_the_click(path, monkeypatch):
    recording = Recording(Notes(volume(), weights()), path)
    append = recording.journal.append

    def full(action, *, durable=True):
        if action["action"] == "seen":
            raise RuntimeError("no space left on device")
        append(action)

    monkeypatch.setattr(recording.journal, "append", full)
    assert recording.perform(CLICK) is True
    recording.close()
    assert read_journal(path)[1] == (CLICK,)


@pytest.fixture
def replays(monkeypatch):
    """`replay` makes notes; every run is noted with its threads and whether it is deterministic."""
    runs = []

    class Observed(Notes):
        def perform(self, action):
            runs.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            return super().perform(action)

    monkeypatch.setattr("limnet.annotator.journal.Annotation", Observed)
    return runs


PROPAGATE = {
    "action": "propagate",
    "object": "liver",
    "round": {"prompt_slice": 1, "masks": np.stack([MASK, ~MASK])},
}


def test_a_replay_computes_again_as_it_was_then(path, replays):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        record(path, CLICK, PROPAGATE)
    finally:
        torch.set_num_threads(threads)
    replayed = replay(path, volume(), weights())
    assert_same(replayed.done, [CLICK, {"action": "propagate", "object": "liver"}])
    assert replays == [(3, True), (3, True)]
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_replay_changes_no_file_and_warns_of_what_it_skips(path, replays):
    record(path, UNDO)
    with path.open("ab") as file:
        file.write(b"rubbish")
    content = path.read_bytes()
    with pytest.warns(UserWarning, match=r"line 3 of ct.limnet.jsonl is damaged or cut off"):
        assert replay(path, volume(), weights()).done == [UNDO]
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_replay_needs_the_image_and_the_weights_of_the_journal(path, replays, monkeypatch):
    record(path, UNDO)
    with pytest.raises(ValueError, match=r"with its own image, SHA-256 .*pass the image"):
        replay(path, volume(1), weights())
    assert replay(path, volume(), weights(OtherWeights)).done == [UNDO]
    monkeypatch.setattr(
        "limnet.annotator.journal.load_networks", lambda name: weights(OtherWeights)
    )
    with pytest.raises(ValueError, match="its own weights, SHA-256 first weights, got other wei"):
        replay(path, volume())


def test_a_replay_finds_the_image_beside_the_journal(tmp_path, replays):
    image = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None), image)
    sagittal = Volume.read(image, slice_axis=0, window=(1, 9))
    Recording(Notes(sagittal, weights()), journal_path(image)).close()
    replayed = replay(journal_path(image), networks=weights())
    assert replayed.volume.digest == sagittal.digest
    assert replayed.volume.window == (1, 9)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../ct.nii", "/ct.nii", "a/ct.nii", "..\\ct.nii", "a\0"]
)
def test_an_image_outside_the_folder_is_refused(name, path, monkeypatch):
    path.write_bytes(header_with(path, image=name).rstrip(b"\n") + b"\n")
    with pytest.raises(ValueError, match=r"must be a plain name of a file beside|must be an exist"):
        replay(path)


LOCK = {"action": "lock", "object": "liver"}
STROKE = {"action": "paint", "object": "aorta", "mask": np.eye(32, 48, dtype=bool)}
OBJECTS = st.sampled_from(["liver", "aorta"])
PLACES = st.tuples(st.integers(0, 4), st.integers(0, 31), st.integers(0, 47), st.booleans()).map(
    list
)
DEEDS = st.one_of(
    st.builds(lambda name, at: {"action": "click", "object": name, "click": at}, OBJECTS, PLACES),
    st.builds(lambda name: {"action": "propagate", "object": name}, OBJECTS),
    st.builds(lambda at: {**LOCK, "slice_index": at[0]}, PLACES),
    st.builds(lambda at: {**STROKE, "slice_index": at[0]}, PLACES),
    st.sampled_from([UNDO, {"action": "redo"}]),
)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DEEDS, max_size=8), st.booleans())
def test_whatever_was_done_comes_back_to_the_voxel_and_can_be_undone(deeds, recompute):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ct.limnet.jsonl"
        recording = Recording(Annotation(ramp(), weights()), path)
        for name, colour in (("liver", "#e6194b"), ("aorta", "#3cb44b")):
            recording.perform({"action": "add_object", "object": name, "colour": colour})
        for deed in deeds:
            with suppress(ValueError, RuntimeError):  # nothing to propagate, a locked slice
                recording.perform(deed)
        recording.close()
        again = Recording(Annotation(ramp(), weights()), path)
        again.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deeds that could not be done
            replayed = replay(path, ramp(), weights(), recompute=recompute)
    states = [each.labels() for each in (recording.annotation, again.annotation, replayed)]
    assert np.array_equal(states[0], states[1]) and np.array_equal(states[0], states[2])
    while replayed.perform(UNDO):
        pass
    assert replayed.objects == ()
    while recording.annotation.perform({"action": "redo"}):  # what the last deeds had undone
        pass
    while replayed.perform({"action": "redo"}):
        pass
    assert np.array_equal(replayed.labels(), recording.annotation.labels())
