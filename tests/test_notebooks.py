"""What every notebook must be, without running it (design.md's layout; `make test` runs them)."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PAPER_VALUES = sorted(FOLDER.glob("*/*.yaml"))  # the paper's, and those of the lite weights
PARAMETER = re.compile(r"(?P<name>\w+): (?P<type>bool|int|float|str) = (?P<value>.+?)  # \S.*")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters(path):
    """{name: value} of the one cell tagged "parameters"; its form is part of the contract."""
    cells = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1, f"{path.name} needs one cell tagged parameters, has {len(cells)}"
    values = {}
    for line in cells[0].source.splitlines():
        match = PARAMETER.fullmatch(line)
        assert match, f"must read `name: type = literal  # comment`, got {line!r}"
        value = ast.literal_eval(match["value"])
        assert type(value).__name__ == match["type"], f"{value!r} is no {match['type']}: {line!r}"
        assert match["name"] not in values, f"{match['name']} is set twice"
        values[match["name"]] = value
    return values


def python(source):
    """The cell without IPython's own lines (%matplotlib, !ls), which are no Python."""
    return "\n".join(
        line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))
    )


@every_notebook
def test_a_notebook_is_valid_and_opens_without_asking_for_a_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)


@every_notebook
def test_a_notebook_holds_no_outputs(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert "papermill" not in read(path).metadata
    assert "widgets" not in read(path).metadata


@every_notebook
def test_a_notebook_begins_with_a_title_and_a_paragraph(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title, _, text = first.source.partition("\n")
    assert re.match(r"# \S", title)
    assert text.strip(), "say below the title what this reproduces, writes and takes"


@every_notebook
def test_parameters_are_typed_literals_with_a_comment(path):
    assert parameters(path)


@every_notebook
def test_code_cells_are_short_and_define_nothing_the_package_should_hold(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 25, cell.source.splitlines()[0]
        for node in ast.walk(ast.parse(python(cell.source))):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), (
                f"{node.name} belongs into limnet"
            )


@pytest.mark.parametrize("path", PAPER_VALUES, ids=lambda path: path.stem)
def test_the_papers_values_are_declared_parameters_of_the_right_type(path):
    declared = parameters(FOLDER / f"{path.stem}.ipynb")
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert name in declared, f"{path.name} sets {name}, which {path.stem} does not declare"
        wanted = type(declared[name])
        assert type(value) is wanted or (wanted is float and type(value) is int), (
            f"{name} must be {wanted.__name__}, got {value!r} in {path.name}"
        )


def notebook_file(folder, source):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "00_test.ipynb")
    return folder / "00_test.ipynb"


def test_the_reader_of_parameters_knows_every_type(tmp_path):
    lines = [
        "cases: int = 4  # how many",
        "rate: float = -1e-3  # a",
        'name: str = "a#b"  # b',
        "on: bool = True  # c",
    ]
    assert parameters(notebook_file(tmp_path, "\n".join(lines))) == {
        "cases": 4,
        "rate": -1e-3,
        "name": "a#b",
        "on": True,
    }


@pytest.mark.parametrize(
    "line", ["cases = 4", "cases: int = 4", "cases: float = 4  # a", "cases: int = len('a')  # a"]
)
def test_the_reader_of_parameters_refuses_anything_else(tmp_path, line):
    with pytest.raises((AssertionError, ValueError)):
        parameters(notebook_file(tmp_path, line))
