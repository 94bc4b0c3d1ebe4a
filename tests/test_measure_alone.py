import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes import fakes
from measure import alone, setting
from measure.alone import measure_alone
from measure.setting import GIGABYTE, Setting

from limnet.data.synthetic.abdomen import ORGANS, Phantom

SMALL = Setting(slices=4, size=32, clicks=2, repeats=2, cache_gb=0)


@pytest.fixture
def phantom(monkeypatch):
    """Five slices of 16 x 16, of which the middle three show the liver; each has its own grey."""
    labels = np.zeros((5, 16, 16), dtype=np.uint8)
    labels[1:4, 4:12, 4:12] = ORGANS["liver"]
    images = np.broadcast_to(np.arange(0, 500, 100, dtype=np.int16)[:, None, None], labels.shape)
    made = Phantom(images.copy(), labels, labels, (5.0, 2.4, 2.4))
    monkeypatch.setattr(setting, "abdomen", lambda seed: made)


def test_the_process_reads_setting_and_slices_and_prints_a_row(phantom, monkeypatch, capsys):
    def run(command, *, env, **_):
        assert command[1:3] == ["-m", "measure.alone"]
        assert (Path(env["PYTHONPATH"].split(os.pathsep)[0]) / "limnet").is_dir()
        alone.main(Path(command[3]))
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Setting, "load", lambda setting: fakes())
    row = measure_alone(SMALL)
    assert (row["networks"], row["slices"], row["working_size"]) == ("lite", 4, 32)
    assert 0 < row["memory_before_gb"] <= row["memory_gb"]


def test_a_process_that_fails_says_why(phantom, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(
            command, 1, "", "Traceback\nRuntimeError: no such device"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="ended with 1 and said: RuntimeError: no such device"):
        measure_alone(SMALL)


def test_the_row_is_the_last_line_that_the_process_prints(phantom, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, f"a word\n{json.dumps({'a': 1})}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert measure_alone(SMALL) == {"a": 1}


def test_a_peak_that_the_kernel_counts_lower_later_is_still_the_peak(phantom, monkeypatch, capsys):
    def run(command, **_):
        alone.main(Path(command[3]))
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    counted = iter((3 * GIGABYTE, 2 * GIGABYTE))
    monkeypatch.setattr(alone, "peak_memory", lambda: next(counted))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Setting, "load", lambda setting: fakes())
    row = measure_alone(SMALL)
    assert (row["memory_before_gb"], row["memory_gb"]) == (3, 3)
