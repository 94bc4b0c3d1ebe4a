"""Which data sets are there, whether they are whole, and how many images they have (Table III).

By default only names and headers are read. No SHA-256 of the public sets is known to us, so none is
asserted: a thorough examination writes those of the files at hand, for the next one to compare.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

import nibabel
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from nibabel.filebasedimages import ImageFileError
from PIL import Image
from skimage.transform import resize

from limnet.data.cases import Case, DataSet, LabelledImage, Split
from limnet.data.catalogue import Entry
from limnet.data.collections import PERMISSION, collection_cases
from limnet.files import sha256_of

LOOKED_AT = 200  # images of a 2D set whose headers are read by default, spread over all of them
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    ZlibError,
    ImageFileError,
    Image.DecompressionBombError,
)
COUNTED = ("cases", "training", "test")  # of Entry.expected: what the adapters list


@dataclass(frozen=True)
class Finding:
    """What is there of one data set."""

    key: str
    name: str
    folder: Path | None  # None: the set is not there
    synthetic: bool  # whether it is a twin that lies in the data folder
    counts: dict[str, int]  # "cases", or "training" and "test" images
    megabytes: float  # on disk
    problem: str  # why the adapter does not read it; "" where it does
    rows: tuple[dict[str, Any], ...]  # one a case or image that was looked at
    hashes: dict[str, str]  # SHA-256 of every file by its path in the folder; {} unless thorough
    split: Split | None  # of volumes; images bring theirs

    @property
    def state(self) -> str:
        """In a word or two: whether the set can be used."""
        if self.folder is None:
            return "absent"
        if self.problem:
            return "refused"
        if self.synthetic:
            return "a twin"
        return f"{len(self.broken)} broken" if self.broken else "there"

    @property
    def broken(self) -> tuple[dict[str, Any], ...]:
        """The rows with a problem."""
        return tuple(row for row in self.rows if row["problem"])

    def against(self, expected: Mapping[str, int]) -> str:
        """What was counted beside what should be there: "30 / 30 cases"."""
        return ", ".join(
            f"{self.counts.get(what, 0):,} / {expected[what]:,} {what}"
            for what in COUNTED
            if what in expected
        )


def inspect(
    key: str,
    data_set: DataSet,
    data_root: str | Path | None,
    *,
    thorough: bool = False,
) -> Finding:
    """What is there of a data set in the data folder. A broken case is a row, not an error.

    Args:
        data_root: `LIMNET_DATA`; None where there is no data folder.
        thorough: reads every case to its end, checks its labels and takes the hash of every file.

    Raises:
        ValueError: there is no such data folder.
    """
    folder = data_set.find(data_root)
    if folder is None:
        return Finding(key, data_set.name, None, False, {}, 0.0, "", (), {}, None)
    try:
        items = data_set.read(folder)
        problem = ""
    except UNREADABLE as error:
        items, problem = (), str(error)
    files = _files(folder, Path(data_root), items)
    return Finding(
        key,
        data_set.name,
        folder,
        any("twin" in item.collection for item in items),
        {"cases": len(items)} if not data_set.of_images else Counter(x.split for x in items),
        sum(file.stat().st_size for file in files) / 1e6,
        problem,
        tuple(_rows(items, thorough)),
        {file.relative_to(folder).as_posix(): sha256_of(file) for file in files if thorough},
        data_set.split(items) if items and not data_set.of_images else None,
    )


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[dict[str, str]]:
    """A row a file whose SHA-256 is not what it was: changed, new or gone."""
    what = {file: "changed" for file in before.keys() & now.keys() if before[file] != now[file]}
    what |= dict.fromkeys(now.keys() - before.keys(), "new")
    what |= dict.fromkeys(before.keys() - now.keys(), "gone")
    return [{"file": file, "what": what[file]} for file in sorted(what)]


def own_collections(data_root: str | Path | None) -> list[dict[str, Any]]:
    """A row a collection of ours in the data folder: its cases, labels, licence and use."""
    folders = [] if data_root is None else sorted(Path(data_root).glob("*/"))
    return [_collection(folder) for folder in folders if (folder / "collection.json").is_file()]


def _collection(folder: Path) -> dict[str, Any]:
    row = {"collection": folder.name, "what": "", "cases": 0, "labels": 0, "licence": ""}
    row |= {"trainable": False, "held out": 0, "note": ""}
    try:
        about = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
        row |= {"what": str(about.get("title", "")), "licence": str(about.get("licence", ""))}
        row["labels"] = len(about.get("labels") or ())
        cases = collection_cases(folder)
        row |= {"cases": len(cases), "trainable": any(case.trainable for case in cases)}
        row["held out"] = sum(case.held_out for case in cases)
        if PERMISSION not in about:
            row["note"] = f"trains no weights: its collection.json has no {PERMISSION}"
    except (ValueError, OSError, AttributeError, TypeError) as error:
        slices = len([*folder.glob("*.npz")])
        row["note"] = f"{slices} slices of another kind" if slices else str(error)
    return row


def _files(folder: Path, data_root: Path, items: Iterable[Case | LabelledImage]) -> list[Path]:
    """All files of the set; of a set that lies in the data folder itself, those of its cases."""
    if folder != data_root and folder.resolve() != data_root.resolve():
        return sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [
        path
        for item in items
        for path in ((item.image, item.label) if isinstance(item, Case) else (item.image,))
    ]
    inside = (path.rglob("*") if path.is_dir() else (path,) for path in paths)
    return sorted({path for found in inside for path in found if path.is_file()})


def _rows(items: Sequence[Case | LabelledImage], thorough: bool) -> Iterator[dict[str, Any]]:
    """A row an item; unless thorough, of many images only some, evenly spread."""
    many = len(items) > LOOKED_AT and not isinstance(items[0], Case)
    if many and not thorough:
        items = [items[i] for i in np.linspace(0, len(items) - 1, LOOKED_AT).astype(int)]
    for item in items:
        row = {"name": item.name, "shape": "", "spacing_mm": "", "labels": "", "problem": ""}
        try:
            shape, spacing = _header(item.image)  # in the order of the file's axes
            row["shape"] = " x ".join(map(str, shape))
            row["spacing_mm"] = " x ".join(f"{step:.4g}" for step in spacing)
            if isinstance(item, Case) and (of_label := _header(item.label)[0]) != shape:
                raise ValueError(f"the image has the shape {shape}, its label {of_label}")
            if thorough:
                _read(item, row)
        except UNREADABLE as error:
            row["problem"] = " ".join(str(error).split()) or type(error).__name__
        yield row


def _header(path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing of a NIfTI file, of a folder of frames, or of a picture."""
    if path.is_dir():
        frames = [file for file in sorted(path.iterdir()) if file.name[0] != "."]
        if not frames:
            raise ValueError(f"{path} holds no frame")
        return (len(frames), *_header(frames[0])[0]), ()
    if ".nii" in path.suffixes:
        header = nibabel.load(path).header
        return header.get_data_shape(), tuple(map(float, header.get_zooms()[:3]))
    with Image.open(path) as picture:
        return (picture.height, picture.width), ()


