"""Runs as they lie in the reports folder: results, figures, executed notebook; or why not."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4.rwbase import rejoin_lines

from limnet.reports.site.contents import NOTEBOOKS

RUN_NAME = re.compile(r"\d\d_\w+")
FIGURE_BYTES = 20_000_000  # a larger picture is none that a page should show
PNG = b"\x89PNG\r\n\x1a\n"


class Ground(Enum):
    """What a run's numbers are numbers of."""

    REAL = "real data"
    PART = "in part synthetic"
    TWINS = "synthetic twins"
    PHANTOMS = "synthetic images"
    UNKNOWN = "data as stated"

    @property
    def synthetic(self) -> bool:
        """Whether any of the numbers is not the data set's."""
        return self in (Ground.PART, Ground.TWINS, Ground.PHANTOMS)


def ground_of(ran_on: object) -> Ground:
    """By the words that every report says about its data; real only if they say which cases.

    Those of `limnet.data` are "KiTS19, 42 of its 210 cases" and "... NOT on KiTS19".
    """
    if not isinstance(ran_on, str):
        return Ground.UNKNOWN
    grounds = {
        Ground.TWINS
        if "NOT on" in part
        else Ground.PHANTOMS
        if "synthetic" in part
        else Ground.REAL
        if re.search(r", \d[\d,]* of its |LIMNET_DATA", part)
        else Ground.UNKNOWN
        for part in ran_on.split("; ")
    }
    return _together(grounds)


def _together(grounds: set[Ground]) -> Ground:
    """Of several: no real number hides that another one is of twins."""
    if len(grounds) == 1:
        return grounds.pop()
    return Ground.PART if any(each.synthetic for each in grounds) else Ground.UNKNOWN


@dataclass(frozen=True)
class Result:
    """What `limnet.reports.results.write_results` left: `<name>.json`."""

    name: str
    provenance: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def ground(self) -> Ground:
        """What these numbers are of."""
        return ground_of(self.provenance.get("ran_on"))


@dataclass(frozen=True)
class Run:
    """A folder `NN_name` of the reports folder."""

    folder: Path
    results: dict[str, Result]
    unreadable: dict[str, str]  # file -> reason
    figures: tuple[Path, ...]
    notebook: dict[str, Any]  # the executed one; empty without

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def cells(self) -> list[dict[str, Any]]:
        return self.notebook.get("cells", [])

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """That of the newest result; empty without a result."""
        all_of_them = [result.provenance for result in self.results.values()]
        return max(all_of_them, key=lambda each: str(each.get("utc")), default={})

    @property
    def ground(self) -> Ground:
        """Of all results together."""
        if "ran_on" not in self.provenance:
            return ground_of(_ran_on(self.cells))
        return _together({result.ground for result in self.results.values()})

    @property
    def title(self) -> str:
        """The notebook's first heading, else what is known of its number or its name in words."""
        for cell in self.cells:
            heading = re.match(r"#\s+(\S.*)", cell["source"])
            if heading:
                return heading[1].strip()
        known = (item.title for item in NOTEBOOKS if item.notebook == self.number)
        return next(known, self.name[3:].replace("_", " "))

    @property
    def stopped(self) -> bool:
        """Whether papermill saw a cell fail."""
        papermill = self.notebook.get("metadata", {}).get("papermill", {})
        return isinstance(papermill, dict) and papermill.get("exception") is True


def read_runs(reports: Path) -> list[Run]:
    """All runs by number; a folder in which no run left anything is none."""
    folders = sorted(path for path in reports.iterdir() if RUN_NAME.fullmatch(path.name))
    runs = [read_run(path) for path in folders if path.is_dir() and not path.is_symlink()]
    return [run for run in runs if run.results or run.unreadable or run.notebook or run.figures]


def read_run(folder: Path) -> Run:
    """What lies in a run's folder itself; what cannot be read has its reason beside it."""
    results, unreadable, notebook = {}, {}, {}
    for path in _files(folder, ".json"):
        # write_results leaves both; another json is another program's
        if not path.with_suffix(".csv").is_file() and not re.fullmatch(r"table_\d", path.stem):
            continue
        try:
            results[path.stem] = read_result(path)
        except ValueError as error:
            unreadable[path.name] = str(error)
    for path in _files(folder, ".ipynb"):
        if path.stem == folder.name:
            try:
                notebook = read_notebook(path)
            except ValueError as error:
                unreadable[path.name] = str(error)
    figures = tuple(path for path in _files(folder, ".png") if _is_picture(path))
    return Run(folder, results, unreadable, figures, notebook)


def read_result(path: Path) -> Result:
    """A result of `write_results`.

    Raises:
        ValueError: the file is not whole or of another form; the message is for the reader.
    """
    content = _read_json(path)
    rows, origin = content.get("rows"), content.get("provenance")
    if not isinstance(origin, dict) or not isinstance(rows, list) or not rows:
        raise ValueError("of another version: it must hold provenance and rows")
    if not all(isinstance(row, dict) and row for row in rows):
        raise ValueError("of another version: a row must name its columns")
    return Result(path.stem, origin, rows)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook of nbformat 4.

    Raises:
        ValueError: the file is not whole or of another form; the message is for the reader.
    """
    content = _read_json(path)
    if content.get("nbformat") != 4:
        raise ValueError(f"of another version: nbformat must be 4, is {content.get('nbformat')}")
    try:
        notebook = rejoin_lines(nbformat.from_dict(content))
        nbformat.validate(notebook)
    except (nbformat.ValidationError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"of another version: {str(error).splitlines()[0]}") from error
    return notebook


def _ran_on(cells: list[dict[str, Any]]) -> str | None:
    """What a notebook shows of its data where its results do not say it."""
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        text = output.get("data", {}).get("text/markdown", "")
        if said := re.search(r"\bran on (.+)", text):
            return said[1]
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"cut off or no JSON (line {error.lineno})") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("of another version: it must be an object")
    return content


def _files(folder: Path, ending: str) -> Iterable[Path]:
    """Files of the folder itself, no links, none that is still being written."""
    for path in sorted(folder.iterdir()):
        named = path.suffix == ending and re.match(r"[\w-]", path.name)
        if named and path.is_file() and not path.is_symlink():
            yield path


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG and path.stat().st_size <= FIGURE_BYTES
