"""pyproject.toml, constraints.txt and environment.yml agree, and name all that is imported."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch", "dask-core": "dask"}  # conda-forge's name where it is not PyPI's
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines):
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


RUNTIME = requirements(PROJECT["dependencies"])
ALL = RUNTIME | requirements(PROJECT["optional-dependencies"]["dev"])
LINES = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").open())
CONSTRAINTS = requirements(line for line in LINES if line)
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_every_requirement_is_pinned_within_its_range():
    for name, requirement in ALL.items():
        [pin] = CONSTRAINTS[name].specifier
        assert pin.operator == "==" and pin.version in requirement.specifier, requirement


def test_constraints_hold_for_any_machine():
    for requirement in CONSTRAINTS.values():
        assert not (requirement.marker or requirement.url or "+" in str(requirement)), requirement


def test_the_conda_environment_has_the_same_pins_and_wants_the_same_python():
    [[*pypi, project]] = [item["pip"] for item in CONDA if isinstance(item, dict)]
    python, *conda = (item for item in CONDA if isinstance(item, str))
    assert (project, python) == ("-e .", f"python{PROJECT['requires-python']}")
    pins = [item.split("=") for item in conda] + [item.split("==") for item in pypi]
    found = {canonicalize_name(CONDA_NAMES.get(name, name)): version for name, version in pins}
    wanted = {name: CONSTRAINTS[name] for name in ALL.keys() | {"pip"}}
    assert found == {name: str(each.specifier)[2:] for name, each in wanted.items()}


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def sources_of(folder):
    yield from (path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py"))
    for path in (ROOT / folder).glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":  # IPython's own lines are no Python
                yield "\n".join(
                    x for x in cell.source.splitlines() if not x.lstrip().startswith(("%", "!"))
                )


@pytest.mark.parametrize(
    ("folder", "declared"), [("limnet", RUNTIME), ("notebooks", RUNTIME), ("tests", ALL)]
)
def test_whatever_is_imported_is_declared(folder, declared):
    ours = {"limnet"} | {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"measure"}
    names = {name for source in sources_of(folder) for name in imported(source)}
    brought_by = packages_distributions()
    for name in names - ours - sys.stdlib_module_names:
        packages = {canonicalize_name(package) for package in brought_by.get(name, [])}
        assert packages & declared.keys(), f"{folder} imports {name}"


@pytest.mark.parametrize(("setting", "found"), [({}, "3000"), ({"GOMP_SPINCOUNT": "5"}, "5")])
def test_threads_spin_briefly_unless_the_user_set_how_long(setting, found):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", "import limnet, os; print(os.environ['GOMP_SPINCOUNT'])"]
    assert subprocess.check_output(command, env=environment | setting, text=True).strip() == found
