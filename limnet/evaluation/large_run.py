"""Evaluation of many cases in parallel, which goes on where it was stopped.

A worker takes a case with all its labels that are not done, so that they share the features of its
slices. Masks and scores are in the cache of `evaluate_cases`. A small record a label stands beside
them and is found by names, sizes and times of files: what is done is not read again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

import torch
from distributed import Future, as_completed

from limnet.data import DATA_SETS, Case, Chosen, collection_cases
from limnet.evaluation.evaluate import PROTOCOL, EvaluationOptions, LoadedCase
from limnet.evaluation.run_tables import Plan, TaskResult
from limnet.evaluation.workers import connect, local_workers
from limnet.files import peak_memory, write_whole
from limnet.networks.checkpoints import LimNet, load_networks

RECORDS = "large_run"  # folder in the cache

Task = tuple[Case, str]  # a case and one of its labels
Job = tuple[Case, tuple[str, ...]]  # a case and the labels that one worker evaluates
Source = str | Path | Callable[[], LimNet]


@dataclass(frozen=True)
class LargeRun:
    """How many cases are evaluated: `plan` says what there is to do, `results` does it.

    Raises:
        ValueError: workers and threads do not fit this machine.
    """

    networks: Source  # as of `load_networks`, or a function that workers can import
    cache: Path
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    workers: int = 0  # processes, one a GPU where there are GPUs; 0: as many as fit
    threads: int = 1  # of each worker; workers times threads are at most the cores
    scheduler: str = "local"  # or the address of a dask scheduler, as of `workers.connect`

    def __post_init__(self) -> None:
        """Workers may start in another folder: paths become absolute."""
        if not callable(self.networks) and self.networks not in ("lite", "paper"):
            object.__setattr__(self, "networks", Path(self.networks).resolve())
        object.__setattr__(self, "cache", Path(self.cache).resolve())
        if self.scheduler == "local":
            object.__setattr__(self, "workers", local_workers(self.workers, self.threads))

    @cached_property
    def digest(self) -> str:
        """Of the networks."""
        return _load(self.networks).digest

    def plan(self, tasks: Iterable[Task]) -> Plan:
        """What `results` would take; nothing is computed and no image is read.

        A target takes the median time of those of its collection that were measured before, with
        the same weights, rounds, threads and device. Memory is the most that one of them took.
        """
        jobs, measured = _by_case(tasks), self._measured()
        left = [job for job in (self._split(job)[1] for job in jobs) if job[1]]
        like = [measured.get(case.collection, []) for case, _ in left]
        unmeasured = sum(not records for records in like)
        seconds, memory_gb = None, None
        if not unmeasured:
            each = [
                len(labels) * median(record["seconds"] for record in records)
                for (_, labels), records in zip(left, like, strict=True)
            ]
            # one worker takes all labels of a case
            seconds = max([sum(each) / max(self.workers, 1), *each])
            most = [record["memory_gb"] for records in like for record in records]
            memory_gb = max(most, default=0.0)
        targets = sum(len(labels) for _, labels in jobs)
        return Plan(
            cases=len(jobs),
            targets=targets,
            done=targets - sum(len(labels) for _, labels in left),
            cases_left=len(left),
            gigabytes=sum(_bytes(case) for case, _ in left) / 1e9,
            memory_gb=memory_gb,
            seconds=seconds,
            unmeasured=unmeasured,
            workers=self.workers,
        )

    def _measured(self) -> dict[str, list[dict[str, Any]]]:
        """The records of what was computed in this setting, by collection."""
        found: dict[str, list[dict[str, Any]]] = {}
        for file in (self.cache / RECORDS).glob("*.json"):
            record = _read_record(file)
            if record and record["seconds"] and record["setting"] == self._setting():
                found.setdefault(record["collection"], []).append(record)
        return found

    def results(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """What became of every task: those that are done first, the others as they finish.

        Each result is kept as soon as it is there, in a file that is whole or not there. A run that
        was killed goes on where it stopped, with the same results. What fails is a result with an
        error, which is not kept: the next run tries again.

        Raises:
            ValueError: workers at the address would take more than the cores of their machine.
            RuntimeError: the scheduler was lost; what was done is kept.
        """
        left = []
        for job in _by_case(tasks):
            done, rest = self._split(job)
            yield from done
            left += [rest] if rest[1] else []
        if not left:
            return
        # the largest first, so that no worker begins one when the others are done
        left.sort(key=lambda job: -_bytes(job[0]))
        with connect(self.scheduler, workers=self.workers, threads=self.threads) as client:
            jobs = {client.submit(_play, self, self.digest, job, pure=False): job for job in left}
            for future in as_completed(jobs, loop=client.loop):
                yield from self._outcome(future, jobs[future])

    def _split(self, job: Job) -> tuple[list[TaskResult], Job]:
        """The results of a job that are kept, and what is left of it."""
        (case, labels), done, left = job, [], []
        for organ in labels:
            record = _read_record(self._record_file(case, organ))
            name = record and record["result"]
            if record and (name is None or (self.cache / name).is_file()):
                done.append(TaskResult(case, organ, tuple(record["rows"]), result=name))
            else:
                left.append(organ)
        return done, (case, tuple(left))

    def _record_file(self, case: Case, organ: str) -> Path:
        """Another one once files, weights or options change."""
        files = [_stamps(path) for path in (case.image, case.label)]
        depends_on = repr((PROTOCOL, self.digest, self.options, case, organ, files))
        name = hashlib.sha256(depends_on.encode()).hexdigest()[:32]
        return self.cache / RECORDS / f"{name}.json"

    def _setting(self) -> list[Any]:
        """What seconds and memory depend on beside the case."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return [self.digest, self.options.rounds, self.threads, device]

    def _keep(self, done: TaskResult, seconds: float | None) -> None:
        costs = {"seconds": seconds, "memory_gb": peak_memory() / 2**30}
        record = {"rows": done.rows, "result": done.result, "collection": done.case.collection}
        file = self._record_file(done.case, done.organ)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**record, "setting": self._setting(), **costs}))

    def _outcome(self, future: Future, job: Job) -> list[TaskResult]:
        if future.status == "finished":
            return future.result()
        if future.status != "error":  # "cancelled" or "lost"
            raise RuntimeError(
                f"a run needs its scheduler to the end, but a case is {future.status}: the "
                "connection is gone; start the run again, it goes on where it stopped"
            )
        done, (case, left) = self._split(job)  # all workers died at one that is left
        organ = left[0] if len(left) == 1 else None
        return [*done, TaskResult(case, organ, error=_words(future.exception()))]


