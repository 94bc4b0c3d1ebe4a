"""Objects as other programs read them: NIfTI, DICOM-SEG, how they were made, a zip of all.

An object is (name, colour "#rrggbb", bool masks (slices, height, width)). Every file appears whole
or not at all: when writing fails, the one that was there before stays.
"""

import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from limnet.annotator.annotation import Annotation, SegmentedObject, label_map
from limnet.annotator.dicom_seg import Object, dicom_segmentation, is_dicom
from limnet.files import atomic_write, write_whole
from limnet.method.session import Session
from limnet.volumes import Volume

LONGEST_FILE_NAME = 50  # characters of up to four bytes, and file systems take 255 bytes
SEGMENTATION = "segmentation.dcm"  # in a bundle


@dataclass(frozen=True)
class SliceProvenance:
    """How one slice of an object came to its mask."""

    area_pixels: int
    # "painted", "clicked" or "locked" by the user; else "propagated", or "empty" without a pixel
    source: str
    round: int | None  # from 1: whose propagation it was; None if the user's, or no round did
    # P of Eq. 2 in the last round, 0.5 where both rounds agreed; None before the second round
    previous_better: float | None
    clicked: bool
    locked: bool


def objects_of(annotation: Annotation) -> list[Object]:
    """The objects of an annotation in its order, as the functions below take them."""
    return [(each.name, each.colour, each.session.packed_masks) for each in annotation.objects]


def save_label_map(volume: Volume, objects: Sequence[Object], path: str | Path) -> None:
    """Write all objects as one NIfTI label map on the grid of the volume's file.

    The first object has label 1, the next 2, and so on; where they overlap, the first wins.

    Raises:
        ValueError: masks of another shape or type, or a path that `Volume.save_masks` refuses.
    """
    _check(volume, objects)
    masks = [masks for _, _, masks in objects]
    volume.save_masks(label_map(masks, volume.images.shape[:3]), path)


def save_object_masks(
    volume: Volume, objects: Sequence[Object], folder: str | Path
) -> tuple[Path, ...]:
    """Write each object as a NIfTI mask into a folder, made if missing; the files in order.

    Raises:
        ValueError: masks of another shape or type.
    """
    _check(volume, objects)
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    names = mask_file_names([name for name, _, _ in objects])
    paths = tuple(folder / name for name in names)
    for path, (_, _, masks) in zip(paths, objects, strict=True):
        volume.save_masks(masks, path)
    return paths


def mask_file_names(names: Sequence[str]) -> list[str]:
    """A file name for each object: letters, digits, "_" and "-" of its name, all different."""
    taken: dict[str, str] = {}  # by what a file system that does not tell cases apart sees
    for name in names:
        kept = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name)).strip("_-")
        stem = file_name = kept[:LONGEST_FILE_NAME] or "object"
        number = 1
        while file_name.casefold() in taken:
            number += 1
            file_name = f"{stem}_{number}"
        taken[file_name.casefold()] = f"{file_name}.nii.gz"
    return list(taken.values())


def save_dicom_segmentation(volume: Volume, objects: Sequence[Object], path: str | Path) -> None:
    """Write a binary DICOM segmentation, one segment an object, that refers to the volume's series.

    Segments may overlap; objects without a voxel are left out. As the standard wants it, patient
    and study are those of the series.

    Raises:
        ValueError: the volume is not a DICOM series, its folder has changed or lacks what a
            segmentation needs, no object has a voxel, masks do not fit, or the path is no `.dcm` in
            another folder than the series'.
    """
    _check(volume, objects)
    path = Path(path)
    if path.resolve().parent == volume.grid.source:
        raise ValueError(f"a segmentation must lie outside its series' folder, got {path}; move it")
    with _written_whole(path, ".dcm") as partial:
        dicom_segmentation(volume, objects).save_as(partial)


def provenance(annotation: Annotation) -> dict[str, Any]:
    """How the objects of an annotation came to be, as JSON can hold it.

    The image (file name without folder, SHA-256 of its voxels, `spacing_mm`, `window`), the
    weights, the version, the time, and a list "objects": name, colour, label in the label map, file
    of the mask, `voxels` and `millilitres` (overlaps with objects before it counted too), "clicks"
    [slice_index, row, column, positive, round from 1], the number of rounds, and "slices": a
    `SliceProvenance` of each slice that is not empty, with its index, area, and its centre in RAS+.
    """
    volume, networks = annotation.volume, annotation.networks
    file_names = mask_file_names([each.name for each in annotation.objects])
    objects = [_object_provenance(volume, each) for each in annotation.objects]
    return {
        "image": volume.grid.source.name if volume.grid.source else None,
        "image_sha256": volume.digest,
        "spacing_mm": list(volume.spacing_mm),
        "window": list(volume.window),
        "weights": networks.name,
        "weights_sha256": networks.digest,
        "limnet": metadata.version("limnet"),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "objects": [
            {"label": label, "file": file_name, **each}
            for label, (file_name, each) in enumerate(zip(file_names, objects, strict=True), 1)
        ],
    }


