"""A measurement in a process of its own, so that nothing else counts.

`measure_alone` starts `python -m measure.alone FOLDER`, which reads the setting and its
slices there and prints a row.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from limnet.peak_memory import peak_memory
from measure.measuring import measure
from measure.setting import GIGABYTE, Setting, phantom_slices


def measure_alone(setting: Setting) -> dict[str, Any]:
    """The row of `measure` from a process of its own, with its peak memory.

    Columns more: `memory_gb` (of the GPU, if it ran there; else of the process), and of the process
    `memory_before_gb`, with Python, its libraries and the volume, before there was any network.

    Raises:
        RuntimeError: the process failed.
    """
    images, target = phantom_slices(setting)
    root = Path(__file__).parents[2]
    known = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, (str(root), str(root / "tests"), known)))
    with TemporaryDirectory() as folder:
        Path(folder, "setting.json").write_text(json.dumps(asdict(setting)), encoding="utf-8")
        np.save(Path(folder, "images.npy"), images, allow_pickle=False)
        np.save(Path(folder, "target.npy"), target, allow_pickle=False)
        command = [sys.executable, "-m", "measure.alone", folder]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(
            f"a measurement must end with a row, but {setting} ended with {done.returncode} and "
            f"said: {said}; if it was killed for want of memory, take fewer slices"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(folder: Path) -> None:
    """Print the row of the setting in a folder, as JSON."""
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    images, target = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("images", "target")
    )
    before = peak_memory()
    networks = setting.load()
    row = measure(setting, networks, images, target)
    # the kernel counts a process of many threads roughly, so that its peak can even fall a little
    peak = max(before, peak_memory())
    memory = {"memory_gb": peak / GIGABYTE, "memory_before_gb": before / GIGABYTE}
    if networks.device.type == "cuda":
        memory["memory_gb"] = torch.cuda.max_memory_allocated(networks.device) / GIGABYTE
        memory["memory_reserved_gb"] = torch.cuda.max_memory_reserved(networks.device) / GIGABYTE
    print(json.dumps({**row, **memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
