"""What the programs that measure share: they print what they find and leave it on disk."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from limnet.reports.results import report_folder

Measure = Callable[[Path], dict[str, object]]  # of an empty folder -> value by what it is


def report(name: str, measures: Iterable[Measure], chosen: Sequence[str] = sys.argv[1:]) -> None:
    """Print what each finds, and leave it in `reports/<name>/measured.json` as soon as it is there.

    Args:
        chosen: names of those that are wanted; none: all.
    """
    path, found = report_folder(name) / "measured.json", {}
    for measure in measures:
        if chosen and measure.__name__ not in chosen:
            continue
        with TemporaryDirectory() as folder:
            found[measure.__name__] = measure(Path(folder))
        for what, value in found[measure.__name__].items():
            print(f"{what}: {value:.4g}" if isinstance(value, float) else f"{what}: {value}")
        path.write_text(json.dumps(found, indent=1, default=float))


def in_words(values: Sequence[float], against: Sequence[float] = ()) -> str:
    """Median, least and most; of another tree too, and the ratio of the medians."""
    median = statistics.median(values)
    words = f"{median:.3g} ({min(values):.3g} to {max(values):.3g})"
    if against:
        words += f", against {in_words(against)}: ratio {median / statistics.median(against):.3f}"
    return words
