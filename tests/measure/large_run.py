"""A large run that is killed again and again, and what a second worker is worth.

`make measure-large-run` kills ten processes of a run over 64 small cases, client,
scheduler, nanny or worker, and compares its results with those of a run that nobody disturbed;
then it times the shipped networks with one worker and with two. The tests kill twice.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

CASES, KILLS = 64, 10
PATIENCE = 120  # seconds for each start
OPTIONS = EvaluationOptions(rounds=2)
LABELS = {"left": 1, "right": 2}
VICTIMS = {"local": ("client", "worker"), "address": ("client", "scheduler", "nanny", "worker")}
PIDS = "LIMNET_TEST_PIDS"  # environment: the folder in which a worker leaves its process' number
ROOT = Path(__file__).parents[2]


class Slow(Brighter):
    """Gives whoever kills time to do so."""

    def encode_key(self, images):
        time.sleep(0.01)
        return super().encode_key(images)


def networks() -> LimNet:
    """Fakes with a digest."""
    if PIDS in os.environ and (parent_process() or "dask" in sys.argv[0]):
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


class Disturbed:
    """A run in other processes, some of which are killed."""

    def __init__(self, folder: Path, mode: str, workers: int = 2) -> None:
        """Nothing is started yet.

        Args:
            folder: with the cases in `cases`.
            mode: a key of VICTIMS.
        """
        self.folder, self.mode, self.workers = folder, mode, workers
        self.cache, self.pids = folder / "cache", folder / "pids"
        self.helpers: dict[str, list[subprocess.Popen]] = {"scheduler": [], "nanny": []}
        self.client: subprocess.Popen | None = None
        self.cache.mkdir(exist_ok=True)
        self.pids.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        self.environment = {**os.environ, "PYTHONPATH": paths, PIDS: str(self.pids)}

    def play(self, moments: list[int], victims: list[str]) -> int:
        """Kill each victim when so many results are there; how often the client was started."""
        starts, end = 0, time.monotonic() + PATIENCE * (1 + len(moments))
        pending = list(zip(moments, victims, strict=True))
        while self.client is None or self.client.poll() != 0:
            self._start()
            starts += 1
            while self.client.poll() is None:
                time.sleep(0.005)
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"{len(results(self.cache))} results, still to do: {pending}"
                    )
                if pending and len(results(self.cache)) >= pending[0][0]:
                    del pending[: self._kill(pending[0][1])]
                self._replace_nannies()
            if starts > 3 + len(moments):
                raise RuntimeError(
                    f"a run must end, but its client ended with {self.client.poll()}"
                )
        if pending:
            raise RuntimeError(f"every kill must find its process, but these came late: {pending}")
        return starts

    def _start(self) -> None:
        address = "local"
        if self.mode == "address":
            if not any(each.poll() is None for each in self.helpers["scheduler"]):
                self._start_scheduler()
            address = json.loads((self.folder / "scheduler.json").read_text())["address"]
            self._replace_nannies()
        command = ["-m", "measure.large_run", "run", str(self.folder), address, str(self.workers)]
        self.client = self._process(sys.executable, *command)

    def _start_scheduler(self) -> None:
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.helpers["scheduler"].append(
            self._dask("scheduler", *options, "--scheduler-file", file)
        )
        until(lambda: file.exists() and file.read_text().endswith("}"), "a scheduler", 60)

    def _replace_nannies(self) -> None:
        alive = [each for each in self.helpers["nanny"] if each.poll() is None]
        if self.mode == "address" and any(e.poll() is None for e in self.helpers["scheduler"]):
            options = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
            file = self.folder / "scheduler.json"
            for _ in range(self.workers - len(alive)):
                alive.append(self._dask("worker", *options, "--scheduler-file", file))
        self.helpers["nanny"] = alive

    def _dask(self, *words: str | Path) -> subprocess.Popen:
        return self._process(sys.executable, "-m", "dask", *map(str, words))

    def _process(self, *command: str) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": (self.folder / "said").open("ab")}
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, **quiet)

    def _kill(self, victim: str) -> bool:
        """Whether there was one to kill."""
        if victim == "worker":
            numbers = self.workers_alive()
            if numbers:
                os.kill(random.choice(numbers), signal.SIGKILL)
            return bool(numbers)
        process = self.client if victim == "client" else self.helpers[victim][-1]
        process.kill()
        process.wait()
        return True

    def workers_alive(self) -> list[int]:
        """The workers that have loaded the networks and run; no others that got their numbers."""
        born_at = {int(path.name): path.read_text() for path in self.pids.iterdir()}
        return [pid for pid, when in born_at.items() if when and born(pid) == when]

    def close(self) -> None:
        """End what is still there, and see that no worker outlives it."""
        for each in (self.client, *self.helpers["scheduler"], *self.helpers["nanny"]):
            if each is not None and each.poll() is None:
                each.kill()
                each.wait()
        until(lambda: not self.workers_alive(), "workers to end", 30)


@contextmanager
def disturbed(folder: Path, mode: str) -> Iterator[Disturbed]:
    """A run whose processes are gone at the end."""
    one = Disturbed(folder, mode)
    try:
        yield one
    finally:
        one.close()


def born(number: int) -> str:
    """When a process was started (Linux: proc(5)); "" if it does not run, or nobody waited for it.

    It tells a process from a later one of the same number.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def until(is_so, what: str, seconds: float) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def client(folder: Path, scheduler: str, workers: int) -> None:
    """The process of a run, as `Disturbed` starts it."""
    from measure.large_run import networks  # workers import it by this name, not as __main__

    run = LargeRun(networks, folder / "cache", OPTIONS, workers, scheduler=scheduler)
    for done in run.results(tasks_of(read_cases(folder / "cases"))):
        if done.error:
            raise RuntimeError(f"{done.case.name} {done.organ}: {done.error}")


def measure_kills(folder: Path) -> dict[str, int]:
    """Kill in both modes, at moments and of kinds that chance decides."""
    measured = {}
    for mode, kinds in VICTIMS.items():
        (folder / mode / "cases").mkdir(parents=True)
        cases = write_cases(folder / mode / "cases", CASES)
        expected = undisturbed(cases, folder / mode / "expected")
        moments = sorted(random.sample(range(1, 2 * CASES - 4), KILLS))
        victims = [random.choice(kinds) for _ in moments]
        with disturbed(folder / mode, mode) as one:
            starts = one.play(moments, victims)
            same = contents(one.cache) == expected
        counted = {f"{mode}: kills of a {kind}": victims.count(kind) for kind in kinds}
        measured |= {**counted, f"{mode}: starts": starts, f"{mode}: bit-equal": same}
    return measured


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
    if sys.argv[1:2] == ["run"]:
        return client(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    return report("measure_large_run", (measure_kills, measure_speed))


if __name__ == "__main__":
    main()