def _read(item: Case | LabelledImage, row: dict[str, Any]) -> None:
    """Loads the item and fills in its labels.

    Raises:
        ValueError: nothing is labelled, or a label is none of the data set's.
    """
    if isinstance(item, LabelledImage):
        instances = item.load()[1].any(axis=(1, 2))
        row["labels"] = f"{int(instances.sum())} instances"
        if not instances.all() or not len(instances):
            raise ValueError(f"{int((~instances).sum())} of {len(instances)} masks show nothing")
        return
    present = set(np.unique(item.load()[1]).tolist()) - {0}
    known = {name: set(np.atleast_1d(ids).tolist()) for name, ids in item.labels.items()}
    lacking = [name for name, ids in known.items() if not ids & present]
    row["labels"] = f"{len(known) - len(lacking)} of {len(known)}" + (
        f", not {', '.join(lacking)}" if lacking else ""
    )
    allowed = set(item.ids) if item.ids is not None else set().union(*known.values())
    if not present:
        raise ValueError("no voxel has a label")
    if known and present - allowed:
        raise ValueError(f"the labels {sorted(present - allowed)} are none of the data set's")


def overview(findings: Iterable[Finding], entries: Mapping[str, Entry]) -> pd.DataFrame:
    """A row a data set: whether it is there, how much of it, its licence, size and use."""
    rows = []
    for found in findings:
        entry = entries[found.key]
        rows.append(
            {
                "data set": entry.name,
                "key": found.key,
                "state": "not public" if entry.blocked and not found.folder else found.state,
                "found / expected": found.against(entry.expected),
                "on disk, GB": f"{found.megabytes / 1e3:.2f}" if found.folder else "-",
                "download, GB": "?" if entry.gigabytes is None else f"{entry.gigabytes:g}",
                "open to all": "yes" if entry.downloads else "no",
                "used in": ", ".join(entry.unlocks),
                "licence": entry.licence,
            }
        )
    return pd.DataFrame(rows)


def instructions(entry: Entry) -> str:
    """How to get a data set, as Markdown."""
    lines = [f"**{entry.name}** ({entry.reference})" + f" <{entry.home}>" * bool(entry.home), ""]
    lines += [f"{number}. {step}" for number, step in enumerate(entry.steps, 1)]
    if entry.downloads:
        lines += [f"{len(entry.steps) + 1}. Or let `make data-{entry.key}` do all this."]
    return "\n".join(lines) + "\n"


def faults(entries: Iterable[Entry]) -> str:
    """The known faults of some data sets, as Markdown."""
    told = (entry for entry in entries if entry.faults)
    return "\n".join(f"* **{entry.name}**: {' '.join(entry.faults)}" for entry in told)


def shapes(found: Finding) -> dict[str, Any]:
    """One row about a data set that is there: smallest and largest shape and spacing, faults."""
    rows = [row for row in found.rows if row["shape"]]
    row: dict[str, Any] = {"data set": found.name, "looked at": len(found.rows)}
    for what in ("shape", "spacing_mm"):
        sizes = [tuple(map(float, row[what].split(" x "))) for row in rows if row[what]]
        ordered = sorted(set(sizes), key=np.prod)
        for word, size in zip(("smallest", "largest"), (ordered[:1], ordered[-1:]), strict=True):
            row[f"{word} {what}"] = " x ".join(f"{step:g}" for step in size[0]) if size else "-"
    return {**row, "broken": len(found.broken)}


def thumbnail(
    item: Case | LabelledImage, *, side: int = 160
) -> tuple[Float[np.ndarray, "3 side side"], Bool[np.ndarray, "side side"]]:
    """The slice or image that shows most labels, in a square, and where they are."""
    if isinstance(item, Case):
        volume, labels = item.load()
        at = int((labels > 0).sum(axis=(1, 2)).argmax())
        pixels, shown = np.asarray(volume.rgb([at]))[0].transpose(1, 2, 0), labels[at] > 0
    else:
        image, masks = item.load()
        pixels, shown = image / 255, masks.any(axis=0)
    scale = side / max(shown.shape)
    height, width = (max(1, round(scale * size)) for size in shown.shape)
    square, where = np.zeros((side, side, 3)), np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    window = np.s_[top : top + height, left : left + width]
    square[window] = resize(pixels, (height, width), anti_aliasing=True)
    where[window] = resize(shown, (height, width), order=0)
    return square.transpose(2, 0, 1), where
