"""The doctor's findings as tables, text and pictures for a reader."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from skimage.transform import resize

from limnet.data.cases import Case
from limnet.data.catalogue import Entry
from limnet.data.doctor import Finding
from limnet.data.labelled_image import LabelledImage


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
