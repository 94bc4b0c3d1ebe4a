"""The pages of the site, written whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from limnet.networks.checkpoints import LITE_FOLDER
from limnet.reports.results import provenance, report_folder
from limnet.reports.site import comparison as compare
from limnet.reports.site.cells import Grid, grid_of_rows, moment
from limnet.reports.site.contents import FIGURES, NOTEBOOKS, TABLES
from limnet.reports.site.notebook_page import caption, markdown_html, notebook_html, png_size
from limnet.reports.site.overview import (
    Status,
    figure_status,
    machines_grid,
    picture_name,
    provenance_facts,
    run_facts,
    run_of,
    run_page,
    table_status,
)
from limnet.reports.site.runs import Run, read_runs

HERE = Path(__file__).parent
MARKER = ".limnet-site"  # says that a folder is a site and may be replaced
DATA_BYTES = 5_000_000  # a larger result stays in the reports folder


def build_site(reports: Path | None = None, folder: Path | None = None) -> Path:
    """The site's folder, with a page for the overview, each table, each run and what is beside.

    Args:
        reports: where the runs lie; by the rules of `limnet.reports.results.report_folder` without.
        folder: of the site, replaced if it is one; `site` in the reports folder without.

    Raises:
        ValueError: the folder exists and is no site.
    """
    reports = report_folder(".") if reports is None else Path(reports).resolve()
    folder = reports / "site" if folder is None else Path(folder).resolve()
    if folder.exists() and not (folder / MARKER).is_file():
        raise ValueError(f"the folder must be new or a site, got {folder}; name another")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _write_pages(reports, part)
        _put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # there only if it failed
    return folder


def _put_in_place(part: Path, folder: Path) -> None:
    """Rename the new site over the old one, which comes back if that fails."""
    old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_pages(reports: Path, folder: Path) -> None:
    runs = read_runs(reports)
    tables = [table_status(item, runs) for item in TABLES]
    figures = [figure_status(item, runs) for item in FIGURES]
    shared = {"tables": tables, "built": provenance({}), "moment": moment, "run_page": run_page}
    shared |= {"run_facts": run_facts}
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def write(template: str, file: str, **about: Any) -> None:
        page = environment.get_template(template).render(**shared, page=file, **about)
        (folder / file).write_text(page, encoding="utf-8")

    pictures = {run.name: _copy_pictures(run, folder) for run in runs}
    files = {run.name: _copy_data(run, folder) for run in runs}
    write("index.html", "index.html", figures=figures, groups=_notebook_groups(runs))
    for status in tables:
        name = status.run.name if status.run else ""
        beside = {"pictures": pictures.get(name, []), "files": files.get(name, [])}
        write("table.html", status.href, **_table_page(status), **beside)
    for run in runs:
        write(
            "notebook.html",
            run_page(run),
            run=run,
            grids=_result_grids(run),
            body=notebook_html(run.notebook) if run.notebook else "",
            pictures=pictures[run.name],
            files=files[run.name],
            facts=provenance_facts(run.provenance),
        )
    write("card.html", "model-card.html", cards=_cards(runs))
    write("environment.html", "environment.html", grid=machines_grid(runs), runs=runs)
    printed = [(item.name, compare.paper_table(item.result)) for item in TABLES]
    printed = [(name, table) for name, table in printed if table is not None]
    write("reading.html", "how-to-read.html", published=printed)
    shutil.copyfile(HERE / "style.css", folder / "style.css")
    (folder / MARKER).write_text("python -m limnet.reports.site replaces this folder\n")


def _notebook_groups(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """(heading, cards): those of the paper with what was not run yet, then all others."""
    numbers = {item.notebook for item in (*TABLES, *FIGURES, *NOTEBOOKS)}
    missing = [item for item in NOTEBOOKS if run_of(item, runs) is None]
    cards = [(run.number, run.title, run, "") for run in runs if run.number in numbers]
    cards += [(item.name, item.title, None, item.command) for item in missing]
    cards.sort(key=lambda card: card[0])
    others = [(run.number, run.title, run, "") for run in runs if run.number not in numbers]
    return [("Notebooks", cards), ("Other notebooks", others)]


def _table_page(status: Status) -> dict[str, Any]:
    """What the page of a table shows: grids where there are numbers for them."""
    key, run, grids = status.item.result, status.measured, []
    table = compare.paper_table(key)
    result = status.run.results.get(key) if status.run else None
    cases = compare.read_cases(status.run.results.get(f"{key}_cases") if status.run else None)
    played = compare.table_round(cases, run) if cases is not None and run else None
    last = cases[cases["round"] == played] if played else None
    about = {"status": status, "table": table, "comparison": None, "gains": None, "doubts": []}
    about["counts"] = None
    if table is not None:
        grids.append(compare.methods_grid(key, table, run))
        about["gains"] = compare.gains_grid(key, table, run)
        if run:
            about["comparison"] = compare.comparison_grid(key, table, run, last)
            about["doubts"] = compare.differs_from_paper(table, run)
    elif counts := compare.counts_grid():
        about["counts"] = counts
    if table is None and result:
        grids.append(grid_of_rows(status.item.title, result.rows, most=400))
    if played and run and table is not None:
        places = compare.digits(table)
        grids.append(compare.rounds_grid(cases, run, places))
        grids.append(compare.cases_grid(cases, run, played, places))
    facts = provenance_facts(result.provenance) if result else []
    parted = run is not None and cases is not None and played is None
    return {**about, "grids": grids, "facts": facts, "parted": parted}


def _result_grids(run: Run) -> list[Grid]:
    """Results that no page of a table shows."""
    shown = {name for item in TABLES for name in (item.result, f"{item.result}_cases")}
    return [
        grid_of_rows(name.replace("_", " "), result.rows)
        for name, result in run.results.items()
        if name not in shown
    ]


def _copy_pictures(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The run's figures in the site: file, name, words and size of each."""
    pictures = []
    for path in run.figures:
        file = folder / picture_name(run, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, file)
        words = caption(path.name, run.cells)
        with file.open("rb") as opened:
            size = png_size(opened.read(64)) or (1, 1)
        about = {"file": picture_name(run, path), "name": path.stem, "size": size}
        text = markdown_html(words.text)
        pictures.append({**about, "title": words.title, "part": words.part, "html": text})
    return pictures


def _copy_data(run: Run, folder: Path) -> list[str]:
    """Paths in the site of the run's readable results."""
    copied = []
    for name in run.results:
        for path in (run.folder / f"{name}.csv", run.folder / f"{name}.json"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= DATA_BYTES:
                file = Path("data", run.name, path.name)
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / file)
                copied.append(file.as_posix())
    return copied


def _cards(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The shipped weights' card, then that of the newest validation where there is one."""
    sources = [("The shipped weights", LITE_FOLDER / "README.md")]
    sources += [(f"Validation {run.name}", run.folder / "model_card.md") for run in runs]
    cards = []
    for title, path in sources:
        if path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8", errors="replace")
            cards.append({"title": title, "html": markdown_html(text)})
    return cards