def slice_provenance(session: Session) -> tuple[SliceProvenance, ...]:
    """One record a slice of the session's volume, from slice 0 on, of the masks as they are now."""
    state, rounds, records = session.state, session.rounds, []
    clicked = {click.slice_index for click in session.clicks}
    for index, area in enumerate(session.packed_masks.areas.tolist()):
        users = {"painted": state.painted, "clicked": state.prompts, "locked": state.locked}
        by_user = next((source for source, slices in users.items() if index in slices), None)
        # Fusion that keeps a mask keeps it with its origin: look further back.
        made = [n for n, closed in enumerate(rounds, start=1) if not closed.kept_previous[index]]
        records.append(
            SliceProvenance(
                area_pixels=area,
                source=by_user or ("propagated" if area else "empty"),
                round=made[-1] if made and not by_user else None,
                previous_better=float(rounds[-1].previous_better[index]) if rounds[1:] else None,
                clicked=index in clicked,
                locked=index in state.locked,
            )
        )
    return tuple(records)


def save_provenance(annotation: Annotation, path: str | Path) -> None:
    """Write `provenance` as a JSON file."""
    write_whole(Path(path), _json(provenance(annotation)))


def save_bundle(
    annotation: Annotation, path: str | Path, *, journal: Path | None = None
) -> dict[str, str]:
    """Write a zip of all: what had to be left out of it, with the reason; as a rule nothing.

    In it are label_map.nii.gz, masks/<name>.nii.gz, provenance.json, of a DICOM series
    segmentation.dcm, and the journal if there is one. A segmentation that its series does not allow
    is left out, and provenance.json says why: it must not keep the masks from being saved.

    Raises:
        ValueError: the path is no `.zip` in a folder that exists.
    """
    volume, objects, path = annotation.volume, objects_of(annotation), Path(path)
    left_out = {}
    with (
        _written_whole(path, ".zip") as partial,
        TemporaryDirectory(prefix=".", dir=path.parent) as name,
    ):
        folder = Path(name)
        save_label_map(volume, objects, folder / "label_map.nii.gz")
        save_object_masks(volume, objects, folder / "masks")
        if is_dicom(volume):
            try:
                save_dicom_segmentation(volume, objects, folder / SEGMENTATION)
            except ValueError as reason:
                left_out[SEGMENTATION] = str(reason)
        record = {**provenance(annotation), "left_out": left_out}
        (folder / "provenance.json").write_text(_json(record), encoding="utf-8")
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.*")}
        if journal is not None:
            files[f"journal{journal.suffix}"] = journal
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name_inside, file in sorted(files.items()):
                bundle.write(file, name_inside)
    return left_out


def _check(volume: Volume, objects: Sequence[Object]) -> None:
    shape = volume.images.shape[:3]
    for name, _, masks in objects:
        if masks.dtype != bool or masks.shape != shape:
            raise ValueError(
                f"masks of an object must be bool of shape {shape}, got {masks.dtype} of shape"
                f" {masks.shape} for {name!r}"
            )


@contextmanager
def _written_whole(path: Path, suffix: str) -> Iterator[Path]:
    """A name beside the path to write to; what is there takes its place once it is on the disk."""
    if path.suffix.lower() != suffix or not path.parent.is_dir():
        raise ValueError(
            f"a path must end in {suffix} and be in a folder that exists, got {path}; choose"
            " another name"
        )
    with atomic_write(path) as partial:
        yield partial


def _object_provenance(volume: Volume, segmented: SegmentedObject) -> dict[str, Any]:
    session, to_mm = segmented.session, volume.affine[:3, :3]
    across_slices, along_rows, along_columns = to_mm.T
    pixel_mm2 = float(np.linalg.norm(np.cross(along_rows, along_columns)))
    middle = (np.array(volume.images.shape[1:3]) - 1) / 2
    slices = []
    for index, record in enumerate(slice_provenance(session)):
        if record.area_pixels:
            centre = volume.position_mm(index, *middle.tolist())
            position = float(centre @ across_slices / np.linalg.norm(across_slices))
            place = {
                "slice_index": index,
                "position_mm": round(position, 3),
                "centre_mm": centre.round(3).tolist(),
                "area_mm2": round(record.area_pixels * pixel_mm2, 3),
            }
            slices.append({**place, **asdict(record)})
    voxels = sum(each["area_pixels"] for each in slices)
    clicks_of_rounds = (*(closed.clicks for closed in session.rounds), session.state.clicks)
    return {
        "name": segmented.name,
        "colour": segmented.colour,
        "voxels": voxels,
        "millilitres": round(voxels * abs(float(np.linalg.det(to_mm))) / 1000, 4),
        "rounds": len(session.rounds),
        "clicks": [
            [click.slice_index, float(click.row), float(click.column), click.positive, number]
            for number, clicks in enumerate(clicks_of_rounds, start=1)
            for click in clicks
        ],
        "slices": slices,
    }


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
