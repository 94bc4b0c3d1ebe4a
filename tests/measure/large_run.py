"""A large run that is killed again and again, and what a second worker is worth.

`make measure-large-run` kills twenty processes of a run over 64 small cases, client or worker, and
compares its results with those of a run that nobody disturbed; then it times the shipped networks
with one worker and with two. The tests kill twice.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import parent_process
from pathlib import Path

import nibabel
import numpy as np
from fakes import SHAPE, Brighter, Disks, Prefers

from limnet.data import Case, write_btcv_twin
from limnet.evaluation.evaluate import EvaluationOptions, evaluate_cases
from limnet.evaluation.large_run import LargeRun, tasks_of
from limnet.networks.checkpoints import LimNet
from measure.report import report

CASES, KILLS = 64, 20
PATIENCE = 120  # seconds for each start
OPTIONS = EvaluationOptions(rounds=2)
LABELS = {"left": 1, "right": 2}
PIDS = "LIMNET_TEST_PIDS"  # environment: the folder in which a worker leaves its process' number
ROOT = Path(__file__).parents[2]


class Slow(Brighter):
    """Gives whoever kills time to do so."""

    def encode_key(self, images):
        time.sleep(0.01)
        return super().encode_key(images)


def networks() -> LimNet:
    """Fakes with a digest."""
    if PIDS in os.environ and parent_process():
        Path(os.environ[PIDS], str(os.getpid())).write_text(born(os.getpid()))
    found = LimNet("fake", Disks(), Slow(), Prefers(0.25))
    found.quality_net.config = None
    return found


def write_cases(folder: Path, cases: int) -> list[Case]:
    """Slices that grow brighter by columns, with noise of their own, and two organs in each."""
    written = []
    for index in range(cases):
        noise = 0.02 * np.random.default_rng(index).random(SHAPE)
        images = (np.arange(48) / 48 + noise).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        labels[1:4, 4:28, 28:] = LABELS["right"]
        labels[1:3, 4:28, 4:20] = LABELS["left"]
        paths = folder / f"{index:02d}_image.nii.gz", folder / f"{index:02d}_label.nii.gz"
        for path, slices in zip(paths, (images, labels), strict=True):
            nibabel.save(nibabel.Nifti1Image(slices.T, np.diag([-1, -1, 3, 1])), path)
        written.append(Case(f"{index:02d}", *paths, LABELS, "small", True))
    return written


def read_cases(folder: Path) -> list[Case]:
    """Those that `write_cases` wrote."""
    images = sorted(folder.glob("*_image.nii.gz"))
    labels = [path.with_name(path.name.replace("image", "label")) for path in images]
    pairs = zip(images, labels, strict=True)
    return [Case(i.name[:2], i, label, LABELS, "small", True) for i, label in pairs]


def contents(cache: Path) -> dict[str, tuple[bytes, ...]]:
    """All of every result but the seconds, by its name."""
    found = {}
    for path in results(cache):
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(str(arrays["values"]))
            values.pop("seconds")
            parts = [arrays[name].tobytes() for name in ("shape", "masks", "comparisons")]
        found[path.name] = (json.dumps(values).encode(), *parts)
    return found


def results(cache: Path) -> list[Path]:
    """Whole files, not what a killed process left of one."""
    return [path for path in sorted(cache.glob("*.npz")) if path.name.count(".") == 1]


def undisturbed(cases: list[Case], cache: Path) -> dict[str, tuple[bytes, ...]]:
    """Results of one process that takes a case after the other."""
    for _ in evaluate_cases(cases, None, networks(), cache, rounds=OPTIONS.rounds):
        pass
    return contents(cache)


def run_with_kills(folder: Path, moments: list[int], victims: list[str]) -> int:
    """Run `folder/cases` into `folder/cache` and count the starts of the client that it took.

    Each victim, "client" or "worker", is killed when so many results are there.
    """
    cache, pids = folder / "cache", folder / "pids"
    cache.mkdir(exist_ok=True)
    pids.mkdir(exist_ok=True)
    starts, end = 0, time.monotonic() + PATIENCE * (1 + len(moments))
    pending = list(zip(moments, victims, strict=True))
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, PIDS: str(pids)}
    command = [sys.executable, "-m", "measure.large_run", "client", str(folder)]
    client = None
    try:
        while client is None or client.returncode != 0:
            if starts > 3 + len(moments):
                raise RuntimeError(f"a run must end, but its client ended with {client.returncode}")
            client = subprocess.Popen(command, env=environment, cwd=folder)
            starts += 1
            while client.poll() is None:
                time.sleep(0.005)
                if time.monotonic() > end:
                    raise TimeoutError(f"{len(results(cache))} results, still to do: {pending}")
                if pending and len(results(cache)) >= pending[0][0]:
                    numbers = [client.pid] if pending[0][1] == "client" else workers_alive(pids)
                    if numbers:
                        os.kill(random.choice(numbers), signal.SIGKILL)
                        del pending[0]
    finally:
        client.kill()
        client.wait()
        end = time.monotonic() + 30
        while workers_alive(pids):
            if time.monotonic() > end:
                raise TimeoutError("workers must end with their client")
            time.sleep(0.05)
    if pending:
        raise RuntimeError(f"every kill must find its process, but these came late: {pending}")
    return starts


def workers_alive(pids: Path) -> list[int]:
    """The workers that have loaded the networks and run; no others that got their numbers."""
    born_at = {int(path.name): path.read_text() for path in pids.iterdir()}
    return [pid for pid, when in born_at.items() if when and born(pid) == when]


def born(number: int) -> str:
    """When a process was started (Linux: proc(5)); "" if it does not run, or nobody waited for it.

    It tells a process from a later one of the same number.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def client(folder: Path) -> None:
    """The process of a run, as `run_with_kills` starts it."""
    from measure.large_run import networks  # workers import it by this name, not as __main__

    run = LargeRun(networks, folder / "cache", OPTIONS, workers=2)
    for done in run.results(tasks_of(read_cases(folder / "cases"))):
        if done.error:
            raise RuntimeError(f"{done.case.name} {done.organ}: {done.error}")


def measure_kills(folder: Path) -> dict[str, object]:
    """Kill at moments and of kinds that chance decides."""
    (folder / "cases").mkdir()
    expected = undisturbed(write_cases(folder / "cases", CASES), folder / "expected")
    moments = sorted(random.sample(range(1, 2 * CASES - 4), KILLS))
    victims = random.choices(("client", "worker"), k=KILLS)
    starts = run_with_kills(folder, moments, victims)
    same = contents(folder / "cache") == expected
    return {"kills of a client": victims.count("client"), "starts": starts, "bit-equal": same}


def measure_speed(folder: Path) -> dict[str, float]:
    """Seconds of the shipped networks with one worker and with two, starting them included."""
    cases = write_btcv_twin(folder / "twin", cases=8, shape=(24, 96, 96), spacing_mm=(9, 4, 4))
    seconds = {}
    for workers in (1, 2):
        start = time.monotonic()
        run = LargeRun("lite", folder / str(workers), EvaluationOptions(rounds=4), workers)
        done = list(run.results(tasks_of(cases, ["liver", "spleen"])))
        if any(each.error for each in done):
            raise RuntimeError(f"nothing must fail, got {done}")
        seconds[f"{workers} workers, s"] = time.monotonic() - start
    one, two = seconds.values()
    return {**seconds, "times as fast": one / two}


def main() -> None:
    if sys.argv[1:2] == ["client"]:
        return client(Path(sys.argv[2]))
    return report("measure_large_run", (measure_kills, measure_speed))


if __name__ == "__main__":
    main()
