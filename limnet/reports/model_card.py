"""The card that comes with trained weights (Mitchell et al., Model Cards, 2019).

`history.yaml` beside the weights holds what a person knows. The weight files and the results of
the validation notebook give the rest.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from limnet.networks.checkpoints import KINDS, load_network
from limnet.reports.results import markdown

PARTS = {"name", "use", "files", "licence", "data", "held_out", "training", "results", "limits"}


def model_card(weights: Path, tables: Mapping[str, tuple[str, pd.DataFrame]]) -> str:
    """The card as Markdown: use, data and licence, training, results, limits.

    Args:
        weights: folder with the weight files and `history.yaml`.
        tables: heading -> (what the numbers are and the command that gives them, the numbers).

    Raises:
        ValueError: `history.yaml` lacks a part.
    """
    path = weights / "history.yaml"
    history: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(history, dict) or PARTS - history.keys():
        missing = sorted(PARTS - set(history or ()))
        raise ValueError(f"{path} must have the parts {sorted(PARTS)}, lacks {missing}")
    parts = [f"# Model card: {history['name']}", history["use"]]
    parts += [markdown(_files(weights)), history["files"], "## Data and licence"]
    parts += [history["licence"], markdown(pd.DataFrame(history["data"])), history["held_out"]]
    parts += ["## Training", _bullets(history["training"]), "## Results", history["results"]]
    for heading, (words, table) in tables.items():
        parts += [f"### {heading}", words, markdown(table, digits=3)]
    parts += ["## Limits", _bullets(history["limits"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _files(weights: Path) -> pd.DataFrame:
    """A row a network: its file, kind, number of parameters and size."""
    rows = []
    for kind in KINDS:
        for path in sorted(weights.glob(f"{kind}*.safetensors")):
            parameters = sum(each.numel() for each in load_network(path).parameters())
            size = f"{path.stat().st_size / 2**20:.1f}"
            rows.append((f"`{path.name}`", f"{kind} net", f"{parameters:,}", size))
    return pd.DataFrame(rows, columns=["file", "network", "parameters", "MiB"])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
