"""The card that comes with trained weights: what they are, learnt from, reach, and fail at.

What a person writes stands in `history.yaml` beside the weights; the rest is read from the weight
files, the collections and the results of the validation notebook (Mitchell et al., Model Cards for
Model Reporting, 2019).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from limnet.data import Case, collection_cases
from limnet.networks.checkpoints import KINDS, load_network
from limnet.reports.results import markdown

LEG_COLUMNS = ("network", "what", "steps", "minutes", "command or source")


def model_card(
    weights: Path, data_root: Path | None, tables: Mapping[str, tuple[str, pd.DataFrame]]
) -> str:
    """The card as Markdown.

    Args:
        weights: folder with the weight files and `history.yaml`.
        data_root: the collections that were learnt from; None: their table is left out.
        tables: heading -> (what the numbers are and the command that gives them, the numbers).

    Raises:
        ValueError: `history.yaml` lacks a part.
    """
    history = _read_history(weights / "history.yaml")
    parts = [f"# Model card: {history['name']}", history["summary"]]
    parts += [markdown(_files(weights)), history["files"], "## Licence", history["licence"]]
    if data_root is not None:
        parts.append(markdown(_sources(data_root, history["own_data"])))
    parts += [history["not_seen"], "## Training", history["training"]]
    parts += [markdown(pd.DataFrame(history["legs"], columns=list(LEG_COLUMNS)))]
    parts += ["### What was tried, and what it gave", _bullets(history["tried"])]
    parts += ["## Results", history["results"]]
    for heading, (words, table) in tables.items():
        parts += [f"### {heading}", words, markdown(table, digits=3)]
    parts += ["## Known failures", _bullets(history["failures"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _read_history(path: Path) -> dict[str, Any]:
    history = yaml.safe_load(path.read_text(encoding="utf-8"))
    needed = {"name", "summary", "files", "licence", "own_data", "not_seen", "training", "legs"}
    needed |= {"tried", "results", "failures"}
    if not isinstance(history, dict) or needed - history.keys():
        missing = sorted(needed - set(history or ()))
        raise ValueError(f"{path} must have the parts {sorted(needed)}, lacks {missing}")
    return history


def _files(weights: Path) -> pd.DataFrame:
    """A row a network: its file, kind, number of parameters and size."""
    rows = []
    for kind in KINDS:
        for path in sorted(weights.glob(f"{kind}*.safetensors")):
            network = load_network(path)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            size = f"{path.stat().st_size / 2**20:.1f}"
            rows.append((f"`{path.name}`", f"{kind} net", f"{parameters:,}", size))
    return pd.DataFrame(rows, columns=["file", "network", "parameters", "MiB"])


def _sources(data_root: Path, own: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a collection whose cases trained, with licence and attribution."""
    rows = [(each["data"], each["cases"], each["licence"], each["attribution"]) for each in own]
    used: dict[str, list[Case]] = {}
    for case in collection_cases(data_root):
        if case.trainable and not case.held_out:
            used.setdefault(case.collection, []).append(case)
    for collection, cases in used.items():
        about = json.loads((data_root / collection / "collection.json").read_text(encoding="utf-8"))
        facts = (about.get(name, "not stated") for name in ("licence", "attribution"))
        rows.append((f"{collection}: {about.get('title', '')}", len(cases), *facts))
    return pd.DataFrame(rows, columns=["data", "cases", "licence", "attribution"])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)