def tasks_of(cases: Iterable[Case], organs: Iterable[str] | None = None) -> list[Task]:
    """Every organ of every case that has an image.

    Args:
        organs: names of labels; a case without one of them is asked for the others. None: all that
            are anatomy.

    Raises:
        ValueError: no case has a label of such a name.
    """
    cases, asked = [case for case in cases if case.image is not None], organs and set(organs)
    for name in sorted(asked or ()):
        if not any(name in case.labels for case in cases):
            known = ", ".join(dict.fromkeys(label for case in cases for label in case.labels))
            raise ValueError(f"a target must be one of {known or 'no labels'}; got {name!r}")
    return [
        (case, organ)
        for case in cases
        for organ in (case.anatomy if asked is None else [x for x in case.labels if x in asked])
    ]


def choose(
    data: str, data_root: str | Path | None, twins: Path, *, cases: int = 0, seed: int = 0
) -> Chosen:
    """Cases, and the words that a report must say about them.

    Args:
        data: "twin", BTCV's; keys of DATA_SETS with a comma between, where each is read if it is at
            hand and its twin if not; or "collections", all that lie in the data folder.
        data_root: `LIMNET_DATA`; None where there is no data folder.
        twins: folder for twins, each in a folder of its own.
        cases: the first so many of each; 0: all, of a twin 2.
        seed: of the twins' patients.

    Raises:
        ValueError: there is no such data, or what `DataSet.choose` and `collection_cases` raise.
    """
    if data == "collections":
        if data_root is None:
            raise ValueError(
                "LIMNET_DATA must name a folder of collections, but it is not set; set it or take "
                'data "twin"'
            )
        found = [case for case in collection_cases(data_root) if case.image and case.anatomy]
        groups = [list(group) for _, group in groupby(found, attrgetter("collection"))]
        chosen = tuple(case for group in groups for case in group[: cases or None])
        plural = "s" * (len(groups) != 1)
        ran_on = f"{len(chosen)} of {len(found)} real cases, of {len(groups)} collection{plural}"
        return Chosen(chosen, ran_on, synthetic=False)
    keys = ["btcv"] if data == "twin" else data.split(",")
    if not set(keys) <= set(DATA_SETS):
        raise ValueError(
            f"data must be twin, collections or some of {', '.join(DATA_SETS)} with a comma"
            f" between, got {data!r}"
        )
    root = None if data == "twin" else data_root
    sets = [DATA_SETS[key].choose(root, twins / key, cases=cases, seed=seed) for key in keys]
    chosen, ran_on, synthetic = zip(*sets, strict=True)
    return Chosen(sum(chosen, ()), "; ".join(ran_on), any(synthetic))


