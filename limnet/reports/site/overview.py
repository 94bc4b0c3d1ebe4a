"""What the first page says of each table, figure and notebook; how the runs' machines differ."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limnet.reports.site.cells import GAP, Cell, Grid, average, duration, moment, number, plain
from limnet.reports.site.comparison import Measured, digits, measured, paper_table
from limnet.reports.site.contents import Item
from limnet.reports.site.runs import Ground, Run


@dataclass(frozen=True)
class Status:
    """An item of the paper and what was made of it."""

    item: Item
    state: str  # "run", "not yet", "unreadable", "stopped" or "drawing"
    run: Run | None = None
    reason: str = ""  # why it cannot be read
    measured: Measured | None = None
    href: str = ""

    @property
    def ground(self) -> Ground:
        """Of the table's own numbers, else of the run's."""
        if self.measured:
            return self.measured.ground
        return self.run.ground if self.run else Ground.UNKNOWN

    @property
    def scores(self) -> dict[str, str]:
        """Mean of the paper, ours and their distance, as text; dashes where there are none."""
        table = paper_table(self.item.result) if self.item.result else None
        if table is None:
            return dict.fromkeys(("paper", "ours", "difference"), "")
        places = digits(table)
        paper = average(list(table.rows.loc[table.limnet]))
        ours = self.measured.mean(table) if self.measured else None
        apart = ours - paper if ours is not None and paper is not None else None
        texts = (number(paper, places), number(ours, places), number(apart, places, signed=True))
        return dict(zip(("paper", "ours", "difference"), texts, strict=True))

    @property
    def facts(self) -> dict[str, str]:
        """When, which commit, how long, on what."""
        return run_facts(self.run) if self.run else {}


def table_status(item: Item, runs: Sequence[Run]) -> Status:
    """Whether a table was run, and what it has."""
    run = run_of(item, runs)
    href = f"{item.result.replace('_', '-')}.html"
    if run is None:
        return Status(item, "not yet", href=href)
    if item.result in run.results:
        try:
            cases = run.results.get(f"{item.result}_cases")
            has_scores = paper_table(item.result) is not None
            numbers = measured(run.results[item.result], cases) if has_scores else None
            return Status(item, "run", run, measured=numbers, href=href)
        except ValueError as error:
            return Status(item, "unreadable", run, str(error), href=href)
    reason = run.unreadable.get(f"{item.result}.json")
    if reason:
        return Status(item, "unreadable", run, reason, href=href)
    if run.stopped:
        return Status(item, "stopped", run, "a cell of the notebook failed", href=href)
    return Status(item, "not yet", run, href=href)


def figure_status(item: Item, runs: Sequence[Run]) -> Status:
    """Whether a figure was made."""
    if not item.notebook:
        return Status(item, "drawing")
    run = run_of(item, runs)
    if run is None:
        return Status(item, "not yet")
    shown = [path for path in run.figures if path.stem.startswith(item.result)]
    if not shown:
        stopped = run.stopped
        return Status(item, "stopped" if stopped else "not yet", run, href=run_page(run))
    return Status(item, "run", run, href=f"{run_page(run)}#{shown[0].stem}")


def run_of(item: Item, runs: Sequence[Run]) -> Run | None:
    """The run of an item's notebook; of several with one number the newest."""
    numbered = [run for run in runs if run.number == item.notebook]
    return max(numbered, key=lambda run: str(run.provenance.get("utc")), default=None)


def run_page(run: Run) -> str:
    """The file of a run's own page."""
    return f"notebook-{run.name}.html"


def run_facts(run: Run) -> dict[str, str]:
    """When, which commit, how long and on what, as text; empty where the run does not say."""
    origin = run.provenance
    if not origin:
        return {}
    commit = str(origin.get("commit") or "")[:8]
    return {
        "when": moment(origin.get("utc")),
        "commit": commit or GAP,
        "dirty": "changed" if origin.get("dirty") is True else "",
        "took": duration(origin.get("wall_seconds")),
        "device": plain(origin.get("device")),
    }


def provenance_facts(origin: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]] | str]]:
    """Everything a result says of where it comes from: (name, text or pairs)."""

    def said(value: Any) -> list[tuple[str, str]] | str:
        if not isinstance(value, dict):
            return plain(value)
        return [(str(key), plain(each)) for key, each in value.items()] or "none"

    return [(name, said(value)) for name, value in origin.items()]


def machines_grid(runs: Sequence[Run]) -> Grid:
    """A row a run: Python, machine and versions; what differs from most runs is marked."""
    told = [run for run in runs if run.provenance]
    versions = [run.provenance.get("versions") for run in told]
    versions = [each if isinstance(each, dict) else {} for each in versions]
    names = ["python", "platform", "device", "threads"]
    packages = sorted({str(name) for each in versions for name in each})
    values = [
        [plain(run.provenance.get(name)) for name in names]
        + [plain(each.get(name)) for name in packages]
        for run, each in zip(told, versions, strict=True)
    ]
    usual = [Counter(column).most_common(1)[0][0] for column in zip(*values, strict=True)]
    rows = [
        [Cell(run.name, href=run_page(run))]
        + [
            Cell(value, "" if value == most else "differs")
            for value, most in zip(row, usual, strict=True)
        ]
        for run, row in zip(told, values, strict=True)
    ]
    head = [Cell("run"), *(Cell(name) for name in (*names, *packages))]
    return Grid("What the runs ran with", head, rows)


def picture_name(run: Run, path: Path) -> str:
    """Where the site keeps a run's figure."""
    return f"figures/{run.name}/{path.name}"
