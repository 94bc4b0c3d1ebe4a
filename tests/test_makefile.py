import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words):
    """`make` as a user calls it, not as a part of the `make test` that runs this test."""
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "VENV", "PYTHON", "TORCH"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "--directory", str(ROOT), "--no-print-directory", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def fake_python(tmp_path):
    """Write an executable that answers as an interpreter would, by a line of shell."""

    def write(line):
        path = tmp_path / "fake-python"
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    return write


def refusal(run):
    """What the set-up says before make's own last line."""
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    [sentence] = [x for x in run.stderr.splitlines() if not x.startswith(("make: ***", "make[1]"))]
    return sentence


def test_help_is_the_default_and_has_a_line_for_each_target():
    lines = make().stdout.splitlines()
    targets = [line.split()[0] for line in lines]
    assert {"help", "setup", "test", "lab", "reproduce-table-4", "quickstart", "run-%"} <= set(
        targets
    )
    assert all(len(line.split()) > 2 for line in lines)


def test_a_missing_python_is_one_sentence(tmp_path):
    run = make("setup", f"VENV={tmp_path}/venv", "PYTHON=no-such-python")
    assert refusal(run).startswith("make setup: no Python found as no-such-python")


def test_an_old_python_is_one_sentence(tmp_path, fake_python):
    python = fake_python(
        'case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac'
    )
    run = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={python}")
    assert "Python 3.11 or newer is needed" in refusal(run)
    assert "Python 3.9.2" in refusal(run)


def test_missing_venv_support_is_one_sentence(tmp_path, fake_python):
    python = fake_python('case "$*" in *ensurepip*) echo ModuleNotFoundError >&2; exit 1;; esac')
    run = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={python}")
    assert "python3-venv" in refusal(run)


def test_a_full_disk_is_one_sentence(tmp_path):
    venv = tmp_path / "venv"
    run = make("setup", f"VENV={venv}", f"PYTHON={sys.executable}", "NEED_GB=1000000")
    assert "about 1000000 GB of disk space are needed" in refusal(run)
    assert not (venv / "bin").exists()


def test_table_4_runs_its_notebook_in_the_environments_own_kernel():
    recipe = make("--dry-run", "reproduce-table-4", "PROFILE=paper", "PARAMS=-p cases 2").stdout
    assert "-m papermill notebooks/54_table_4_btcv.ipynb" in recipe
    assert "-f notebooks/paper/54_table_4_btcv.yaml -p cases 2" in recipe
    assert "-m nbconvert" in recipe
    assert "JUPYTER_PREFER_ENV_PATH = 1" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("given", ["../data", "/some/data", "/my data/of today", "my data"])
def test_a_relative_folder_of_data_is_one_beside_the_makefile(given):
    show = make("--eval", "show: ; @echo $$LIMNET_DATA", "show", f"LIMNET_DATA={given}")
    assert show.stdout.strip() == (given if given.startswith("/") else f"{ROOT}/{given}")


def test_of_several_processes_the_first_one_writes_the_report(tmp_path):
    reports, log, python = tmp_path / "a b", tmp_path / "log", tmp_path / "bin" / "python"
    python.parent.mkdir()
    (tmp_path / ".ok").write_text("")
    python.write_text(
        f"""#!/bin/sh
case "$*" in
*torch.distributed.run*) while test "$1" != --no-python; do shift; done; shift
    RANK=0 "$@" && RANK=1 "$@" ;;
*papermill*) for last; do :; done; echo "$RANK|$LIMNET_REPORTS|$last" >> "{log}"; touch "$last" ;;
*nbconvert*) echo "nbconvert|$*" >> "{log}" ;;
esac
"""
    )
    python.chmod(0o755)
    name = "30_train_click_net"
    words = ("train-click", "PROCESSES=2", f"VENV={tmp_path}", f"LIMNET_REPORTS={reports}")
    assert make(*words).returncode == 0
    first, second, page = (line.split("|") for line in log.read_text().splitlines())
    report = f"{reports}/{name}/{name}.ipynb"
    assert first == ["0", str(reports), report]
    assert second[0] == "1" and second[1] != str(reports)
    assert second[2] == f"{second[1]}/rank-1.ipynb" and not Path(second[1]).exists()
    assert page[1].endswith(report)
    assert [path.name for path in (reports / name).iterdir()] == [f"{name}.ipynb"]


def test_torchrun_gets_its_number_of_processes_and_more_options_on_demand():
    run = "-m torch.distributed.run --nproc-per-node"
    assert f"{run} 2 --standalone --no-python" in make("-n", "train-click", "PROCESSES=2").stdout
    recipe = make("-n", "train-click", "PROCESSES=8", "TORCHRUN=--nnodes 2").stdout
    assert f"{run} 8 --nnodes 2 --no-python" in recipe
    assert run not in make("-n", "train-click").stdout


@pytest.mark.parametrize(
    ("choice", "plain_build", "index"),
    [
        ("cpu", "2.13.0+cpu", False),  # plain pip has the CPU build already
        ("cpu", "2.13.0", True),  # plain pip would bring CUDA libraries
        ("gpu", "2.13.0", False),
    ],
)
def test_torch_comes_first_and_pinned_and_nothing_twice(tmp_path, choice, plain_build, index):
    python, log = tmp_path / "bin" / "python", tmp_path / "log"
    python.parent.mkdir()
    report = f'case "$*" in *--report*) echo \'"version": "{plain_build}"\';; esac'
    python.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\n{report}\n')
    python.chmod(0o755)
    words = ("setup", f"VENV={tmp_path}", f"PYTHON={sys.executable}", f"TORCH={choice}")
    assert make(*words).returncode == 0
    calls = [line for line in log.read_text().splitlines() if "install" in line]
    torch, project = [line for line in calls if "--report" not in line and "pip==" not in line]
    assert "torch==2.13.0" in torch
    assert ("--index-url https://download.pytorch.org/whl/cpu" in torch) is index
    assert project.endswith("--constraint constraints.txt --editable .[dev]")
    log.unlink()
    assert make(*words).returncode == 0
    assert not log.exists()  # the second run asks pip nothing


def test_a_notebook_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / ".ok").write_text("")
    run = make("run-99_nothing", f"VENV={tmp_path}")
    assert refusal(run) == "make run-99_nothing: there is no notebooks/99_nothing.ipynb"


def test_training_from_nothing_has_the_new_networks_play_for_the_last_one():
    lines = make("-n", "train", "VENV=no-venv").stdout.splitlines()
    steps = [
        "PROFILE=short -j2 train-click train-propagation",
        'cp "$LIMNET_REPORTS/$each.safetensors" weights/trained',
        "PROFILE=short train-quality WEIGHTS=trained",
        'cp "$LIMNET_REPORTS/$each.safetensors" weights/trained',
        "PROFILE=short validate WEIGHTS=trained",
    ]
    found = iter(lines)
    assert all(any(step in line for line in found) for step in steps), lines
    large = make("-n", "train", "PROFILE=paper", "VENV=no-venv").stdout
    assert "PROFILE=paper train-quality" in large and "PROFILE=short validate" in large
