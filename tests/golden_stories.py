"""Plays the stories of `golden/stories.yaml` for the tests in `test_golden.py`."""

import json
import os
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from limnet import Click, Session, Volume, load_networks
from limnet.annotator.annotation import Annotation
from limnet.annotator.export import objects_of, provenance, save_bundle, save_label_map
from limnet.annotator.journal import Recording, replay
from limnet.data import collection_cases, write_btcv_twin
from limnet.data.synthetic.abdomen import abdomen
from limnet.data.synthetic.heart import heart
from limnet.data.synthetic.scenes import surgical_scene
from limnet.method.memory import MemoryConfig
from limnet.method.prompts import Box
from limnet.method.propagation import SliceDone, Stopped
from limnet.method.state import Recipe

GOLDEN = Path(__file__).parent / "golden"
IMAGE = GOLDEN / "heart.nii.gz"  # of the saved journal
STORIES = yaml.safe_load((GOLDEN / "stories.yaml").read_text(encoding="utf-8"))


def patient(folder, seed, slices):
    made = abdomen(seed, shape=(slices, 96, 96), spacing_mm=(160 / slices, 4.0, 4.0))
    return Volume.from_array(made.images, made.spacing_mm, modality="CT", window="abdomen")


def beating(folder, seed, slices):
    made = heart(seed, shape=(slices, 96, 96), spacing_mm=(8.0, 1.8, 1.8))
    return Volume.from_array(made.images, made.spacing_mm)


def scene(folder, seed, frames):
    return Volume.from_array(surgical_scene(seed, frames=frames, size=(96, 120)).frames)


def twin(folder, slices):
    made = {"shape": (slices, 96, 96), "spacing_mm": (10.0, 4.0, 4.0)}
    return write_btcv_twin(folder / "btcv", cases=1, **made)[0].load()[0]


def real(folder, collection, name, first, last):
    root = Path(os.environ.get("LIMNET_DATA") or "nowhere") / collection
    found = [case for case in collection_cases(root) if case.name == name] if root.is_dir() else []
    if not found:
        pytest.skip(f"LIMNET_DATA must name a folder that holds {collection}/{name}")
    volume = Volume.read(found[0].image)
    return Volume.from_array(volume.images[first:last], volume.spacing_mm)


def saved(folder, name):
    if not IMAGE.exists():
        images = heart(5, shape=(10, 48, 48), spacing_mm=(9.0, 3.0, 3.0)).images
        voxels = (1000 * images).astype(np.int16).transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-3.0, -3.0, 9.0, 1.0])), IMAGE)
    return Volume.read(IMAGE)


VOLUMES = {each.__name__: each for each in (patient, beating, scene, twin, real, saved)}
networks = cache(load_networks)


def options(name, volume):
    """What a story's session is made with."""
    memory = MemoryConfig(min_work_slices=2, max_work_slices=4, num_prototypes=16)
    shipped = Recipe.of(networks())
    own = replace(
        shipped,
        memorize_every=3,
        update_sensory_every=2,
        permanent_prompt_memory=False,
        end_after=2,
        close_up=False,
        parallel_map=False,
        memory=memory,
    )
    return {
        None: {},
        "without fusion": {"recipe": replace(shipped, fuse=False)},
        "low threshold": {"recipe": replace(shipped, threshold=0.2)},
        "own propagation": {"recipe": own},
        "own judge and shared features": {
            "compare": lambda old, new: (old.sum((1, 2)) < new.sum((1, 2))).astype(np.float32),
            "features": Session(volume, networks()).features,
        },
    }[name]


def parsed(text):
    """The name and the values of each action."""
    for action in text.split(";"):
        name, *words = action.split()
        yield name, [json.loads(w) if w[0].isdigit() else w for w in words]


def clicks(values):
    each = [values[at : at + 4] for at in range(0, len(values), 4)]
    return [Click(*place, sign == "+") for *place, sign in each]


def ovals(volume, ends):
    """The ellipse of the first box without those of the others."""
    boxes = [Box(*ends[at : at + 4]) for at in range(0, len(ends), 4)]
    return np.logical_xor.reduce([box.ellipse(volume.images.shape[1:3]) for box in boxes])


def block(volume, first, last, *ends):
    """The same ellipse on all slices from first to last."""
    masks = np.zeros(volume.images.shape[:3], dtype=bool)
    masks[first : last + 1] = ovals(volume, ends)
    return masks


