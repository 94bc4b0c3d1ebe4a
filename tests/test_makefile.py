import os
import re
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


def executable(path, lines):
    """A program that answers as an interpreter would, by lines of shell."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def refusal(run):
    """The one sentence before make's own last line."""
    assert run.returncode != 0
    [sentence] = [x for x in run.stderr.splitlines() if not x.startswith(("make: ***", "make[1]"))]
    return sentence


def test_help_is_the_default_and_has_a_line_for_each_target():
    targets = {line.split()[0] for line in make().stdout.splitlines()}
    assert {"setup", "test", "lab", "reproduce-table-4", "quickstart", "run-%"} <= targets


def test_every_target_that_runs_a_notebook_names_one_that_is_there():
    names = set(re.findall(r"\b\d\d_\w+", (ROOT / "Makefile").read_text()))
    names = {re.sub(r"/.*", "", name) for name in names}
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(names) > 15 and names <= there


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("exit 1", "no Python found"),
        ('case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac', "3.9.2"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "python3-venv"),
        (f'exec "{sys.executable}" "$@"', "1000000 GB"),
    ],
)
def test_a_set_up_that_cannot_be_is_one_sentence(tmp_path, lines, named):
    python = executable(tmp_path / "python", lines)
    words = (f"VENV={tmp_path}/venv", f"PYTHON={python}", "NEED_GB=1000000")
    assert named in refusal(make("setup", *words))
    assert not (tmp_path / "venv" / "bin").exists()


def test_a_notebook_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / ".ok").write_text("")
    assert "notebooks/99_nothing.ipynb" in refusal(make("run-99_nothing", f"VENV={tmp_path}"))


def test_table_4_runs_its_notebook_with_profile_and_parameters():
    recipe = make("-n", "reproduce-table-4", "PROFILE=paper", "PARAMS=-p cases 2").stdout
    assert "-m papermill notebooks/54_table_4_btcv.ipynb" in recipe
    assert "-f notebooks/paper/54_table_4_btcv.yaml -p cases 2" in recipe


@pytest.mark.parametrize("folder", ["../data", "/some/data", "/my data/of today", "my data"])
def test_a_relative_folder_of_data_is_one_beside_the_makefile(folder):
    show = make("--eval", "show: ; @echo $$LIMNET_DATA", "show", f"LIMNET_DATA={folder}")
    assert show.stdout.strip() == str(ROOT / folder)


def test_of_several_processes_the_first_one_writes_the_report(tmp_path):
    reports, log = tmp_path / "a b", tmp_path / "log"
    (tmp_path / ".ok").write_text("")
    executable(
        tmp_path / "bin" / "python",
        f"""case "$*" in
*torch.distributed.run*) while test "$1" != --no-python; do shift; done; shift
    RANK=0 "$@" && RANK=1 "$@" ;;
*papermill*) for last; do :; done; echo "$RANK|$LIMNET_REPORTS|$last" >> "{log}"; touch "$last" ;;
*nbconvert*) echo "nbconvert|$*" >> "{log}" ;;
esac""",
    )
    name = "30_train_click_net"
    words = ("train-click", "PROCESSES=2", f"VENV={tmp_path}", f"LIMNET_REPORTS={reports}")
    assert make(*words).returncode == 0
    first, second, page = (line.split("|") for line in log.read_text().splitlines())
    report = f"{reports}/{name}/{name}.ipynb"
    assert first == ["0", str(reports), report]
    assert second[1] != str(reports) and not Path(second[1]).exists()
    assert page[1].endswith(report)
    assert [path.name for path in (reports / name).iterdir()] == [f"{name}.ipynb"]


@pytest.mark.parametrize(
    ("choice", "plain_build", "index"),
    [
        ("cpu", "2.13.0+cpu", False),  # plain pip has the CPU build already
        ("cpu", "2.13.0", True),  # plain pip would bring CUDA libraries
        ("gpu", "2.13.0", False),
    ],
)
def test_torch_comes_first_and_pinned_and_nothing_twice(tmp_path, choice, plain_build, index):
    log = tmp_path / "log"
    report = f'case "$*" in *--report*) echo \'"version": "{plain_build}"\';; esac'
    executable(tmp_path / "bin" / "python", f'echo "$*" >> "{log}"\n{report}')
    words = ("setup", f"VENV={tmp_path}", f"PYTHON={sys.executable}", f"TORCH={choice}")
    assert make(*words).returncode == 0
    calls = [line for line in log.read_text().splitlines() if "install" in line]
    torch, project = [line for line in calls if "--report" not in line and "pip==" not in line]
    assert "torch==2.13.0" in torch and ("--index-url" in torch) is index
    assert project.endswith("--constraint constraints.txt --editable .[dev]")
    log.unlink()
    assert make(*words).returncode == 0 and not log.exists()  # the second run asks pip nothing


def test_training_from_nothing_has_the_new_networks_play_for_the_last_one():
    lines = iter(make("-n", "train", "VENV=no-venv").stdout.splitlines())
    steps = (
        "-j2 train-click train-propagation",
        "weights/trained",
        "train-quality WEIGHTS=trained",
    )
    assert all(any(step in line for line in lines) for step in steps)
