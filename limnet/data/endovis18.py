"""EndoVis 2018, the surgical scenes of Table VI, and its synthetic twin.

Allan et al., "2018 Robotic Scene Segmentation Challenge", arXiv:2001.11190;
endovissub2018-roboticscenesegmentation.grand-challenge.org. Frames of 1280 x 1024 pixels.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from limnet.data.cases import Case, few
from limnet.data.folders import SetFolder
from limnet.data.synthetic.scenes import CLASSES, VERSION, surgical_scene
from limnet.data.synthetic.twins import TWIN_SEEDS, begin_twin, is_twin, write_first

ENDOVIS18_LABELS = {name: index for name, index in CLASSES.items() if index}  # name -> id
ENDOVIS18_COLOURS = {  # as labels.json of the training releases has them
    "background tissue": (0, 0, 0),
    "instrument shaft": (0, 255, 0),
    "instrument clasper": (0, 255, 255),
    "instrument wrist": (125, 255, 12),
    "kidney parenchyma": (255, 55, 0),
    "covered kidney": (24, 55, 125),
    "thread": (187, 155, 25),
    "clamps": (0, 255, 125),
    "suturing needle": (255, 255, 125),
    "suction instrument": (123, 15, 175),
    "small intestine": (124, 155, 5),
    "ultrasound probe": (12, 255, 141),
}
_INSTRUMENT = ("instrument shaft", "instrument wrist", "instrument clasper")
ENDOVIS18_SEQUENCES = {  # the test sequences, and the classes that Table VI has of each
    "seq_1": ("clamps", "suturing needle", "small intestine", "ultrasound probe"),
    "seq_2": ("small intestine", *_INSTRUMENT),
    "seq_3": ("small intestine", *_INSTRUMENT),
    "seq_4": ("ultrasound probe", "instrument shaft", "kidney parenchyma", "instrument wrist"),
}
BESIDE = {"seq_1": ("thread",), "seq_2": ("covered kidney",), "seq_4": ("covered kidney",)}
TRAINING_FRAMES = 149  # of each training sequence; a test sequence has 249 or 250
FRAMES, LABELS, LIST = "left_frames", "labels", "labels.json"
SUFFIXES = (".png", ".jpg", ".jpeg")
PLACE = SetFolder(
    name="EndoVis 2018",
    folders=("endovis18", "EndoVis18", "endovis2018", "EndoVis2018", "EndoVis_2018_RSS"),
    inside=("test_data", "test_data/test_data", "Test_data_and_label_release/test_data", "."),
    # each archive of the test data may have made a folder around its sequence
    marks=(f"seq_[1-4]/{FRAMES}", f"seq_[1-4]-*/seq_[1-4]/{FRAMES}"),
    source="the test data",
)


def endovis18_cases(root: str | Path) -> tuple[Case, ...]:
    """The test sequences of EndoVis 2018, or of its twin, that are there: seq_1 to seq_4.

    A case is a sequence; its colours are those of the `labels.json` beside it or above it, the
    published ones where there is none. Right frames have no labels and are passed over. The
    training releases number their sequences from 1, too: none of them is read.

    Args:
        root: the folder that holds `test_data`, or this itself.

    Raises:
        ValueError: the folder is missing or has another layout, holds training sequences, a frame
            lacks its label or the other way round, or `labels.json` names no class with a colour.
    """
    folder = PLACE.require(root)
    twin = is_twin(folder)
    collection = "EndoVis 2018 twin (synthetic)" if twin else "EndoVis 2018"
    found = {name: _sequence(folder, name) for name in ENDOVIS18_SEQUENCES}
    sequences = {name: path for name, path in found.items() if path is not None}
    for path in sequences.values():
        _check_frames(path, twin)
    return tuple(
        # no wording of its terms is public: weights that are free for any use must not use it
        Case(
            name,
            path / FRAMES,
            path / LABELS,
            ENDOVIS18_LABELS,
            collection,
            twin,
            ids=tuple(CLASSES.values()),
            colours={colour: CLASSES[name] for name, colour in _colours(path, folder).items()},
        )
        for name, path in sequences.items()
    )


def _check_frames(sequence: Path, twin: bool) -> None:
    frames, labels = (_stems(sequence / part) for part in (FRAMES, LABELS))
    if len(frames) == TRAINING_FRAMES and not twin:
        raise ValueError(
            f"a test sequence of EndoVis 2018 has 249 or 250 frames, but {sequence} has"
            f" {TRAINING_FRAMES}, as the training sequences of the same names have; point at the"
            " test data"
        )
    alone = [f"{FRAMES}/{stem}" for stem in sorted(frames - labels)]
    alone += [f"{LABELS}/{stem}" for stem in sorted(labels - frames)]
    if alone or not frames:
        raise ValueError(
            f"every frame of EndoVis 2018 needs its label and every label its frame, but in"
            f" {sequence} {few(alone) or FRAMES} stands alone; unpack the test data and its labels"
            " again"
        )


def _stems(folder: Path) -> set[str]:
    files = folder.glob("[!.]*")  # macOS left "._" files in the archives
    return {path.stem for path in files if path.suffix.lower() in SUFFIXES}


def _colours(sequence: Path, folder: Path) -> dict[str, tuple[int, int, int]]:
    """{class: colour} of the nearest `labels.json`; a class that is none of ours is left out."""
    above = [path for path in sequence.parents if path.is_relative_to(folder)]
    files = [each / LIST for each in (sequence, *above)]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return ENDOVIS18_COLOURS
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        listed = listed["classes"] if isinstance(listed, Mapping) else listed  # of the test data
        # which also has an alpha, 128, where the training releases have none
        colours = {
            re.sub("[-_]", " ", each["name"].lower()): tuple(map(int, each["color"][:3]))
            for each in listed
        }
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON list of classes with name and color, but: {error!r}; unpack the"
            " test data again"
        ) from error
    known = {name: colour for name, colour in colours.items() if name in CLASSES}
    fit = all(len(each) == 3 and min(each) >= 0 and max(each) < 256 for each in known.values())
    if not known or not fit or len(set(known.values())) < len(known):
        raise ValueError(
            f"{path} must give classes such as instrument-shaft each a colour of its own, red,"
            f" green and blue from 0 to 255, got {colours}; unpack the test data again"
        )
    return known


def _sequence(folder: Path, name: str) -> Path | None:
    """The folder of a sequence; each archive of the test data may have made one around it."""
    places = [folder / name, *sorted(folder.glob(f"{name}-*/{name}"))]
    return next((place for place in places if (place / FRAMES).is_dir()), None)


def write_endovis18_twin(
    root: str | Path,
    *,
    cases: int = 4,
    seed: int = 0,
    frames: int = 8,
    size: tuple[int, int] = (128, 160),
) -> tuple[Case, ...]:
    """The first `cases` synthetic sequences in `root`, written where they are missing.

    Each shows the classes that Table VI has of its sequence and, beside them, thread or fascia.
    Sequences of another seed, size or version are replaced.

    Args:
        size: height and width of a frame.

    Raises:
        ValueError: the folder holds an EndoVis 2018 that is no twin, or `cases` is not 1 to 4.
    """
    if not 1 <= cases <= len(ENDOVIS18_SEQUENCES):
        raise ValueError(f"a twin has 1 to 4 sequences, as the test data has, got {cases}")
    folder = PLACE.holder(root) or Path(root) / "test_data"
    recipe = {"what": "synthetic scenes in the layout of EndoVis 2018", "version": VERSION}
    recipe |= {"seed": seed, "frames": frames, "size": list(size)}
    begin_twin(folder, recipe, folder.glob("seq_*/*/[!.]*.png"))
    names = [*ENDOVIS18_SEQUENCES][:cases]
    for index, name in enumerate(names):
        if len(_stems(folder / name / FRAMES)) == frames:
            continue
        shows = {*ENDOVIS18_SEQUENCES[name], *BESIDE.get(name, ())}
        scene = surgical_scene(7 * TWIN_SEEDS + 4 * seed + index, shows, frames=frames, size=size)
        colours = np.array([*ENDOVIS18_COLOURS.values()], np.uint8)
        # labels first: a sequence whose frames are there is whole
        for part, images in ((LABELS, colours[scene.labels]), (FRAMES, scene.frames)):
            _write_frames(folder / name / part, images)
    _write_list(folder)
    return endovis18_cases(folder)[:cases]


def _write_frames(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        frame = Image.fromarray(image)
        write_first(folder / f"frame{index:03d}.png", frame.save)


def _write_list(folder: Path) -> None:
    """In the form of the test data's file."""
    classes = [
        {"name": name.replace(" ", "-"), "color": [*colour, 128], "classid": CLASSES[name]}
        for name, colour in ENDOVIS18_COLOURS.items()
    ]
    content = {"classes": classes}
    write_first(folder / LIST, lambda path: path.write_text(json.dumps(content, indent=1)))
