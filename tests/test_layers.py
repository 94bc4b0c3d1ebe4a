"""The wings of the package: imports go down, and each wing stays within its ceiling of lines."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

import limnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "limnet"
# Lines of Python that a wing may have, and its goal. A cut lowers the ceiling; nothing raises it.
CEILINGS = {
    "reports": (2584, 1600),
    "evaluation": (2277, 1700),
    "training": (1472, 1450),
    "data": (4639, 3100),
    "annotator": (3647, 2900),
    "method": (2267, 2200),
    "volumes": (969, 800),
    "networks": (1750, 1450),
}
LONGEST_MODULE = 350


def count_lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_imports_go_down_the_wings():
    configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), is_debug_mode=False)


@pytest.mark.parametrize("wing", CEILINGS)
def test_a_wing_stays_within_its_ceiling(wing):
    assert sum(map(count_lines, (PACKAGE / wing).rglob("*.py"))) <= CEILINGS[wing][0]


def test_no_module_is_longer_than_one_idea():
    assert {
        path.relative_to(PACKAGE).as_posix(): count_lines(path)
        for path in PACKAGE.rglob("*.py")
        if count_lines(path) > LONGEST_MODULE
    } == {}


def test_the_package_offers_what_it_names():
    for name in limnet.__all__:
        assert getattr(limnet, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        limnet.nothing  # noqa: B018 - asking for it is the point


def test_networks_load_without_readers_of_files():
    code = (
        "import limnet, sys; limnet.load_networks(); print({'nibabel', 'scipy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
