"""A golden record: fixed stories give the masks that were recorded, and old files stay readable.

`LIMNET_RECORD=1 pytest tests/test_golden.py` writes the masks anew. The journal, its image and the
description of the weights are only written if missing: they stand for files that users have.
"""

import json
import math
import os
import re
import shutil
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from golden_stories import GOLDEN, IMAGE, STORIES, facts_of, masks_of, networks, play, saved
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import limnet
from limnet import Click, Session, Volume, load_networks
from limnet.annotator.annotation import Annotation
from limnet.annotator.journal import Journal, Recording, journal_path, read_journal, replay
from limnet.method.prompts import Box

DESCRIPTION = GOLDEN / "weights.json"
WEIGHTS = Path(limnet.__file__).parent / "weights"
RECORD = os.environ.get("LIMNET_RECORD") == "1"
MOST_DIFFERENT = 10  # voxels in a million: the float kernels of machines differ


def check(name, masks, facts):
    """Compare with the record, of which each step holds only what it changes."""
    path, voxels = GOLDEN / f"{name}.npz", np.asarray(masks).size
    packed = np.packbits(np.reshape(masks, (len(masks), -1)), axis=1)
    if RECORD:
        steps = np.concatenate([packed[:1], packed[1:] ^ packed[:-1]])
        np.savez_compressed(path, steps=steps, facts=json.dumps(facts))
    record = np.load(path)
    expected = np.bitwise_xor.accumulate(record["steps"], axis=0)
    assert packed.shape == expected.shape
    differing = np.bitwise_count(packed ^ expected).sum(axis=1, dtype=int)
    allowed = math.ceil(MOST_DIFFERENT * voxels / 1_000_000)
    assert differing.sum() <= allowed, f"voxels that differ after each action: {differing}"
    assert json.loads(json.dumps(facts)) == json.loads(str(record["facts"]))


@pytest.mark.parametrize("name", [name for name in STORIES if name != "journal"])
def test_a_story_gives_the_masks_that_were_recorded(name, tmp_path):
    check(name, *play(STORIES[name], tmp_path))


def test_a_journal_of_today_stays_readable(tmp_path):
    saved_journal = journal_path(IMAGE)
    if not saved_journal.exists():
        play(STORIES["journal"], tmp_path)
        shutil.copy(tmp_path / "story.limnet.jsonl", saved_journal)
    with warnings.catch_warnings(record=True) as told:
        again = [replay(saved_journal, recompute=anew) for anew in (True, False)]
    assert not re.search("skipped|damaged", " ".join(str(each.message) for each in told))
    check("journal", [*map(masks_of, again)], [*map(facts_of, again)])
    shutil.copy(saved_journal, tmp_path)
    recording = Recording(Annotation(again[0].volume, networks()), tmp_path / saved_journal.name)
    assert not any("begun with another" in notice for notice in recording.notices)
    recording.perform({"action": "undo"})
    recording.close()
    before, after = (read_journal(each)[1] for each in (saved_journal, recording.journal.path))
    assert len(after) == len(before) + 1 == 21


def test_weights_of_today_stay_readable(tmp_path):
    described = {}
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            described[path.name] = {key: file.metadata()[key] for key in ("kind", "config")}
    if not DESCRIPTION.exists():
        text = json.dumps({"digest": networks().digest, "files": described}, indent=1) + "\n"
        DESCRIPTION.write_text(text, encoding="utf-8")
    today = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    for name, metadata in today["files"].items():
        save_file(load_file(WEIGHTS / name), tmp_path / name, metadata)
    assert networks().digest == load_networks(tmp_path).digest == today["digest"]


@cache
def used():
    """A session after a round, with a locked slice; no error changes it."""
    session = Session(saved(None, "heart"), networks())
    session.add_click(Click(4, 28, 24))
    session.propagate()
    session.lock(2)
    return session


def other():
    return Volume.from_array(np.zeros((10, 48, 48), np.int16))


