"""What every notebook must be, without running it; `make test` runs them."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PROFILES = sorted(FOLDER.glob("*/*.yaml"))  # the paper's values, those of the lite weights, ...
PARAMETER = re.compile(r"(?P<name>\w+): (?P<type>bool|int|float|str) = (?P<value>.+?)  # \S.*")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def parameters(path):
    """{name: value} of the one cell tagged "parameters"."""
    [cell] = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    matches = [PARAMETER.fullmatch(line) for line in cell.source.splitlines()]
    assert all(matches), f"each line must read `name: type = literal  # comment`:\n{cell.source}"
    values = {match["name"]: ast.literal_eval(match["value"]) for match in matches}
    assert [type(value).__name__ for value in values.values()] == [m["type"] for m in matches]
    return values


@every_notebook
def test_a_notebook_is_valid_and_opens_without_asking_for_a_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_a_notebook_holds_no_outputs(path):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(path))
    assert not {"papermill", "widgets"} & nbformat.read(path, as_version=4).metadata.keys()


@every_notebook
def test_a_notebook_begins_with_a_title_and_a_paragraph(path):
    first = nbformat.read(path, as_version=4).cells[0]
    title, _, text = first.source.partition("\n")
    assert first.cell_type == "markdown" and re.match(r"# \S", title) and text.strip()


@every_notebook
def test_parameters_are_typed_literals_with_a_comment(path):
    assert parameters(path)


@every_notebook
def test_code_cells_are_short_and_define_nothing_the_package_should_hold(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 25, cell.source.splitlines()[0]
        lines = (
            each for each in cell.source.splitlines() if not each.lstrip().startswith(("%", "!"))
        )
        for node in ast.walk(ast.parse("\n".join(lines))):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_values_of_a_profile_are_declared_parameters_of_the_right_type(path):
    declared = parameters(FOLDER / f"{path.stem}.ipynb")
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        wanted = type(declared[name])
        assert type(value) is wanted or (wanted is float and type(value) is int), (name, value)
