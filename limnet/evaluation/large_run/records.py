"""What is known of each case of a run: a small file beside the cached results.

The results are found by their content, for which image and labels must be read. The record of a
case is found by names, sizes and times of its files, so that a run which goes on and a plan read
nothing that is done; where a record is missing or out of date, the content still decides.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limnet.data import Case
from limnet.evaluation.evaluate import PROTOCOL, read_scores, round_rows
from limnet.evaluation.protocols import User
from limnet.files import write_whole
from limnet.networks.checkpoints import LimNet

FOLDER = "large_run"  # in the cache
RESULT = re.compile(r"[0-9a-f]{32}\.npz")  # what evaluation calls its files
COSTS = ("slices", "pixels", "threads", "device", "rounds", "networks")  # beside a record's organs

Source = str | Path | Callable[[], LimNet]


@dataclass(frozen=True)
class Options:
    """What `evaluate_cases` lets one choose; nothing that holds weights or data."""

    rounds: int = 6
    fuse: bool = True
    oracle: bool = False
    threshold: float | int = 0.5
    user: User | None = None  # of limnet.evaluation.protocols
    only_largest_slice: bool = False


@dataclass(frozen=True)
class Recipe:
    """What all cases of a run share."""

    source: Source
    networks: str  # their digest
    cache: Path
    options: Options
    threads: int  # of each worker


@dataclass(frozen=True)
class Done:
    """What became of one organ of a case."""

    case: Case
    organ: str | None  # None: all that were left of a case which failed as a whole
    rows: tuple[dict[str, Any], ...] = ()  # of its rounds; none where the case does not show it
    error: str | None = None  # type and message
    result: str | None = None  # its file in the cache: a hash of image, target, weights and options


def record_file(case: Case, recipe: Recipe) -> Path:
    """Where the record of a case is; another place once its files, weights or options change."""
    files = [_stamps(path) for path in (case.image, case.label)]
    told = repr((PROTOCOL, recipe.networks, recipe.options, case, files))
    return recipe.cache / FOLDER / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.json"


def _stamps(path: Path | None) -> list[tuple[str, int, int, int]]:
    """Name, size and times of a file, or of all in a folder; the second time cannot be set back."""
    if path is None or not path.exists():
        return []
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    stats = [(each.name, each.stat()) for each in files]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def bytes_of(case: Case) -> int:
    """What image and labels take on disk."""
    return sum(size for path in (case.image, case.label) for _, size, *_ in _stamps(path))


def read_record(file: Path) -> dict[str, Any]:
    """What `add_to_record` has written; {"organs": {}} where there is nothing or nothing whole."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for entry in record["organs"].values():
            if entry["file"] is not None and not RESULT.fullmatch(entry["file"]):
                raise ValueError(f"a result's file must be {RESULT.pattern}, got {entry['file']}")
        return record
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {"organs": {}}


def add_to_record(
    file: Path, organ: str, entry: dict[str, Any], costs: dict[str, Any] | None = None
) -> None:
    """Note what is known of one more organ.

    Args:
        entry: "file", the name of its result, None where the case does not show it; and, where it
            was computed, "seconds" and "memory_gb".
        costs: COSTS.
    """
    record = read_record(file)
    record |= costs or {}
    record["organs"][organ] = entry
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(record))


def what_is_known(case: Case, organ: str, record: dict[str, Any], cache: Path) -> Done | None:
    """An organ that is done, without rows where the case does not show it; None: to do."""
    entry = record["organs"].get(organ)
    if entry is None or entry["file"] is None:
        return None if entry is None else Done(case, organ)
    scores = read_scores(cache / entry["file"])
    if scores is None:
        return None
    return Done(case, organ, tuple(round_rows(case, organ, scores)), result=entry["file"])
