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
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from distributed import Future, as_completed

from limnet.data import DATA_SETS, Case, Chosen, collection_cases
from limnet.evaluation.evaluate import PROTOCOL, ROUND_COLUMNS, EvaluationOptions, LoadedCase
from limnet.evaluation.workers import connect, local_workers
from limnet.files import write_whole
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.peak_memory import peak_memory

RECORDS = "large_run"  # folder in the cache
NAMES = ["collection", "case", "organ"]
ALL_LEFT = "all that were left"  # labels of a case that failed as a whole

Task = tuple[Case, str]  # a case and one of its labels
Job = tuple[Case, tuple[str, ...]]  # a case and the labels that one worker evaluates
Source = str | Path | Callable[[], LimNet]


@dataclass(frozen=True)
class TaskResult:
    """What became of one label of a case."""

    case: Case
    organ: str | None  # None: all labels that were left of a case that failed as a whole
    rows: tuple[dict[str, Any], ...] = ()  # a round each; none where the case does not show it
    error: str | None = None  # type and message
    result: str | None = None  # its file in the cache


@dataclass(frozen=True)
class Plan:
    """What a run has before it; None where nothing like it was ever measured."""

    cases: int
    targets: int  # at most: which labels a case shows is only known once it was read
    done: int  # targets
    cases_left: int
    gigabytes: float  # to read
    memory_gb: float | None  # peak of a worker
    seconds: float | None  # wall time
    unmeasured: int  # cases left of collections of which none was measured
    workers: int

    def table(self) -> pd.DataFrame:
        """Two columns of words."""
        unknown = f"unknown: {self.unmeasured} of the cases are like none that was measured"
        minutes = unknown if self.seconds is None else f"{self.seconds / 60:.1f}"
        memory = unknown if self.memory_gb is None else f"{self.memory_gb:.1f}"
        rows = {
            "cases": self.cases,
            "targets, at most": self.targets,
            "of these done": self.done,
            "cases left": self.cases_left,
            "GB to read": f"{self.gigabytes:.3f}",
            "peak memory of a worker, GB": memory if self.cases_left else "-",
            f"minutes with {self.workers} workers": minutes if self.cases_left else "-",
        }
        return pd.DataFrame({"what": rows.keys(), "value": map(str, rows.values())})


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
        """That of the networks."""
        return _load(self.networks).digest

    def plan(self, tasks: Iterable[Task]) -> Plan:
        """What `results` would take; nothing is computed and no image is read.

        A target takes the median time of those of its collection that were measured before, with
        the same weights, rounds, threads and device. Memory is the most that one of them took.
        """
        jobs = _by_case(tasks)
        left = [job for job in (self._split(job)[1] for job in jobs) if job[1]]
        measured: dict[str, list[dict[str, Any]]] = {}
        for file in (self.cache / RECORDS).glob("*.json"):
            record = _read_record(file)
            if record and record["seconds"] and record["setting"] == self._setting():
                measured.setdefault(record["collection"], []).append(record)
        known = [
            (measured[case.collection], labels)
            for case, labels in left
            if case.collection in measured
        ]
        seconds = [len(labels) * median(each["seconds"] for each in like) for like, labels in known]
        memory = [each["memory_gb"] for like, _ in known for each in like]
        # one worker takes all labels of a case
        wall_time = max([sum(seconds) / max(self.workers, 1), *seconds])
        all_known, targets = len(known) == len(left), sum(len(labels) for _, labels in jobs)
        return Plan(
            cases=len(jobs),
            targets=targets,
            done=targets - sum(len(labels) for _, labels in left),
            cases_left=len(left),
            gigabytes=sum(_bytes(case) for case, _ in left) / 1e9,
            memory_gb=max(memory, default=0.0) if all_known else None,
            seconds=wall_time if all_known else None,
            unmeasured=len(left) - len(known),
            workers=self.workers,
        )

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
        case, labels = job
        records = {organ: _read_record(self._record_file(case, organ)) for organ in labels}
        done = []
        for organ, record in list(records.items()):
            name = record and record["result"]
            if record and (name is None or (self.cache / name).is_file()):
                done.append(TaskResult(case, organ, tuple(record["rows"]), result=name))
                records.pop(organ)
        return done, (case, tuple(records))

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
        return _of_collections(data_root, cases)
    keys = ["btcv"] if data == "twin" else data.split(",")
    if not set(keys) <= set(DATA_SETS):
        raise ValueError(
            f"data must be twin, collections or some of {', '.join(DATA_SETS)} with a comma"
            f" between, got {data!r}"
        )
    root = None if data == "twin" else data_root
    sets = [DATA_SETS[key].choose(root, twins / key, cases=cases, seed=seed) for key in keys]
    every, said, synthetic = zip(*sets, strict=True)
    return Chosen(tuple(case for each in every for case in each), "; ".join(said), any(synthetic))


def _of_collections(data_root: str | Path | None, cases: int) -> Chosen:
    if data_root is None:
        raise ValueError(
            "collections must lie in the folder that LIMNET_DATA names, but it is not set; set it"
            ' or take data "twin"'
        )
    by_name: dict[str, list[Case]] = {}
    found = [case for case in collection_cases(data_root) if case.image and case.anatomy]
    for case in found:
        by_name.setdefault(case.collection, []).append(case)
    chosen = tuple(case for each in by_name.values() for case in each[: cases or None])
    plural = "s" * (len(by_name) != 1)
    said = f"{len(chosen)} of {len(found)} real cases, of {len(by_name)} collection{plural}"
    return Chosen(chosen, said, False)


def all_rows(done: Iterable[TaskResult]) -> pd.DataFrame:
    """A row a round of every organ, and a row with an error for what failed; sorted by name."""
    rows = []
    for each in done:
        rows += [{**row, "result": each.result, "error": None} for row in each.rows]
        if each.error:
            named = (each.case.collection, each.case.name, each.organ or ALL_LEFT)
            rows.append({**dict(zip(NAMES, named, strict=True)), "error": each.error})
    frame = pd.DataFrame(rows, columns=[*NAMES, "round", *ROUND_COLUMNS, "result", "error"])
    return frame.sort_values([*NAMES, "round"], ignore_index=True)


def by_label(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC after the first and the last round, a row a collection and label.

    Columns: collection, label, cases, "round 1" and so on, seconds (of all rounds of a case, the
    median), and failed: a label on which a case failed, though none went through, has its row too.

    Args:
        rows: those of `all_rows`.
    """
    went = rows[rows["error"].isna()]
    marks = sorted({1, int(went["round"].max())}) if len(went) else []
    table = []
    for (collection, label), part in rows.groupby(["collection", "organ"]):
        means = part.groupby("round")["dice"].mean()
        seconds = part[part["error"].isna()].groupby("case")["seconds"].sum()
        row = {"collection": collection, "label": label, "cases": len(seconds)}
        row |= {f"round {mark}": means.get(mark, float("nan")) for mark in marks}
        table.append(row | {"seconds": seconds.median(), "failed": int(part["error"].count())})
    return pd.DataFrame(table)


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """What failed, and how, for a table in Markdown."""
    failed = rows.loc[rows["error"].notna(), [*NAMES, "error"]].reset_index(drop=True)
    return failed.assign(error=failed["error"].astype(str).str.replace("|", r"\|"))


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
