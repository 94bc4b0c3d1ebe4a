"""What README promises holds: its Python runs, its files and commands are there, it stays short."""

import re
from pathlib import Path

import nibabel
import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs_on_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    voxels = np.zeros((96, 96, 16), np.int16)
    voxels[30:70, 20:60, 6:14] = 100
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 5.0, 1.0])), "ct.nii.gz")
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    mask = nibabel.load("mask.nii.gz")
    assert mask.shape == voxels.shape
    assert np.asarray(mask.dataobj)[45, 45, 12] == 1


def test_its_files_and_commands_are_there():
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z0-9-]+)", README)) <= targets


def test_it_stays_short():
    assert len(README.splitlines()) <= 120 and len(README.split()) <= 900
