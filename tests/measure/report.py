"""What the scripts that measure README's numbers share: they print them and leave them on disk."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from limnet.reports.results import report_folder

Measure = Callable[..., dict[str, object]]  # of an empty folder and more -> value by what it is


def report(name: str, measures: Iterable[Measure], *more: object) -> None:
    """Print what each finds, and leave it in `reports/<name>/measured.json` as soon as it is there.

    Args:
        measures: all of them, or those that the command line names.
        more: arguments of each, after a folder of its own.
    """
    path, found = report_folder(name) / "measured.json", {}
    for measure in measures:
        if sys.argv[1:] and measure.__name__ not in sys.argv[1:]:
            continue
        with TemporaryDirectory() as folder:
            found[measure.__name__] = measure(Path(folder), *more)
        for what, value in found[measure.__name__].items():
            print(f"{what}: {value:.4g}" if isinstance(value, float) else f"{what}: {value}")
        path.write_text(json.dumps(found, indent=1, default=float))
