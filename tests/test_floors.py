"""The floors of the package: a module imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import limnet

PACKAGE = Path(__file__).parents[1] / "limnet"
DATA = {"weights"}  # folders of the package that hold files, no code
FLOORS = [  # from the ground up; modules of one floor do not import each other
    {"whole_files", "peak_memory", "packed_masks", "recorded", "drawn_batches", "side_by_side"},
    {
        "networks",
        "volume",
        "clicks",
        "metrics",
        "results",
        "phantoms",
        "surgical_scene",
        "downloads",
        "calibration",
        "close_up",
        "history",
        "appearance",
    },
    {"evidence"},
    {
        "memory",
        "slice_features",
        "fusion",
        "losses",
        "defects",
        "synthesis",
        "figures",
        "lesions",
        "simulated_user",
        "batched_clicks",
        "prompting",
        "baselines",
        "dicom_segmentation",
        "fit",
    },
    {"propagation", "datasets", "rounds", "protocols", "hearts", "looks"},
    {"sequences"},
    {"mask_propagation", "filling"},
    {"session"},
    {"mask_pairs", "played_slices", "annotation", "slice_provenance"},
    {"training", "evaluation", "model_card", "journal", "export", "comparators"},
    {"validation"},
    {"widget", "tables", "benchmark", "report_site", "fetch", "claims", "leak_audit", "large_run"},
]
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "limnet":
                yield from (f"limnet.{alias.name}" for alias in node.names)
            else:
                yield module


def imported_parts(tree):
    return [name.split(".")[1] for name in imported_names(tree) if name.startswith("limnet.")]


def floor(name):
    heights = [height for height, parts in enumerate(FLOORS) if name in parts]
    assert len(heights) == 1, f"limnet.{name} must stand on exactly one floor, stands on {heights}"
    return heights[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    height = floor(part(path))
    relative = [name for name in imported_names(tree) if name.startswith(".")]
    assert not relative, f"write imports in full, from limnet.<module>: {relative}"
    for imported in imported_parts(tree):
        assert imported == part(path) or floor(imported) < height, (
            f"{path.name} must not import {imported}: it is not on a lower floor"
        )


def test_no_module_stands_on_two_floors():
    names = [name for parts in FLOORS for name in parts]
    assert len(names) == len(set(names))


def test_the_widget_does_not_import_torch():
    for path in (path for path in MODULES if part(path) == "widget"):
        names = imported_names(ast.parse(path.read_text(encoding="utf-8")))
        assert not [name for name in names if name.split(".")[0] == "torch"]


def test_data_folders_hold_no_code():
    for folder in DATA:
        assert folder not in {part(path) for path in MODULES}, f"limnet/{folder} is for files only"


def test_a_module_says_in_its_first_line_what_it_is():
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.name


def test_the_package_stays_thin():
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert not {name: count for name, count in lines.items() if count > 400}
    # 3,000 was the goal and is far off; docstrings and blank lines are about a third. Whoever
    # makes the package smaller lowers this number; raising it for a new part is said openly.
    assert sum(lines.values()) <= 23125, lines


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("from limnet.session import Session", ["session"]),
        ("import limnet.networks.hrnet", ["networks"]),
        ("from limnet import volume", ["volume"]),
        ("def f():\n    from limnet.memory import Memory", ["memory"]),
        ("import torch", []),
    ],
)
def test_every_way_to_import_is_seen(line, parts):
    assert imported_parts(ast.parse(line)) == parts


def test_what_the_package_offers_is_there():
    for name in limnet.__all__:
        assert getattr(limnet, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        limnet.nothing  # noqa: B018 - asking for it is the point


def test_networks_are_loaded_without_readers_of_files():
    code = "import limnet, sys; limnet.load_networks; print({'nibabel', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