def watch(session):
    """What the events of a propagation tell: slices in all, those propagated, where it stopped."""
    *events, closed = session.propagate_events()
    done = [event for event in events if isinstance(event, SliceDone)]
    ended = [event.index for event in events if isinstance(event, Stopped)]
    assert all((closed.propagated[event.index] == event.mask).all() for event in done)
    assert ended or done[-1].done == done[-1].total
    propagated = {event.index for event in done} - {*session.state.prompts, *session.state.locked}
    session.close(closed)
    return [[done[-1].total] * 2, sorted(propagated), ended]


def cancel(session):
    session.add_click(Click(1, 30, 30))
    events = session.propagate_events()
    next(events)
    events.close()
    session.undo()


def save(session, path):
    session.save(path)
    assert (session.volume.read_labels(path) == session.masks).all()


def session_actions(session, folder):
    """How the actions of a session's story are done; a list that one returns is recorded."""
    volume, kept = session.volume, []
    return {
        "add_click": lambda *click: session.add_click(*clicks(click)),
        "add_clicks": lambda *values: session.add_clicks(clicks(values)),
        "add_box": lambda index, *ends: session.add_box(index, Box(*ends)),
        "move_click": lambda *values: session.move_click(*clicks(values)),
        "remove_click": lambda *click: session.remove_click(*clicks(click)),
        "paint": lambda index, *ends: session.paint(index, ovals(volume, ends)),
        "show": lambda index, *ends: session.show(index, ovals(volume, ends)),
        "start_from": lambda *values: session.start_from(block(volume, *values)),
        "propagated": lambda: session.close([*session.propagate_events()][-1]),
        "expected_features": lambda: [session.expected_features()[1]],
        "remember": lambda: kept.append(session.state),
        "restore": lambda: session.restore(kept[-1]),
        "watch": lambda: watch(session),
        "cancel": lambda: cancel(session),
        "save": lambda: save(session, folder / "saved.nii.gz"),
    } | {
        name: getattr(session, name)
        for name in ("propagate", "take_other", "lock", "unlock", "undo", "redo")
    }


def perform(recording, action):
    """Do an action of an annotation's story; boxes stand for masks, and a word for a round."""
    annotation, action = recording.annotation, dict(action)
    if "mask" in action:
        action["mask"] = ovals(annotation.volume, action["mask"])
    if "masks" in action:
        action["masks"] = block(annotation.volume, *action["masks"])
    if "round" in action:
        closed = vars([*annotation.session(action["object"]).propagate_events()][-1])
        action["round"] = {name: value for name, value in closed.items() if name != "clicks"}
    recording.perform(action)


def masks_of(subject):
    if isinstance(subject, Session):
        masks = subject.masks
        assert all((subject.mask(index) == mask).all() for index, mask in enumerate(masks))
        return masks
    labels = subject.labels()
    overlap = [subject.overlap(index) for index in range(len(labels))]
    return np.stack([labels == 1, labels == 2, overlap])


def facts_of(subject):
    if isinstance(subject, Annotation):
        return [[each.name, each.colour, *facts_of(each.session)] for each in subject.objects]
    places = [[at.slice_index, at.row, at.column, at.positive] for at in subject.clicks]
    return [len(subject.rounds), places, sorted(subject.state.locked), subject.most_doubtful()]


def play(story, folder):
    """The masks after each action of a story, and what else is told of it."""
    [(make, values)] = parsed(story["volume"])
    volume = VOLUMES[make](folder, *values)
    masks, facts = [], []
    if isinstance(story["actions"], str):
        session = Session(volume, networks(), **options(story.get("options"), volume))
        actions = session_actions(session, folder)
        for name, values in parsed(story["actions"]):
            answer = actions[name](*values)
            masks.append(masks_of(session))
            facts.append(facts_of(session) + [answer] * isinstance(answer, list))
        return masks, facts
    path = folder / "story.limnet.jsonl"
    recording = Recording(Annotation(volume, networks()), path)
    for action in story["actions"]:
        perform(recording, action)
        masks.append(masks_of(recording.annotation))
        facts.append(facts_of(recording.annotation))
    recording.close()
    masks.append(masks_of(replay(path, volume, networks())))
    return masks, [*facts, exported(recording.annotation, path)]


def exported(annotation, journal):
    """What the files of an annotation hold."""
    folder, volume = journal.parent, annotation.volume
    save_label_map(volume, objects_of(annotation), folder / "labels.nii.gz")
    assert (volume.read_labels(folder / "labels.nii.gz") == annotation.labels()).all()
    assert save_bundle(annotation, folder / "all.zip", journal=journal) == {}
    told = provenance(annotation)
    objects = [[each[key] for key in ("label", "file", "rounds")] for each in told["objects"]]
    with zipfile.ZipFile(folder / "all.zip") as bundle:
        return [sorted(bundle.namelist()), sorted(told), objects]
