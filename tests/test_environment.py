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
DEVELOPMENT = requirements(PROJECT["optional-dependencies"]["dev"])


def constraint_lines():
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").open())
    return [line for line in lines if line]


def constraints():
    pins = [line.split("==") for line in constraint_lines()]
    return {canonicalize_name(name): version for name, version in pins}


def environment():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in content["dependencies"] if isinstance(item, str)]
    [[*pypi, project]] = [item["pip"] for item in content["dependencies"] if isinstance(item, dict)]
    assert project == "-e ."
    pins = [item.split("=") for item in conda if item.count("=") == 1 and ">" not in item]
    pins += [item.split("==") for item in pypi]
    assert len(pins) == len(conda) + len(pypi) - 1, "all but python must have one exact version"
    return {canonicalize_name(CONDA_NAMES.get(name, name)): version for name, version in pins}


def test_constraints_are_exact_pins_for_any_machine():
    for line in constraint_lines():
        name, separator, version = line.partition("==")
        assert separator == "==" and name and version, line
        assert not set("/@+;* ") & set(line), f"no address, local build or marker: {line}"
    assert len(constraint_lines()) == len(constraints()), "a package is pinned twice"


def test_every_requirement_is_pinned_within_its_range():
    for name, requirement in (RUNTIME | DEVELOPMENT).items():
        assert name in constraints(), f"constraints.txt must pin {name}"
        assert requirement.specifier.contains(constraints()[name]), requirement


def test_the_conda_environment_has_the_same_pins():
    wanted = RUNTIME.keys() | DEVELOPMENT.keys() | {"pip"}
    assert environment() == {name: constraints()[name] for name in wanted}


def test_conda_and_pip_want_the_same_python():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{PROJECT['requires-python']}" in content["dependencies"]


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def undeclared(sources, declared):
    """Imported names that no declared package brings, of what is neither Python's nor ours."""
    ours = {"limnet"} | {path.stem for path in (ROOT / "tests").iterdir()}
    names = {name for source in sources for name in imported(source)}
    brought = packages_distributions()
    return [
        name
        for name in sorted(names - ours - sys.stdlib_module_names)
        if not {canonicalize_name(package) for package in brought.get(name, [])} & declared.keys()
    ]


def notebook_sources():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                lines = cell.source.splitlines()
                yield "\n".join(x for x in lines if not x.lstrip().startswith(("%", "!")))


def test_the_package_and_the_notebooks_import_only_what_is_declared():
    package = [path.read_text(encoding="utf-8") for path in (ROOT / "limnet").rglob("*.py")]
    assert undeclared([*package, *notebook_sources()], RUNTIME) == []


def test_the_tests_import_only_what_is_declared():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    assert undeclared(sources, RUNTIME | DEVELOPMENT) == []


@pytest.mark.parametrize(("given", "found"), [(None, "3000"), ("5", "5")])
def test_threads_spin_briefly_unless_their_user_has_said_how_long(given, found):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    command = [sys.executable, "-c", "import limnet, os; print(os.environ['GOMP_SPINCOUNT'])"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == found