def spoilt(folder, name):
    """The shipped weights, of which one file was cut off."""
    shutil.copytree(WEIGHTS, folder / "weights")
    (folder / "weights" / name).write_bytes((WEIGHTS / name).read_bytes()[:1000])
    return folder / "weights"


def performed(**action):
    Annotation(used().volume, networks()).perform(action)


ERRORS = {  # what is wrong: a call with a folder for files, the error, a value that it names
    "a click outside the volume": (
        lambda folder: used().add_click(Click(99, 1, 1)), ValueError, "(99, 1, 1)"),
    "a click before the first row": (
        lambda folder: Click(0, -3, 1), ValueError, "(0, -3, 1)"),
    "clicks on two slices": (
        lambda folder: used().add_clicks([Click(0, 7, 1), Click(1, 8, 1)]), ValueError, "row=8"),
    "a click on a locked slice": (
        lambda folder: used().add_click(Click(2, 1, 1)), ValueError, "slice 2 is locked"),
    "a box beyond the slice": (
        lambda folder: used().add_box(0, Box(1, 2, 30, 77)), ValueError, "(1, 2, 30, 77)"),
    "a click moved to another slice": (
        lambda folder: used().move_click(Click(4, 28, 24), Click(5, 1, 1)), ValueError, "got 5"),
    "a click of a closed round removed": (
        lambda folder: used().remove_click(Click(4, 28, 24)), ValueError, "row=28, column=24"),
    "a mask of another shape": (
        lambda folder: used().paint(0, np.ones((3, 4), bool)), ValueError, "(3, 4)"),
    "masks that are no bool": (
        lambda folder: used().start_from(used().masks.astype(np.uint8)), ValueError, "uint8"),
    "a round without a click": (
        lambda folder: used().propagate(), RuntimeError, "at least one click"),
    "the other of one round": (
        lambda folder: used().take_other(6), ValueError, "slice 6"),
    "a lock of no slice": (
        lambda folder: used().lock(10), ValueError, "got 10"),
    "an unlock of no lock": (
        lambda folder: used().unlock(3), ValueError, "slice 3"),
    "features of another volume": (
        lambda folder: Session(other(), networks(), features=used().features),
        ValueError, "slice features"),
    "a file that is no volume": (
        lambda folder: Volume.read(DESCRIPTION), ValueError, "weights.json"),
    "a window that is none": (
        lambda folder: Volume.read(IMAGE, window="brian"), ValueError, "brian"),
    "masks saved as text": (
        lambda folder: used().save(folder / "masks.txt"), ValueError, "masks.txt"),
    "damaged weights": (
        lambda folder: load_networks(spoilt(folder, "quality_lite.safetensors")),
        ValueError, "quality_lite.safetensors"),
    "a missing folder of weights": (
        lambda folder: load_networks(folder / "nowhere"), FileNotFoundError, "nowhere"),
    "a missing journal": (
        lambda folder: replay(folder / "gone.limnet.jsonl"), FileNotFoundError, "gone"),
    "a journal that is none": (
        lambda folder: read_journal(DESCRIPTION), ValueError, "weights.json"),
    "a journal of another volume": (
        lambda folder: Journal.open(shutil.copy(journal_path(IMAGE), folder), other(), networks()),
        ValueError, other().digest),
    "an action that is none": (
        lambda folder: performed(action="dance"), ValueError, "dance"),
    "an object that is none": (
        lambda folder: performed(action="propagate", object="tail"), ValueError, "tail"),
    "a colour that is none": (
        lambda folder: performed(action="add_object", object="a", colour="red"),
        ValueError, "red"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", ERRORS)
def test_an_error_has_its_type_and_names_what_is_wrong(wrong, tmp_path):
    call, kind, value = ERRORS[wrong]
    with pytest.raises(kind, match=re.escape(value)) as raised:
        call(tmp_path)
    assert raised.type is kind