def _play(run: LargeRun, digest: str, job: Job) -> list[TaskResult]:
    """Evaluate labels of a case, in a worker; a failure is a result, whatever it is that failed."""
    torch.set_num_threads(run.threads)
    networks = _networks(run.networks, digest)
    (case, labels), start, results = job, time.perf_counter(), []
    try:
        loaded = LoadedCase(case, networks)
    except Exception as error:
        return [TaskResult(case, None, error=_words(error))]
    for organ in labels:
        try:
            found = loaded.evaluate(organ, run.cache, run.options)
        except Exception as error:
            results.append(TaskResult(case, organ, error=_words(error)))
        else:
            rows, name = (tuple(found.rows()), found.file.name) if found else ((), None)
            results.append(TaskResult(case, organ, rows, result=name))
            computed = found is not None and found.computed
            run._keep(results[-1], time.perf_counter() - start if computed else None)
        start = time.perf_counter()
    return results


@cache
def _networks(source: Source, digest: str) -> LimNet:
    """Loaded once a worker."""
    networks = _load(source)
    if networks.digest != digest:
        raise ValueError(
            f"a worker's networks must be those that the run began with, but {source} has another "
            "content here; give workers the same weights"
        )
    return networks.to("cuda" if torch.cuda.is_available() else "cpu")


def _load(source: Source) -> LimNet:
    return source() if callable(source) else load_networks(source)


def _words(error: BaseException) -> str:
    """Type and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _by_case(tasks: Iterable[Task]) -> list[Job]:
    """Each case, with absolute paths, and its labels, none of them twice."""
    jobs: dict[str, tuple[Case, dict[str, None]]] = {}
    for case, organ in tasks:
        image = case.image and case.image.resolve()
        case = replace(case, image=image, label=case.label.resolve())
        jobs.setdefault(repr(case), (case, {}))[1][organ] = None  # a case has no hash
    return [(case, tuple(labels)) for case, labels in jobs.values()]


def _stamps(path: Path | None) -> list[tuple[str, int, int, int]]:
    """Name, size and times of a file, or of all in a folder; ctime cannot be set back."""
    if path is None or not path.exists():
        return []
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    stats = [(each.name, each.stat()) for each in files]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def _bytes(case: Case) -> int:
    return sum(size for path in (case.image, case.label) for _, size, *_ in _stamps(path))


def _read_record(file: Path) -> dict[str, Any] | None:
    """What `LargeRun._keep` wrote; None where there is no whole record."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
