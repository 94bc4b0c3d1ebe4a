"""Results on disk with their provenance, and tables "paper | ours | difference" (section III)."""

import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from limnet.files import sha256_of, write_whole

PACKAGES = {"limnet", "torch", "numpy", "scipy", "pandas", "scikit-image", "nibabel", "safetensors"}


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper as printed: a row a method, a column a target."""

    title: str
    source: str  # table and section of the paper
    unit: str
    target: str  # what a column is: "organ", "tumour", "class"
    limnet: str  # the row that is the paper's own method
    rows: pd.DataFrame


def provenance(
    parameters: Mapping[str, Any],
    *,
    data: Mapping[str, str | Path] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    started: float | None = None,
) -> dict[str, Any]:
    """What a result depends on, as a dictionary that JSON can hold.

    Args:
        data, weights: {label: file or folder}; the label stands there with the SHA-256.
        started: `time.perf_counter()` at the start of the run, for "wall_seconds".
    """
    return {
        **_commit(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": None if started is None else round(time.perf_counter() - started, 3),
        "seed": seed,
        "parameters": _plain(parameters),
        "data_sha256": {label: sha256_of(path) for label, path in (data or {}).items()},
        "weights_sha256": {label: sha256_of(path) for label, path in (weights or {}).items()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "versions": {d.name: d.version for d in metadata.distributions() if d.name in PACKAGES},
    }


def report_folder(notebook: str) -> Path:
    """The folder a notebook writes to: `reports/<notebook>` of the checkout, made if missing.

    LIMNET_REPORTS names another folder than `reports`, so that test runs overwrite no result.
    """
    folder = Path(os.environ.get("LIMNET_REPORTS") or reports_file("."), notebook).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def reports_file(name: str) -> Path:
    """A file of the `reports` folder of the checkout, such as `claims.yaml`.

    The checkout is the one that limnet runs from, else the current folder or one above it.

    Raises:
        FileNotFoundError: limnet does not run in a checkout, and none is around.
    """
    for root in (Path(__file__).parents[2], Path.cwd(), *Path.cwd().parents):
        if (root / "reports" / "published.yaml").is_file():
            return root / "reports" / name
    raise FileNotFoundError(
        f"reports/published.yaml must lie in {Path.cwd()} or above it, or beside the package: "
        "start in a checkout of limnet"
    )


def write_results(
    folder: str | Path,
    name: str,
    rows: pd.DataFrame | Iterable[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Write `<name>.csv` (the rows) and `<name>.json` (rows and provenance); their paths.

    Each file appears whole or not at all. A number that is not finite is null in the JSON.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ValueError(f"name must be letters, digits, '_', '-' or '.', got {name!r}")
    frame = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows))
    if frame.empty:
        raise ValueError(f"a result needs at least one row, got none for {name!r}")
    content = {"name": name, "provenance": provenance, "rows": frame.to_dict("records")}
    csv_path, json_path = Path(folder, f"{name}.csv"), Path(folder, f"{name}.json")
    csv_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(csv_path, frame.to_csv(index=False))
    write_whole(json_path, json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")
    return csv_path, json_path


def published(table: str) -> PublishedTable:
    """The paper's `table_1`, `table_2`, `table_4`, `table_5` or `table_6`."""
    tables = _published_yaml()["tables"]
    if table not in tables:
        raise ValueError(f"published tables are {', '.join(tables)}; got {table!r}")
    entry = dict(tables[table])
    frame = pd.DataFrame.from_dict(entry.pop("rows"), orient="index", columns=entry.pop("columns"))
    return PublishedTable(rows=frame.astype(float), **entry)


def published_counts() -> pd.DataFrame:
    """Table III: a row a data set with Type, Training Set and Test Set; NaN where it has none."""
    table = _published_yaml()["counts"]["table_3"]
    frame = pd.DataFrame.from_dict(table["rows"], orient="index", columns=table["columns"])
    return frame.replace("-", np.nan).astype({"Training Set": float, "Test Set": float})


def published_claims() -> pd.DataFrame:
    """Numbers of the paper's text (speed, memory, gains): columns value, unit, source."""
    claims = _published_yaml()["claims"]
    return pd.DataFrame.from_dict(claims, orient="index", columns=["value", "unit", "source"])


def comparison(
    table: PublishedTable,
    ours: Mapping[str, float],
    *,
    label: str = "ours",
    beside: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> pd.DataFrame:
    """The paper's rows beside ours, in percent: a row a target, then the mean of the paper's.

    Columns: the target, every published method, "paper (LIM-Net)", `label`, "difference" (points),
    and what was run beside it.
    What we have not is NaN, and so is our mean then; what the paper has not stands below the mean.

    Args:
        ours: DSC in [0, 1] by the table's column names, as `metrics.dice` gives it.
        label: heading of our column; say in it what data it is, "ours (synthetic twin)".
        beside: other methods' DSC that we measured ourselves, by heading.
    """
    for scores in (ours, *beside.values()):
        if any(not 0 <= value <= 1 for value in scores.values() if not math.isnan(value)):
            raise ValueError(f"ours must be DSC in [0, 1], not percent, got {dict(scores)}")
    methods = [*table.rows.index.drop(table.limnet), table.limnet]
    frame = table.rows.loc[methods].T.rename(columns={table.limnet: "paper (LIM-Net)"})
    for heading, scores in {label: ours, **beside}.items():
        percent = {name: 100.0 * value for name, value in scores.items()}
        frame[heading] = pd.Series(percent, dtype=float)
    frame.loc["mean"] = frame.mean(skipna=False)
    for name in [name for name in ours if name not in frame.index]:
        frame.loc[name, label] = 100.0 * ours[name]
    difference = frame[label] - frame["paper (LIM-Net)"]
    frame.insert(frame.columns.get_loc(label) + 1, "difference", difference)
    return frame.rename_axis(index=table.target, columns=None).reset_index()


def markdown(frame: pd.DataFrame, *, digits: int = 1) -> str:
    """The table as Markdown, floats with `digits` decimals, NaN as a dash.

    `IPython.display.Markdown(markdown(frame))` shows it in a notebook and in its HTML.
    """
    rule = ["--:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in frame.dtypes]
    cells = frame.map(lambda cell: f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell))
    rows = [frame.columns.map(str), rule, *cells.replace("nan", "-").to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _published_yaml() -> dict[str, Any]:
    path = reports_file("published.yaml")
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, changed_ns: int) -> dict[str, Any]:
    """Parsed once for each change: the ledger of claims asks hundreds of times."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _commit() -> dict[str, Any]:
    """Commit of the checkout that holds this file, and whether files in it differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not another project's git
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")  # Linux: platform.processor() is empty or "x86_64" there
    model = re.search(r"model name\s*: (.+)", cpu_info.read_text() if cpu_info.exists() else "")
    return f"{os.cpu_count()} x {model[1] if model else platform.processor() or device.type}"


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numpy and torch scalars and paths too, not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
